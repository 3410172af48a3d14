"""A run's state: nothing but its events, folded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import reduce
from typing import Any, Literal

import msgspec
from msgspec.structs import replace

from cascadenced.events.base import Event, Json
from cascadenced.events.child import ChildEnded, ChildRequested, Planned
from cascadenced.events.place import Place
from cascadenced.events.run import (
    RunCancelled,
    RunDoubted,
    RunFailed,
    RunFinished,
    RunHeld,
    RunPaused,
    RunRefused,
    RunReleased,
    RunRequested,
    RunResolved,
    RunResumed,
    RunStarted,
)
from cascadenced.events.signal import ContextAttached, ContextConsumed
from cascadenced.events.stage import StageFailed, StageFinished, StageInterrupted, StageStarted
from cascadenced.events.step import StepFailed, StepFinished, StepStarted
from cascadenced.events.wait import WaitEnded, WaitStarted

STAGES = ("intake", "research", "plan", "precheck", "run", "verify")
"""In the order every run passes them."""

Status = Literal["queued", "running", "waiting", "in_doubt", "success", "error", "cancelled", "refused"]
ENDED: frozenset[Status] = frozenset({"success", "error", "cancelled", "refused"})


class Wait(msgspec.Struct, frozen=True, gc=False):
    """What a run waits for. kind: sleep, event, children, retry, or held: for a restart.

    The other fields are those of WaitStarted. until_us: None, as long as it takes.  before: what a run that is held
    waited for by then, and waits for again after it.
    """

    kind: str
    until_us: int | None = None
    place: Place = ""
    name: str = ""
    where: dict[str, Json] = {}
    before: Wait | None = None

    def is_met_by(self, payload: Mapping[str, Json]) -> bool:
        """Whether an event of the name that it waits for, with this payload, is the one."""
        return all(key in payload and _is_equal(payload[key], value) for key, value in self.where.items())


def _is_equal(one: Json, other: Json) -> bool:
    """As JSON has it: 7 and 7.0 are the same number, and no number is true or false."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_is_equal(value, other[key]) for key, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_is_equal, one, other))
    return isinstance(one, bool) == isinstance(other, bool) and one == other


class Mark(msgspec.Struct, frozen=True, gc=False):
    """A step or a wait that has ended. kind: step, sleep or event.  output: what the code is handed.
    timed_out: of a wait for an event that did not come."""

    kind: str
    name: str
    output: Json = None
    timed_out: bool = False


class Handed(msgspec.Struct, frozen=True, gc=False):
    """Positions of the events of one name that waits of a run were handed: of those of its group all up to `until`,
    and behind that these `besides`, which others were passed over for."""

    until: int = 0
    besides: frozenset[int] = frozenset()

    def __contains__(self, position: int) -> bool:
        return position <= self.until or position in self.besides

    def after(self, position: int, *, is_any: bool) -> Handed:
        """is_any: that wait would have taken any, so that there was none before this one."""
        if is_any:
            until = max(self.until, position)
            return Handed(until, frozenset(each for each in self.besides if each > until))
        return Handed(self.until, self.besides | {position})


NOTHING_HANDED = Handed()


