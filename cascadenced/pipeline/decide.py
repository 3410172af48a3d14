"""What follows from an event of a run. Pure; whoever records the event records what follows in the same append."""

from __future__ import annotations

from functools import lru_cache

from cascadenced.events.base import Event
from cascadenced.events.run import RunFailed, RunFinished, RunStarted
from cascadenced.events.signal import ContextConsumed
from cascadenced.events.stage import StageFailed, StageFinished, StageStarted
from cascadenced.pipeline.model import STAGES, Run


def decide(run: Run, event: Event, *, elapsed_s: float) -> list[Event]:
    """What follows from `event`, which `run` already includes. elapsed_s: since the run started."""
    if type(event) is StageFailed and event.fatal:
        return [failed(run, event.error_type, event.reason, event.stage, elapsed_s)]
    return go_on(run, elapsed_s=elapsed_s) if type(event) in _LEADS_ON and run.status == "running" else []


_LEADS_ON: frozenset[type[Event]] = frozenset({RunStarted, StageFinished, StageFailed})
_AFTER = {stage: STAGES[i + 1 :] for i, stage in enumerate(STAGES)}
_REMEMBERED = 1_024
_TOLD = frozenset({"research", "plan", "run", "verify"})
"""Stages that begin with what the run was told meanwhile."""


def go_on(run: Run, *, elapsed_s: float) -> list[Event]:
    """The start of the next stage that there is something to do in, unless the run is paused; or the end."""
    stage, skipped = _next(run.stages, run.done[-1] if run.done else None, run.children is not None)
    if stage is None:
        return [RunFinished(task=run.task, via=run.via, skipped=skipped, took_s=elapsed_s)]
    if run.paused:
        return []
    started = StageStarted(task=run.task, stage=stage, attempt=1, code=run.code, skipped=skipped)
    return [started] if len(run.contexts) == run.n_consumed else [*told(run, stage), started]


@lru_cache(maxsize=_REMEMBERED)
def _next(stages: tuple[str, ...], last: str | None, has_plan: bool) -> tuple[str | None, tuple[str, ...]]:
    """The stage after `last` that there is something to do in, None if there is none; and those passed on the way."""
    rest = STAGES if last is None else _AFTER[last]
    for i, stage in enumerate(rest):
        if stage in stages or (stage == "run" and has_plan):
            return stage, rest[:i]
    return None, rest


def told(run: Run, stage: str) -> list[Event]:
    """That `stage` begins with what nobody was told before, if there is any."""
    news = run.contexts[run.n_consumed :]
    if not news or stage not in _TOLD:
        return []
    return [ContextConsumed(task=run.task, stage=stage, shown=tuple(each.shown for each in news))]


def again(run: Run, code: str) -> list[Event]:
    """Another attempt of the stage under way. code: digest of the source now."""
    assert run.current is not None
    return [
        *told(run, run.current),
        StageStarted(task=run.task, stage=run.current, attempt=run.attempt + 1, code=code, skipped=run.skipped),
    ]


def failed(run: Run, error_type: str, reason: str, stage: str | None, elapsed_s: float) -> RunFailed:
    """The end of the run in error. elapsed_s: since it started."""
    return RunFailed(task=run.task, via=run.via, error_type=error_type, reason=reason, stage=stage, took_s=elapsed_s)
