"""Schedules on a real instance in virtual time: each due instant has one record, and a run where it fires."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest

from cascadenced.clock import FakeClock
from cascadenced.config import Config
from cascadenced.errors import Conflict, DiskFull, Invalid, NotAllowed, Unknown
from cascadenced.eventlog.base import Change
from cascadenced.events.base import Context, Event
from cascadenced.events.run import RunCancelled, RunFinished, RunRequested
from cascadenced.events.schedule import ScheduleRemoved, ScheduleSet, TickFired, TickQueued, TicksPassed
from cascadenced.events.workflow import EventDispatched
from cascadenced.handlers import ticks
from cascadenced.handlers.schedule_requests import ScheduleRequests
from cascadenced.handlers.ticks import Ticks
from cascadenced.instance import Instance
from cascadenced.plugins.base import BaseTask
from cascadenced.projections import schedules
from cascadenced.verbs import VERBS, perform
from cascadenced.workflows import subscribe
from tests.doubles import ALICE, PSEUDONYMS, World, idle, until
from tests.doubles import run as run_task

START = datetime(2026, 11, 26, 9, 0, 30, tzinfo=UTC)
"""A Thursday."""
MINUTE = 60_000_000


class Report(BaseTask):
    name = "report"
    seen: list[tuple[str, dict[str, Any]]] = []
    fails = False

    def run(self) -> str:
        self.seen.append((self.user_id, self.args))
        if self.fails:
            raise ValueError("boom")
        return "reported"


class Slow(BaseTask):
    """Ends when it is told to."""

    name = "slow"
    gate = asyncio.Event()

    async def run(self) -> str:
        await self.gate.wait()
        return "done"


@subscribe("tea.time")
def make_tea(payload: dict[str, Any]) -> dict[str, Any]:
    return {"cups": payload["cups"]}


@pytest.fixture(autouse=True)
def fresh() -> None:
    Report.seen, Report.fails, Slow.gate = [], False, asyncio.Event()


def us(text: str) -> int:
    """Microseconds of a UTC time of that November, `26 09:01`, or a whole ISO text."""
    whole = text if len(text) > 8 else f"2026-11-{text}"
    return int(datetime.fromisoformat(whole.replace(" ", "T")).replace(tzinfo=UTC).timestamp()) * 1_000_000


class Night(World):
    """A world whose clock stands at START, and whose schedules tick."""

    def __init__(self, *tasks: Any, at: str = "26 09:00", **config: Any) -> None:
        super().__init__(*(tasks or (Report, Slow, make_tea)), clock=FakeClock(us(at) + MINUTE // 2), **config)

    @property
    def time(self) -> FakeClock:
        assert isinstance(self.clock, FakeClock)
        return self.clock

    @asynccontextmanager
    async def ticking(self) -> AsyncIterator[Instance]:
        async with self.up() as instance:
            ticking = asyncio.create_task(instance.ticks.run())
            try:
                await self.quiet(instance)
                yield instance
            finally:
                ticking.cancel()
                await asyncio.wait({ticking})

    async def quiet(self, instance: Instance) -> None:
        """Return when all that is due is settled and all runs that can have ended."""
        for _ in range(300):
            await asyncio.sleep(0)

    async def pass_time(self, instance: Instance, minutes: float) -> None:
        """Minute by minute."""
        while minutes > 0:
            await self.time.advance(min(1, minutes) * 60)
            await self.quiet(instance)
            minutes -= 1

    def ledger(self, task: str = "report") -> list[str]:
        """Its records, as text."""
        return [line for event in self.events() if (line := told(event)) and event.task == task]  # type: ignore[attr-defined]


def told(event: Event) -> str | None:
    match event:
        case TickFired():
            return f"fired {_at(event.due_us)}" + (" after waiting" if event.queued else "")
        case TickQueued():
            return f"queued {_at(event.due_us)}"
        case TicksPassed(n=1):
            return f"{event.verdict} {_at(event.first_us)} {event.code}"
        case TicksPassed():
            return f"{event.verdict} {_at(event.first_us)} to {_at(event.last_us)} ({event.n}) {event.code}"
        case _:
            return None


def _at(at_us: int) -> str:
    return datetime.fromtimestamp(at_us / 1e6, UTC).strftime("%d %H:%M")


async def set_(instance: Instance, task: str = "report", **entry: Any) -> None:
    await instance.schedules.set(task, {"expr": "* * * * *"} | entry if "expr" not in entry else entry, via="cli")


# ── firing ───────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_task_runs_at_each_instant_of_its_schedule() -> None:
    world = Night()
    async with world.ticking() as instance:
        await instance.schedules.set("report", "*/5 * * * *", via="cli")
        await world.pass_time(instance, 12)
    assert world.ledger() == ["fired 26 09:05", "fired 26 09:10"]
    runs = world.events(RunRequested)
    assert [run.via for run in runs] == ["schedule", "schedule"]
    fired = world.events(TickFired)
    assert [tick.run_id for tick in fired] == [recorded.run_id for recorded in world.recorded(RunRequested)]
    assert len(Report.seen) == 2


async def test_the_run_and_the_record_of_its_instant_are_one_append() -> None:
    world = Night()
    async with world.ticking() as instance:
        await set_(instance)
        await world.pass_time(instance, 1)
    [fired], [requested] = world.recorded(TickFired), world.recorded(RunRequested)
    assert requested.position == fired.position + 1
    assert fired.source == f"tick:report:{us('26 09:01')}"


async def test_it_runs_for_whom_it_was_set_with_its_arguments() -> None:
    world = Night()
    async with world.ticking() as instance:
        await instance.schedules.set("report", {"expr": "* * * * *", "args": {"sheet": 7}}, via="cli", who=ALICE)
        await world.pass_time(instance, 1)
    assert Report.seen == [("alice", {"sheet": 7})]
    assert world.recorded(TickFired)[0].user_hash == PSEUDONYMS.user("alice")
    assert "alice" not in world.text()


async def test_one_that_names_nobody_runs_for_the_system() -> None:
    """TC 74"""
    world = Night()
    async with world.ticking() as instance:
        await set_(instance)
        await world.pass_time(instance, 1)
    assert Report.seen == [("system", {})]


async def test_an_event_may_be_dispatched_instead() -> None:
    world = Night()
    async with world.ticking() as instance:
        entry = {"expr": "* * * * *", "event": "tea.time", "args": {"cups": 2}}
        await instance.schedules.set("tea", entry, via="cli", who=ALICE)
        await instance.schedules.set("silence", {**entry, "event": "nobody.listens"}, via="cli", who=ALICE)
        await world.pass_time(instance, 2)
    assert world.ledger("tea") == world.ledger("silence") == ["fired 26 09:01", "fired 26 09:02"]
    assert sorted(event.name for event in world.events(EventDispatched)) == ["nobody.listens"] * 2 + ["tea.time"] * 2
    assert {tick.run_id for tick in world.events(TickFired) if tick.task == "silence"} == {""}


async def test_the_weekdays_of_an_expression_count_from_sunday() -> None:
    """TC 73: 1 is Monday, 0 and 7 are Sunday."""
    world = Night()
    async with world.ticking() as instance:
        await instance.schedules.set("report", "0 9 * * 1", via="cli")
        await world.quiet(instance)
        assert instance.ticks.ticker.next_us("report") == us("30 09:00")
        for sunday in ("0", "7"):
            await instance.schedules.set("report", f"0 9 * * {sunday}", via="cli")
            await world.quiet(instance)
            assert instance.ticks.ticker.next_us("report") == us("29 09:00")


@pytest.mark.parametrize("entry", [{"every_s": 90}, {"at": "2026-11-26T09:02"}, {"rrule": "FREQ=MINUTELY;INTERVAL=2"}])
async def test_a_schedule_may_be_an_interval_a_single_time_or_a_calendar_rule(entry: dict[str, Any]) -> None:
    world = Night()
    async with world.ticking() as instance:
        await instance.schedules.set("report", entry, via="cli")
        await world.pass_time(instance, 5)
    expected = {
        "every_s": ["fired 26 09:02", "fired 26 09:03", "fired 26 09:05"],
        "at": ["fired 26 09:02"],
        "rrule": ["fired 26 09:02", "fired 26 09:04"],
    }
    assert world.ledger() == expected[next(iter(entry))]


async def test_a_schedule_that_names_no_zone_goes_by_the_configured_one() -> None:
    """TC 72"""
    world = Night()
    world.config = Config(timezone="Europe/Berlin")
    async with world.ticking() as instance:
        await instance.schedules.set("report", "2 10 * * *", via="cli")  # an hour ahead of UTC
        await world.pass_time(instance, 3)
    assert world.ledger() == ["fired 26 09:02"]


async def test_after_a_restart_it_still_runs_for_whom_it_was_set_whatever_its_class_is_called() -> None:
    """TC 64, 65"""

    class Renamed(Report):
        name = "report"

    world = Night()
    async with world.ticking() as instance:
        await instance.schedules.set("report", "* * * * *", via="cli", who=ALICE)
        world.crash(instance)
    world.tasks = (Renamed, Slow, make_tea)
    async with world.ticking() as instance:
        await world.pass_time(instance, 1)
    assert Report.seen == [("alice", {})]


# ── switches ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("switch", "code"), [("disable", "disabled"), ("pause", "paused")])
async def test_a_task_that_takes_no_runs_is_not_run_and_each_instant_says_why(switch: Any, code: str) -> None:
    """TC 71"""
    world = Night()
    async with world.ticking() as instance:
        await set_(instance)
        await instance.tasks.switch("report", switch, Context())
        await world.pass_time(instance, 2)
        await instance.tasks.switch("report", "enable" if switch == "disable" else "resume", Context())
        await world.pass_time(instance, 1)
    assert [line.rsplit(" ", 1)[0] for line in world.ledger()[:2]] == ["suppressed 26 09:01", "suppressed 26 09:02"]
    assert all(code in line for line in world.ledger()[:2])
    assert world.ledger()[2:] == ["fired 26 09:03"]


async def test_a_paused_schedule_costs_nothing_and_its_instants_are_settled_when_it_is_resumed() -> None:
    world = Night()
    async with world.ticking() as instance:
        await set_(instance)
        await world.pass_time(instance, 1)
        await instance.schedules.pause("report", by=Context())
        await world.pass_time(instance, 3)
        assert world.ledger() == ["fired 26 09:01"]
        assert instance.ticks.ticker.next_us("report") is None
        await instance.schedules.resume("report", by=Context())
        await world.pass_time(instance, 1)
    assert world.ledger() == ["fired 26 09:01", "suppressed 26 09:02 to 26 09:04 (3) paused", "fired 26 09:05"]


async def test_a_removed_schedule_fires_no_more_and_one_set_again_does_not_fire_the_past() -> None:
    world = Night()
    async with world.ticking() as instance:
        await set_(instance)
        await world.pass_time(instance, 1)
        await instance.schedules.remove("report", by=Context())
        await world.pass_time(instance, 2)
        await set_(instance)
        await world.pass_time(instance, 1)
    assert world.ledger() == ["fired 26 09:01", "fired 26 09:04"]


async def test_a_changed_expression_never_fires_the_past() -> None:
    world = Night()
    async with world.ticking() as instance:
        await instance.schedules.set("report", "0 12 * * *", via="cli")
        await world.pass_time(instance, 2)
        await instance.schedules.set("report", "1 9 * * *", via="cli")  # a minute ago
        await world.pass_time(instance, 2)
    assert world.ledger() == []


# ── overlap ──────────────────────────────────────────────────────────────────────────────────────────────────


async def test_while_the_last_run_is_under_way_an_instant_is_skipped() -> None:
    world = Night()
    async with world.ticking() as instance:
        await set_(instance, "slow")
        await world.pass_time(instance, 3)
        Slow.gate.set()
        await world.pass_time(instance, 1)
    assert world.ledger("slow") == [
        "fired 26 09:01",
        "skipped 26 09:02 overlap",
        "skipped 26 09:03 overlap",
        "fired 26 09:04",
    ]


async def test_or_it_waits_for_its_end() -> None:
    world = Night()
    async with world.ticking() as instance:
        await set_(instance, "slow", overlap="queue")
        await world.pass_time(instance, 3)
        assert world.ledger("slow") == ["fired 26 09:01", "queued 26 09:02", "queued 26 09:03"]
        Slow.gate.set()
        await world.quiet(instance)
    assert world.ledger("slow")[3:] == ["fired 26 09:02 after waiting", "fired 26 09:03 after waiting"]


async def test_or_it_is_run_beside_it() -> None:
    world = Night()
    async with world.ticking() as instance:
        await set_(instance, "slow", overlap="allow")
        await world.pass_time(instance, 2)
        assert instance.runs.n_running == 2
        Slow.gate.set()


async def test_or_it_takes_its_place() -> None:
    world = Night()
    async with world.ticking() as instance:
        await set_(instance, "slow", overlap="cancel_previous")
        await world.pass_time(instance, 2)
        [cancelled] = world.recorded(RunCancelled)
        assert cancelled.run_id == world.events(TickFired)[0].run_id
        assert instance.runs.n_running == 1
        Slow.gate.set()
    assert world.ledger("slow") == ["fired 26 09:01", "fired 26 09:02"]


async def test_a_run_that_could_not_be_asked_for_makes_nobody_forget_the_one_before_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = Night()
    async with world.ticking() as instance:
        await set_(instance, "slow", overlap="allow")
        await world.pass_time(instance, 1)

        async def full(*_: Any, **__: Any) -> Any:
            raise DiskFull("no space")

        with monkeypatch.context() as disk:
            disk.setattr(instance.requests, "after_others", full)
            await world.pass_time(instance, 1)
            await set_(instance, "slow", overlap="skip")
        await world.pass_time(instance, 1)
        Slow.gate.set()
    assert world.ledger("slow") == ["fired 26 09:01", "suppressed 26 09:02 changed", "skipped 26 09:03 overlap"]


async def test_what_waited_is_fired_after_a_restart_when_its_run_has_ended_meanwhile() -> None:
    world = Night()
    async with world.ticking() as instance:
        await set_(instance, "slow", overlap="queue")
        await world.pass_time(instance, 2)
        world.crash(instance)
    Slow.gate = asyncio.Event()
    async with world.ticking() as instance:
        Slow.gate.set()
        await world.quiet(instance)
        await until(lambda: len(world.events(TickFired)) == 2)
    assert world.ledger("slow") == ["fired 26 09:01", "queued 26 09:02", "fired 26 09:02 after waiting"]


# ── downtime and clocks ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("misfire", ["latest", "skip"])
async def test_after_a_downtime_each_instant_has_one_record(misfire: str) -> None:
    world = Night()
    async with world.up() as instance:
        await set_(instance, misfire=misfire)
    await world.time.advance(2.5 * 3_600)  # 11:30:30
    async with world.ticking() as instance:
        await world.quiet(instance)
    late = {"latest": "coalesced 26 10:31 to 26 11:29 (59) late", "skip": "skipped 26 10:31 to 26 11:29 (59) late"}
    assert world.ledger() == ["skipped 26 09:01 to 26 10:30 (90) too_late", late[misfire], "fired 26 11:30"]


async def test_all_that_was_missed_is_run_if_the_schedule_says_so() -> None:
    world = Night()
    async with world.up() as instance:
        await set_(instance, misfire={"policy": "all", "within_s": 86_400, "max": 3})
    await world.time.advance(300)
    async with world.ticking() as instance:
        await world.pass_time(instance, 0.1)
    assert world.ledger() == [
        "skipped 26 09:01 to 26 09:02 (2) too_many",
        "fired 26 09:03",
        "queued 26 09:04",
        "queued 26 09:05",
        "fired 26 09:04 after waiting",
        "fired 26 09:05 after waiting",
    ]


async def test_a_clock_that_is_set_back_fires_nothing_twice() -> None:
    world = Night()
    async with world.ticking() as instance:
        await set_(instance)
        await world.pass_time(instance, 3)
        world.time.jump(-7_200)
        instance.ticks.ticker.look_at_clock()
        await world.pass_time(instance, 60)
        assert len(world.ledger()) == 3
        await world.pass_time(instance, 62)
    assert world.ledger() == ["fired 26 09:01", "fired 26 09:02", "fired 26 09:03", "fired 26 09:04", "fired 26 09:05"]


async def test_a_clock_that_is_set_forth_is_a_downtime() -> None:
    world = Night()
    async with world.ticking() as instance:
        await set_(instance)
        await world.pass_time(instance, 1)
        world.time.jump(1_800)
        instance.ticks.ticker.look_at_clock()
        await world.quiet(instance)
    assert world.ledger() == ["fired 26 09:01", "coalesced 26 09:02 to 26 09:30 (29) late", "fired 26 09:31"]


async def test_a_crash_between_two_instants_loses_and_repeats_nothing() -> None:
    world = Night()
    for _ in range(4):
        async with world.ticking() as instance:
            await set_(instance)
            await world.pass_time(instance, 1)
            world.crash(instance)
    assert world.ledger() == [f"fired 26 09:0{n}" for n in (1, 2, 3, 4)]


async def test_a_whole_month_of_minutes_is_settled_in_a_few_records() -> None:
    world = Night()
    async with world.up() as instance:
        await set_(instance)
    await world.time.advance(30 * 86_400)
    async with world.ticking() as instance:
        await until(lambda: len(world.events(TickFired)) == 1)
    passed = world.events(TicksPassed)
    assert sum(event.n for event in passed) == 30 * 1_440 - 1
    assert len(passed) <= 6


async def test_one_whose_identity_the_vault_has_lost_is_not_run_for_somebody_else() -> None:
    world = Night()
    async with world.ticking() as instance:
        await instance.schedules.set("report", "* * * * *", via="cli", who=ALICE)
        world.vault._raw.clear()
        await world.pass_time(instance, 1)
    assert world.ledger() == ["suppressed 26 09:01 identity_missing"]
    assert Report.seen == []


async def test_one_that_cannot_be_settled_does_not_keep_the_others() -> None:
    """Its zone is gone from the data, or we are at fault: it is looked at again later."""
    world = Night()
    async with world.up() as instance:
        await set_(instance, "slow")
        await set_(instance)
        broken = ScheduleSet(task="slow", expr="* * * * *", timezone="Mars/Base", from_us=world.clock.now_us())
        await instance.log.append([Change("schedule-slow", [broken])])
    async with world.ticking() as instance:
        await world.pass_time(instance, 1)
        assert world.ledger() == ["fired 26 09:01"]
        await instance.schedules.set("slow", "* * * * *", via="cli")
        await world.pass_time(instance, 1)
        Slow.gate.set()
    assert world.ledger("slow") == ["fired 26 09:02"]


@pytest.mark.parametrize(("misfire", "n_fired"), [("latest", 1), ({"policy": "all", "max": 3}, 3)])
async def test_however_many_were_missed_no_more_are_made_up_for_than_the_schedule_says(
    misfire: Any, n_fired: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ticks, "MAX_DUE", 10)
    policy = misfire if isinstance(misfire, dict) else {"policy": misfire}
    world = Night()
    async with world.up() as instance:
        await set_(instance, misfire={**policy, "within_s": 86_400})
    await world.time.advance(45 * 60)
    async with world.ticking() as instance:
        await until(lambda: len(world.events(TickFired)) >= n_fired)
        await world.quiet(instance)
    assert [event.due_us for event in world.events(TickFired)] == [us(f"26 09:{45 - n}") for n in range(n_fired)][::-1]
    assert sum(event.n for event in world.events(TicksPassed)) == 45 - n_fired


async def test_a_run_that_ends_while_the_open_ones_are_being_read_is_not_taken_for_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = Night()
    async with world.ticking() as instance:
        await set_(instance, "slow")
        await world.pass_time(instance, 1)
        world.crash(instance)
    Slow.gate = asyncio.Event()
    read = schedules.open_runs

    async def read_slowly(tables: Any) -> Any:
        found = await read(tables)
        Slow.gate.set()
        await until(lambda: world.events(RunFinished))
        await idle()
        return found

    monkeypatch.setattr(schedules, "open_runs", read_slowly)
    async with world.ticking() as instance:
        await until(lambda: world.events(RunFinished))
        await world.pass_time(instance, 1)
    assert world.ledger("slow") == ["fired 26 09:01", "fired 26 09:02"]


async def test_an_event_that_waited_is_dispatched_after_a_restart_however_long_it_is_until_the_next() -> None:
    world = Night()
    async with world.up() as instance:
        entry = {"expr": "0 12 * * *", "event": "tea.time", "args": {"cups": 2}, "overlap": "queue"}
        await instance.schedules.set("tea", entry, via="cli")
        queued = TickQueued(task="tea", due_us=us("26 09:00"), behind="r1")
        await instance.log.append([Change("schedule-tea", [queued])])
    async with world.ticking() as instance:
        await world.quiet(instance)
    assert world.ledger("tea") == ["queued 26 09:00", "fired 26 09:00 after waiting"]


# ── local time ───────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_time_that_the_clocks_leave_out_fires_at_the_end_of_the_gap() -> None:
    world = Night()
    world.time.jump((us("2027-03-14 06:00") - world.time.now_us()) / 1e6)
    async with world.ticking() as instance:
        await instance.schedules.set("report", {"expr": "30 2 * * *", "timezone": "America/New_York"}, via="cli")
        await world.pass_time(instance, 61)
    [fired] = world.events(TickFired)
    assert (fired.due_us, fired.code) == (us("2027-03-14 07:00"), "gap.shifted")
    assert fired.local == "2027-03-14T02:30"


async def test_or_is_left_out_if_the_schedule_says_so() -> None:
    world = Night()
    world.time.jump((us("2027-03-14 06:00") - world.time.now_us()) / 1e6)
    async with world.ticking() as instance:
        entry = {"expr": "30 2 * * *", "timezone": "America/New_York", "dst": {"gap": "skip"}}
        await instance.schedules.set("report", entry, via="cli")
        await world.pass_time(instance, 61)
    [passed] = world.events(TicksPassed)
    assert (passed.verdict, passed.code) == ("suppressed", "gap.skipped")


async def test_an_excluded_day_is_recorded_as_such() -> None:
    world = Night()
    async with world.ticking() as instance:
        await set_(instance, exclude=["2026-11-26"])
        await world.pass_time(instance, 1)
    assert world.ledger() == ["suppressed 26 09:01 excluded.date"]


async def test_jitter_delays_each_instant_by_less_than_it_says_and_the_same_way_each_time() -> None:
    delays = []
    for _ in range(2):
        world = Night()
        async with world.ticking() as instance:
            await set_(instance, jitter_s=30)
            for _ in range(12):
                await world.time.advance(10)
                await world.quiet(instance)
        assert world.ledger()[:1] == ["fired 26 09:01"]
        delays.append([event.late_s for event in world.events(TickFired)])
    assert delays[0] == delays[1]
    assert all(0 <= late_s < 40 for late_s in delays[0])


# ── asking ───────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_same_schedule_set_again_is_nothing_new_and_a_newer_expression_replaces_it() -> None:
    """TC 68"""
    world = Night()
    async with world.up() as instance:
        assert (await instance.schedules.set("report", "0 9 * * *", via="cli")).changed
        assert not (await instance.schedules.set("report", "0 9 * * *", via="file")).changed
        assert (await instance.schedules.set("report", "0 10 * * *", via="cli")).changed
        assert [row.expr for row in (await instance.answers.schedules()).items] == ["0 10 * * *"]
    assert len(world.events(ScheduleSet)) == 2


@pytest.mark.parametrize("expr", ["* * *", "61 * * * *", "0 0 31 2 *", "nonsense"])
async def test_what_is_no_schedule_is_refused_and_nothing_is_recorded(expr: str) -> None:
    """TC 66"""
    world = Night()
    async with world.up() as instance:
        before = len(world.file.events)
        with pytest.raises(Invalid, match="^report: "):
            await instance.schedules.set("report", expr, via="cli")
        assert len(world.file.events) == before


async def test_unknown_tasks_and_schedules_are_named() -> None:
    """TC 70"""
    async with Night().up() as instance:
        with pytest.raises(Unknown, match="^Unknown task: nobody$"):
            await instance.schedules.set("nobody", "* * * * *", via="cli")
        for do in (instance.schedules.remove, instance.schedules.pause, instance.schedules.resume):
            with pytest.raises(Unknown, match="^Unknown schedule: report$"):
                await do("report", by=Context())
        await set_(instance)
        with pytest.raises(Conflict, match="^the schedule of report is not paused$"):
            await instance.schedules.resume("report", by=Context())


async def test_the_base_scheduler_has_no_schedules() -> None:
    """TC 59"""
    world = Night()
    async with world.up() as instance:
        base = ScheduleRequests(
            *(
                instance.log,
                world.clock,
                instance.tasks,
                world.vault,
                PSEUDONYMS,
                instance.prerequisites,
                instance.calendars,
            ),
            timezone="UTC",
            enabled=False,
        )
        for asked in (base.set("report", "* * * * *", via="cli"), base.remove("report", by=Context())):
            with pytest.raises(NotAllowed, match="^scheduler lacks cron capabilities$"):
                await asked


async def test_changes_of_one_schedule_are_made_in_the_order_they_are_asked_for() -> None:
    world = Night()
    async with world.up() as instance:
        asked = [
            instance.schedules.set("report", "0 9 * * *", via="cli"),
            instance.schedules.remove("report", by=Context()),
            instance.schedules.set("report", "0 10 * * *", via="cli"),
        ]
        await asyncio.gather(*asked)
        assert [row.expr for row in (await instance.answers.schedules()).items] == ["0 10 * * *"]
    assert [type(event) for event in world.events() if isinstance(event, ScheduleSet | ScheduleRemoved)] == [
        ScheduleSet,
        ScheduleRemoved,
        ScheduleSet,
    ]


async def test_a_change_takes_along_what_is_due_and_was_not_fired_yet() -> None:
    world = Night()
    async with world.up() as instance:  # nothing ticks here
        await set_(instance)
        await world.time.advance(180)
        await instance.schedules.set("report", "0 12 * * *", via="cli")
        await world.time.advance(60)
        await instance.schedules.remove("report", by=Context())
    assert world.ledger() == ["suppressed 26 09:01 to 26 09:03 (3) changed"]


async def test_the_same_schedule_sent_once_more_suppresses_nothing_that_is_due() -> None:
    world = Night()
    async with world.up() as instance:  # nothing ticks here
        await set_(instance)
        await world.time.advance(60)
        await instance.schedules.set("report", "* * * * *", via="bus", source="message-7")
    async with world.ticking() as instance:
        await world.quiet(instance)
    assert world.ledger() == ["fired 26 09:01"]


@pytest.mark.parametrize("change", [{"args": {"sheet": 8}}, {"event": "tea.time"}, {"user_id": "bob"}])
async def test_what_waits_for_the_end_of_a_run_is_never_run_as_something_else_or_for_somebody_else(
    change: dict[str, Any],
) -> None:
    world = Night()
    async with world.ticking() as instance:
        await instance.schedules.set("slow", {"expr": "* * * * *", "overlap": "queue"}, via="cli", who=ALICE)
        await world.pass_time(instance, 2)
        entry = {"expr": "0 12 * * *", "overlap": "queue", **change}
        await instance.schedules.set("slow", entry, via="cli", who=ALICE)
        Slow.gate.set()
        await world.quiet(instance)
    assert world.ledger("slow") == ["fired 26 09:01", "queued 26 09:02", "suppressed 26 09:02 changed"]


async def test_what_waits_is_kept_by_a_change_of_when_it_is_due() -> None:
    world = Night()
    async with world.ticking() as instance:
        await set_(instance, "slow", overlap="queue")
        await world.pass_time(instance, 2)
        await instance.schedules.set("slow", "0 12 * * *", via="cli")
        Slow.gate.set()
        await world.quiet(instance)
    assert world.ledger("slow") == ["fired 26 09:01", "queued 26 09:02", "fired 26 09:02 after waiting"]


async def test_next_fires_are_listed_with_the_offset_of_the_zone() -> None:
    world = Night()
    async with world.up() as instance:
        await instance.schedules.set("report", {"expr": "0 9 * * *", "timezone": "Europe/Berlin"}, via="cli")
        [row] = (await instance.answers.schedules(now_us=world.clock.now_us())).items
        assert row.next_fire_at == "2026-11-27T09:00:00+01:00"
        await instance.schedules.pause("report", by=Context())
        [row] = (await instance.answers.schedules(now_us=world.clock.now_us())).items
        assert (row.next_fire_at, row.paused) == (None, True)


async def test_runs_of_a_schedule_do_not_stand_in_the_way_of_others() -> None:
    world = Night()
    async with world.ticking() as instance:
        await set_(instance, "slow")
        await world.pass_time(instance, 1)
        assert (await run_task(instance, "report")).run.result == "reported"
        Slow.gate.set()


# ── events that recur ────────────────────────────────────────────────────────────────────────────────────────


async def dispatch(instance: Instance, payload: dict[str, Any], **more: Any) -> Any:
    asked = {"event": "tea.time", "payload": payload, "user_id": "alice", "group_id": "eng", **more}
    return await perform(VERBS["dispatch"], instance, asked, via="http")


async def test_an_event_that_says_how_it_recurs_is_dispatched_again_for_the_same_person() -> None:
    """TC 132"""
    world = Night()
    async with world.ticking() as instance:
        recurrence = {"cron": "* * * * *", "timezone": "Europe/Berlin", "note": "kept"}
        for _ in range(2):
            assert (await dispatch(instance, {"cups": 2, "recurrence": recurrence})).result == {"cups": 2}
        await world.pass_time(instance, 2)
        [row] = (await instance.answers.schedules()).items
        assert (row.event, row.args, row.recurrence, row.timezone) == (
            "tea.time",
            {"cups": 2},
            recurrence,
            "Europe/Berlin",
        )
    dispatched = world.recorded(EventDispatched)
    assert [recorded.event.payload for recorded in dispatched[2:]] == [{"cups": 2}] * 2  # type: ignore[attr-defined]
    assert {recorded.user_hash for recorded in dispatched} == {PSEUDONYMS.user("alice")}


async def test_one_whose_recurrence_is_none_is_refused_and_nothing_is_recorded() -> None:
    world = Night()
    async with world.up() as instance:
        before = len(world.file.events)
        with pytest.raises(Invalid, match="^recurrence: "):
            await dispatch(instance, {"cups": 2, "recurrence": {"cron": "61 * * * *"}})
        assert len(world.file.events) == before


@pytest.mark.parametrize("recurrence", [None, "daily", {}, {"until": "2027"}, {"cron": ""}])
async def test_what_names_no_rule_is_content_like_any_other(recurrence: Any) -> None:
    world = Night()
    async with world.up() as instance:
        await dispatch(instance, {"cups": 2, "recurrence": recurrence})
        assert (await instance.answers.schedules()).items == []


# ── what people ask ──────────────────────────────────────────────────────────────────────────────────────────


async def explained(instance: Instance, asked: str) -> list[str]:
    found = await perform(VERBS["explain"], instance, {"run": asked})
    return list(found.reasons)


async def test_what_became_of_an_instant_is_told() -> None:
    world = Night()
    async with world.ticking() as instance:
        await set_(instance, "slow")
        await world.pass_time(instance, 2)
        run_id = world.events(TickFired)[0].run_id
        assert (await explained(instance, "slow@2026-11-26T09:01"))[1:] == [f"It fired: run {run_id}."]
        assert (await explained(instance, "slow@2026-11-26T09:02"))[1:] == [
            f"It was skipped: the run before it had not ended, run {run_id}."
        ]
        assert (await explained(instance, "slow@2026-11-26T09:02:00+00:00"))[1:] == [
            f"It was skipped: the run before it had not ended, run {run_id}."
        ]
        assert (await explained(instance, "slow@2026-11-26T09:03"))[1:] == ["It is still to come."]
        assert (await explained(instance, "slow@2026-11-26T08:59"))[1:] == [
            "The schedule was set, or changed, after it: nothing of the past is fired."
        ]
        await instance.schedules.set("slow", "0 12 * * *", via="cli")
        [mismatch] = await explained(instance, "slow@2026-11-26T11:30")
        assert "11:30" in mismatch
        Slow.gate.set()


async def test_a_local_time_that_did_not_exist_is_said_to_be_none() -> None:
    world = Night()
    async with world.up() as instance:
        entry = {"expr": "30 2 * * *", "timezone": "America/New_York"}
        await instance.schedules.set("report", entry, via="cli")
        first, second = await explained(instance, "report@2027-03-14T02:30")
    assert "2027-03-14T02:30" in first
    assert "exist" in first or "never" in first
    assert second == "It is still to come."


async def test_what_became_of_an_instant_is_told_when_the_schedule_is_another_one_or_gone() -> None:
    world = Night()
    async with world.ticking() as instance:
        await set_(instance)
        await world.pass_time(instance, 1)
        fired = f"It fired: run {world.events(TickFired)[0].run_id}."
        await instance.schedules.set("report", "0 5 * * *", via="cli")
        for asked in ("report@2026-11-26T09:01", "report@2026-11-26T10:01+01:00"):
            assert (await explained(instance, asked))[1:] == [fired, "The schedule was another one then."]
        await instance.schedules.remove("report", by=Context())
        assert await explained(instance, "report@2026-11-26T09:01Z") == ["The task report is not scheduled now.", fired]
        [local] = await explained(instance, "report@2026-11-26T09:01")
        assert local.endswith("ask for the instant, with Z or an offset.")


async def test_what_is_no_time_cannot_be_explained() -> None:
    async with Night().up() as instance:
        await set_(instance)
        for asked in ("report@", "report@nine", "report@2026-13-29T02:30", "report@2026-11-26"):
            with pytest.raises(Invalid, match="^what follows @ must be a date and a time, such as "):
                await explained(instance, asked)


async def test_a_schedule_that_never_was_cannot_be_explained() -> None:
    async with Night().up() as instance:
        with pytest.raises(Unknown, match="^Unknown schedule: report$"):
            await explained(instance, "report@2026-11-26T09:01")
        await set_(instance)
        with pytest.raises(Invalid):
            await explained(instance, "report@2026-11-26 at noon")


async def test_a_preview_shows_what_is_due_next_and_what_is_special_about_it() -> None:
    world = Night()
    async with world.up() as instance:
        entry = {"expr": "30 2 * * *", "timezone": "America/New_York", "exclude": ["2027-03-15"]}
        await instance.schedules.set("report", entry, via="cli")
        asked = {"task": "report", "start": "2027-03-13T00:00:00Z", "count": 4}
        items = (await perform(VERBS["preview"], instance, asked)).items
        bare = {"expr": "30 2 * * *", "timezone": "America/New_York", "start": "2027-03-13T00:00:00Z", "count": 2}
        assert [item.at for item in (await perform(VERBS["preview"], instance, bare)).items] == [
            "2027-03-13T02:30:00-05:00",
            "2027-03-14T03:00:00-04:00",
        ]
    assert [(item.at, item.fires) for item in items] == [
        ("2027-03-13T02:30:00-05:00", True),
        ("2027-03-14T03:00:00-04:00", True),
        ("2027-03-15T02:30:00-04:00", False),
        ("2027-03-16T02:30:00-04:00", True),
    ]
    assert [item.note is None for item in items] == [True, False, False, True]


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({}, "either task or expr is required"),
        ({"task": "report", "expr": "* * * * *"}, "either task or expr is required"),
        ({"expr": "* * *"}, "preview: Wrong number of fields; got 3, expected 5"),
        ({"expr": "* * * * *", "start": "tomorrow"}, "start must be an instant such as .*"),
        ({"expr": "* * * * *", "count": 0}, ".*count.*"),
    ],
)
async def test_what_cannot_be_previewed_is_refused(asked: dict[str, Any], says: str) -> None:
    async with Night().up() as instance:
        with pytest.raises(Invalid, match=f"^{says}"):
            await perform(VERBS["preview"], instance, asked)


# ── under fire ───────────────────────────────────────────────────────────────────────────────────────────────


async def test_what_another_has_fired_is_the_run_that_is_under_way() -> None:
    world = Night()
    async with world.ticking() as instance:
        ports = (instance.log, world.clock, instance.runs, instance.requests, instance.tasks, instance.controls)
        other = asyncio.create_task(Ticks(*ports, world.vault, instance.calendars).run())
        await set_(instance, "slow")
        await world.pass_time(instance, 3)
        other.cancel()
        await asyncio.wait({other})
        Slow.gate.set()
    assert world.ledger("slow") == ["fired 26 09:01", "skipped 26 09:02 overlap", "skipped 26 09:03 overlap"]


async def test_the_run_of_a_removed_schedule_is_not_in_the_way_of_one_that_is_set_later() -> None:
    world = Night()
    async with world.ticking() as instance:
        await set_(instance, "slow")
        await world.pass_time(instance, 1)
        await instance.schedules.remove("slow", by=Context())
        await set_(instance, "slow", overlap="queue")
        await world.pass_time(instance, 2)
        Slow.gate.set()
    assert world.ledger("slow") == ["fired 26 09:01", "fired 26 09:02", "queued 26 09:03"]


async def test_what_is_delayed_by_more_than_a_misfire_may_be_late_is_not_late() -> None:
    world = Night()
    async with world.ticking() as instance:
        entry = {"every_s": 86_400, "jitter_s": 43_200, "misfire": {"policy": "skip", "within_s": 60}}
        await instance.schedules.set("report", entry, via="cli")
        await world.quiet(instance)
        for _ in range(3):
            wake_us = instance.ticks.ticker.next_us("report")
            assert wake_us is not None
            await world.time.advance((wake_us - world.time.now_us()) / 1e6)
            await world.quiet(instance)
    assert len(world.events(TickFired)) == 3
    assert max(tick.late_s for tick in world.events(TickFired)) > 3_600


async def test_of_more_than_can_be_settled_in_one_go_only_the_latest_fires() -> None:
    world = Night()
    async with world.up() as instance:
        await set_(instance, misfire={"policy": "latest", "within_s": 30 * 86_400})
    await world.time.advance(20 * 86_400)
    async with world.ticking() as instance:
        await until(lambda: world.events(TickFired))
        await world.quiet(instance)
    assert len(world.events(TickFired)) == 1
    assert sum(event.n for event in world.events(TicksPassed)) == 20 * 1_440 - 1


async def test_a_schedule_that_waits_for_room_keeps_no_other_one_waiting() -> None:
    world = Night(max_concurrent_runs=1, max_queued_runs=1)
    async with world.ticking() as instance:
        await set_(instance, "slow", overlap="allow")
        await set_(instance)
        await instance.tasks.switch("report", "disable", Context())
        await world.pass_time(instance, 4)
        assert len(world.ledger("report")) == 4
        Slow.gate.set()
        await world.quiet(instance)
    assert world.ledger("slow")[:2] == ["fired 26 09:01", "fired 26 09:02"]
    assert len(world.ledger("slow")) == 4


async def test_a_run_that_ends_while_the_open_ones_are_read_is_in_nobodys_way(monkeypatch: pytest.MonkeyPatch) -> None:
    world = Night()
    async with world.ticking() as instance:
        await set_(instance, "slow")
        await world.pass_time(instance, 1)
        world.crash(instance)
    Slow.gate, read = asyncio.Event(), schedules.open_runs

    async def slowly(tables: Any) -> dict[str, str]:
        found = await read(tables)
        Slow.gate.set()
        await until(lambda: world.recorded(RunFinished))
        return found

    monkeypatch.setattr(schedules, "open_runs", slowly)
    async with world.ticking() as instance:
        await world.pass_time(instance, 1)
    assert world.ledger("slow") == ["fired 26 09:01", "fired 26 09:02"]
