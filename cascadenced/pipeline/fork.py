"""A new run that begins with what another one has behind it. Pure.

What is taken over are the recorded ends of stages and what the run was told, as events of the new run's own: its stream
says all there is to know about it, and is folded like any other.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from cascadenced.errors import Conflict, Invalid
from cascadenced.events.base import Event
from cascadenced.events.run import RunRequested
from cascadenced.events.signal import ContextAttached, ContextConsumed
from cascadenced.events.stage import StageFailed, StageFinished, StageStarted
from cascadenced.pipeline.model import STAGES


def inherited(events: Sequence[Event], stage: str, hooks: Sequence[str]) -> list[Event]:
    """What a fork that begins with `stage` takes over. `events`: the other run's, all of them.

    hooks: the stages that the task has code for now. A stage that is taken over was not started here and took no time.
    Raises Invalid for a stage that there is not, Conflict for one that the run never came to or the task does not have.
    """
    if stage not in STAGES:
        raise Invalid(f"there is no stage {stage[:40]!r}: the stages are {', '.join(STAGES)}")
    request = events[0]
    if isinstance(request, RunRequested) and request.parent_run_id is not None:
        raise Conflict(
            f"the run was asked for by the plan of {request.parent_run_id}: fork that one", code="fork.child"
        )
    reached = [each for each in STAGES if any(_begins_or_ends(event, each) for event in events)]
    if stage not in reached:
        what = f"it came to {', '.join(reached)}" if reached else "it came to no stage at all"
        raise Conflict(f"the run never came to the stage {stage}: {what}", code="fork.not_reached")
    before = STAGES[: STAGES.index(stage)]
    taken: list[Event] = []
    has_plan_of_tasks = False
    for event in events:
        if isinstance(event, StageStarted) and event.stage == stage:
            break
        match event:
            case StageFinished() if event.stage in before:
                taken.append(replace(event, attempt=0, took_s=0.0, printed=None))
                has_plan_of_tasks |= event.children is not None
            case StageFailed(retry_at_us=None, fatal=False) if event.stage in before:
                taken.append(replace(event, attempt=0, took_s=0.0, printed=None))
            case ContextAttached():
                taken.append(event)
            case ContextConsumed() if event.stage in before:
                taken.append(event)
            case StageFinished() | StageFailed() if event.stage == stage:
                break  # of a fork itself, which took it over
    if stage not in hooks and not (stage == "run" and has_plan_of_tasks):
        raise Conflict(
            f"the task has no {stage}() any more: fork from one of {', '.join(hooks)}", code="fork.no_such_hook"
        )
    return taken


def _begins_or_ends(event: Event, stage: str) -> bool:
    return isinstance(event, StageStarted | StageFinished | StageFailed) and event.stage == stage
