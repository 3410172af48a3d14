"""All unfinished runs: admitted or refused, queued for a slot, on their way (journey.py), asleep while they wait; found
again after a crash."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import msgspec
import structlog

from cascadenced.clock import Clock
from cascadenced.errors import CascadenceError, Overloaded, Unavailable, Unknown, no_run
from cascadenced.eventlog.base import Change, EventLog, Receipt
from cascadenced.eventlog.rows import position_of
from cascadenced.events.base import Context, Event, Json
from cascadenced.events.followup import FollowupRequested
from cascadenced.events.run import RunRefused, RunRequested
from cascadenced.events.stage import StageInterrupted
from cascadenced.events.streams import run_id_of, run_stream
from cascadenced.events.workflow import EventDispatched
from cascadenced.identity import Identity, Pseudonyms
from cascadenced.ids import Ids, RunId, run_id_for
from cascadenced.pipeline.model import ENDED, Run, fold
from cascadenced.pipeline.queue import RunQueue, Slots
from cascadenced.runtime.children import Children
from cascadenced.runtime.endings import Ended, Endings
from cascadenced.runtime.first_of import first_of
from cascadenced.runtime.journey import Journey, start
from cascadenced.runtime.perform import Perform
from cascadenced.runtime.record import LiveRun, Step, outcome_of, record
from cascadenced.runtime.sleepers import Sleeper, Sleepers
from cascadenced.runtime.tasks import Tasks
from cascadenced.runtime.whose import Work, work
from cascadenced.vault import VaultPort

_log = structlog.get_logger(__name__)

MAX_QUEUED_IN_MEMORY = 1_000
"""Queued runs whose state is kept; of the others only the id is, and their stream is read when their turn comes."""
MAX_PARENTS_IN_MEMORY = 1_000
"""Likewise of runs that wait for those of their plans."""
CANCEL_PATIENCE_S = 1.0
"""How long a stop waits for coroutines it has cancelled."""
_LATER = "run {} goes on after the next start"


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """A wish for a run. source: makes it one run for ever.  at_us: when it was asked, for the run's id; None: now.

    forked_from: the run that it begins with the results of; inherited: these, as its own events.
    requires: runs that must have succeeded before it starts.
    """

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
    forked_from: str | None = None
    inherited: tuple[Event, ...] = ()
    requires: tuple[str, ...] = ()


class Accepted(msgspec.Struct, frozen=True):
    """run_id: the run's, also when the same was asked before.  refused: (code, reason) if the rule said no."""

    run_id: RunId
    duplicate: bool = False
    refused: tuple[str, str] | None = None


