"""The control routes: what they answer, who may ask, and what no request can do."""

from __future__ import annotations

import asyncio
import gzip
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient

from cascadenced.errors import DiskFull
from cascadenced.events.run import RunCancelled, RunRequested
from cascadenced.http import work
from cascadenced.http.app import build_app
from cascadenced.http.control import CONTROL
from cascadenced.http.face import FACE
from tests.http.conftest import Get, World, a_world, client_of

Client = TestClient[Any, Any]

ALICE = {"X-User-ID": "alice-the-user", "X-Group-ID": "engineers-group"}
CAROL = {"X-User-ID": "carol", "X-Group-ID": "engineers-group"}
BOB = {"X-User-ID": "bob", "X-Group-ID": "ops"}
NOTE = {"kind": "context", "value": {"note": "hello"}}


async def post(
    client: Client, path: str, json: Any = None, *, who: dict[str, str] = ALICE, data: Any = None, **headers: str
) -> tuple[int, Any]:
    spelled = {name.replace("_", "-"): value for name, value in headers.items()}
    body = {"data": data} if data is not None else {} if json is None else {"json": json}
    async with client.post(path, headers={**who, **spelled}, **body) as response:
        return response.status, await response.json()


async def patient(client: Client) -> str:
    """A run that waits."""
    status, body = await post(client, "/tasks/patient/run?wait=false")
    assert status == 202, body
    await asyncio.sleep(0.01)
    return str(body["run_id"])


async def position(world: World) -> int:
    return world.instance.log.position


# ── running ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("route", ["run", "run-async"])
async def test_a_run_is_answered_when_it_ends(public: Client, get: Get, route: str):
    status, body = await post(public, f"/tasks/example/{route}")
    assert status == 200
    assert body == {"run_id": body["run_id"], "result": "example ran"}
    assert (await get(f"/runs/{body['run_id']}"))["status"] == "success"


async def test_a_run_is_answered_at_once_when_nobody_waits(public: Client, get: Get):
    async with public.post("/tasks/countdown/run?wait=false", json={"args": {"seconds": 0}}, headers=ALICE) as response:
        assert response.status == 202
        body = await response.json()
        assert set(body) == {"run_id"}
        assert response.headers["Location"] == f"/runs/{body['run_id']}"
    assert (await get(f"/runs/{body['run_id']}"))["args"] == {"seconds": 0}


async def test_the_run_is_the_callers_and_came_by_http(world: World, public: Client, get: Get):
    _, body = await post(public, "/tasks/example/run")
    [requested] = [r for r in await world.instance.log.read(0, 100) if isinstance(r.event, RunRequested)]
    assert requested.event.via == "http"
    assert requested.user_hash == world.instance.pseudonyms.user("alice-the-user")
    assert (await get(f"/runs/{body['run_id']}"))["group_hash"] == world.instance.pseudonyms.group("engineers-group")


async def test_a_failing_run_is_a_400_with_its_text_by_pseudonym(world: World, public: Client):
    status, body = await post(public, "/tasks/failing/run")
    user, group = world.instance.pseudonyms.user("alice-the-user"), world.instance.pseudonyms.group("engineers-group")
    assert status == 400
    assert body["detail"] == f"<b>no</b> travel for {user} of {group}"
    assert (body["error"], body["error_type"]) == ("run_failed", "ValueError")
    assert body["run_id"]


@pytest.mark.parametrize("query", ["", "?wait=false"])
async def test_what_the_rule_refuses_is_an_error_with_the_event_that_says_so(
    world: World, public: Client, get: Get, query: str
):
    assert await post(public, f"/tasks/nothing/run{query}") == (
        404,
        {"detail": "Unknown task: nothing", "error": "unknown_task", "event_id": (await last_event(world)).id},
    )
    await post(public, "/tasks/example/disable")
    status, body = await post(public, f"/tasks/example/run{query}")
    assert (status, body["detail"]) == (409, "Task 'example' is disabled")
    refused = await last_event(world)
    assert (body["event_id"], refused.type) == (refused.id, "run.refused")


async def last_event(world: World) -> Any:
    return (await world.instance.log.read(world.instance.log.position - 1, 1))[0]


async def test_the_same_key_is_the_same_run_and_says_so(public: Client):
    _, first = await post(public, "/tasks/example/run", Idempotency_Key="k")
    _, again = await post(public, "/tasks/example/run", Idempotency_Key="k")
    assert again == {**first, "duplicate": True}
    _, later = await post(public, "/tasks/example/run?wait=false", Idempotency_Key="k")
    assert later == {"run_id": first["run_id"], "duplicate": True}
    _, others = await post(public, "/tasks/example/run", who=CAROL, Idempotency_Key="k")
    assert others["run_id"] != first["run_id"]


