"""Runs for due instants of the past: each once, and the ledger stays what it was."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from cascadenced.errors import Conflict, Invalid, NotAllowed, Unknown
from cascadenced.events.base import Context
from cascadenced.events.run import RunFinished, RunRefused, RunRequested
from cascadenced.events.schedule import ScheduleSet, TickBackfilled, TickFired
from cascadenced.events.workflow import EventDispatched
from cascadenced.handlers.backfills import Backfills
from cascadenced.instance import Instance
from cascadenced.projections import schedules
from cascadenced.verbs import VERBS, perform
from tests.doubles import ALICE, PSEUDONYMS, until
from tests.handlers.test_exclude_ics import Home
from tests.handlers.test_ticks import Night, Report, Slow, explained, set_, us
from tests.recurrence.test_ics import calendar


@pytest.fixture(autouse=True)
def fresh() -> None:
    Report.seen, Report.fails, Slow.gate = [], False, asyncio.Event()


async def backfill(instance: Instance, start: str, end: str, task: str = "report", **more: Any) -> Any:
    asked = {"task": task, "start": f"2026-11-26T{start}Z", "end": f"2026-11-26T{end}Z", **more}
    return await perform(VERBS["backfill"], instance, asked)


def minutes(result: Any) -> list[str]:
    return [item.at[11:16] for item in result.items]


async def test_each_due_instant_of_the_range_gets_a_run_for_whom_the_schedule_is() -> None:
    world = Night()
    async with world.up() as instance:
        entry = {"expr": "*/2 * * * *", "args": {"sheet": 7}}
        await instance.schedules.set("report", entry, via="cli", who=ALICE)
        result = await backfill(instance, "08:50:00", "08:56:00")
        assert minutes(result) == ["08:50", "08:52", "08:54", "08:56"]
        assert not any(item.duplicate for item in result.items)
    assert Report.seen == [("alice", {"sheet": 7})] * 4
    runs = world.recorded(RunRequested)
    assert [recorded.run_id for recorded in runs] == [item.run_id for item in result.items]
    assert {recorded.event.via for recorded in runs} == {"backfill"}
    [first, *_] = world.recorded(TickBackfilled)
    assert first.source == f"tick:report:{us('26 08:50')}:backfill"
    assert runs[0].position == first.position + 1
    assert "alice" not in world.text()


async def test_the_same_again_asks_for_nothing_twice() -> None:
    world = Night()
    async with world.up() as instance:
        await set_(instance)
        first = await backfill(instance, "08:50:00", "08:52:00")
        again = await backfill(instance, "08:51:00", "08:53:00")
        assert [(item.at[11:16], item.duplicate) for item in again.items] == [
            ("08:51", True),
            ("08:52", True),
            ("08:53", False),
        ]
        assert [item.run_id for item in again.items[:2]] == [item.run_id for item in first.items[1:]]
    assert len(world.events(RunRequested)) == len(world.events(TickBackfilled)) == 4


async def test_after_a_crash_it_goes_on_where_it_was() -> None:
    world = Night()
    async with world.up() as instance:
        await set_(instance, "slow")
        under_way = asyncio.create_task(backfill(instance, "08:50:00", "08:52:00", "slow"))
        await until(lambda: world.events(TickBackfilled))
        world.crash(instance)
        under_way.cancel()
    Slow.gate = asyncio.Event()
    Slow.gate.set()
    async with world.up() as instance:
        result = await backfill(instance, "08:50:00", "08:52:00", "slow")
    assert [item.duplicate for item in result.items] == [True, False, False]
    assert len(world.events(RunRequested)) == len(world.events(RunFinished)) == 3


async def test_one_that_was_refused_because_what_it_needs_failed_is_asked_for_again() -> None:
    world = Night()
    async with world.up() as instance:
        await instance.schedules.set("slow", {"expr": "* * * * *", "deps": ["report"]}, via="cli", who=ALICE)
        Slow.gate.set()
        Report.fails = True
        await backfill(instance, "08:50:00", "08:50:00", "slow")
        assert [event.task for event in world.events(RunRefused)] == ["slow"]
        Report.fails = False
        again = await backfill(instance, "08:50:00", "08:50:00", "slow")
        assert [item.duplicate for item in again.items] == [False]
        assert [event.task for event in world.events(RunFinished)] == ["report", "slow"]
        assert [item.duplicate for item in (await backfill(instance, "08:50:00", "08:50:00", "slow")).items] == [True]


async def test_after_a_crash_it_waits_for_the_run_that_goes_on() -> None:
    world = Night()
    async with world.up() as instance:
        await set_(instance, "slow")
        under_way = asyncio.create_task(backfill(instance, "08:50:00", "08:51:00", "slow"))
        await until(lambda: world.events(TickBackfilled))
        world.crash(instance)
        under_way.cancel()
    Slow.gate = asyncio.Event()
    async with world.up() as instance:
        under_way = asyncio.create_task(backfill(instance, "08:50:00", "08:51:00", "slow"))
        await world.quiet(instance)
        assert len(world.events(TickBackfilled)) == 1
        Slow.gate.set()
        assert len((await under_way).items) == 2


@pytest.mark.parametrize(("overlap", "n_at_once"), [("skip", 1), ("queue", 1), ("cancel_previous", 1), ("allow", 3)])
async def test_runs_wait_for_each_other_unless_the_schedule_allows_them_side_by_side(
    overlap: str, n_at_once: int
) -> None:
    world = Night()
    async with world.up() as instance:
        await set_(instance, "slow", overlap=overlap)
        under_way = asyncio.create_task(backfill(instance, "08:50:00", "08:52:00", "slow"))
        await until(lambda: instance.runs.n_running == n_at_once)
        await world.quiet(instance)
        assert instance.runs.n_running == n_at_once
        assert under_way.done() == (overlap == "allow")
        Slow.gate.set()
        assert len((await under_way).items) == 3


async def test_they_wait_for_the_run_that_the_schedule_fired_as_well() -> None:
    world = Night()
    async with world.ticking() as instance:
        await set_(instance, "slow")
        await world.pass_time(instance, 1)
        under_way = asyncio.create_task(backfill(instance, "08:50:00", "08:50:00", "slow"))
        await world.quiet(instance)
        assert world.events(TickBackfilled) == []
        Slow.gate.set()
        assert len((await under_way).items) == 1


async def test_one_that_fails_does_not_end_the_others() -> None:
    world = Night()
    Report.fails = True
    async with world.up() as instance:
        await set_(instance)
        assert len((await backfill(instance, "08:50:00", "08:52:00")).items) == 3
    assert len(Report.seen) == 3


# ── the ledger ───────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_ledger_keeps_what_became_of_each_and_shows_that_it_was_run_later() -> None:
    world = Night()
    async with world.ticking() as instance:
        await set_(instance, "slow")
        await world.pass_time(instance, 3)
        Slow.gate.set()
        await world.quiet(instance)
        before = (await schedules.stored(instance.log.tables, ["slow"]))["slow"].schedule
        result = await backfill(instance, "09:02:00", "09:02:00", "slow")
        after = (await schedules.stored(instance.log.tables, ["slow"]))["slow"].schedule
        assert before == after
        rows = (await instance.answers.ticks("slow")).items
        assert [(row.verdict, row.n_backfilled) for row in rows] == [("skipped", 0), ("skipped", 1), ("fired", 0)]
        assert (await explained(instance, "slow@2026-11-26T09:02"))[1:] == [
            f"It was skipped: the run before it had not ended, run {world.events(TickFired)[0].run_id}.",
            f"It was asked for later: run {result.items[0].run_id}.",
        ]
        await world.pass_time(instance, 1)
    assert world.ledger("slow")[-1] == "fired 26 09:04"


async def test_only_the_missed_ones_may_be_asked_for() -> None:
    world = Night()
    async with world.ticking() as instance:
        await set_(instance)
        await world.pass_time(instance, 1)
        await instance.schedules.pause("report", by=Context())
        await world.pass_time(instance, 2)
        await instance.schedules.resume("report", by=Context())
        await world.pass_time(instance, 1)
        assert minutes(await backfill(instance, "09:00:00", "09:04:00", missed_only=True)) == [
            "09:00",  # before it was set
            "09:02",
            "09:03",
        ]
        assert len((await backfill(instance, "09:00:00", "09:04:00")).items) == 5


async def test_one_whose_turn_is_still_to_come_is_left_to_it() -> None:
    world = Night()
    async with world.up() as instance:  # nothing ticks here
        await set_(instance)
        await world.time.advance(120)
        result = await backfill(instance, "09:00:00", "09:30:00")
        assert (minutes(result), result.n_unsettled) == (["09:00"], 2)
    async with world.ticking() as instance:
        await world.quiet(instance)
    assert world.ledger() == ["coalesced 26 09:01 late", "fired 26 09:02"]


async def test_and_so_is_one_that_waits_for_the_end_of_a_run() -> None:
    world = Night()
    async with world.ticking() as instance:
        await set_(instance, "slow", overlap="queue")
        await world.pass_time(instance, 2)
        under_way = asyncio.create_task(backfill(instance, "09:01:00", "09:02:00", "slow"))
        await world.quiet(instance)
        Slow.gate.set()
        result = await under_way
        assert (minutes(result), result.n_unsettled) == (["09:01"], 1)
        await world.quiet(instance)
    assert world.ledger("slow") == ["fired 26 09:01", "queued 26 09:02", "fired 26 09:02 after waiting"]


async def test_a_change_of_the_schedule_meanwhile_is_in_nobodys_way() -> None:
    world = Night()
    async with world.ticking() as instance:
        await set_(instance, "slow", overlap="allow")
        await backfill(instance, "08:50:00", "08:55:00", "slow")
        assert (await instance.schedules.set("slow", "*/2 * * * *", via="cli")).changed
        await world.pass_time(instance, 2)
        Slow.gate.set()
    assert world.ledger("slow") == ["fired 26 09:02"]
    assert len(world.events(ScheduleSet)) == 2


# ── what is left out, and what is refused ────────────────────────────────────────────────────────────────────


async def test_excluded_days_and_events_are_left_out(tmp_path: Any) -> None:
    world = Home(tmp_path)
    world.write(calendar("DTSTART:20261126T085000Z\nDTEND:20261126T085200Z"))
    async with world.up() as instance:
        await set_(instance, exclude_ics="days.ics")
        result = await backfill(instance, "08:49:00", "08:52:00")
        assert (minutes(result), result.n_left_out) == (["08:49", "08:52"], 2)
        with pytest.raises(Invalid, match="^what its calendar excludes is known from 2025-12-.* on only$"):
            await perform(
                VERBS["backfill"],
                instance,
                {"task": "report", "start": "2025-01-01T00:00:00Z", "end": "2025-01-02T00:00:00Z"},
            )


async def test_an_event_may_be_dispatched_for_each() -> None:
    world = Night()
    async with world.up() as instance:
        entry = {"expr": "* * * * *", "event": "tea.time", "args": {"cups": 2}}
        await instance.schedules.set("tea", entry, via="cli", who=ALICE)
        await instance.schedules.set("silence", {**entry, "event": "nobody.listens"}, via="cli")
        for _ in range(2):
            await backfill(instance, "08:50:00", "08:51:00", "tea")
            result = await backfill(instance, "08:50:00", "08:51:00", "silence")
        assert [(item.run_id, item.duplicate) for item in result.items] == [(None, True)] * 2
    assert [event.name for event in world.events(EventDispatched)] == ["tea.time"] * 2 + ["nobody.listens"] * 2


async def test_more_than_is_allowed_is_refused_and_nothing_is_asked_for() -> None:
    world = Night()
    async with world.up() as instance:
        await set_(instance)
        with pytest.raises(Invalid, match="^3 instants are due in that range; 2 are allowed$"):
            await backfill(instance, "08:50:00", "08:52:00", max=2)
        with pytest.raises(Invalid, match="^1440 instants are due in that range; 1000 are allowed$"):
            await perform(
                VERBS["backfill"],
                instance,
                {"task": "report", "start": "2026-11-25T00:00:00Z", "end": "2026-11-25T23:59:00Z"},
            )
        with pytest.raises(Invalid, match="^more than 100000 instants are due in that range$"):
            await perform(
                VERBS["backfill"],
                instance,
                {"task": "report", "start": "2026-01-01T00:00:00Z", "end": "2026-11-01T00:00:00Z"},
            )
    assert world.events(TickBackfilled) == []


@pytest.mark.parametrize(
    ("start", "end", "says"),
    [("09:00:00", "08:00:00", "the range ends before it begins"), ("noon", "09:00:00", "start must be an instant")],
)
async def test_what_is_no_range_is_refused(start: str, end: str, says: str) -> None:
    async with Night().up() as instance:
        await set_(instance)
        with pytest.raises(Invalid, match=f"^{says}"):
            await backfill(instance, start, end)


async def test_what_cannot_run_is_not_asked_for_so_that_it_can_be_later() -> None:
    world = Night()
    async with world.up() as instance:
        with pytest.raises(Unknown, match="^Unknown schedule: report$"):
            await backfill(instance, "08:50:00", "08:51:00")
        await set_(instance)
        await instance.tasks.switch("report", "disable", Context())
        with pytest.raises(Conflict):
            await backfill(instance, "08:50:00", "08:51:00")
        await instance.tasks.switch("report", "enable", Context())
        assert not any(item.duplicate for item in (await backfill(instance, "08:50:00", "08:51:00")).items)
        await instance.schedules.set("slow", "* * * * *", via="cli", who=ALICE)
        world.vault._raw.clear()
        with pytest.raises(Conflict, match="^the vault does not have whom slow runs for$"):
            await backfill(instance, "08:50:00", "08:51:00", "slow")


async def test_the_base_scheduler_has_no_past_either() -> None:
    world = Night()
    async with world.up() as instance:
        base = Backfills(
            *(instance.log, world.clock, instance.runs, instance.requests, instance.tasks, world.vault),
            instance.calendars,
            enabled=False,
        )
        with pytest.raises(NotAllowed, match="^scheduler lacks cron capabilities$"):
            await base.backfill("report", first_us=0, last_us=1)


async def test_who_asked_is_recorded_by_pseudonym() -> None:
    world = Night()
    async with world.up() as instance:
        await set_(instance)
        await backfill(instance, "08:50:00", "08:50:00", user_id="alice", group_id="eng")
    [event] = world.events(TickBackfilled)
    assert event.by == PSEUDONYMS.user("alice")
