"""Decide, append, fold: a live run's state is kept beside its version, and moves only when the log has."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Self

import msgspec

from cascadenced.clock import Clock
from cascadenced.errors import CascadenceError, DiskFull, Unavailable, WrongVersion
from cascadenced.eventlog.base import Change, EventLog, Receipt
from cascadenced.events.base import Context, Event, Recorded
from cascadenced.events.run import RunDoubted, RunStarted
from cascadenced.events.signal import ContextConsumed
from cascadenced.events.stage import StageFailed, StageStarted
from cascadenced.events.streams import run_stream
from cascadenced.identity import Identity, Redactor
from cascadenced.ids import RunId
from cascadenced.pipeline.decide import decide
from cascadenced.pipeline.doubts import cut_short, doubt, in_doubt, leave
from cascadenced.pipeline.model import ENDED, Run, evolve
from cascadenced.runtime.tasks import TaskEntry

NOT_WRITABLE_RETRY_S = 1.0


def _nobody_asks() -> None: ...


class LiveRun:
    """An unfinished run in memory: its folded events, and what performs it in this process.

    last_event_id: what causes the next event.
    began_at: position of its first event; what it waits for may have come since then.
    error: the exception object that ended it in this process, for a caller that waits here.
    dormant: read from the log, and not gone on with yet: what it says is under way was so in an earlier life.
    is_behind: what it has read of the log may be older than what was recorded of it elsewhere.
    drive: the asyncio task that drives it.
    planned: the tasks of its plan, if this process has made them.  n_told: contexts that its instance has heard.
    printed: what its stage under way wrote to its output, in a process of its own.
    on_begin: called when code of its stage begins, in whichever thread that is: until then it waits for its turn.
    """

    def __init__(self, run_id: RunId, context: Context) -> None:
        self.run_id = run_id
        self.stream = run_stream(run_id)
        self.context = context
        self.run = Run()
        self.version = 0
        self.last_event_id: str | None = None
        self.began_at = 0
        self.started_at_us: int | None = None
        self.entry: TaskEntry | None = None
        self.instance: Any = None
        self.identity: Identity | None = None
        self.redact: Redactor | None = None
        self.error: BaseException | None = None
        self.dormant = False
        self.is_behind = False
        self.drive: asyncio.Task[None] | None = None
        self.planned: Sequence[TaskEntry] | None = None
        self.n_told = 0
        self.printed: str | None = None
        self.on_begin: Callable[[], None] = _nobody_asks

    def fold(self, recorded: Sequence[Recorded]) -> None:
        """Take in what the log has."""
        run = self.run
        for event in recorded:
            run = evolve(run, event.event)
        self.advance(run, recorded)

    def advance(self, run: Run, recorded: Sequence[Recorded]) -> None:
        """`recorded`, of its own stream, is in the log now, and leads to `run`."""
        self.run = run
        if not recorded:
            return
        last = recorded[-1]
        self.version, self.last_event_id = last.version, last.id
        self.began_at = self.began_at or recorded[0].position
        if self.started_at_us is None:
            self.started_at_us = next((r.at_us for r in recorded if type(r.event) is RunStarted), None)

    def catch_up_with(self, other: Self) -> None:
        """`other` is the same run, and what is known of it there is newer."""
        self.run, self.version, self.last_event_id = other.run, other.version, other.last_event_id

    async def read(self, log: EventLog) -> None:
        """Take in the run's whole stream: what this was so far is only its id."""
        events = await log.read_stream(self.stream)
        if events:
            self.context = Context(
                user_hash=events[0].user_hash,
                group_hash=events[0].group_hash,
                run_id=self.run_id,
                correlation=events[0].correlation,
                traceparent=events[0].traceparent,
            )
            self.dormant = True
            self.fold(events)

    async def read_on(self, log: EventLog) -> None:
        """Take in what was recorded of it since. Others who record of it with this same object may have been told of
        some of that meanwhile."""
        missed = await log.read_stream(self.stream, self.version)
        self.fold([recorded for recorded in missed if recorded.version > self.version])

    def change(self, events: Sequence[Event]) -> Change:
        """An append to this run at the version we know, caused by its last event."""
        context = Context(
            user_hash=self.context.user_hash,
            group_hash=self.context.group_hash,
            run_id=self.context.run_id,
            cause=self.last_event_id or self.context.cause,
            correlation=self.context.correlation,
            traceparent=self.context.traceparent,
        )
        return Change(self.stream, events, self.version, context)

    def elapsed_s(self, clock: Clock) -> float:
        """Since the run started, never negative though clocks jump."""
        return 0.0 if self.started_at_us is None else max(0.0, (clock.now_us() - self.started_at_us) / 1e6)


