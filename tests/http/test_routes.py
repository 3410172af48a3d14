"""What the read-only routes answer."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp.test_utils import TestClient

from cascadenced.errors import DiskFull
from cascadenced.eventlog.base import Change
from cascadenced.events.dead_letter import MessageDeadLettered
from cascadenced.http.routes import READ
from tests.examples import example
from tests.http.conftest import ALICE, Get, World

Client = TestClient[Any, Any]


async def test_status_shows_the_instance_and_every_task(world: World, get: Get):
    await world.run()
    status = await get("/status")
    assert status["instance_id"] == "instance-1"
    assert status["position"] == world.instance.log.position
    assert status["bus"] == {
        "connected": True,
        "url": "nats://127.0.0.1:4222",
        "epoch": "e1",
        "outbox_pending": 0,
        "well": True,
        "n_to_repair": 0,
        "last_break": None,
    }
    rows = {row["name"]: row for row in status["tasks"]}
    assert list(rows) == world.instance.tasks.names()
    assert rows["example"]["last_status"] == "success"


async def test_status_reads_no_table(world: World, get: Get, monkeypatch: pytest.MonkeyPatch):
    async def fetch(*_: Any) -> Any:
        raise AssertionError("a database read")

    monkeypatch.setattr(world.instance.log.tables, "fetch", fetch)
    assert (await get("/status"))["tasks"]


async def test_a_task_shows_its_newest_runs(world: World, get: Get):
    first, second = await world.run(), await world.run()
    task = await get("/status/example")
    assert task["last_run_id"] == second
    assert {row["run_id"] for row in task["recent_runs"]} == {first, second}


async def test_runs_are_filtered_and_paged(world: World, get: Get):
    ids = {await world.run() for _ in range(3)}
    failed = await world.run("failing")
    assert [run["run_id"] for run in (await get("/runs", status="error"))["items"]] == [failed]
    seen: list[str] = []
    page = await get("/runs", task="example", limit=2)
    while True:
        seen += [run["run_id"] for run in page["items"]]
        if page["next"] is None:
            break
        page = await get("/runs", task="example", limit=2, after=page["next"])
    assert len(seen) == 3
    assert set(seen) == ids


async def test_a_run_is_found_by_the_beginning_of_its_id_and_lists_six_stages(world: World, get: Get):
    run_id = await world.run()
    run = await get(f"/runs/{run_id[:20]}")
    assert run["run_id"] == run_id
    assert [stage["stage"] for stage in run["stages"]] == ["intake", "research", "plan", "precheck", "run", "verify"]
    assert run["result"] == "example ran"


async def test_the_events_of_a_run_are_paged_by_version(world: World, get: Get):
    run_id = await world.run()
    page = await get(f"/runs/{run_id}/events", limit=2)
    assert [event["type"] for event in page["items"]] == ["run.requested", "run.started"]
    rest = await get(f"/runs/{run_id}/events", after=page["next"])
    assert [event["version"] for event in rest["items"]] == [3, 4, 5]
    assert rest["items"][1]["data"]["output"] == "example ran"


async def test_pointers_are_filtered_by_task(world: World, get: Get):
    await world.do("pointer_add", task="bookmarks", run_id="r1", user_id="alice-the-user")
    assert [pointer["run_id"] for pointer in (await get("/pointers", task="bookmarks"))["items"]] == ["r1"]
    assert (await get("/pointers", task="other"))["items"] == []


async def test_dead_letters_are_listed(world: World, get: Get):
    await world.instance.log.append([Change("dead-letters", [example(MessageDeadLettered)])])
    (letter,) = (await get("/dead-letters"))["items"]
    assert letter["reason"] == "undecodable"
    assert letter["n_bytes"] == 3


@pytest.mark.parametrize("path", ["/schedules", "/followups", "/pointers", "/runs", "/dead-letters"])
async def test_an_empty_list_is_a_page(get: Get, path: str):
    assert await get(path) == {"items": [], "next": None, "stale_since": None}


async def test_rows_of_a_frozen_projection_say_since_when_they_are_stale(world: World, get: Get):
    run_id = await world.run()
    world.runs.broken = True
    late = await world.run()
    page = await get("/runs")
    assert [run["run_id"] for run in page["items"]] == [run_id]
    assert page["stale_since"].startswith("2026-")
    assert (await get("/status/example"))["stale_since"] == page["stale_since"]
    assert (await get("/status"))["frozen"] == {"runs": "ValueError: broken by a test"}
    assert (await get(f"/runs/{late}"))["status"] == "success"


# ── bad input ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "path",
    [
        "/runs?limit=abc",
        "/runs?limit=0",
        "/runs?limit=-1",
        "/runs?limit=1001",
        "/runs?limit=",
        "/runs?limit=99999999999999999999999999",
        "/runs?limit=1&limit=2",
        "/runs?status=unknown",
        "/runs?after=nonsense",
        "/runs?after=%00",
        "/runs?stauts=error",
        "/dead-letters?after=-5",
        "/dead-letters?after=1e3",
        "/dead-letters?after=9999999999999999999999",
        "/pointers?user_id=alice",
        "/schedules?limit=%ff",
        "/events?after=x",
        "/events?after=-1",
        "/status/example?task=other",
    ],
)
async def test_a_bad_query_is_refused_with_a_reason(public: Client, path: str):
    async with public.get(path) as response:
        body = await response.json()
        assert response.status == 400
        assert set(body) == {"detail", "error"}
        assert body["error"] == "invalid"


async def test_a_parameter_that_is_not_known_is_answered_with_the_one_that_is(public: Client):
    async with public.get("/runs?stauts=error") as response:
        assert (await response.json())["detail"] == "there is no field `stauts`; did you mean `status`?"


async def test_a_refused_value_is_named(public: Client):
    async with public.get("/runs?limit=abc") as response:
        assert (await response.json())["detail"] == "limit must be `int`, not 'abc'"


@pytest.mark.parametrize(
    "path",
    [
        "/nowhere",
        "/runs/",
        "/runs/short",
        "/runs/01a20adc75d32432187847feab02617b",
        "/runs/%00",
        "/runs/%00%00%00%00%00%00%00%00%00",
        "/runs/%ff%fe/events",
        "/runs/'; DROP TABLE runs; --",
        "/runs/%F0%9F%A6%94%F0%9F%A6%94%F0%9F%A6%94%F0%9F%A6%94%F0%9F%A6%94%F0%9F%A6%94%F0%9F%A6%94%F0%9F%A6%94",
        "/runs/" + "٠" * 9,
        "/runs/" + "a" * 5000,
        "/status/%C3%BCn%C3%AFc%C3%B6de",
        "/status/no-such-task",
        "/static/",
        "/static/../app.py",
        "/static/%2e%2e/app.py",
        "/static/..%2fapp.py",
        "/static/page.css%00",
        "/rpc/list",
        "/stop",
    ],
)
async def test_what_is_not_there_is_not_found(public: Client, path: str):
    async with public.get(path) as response:
        body = await response.json()
        assert response.status == 404, body
        assert body["detail"]
        assert body["error"]


async def test_a_method_that_is_not_offered_names_those_that_are(public: Client):
    async with public.delete("/runs") as response:
        assert response.status == 405
        assert response.headers["Allow"] == "GET,HEAD"
        assert (await response.json())["error"] == "method_not_allowed"


async def test_nothing_changes_for_who_does_not_say_their_name(public: Client):
    async with public.post("/rpc/run", json={"task": "example", **ALICE}) as response:
        assert response.status == 404
    assert all(route.method == "GET" for route in READ)


async def test_a_fault_of_ours_is_a_plain_500(world: World, public: Client, monkeypatch: pytest.MonkeyPatch):
    async def fetch(*_: Any) -> Any:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(world.instance.log.tables, "fetch", fetch)
    async with public.get("/runs") as response:
        assert response.status == 500
        assert "secret" not in await response.text()


async def test_a_refusal_says_when_to_try_again(world: World, owner: Client):
    world.instance.log.fail_next = DiskFull("no space")  # type: ignore[attr-defined]
    async with owner.post("/rpc/run", json={"task": "example", **ALICE}) as response:
        assert response.status == 507
        assert response.headers["Retry-After"] == "1"
        assert await response.json() == {"detail": "no space", "error": "disk_full"}


# ── for all of them ──────────────────────────────────────────────────────────────────────────────────────────

_ALL = [route.path for route in READ if route.head]


@pytest.mark.parametrize("path", [*_ALL, "/nowhere"])
async def test_every_answer_carries_the_security_headers(world: World, public: Client, path: str):
    run_id = await world.run()
    await world.do("schedule", task="example", expr="0 9 * * *")
    async with public.get(path.format(task="example", run=run_id)) as response:
        assert response.status == (404 if path == "/nowhere" else 200)
        assert "default-src 'self'" in response.headers["Content-Security-Policy"]
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["Referrer-Policy"] == "no-referrer"
        assert response.headers["Cache-Control"] == "no-store"
        assert response.headers["Server"] == "cascadenced"
        assert "Access-Control-Allow-Origin" not in response.headers


@pytest.mark.parametrize("accept", ["application/json", "text/html"])
@pytest.mark.parametrize("path", _ALL)
async def test_no_answer_names_anybody(world: World, public: Client, path: str, accept: str):
    await world.do("pointer_add", task="bookmarks", run_id="r1", user_id="alice-the-user", group_id="engineers-group")
    run_id = await world.run("failing")
    who = {"user_id": "alice-the-user", "group_id": "engineers-group"}
    await world.do("schedule", task="failing", expr="0 9 * * *", **who)
    async with public.get(path.format(task="failing", run=run_id), headers={"Accept": accept}) as response:
        text = await response.text()
        assert response.status == 200
        assert "alice-the-user" not in text
        assert "engineers-group" not in text


async def test_a_run_is_explained(world: World, get: Get):
    run_id = await world.run("failing")
    explanation = await get(f"/runs/{run_id[:20]}/explain")
    [reason] = explanation["reasons"]
    assert (explanation["run_id"], reason["code"], reason["failure"]["type"]) == (run_id, "failed", "ValueError")
    assert "alice" not in str(explanation)


async def test_a_run_that_is_not_there_cannot_be_explained(public: Client):
    async with public.get(f"/runs/{'f' * 32}/explain") as response:
        assert response.status == 404