async def test_the_same_key_with_other_arguments_is_a_conflict(public: Client):
    await post(public, "/tasks/example/run", {"args": {"n": 1}}, Idempotency_Key="k")
    status, body = await post(public, "/tasks/example/run", {"args": {"n": 2}}, Idempotency_Key="k")
    assert (status, body["error"]) == (409, "idempotency.conflict")


async def test_other_requests_are_answered_while_one_waits(public: Client, get: Get):
    waiting = asyncio.create_task(post(public, "/tasks/patient/run"))
    await asyncio.sleep(0.02)
    assert await get("/status")
    assert (await post(public, "/events/go", {"payload": {"n": 1}}))[0] == 200
    status, body = await waiting
    assert (status, body["result"]) == (200, [{"n": 1}, []])


async def test_temporal_is_not_configured(world: World, public: Client):
    before = await position(world)
    assert (await post(public, "/tasks/example/run?temporal=true"))[1]["detail"] == "Temporal backend not configured"
    assert await position(world) == before


async def test_tasks_are_listed(public: Client):
    await post(public, "/tasks/countdown/disable")
    async with public.get("/tasks", headers=ALICE) as response:
        listed = {task["name"]: task["disabled"] for task in await response.json()}
    assert (listed["example"], listed["countdown"]) == (False, True)


# ── switches, pause and resume ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("there", "back", "words"),
    [("disable", "enable", ("disabled", "enabled")), ("pause", "resume", ("paused", "resumed"))],
)
async def test_a_switch_is_answered_with_its_word(public: Client, there: str, back: str, words: tuple[str, str]):
    assert await post(public, f"/tasks/example/{there}") == (200, {"status": words[0]})
    assert (await post(public, "/tasks/example/run"))[0] == 409
    assert await post(public, f"/tasks/example/{back}") == (200, {"status": words[1]})
    assert (await post(public, "/tasks/example/run"))[0] == 200
    assert (await post(public, f"/tasks/nothing/{there}"))[0] == 404


async def test_a_task_with_a_run_under_way_pauses_the_run(public: Client, get: Get):
    run_id = await patient(public)
    assert await post(public, "/tasks/patient/pause") == (200, {"status": "paused", "run_id": run_id})
    assert (await get(f"/runs/{run_id}"))["status"] == "paused"
    await post(public, "/events/go")
    assert (await get(f"/runs/{run_id}"))["status"] == "paused"
    assert await post(public, f"/tasks/patient/resume?job_id={run_id}") == (
        200,
        {"status": "resumed", "run_id": run_id},
    )
    await asyncio.sleep(0.01)
    assert (await get(f"/runs/{run_id}"))["status"] == "success"


@pytest.mark.parametrize("route", ["pause", "resume"])
async def test_a_job_that_does_not_run_is_told_in_the_predecessors_words(public: Client, route: str):
    _, ended = await post(public, "/tasks/example/run")
    for job_id in (ended["run_id"], "f" * 32, "patient"):
        status, body = await post(public, f"/tasks/example/{route}?job_id={job_id}")
        assert (status, body) == (404, {"detail": "pipeline not running", "error": "not_running"})


# ── runs ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_run_is_paused_resumed_and_cancelled(world: World, public: Client, get: Get):
    run_id = await patient(public)
    paused = {"run_id": run_id, "task": "patient", "status": "paused", "duplicate": False}
    assert await post(public, f"/runs/{run_id}/pause") == (200, paused)
    assert await post(public, f"/runs/{run_id}/pause") == (200, paused)
    assert (await post(public, f"/runs/{run_id[:12]}/resume", who=CAROL))[1]["status"] == "waiting"
    assert (await post(public, f"/runs/{run_id}/resume"))[0] == 409
    cancelled = await post(public, f"/runs/{run_id}/cancel", {"reason": "for alice-the-user"})
    assert (cancelled[0], cancelled[1]["status"]) == (200, "cancelled")
    assert (await get(f"/runs/{run_id}"))["error"]["message"] == (
        f"for {world.instance.pseudonyms.user('alice-the-user')}"
    )
    status, body = await post(public, f"/runs/{run_id}/pause")
    assert (status, body["error"]) == (409, "run_ended")


