"""Effects that must not happen twice and may have happened: what is known of them, who is asked, what is made of the
answer. Pure."""

from __future__ import annotations

from typing import Literal

from cascadenced.events.base import Event, Json
from cascadenced.events.place import in_order
from cascadenced.events.run import RunDoubted, RunFinished, RunResolved
from cascadenced.events.stage import StageFailed, StageFinished
from cascadenced.events.step import StepFinished
from cascadenced.pipeline.decide import again, decide, failed
from cascadenced.pipeline.model import ENDED, Run, Wait, evolve
from cascadenced.pipeline.policy import Policy

Resolution = Literal["retry", "done", "fail"]
RESOLUTIONS: tuple[Resolution, ...] = ("retry", "done", "fail")


# ── what may have happened ───────────────────────────────────────────────────────────────────────────────────────────


def may_have_happened(run: Run) -> bool:
    """Where a stage has begun to work in steps, its effects are in them: what is between them only leads there. Of a
    stage that has only waited so far nobody knows that it would. One that waits for runs of its plan has not begun."""
    if run.in_steps:
        return bool(run.open_steps)
    return run.current in run.stages and not run.has_children_to_do


def has_open_effect(run: Run) -> bool:
    """Whether something of a run that nobody performs, and that works at most once, has begun and has no end. A stage
    that waits did not end, and yet nothing of it is under way but such steps as it has left."""
    if run.status in ENDED or run.in_doubt is not None or run.current is None or run.is_settled:
        return False
    return bool(run.open_steps) or (_waits_for(run) is None and may_have_happened(run))


def _waits_for(run: Run) -> Wait | None:
    """Apart from being held."""
    return run.wait.before if run.wait is not None and run.wait.kind == "held" else run.wait


# ── what is said of it ───────────────────────────────────────────────────────────────────────────────────────────────


def doubt(run: Run, reason: str, *, crashes: int = 0) -> RunDoubted:
    """The effect under way may have happened."""
    assert run.current is not None
    place = min(run.open_steps, key=in_order, default="")
    return RunDoubted(
        task=run.task,
        stage=run.current,
        attempt=run.attempt,
        step=run.open_steps.get(place),
        place=place,
        reason=reason,
        crashes=crashes,
    )


def doubt_of(run: Run, *, crashes: int = 0) -> RunDoubted:
    """The same of a run that nobody performs. crashes: as in RunDoubted."""
    if _waits_for(run) is None:
        return doubt(run, "the process ended while it was under way", crashes=crashes)
    return doubt(run, "the stage was left while it was under way")


def question(run: Run) -> RunDoubted | None:
    """What somebody is to be asked about a run that nobody performs, if they were not yet: it follows from its events
    alone. So neither a pause, nor a task or an identity that is not here, conceals it."""
    return doubt_of(run) if run.on_doubt == "ask" and has_open_effect(run) else None


def in_doubt(run: Run, policy: Policy, doubted: RunDoubted, *, code: str, elapsed_s: float) -> list[Event]:
    """The doubt, and what the policy makes of it, unless somebody is to be asked."""
    events: list[Event] = [doubted]
    run = evolve(run, doubted)
    while run.status == "in_doubt" and policy.on_doubt != "ask":
        resolved = resolve(run, policy.on_doubt, by=None, output=None, elapsed_s=elapsed_s, by_policy=True)
        events += resolved
        for event in resolved:
            run = evolve(run, event)
    return [*events, *again(run, code)] if run.status == "running" else events


def cut_short(run: Run, policy: Policy, failure: StageFailed) -> RunDoubted | None:
    """The doubt that comes before the end of a stage that has failed for good, when it left a step under way."""
    if failure.retry_at_us is not None or policy.delivery != "at_most_once" or policy.on_doubt != "ask":
        return None
    return doubt(run, f"the stage failed while it was under way: {failure.reason}") if run.open_steps else None


def leave(run: Run, policy: Policy, *, elapsed_s: float) -> list[Event]:
    """What is to be said of a stage that waits now: of its steps that were under way when it was left, as those are
    that a task group cancels when another one has failed."""
    if run.wait is None or policy.delivery != "at_most_once" or not has_open_effect(run):
        return []
    return in_doubt(run, policy, doubt_of(run), code=run.code, elapsed_s=elapsed_s)


def resolutions(run: Run) -> tuple[Resolution, ...]:
    """What can be said of the doubt that `run` is in. A plan that no run() is handed is one of tasks, which nobody but
    plan() itself can make: taken for done, the run would end well, and nothing of what was planned had been done."""
    doubted = run.in_doubt
    is_plan = doubted is not None and doubted.stage == "plan" and doubted.step is None
    return ("retry", "fail") if is_plan and "run" not in run.stages else RESOLUTIONS


def resolve(
    run: Run, resolution: Resolution, *, by: str | None, output: Json, elapsed_s: float, by_policy: bool = False
) -> list[Event]:
    """What `resolution` says of the doubt that `run` is in; the next one, of another step, may follow. Nothing is
    started with it: whoever performs the run records what starts, or a start that nobody performs would be in doubt.

    output: what the effect returned, if it was done.
    """
    doubted = run.in_doubt
    assert doubted is not None
    task, stage = run.task, doubted.stage
    status = "running" if run.wait is None else "waiting"
    resolved = RunResolved(task=task, verdict=resolution, by=by, by_policy=by_policy, output=output, status=status)
    after = evolve(run, resolved)
    if resolution == "fail":
        what = f"the stage {stage}" if doubted.step is None else f"the step {doubted.step} of the stage {stage}"
        reason = f"{what} was in doubt, and is taken for failed"
        return [resolved, failed(after, "in_doubt", reason, stage, elapsed_s)]
    if resolution == "retry" or doubted.step is not None:
        events: list[Event] = [resolved]
        if resolution == "done" and doubted.step is not None:
            done = StepFinished(task=task, stage=stage, place=doubted.place, name=doubted.step, output=output)
            events.append(done)
            after = evolve(after, done)
        return [*events, doubt(after, doubted.reason, crashes=doubted.crashes)] if after.open_steps else events
    finished = StageFinished(task=task, stage=stage, attempt=run.attempt, output=output)
    following = decide(evolve(after, finished), finished, elapsed_s=elapsed_s)
    return [resolved, finished, *(event for event in following if type(event) is RunFinished)]
