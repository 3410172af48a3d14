"""Decide, append, fold: the state in memory moves only when the log has, and survives other writers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from cascadenced.clock import FakeClock
from cascadenced.errors import CascadenceError, DiskError, DiskFull, Unavailable
from cascadenced.eventlog.base import Change
from cascadenced.eventlog.memory import MemoryEventLog
from cascadenced.events.base import Context, Event, Recorded
from cascadenced.events.run import RunFailed, RunFinished, RunRequested, RunResumed, RunStarted
from cascadenced.events.signal import ContextAttached
from cascadenced.events.stage import StageFailed, StageFinished, StageInterrupted, StageStarted
from cascadenced.events.streams import run_stream
from cascadenced.ids import RunId, SeededIds
from cascadenced.runtime.record import NOT_WRITABLE_RETRY_S, LiveRun, outcome_of, record
from tests.doubles import idle, until
from tests.examples import GROUP_HASH, RUN_ID, USER_HASH, example

STREAM = run_stream(RUN_ID)
BEGUN = [
    example(RunRequested),
    example(RunStarted, stages=("plan", "run")),
    example(StageStarted, stage="plan", skipped=("intake", "research")),
]
PLANNED = example(StageFinished, stage="plan", output=["planned"])


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


class Recording:
    """A run whose stage `plan` is under way."""

    def __init__(self, log: MemoryEventLog, clock: FakeClock, live: LiveRun) -> None:
        self.log, self.clock, self.live = log, clock, live

    @classmethod
    async def begun(cls, clock: FakeClock) -> Recording:
        log = await MemoryEventLog.open(clock=clock, ids=SeededIds())
        live = LiveRun(RunId(RUN_ID), Context(user_hash=USER_HASH, group_hash=GROUP_HASH, run_id=RUN_ID))
        live.fold((await log.append([live.change(BEGUN)])).recorded)
        return cls(log, clock, live)

    async def end(self, outcome: Event, **options: Any) -> None:
        await record(self.log, self.clock, self.live, outcome_of(self.live, self.clock, outcome, **options))

    async def others(self, *events: Event) -> None:
        await self.log.append([Change(STREAM, list(events))])

    @property
    def added(self) -> list[type[Event]]:
        return [type(recorded.event) for recorded in self.log.file.events[len(BEGUN) :]]


async def test_a_stages_end_and_the_next_ones_start_are_one_append(clock: FakeClock) -> None:
    recording = await Recording.begun(clock)
    batches: list[int] = []
    recording.log.observe(lambda batch: batches.append(len(batch)))
    await recording.end(PLANNED)
    assert recording.added == [StageFinished, StageStarted]
    assert batches == [2]
    assert (recording.live.run.current, recording.live.version) == ("run", 5)
    assert recording.live.run.outputs == {"plan": ["planned"]}


async def test_held_back_only_the_end_is_recorded(clock: FakeClock) -> None:
    recording = await Recording.begun(clock)
    await recording.end(PLANNED, go_on=False)
    assert recording.added == [StageFinished]
    assert recording.live.run.current is None


async def test_held_back_the_end_of_the_run_is_recorded_still(clock: FakeClock) -> None:
    recording = await Recording.begun(clock)
    await recording.end(example(StageFailed, stage="plan"), go_on=False)
    assert recording.added == [StageFailed, RunFailed]


async def test_nothing_follows_from_an_interruption(clock: FakeClock) -> None:
    recording = await Recording.begun(clock)
    await recording.end(example(StageInterrupted, stage="plan"))
    assert recording.added == [StageInterrupted]
    assert recording.live.run.current == "plan"


async def test_events_of_a_run_are_a_chain_of_causes(clock: FakeClock) -> None:
    recording = await Recording.begun(clock)
    await recording.end(PLANNED)
    events = recording.log.file.events
    assert [event.cause for event in events[1:]] == [event.id for event in events[:-1]]


async def test_the_end_of_a_stage_that_was_interrupted_is_late(clock: FakeClock) -> None:
    recording = await Recording.begun(clock)
    await recording.others(example(StageInterrupted, stage="plan"))
    await recording.end(PLANNED)
    assert recording.added == [StageInterrupted]


async def test_another_writers_event_is_taken_in_first(clock: FakeClock) -> None:
    recording = await Recording.begun(clock)
    await recording.others(example(RunResumed))
    await recording.end(PLANNED)
    assert recording.added == [RunResumed, StageFinished, StageStarted]
    assert recording.live.version == 6


async def test_what_is_taken_in_while_the_log_is_read_is_not_taken_in_again(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who signals a run and who drives it have the same of it in memory, and may lose to a third at the same time."""
    recording = await Recording.begun(clock)
    live, really_read = recording.live, recording.log.read_stream
    await recording.others(example(ContextAttached))

    async def read_slowly(stream: str, after: int = 0) -> Sequence[Recorded]:
        found = await really_read(stream, after)
        live.fold([each for each in found if each.version > live.version])  # the other one was quicker
        return found

    monkeypatch.setattr(recording.log, "read_stream", read_slowly)
    await recording.end(PLANNED)
    assert len(live.run.contexts) == 1