async def test_a_run_under_way_is_cancelled(public: Client, get: Get):
    _, body = await post(public, "/tasks/endless/run?wait=false")
    await asyncio.sleep(0.01)
    assert (await post(public, f"/runs/{body['run_id']}/cancel"))[1]["status"] == "cancelled"
    assert (await get("/status"))["n_running"] == 0


async def test_a_cancel_under_a_key_is_harmless_to_repeat(world: World, public: Client):
    run_id = await patient(public)
    path = f"/runs/{run_id}/cancel"
    _, first = await post(public, path, Idempotency_Key="k")
    assert await post(public, path, Idempotency_Key="k") == (200, {**first, "duplicate": True})
    status, body = await post(public, path, {"reason": "other"}, Idempotency_Key="k")
    assert (status, body["error"]) == (409, "idempotency.conflict")
    events = await world.instance.log.read_stream(f"run-{run_id}")
    assert sum(isinstance(recorded.event, RunCancelled) for recorded in events) == 1


async def test_a_run_that_is_not_in_doubt_cannot_be_resolved(public: Client):
    run_id = await patient(public)
    status, body = await post(public, f"/runs/{run_id}/resolve", {"resolution": "retry"})
    assert (status, body["error"]) == (409, "not_in_doubt")
    assert (await post(public, f"/runs/{run_id}/resolve", {"resolution": "shrug"}))[0] == 422
    assert (await post(public, f"/runs/{run_id}/resolve"))[0] == 422


@pytest.mark.parametrize(
    ("what", "body"),
    [("pause", None), ("resume", None), ("cancel", None), ("signal", NOTE), ("resolve", {"resolution": "retry"})],
)
async def test_for_others_a_run_is_not_there(world: World, public: Client, what: str, body: Any):
    run_id = await patient(public)
    before = await position(world)
    theirs = await post(public, f"/runs/{run_id}/{what}", body, who=BOB)
    nobodys = await post(public, f"/runs/{'f' * 32}/{what}", body, who=BOB)
    assert theirs[0] == nobodys[0] == 404
    assert str(theirs).replace(run_id, "f" * 32) == str(nobodys)
    assert await position(world) == before


# ── signals ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("path", ["/runs/{}/signal", "/tasks/{}/signal"])
async def test_a_parked_run_is_told_at_once_and_its_next_stage_sees_it(public: Client, get: Get, path: str):
    run_id = await patient(public)
    assert await post(public, path.format(run_id), NOTE) == (200, {"status": "delivered", "delivered": True})
    await post(public, "/events/go")
    await asyncio.sleep(0.01)
    assert (await get(f"/runs/{run_id}"))["result"] == [{}, [{"note": "hello"}]]


async def test_a_run_in_the_middle_of_a_stage_is_told_later(public: Client):
    _, body = await post(public, "/tasks/endless/run?wait=false")
    await asyncio.sleep(0.01)
    path = f"/tasks/{body['run_id']}/signal"
    assert await post(public, path, NOTE) == (202, {"status": "accepted", "delivered": False})


async def test_a_signal_under_a_key_is_told_once(public: Client):
    path = f"/runs/{await patient(public)}/signal"
    await post(public, path, NOTE, Idempotency_Key="k")
    again = await post(public, path, NOTE, Idempotency_Key="k")
    assert again == (200, {"status": "delivered", "delivered": True, "duplicate": True})


@pytest.mark.parametrize(
    ("body", "status", "detail"),
    [
        ({"kind": "unknown", "value": {"note": "x"}}, 400, "unsupported signal kind"),
        ({"kind": "unknown", "value": {"more": 1}}, 400, "unsupported signal kind"),
        ({"kind": "context", "value": {}}, 400, "note or url is required"),
        ({"kind": "context", "value": {"note": "", "url": ""}}, 400, "note or url is required"),
        ({"kind": "context", "value": {"note": 1}}, 400, "note must be a string"),
        ({"kind": "context", "value": {"url": {}}}, 400, "url must be a string"),
        ({"kind": "context", "value": {"note": "x" * 2049}}, 400, "note exceeds maximum length"),
        ({"kind": "context", "value": {"url": "x" * 2049}}, 400, "url exceeds maximum length"),
        ({"kind": "context", "value": {"note": "x" * 2048, "url": "x" * 2048}}, 400, "context payload too large"),
        ({"kind": "context", "value": {"note": "x", "more": 1}}, 422, None),
        ({"kind": "context", "value": "x"}, 422, None),
        ({"kind": "context"}, 422, None),
        ({"value": {"note": "x"}}, 422, None),
        ({"kind": 1, "value": {"note": "x"}}, 422, None),
        ({"kind": "context", "value": {"note": "x"}, "more": 1}, 422, None),
        ([], 422, None),
    ],
)
@pytest.mark.parametrize("run", ["f" * 32, "patient"])
async def test_a_signal_that_cannot_be_one_is_refused_before_its_run_is_looked_for(
    public: Client, body: Any, status: int, detail: str | None, run: str
):
    answered, said = await post(public, f"/tasks/{run}/signal", body)
    assert answered == status
    assert detail is None or said["detail"] == detail