class Child(msgspec.Struct, frozen=True, gc=False):
    """A place in the plan. run_id: of the run that was asked for last, None: not yet.  ended: how that went."""

    planned: Planned
    run_id: str | None = None
    attempt: int = 0
    ended: ChildEnded | None = None

    @property
    def is_done(self) -> bool:
        return self.ended is not None and self.ended.status == "success"


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """stages: those the task has code for.  done: those that ended, in order.  outputs: what each put out.

    on_doubt: as in RunStarted.  lineage: of the error that its last failed stage raised, as in StageFailed.

    current: the stage that is to be performed now, None between stages and at the ends.
    attempt: starts of `current` so far.  open_starts: those of them that were followed by nothing: each but the last
    one was ended by a crash of the process, and after a restart the last one was too.
    n_failed: attempts of `current` that raised.
    marks: by place, what `current` has behind it.  open_steps: by place, names of steps that must not happen twice and
    have begun.  in_steps: whether `current` has begun any, at this attempt or another.
    wait: what it waits for, also while it is in doubt.  in_doubt: the effect that may have happened.
    is_settled: it was in doubt, somebody has said what to make of that, and `current` was not started since.
    contexts: what it was told, oldest first; the first n_consumed of them a stage has begun with.
    requires: runs that must have succeeded before it starts.
    children: what the plan asks for, None: it was not one of tasks.  handed: by name, events that it was.
    """

    task: str = ""
    via: str = ""
    args: dict[str, Json] = {}
    depth: int = 0
    priority: int = 0
    nesting: int = 0
    parent_run_id: str | None = None
    requires: tuple[str, ...] = ()
    status: Status = "queued"
    paused: bool = False
    stages: tuple[str, ...] = ()
    code: str = ""
    on_doubt: str | None = None
    done: tuple[str, ...] = ()
    outputs: dict[str, Json] = {}
    current: str | None = None
    attempt: int = 0
    open_starts: int = 0
    n_failed: int = 0
    skipped: tuple[str, ...] = ()
    marks: Mapping[Place, Mark] = {}
    open_steps: Mapping[Place, str] = {}
    in_steps: bool = False
    wait: Wait | None = None
    in_doubt: RunDoubted | None = None
    is_settled: bool = False
    contexts: tuple[ContextAttached, ...] = ()
    n_consumed: int = 0
    children: tuple[Child, ...] | None = None
    parallel: bool = False
    handed: Mapping[str, Handed] = {}
    error_type: str | None = None
    reason: str | None = None
    lineage: tuple[str, ...] = ()

    @property
    def result(self) -> Json:
        """What the run returned: `verify`'s output if the task has it, else `run`'s."""
        return self.outputs.get("verify" if "verify" in self.stages else "run")

    @property
    def shown_status(self) -> str:
        """What people are told: a pause covers everything but the end."""
        return "paused" if self.paused and self.status not in ENDED else self.status

    @property
    def awaits(self) -> Wait | None:
        """What lets it go on by itself: nothing does while it is paused or in doubt."""
        return None if self.paused or self.in_doubt is not None else self.wait

    @property
    def is_held_back(self) -> bool:
        """Whether it must not start before other runs have succeeded; whether they have, it does not know."""
        return bool(self.requires) and not self.stages and self.status == "queued"

    def still_requires(self, statuses: Mapping[str, str]) -> bool:
        """Whether it waits for other runs before it may start. statuses: theirs, by id; one without any counts too."""
        return self.is_held_back and any(statuses.get(run_id) != "success" for run_id in self.requires)

    @property
    def has_children_to_do(self) -> bool:
        """Whether the stage under way has to wait for runs of its plan first."""
        return self.current == "run" and not all(child.is_done for child in self.children or ())

    def has_part_in(self, stage: str) -> bool:
        """Whether there is something to do in `stage`: code of the task, or the runs of its plan."""
        return stage in self.stages or (stage == "run" and self.children is not None)

    @property
    def child_results(self) -> list[Json]:
        """What the runs of its plan returned, in the plan's order."""
        return [None if child.ended is None else child.ended.output for child in self.children or ()]


def evolve(run: Run, event: Event) -> Run:
    """`run` after `event`. Events of other families leave it alone."""
    change = _CHANGES.get(type(event))
    return run if change is None else change(run, event)


def fold(events: Iterable[Event]) -> Run:
    """The run whose events these are, from the first on."""
    return reduce(evolve, events, Run())


# ── the run ──────────────────────────────────────────────────────────────────────────────────────────────────


def _requested(_: Run, event: RunRequested) -> Run:
    return Run(
        task=event.task,
        via=event.via,
        args=event.args,
        depth=event.depth,
        priority=event.priority,
        nesting=event.nesting,
        parent_run_id=event.parent_run_id,
        requires=event.requires,
    )


def _started(run: Run, event: RunStarted) -> Run:
    return replace(run, status="running", stages=event.stages, code=event.code, on_doubt=event.on_doubt)


def _paused(run: Run, _: RunPaused) -> Run:
    return replace(run, paused=True)


def _resumed(run: Run, _: RunResumed) -> Run:
    return replace(run, paused=False)


def _held(run: Run, event: RunHeld) -> Run:
    before = run.wait.before if run.wait is not None and run.wait.kind == "held" else run.wait
    held = Wait("held", name=event.code, before=before)
    return replace(run, status="waiting", wait=held, reason=event.reason)


def _released(run: Run, _: RunReleased) -> Run:
    before = None if run.wait is None else run.wait.before
    status: Status = "running" if run.stages else "queued"
    if run.in_doubt is not None:
        status = "in_doubt"
    elif before is not None:
        status = "waiting"
    return replace(run, status=status, wait=before, reason=None)


def _doubted(run: Run, event: RunDoubted) -> Run:
    return replace(run, status="in_doubt", in_doubt=event, is_settled=False, open_starts=0)


def _resolved(run: Run, event: RunResolved) -> Run:
    doubted = run.in_doubt
    return replace(
        run,
        status="waiting" if event.status == "waiting" else "running",
        wait=run.wait if event.status == "waiting" else None,
        in_doubt=None,
        is_settled=True,
        open_steps=run.open_steps if doubted is None else _without(run.open_steps, doubted.place),
        open_starts=0 if doubted is None else doubted.crashes,
    )


def _finished(run: Run, _: RunFinished) -> Run:
    return replace(run, status="success", current=None)


def _failed(run: Run, event: RunFailed) -> Run:
    return replace(run, status="error", current=None, wait=None, error_type=event.error_type, reason=event.reason)


def _cancelled(run: Run, event: RunCancelled) -> Run:
    return replace(
        run, status="cancelled", current=None, wait=None, in_doubt=None, error_type="cancelled", reason=event.reason
    )


def _refused(run: Run, event: RunRefused) -> Run:
    return replace(run, status="refused", error_type=event.code, reason=event.reason)


# ── its stages ───────────────────────────────────────────────────────────────────────────────────────────────


def _stage_started(run: Run, event: StageStarted) -> Run:
    return replace(
        run,
        status="running",
        current=event.stage,
        attempt=event.attempt,
        open_starts=run.open_starts + 1,
        skipped=event.skipped,
        code=event.code,
        wait=None,
        is_settled=False,
    )


