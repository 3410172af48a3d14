"""Runs from request to end: admitted or refused, queued for a slot, driven stage by stage, resumed after a crash."""

from __future__ import annotations

import asyncio
import traceback
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

import msgspec
import structlog

from cascadenced.clock import Clock
from cascadenced.errors import CascadenceError, Overloaded, Unavailable, Unknown, VaultDamaged
from cascadenced.eventlog.base import Change, EventLog, Receipt
from cascadenced.events.base import Context, Event, Json
from cascadenced.events.content import type_name
from cascadenced.events.followup import FollowupRequested
from cascadenced.events.run import RunHeld, RunRefused, RunRequested, RunStarted
from cascadenced.events.stage import StageFailed, StageInterrupted
from cascadenced.events.workflow import EventDispatched
from cascadenced.identity import Identity, Pseudonyms
from cascadenced.ids import Ids, RunId, run_id_for
from cascadenced.pipeline.decide import CRASHES_TO_SUSPECT, go_on, resume, verdict
from cascadenced.pipeline.model import ENDED, Run, evolve, fold
from cascadenced.runtime.record import LiveRun, Step, outcome_of, record, run_stream
from cascadenced.runtime.tasks import TaskEntry, Tasks
from cascadenced.vault import VaultPort

_log = structlog.get_logger(__name__)

MAX_QUEUED_IN_MEMORY = 1_000
"""Queued runs whose state is kept; of the others only the id is, and their stream is read when their turn comes."""
MAX_SUSPECT_BACKOFF_S = 30.0
CANCEL_PATIENCE_S = 1.0
"""How long a stop waits for coroutines it has cancelled."""
_LATER = "run {} goes on after the next start"

