"""What others may ask of a run under way, and what is recorded of it. Pure; raises Conflict where it makes no sense."""

from __future__ import annotations

from functools import reduce

from cascadenced.errors import Conflict, Invalid
from cascadenced.events.base import Event, Json
from cascadenced.events.run import RunCancelled, RunFailed, RunFinished, RunPaused, RunResumed
from cascadenced.events.signal import ContextAttached
from cascadenced.pipeline.doubts import RESOLUTIONS, doubt, question, resolutions, resolve
from cascadenced.pipeline.model import ENDED, Run, evolve

MAX_CONTEXTS = 1_000
"""That one run is told, in all."""


def pause(run: Run, *, by: str | None) -> list[Event]:
    """Nothing if it is paused already."""
    _refuse_ended(run, "paused")
    return [] if run.paused else [RunPaused(task=run.task, by=by)]


def unpause(run: Run, *, by: str | None) -> list[Event]:
    """The end of a pause. The run itself goes on as after a restart."""
    _refuse_ended(run, "resumed")
    if not run.paused:
        raise Conflict(f"the run is {run.shown_status}, not paused: there is nothing to resume", code="not_paused")
    return [RunResumed(task=run.task, by=by)]


def cancel(run: Run, *, via: str, by: str | None, reason: str, elapsed_s: float) -> list[Event]:
    """The end of the run, whatever it is about."""
    _refuse_ended(run, "cancelled")
    return [
        RunCancelled(
            task=run.task, via=via, reason=reason, stage=run.current, by=by, took_s=elapsed_s, started=bool(run.stages)
        )
    ]


def is_unwanted(run_id: str, parent: Run) -> bool:
    """Whether nobody waits any more for a run that `parent` asked for."""
    return parent.status in ENDED or all(child.run_id != run_id for child in parent.children or ())


def is_answer_due(run: Run) -> bool:
    """Whether somebody has to say what became of its effect, before it may end without that."""
    return run.in_doubt is not None or question(run) is not None


def abandon(run: Run, *, reason: str, elapsed_s: float) -> list[Event]:
    """The end of a run that is unwanted. One whose effect may have happened is in doubt instead, until somebody has
    said what became of it; nothing, if it is already."""
    _refuse_ended(run, "cancelled")
    if run.in_doubt is not None:
        return []
    if is_answer_due(run):
        return [doubt(run, f"{reason} while it was under way")]
    return cancel(run, via="plan", by=None, reason=reason, elapsed_s=elapsed_s)


def attach(run: Run, payload: Json, *, via: str, by: str | None, shown: str | None) -> list[Event]:
    """Something the run is told. What comes after `verify` began is recorded, and nobody reads it."""
    _refuse_ended(run, "signalled")
    if len(run.contexts) >= MAX_CONTEXTS:
        raise Conflict(f"the run was told {MAX_CONTEXTS} things already; no more are taken", code="too_many_contexts")
    return [ContextAttached(task=run.task, via=via, payload=payload, shown=shown, by=by)]


def is_consumed_at_once(run: Run) -> bool:
    """Whether no stage is under way, so that the next one to start is told."""
    return run.current is None or run.wait is not None or run.status == "in_doubt"


def decide_resolution(
    run: Run, resolution: str, *, by: str | None, output: Json, elapsed_s: float, unwanted: str | None = None
) -> list[Event]:
    """What becomes of a run in doubt. unwanted: why nobody wants it any more; then its last doubt is its end, however
    that is resolved."""
    verdict = next((each for each in RESOLUTIONS if each == resolution), None)
    if verdict is None:
        raise Invalid(f"a doubt is resolved by {', '.join(RESOLUTIONS)}, not {resolution[:40]!r}")
    if run.status != "in_doubt":
        raise Conflict(f"the run is {run.shown_status}, not in doubt: there is nothing to resolve", code="not_in_doubt")
    if verdict not in resolutions(run):
        raise Conflict(
            f"the stage plan cannot be taken for done: the runs that {run.task} plans are known only from its plan(), "
            "and nothing else is done with it; resolve it by retry or fail",
            code="plan.unknown",
        )
    events = resolve(run, verdict, by=by, output=output, elapsed_s=elapsed_s)
    if unwanted is None:
        return events
    settled = [event for event in events if type(event) not in (RunFinished, RunFailed)]
    after = reduce(evolve, settled, run)
    if after.in_doubt is not None:
        return settled
    reason = f"{unwanted}: what was in doubt is settled ({verdict}), and nothing is done again"
    return [*settled, *cancel(after, via="plan", by=None, reason=reason, elapsed_s=elapsed_s)]


def _refuse_ended(run: Run, what: str) -> None:
    if run.status in ENDED:
        raise Conflict(
            f"the run has ended ({run.status}): it cannot be {what} any more; "
            "to do it again, fork it or ask for another",
            code="run_ended",
        )
