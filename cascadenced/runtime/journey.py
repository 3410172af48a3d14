"""What a run does once it has a slot: from its start, or from where a restart found it, to its end or its next wait."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import structlog

from cascadenced.clock import Clock
from cascadenced.errors import CascadenceError, Unknown, VaultDamaged
from cascadenced.eventlog.base import EventLog
from cascadenced.events.base import Event
from cascadenced.events.content import type_name
from cascadenced.events.run import RunHeld, RunRefused, RunReleased, RunStarted
from cascadenced.events.stage import StageFailed
from cascadenced.events.streams import workflow_stream
from cascadenced.events.wait import WaitEnded
from cascadenced.events.workflow import EventDispatched
from cascadenced.pipeline.decide import go_on
from cascadenced.pipeline.doubts import question
from cascadenced.pipeline.model import ENDED, NOTHING_HANDED, Run
from cascadenced.pipeline.resume import CRASHES_TO_SUSPECT, code_changed, resume, verdict
from cascadenced.runtime.children import Children
from cascadenced.runtime.first_of import first_of
from cascadenced.runtime.perform import Perform
from cascadenced.runtime.record import LiveRun, Step, outcome_of, record
from cascadenced.runtime.tasks import TaskEntry, Tasks
from cascadenced.vault import VaultPort

_log = structlog.get_logger(__name__)

MAX_SUSPECT_BACKOFF_S = 30.0
PROBATION_S = 60.0
"""After so long a stage that was under way at several crashes is taken for innocent, and the next such one goes on."""
PREREQUISITE_FAILED = "prerequisite_failed"


class Journey:
    """The way of any run. stop: set when nothing more is to be started.

    queue: called with each child that is asked for.  rouse: with the id of a run that sleeps and is to be looked at.
    find: a run as it is now.  without_slot: while in it, the run's slot is another's.
    dependents: runs that others wait for before they start → these; whoever knows of an end takes them out.
    """

    def __init__(
        self,
        *,
        log: EventLog,
        clock: Clock,
        tasks: Tasks,
        vault: VaultPort,
        perform: Perform,
        children: Children,
        stop: asyncio.Event,
        queue: Callable[[LiveRun], None],
        rouse: Callable[[str], None],
        find: Callable[[str], Awaitable[LiveRun]],
        without_slot: Callable[[LiveRun], AbstractAsyncContextManager[None]],
    ) -> None:
        self._log, self._clock, self._tasks, self._vault = log, clock, tasks, vault
        self._perform, self._children, self._stop = perform, children, stop
        self._queue, self._rouse, self._find, self._without_slot = queue, rouse, find, without_slot
        self._suspects = asyncio.Lock()
        self.dependents: dict[str, set[str]] = {}

    async def begin(self, live: LiveRun) -> None:
        """Start a run that was queued, or go on with one that a restart found unfinished, or that slept."""
        if live.version == 0:
            await live.read(self._log)
        if live.run.status in ENDED:
            return
        if live.run.parent_run_id is not None:
            live.entry = self._children.entry_at_hand(live)
            if live.entry is None and await self._is_orphan(live):
                return
        if live.run.is_held_back and not await self._have_run_before(live):
            return
        await self.ask(live)
        if live.run.status == "in_doubt" or live.run.paused:
            return  # whatever has become of its task: it is looked for when the run may go on
        if not await self._found_identity(live) or not await self._found_entry(live):
            return
        assert live.entry is not None
        if (changed := code_changed(live.run, live.entry.policy, live.entry.code)) is not None:
            await self._hold(live, changed)
            return
        if live.run.current is not None and live.run.wait is None and verdict(live.run) == "alone":
            await self._alone(live)
        else:
            await self._go_on(live)

    async def ask(self, live: LiveRun) -> None:
        """Record the doubt about a run that nobody performs, where somebody has to say what became of its effect."""
        await record(self._log, self._clock, live, _asked)

    async def _is_orphan(self, live: LiveRun) -> bool:
        """Whether its parent has ended; then it ends too, unless somebody has to be asked about it first."""
        cancelled = self._children.orphaned(live, await self._children.parent_of(live))
        if cancelled is None:
            return False
        await self._record_unless_ended(live, cancelled)
        return True

    async def _have_run_before(self, live: LiveRun) -> bool:
        """Whether all runs that it requires have succeeded. If one has not, and never will, it is refused."""
        for run_id in live.run.requires:  # before any is looked at: it may end meanwhile
            self.dependents.setdefault(run_id, set()).add(live.run_id)
        runs = {run_id: (await self._find(run_id)).run for run_id in live.run.requires}
        if all(run.status == "success" for run in runs.values()):
            return True
        failed = next((run_id for run_id, run in runs.items() if run.status in ENDED and run.status != "success"), None)
        if failed is not None:
            refused = RunRefused(
                task=live.run.task,
                via=live.run.via,
                code=PREREQUISITE_FAILED,
                reason=_of_prerequisite(failed, runs[failed]),
            )
            await self._record_unless_ended(live, refused)
        return False

    async def _found_identity(self, live: LiveRun) -> bool:
        """Find out whom it is for; if the vault cannot tell, the run is held."""
        if live.identity is None:
            context = live.context
            try:
                live.identity = await self._vault.reveal(context.user_hash or "", context.group_hash or "")
            except (Unknown, VaultDamaged):
                reason = "the vault does not have the identity of this run"
                await self._hold(live, RunHeld(task=live.run.task, code="identity_missing", reason=reason))
        return live.identity is not None

    async def _found_entry(self, live: LiveRun) -> bool:
        """Find the run's task; if there is none any more, the run is held, or ends if its parent does not plan it."""
        run = live.run
        if run.parent_run_id is None:
            live.entry = self._tasks.get(run.task)
            if live.entry is None:
                reason = f"Unknown task: {run.task}"
                await self._hold(live, RunHeld(task=run.task, code="task_missing", reason=reason))
        elif live.entry is None:
            parent = await self._children.parent_of(live)
            found = await self._children.entry_of(live, parent, self._found_entry, self._rested)
            if not isinstance(found, Event):
                live.entry = found
            elif live.drive is not None:  # else it was read for a child of its own, and ends where it is driven
                await self._record_unless_ended(live, found)
        return live.entry is not None

    async def _rested(self, delay_s: float) -> bool:
        """Whether so many seconds have passed, and the daemon goes on."""
        await first_of(self._clock.sleep(delay_s), self._stop.wait())
        return not self._stop.is_set()

    async def _alone(self, live: LiveRun) -> None:
        """A run whose stage was under way at three crashes in a row: one such stage at a time, not in a hurry. It is
        cleared when that stage has ended, or has gone on for so long that it is hardly what kills the process.

        Nobody else has to wait for it: its slot is free meanwhile.
        """
        async with self._without_slot(live):
            await self._suspects.acquire()
            cleared = _once(self._suspects.release)
            probation: asyncio.Task[None] | None = None
            try:
                excess = live.run.open_starts - CRASHES_TO_SUSPECT
                await first_of(self._clock.sleep(min(2.0**excess, MAX_SUSPECT_BACKOFF_S)), self._stop.wait())
                probation = asyncio.get_running_loop().create_task(self._cleared_later(cleared), name="probation")
                await self._go_on(live, cleared)
            finally:
                if probation is not None:
                    probation.cancel()
                cleared()

    async def _cleared_later(self, cleared: Callable[[], None]) -> None:
        await self._clock.sleep(PROBATION_S)
        cleared()

    async def _go_on(self, live: LiveRun, cleared: Callable[[], None] = lambda: None) -> None:
        """From where its events end, to its end. cleared: called when the first stage from there on has ended."""
        if self._stop.is_set():
            return
        entry = live.entry
        assert entry is not None

        woken = await self._heard(live)

        def following(run: Run) -> Step | None:
            if run.status in ENDED or run.paused:
                return None
            if not run.stages:
                released = [RunReleased(task=run.task)] if run.wait is not None else []
                return start(Step.of(run, *released), entry)
            return Step.of(
                run,
                *resume(
                    run,
                    entry.policy,
                    code=entry.code,
                    elapsed_s=live.elapsed_s(self._clock),
                    now_us=self._clock.now_us(),
                    woken=woken,
                ),
            )

        recorded = await record(self._log, self._clock, live, following)
        if not recorded and live.run.status == "running":
            return  # it was paused meanwhile: what it says is under way was so in an earlier life
        live.dormant = False
        await self.to_its_end(live, cleared)

    async def to_its_end(self, live: LiveRun, stage_ended: Callable[[], None] = lambda: None) -> None:
        """stage_ended: called each time that one has."""
        while True:
            run = live.run
            if run.wait is not None and run.wait.kind == "children" and not run.paused:
                self._start_children(await self._children.collect(live, self._clock))
                run = live.run
            # Without an open start it was interrupted while its code went on, and is another life's to do.
            if run.current is None or not run.open_starts or run.status != "running":
                return
            if run.has_children_to_do:
                if run.paused:
                    return
                self._start_children(await self._children.ask(live, self._clock))
                continue
            outcome = await self._performed(live)
            following = outcome_of(live, self._clock, outcome, go_on=not self._stop.is_set())
            await record(self._log, self._clock, live, following)
            stage_ended()

    def _start_children(self, children: Sequence[LiveRun]) -> None:
        for child in children:
            self._queue(child)

    async def _heard(self, live: LiveRun) -> WaitEnded | None:
        """The event that it waits for, if that was recorded since it began: the first that it was not handed yet."""
        run, wait = live.run, live.run.awaits
        if wait is None or wait.kind != "event" or run.current is None:
            return None
        handed = run.handed.get(wait.name, NOTHING_HANDED)
        since = max(live.began_at, handed.until)
        async for recorded in self._log.read_since(workflow_stream(wait.name), since):
            event = recorded.event
            if (
                type(event) is EventDispatched
                and recorded.group_hash == live.context.group_hash
                and recorded.position not in handed
                and wait.is_met_by(event.payload)
            ):
                return WaitEnded(
                    task=run.task,
                    stage=run.current,
                    place=wait.place,
                    kind="event",
                    name=wait.name,
                    outcome="event",
                    payload=event.payload,
                    position=recorded.position,
                )
        return None

    async def look_back(self, live: LiveRun) -> None:
        """It has begun to wait for an event, which may have been recorded before."""
        if await self._heard(live) is not None:
            self._rouse(live.run_id)

    async def _performed(self, live: LiveRun) -> Event:
        """How the stage under way went. What gets past `perform` ends the run as well, not the daemon."""
        this = live.drive
        assert this is not None
        try:
            outcome = await self._perform(live)
        except (CascadenceError, GeneratorExit):
            raise
        except asyncio.CancelledError:
            if self._stop.is_set() or live.run.status in ENDED or live.run.in_doubt is not None:
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

    async def _hold(self, live: LiveRun, held: RunHeld) -> None:
        def following(run: Run) -> Step | None:
            is_held_so = run.wait is not None and run.wait.kind == "held" and run.reason == held.reason
            return None if run.status in ENDED or run.in_doubt is not None or is_held_so else Step.of(run, held)

        if await record(self._log, self._clock, live, following) is not None:
            _log.warning("run_held", run_id=live.run_id, task=live.run.task, reason=held.reason)

    async def _record_unless_ended(self, live: LiveRun, event: Event) -> None:
        await record(self._log, self._clock, live, lambda run: None if run.status in ENDED else Step.of(run, event))


