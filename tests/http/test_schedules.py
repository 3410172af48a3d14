"""What the status endpoint tells of schedules."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp.test_utils import TestClient

from cascadenced.events.schedule import TickFired
from tests.http.conftest import World

Client = TestClient[Any, Any]


@pytest.fixture
async def scheduled(world: World) -> World:
    entry = {"expr": "30 2 * * *", "timezone": "America/New_York", "exclude": ["2027-03-13"]}
    await world.instance.schedules.set("example", entry, via="cli")
    return world


async def get(public: Client, path: str) -> tuple[int, dict]:
    async with public.get(path) as response:
        return response.status, await response.json()


async def test_a_preview_has_the_offset_of_the_zone_and_says_what_is_special(scheduled: World, public: Client) -> None:
    status, body = await get(public, "/schedules/example/preview?start=2027-03-13T00:00:00Z&count=2")
    assert status == 200
    excluded, shifted = body["items"]
    assert (excluded["at"], excluded["fires"]) == ("2027-03-13T02:30:00-05:00", False)
    assert shifted["at"] == "2027-03-14T03:00:00-04:00"
    assert shifted["note"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/schedules/nobody/preview", 404),
        ("/schedules/example/preview?count=0", 400),
        ("/schedules/example/preview?start=tomorrow", 400),
        ("/schedules/example/preview?more=1", 400),
        ("/schedules/example/ticks?after=x", 400),
    ],
)
async def test_what_is_asked_wrongly_is_refused(scheduled: World, public: Client, path: str, status: int) -> None:
    assert (await get(public, path))[0] == status


async def test_the_ledger_is_listed_newest_first(scheduled: World, public: Client) -> None:
    from cascadenced.eventlog.base import Change

    fired = [TickFired(task="example", due_us=n * 60_000_000, run_id=f"{n:032x}") for n in (1, 2, 3)]
    await scheduled.instance.log.append([Change("schedule-example", fired)])
    _, body = await get(public, "/schedules/example/ticks?limit=2")
    assert [row["at"][11:16] for row in body["items"]] == ["00:03", "00:02"]
    _, body = await get(public, f"/schedules/example/ticks?limit=2&after={body['next']}")
    assert [row["run_id"] for row in body["items"]] == [f"{1:032x}"]


async def test_a_task_row_says_when_it_fires_next_in_this_process(scheduled: World, public: Client) -> None:
    scheduled.instance.ticks.ticker.set("example", 1_795_680_000_000_000)
    scheduled.instance.ticks.on_change()
    _, body = await get(public, "/status")
    rows = {row["name"]: row["next_fire_at"] for row in body["tasks"]}
    assert rows["example"] == "2026-11-26T08:00:00.000000Z"
    assert (await get(public, "/status/example"))[1]["next_fire_at"] == "2026-11-26T08:00:00.000000Z"