class Step(msgspec.Struct, frozen=True, gc=False):
    """What to append to a run, ending with what follows from it; and the run after that. also: what belongs in the same
    append, and in other streams."""

    events: Sequence[Event]
    run: Run
    also: Sequence[Change] = ()

    @classmethod
    def of(cls, run: Run, *events: Event) -> Self:
        """These events, after `run`."""
        for event in events:
            run = evolve(run, event)
        return cls(events, run)

    def then(self, events: Sequence[Event]) -> Self:
        """This, and these events after it: each is folded once, whoever else has to know what the run is by then."""
        run = self.run
        for event in events:
            run = evolve(run, event)
        return type(self)([*self.events, *events], run, self.also)


Following = Callable[[Run], Step | None]
"""The next step of a run as it stands; None, or one without events, if there is none."""


async def record(
    log: EventLog,
    clock: Clock,
    live: LiveRun,
    following: Following,
    *,
    wait_for_space: bool = True,
    source: str | None = None,
) -> Receipt | None:
    """Append the step that `following` says, in one write, and take it in. Returns None if there is nothing to append.

    When another writer came first, the stream is read and `following` asked again. A full disk, and a log
    that another program holds, is waited for, or raises DiskFull or Unavailable.
    source: as in `append`; if the log has it, nothing is written, and what the log has is taken in.
    """
    while (step := following(live.run)) is not None:
        if not step.events:
            return None
        try:
            receipt = await log.append([live.change(step.events), *step.also], source=source)
        except (DiskFull, Unavailable):
            if not wait_for_space:
                raise
            await clock.sleep(NOT_WRITABLE_RETRY_S)
        except WrongVersion:
            await live.read_on(log)
        else:
            if receipt.duplicate:
                await live.read_on(log)
            else:
                live.advance(step.run, receipt.recorded[: len(step.events)])
            return receipt
    return None


_STARTS = frozenset({StageStarted, ContextConsumed})


def outcome_of(live: LiveRun, clock: Clock, outcome: Event, *, go_on: bool = True) -> Following:
    """How the stage under way went, and what follows from that.

    Of a run that has ended meanwhile, or a stage that is no longer under way, it is late and dropped; so it is of a
    stage that a stop has interrupted, whose code did not let itself be cancelled.
    go_on: False holds back the start of a next stage (the daemon is stopping); the end of the run is recorded still.
    """
    stage, attempt = live.run.current, live.run.attempt

    def following(run: Run) -> Step | None:
        if run.status in ENDED or run.current != stage or run.attempt != attempt or not run.open_starts:
            return None
        elapsed_s = live.elapsed_s(clock)
        policy = None if live.entry is None else live.entry.policy
        if type(outcome) is RunDoubted and policy is not None:
            step = Step.of(run)
            led_to = in_doubt(run, policy, doubt(run, outcome.reason), code=run.code, elapsed_s=elapsed_s)
        elif type(outcome) is StageFailed and policy is not None and (doubted := cut_short(run, policy, outcome)):
            step, led_to = Step.of(run), [doubted]
        else:
            step = Step.of(run, outcome)
            led_to = decide(step.run, outcome, elapsed_s=elapsed_s)
            if policy is not None:
                led_to += leave(step.run, policy, elapsed_s=elapsed_s)
        if not go_on or run.paused:
            led_to = [event for event in led_to if type(event) not in _STARTS]
        return step.then(led_to)

    return following


async def record_late(log: EventLog, live: LiveRun, event: Event) -> None:
    """Something that changes nothing, and is said all the same, at whatever version the run is by then."""
    change = live.change([event])
    with suppress(CascadenceError):
        await log.append([Change(change.stream, [event], None, change.context)])