def start(step: Step, entry: TaskEntry) -> Step:
    """A slot is free: after `step` the run starts, and with it its first stage."""
    policy = entry.policy
    on_doubt = policy.on_doubt if policy.delivery == "at_most_once" else None
    started = step.then([RunStarted(task=step.run.task, stages=entry.stages, code=entry.code, on_doubt=on_doubt)])
    return started.then(go_on(started.run, elapsed_s=0.0))


def _once(function: Callable[[], None]) -> Callable[[], None]:
    """Calls it the first time, and does nothing after that."""
    calls = [function]

    def call() -> None:
        if calls:
            calls.pop()()

    return call


def _asked(run: Run) -> Step | None:
    if run.in_doubt is not None and run.status != "in_doubt":
        return Step.of(run, RunReleased(task=run.task, status="in_doubt"))  # nothing is held that waits for an answer
    doubted = question(run)
    return None if doubted is None else Step.of(run, doubted)


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


def _of_prerequisite(run_id: str, run: Run) -> str:
    """Why nothing can come after a run; of a whole row of them, what the first one ended with."""
    if run.error_type == PREREQUISITE_FAILED and run.reason:
        return run.reason
    how = f"{run.status}: {run.reason}" if run.status == "refused" else run.status
    return f"the task {run.task}, which must have run before, did not succeed ({how}); its run is {run_id}"
