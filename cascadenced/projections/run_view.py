"""Runs as people read them: a row of a list, and one run in full, folded from its own stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from cascadenced.clock import iso
from cascadenced.events.base import Event, Json, Recorded
from cascadenced.events.place import Place, in_order
from cascadenced.events.run import (
    TERMINAL,
    RunCancelled,
    RunDoubted,
    RunFailed,
    RunHeld,
    RunRequested,
    RunResolved,
)
from cascadenced.events.stage import StageFailed, StageFinished, StageStarted
from cascadenced.events.step import StepFailed, StepFinished, StepStarted
from cascadenced.events.streams import run_id_of
from cascadenced.events.wait import WaitEnded, WaitStarted
from cascadenced.pipeline.model import ENDED, STAGES, Child, Run, fold

MAX_STEPS_SHOWN = 100
"""Of one stage; the newest."""
MAX_STEP_OUTPUT_BYTES = 2 * 1024
"""Of one step."""
MAX_PRINTED_CHARS = 8 * 1024
"""Of one stage; the newest."""
_NOTHING_KNOWN: Mapping[str, str] = {}


class WaitView(msgspec.Struct):
    """What a run waits for. kind: prerequisites (runs that must succeed before it starts), sleep, event, children (runs
    of its plan), retry (of its stage), held (for a restart that can go on with it), or decision (`resolve`: what became
    of an effect in doubt).

    text: the same in words.  name: of the event, of the step in doubt, or the code of what it is held for.
    until: when that is over at the latest.  where: what the event's payload must hold.
    """

    kind: str
    text: str
    name: str | None = None
    until: str | None = None
    where: dict[str, Json] | None = None
    reason: str | None = None


class RunRow(msgspec.Struct):
    """A run in a list. Instants are ISO 8601 UTC. waits_for: also while it is paused; null: for nothing."""

    run_id: str
    task: str
    status: str
    stage: str | None
    attempt: int | None
    parent_run_id: str | None
    user_hash: str | None
    group_hash: str | None
    requested_at: str | None
    started_at: str | None
    finished_at: str | None
    waits_for: WaitView | None


class StepView(msgspec.Struct):
    """A step or a wait. kind: step, sleep or event.  status: started, waiting, success, error,
    or timeout: the event did not come.  took_s: seconds, of a step.  output: what a step returned; null, too,
    where that is longer than 2 KiB: the run's events have all of it.  error: what it raised."""

    place: Place
    kind: str
    name: str
    status: str
    took_s: float | None = None
    output: Json = None
    error: str | None = None


class StageView(msgspec.Struct):
    """status: pending (not reached), started, waiting, in_doubt, success, error, cancelled or skipped.

    took_s: seconds of the last attempt.  steps: the newest 100 of n_steps.  printed: by the last attempt, in a process
    of its own; the end of it.
    """

    stage: str
    status: str
    started_at: str | None = None
    took_s: float | None = None
    attempt: int = 0
    output: Json = None
    n_steps: int = 0
    steps: list[StepView] = []
    printed: str | None = None


class ChildView(msgspec.Struct):
    """A run that the plan asks for. run_id: the newest at this place, null: not asked for yet.

    status: planned, running (asked for and not ended), success, error, cancelled or refused.
    """

    index: int
    task: str
    run_id: str | None
    status: str
    attempt: int


class RunError(msgspec.Struct):
    """Why a run ended in error or was refused."""

    type: str
    message: str


class RunView(RunRow):
    """One run in full. stages: all six, in pipeline order.  children: in the plan's order."""

    args: dict[str, Json]
    result: Json
    error: RunError | None
    stages: list[StageView]
    children: list[ChildView]


def wait_of(event: Event) -> WaitView | None:
    """What a run waits for after `event`, if it is one that lets it wait."""
    match event:
        case WaitStarted(kind="children"):
            return WaitView("children", "the runs of its plan")
        case WaitStarted(kind="event", name=name, until_us=until_us, where=where):
            text = f"the event {name}{_until(until_us)}"
            return WaitView("event", text, name, None if until_us is None else iso(until_us), where or None)
        case WaitStarted(kind=kind, until_us=until_us):
            return WaitView(
                kind, f"a time to pass{_until(until_us)}", until=None if until_us is None else iso(until_us)
            )
        case StageFailed(retry_at_us=int(at_us), reason=reason):
            return WaitView("retry", f"its next attempt, at {_short(at_us)}", until=iso(at_us), reason=reason)
        case RunHeld(code=code, reason=reason):
            return WaitView("held", f"a restart: {reason}", code, reason=reason)
        case RunDoubted(stage=stage, step=step, reason=reason):
            what = f"the stage {stage}" if step is None else f"the step {step}"
            return WaitView("decision", f"a decision about {what}: retry, done or fail", step, reason=reason)
    return None


def for_prerequisites() -> WaitView:
    """What a run waits for that must not start yet. Its events do not say whether it still does."""
    return WaitView("prerequisites", "the runs that must come before it")


def _until(at_us: int | None) -> str:
    return "" if at_us is None else f", until {_short(at_us)}"


def _short(at_us: int) -> str:
    return f"{iso(at_us)[:19].replace('T', ' ')}Z"


