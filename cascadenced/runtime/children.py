"""The runs that a run's plan asks for: asked for in order or all at once, and their ends brought back to it.

A child is a run like any other, but for its task, which need not be registered: the plan's object is used as it is, or
after a restart the one that `plan()` gives when it is called again. While children are under way their parent sleeps.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import count, zip_longest
from typing import Protocol

from cascadenced.clock import Clock
from cascadenced.eventlog.base import Change, EventLog
from cascadenced.events.base import Context, Event
from cascadenced.events.child import ChildEnded, ChildRequested
from cascadenced.events.run import RunCancelled, RunFailed, RunRequested
from cascadenced.events.stage import StageFailed
from cascadenced.events.streams import run_stream
from cascadenced.events.wait import WaitEnded, WaitStarted
from cascadenced.ids import RunId, run_id_for
from cascadenced.pipeline.control import is_answer_due, is_unwanted
from cascadenced.pipeline.decide import decide, told
from cascadenced.pipeline.model import ENDED, Child, Run, evolve, fold
from cascadenced.pipeline.policy import NEVER_AGAIN, Retry
from cascadenced.runtime.record import Following, LiveRun, Step, record
from cascadenced.runtime.spawn import as_raised
from cascadenced.runtime.tasks import TaskEntry

MAX_CHILDREN = 1_000
"""Of one plan."""
PLAN_AGAIN = Retry(max_attempts=3, initial_s=1, jitter=0)
"""How often `plan()` is called after a restart, and how long apart, where the task has no retries of that stage."""


class PlanFailed(Exception):
    """`plan()` did not give a plan when it was called another time. Its text names nobody.

    code: plan.failed if it raised, plan.changed if it did something else than before.
    may_pass: whether it is worth calling once more.
    """

    def __init__(self, text: str, *, code: str, may_pass: bool = False) -> None:
        super().__init__(text)
        self.code, self.may_pass = code, may_pass


class PlanAgain(Protocol):
    """What calls `plan()` another time (`perform.Perform`). Raises PlanFailed."""

    async def plan_again(self, live: LiveRun, retry: Retry) -> Sequence[TaskEntry]: ...


Rest = Callable[[float], Awaitable[bool]]
"""Lets that many seconds pass; False: the daemon stops before they have."""


class Children:
    """Of all runs of this instance. Until a parent ends, the tasks of its plan are kept in memory, and who is which.

    Nothing here may cost more, the more children there are: each is looked up, and only those that have ended are.
    """

    def __init__(self, log: EventLog, perform: PlanAgain) -> None:
        self._log, self._perform = log, perform
        self._entries: dict[str, Sequence[TaskEntry]] = {}
        self._errors: dict[str, BaseException] = {}
        self._lost: dict[str, PlanFailed] = {}  # by parent: why the tasks of its plan are not to be had any more
        self._planning: dict[str, asyncio.Lock] = {}
        self._places: dict[str, int] = {}  # by child
        self._watched: set[str] = set()  # parents that were looked at: from then on `ended` says which of theirs have
        self._ended: dict[str, dict[str, Run]] = {}  # by parent, which has not taken them in yet

    async def ask(self, live: LiveRun, clock: Clock) -> list[LiveRun]:
        """Ask for those that can go now; the parent waits. Returns them, to be queued."""
        if live.planned is not None:
            self._entries[live.run_id] = live.planned
        asked: list[LiveRun] = []

        def following(run: Run) -> Step | None:
            asked.clear()
            if run.status != "running" or run.current != "run" or run.paused:
                return None
            wait = WaitStarted(task=run.task, stage="run", place="", kind="children")
            return self._step(live, run, clock, asked, [], wait)

        await self._record(live, clock, following, asked)
        return asked

    async def collect(self, live: LiveRun, clock: Clock) -> list[LiveRun]:
        """Take in how children ended that have; ask for the next, or let the parent go on, or fail with them."""
        outcomes = await self._outcomes(live)
        ended = [
            _child_ended(live.run, index, child.run_id, outcomes[child.run_id])
            for index, child in enumerate(live.run.children or ())
            if child.run_id is not None and child.run_id in outcomes and child.ended is None
        ]
        asked: list[LiveRun] = []

        def following(run: Run) -> Step | None:
            asked.clear()
            if run.wait is None or run.wait.kind != "children" or run.paused:
                return None
            after = run
            for event in ended:
                after = evolve(after, event)
            children = after.children or ()
            failed = [c.ended for c in children if c.ended is not None and not c.is_done]
            if failed:
                # Another attempt asks for all of them again: one that must not be is what the parent fails with.
                worst = next(filter(_is_for_good, failed), failed[0])
                return self._failed(live, run, worst, ended, clock)
            if all(child.is_done for child in children):
                over = WaitEnded(task=run.task, stage="run", place="", kind="children", outcome="children")
                return Step.of(run, *ended, over, *told(run, "run"))
            return self._step(live, run, clock, asked, ended, None)

        if await self._record(live, clock, following, asked):
            left = self._ended.get(live.run_id, {})  # of a run that was paused just now: all, for when it goes on
            for run_id in outcomes:
                left.pop(run_id, None)
        return asked

    async def _outcomes(self, live: LiveRun) -> Mapping[str, Run]:
        """Children that have ended, by id: all that were not taken in."""
        ended = self._ended.setdefault(live.run_id, {})
        if live.run_id not in self._watched:
            self._watched.add(live.run_id)
            for child in live.run.children or ():
                if child.run_id is not None and child.ended is None:
                    run = fold(r.event for r in await self._log.read_stream(run_stream(child.run_id)))
                    if run.status in ENDED:
                        ended[child.run_id] = run
        return dict(ended)

    async def _record(self, live: LiveRun, clock: Clock, following: Following, asked: Sequence[LiveRun]) -> bool:
        """Record the step, and let the children know what the log has of them. Whether there was one."""
        receipt = await record(self._log, clock, live, following)
        recorded = () if receipt is None else receipt.recorded
        for each in recorded:
            if type(each.event) is ChildRequested:
                self._places[each.event.child_run_id] = each.event.index
        for child in asked:
            child.fold([each for each in recorded if each.stream == run_stream(child.run_id)])
        return receipt is not None

    def ended(self, child: LiveRun) -> None:
        """A child has ended in this process: its exception is the parent's, if that fails of it."""
        self._places.pop(child.run_id, None)
        parent_id = child.run.parent_run_id
        if parent_id in self._watched:
            self._ended.setdefault(parent_id, {})[child.run_id] = child.run
        if child.error is not None and parent_id in self._entries:
            self._errors[child.run_id] = child.error

    def forget(self, parent: LiveRun) -> None:
        """The run has ended."""
        self._entries.pop(parent.run_id, None)
        for child in parent.run.children or ():
            self._errors.pop(child.run_id or "", None)
            self._places.pop(child.run_id or "", None)
        self._lost.pop(parent.run_id, None)
        self._planning.pop(parent.run_id, None)
        self._ended.pop(parent.run_id, None)
        self._watched.discard(parent.run_id)

    def entry_at_hand(self, child: LiveRun) -> TaskEntry | None:
        """A child's task, if its parent goes on in this process and has made its plan here."""
        entries, place = self._entries.get(child.run.parent_run_id or ""), self._places.get(child.run_id)
        return None if entries is None or place is None else entries[place]

    async def parent_of(self, child: LiveRun) -> LiveRun:
        """The run whose plan asked for it, as it is now."""
        assert child.run.parent_run_id is not None
        parent = LiveRun(RunId(child.run.parent_run_id), Context())
        await parent.read(self._log)
        parent.identity = child.identity  # children have their parent's
        return parent

    def orphaned(self, child: LiveRun, parent: LiveRun) -> RunCancelled | None:
        """The end of a run that is nobody's any more; None also while somebody has to say what became of its effect."""
        if not is_unwanted(child.run_id, parent.run) or is_answer_due(child.run):
            return None
        return RunCancelled(
            task=child.run.task,
            via="plan",
            reason=unwanted_by(parent.run_id),
            stage=child.run.current,
            started=bool(child.run.stages),
        )

    async def entry_of(
        self, child: LiveRun, parent: LiveRun, find: Callable[[LiveRun], Awaitable[bool]], rest: Rest
    ) -> TaskEntry | RunFailed | RunCancelled | None:
        """A child's task; or the event that ends it, when the plan does not have it any more, or the parent has ended.
        None: the parent's own task is not there now, or the child has ended, or the daemon stops."""
        cancelled = self.orphaned(child, parent)
        if cancelled is not None:  # since that was looked at last
            return cancelled
        self._places |= {
            each.run_id: n for n, each in enumerate(parent.run.children or ()) if each.run_id and not each.ended
        }
        place = self._places.get(child.run_id)  # now: it may end while the plan is made
        planning = self._planning.setdefault(parent.run_id, asyncio.Lock())
        async with planning:
            entries, lost = self._entries.get(parent.run_id), self._lost.get(parent.run_id)
            if entries is None and lost is None:
                if not await find(parent):
                    return None
                try:
                    entries = await self._planned_again(parent, rest)
                except PlanFailed as error:
                    lost = error
                is_kept = self._planning.get(parent.run_id) is planning  # else the parent has ended meanwhile
                if entries is not None and is_kept:
                    self._entries[parent.run_id] = entries
                if lost is not None and is_kept:
                    self._lost[parent.run_id] = lost
        if lost is not None:
            return _cannot_go_on(child.run, lost.code, str(lost))
        return None if place is None or entries is None else entries[place]

    async def _planned_again(self, parent: LiveRun, rest: Rest) -> Sequence[TaskEntry] | None:
        """The tasks of its plan, called for as often as the policy of that stage says. None: the daemon stops. Raises
        PlanFailed."""
        assert parent.entry is not None
        retry = parent.entry.policy.retries.get("plan", PLAN_AGAIN)
        again = f"plan() of {parent.run.task} %s when it was called again after a restart: %s"
        for n_failed in count(1):
            try:
                entries = await self._perform.plan_again(parent, retry)
            except PlanFailed as error:
                if not error.may_pass or n_failed >= retry.max_attempts:
                    raise PlanFailed(again % ("failed", error), code=error.code) from None
            else:
                if (difference := _difference(entries, parent.run)) is None:
                    return entries
                remedy = "It must give the same ones for the same run; to have these done, fork the run from its plan"
                raise PlanFailed(again % ("gave other tasks", f"{difference}. {remedy}"), code="plan.changed")
            if not await rest(retry.delay_s(n_failed, f"{parent.run_id}/plan again/{n_failed}")):
                break
        return None

    def _step(
        self,
        live: LiveRun,
        run: Run,
        clock: Clock,
        asked: list[LiveRun],
        ended: Sequence[ChildEnded],
        wait: WaitStarted | None,
    ) -> Step:
        """The requests that can be made now, after `ended`, and `wait`."""
        after = run
        for event in ended:
            after = evolve(after, event)
        requested: list[ChildRequested] = []
        also: list[Change] = []
        for index in _next(after):
            child = (after.children or ())[index]
            newborn = _newborn(live, run, index, child, clock)
            asked.append(newborn)
            requested.append(
                ChildRequested(
                    task=run.task,
                    index=index,
                    child_task=child.planned.name,
                    child_run_id=newborn.run_id,
                    attempt=child.attempt + 1,
                )
            )
            request = RunRequested(
                task=child.planned.name,
                via="plan",
                priority=run.priority,
                parent_run_id=live.run_id,
                depth=run.depth,
                nesting=run.nesting + 1,
            )
            also.append(Change(run_stream(newborn.run_id), [request], 0, newborn.context))
        step = Step.of(run, *ended, *requested, *([] if wait is None else [wait]))
        return Step(step.events, step.run, also)

    def _failed(self, live: LiveRun, run: Run, failed: ChildEnded, ended: Sequence[Event], clock: Clock) -> Step:
        """The parent's stage failed with a child; it is tried again if its policy says so."""
        live.error = self._errors.get(failed.child_run_id, live.error)
        over = WaitEnded(task=run.task, stage="run", place="", kind="children", outcome="children")
        assert live.entry is not None
        retry = live.entry.policy.retries.get("run")
        n_failed = run.n_failed + 1
        again = retry is not None and n_failed < retry.max_attempts and self._is_worth_it(retry, failed)
        delay_s = retry.delay_s(n_failed, f"{live.run_id}/run/{n_failed}") if retry is not None and again else 0.0
        failure = StageFailed(
            task=run.task,
            stage="run",
            attempt=run.attempt,
            error_type=failed.error_type or failed.status,
            reason=failed.reason or f"the run {failed.child_run_id} of its plan was {failed.status}",
            fatal=not again,
            retry_at_us=clock.now_us() + round(delay_s * 1e6) if again else None,
            lineage=failed.lineage if run.parent_run_id is not None else (),
        )
        step = Step.of(run, *ended, over, failure)
        return step.then(decide(step.run, failure, elapsed_s=live.elapsed_s(clock)))

    def _is_worth_it(self, retry: Retry, failed: ChildEnded) -> bool:
        """Whether the parent's policy wants another attempt after a child's error: of its class, if that is at hand,
        else of its recorded names."""
        if _is_for_good(failed):
            return False
        error = self._errors.get(failed.child_run_id)
        if error is not None:
            return retry.wants(as_raised(error))
        # Without any it is an error of ours: a time that is up, a process that died.
        return retry.wants_named((failed.error_type or failed.status, *(failed.lineage or ("builtins:Exception",))))