async def test_an_event_of_a_run_that_has_ended_meanwhile_is_dropped(clock: FakeClock) -> None:
    recording = await Recording.begun(clock)
    await recording.others(example(RunFailed, reason="by hand"))
    await recording.end(PLANNED)
    assert recording.added == [RunFailed]
    assert recording.live.run.reason == "by hand"


async def test_an_event_of_a_stage_that_is_no_longer_under_way_is_dropped(clock: FakeClock) -> None:
    recording = await Recording.begun(clock)
    await recording.others(PLANNED, example(StageStarted, stage="run"))
    await recording.end(PLANNED)
    assert recording.added == [StageFinished, StageStarted]


async def test_an_event_of_an_earlier_attempt_is_dropped(clock: FakeClock) -> None:
    recording = await Recording.begun(clock)
    await recording.others(example(StageStarted, stage="plan", attempt=2))
    await recording.end(PLANNED)
    assert recording.added == [StageStarted]


@pytest.mark.parametrize("error", [DiskFull("no space"), Unavailable("another program holds the log")])
async def test_a_log_that_cannot_be_written_is_waited_for_as_long_as_it_takes(
    clock: FakeClock, error: CascadenceError
) -> None:
    recording = await Recording.begun(clock)
    ending = None
    for _ in range(5):
        recording.log.fail_next = error
        ending = ending or asyncio.ensure_future(recording.end(PLANNED))
        await clock.advance(NOT_WRITABLE_RETRY_S)
        await until(lambda: recording.log.fail_next is None)
        await idle()
        assert recording.added == []
    assert ending is not None
    await clock.advance(NOT_WRITABLE_RETRY_S)
    await ending
    assert recording.added == [StageFinished, StageStarted]


async def test_a_full_disk_is_an_error_where_nobody_waits(clock: FakeClock) -> None:
    recording = await Recording.begun(clock)
    recording.log.fail_next = DiskFull("no space")
    following = outcome_of(recording.live, clock, PLANNED)
    with pytest.raises(DiskFull):
        await record(recording.log, clock, recording.live, following, wait_for_space=False)


async def test_what_could_not_be_written_has_not_happened(clock: FakeClock) -> None:
    recording = await Recording.begun(clock)
    recording.log.fail_next = DiskError("gone")
    with pytest.raises(DiskError):
        await recording.end(PLANNED)
    assert (recording.live.run.current, recording.live.version) == ("plan", 3)


async def test_nothing_to_say_is_nothing_written(clock: FakeClock) -> None:
    recording = await Recording.begun(clock)
    await record(recording.log, clock, recording.live, lambda _run: None)
    assert recording.added == []


async def test_a_run_read_from_the_log_is_what_it_was_in_memory(clock: FakeClock) -> None:
    recording = await Recording.begun(clock)
    await recording.end(PLANNED)
    again = LiveRun(RunId(RUN_ID), Context())
    await again.read(recording.log)
    live = recording.live
    assert (again.run, again.version, again.last_event_id) == (live.run, live.version, live.last_event_id)
    assert (again.context.user_hash, again.context.group_hash) == (USER_HASH, GROUP_HASH)
    assert again.dormant
    assert not live.dormant


async def test_a_run_that_is_not_in_the_log_stays_blank(clock: FakeClock) -> None:
    recording = await Recording.begun(clock)
    blank = LiveRun(RunId("nobody"), Context())
    await blank.read(recording.log)
    assert (blank.version, blank.run.task) == (0, "")


async def test_a_clock_that_jumps_back_makes_no_negative_duration(clock: FakeClock) -> None:
    recording = await Recording.begun(clock)
    clock.jump(-3_600)
    assert recording.live.elapsed_s(clock) == 0.0
    await recording.end(PLANNED)
    await recording.end(example(StageFinished, stage="run"))
    assert recording.log.file.events[-1].event == RunFinished(task="example", via="bus", skipped=("verify",))
