"""What follows from an event of a run. Pure; whoever records the event records what follows in the same append."""

from __future__ import annotations

from typing import Literal

from cascadenced.events.base import Event
from cascadenced.events.run import RunFailed, RunFinished, RunResumed, RunStarted
from cascadenced.events.stage import StageFailed, StageFinished, StageStarted
from cascadenced.pipeline.model import STAGES, Run

CRASHES_TO_SUSPECT = 3
CRASHES_TO_GIVE_UP = 5

Verdict = Literal["resume", "alone", "give_up"]


def decide(run: Run, event: Event, *, elapsed_s: float) -> list[Event]:
    """What follows from `event`, which `run` already includes. elapsed_s: since the run started."""
    if type(event) is StageFailed and event.fatal:
        return [
            RunFailed(
                task=run.task,
                via=run.via,
                error_type=event.error_type,
                reason=event.reason,
                stage=event.stage,
                took_s=elapsed_s,
            )
        ]
    return [go_on(run, elapsed_s=elapsed_s)] if type(event) in _LEADS_ON else []


_LEADS_ON: frozenset[type[Event]] = frozenset({RunStarted, StageFinished, StageFailed})
_AFTER = {stage: STAGES[i + 1 :] for i, stage in enumerate(STAGES)}


def go_on(run: Run, *, elapsed_s: float) -> StageStarted | RunFinished:
    """The next stage that the task has code for, or the end."""
    rest = _AFTER[run.done[-1]] if run.done else STAGES
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
    resumed: list[Event] = [RunResumed(task=run.task)] if run.status == "waiting" else []
    if run.current is None:
        return [*resumed, go_on(run, elapsed_s=elapsed_s)]
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
        *resumed,
        StageStarted(task=run.task, stage=run.current, attempt=run.attempt + 1, code=code, skipped=run.skipped),
    ]