async def test_a_run_that_is_not_there_or_has_ended_or_a_tasks_name_is_not_running(public: Client):
    _, ended = await post(public, "/tasks/example/run")
    for run in (ended["run_id"], "f" * 32, "example", "patient", "short"):
        expected = (404, {"detail": "pipeline not running", "error": "not_running"})
        assert await post(public, f"/tasks/{run}/signal", NOTE) == expected


# ── events ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_an_event_is_answered_by_its_workflow(public: Client):
    status, body = await post(public, "/events/demo.greeting", {"payload": {}})
    assert (status, body["event"], body["status"]) == (200, "demo.greeting", "success")
    status, later = await post(public, "/events/demo.greeting?wait=false", Idempotency_Key="k")
    assert (status, later["status"]) == (202, "accepted")
    _, again = await post(public, "/events/demo.greeting?wait=false", Idempotency_Key="k")
    assert again == {**later, "duplicate": True}


async def test_an_event_nobody_listens_to_is_recorded(public: Client):
    for query in ("", "?wait=false"):
        assert await post(public, f"/events/nobody.listens{query}") == (
            200,
            {"event": "nobody.listens", "status": "unhandled", "run_id": None},
        )


# ── who asks ─────────────────────────────────────────────────────────────────────────────────────────────────────

POSTS = [route.path for route in CONTROL if route.method == "POST"]


def filled(path: str) -> str:
    return path.format(name="example", run="f" * 32, job_id="f" * 32)


@pytest.mark.parametrize("route", CONTROL, ids=lambda route: route.name)
async def test_every_control_route_wants_both_names_the_users_first_and_before_anything_else(
    world: World, public: Client, route: Any
):
    before = await position(world)
    for who, said in [
        ({}, "user_id header required"),
        ({"X-Group-ID": "g"}, "user_id header required"),
        ({"X-User-ID": "", "X-Group-ID": "g"}, "user_id header required"),
        ({"X-User-ID": "  ", "X-Group-ID": ""}, "user_id header required"),
        ({"X-User-ID": "u"}, "group_id header required"),
        ({"X-User-ID": "u", "X-Group-ID": " "}, "group_id header required"),
        ({"X-User-ID": "u" * 257, "X-Group-ID": "g"}, "user_id has 257 characters; 256 are allowed"),
        ({"X-User-ID": "u", "X-Group-ID": "g" * 257}, "group_id has 257 characters; 256 are allowed"),
        ({"X-User-ID": "u\x85", "X-Group-ID": "g"}, "user_id contains a control character"),
    ]:
        body = {"data": b"{not json"} if route.method == "POST" else {}
        path = f"{filled(route.path)}?no_such=query"
        async with public.request(route.method, path, headers=who, **body) as response:
            assert response.status == 400, await response.text()
            assert (await response.json())["detail"] == said
    assert await position(world) == before


async def test_a_name_given_twice_is_nobodys(public: Client):
    headers = [("X-User-ID", "a"), ("X-User-ID", "b"), ("X-Group-ID", "g")]
    async with public.post("/tasks/example/run", headers=headers) as response:
        assert response.status == 400
        assert "given twice" in (await response.json())["detail"]


async def test_names_may_be_of_any_language_and_256_characters_long(world: World, public: Client):
    name = "ü" * 256
    _, body = await post(public, "/tasks/example/run", who={"X-User-ID": name, "X-Group-ID": "g" * 256})
    run = await world.instance.answers.run(body["run_id"])
    assert run.user_hash == world.instance.pseudonyms.user(name)


async def test_a_pseudonym_is_a_name_like_any_other(world: World, public: Client):
    run_id = await patient(public)
    pseudonyms = world.instance.pseudonyms
    who = {"X-User-ID": pseudonyms.user("alice-the-user"), "X-Group-ID": pseudonyms.group("engineers-group")}
    assert (await post(public, f"/runs/{run_id}/cancel", who=who))[0] == 404


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Host": "evil.example"},
    ],
    ids=lambda headers: " ".join(*headers.items()),
)
async def test_no_page_of_another_site_changes_anything(
    world: World, public: Client, path: str, headers: dict[str, str]
):
    before = await position(world)
    async with public.post(filled(path), headers={**ALICE, **headers}) as response:
        assert response.status in (403, 421)
    assert await position(world) == before


