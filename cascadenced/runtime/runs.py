"""Runs from request to end: admitted or refused, queued for a slot, driven stage by stage, resumed after a crash."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

import msgspec
import structlog

from cascadenced.clock import Clock
from cascadenced.errors import CascadenceError, Overloaded, Unavailable, Unknown
from cascadenced.eventlog.base import Change, EventLog, Receipt
from cascadenced.events.base import Context, Event, Json
from cascadenced.events.run import RunHeld, RunRefused, RunRequested, RunStarted
from cascadenced.events.stage import StageInterrupted
from cascadenced.identity import Identity, Pseudonyms
from cascadenced.ids import Ids, RunId, run_id_for
from cascadenced.pipeline.decide import CRASHES_TO_SUSPECT, go_on, resume, verdict
from cascadenced.pipeline.model import ENDED, Run, evolve
from cascadenced.runtime.record import LiveRun, record, run_stream
from cascadenced.runtime.tasks import TaskEntry, Tasks
from cascadenced.vault import VaultPort

_log = structlog.get_logger(__name__)

MAX_QUEUED_IN_MEMORY = 1_000
"""Queued runs whose state is kept; of the others only the id is, and their stream is read when their turn comes."""
MAX_SUSPECT_BACKOFF_S = 30.0

Perform = Callable[[LiveRun], Awaitable[Event]]
"""Does the current stage of a run and says how it went: StageFinished or StageFailed. Raises CancelledError only."""


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """A wish for a run. source: makes it one run for ever.  at_us: when it was asked, for the run's id; None: now."""

    task: str
    identity: Identity
    via: str
    args: dict[str, Json] = {}
    priority: int = 0
    source: str | None = None
    at_us: int | None = None
    depth: int = 0
    cause: str | None = None
    correlation: str | None = None
    traceparent: str | None = None


class Accepted(msgspec.Struct, frozen=True):
    """run_id: the run's, also when the same was asked before.  refused: (code, reason) if the rule said no."""

    run_id: RunId
    duplicate: bool = False
    refused: tuple[str, str] | None = None


class Ended(msgspec.Struct, frozen=True):
    """error: the exception object itself if the run failed in this process; for callers who share it."""

    run: Run
    error: BaseException | None