def unwanted_by(parent_run_id: str) -> str:
    """Why a run of its plan does not go on."""
    return f"the run that asked for it, {parent_run_id}, has ended"


def _is_for_good(failed: ChildEnded) -> bool:
    """Whether nobody may ask for it again, whatever the parent's policy: somebody's word ended it, or an error that its
    own stage would not be tried again after."""
    return failed.status != "error" or failed.error_type in NEVER_AGAIN


def _difference(entries: Sequence[TaskEntry], parent: Run) -> str | None:
    """The first place where the tasks are not those that the parent's plan had, in words; None if there is none."""
    now = [(entry.name, entry.class_name) for entry in entries]
    before = [(each.planned.name, each.planned.kind) for each in parent.children or ()]
    for index, (was, is_) in enumerate(zip_longest(before, now)):
        if was != is_:
            return f"item {index} was {_spelled(was)}, and is {_spelled(is_)} now"
    return None


def _spelled(task: tuple[str, str] | None) -> str:
    if task is None:
        return "nothing"
    name, kind = task
    return name if name == kind else f"{name} ({kind})"


def _next(run: Run) -> list[int]:
    """Places that a run is to be asked for now."""
    waiting = [
        index
        for index, child in enumerate(run.children or ())
        if not child.is_done and (child.run_id is None or child.ended is not None)
    ]
    if run.parallel:
        return waiting
    first = next((index for index, child in enumerate(run.children or ()) if not child.is_done), None)
    return [first] if first is not None and first in waiting else []


def _newborn(live: LiveRun, run: Run, index: int, child: Child, clock: Clock) -> LiveRun:
    run_id = run_id_for(f"child:{live.run_id}:{index}:{child.attempt + 1}", clock.now_us())
    mother = live.context
    context = Context(
        user_hash=mother.user_hash,
        group_hash=mother.group_hash,
        run_id=run_id,
        cause=live.last_event_id,
        correlation=mother.correlation,
        traceparent=mother.traceparent,
    )
    newborn = LiveRun(run_id, context)
    newborn.identity = live.identity
    return newborn


def _child_ended(run: Run, index: int, child_run_id: str, outcome: Run) -> ChildEnded:
    return ChildEnded(
        task=run.task,
        index=index,
        child_run_id=child_run_id,
        status=outcome.status,
        output=outcome.result if outcome.status == "success" else None,
        error_type=outcome.error_type,
        reason=outcome.reason,
        lineage=outcome.lineage,
    )


def _cannot_go_on(run: Run, code: str, reason: str) -> RunFailed:
    return RunFailed(
        task=run.task, via=run.via, error_type=code, reason=reason, stage=run.current, started=bool(run.stages)
    )