async def test_no_route_answers_what_a_browser_asks_before_it_sends_our_headers(public: Client):
    for path in POSTS:
        asks = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
        async with public.options(filled(path), headers=asks) as response:
            assert response.status == 403
            assert not [name for name in response.headers if name.lower().startswith("access-control")]


async def test_a_form_of_another_site_has_no_name(public: Client):
    async with public.post("/tasks/example/run", data={"args": "x"}) as response:
        assert response.status == 400


async def test_with_a_token_nobody_controls_anything_without_it(tmp_path: Path):
    async with (
        a_world(tmp_path, http_token="s3cret") as world,
        client_of(build_app(world.instance, world.is_ready)) as client,
    ):
        assert (await post(client, "/tasks/example/run"))[0] == 401
        assert (await post(client, "/tasks/example/run", Authorization="Bearer wrong"))[0] == 401
        assert (await post(client, "/tasks/example/run", Authorization="Bearer s3cret"))[0] == 200


# ── bad input ────────────────────────────────────────────────────────────────────────────────────────────────────

BODIES: list[tuple[bytes, int]] = [
    (b"{", 400),
    (b"\xff", 400),
    (b'{"args": {}, "args": {}}', 400),
    (b'{"args": {"n": ' + b"9" * 30 + b"}}", 400),
    (b'{"args": ' + b"[" * 100 + b"]" * 100 + b"}", 400),
    (b'{"args": "\\ud800"}', 400),
    (b"[" * 100_000, 400),
    (b"[]", 422),
    (b"null", 422),
    (b'"text"', 422),
    (b'{"no_such": 1}', 422),
    (b"x" * (512 * 1024 + 1), 413),
]


@pytest.mark.parametrize("path", POSTS)
async def test_a_body_that_is_wrong_is_refused_and_nothing_is_recorded(world: World, public: Client, path: str):
    before = await position(world)
    for data, status in BODIES:
        answered, body = await post(public, filled(path), data=data)
        assert (answered, bool(body["detail"])) == (status, True), data[:40]
    assert await position(world) == before


_PACKED = gzip.compress(b'{"args": {"n": 1}}', mtime=0)  # always the same bytes


@pytest.mark.parametrize(
    ("encoding", "data"),
    [("gzip", _PACKED), ("gzip", _PACKED[:4]), ("identity, gzip", _PACKED), ("no-such", b"{}")],
)
async def test_a_body_that_is_packed_is_refused_and_nothing_is_recorded(
    world: World, public: Client, encoding: str, data: bytes
):
    before = await position(world)
    status, body = await post(public, "/tasks/example/run", data=data, Content_Encoding=encoding)
    assert (status, body["error"]) == (415, "packed")
    assert await position(world) == before


@pytest.mark.parametrize("args", [b"[]", b"null", b"7", b'"x"'])
async def test_arguments_must_be_an_object(public: Client, args: bytes):
    assert (await post(public, "/tasks/example/run", data=b'{"args": ' + args + b"}"))[0] == 422


@pytest.mark.parametrize(
    "path",
    [
        "/tasks/example/run?wait=maybe",
        "/tasks/example/run?wiat=false",
        "/tasks/example/run?wait=true&wait=false",
        "/tasks/example/run?name=other",
        "/tasks/example/pause?job=x",
        "/tasks/example/disable?x=1",
        "/runs/ffffffffffff/cancel?reason=x",
        "/events/x?payload={}",
    ],
)
async def test_a_query_that_is_wrong_has_the_wrong_shape(world: World, public: Client, path: str):
    before = await position(world)
    status, body = await post(public, path)
    assert (status, body["error"]) == (422, "schema")
    assert await position(world) == before


@pytest.mark.parametrize(
    "path",
    [
        "/tasks/%00/run",
        "/tasks/%ff/run",
        "/tasks/two words/run",
        "/tasks/" + "x" * 3000 + "/run",
        "/tasks/a%2Fb/run",
        "/tasks/%00/disable",
        "/tasks/" + "x" * 3000 + "/pause",
        "/runs/%00%00%00%00%00%00%00%00/cancel",
        "/runs/'; DROP TABLE runs; --/cancel",
        "/runs/" + "a" * 3000 + "/cancel",
        "/runs/" + "٠" * 32 + "/pause",
        "/events/%00",
        "/events/two words",
        "/events/" + "x" * 3000,
    ],
)
async def test_a_name_that_cannot_be_one_is_never_our_fault(public: Client, path: str):
    status, body = await post(public, path)
    assert status in (400, 404, 422), body
    assert body["detail"]