class Runs:
    """All unfinished runs of this instance. cut_off: those that a restart finds in the middle of something, by id."""

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
        cut_off: Callable[[], Awaitable[Sequence[str]]],
    ) -> None:
        self._cut_off = cut_off
        self._log, self._clock, self._ids = log, clock, ids
        self._tasks, self._vault, self._pseudonyms = tasks, vault, pseudonyms
        self._perform = perform
        self._max_running, self._max_queued = max_running, max_queued
        self._n_slots_taken = 0
        self._slotless: set[str] = set()  # under way without one
        self._n_starting = 0  # of the slots: those whose run is not recorded yet
        self._none_starting = asyncio.Event()
        self._none_starting.set()
        self._n_joining = 0  # those that will be queued as soon as they are recorded
        self._queue = RunQueue()
        self._fresh: dict[str, LiveRun] = {}  # of those in the queue, the ones whose state is kept
        # A run is in the queue or in one of these three, or this process leaves it alone.
        self._asked: dict[str, LiveRun] = {}  # its first append is under way
        self._live: dict[str, LiveRun] = {}  # it is under way itself
        self._parents: dict[
            str, LiveRun
        ] = {}  # asleep till their children end, each of which wakes them: they are kept
        self._missed: set[str] = set()  # those under way that are to be looked at once more before they sleep
        self._sleepers = Sleepers(clock, self._awake)
        log.observe(self._sleepers.hear)
        self._endings = Endings()
        self._children = Children(log, perform)
        self.on_orphan: Callable[[str], None] = lambda run_id: None
        """Called with the id of an unfinished run whose parent has ended."""
        self._drives: set[asyncio.Task[None]] = set()
        self._looking: set[asyncio.Task[None]] = set()
        self._stop = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._journey = Journey(
            log=log,
            clock=clock,
            tasks=tasks,
            vault=vault,
            perform=perform,
            children=self._children,
            stop=self._stop,
            queue=self._enqueue,
            rouse=self._sleepers.rouse,
            find=self.find,
            without_slot=self._without_slot,
        )

    def limit(self, max_running: int, max_queued: int) -> None:
        """Other bounds from now on. What runs or waits beyond them goes on."""
        self._max_running, self._max_queued = max_running, max_queued
        self._tell_room()
        self._start_queued()

    def limit_task(self, name: str, max_running: int | None) -> None:
        """How many runs of a task may be under way at once; None: any number."""
        self._queue.limit(name, max_running)
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
        Raises Overloaded when the queue is full, and nothing is recorded, unless the same was before; Unknown for a
        `source` under which something else than a run was recorded.
        """
        if not self._has_room():
            known = None if request.source is None else await position_of(self._log.tables, request.source)
            if known is not None:
                return Accepted(await self._run_at(known), duplicate=True)
            raise Overloaded(f"{self._max_queued} runs are queued already; try again later", retry_after_s=5.0)
        live = self._newborn(request, run_id or self.new_run_id(request.source, request.at_us))
        requested = RunRequested(
            task=request.task,
            via=request.via,
            args=request.args,
            priority=request.priority,
            depth=request.depth,
            forked_from=request.forked_from,
            requires=request.requires,
        )
        refused = self._tasks.refusal(request.task)
        step = Step.of(live.run, requested, *(request.inherited if refused is None else ()))
        has_slot = False
        if refused is not None:
            step = step.then([RunRefused(task=request.task, via=request.via, code=refused[0], reason=refused[1])])
        elif not request.requires and (has_slot := self._take_slot(live.run_id, request.task)):
            live.entry = self._tasks.get(request.task)
            assert live.entry is not None  # or there were a refusal
            step = start(step, live.entry)
        to_queue = refused is None and not has_slot
        self._starting(has_slot)
        self._n_joining += to_queue  # before anything is awaited: others ask at this very moment
        self._tell_room()
        try:
            if not self._vault.knows(live.context.user_hash or "", live.context.group_hash or ""):
                await self._vault.remember([request.identity], self._pseudonyms)
            appending = self._log.append([*before, live.change(step.events)], source=request.source)
        except BaseException:
            self._starting(-has_slot)
            self._give_back(live.run_id, has_slot=has_slot, to_queue=to_queue)
            raise
        self._asked[live.run_id] = live
        # An append cannot be called back, so what follows from it must not depend on a caller that still waits.
        answer: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        appending.add_done_callback(
            lambda done: self._recorded(live, step, done, answer, has_slot=has_slot, to_queue=to_queue)
        )
        receipt = await answer
        if receipt.duplicate_of is not None:
            return Accepted(await self._run_at(receipt.duplicate_of), duplicate=True)
        return Accepted(live.run_id, refused=refused)

    def _recorded(
        self,
        live: LiveRun,
        step: Step,
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
            self._leave(live)
            self._give_back(live.run_id, has_slot=has_slot, to_queue=to_queue)
            return
        live.advance(step.run, done.result().recorded[-len(step.events) :])  # behind what belongs to other streams
        if has_slot:
            self._drive(live, self._journey.to_its_end)
        elif to_queue:
            self._n_joining -= 1
            self._enqueue(live)

    async def ended(self, run_id: str) -> Ended:
        """The run, once it has ended. Raises Unknown; Unavailable if it does not go on in this process."""
        run = Run()
        for _ in range(2):  # it may end here while it is read
            if self._is_here(run_id) or run_id in self._asked:
                return await self._endings.of(run_id)
            events = await self._log.read_stream(run_stream(run_id))
            if not events:
                raise no_run(run_id)
            run = fold(recorded.event for recorded in events)
            if run.status in ENDED:
                return Ended(run, None)
        raise Unavailable(run.reason or _LATER.format(run_id))

    def _is_here(self, run_id: str) -> bool:
        """Whether it is under way, or will be when there is a slot, or when what it waits for has come."""
        if run_id in self._live:
            return True
        return not self._stop.is_set() and (run_id in self._queue or run_id in self._sleepers)

    async def find(self, run_id: str) -> LiveRun:
        """The run as it is now, in this process or in the log. Raises Unknown."""
        live = self._live.get(run_id) or self._fresh.get(run_id) or self._parents.get(run_id)
        if live is None or live.version == 0:
            live = LiveRun(RunId(run_id), Context())
            await live.read(self._log)
        else:  # a run that is queued only now may have been told of something between its request and that
            await live.read_on(self._log)
        if live.version == 0:
            raise no_run(run_id)
        return live

    def look_at(self, live: LiveRun) -> None:
        """Something was recorded of a run that changes what it does next."""
        here = self._live.get(live.run_id)
        if here is not None and here is not live:
            here.is_behind = True
        if self._parents.get(live.run_id) is not live:
            self._parents.pop(live.run_id, None)
        self._rouse(live.run_id)

    def _rouse(self, run_id: str) -> None:
        if run_id in self._live:
            self._missed.add(run_id)  # it may have looked already, and be about to sleep
        else:
            self._sleepers.rouse(run_id)

    async def withdraw(self, live: LiveRun) -> None:
        """The run was ended from outside: it gives up its place, and what is under way of it is cancelled. Of one that
        was put in doubt only that is."""
        run_id, has_ended = live.run_id, live.run.status in ENDED
        if has_ended:
            if self._queue.discard(run_id):
                self._fresh.pop(run_id, None)
                self._tell_room()
            self._sleepers.discard(run_id)
            self._parents.pop(run_id, None)
        here = self._live.get(run_id)
        if here is None:
            if has_ended:
                self._over(live)
            return
        here.catch_up_with(live)  # what drives it may have read the log before
        drive = here.drive
        assert drive is not None
        drive.cancel()
        await asyncio.wait({drive}, timeout=CANCEL_PATIENCE_S)
        self._let_go(here)  # its code may not heed it, or not have begun: nobody waits for it any more

    async def room(self) -> int:
        """How many requests the queue has room for, as soon as it is at least one: whoever can wait, waits here instead
        of being refused. Those that are being recorded have their place already."""
        while not self._has_room():
            await self._room.wait()
        return self._n_free()

    @property
    def n_running(self) -> int:
        return self._n_slots_taken

    @property
    def n_queued(self) -> int:
        return len(self._queue)

    @property
    def n_asleep(self) -> int:
        """Runs that wait for something, or are paused or in doubt."""
        return len(self._sleepers)

    def slots(self, run_id: str, task: str) -> Slots:
        """How a run of `task` finds them. Those of paused runs are taken as long as a stage is under way."""
        return Slots(self._n_slots_taken, self._queue.n_running(task), self._queue.ahead(run_id))

    # ── starting, stopping ───────────────────────────────────────────────────────────────────────────────────

    async def recover(self) -> int:
        """Queue every unfinished run, oldest first; returns how many there are. New requests line up behind them.

        What may have happened is said at once, whether or not there is a slot for what it happened in.
        """
        for run_id in await self._cut_off():
            if not self._is_here(run_id):
                live = LiveRun(RunId(run_id), Context())
                await live.read(self._log)
                await self._journey.ask(live)
        openings = await self._log.openings()
        for opening in openings:
            run_id = run_id_of(opening.stream)
            if run_id not in self._asked and not self._is_here(run_id):
                self._line_up(run_id, opening.task, opening.group_hash, opening.priority, opening.position)
        self._start_queued()
        return len(openings)

    async def stop(self, grace_s: float, hurry: asyncio.Event | None = None) -> int:
        """Start nothing more, let stages end within the grace period, record the others as interrupted.

        hurry: when set, the grace period is over. Returns how many were interrupted. Threads that still run are
        abandoned; their results take no effect.
        """
        self._stop.set()
        await self._none_starting.wait()  # they are under way as soon as they are recorded
        await first_of(self._drives_ended(), self._clock.sleep(grace_s), (hurry or asyncio.Event()).wait())
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
        self._sleepers.stop()
        for looking in self._looking:
            looking.cancel()
        self._endings.leave_all(_LATER)
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

    def _take_slot(self, run_id: str, task: str) -> bool:
        if self._stop.is_set() or self._n_slots_taken >= self._max_running or not self._queue.start(run_id, task):
            return False
        self._n_slots_taken += 1
        return True

    def _starting(self, n: int) -> None:
        self._n_starting += n
        if self._n_starting:
            self._none_starting.clear()
        else:
            self._none_starting.set()

    def _free_slot(self, run_id: str) -> None:
        self._queue.release(run_id)
        self._n_slots_taken -= 1
        self._start_queued()

    @asynccontextmanager
    async def _without_slot(self, live: LiveRun) -> AsyncIterator[None]:
        self._free_slot(live.run_id)
        self._slotless.add(live.run_id)
        try:
            yield
        finally:
            if live.run_id in self._slotless:  # else it was given up meanwhile
                self._slotless.remove(live.run_id)
                self._n_slots_taken += 1
                self._queue.occupy(live.run_id, live.run.task)

    def _give_back(self, run_id: str, *, has_slot: bool, to_queue: bool) -> None:
        """The place that a request had, which became no run."""
        self._n_joining -= to_queue
        self._tell_room()
        if has_slot:
            self._free_slot(run_id)

    def _n_free(self) -> int:
        """Places in the queue; negative when it was longer than it may be now."""
        return self._max_queued - len(self._queue) - self._n_joining

    def _has_room(self) -> bool:
        return self._n_free() > 0

    def _tell_room(self) -> None:
        if self._has_room():
            self._room.set()
        else:
            self._room.clear()

    def _enqueue(self, live: LiveRun) -> None:
        """It waits for a slot, at the place that its request has among others."""
        run = live.run
        self._line_up(live.run_id, run.task, live.context.group_hash, run.priority, live.began_at)
        if len(self._fresh) < MAX_QUEUED_IN_MEMORY:
            self._fresh[live.run_id] = live
        self._start_queued()

    def _line_up(self, run_id: str, task: str, group_hash: str | None, priority: int, order: int) -> None:
        self._queue.put(run_id, task=task, group=group_hash, priority=priority, order=order)
        self._tell_room()

    def _start_queued(self) -> None:
        while self._n_slots_taken < self._max_running and not self._stop.is_set():
            run_id = self._queue.take()
            if run_id is None:
                return
            self._tell_room()
            self._n_slots_taken += 1
            live = self._fresh.pop(run_id, None) or self._parents.pop(run_id, None) or LiveRun(RunId(run_id), Context())
            self._drive(live, self._journey.begin)

    def _awake(self, run_id: str, sleeper: Sleeper) -> None:
        """What it slept for may have come."""
        self._line_up(run_id, sleeper.task, sleeper.group_hash, sleeper.priority, sleeper.order)
        self._start_queued()

    def _drive(self, live: LiveRun, way: Callable[[LiveRun], Awaitable[None]]) -> None:
        """Let `live` go its way, in a slot that is taken for it."""
        self._live[live.run_id] = live

        async def drive() -> None:
            work.set(Work(live))  # this may have been started by another run, whose end has made room for it
            try:
                await way(live)
            except CascadenceError as error:
                # The log is gone or refuses: nothing more can be recorded of this run here. It stays unfinished.
                _log.error("run_left_unfinished", run_id=live.run_id, error=str(error))
                self._leave(live)
            except (asyncio.CancelledError, GeneratorExit):
                raise
            except BaseException:  # noqa: BLE001 -- a fault of ours, or a task's that got past us; the other runs go on
                _log.exception("run_left_unfinished", run_id=live.run_id)
                self._leave(live)
            finally:
                self._let_go(live)

        task = asyncio.get_running_loop().create_task(drive(), name=f"run-{live.run_id}")
        live.drive = task
        self._drives.add(task)
        task.add_done_callback(self._drives.discard)

    def _let_go(self, live: LiveRun) -> None:
        """It has ended, or sleeps, or is left to the next start: its slot is free."""
        if self._live.get(live.run_id) is not live:
            return  # given up before, when its code did not heed being cancelled
        del self._live[live.run_id]
        missed = live.run_id in self._missed
        self._missed.discard(live.run_id)
        self._perform.let_go(live)
        run = live.run
        if run.status in ENDED:
            self._over(live)
        elif self._stop.is_set() or (run.awaits is not None and run.awaits.kind == "held"):
            self._leave(live)  # of one that is paused, what holds it was not looked at in this life
        elif run.wait is not None or run.in_doubt is not None or run.paused or run.is_held_back:
            self._sleep(live)
            if missed:
                self._sleepers.rouse(live.run_id)
        else:
            self._leave(live)
        if live.run_id in self._slotless:
            self._slotless.remove(live.run_id)
        else:
            self._free_slot(live.run_id)

    def _sleep(self, live: LiveRun) -> None:
        self._sleepers.add(live)
        if (
            live.run.wait is not None
            and live.run.wait.kind == "children"
            and not live.is_behind  # else it is read again
            and len(self._parents) < MAX_PARENTS_IN_MEMORY
        ):
            self._parents[live.run_id] = live
        if live.run.awaits is not None and live.run.awaits.kind == "event":
            look_back = self._journey.look_back(live)
            looking = asyncio.get_running_loop().create_task(look_back, name=f"look-back-{live.run_id}")
            self._looking.add(looking)
            looking.add_done_callback(self._looking.discard)

    def _over(self, live: LiveRun) -> None:
        """It has ended: whoever waits for that is told."""
        self._endings.tell(live.run_id, Ended(live.run, live.error))
        self._children.forget(live)
        for child in live.run.children or ():
            if child.run_id is not None and child.ended is None:
                self.on_orphan(child.run_id)
        for dependent in self._journey.dependents.pop(live.run_id, ()):
            self._rouse(dependent)
        parent = live.run.parent_run_id
        if parent is not None:
            self._children.ended(live)
            self._rouse(parent)

    def _leave(self, live: LiveRun) -> None:
        """Whoever waits for a run that does not end in this process is told so."""
        self._endings.leave(live.run_id, live.run.reason or _LATER.format(live.run_id))

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