def run_view(events: Sequence[Recorded], statuses: Mapping[str, str] = _NOTHING_KNOWN) -> RunView:
    """A run's stream, folded for people. `events`: all of them, from the first.

    statuses: of the runs that it requires, by id.
    """
    first = events[0]
    run = fold(recorded.event for recorded in events)
    stages = {stage: StageView(stage, "pending") for stage in STAGES}
    steps: dict[str, dict[Place, StepView]] = {stage: {} for stage in STAGES}
    times: dict[str, int] = {}
    for recorded in events:
        _show_stage(stages, recorded)
        _show_step(steps, recorded.event)
        times[recorded.type] = times.get(recorded.type, recorded.at_us)
    for stage, places in steps.items():
        stages[stage].n_steps = len(places)
        newest = list(places.values())[-MAX_STEPS_SHOWN:]
        stages[stage].steps = sorted(newest, key=lambda step: in_order(step.place))
    if run.stages or run.status in ENDED:
        for stage, view in stages.items():
            if not run.has_part_in(stage):
                view.status = "skipped"
    request = first.event
    last_stage = next((r.event.stage for r in reversed(events) if isinstance(r.event, StageStarted)), None)
    finished = next((times[kind] for kind in TERMINAL if kind in times), None)
    return RunView(
        run_id=first.run_id or run_id_of(first.stream),
        task=run.task,
        status=run.shown_status,
        stage=last_stage,
        attempt=stages[last_stage].attempt if last_stage else None,
        parent_run_id=request.parent_run_id if isinstance(request, RunRequested) else None,
        user_hash=first.user_hash,
        group_hash=first.group_hash,
        requested_at=iso(first.at_us),
        started_at=iso(times["run.started"]) if "run.started" in times else None,
        finished_at=iso(finished) if finished else None,
        waits_for=_waits_for(run, events, statuses),
        args=run.args,
        result=run.result if run.status == "success" else None,
        error=RunError(run.error_type, run.reason or "") if run.error_type else None,
        stages=list(stages.values()),
        children=[_child_view(run, index, child) for index, child in enumerate(run.children or ())],
    )


def _waits_for(run: Run, events: Sequence[Recorded], statuses: Mapping[str, str]) -> WaitView | None:
    if run.still_requires(statuses):
        return for_prerequisites()
    kind = "decision" if run.in_doubt is not None else None if run.wait is None else run.wait.kind
    waits = filter(None, (wait_of(recorded.event) for recorded in reversed(events)))
    return next((wait for wait in waits if wait.kind == kind), None)


def _child_view(run: Run, index: int, child: Child) -> ChildView:
    if child.ended is not None:
        status = child.ended.status
    elif child.run_id is None:
        status = "planned"
    else:  # runs of a plan do not outlive it
        status = "cancelled" if run.status in ENDED else "running"
    return ChildView(index, child.planned.name, child.run_id, status, child.attempt)


def _show_stage(stages: dict[str, StageView], recorded: Recorded) -> None:
    event = recorded.event
    if isinstance(event, StageFinished | StageFailed | WaitStarted) and event.printed:
        view = stages[event.stage]
        view.printed = f"{view.printed or ''}{event.printed}"[-MAX_PRINTED_CHARS:]
    match recorded.event:
        case StageStarted(stage=stage, attempt=attempt):
            view = stages[stage]
            view.status, view.attempt, view.started_at, view.printed = "started", attempt, iso(recorded.at_us), None
        case StageFinished(stage=stage, output=output, took_s=took_s):
            view = stages[stage]
            view.status, view.output, view.took_s = "success", output, took_s
        case StageFailed(stage=stage, took_s=took_s, retry_at_us=retry_at_us):
            view = stages[stage]
            view.status = "error" if retry_at_us is None else "waiting"
            view.took_s, view.output = took_s, recorded.event.partial
        case WaitStarted(stage=stage):
            stages[stage].status = "waiting"
        case WaitEnded(stage=stage):
            stages[stage].status = "started"
        case RunDoubted(stage=stage):
            stages[stage].status = "in_doubt"
        case RunResolved(status=status):
            for view in stages.values():
                if view.status == "in_doubt":
                    view.status = "waiting" if status == "waiting" else "started"
        case RunFailed(stage=str(stage)):  # it was under way when the run was given up
            stages[stage].status = "error"
        case RunCancelled(stage=str(stage)):
            stages[stage].status = "cancelled"


def _show_step(steps: dict[str, dict[Place, StepView]], event: Event) -> None:
    match event:
        case StepStarted(stage=stage, place=place, name=name):
            steps[stage][place] = StepView(place, "step", name, "started")
        case StepFinished(stage=stage, place=place, name=name, took_s=took_s, output=output):
            shown = output if len(msgspec.json.encode(output)) <= MAX_STEP_OUTPUT_BYTES else None
            steps[stage][place] = StepView(place, "step", name, "success", took_s, shown)
        case StepFailed(stage=stage, place=place, name=name, took_s=took_s):
            error = f"{event.error_type}: {event.reason}"
            steps[stage][place] = StepView(place, "step", name, "error", took_s, None, error)
        case WaitStarted(stage=stage, place=place, kind="sleep" | "event" as kind, name=name):
            steps[stage][place] = StepView(place, kind, name, "waiting")
        case WaitEnded(stage=stage, place=place, kind="sleep" | "event" as kind, name=name, outcome=outcome):
            steps[stage][place] = StepView(place, kind, name, "timeout" if outcome == "timeout" else "success")