@pytest.mark.parametrize("key", ["", " ", "k" * 257, "a\x85b"])
async def test_a_key_that_cannot_be_one_is_refused(world: World, public: Client, key: str):
    before = await position(world)
    for path in ("/tasks/example/run", "/tasks/example/disable", f"/runs/{'f' * 32}/cancel", "/events/go"):
        assert (await post(public, path, Idempotency_Key=key))[0] == 400
    assert await position(world) == before


async def test_reading_is_not_offered_where_control_is(public: Client):
    async with public.get("/tasks/example/run", headers=ALICE) as response:
        assert response.status == 405
        assert response.headers["Allow"] == "POST"


# ── when we cannot ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("what", ["/tasks/example/run", "/tasks/example/disable", "/runs/{}/cancel", "/events/go"])
async def test_a_full_disk_is_told_with_when_to_try_again(world: World, public: Client, what: str):
    run_id = await patient(public)
    world.instance.log.fail_next = DiskFull("no space")  # type: ignore[attr-defined]
    async with public.post(what.format(run_id), headers=ALICE) as response:
        assert response.status == 507
        assert response.headers["Retry-After"] == "1"
        assert await response.json() == {"detail": "no space", "error": "disk_full"}
    assert (await post(public, what.format(run_id)))[0] == 200


async def test_a_full_queue_is_told_with_when_to_try_again(tmp_path: Path):
    async with (
        a_world(tmp_path, max_concurrent_runs=1, max_queued_runs=1) as world,
        client_of(build_app(world.instance, world.is_ready)) as client,
    ):
        for _ in range(2):
            assert (await post(client, "/tasks/endless/run?wait=false"))[0] == 202
        async with client.post("/tasks/endless/run", headers=ALICE) as response:
            assert response.status == 429
            assert response.headers["Retry-After"] == "5"
            assert (await response.json())["error"] == "overloaded"


async def test_a_caller_that_waits_is_told_when_the_daemon_stops(public: Client):
    waiting = asyncio.create_task(post(public, "/tasks/endless/run"))
    await asyncio.sleep(0.05)
    assert public.app is not None
    public.app[FACE].stopping.set()
    status, body = await waiting
    assert (status, body["error"]) == (503, "stopping")


async def test_callers_that_are_gone_make_room_for_others(
    world: World, public: Client, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(work, "MAX_WORK", 2)
    here = asyncio.create_task(post(public, "/tasks/patient/run"))
    gone = asyncio.create_task(post(public, "/tasks/patient/run"))
    await asyncio.sleep(0.05)
    assert (await post(public, "/tasks/example/run"))[0] == 429
    gone.cancel()
    await asyncio.sleep(0.05)
    assert (await post(public, "/tasks/example/run"))[0] == 200
    assert len((await world.do("runs", task="patient", status="waiting")).items) == 2
    await post(public, "/events/go")
    assert (await here)[0] == 200


async def test_refusals_and_repetitions_are_counted(world: World, public: Client):
    await post(public, "/tasks/example/run", who={})
    await post(public, "/tasks/example/run", data=b"{")
    await post(public, "/tasks/nothing/run")  # recorded as a refused run
    for _ in range(2):
        await post(public, "/tasks/example/run", Idempotency_Key="k")
    assert world.instance.refusals.total == {"identity_required": 1, "undecodable": 1, "duplicate": 1}


async def test_nothing_that_is_recorded_or_answered_names_anybody(world: World, public: Client):
    run_id = await patient(public)
    for path, body in [
        (f"/runs/{run_id}/signal", {"kind": "context", "value": {"url": "x"}}),
        (f"/runs/{run_id}/cancel", {"reason": "alice-the-user of engineers-group"}),
        ("/tasks/failing/run", None),
        ("/tasks/example/disable", None),
    ]:
        status, answer = await post(public, path, body, Idempotency_Key=f"alice-the-user:{path}")
        assert "alice-the-user" not in str(answer), status
    recorded = str(await world.instance.log.read(0, 1000))
    assert "alice-the-user" not in recorded
    assert "engineers-group" not in recorded