class Runs:
    """All unfinished runs of this instance."""

    def __init__(
        self,
        *,
        log: EventLog,
        clock: Clock,
        ids: Ids,
        tasks: Tasks,
        vault: VaultPort,
        pseudonyms: Pseudonyms,
        perform: Perform,
        max_running: int,
        max_queued: int,
    ) -> None:
        self._log, self._clock, self._ids = log, clock, ids
        self._tasks, self._vault, self._pseudonyms = tasks, vault, pseudonyms
        self._perform = perform
        self._max_running, self._max_queued = max_running, max_queued
        self._n_slots_taken = 0
        self._queue: deque[tuple[str, LiveRun | None]] = deque()
        self._live: dict[str, LiveRun] = {}
        self._drives: set[asyncio.Task[None]] = set()
        self._suspects = asyncio.Lock()
        self._stopping = False
        self._room = asyncio.Event()
        self._room.set()

    # ── asking ───────────────────────────────────────────────────────────────────────────────────────────────

    def new_run_id(self, source: str | None, at_us: int | None) -> RunId:
        """What a run asked for under `source` at `at_us` is called; a run without a source gets a fresh name."""
        at = self._clock.now_us() if at_us is None else at_us
        return run_id_for(source if source is not None else self._ids.event_id(at), at)

    async def request(
        self, request: Request, *, run_id: RunId | None = None, before: Sequence[Change] = ()
    ) -> Accepted:
        """Record the request, and its refusal or its start if there is a free slot, in one append.

        run_id: as `new_run_id` gave it.  before: changes that belong in the same append, ahead of the run's own.
        Raises Overloaded when the queue is full; nothing is recorded then.
        """
        if len(self._queue) >= self._max_queued:
            raise Overloaded(f"{len(self._queue)} runs are queued already; try again later", retry_after_s=5.0)
        live = self._newborn(request, run_id or self.new_run_id(request.source, request.at_us))
        requested = RunRequested(
            task=request.task, via=request.via, args=request.args, priority=request.priority, depth=request.depth
        )
        refused = self._tasks.refusal(request.task)
        events: list[Event] = [requested]
        starts = False
        if refused is not None:
            events.append(RunRefused(task=request.task, via=request.via, code=refused[0], reason=refused[1]))
        elif starts := self._take_slot():
            live.entry = self._tasks.get(request.task)
            assert live.entry is not None  # or there were a refusal
            events += _start(requested, live.entry)
        try:
            await self._vault.remember([request.identity], self._pseudonyms)
            receipt: Receipt = await self._log.append([*before, live.change(events)], source=request.source)
        except BaseException:
            if starts:
                self._free_slot()
            raise
        if receipt.duplicate_of is not None:
            if starts:
                self._free_slot()
            return Accepted(await self._run_at(receipt.duplicate_of), duplicate=True)
        live.fold([recorded for recorded in receipt.recorded if recorded.stream == run_stream(live.run_id)])
        if starts:
            self._drive(live)
        elif refused is None:
            self._enqueue(live.run_id, live)
        return Accepted(live.run_id, refused=refused)

    async def ended(self, run_id: str) -> Ended:
        """The run, once it has ended. Raises Unknown; Unavailable if it cannot go on before a restart."""
        live = self._live.get(run_id)
        if live is None:
            events = await self._log.read_stream(run_stream(run_id))
            if not events:
                raise Unknown(f"no run {run_id}")
            folded = LiveRun.from_stream(events)
            if folded.run.status in ENDED:
                return Ended(folded.run, None)
            live = self._live.setdefault(run_id, folded)
        if live.ended is None:
            live.ended = asyncio.get_running_loop().create_future()
            if live.run.status in ENDED:
                live.ended.set_result(live.run)
        return Ended(await asyncio.shield(live.ended), live.error)

    async def room(self) -> None:
        """Return when the queue has room: whoever can wait, waits here instead of being refused."""
        await self._room.wait()

    @property
    def n_running(self) -> int:
        return self._n_slots_taken

    @property
    def n_queued(self) -> int:
        return len(self._queue)

    # ── starting, stopping ───────────────────────────────────────────────────────────────────────────────────

    async def recover(self) -> int:
        """Queue every unfinished run, oldest first; returns how many there are. New requests line up behind them."""
        streams = await self._log.unfinished()
        for stream in streams:
            self._enqueue(stream.removeprefix("run-"), None)
        return len(streams)

    async def stop(self, grace_s: float, hurry: asyncio.Event | None = None) -> int:
        """Start nothing more, let stages end within the grace period, record the others as interrupted.

        hurry: when set, the grace period is over. Returns how many were interrupted. Threads that still run are
        abandoned; their results take no effect.
        """
        self._stopping = True
        await self._drives_ended(grace_s, hurry or asyncio.Event())
        interrupted = [
            live for live in self._live.values() if live.run.current is not None and live.instance is not None
        ]
        for drive in self._drives:
            drive.cancel()
        if self._drives:
            # A coroutine may swallow its cancellation; it is left behind, as a hung thread is.
            await asyncio.wait(self._drives, timeout=1.0)
        for live in interrupted:
            run = live.run
            if run.current is not None and run.status not in ENDED:
                event = StageInterrupted(
                    task=run.task, stage=run.current, attempt=run.attempt, reason="the daemon stopped"
                )
                await record(self._log, self._clock, live, event)
        return len(interrupted)

    async def _drives_ended(self, within_s: float, hurry: asyncio.Event) -> None:
        async def all_ended() -> None:
            await asyncio.gather(*self._drives, return_exceptions=True)

        # The first is never cancelled: that would cancel every drive at once, and those are told one by one later.
        waits = [asyncio.create_task(all_ended()), asyncio.create_task(_set(hurry))]
        await asyncio.wait(waits, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
        waits[1].cancel()

    # ── driving ──────────────────────────────────────────────────────────────────────────────────────────────

    def _newborn(self, request: Request, run_id: RunId) -> LiveRun:
        context = Context(
            user_hash=self._pseudonyms.user(request.identity.user_id),
            group_hash=self._pseudonyms.group(request.identity.group_id),
            run_id=run_id,
            cause=request.cause,
            correlation=request.correlation or run_id,
            traceparent=request.traceparent,
        )
        live = LiveRun(run_id, context)
        live.identity = request.identity
        return live

    def _take_slot(self) -> bool:
        if self._stopping or self._queue or self._n_slots_taken >= self._max_running:
            return False
        self._n_slots_taken += 1
        return True

    def _free_slot(self) -> None:
        self._n_slots_taken -= 1
        self._start_queued()

    def _enqueue(self, run_id: str, live: LiveRun | None) -> None:
        self._queue.append((run_id, live if len(self._queue) < MAX_QUEUED_IN_MEMORY else None))
        if len(self._queue) >= self._max_queued:
            self._room.clear()
        self._start_queued()

    def _start_queued(self) -> None:
        while self._queue and not self._stopping and self._n_slots_taken < self._max_running:
            run_id, live = self._queue.popleft()
            if len(self._queue) < self._max_queued:
                self._room.set()
            self._n_slots_taken += 1
            self._spawn(self._begin(run_id, live), run_id)

    def _drive(self, live: LiveRun) -> None:
        self._live[live.run_id] = live
        self._spawn(self._to_its_end(live), live.run_id)

    def _spawn(self, work: Awaitable[None], run_id: str, *, slot: bool = True) -> None:
        async def drive() -> None:
            try:
                await work
            except CascadenceError as error:
                # The log is gone or refuses: nothing more can be recorded of this run here. It stays unfinished.
                _log.error("run_left_unfinished", run_id=run_id, error=str(error))
            finally:
                self._forget(run_id)
                if slot:
                    self._free_slot()

        task = asyncio.get_running_loop().create_task(drive(), name=f"run-{run_id}")
        self._drives.add(task)
        task.add_done_callback(self._drives.discard)

    def _forget(self, run_id: str) -> None:
        """The drive is over; whoever waits for a run that did not end here is told so."""
        live = self._live.pop(run_id, None)
        if live is not None and live.ended is not None and not live.ended.done():
            live.ended.set_exception(Unavailable(live.run.reason or f"run {run_id} goes on after the next start"))
            live.ended.exception()  # nobody may be waiting any more; asyncio would complain about that

    async def _begin(self, run_id: str, live: LiveRun | None) -> None:
        """Start a run that was queued, or go on with one that a restart found unfinished."""
        if live is None:
            live = LiveRun.from_stream(await self._log.read_stream(run_stream(run_id)))
        waiting = self._live.get(run_id)  # somebody may have asked for its end already
        if waiting is not None:
            live.ended = waiting.ended
        run = live.run
        if run.status in ENDED:
            return
        self._live[run_id] = live
        live.entry = self._tasks.get(run.task)
        if live.entry is None:
            await self._hold(live, "task_missing", f"Unknown task: {run.task}")
        elif not run.stages:
            await self._append(live, _start(RunRequested(task=run.task, via=run.via, args=run.args), live.entry))
            await self._to_its_end(live)
        elif run.current is not None and verdict(run) == "alone":
            del self._live[run_id]
            self._spawn(self._alone(live), run_id, slot=False)
        else:
            await self._resume(live)

    async def _alone(self, live: LiveRun) -> None:
        """A run whose stage was under way at three crashes in a row: one such run at a time, and not in a hurry."""
        self._live[live.run_id] = live
        async with self._suspects:
            excess = live.run.open_starts - CRASHES_TO_SUSPECT
            await self._clock.sleep(min(2.0**excess, MAX_SUSPECT_BACKOFF_S))
            await self._resume(live)

    async def _resume(self, live: LiveRun) -> None:
        assert live.entry is not None
        await self._append(live, resume(live.run, code=live.entry.code, elapsed_s=live.elapsed_s(self._clock)))
        await self._to_its_end(live)

    async def _to_its_end(self, live: LiveRun) -> None:
        while live.run.current is not None and live.run.status == "running":
            if live.identity is None:
                try:
                    live.identity = await self._vault.reveal(
                        live.context.user_hash or "", live.context.group_hash or ""
                    )
                except Unknown:
                    await self._hold(live, "identity_missing", "the vault does not have the identity of this run")
                    return
            outcome = await self._perform(live)
            await record(self._log, self._clock, live, outcome, go_on=not self._stopping)

    async def _append(self, live: LiveRun, events: Sequence[Event]) -> None:
        receipt = await self._log.append([live.change(events)])
        live.fold(receipt.recorded)

    async def _hold(self, live: LiveRun, code: str, reason: str) -> None:
        _log.warning("run_held", run_id=live.run_id, task=live.run.task, reason=reason)
        await self._append(live, [RunHeld(task=live.run.task, code=code, reason=reason)])

    async def _run_at(self, position: int) -> RunId:
        """The run that the append at `position` asked for."""
        for recorded in await self._log.read(position - 1, 2):
            if recorded.run_id is not None:
                return RunId(recorded.run_id)
        raise Unknown(f"the event at position {position} belongs to no run")


def _start(requested: RunRequested, entry: TaskEntry) -> list[Event]:
    """A slot is free: the run starts, and with it its first stage."""
    started = RunStarted(task=requested.task, stages=entry.stages, code=entry.code)
    run = evolve(evolve(Run(), requested), started)
    return [started, go_on(run, elapsed_s=0.0)]


async def _set(event: asyncio.Event) -> None:
    await event.wait()