_NO_MARKS: Mapping[Place, Mark] = {}
_NO_STEPS: Mapping[Place, str] = {}


def _stage_finished(run: Run, event: StageFinished) -> Run:
    outputs = run.outputs if event.output is None else {**run.outputs, event.stage: event.output}
    children = None if event.children is None else tuple(map(Child, event.children))
    return replace(
        run,
        done=(*run.done, event.stage),
        outputs=outputs,
        current=None,
        is_settled=False,
        attempt=0,
        open_starts=0,
        n_failed=0,
        marks=_NO_MARKS,
        open_steps=_NO_STEPS,
        in_steps=False,
        children=run.children if children is None else children,
        parallel=run.parallel or event.parallel,
    )


def _stage_failed(run: Run, event: StageFailed) -> Run:
    if event.retry_at_us is not None:
        return replace(
            run,
            status="waiting",
            wait=Wait("retry", event.retry_at_us),
            open_starts=0,
            n_failed=run.n_failed + 1,
        )
    return replace(
        run,
        done=(*run.done, event.stage),
        current=None,
        attempt=0,
        open_starts=0,
        n_failed=0,
        marks=_NO_MARKS,
        open_steps=_NO_STEPS,
        in_steps=False,
        lineage=event.lineage,
    )


def _stage_interrupted(run: Run, _: StageInterrupted) -> Run:
    return replace(run, open_starts=0)


# ── what a stage does on its way ─────────────────────────────────────────────────────────────────────────────


def _step_started(run: Run, event: StepStarted) -> Run:
    return replace(run, open_steps={**run.open_steps, event.place: event.name}, in_steps=True)


def _step_finished(run: Run, event: StepFinished) -> Run:
    mark = Mark("step", event.name, event.output)
    open_steps = _without(run.open_steps, event.place)
    open_starts = min(run.open_starts, 1)  # none, where somebody has said that it is done
    marks = {**run.marks, event.place: mark}
    return replace(run, marks=marks, open_steps=open_steps, in_steps=True, open_starts=open_starts)


def _step_failed(run: Run, event: StepFailed) -> Run:
    return replace(run, open_steps=_without(run.open_steps, event.place), in_steps=True)


def _without(open_steps: Mapping[Place, str], done: Place) -> Mapping[Place, str]:
    return {place: name for place, name in open_steps.items() if place != done} if open_steps else open_steps


def _wait_started(run: Run, event: WaitStarted) -> Run:
    wait = Wait(event.kind, event.until_us, event.place, event.name, event.where)
    return replace(run, status="waiting", wait=wait, open_starts=0)


def _wait_ended(run: Run, event: WaitEnded) -> Run:
    marks, handed = run.marks, run.handed
    if event.kind != "children":
        mark = Mark(event.kind, event.name, event.payload, timed_out=event.outcome == "timeout")
        marks = {**marks, event.place: mark}
    if event.position:
        before, is_any = handed.get(event.name, NOTHING_HANDED), run.wait is not None and not run.wait.where
        handed = {**handed, event.name: before.after(event.position, is_any=is_any)}
    return replace(run, status="running", wait=None, marks=marks, handed=handed, open_starts=1, is_settled=False)


def _child_requested(run: Run, event: ChildRequested) -> Run:
    return _with_child(run, event.index, run_id=event.child_run_id, attempt=event.attempt, ended=None)


def _child_ended(run: Run, event: ChildEnded) -> Run:
    return _with_child(run, event.index, ended=event)


def _with_child(run: Run, index: int, **changes: Any) -> Run:
    children = run.children or ()
    if not 0 <= index < len(children):
        return run
    return replace(run, children=(*children[:index], replace(children[index], **changes), *children[index + 1 :]))


def _context_attached(run: Run, event: ContextAttached) -> Run:
    return replace(run, contexts=(*run.contexts, event))


def _context_consumed(run: Run, event: ContextConsumed) -> Run:
    return replace(run, n_consumed=run.n_consumed + len(event.shown))


_CHANGES: Mapping[type[Event], Callable[[Run, Any], Run]] = {
    RunRequested: _requested,
    RunStarted: _started,
    StageStarted: _stage_started,
    StageFinished: _stage_finished,
    StageFailed: _stage_failed,
    StageInterrupted: _stage_interrupted,
    StepStarted: _step_started,
    StepFinished: _step_finished,
    StepFailed: _step_failed,
    WaitStarted: _wait_started,
    WaitEnded: _wait_ended,
    ChildRequested: _child_requested,
    ChildEnded: _child_ended,
    ContextAttached: _context_attached,
    ContextConsumed: _context_consumed,
    RunPaused: _paused,
    RunResumed: _resumed,
    RunHeld: _held,
    RunReleased: _released,
    RunDoubted: _doubted,
    RunResolved: _resolved,
    RunFinished: _finished,
    RunFailed: _failed,
    RunCancelled: _cancelled,
    RunRefused: _refused,
}
"""By type: a chain of patterns costs 0.2 µs for each that does not fit."""
