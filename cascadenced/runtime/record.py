"""Decide, append, fold: a live run's state is kept beside its version, and moves only when the log has."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from cascadenced.clock import Clock
from cascadenced.errors import DiskFull, WrongVersion
from cascadenced.eventlog.base import Change, EventLog
from cascadenced.events.base import Context, Event, Recorded
from cascadenced.events.run import RunStarted
from cascadenced.events.stage import StageStarted
from cascadenced.identity import Identity, Redactor
from cascadenced.ids import RunId
from cascadenced.pipeline.decide import decide
from cascadenced.pipeline.model import ENDED, Run, evolve
from cascadenced.runtime.tasks import TaskEntry

DISK_FULL_RETRY_S = 1.0


def run_stream(run_id: str) -> str:
    return f"run-{run_id}"


class LiveRun:
    """An unfinished run in memory: its folded events, and what performs it in this process.

    last_event_id: what causes the next event.  ended: resolved with the run when it has ended.
    error: the exception object that ended it in this process, for a caller that waits here.
    """

    def __init__(self, run_id: RunId, context: Context) -> None:
        self.run_id = run_id
        self.context = context
        self.run = Run()
        self.version = 0
        self.last_event_id: str | None = None
        self.started_at_us: int | None = None
        self.entry: TaskEntry | None = None
        self.instance: Any = None
        self.identity: Identity | None = None
        self.redact: Redactor | None = None
        self.error: BaseException | None = None
        self.ended: asyncio.Future[Run] | None = None

    def fold(self, recorded: Sequence[Recorded]) -> None:
        """Take in what the log has; resolves `ended` at the end."""
        for event in recorded:
            self.run = evolve(self.run, event.event)
            self.version = event.version
            self.last_event_id = event.id
            if self.started_at_us is None and isinstance(event.event, RunStarted):
                self.started_at_us = event.at_us
        if self.run.status in ENDED and self.ended is not None and not self.ended.done():
            self.ended.set_result(self.run)

    @classmethod
    def from_stream(cls, events: Sequence[Recorded]) -> LiveRun:
        """Fold a run's whole stream."""
        first = events[0]
        run_id = first.run_id or first.stream.removeprefix("run-")
        context = Context(
            user_hash=first.user_hash,
            group_hash=first.group_hash,
            run_id=run_id,
            correlation=first.correlation,
            traceparent=first.traceparent,
        )
        live = cls(RunId(run_id), context)
        live.fold(events)
        return live

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
        return Change(run_stream(self.run_id), events, self.version, context)

    def elapsed_s(self, clock: Clock) -> float:
        """Since the run started, never negative though clocks jump."""
        return 0.0 if self.started_at_us is None else max(0.0, (clock.now_us() - self.started_at_us) / 1e6)


async def record(log: EventLog, clock: Clock, live: LiveRun, event: Event, *, go_on: bool = True) -> None:
    """Append `event` and what follows from it, in one write, and fold both.

    go_on: False holds back the start of a next stage (the daemon is stopping); the end of the run is recorded still.
    Waits while the disk is full. When another writer came first, the stream is read again; an event of a run that has
    ended meanwhile, or of a stage that is no longer under way, is dropped: it is late.
    """
    while True:
        after = evolve(live.run, event)
        follows = decide(after, event, elapsed_s=live.elapsed_s(clock))
        if not go_on and follows and isinstance(follows[0], StageStarted):
            follows = []
        try:
            receipt = await log.append([live.change([event, *follows])])
        except DiskFull:
            await clock.sleep(DISK_FULL_RETRY_S)
        except WrongVersion:
            current = live.run.current
            live.fold(await log.read_stream(run_stream(live.run_id), live.version))
            if live.run.status in ENDED or live.run.current != current:
                return
        else:
            live.fold(receipt.recorded)
            return