Perform = Callable[[LiveRun], Awaitable[Event]]
"""Does the current stage of a run and says how it went: StageFinished or StageFailed. Raises nothing but
CancelledError, or SpawnerClosed if it was not done."""


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
        self._n_starting = 0  # of the slots: those whose run is not recorded yet
        self._none_starting = asyncio.Event()
        self._none_starting.set()
        self._n_joining = 0  # those that will be queued as soon as they are recorded
        self._queue: OrderedDict[str, LiveRun | None] = OrderedDict()
        # A run is in one of these three, or this process leaves it alone.
        self._asked: dict[str, LiveRun] = {}  # its first append is under way
        self._live: dict[str, LiveRun] = {}  # it is under way itself
        self._drives: set[asyncio.Task[None]] = set()
        self._suspects = asyncio.Lock()
        self._stop = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()

    def limit(self, max_running: int, max_queued: int) -> None:
        """Other bounds from now on. What runs or waits beyond them goes on."""
        self._max_running, self._max_queued = max_running, max_queued
        if len(self._queue) < max_queued:
            self._room.set()
        else:
            self._room.clear()
        self._start_queued()

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
        A caller that is cancelled meanwhile may find the run recorded; then it runs.
        Raises Overloaded when the queue is full, and nothing is recorded; Unknown for a `source` under which something
        else than a run was recorded.
        """
        if not self._has_room():
            raise Overloaded(f"{self._max_queued} runs are queued already; try again later", retry_after_s=5.0)
        live = self._newborn(request, run_id or self.new_run_id(request.source, request.at_us))
        requested = RunRequested(
            task=request.task, via=request.via, args=request.args, priority=request.priority, depth=request.depth
        )
        refused = self._tasks.refusal(request.task)
        events: list[Event] = [requested]
        has_slot = False
        if refused is not None:
            events.append(RunRefused(task=request.task, via=request.via, code=refused[0], reason=refused[1]))
        elif has_slot := self._take_slot():
            live.entry = self._tasks.get(request.task)
            assert live.entry is not None  # or there were a refusal
            events += _start(evolve(Run(), requested), live.entry)
        to_queue = refused is None and not has_slot
        self._starting(has_slot)
        self._n_joining += to_queue  # before anything is awaited: others ask at this very moment
        self._tell_room()
        try:
            if not self._vault.knows(live.context.user_hash or "", live.context.group_hash or ""):
                await self._vault.remember([request.identity], self._pseudonyms)
            appending = self._log.append([*before, live.change(events)], source=request.source)
        except BaseException:
            self._starting(-has_slot)
            self._give_back(has_slot=has_slot, to_queue=to_queue)
            raise
        self._asked[live.run_id] = live
        # An append cannot be called back, so what follows from it must not depend on a caller that still waits.
        answer: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        appending.add_done_callback(
            lambda done: self._recorded(live, done, answer, has_slot=has_slot, to_queue=to_queue)
        )
        receipt = await answer
        if receipt.duplicate_of is not None:
            return Accepted(await self._run_at(receipt.duplicate_of), duplicate=True)
        return Accepted(live.run_id, refused=refused)

    def _recorded(
        self,
        live: LiveRun,
        done: asyncio.Future[Receipt],
        answer: asyncio.Future[Receipt],
        *,
        has_slot: bool,
        to_queue: bool,
    ) -> None:
        """The append of a request is over: drive the run, or queue it, if there is one; and tell who asked for it."""
        self._asked.pop(live.run_id, None)
        self._starting(-has_slot)
        error = done.exception()
        if not answer.done():
            if error is None:
                answer.set_result(done.result())
            else:
                answer.set_exception(error)
        if error is not None or done.result().duplicate_of is not None:
            _tell_unfinished(live)
            self._give_back(has_slot=has_slot, to_queue=to_queue)
            return
        stream = run_stream(live.run_id)
        live.fold([recorded for recorded in done.result().recorded if recorded.stream == stream])
        if has_slot:
            self._drive(live, self._to_its_end)
        elif to_queue:
            self._n_joining -= 1
            self._enqueue(live.run_id, live)

    async def ended(self, run_id: str) -> Ended:
        """The run, once it has ended. Raises Unknown; Unavailable if it does not go on in this process."""
        live = self._here(run_id)
        if live is None:
            events = await self._log.read_stream(run_stream(run_id))
            if not events:
                raise Unknown(f"no run {run_id}")
            run = fold(recorded.event for recorded in events)
            if run.status in ENDED:
                return Ended(run, None)
            live = self._here(run_id) or self._asked.get(run_id)
            if live is None:
                raise Unavailable(run.reason or _LATER.format(run_id))
        return Ended(await live.ended(), live.error)

    def _here(self, run_id: str) -> LiveRun | None:
        """The run if it is under way, or will be as soon as there is a slot."""
        if run_id in self._queue and not self._stop.is_set():
            live = self._queue[run_id] = self._queue[run_id] or LiveRun(RunId(run_id), Context())
            return live
        return self._live.get(run_id)

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
            run_id = stream.removeprefix("run-")
            asked_since = run_id in self._asked or run_id in self._live or run_id in self._queue
            if not asked_since:
                self._enqueue(run_id, None)
        return len(streams)

    async def stop(self, grace_s: float, hurry: asyncio.Event | None = None) -> int:
        """Start nothing more, let stages end within the grace period, record the others as interrupted.

        hurry: when set, the grace period is over. Returns how many were interrupted. Threads that still run are
        abandoned; their results take no effect.
        """
        self._stop.set()
        await self._none_starting.wait()  # they are under way as soon as they are recorded
        await _first_of(self._drives_ended(), self._clock.sleep(grace_s), (hurry or asyncio.Event()).wait())
        interrupted = [
            live
            for live in self._live.values()
            if live.run.current is not None and live.run.status == "running" and not live.dormant
        ]
        for drive in self._drives:
            drive.cancel()
        if self._drives:
            # A coroutine may swallow its cancellation; it is left behind, as a hung thread is.
            await asyncio.wait(self._drives, timeout=CANCEL_PATIENCE_S)
        await asyncio.gather(*(self._interrupt(live) for live in interrupted))
        for live in (*self._live.values(), *filter(None, self._queue.values())):
            _tell_unfinished(live)
        return len(interrupted)

    async def _drives_ended(self) -> None:
        while self._drives:
            await asyncio.wait(self._drives)

    async def _interrupt(self, live: LiveRun) -> None:
        run = live.run
        if run.current is None or run.status in ENDED:
            return
        event = StageInterrupted(task=run.task, stage=run.current, attempt=run.attempt, reason="the daemon stopped")
        try:
            await record(self._log, self._clock, live, outcome_of(live, self._clock, event), wait_for_space=False)
        except CascadenceError as error:
            _log.error("interruption_not_recorded", run_id=live.run_id, error=str(error))

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
        if self._stop.is_set() or self._queue or self._n_slots_taken >= self._max_running:
            return False
        self._n_slots_taken += 1
        return True

    def _starting(self, n: int) -> None:
        self._n_starting += n
        if self._n_starting:
            self._none_starting.clear()
        else:
            self._none_starting.set()

    def _free_slot(self) -> None:
        self._n_slots_taken -= 1
        self._start_queued()

    def _give_back(self, *, has_slot: bool, to_queue: bool) -> None:
        """The place that a request had, which became no run."""
        self._n_joining -= to_queue
        self._tell_room()
        if has_slot:
            self._free_slot()

    def _has_room(self) -> bool:
        return len(self._queue) + self._n_joining < self._max_queued

    def _tell_room(self) -> None:
        if self._has_room():
            self._room.set()
        else:
            self._room.clear()

    def _enqueue(self, run_id: str, live: LiveRun | None) -> None:
        self._queue[run_id] = live if len(self._queue) < MAX_QUEUED_IN_MEMORY else None
        self._start_queued()
        self._tell_room()

    def _start_queued(self) -> None:
        while self._queue and not self._stop.is_set() and self._n_slots_taken < self._max_running:
            run_id, live = self._queue.popitem(last=False)
            self._tell_room()
            self._n_slots_taken += 1
            self._drive(live or LiveRun(RunId(run_id), Context()), self._begin)

    def _drive(self, live: LiveRun, way: Callable[[LiveRun], Awaitable[None]]) -> None:
        """Let `live` go its way, in a slot that is taken for it."""
        self._live[live.run_id] = live

        async def drive() -> None:
            try:
                await way(live)
            except CascadenceError as error:
                # The log is gone or refuses: nothing more can be recorded of this run here. It stays unfinished.
                _log.error("run_left_unfinished", run_id=live.run_id, error=str(error))
            except (asyncio.CancelledError, GeneratorExit):
                raise
            except BaseException:  # noqa: BLE001 -- a fault of ours, or a task's that got past us; the other runs go on
                _log.exception("run_left_unfinished", run_id=live.run_id)
            finally:
                del self._live[live.run_id]
                _tell_unfinished(live)
                self._free_slot()

        task = asyncio.get_running_loop().create_task(drive(), name=f"run-{live.run_id}")
        self._drives.add(task)
        task.add_done_callback(self._drives.discard)

    async def _begin(self, live: LiveRun) -> None:
        """Start a run that was queued, or go on with one that a restart found unfinished."""
        if live.version == 0:
            await live.read(self._log)
        if live.run.status in ENDED:
            return
        live.entry = self._tasks.get(live.run.task)
        if live.entry is None:
            await self._hold(live, "task_missing", f"Unknown task: {live.run.task}")
            return
        if live.identity is None:
            context = live.context
            try:
                live.identity = await self._vault.reveal(context.user_hash or "", context.group_hash or "")
            except (Unknown, VaultDamaged):
                await self._hold(live, "identity_missing", "the vault does not have the identity of this run")
                return
        if live.run.current is not None and verdict(live.run) == "alone":
            await self._alone(live)
        else:
            await self._go_on(live)

    async def _alone(self, live: LiveRun) -> None:
        """A run whose stage was under way at three crashes in a row: one such run at a time, and not in a hurry.

        Nobody has to wait for it: its slot is free meanwhile.
        """
        self._free_slot()
        try:
            async with self._suspects:
                excess = live.run.open_starts - CRASHES_TO_SUSPECT
                await _first_of(self._clock.sleep(min(2.0**excess, MAX_SUSPECT_BACKOFF_S)), self._stop.wait())
                await self._go_on(live)
        finally:
            self._n_slots_taken += 1

    async def _go_on(self, live: LiveRun) -> None:
        """From where its events end, to its end."""
        if self._stop.is_set():
            return
        entry = live.entry
        assert entry is not None

        def following(run: Run) -> Step | None:
            if run.status in ENDED:
                return None
            if not run.stages:
                return Step.of(run, *_start(run, entry))
            return Step.of(run, *resume(run, code=entry.code, elapsed_s=live.elapsed_s(self._clock)))

        await record(self._log, self._clock, live, following)
        live.dormant = False
        await self._to_its_end(live)

    async def _to_its_end(self, live: LiveRun) -> None:
        # Without an open start it was interrupted while its code went on, and is another life's to do.
        while live.run.current is not None and live.run.open_starts and live.run.status == "running":
            outcome = await self._performed(live)
            following = outcome_of(live, self._clock, outcome, go_on=not self._stop.is_set())
            await record(self._log, self._clock, live, following)

    async def _performed(self, live: LiveRun) -> Event:
        """How the stage under way went. What gets past `perform` ends the run as well, not the daemon."""
        this = asyncio.current_task()
        assert this is not None
        try:
            outcome = await self._perform(live)
        except (CascadenceError, GeneratorExit):
            raise
        except asyncio.CancelledError:
            if self._stop.is_set():
                raise
            outcome = _uncontained(live, "CancelledError", "the task's code cancelled the asyncio task that it runs in")
        except BaseException as error:  # noqa: BLE001 -- by its contract it raises nothing else
            name = type_name(error)
            # Neither its text, which may name somebody, nor its class are asked for anything.
            frames = "".join(traceback.format_tb(error.__traceback__))
            _log.error("stage_not_contained", run_id=live.run_id, error_type=name, traceback=frames)
            outcome = _uncontained(
                live, name, f"{name} got past what contains a task's code; the daemon's log has more"
            )
        if this.cancelling() and not self._stop.is_set():
            await _uncancelled(this)
        return outcome

    async def _hold(self, live: LiveRun, code: str, reason: str) -> None:
        _log.warning("run_held", run_id=live.run_id, task=live.run.task, reason=reason)
        held = RunHeld(task=live.run.task, code=code, reason=reason)
        await record(self._log, self._clock, live, lambda run: None if run.status in ENDED else Step.of(run, held))

    async def _run_at(self, position: int) -> RunId:
        """The run that the append at `position` asked for."""
        [first] = await self._log.read(position - 1, 1)
        match first.event:
            case EventDispatched(run_id=run_id) | FollowupRequested(followup_run_id=run_id):
                pass
            case _:
                run_id = first.run_id
        if run_id is None:
            raise Unknown(f"the event at position {position} asked for no run")
        return RunId(run_id)


def _start(run: Run, entry: TaskEntry) -> list[Event]:
    """A slot is free: the run starts, and with it its first stage."""
    started = RunStarted(task=run.task, stages=entry.stages, code=entry.code)
    return [started, go_on(evolve(run, started), elapsed_s=0.0)]


def _uncontained(live: LiveRun, error_type: str, reason: str) -> StageFailed:
    run = live.run
    assert run.current is not None
    return StageFailed(task=run.task, stage=run.current, attempt=run.attempt, error_type=error_type, reason=reason)


async def _uncancelled(this: asyncio.Task[Any]) -> None:
    """Undo what task code did to the asyncio task that it runs in: only a stop may cancel that."""
    while this.cancelling():
        this.uncancel()
    try:
        await asyncio.sleep(0)  # where a cancellation arrives that was asked for and did not come yet
    except asyncio.CancelledError:
        if this.cancelling():
            raise  # a stop, meanwhile


def _tell_unfinished(live: LiveRun) -> None:
    """Whoever waits for a run that does not end in this process is told so."""
    live.leave(live.run.reason or _LATER.format(live.run_id))


async def _first_of(*ways: Coroutine[Any, Any, object]) -> None:
    """Return when one of them has returned; the others are cancelled."""
    tasks = [asyncio.create_task(way) for way in ways]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
