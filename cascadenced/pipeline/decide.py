"""What follows from an event of a run. Pure; whoever records the event records what follows in the same append."""

from __future__ import annotations

from typing import Literal

from cascadenced.events.base import Event
from cascadenced.events.run import RunFailed, RunFinished, RunStarted
from cascadenced.events.stage import StageFailed, StageFinished, StageStarted
from cascadenced.pipeline.model import STAGES, Run

CRASHES_TO_SUSPECT = 3
CRASHES_TO_GIVE_UP = 5

Verdict = Literal["resume", "alone", "give_up"]


def decide(run: Run, event: Event, *, elapsed_s: float) -> list[Event]:
    """What follows from `event`, which `run` already includes. elapsed_s: since the run started."""
    match event:
        case RunStarted() | StageFinished() | StageFailed(fatal=False):
            return [go_on(run, elapsed_s=elapsed_s)]
        case StageFailed(stage=stage):
            return [
                RunFailed(
                    task=run.task,
                    via=run.via,
                    error_type=event.error_type,
                    reason=event.reason,
                    stage=stage,
                    took_s=elapsed_s,
                )
            ]
    return []


def go_on(run: Run, *, elapsed_s: float) -> StageStarted | RunFinished:
    """The next stage that the task has code for, or the end."""
    rest = STAGES[STAGES.index(run.done[-1]) + 1 :] if run.done else STAGES
    for i, stage in enumerate(rest):
        if stage in run.stages:
            return StageStarted(task=run.task, stage=stage, attempt=1, code=run.code, skipped=rest[:i])
    return RunFinished(task=run.task, via=run.via, skipped=rest, took_s=elapsed_s)


def verdict(run: Run) -> Verdict:
    """What a restart does about a run whose stage was under way when the process died.

    After the third crash in a row it is a suspect and goes on alone; after the fifth it is the culprit and ends.
    """
    if run.open_starts >= CRASHES_TO_GIVE_UP:
        return "give_up"
    return "alone" if run.open_starts >= CRASHES_TO_SUSPECT else "resume"


def resume(run: Run, *, code: str, elapsed_s: float) -> list[Event]:
    """What is recorded when a run that has started goes on after a restart. code: digest of the source now."""
    if run.current is None:
        return [go_on(run, elapsed_s=elapsed_s)]
    if verdict(run) == "give_up":
        return [
            RunFailed(
                task=run.task,
                via=run.via,
                error_type="crash_loop",
                reason=f"the process died {run.open_starts} times in a row while the stage {run.current} was under way",
                stage=run.current,
                took_s=elapsed_s,
            )
        ]
    return [
        StageStarted(task=run.task, stage=run.current, attempt=run.attempt + 1, code=code, skipped=run.skipped),
    ]
