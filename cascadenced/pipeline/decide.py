"""What follows from an event of a run. Pure; whoever records the event records what follows in the same append."""

from __future__ import annotations

from functools import lru_cache, reduce
from typing import Literal

from cascadenced.events.base import Event, Json
from cascadenced.events.place import in_order
from cascadenced.events.run import (
    RunDoubted,
    RunFailed,
    RunFinished,
    RunHeld,
    RunReleased,
    RunResolved,
    RunStarted,
)
from cascadenced.events.signal import ContextConsumed
from cascadenced.events.stage import StageFailed, StageFinished, StageStarted
from cascadenced.events.step import StepFinished
from cascadenced.events.wait import WaitEnded
from cascadenced.pipeline.model import ENDED, STAGES, Run, Wait, evolve
from cascadenced.pipeline.policy import Policy

CRASHES_TO_SUSPECT = 3
CRASHES_TO_GIVE_UP = 5

Verdict = Literal["resume", "alone", "give_up"]
Resolution = Literal["retry", "done", "fail"]
RESOLUTIONS: tuple[Resolution, ...] = ("retry", "done", "fail")


def decide(run: Run, event: Event, *, elapsed_s: float) -> list[Event]:
    """What follows from `event`, which `run` already includes. elapsed_s: since the run started."""
    if type(event) is StageFailed and event.fatal:
        return [_failed(run, event.error_type, event.reason, event.stage, elapsed_s)]
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


def verdict(run: Run) -> Verdict:
    """What a restart does about a run whose stage was under way when the process died.

    After the third crash in a row it is a suspect and goes on alone; after the fifth it is the culprit and ends.
    """
    if run.open_starts >= CRASHES_TO_GIVE_UP:
        return "give_up"
    return "alone" if run.open_starts >= CRASHES_TO_SUSPECT else "resume"


def resume(
    run: Run, policy: Policy, *, code: str, elapsed_s: float, now_us: int, woken: WaitEnded | None = None
) -> list[Event]:
    """What is recorded when a run that has started, and that nobody performs, is looked at again; nothing if it has to
    wait on.

    code: digest of the source now.  woken: what it waited for, if that has come.
    """
    if run.status in ENDED or run.status == "in_doubt" or run.paused:
        return []
    wait = run.wait
    if wait is None:
        return _gone_on(run, policy, code, elapsed_s)
    if wait.kind == "held":
        after = evolve(run, RunReleased(task=run.task))
        released = RunReleased(task=run.task, status=after.status)
        return [released, *resume(after, policy, code=code, elapsed_s=elapsed_s, now_us=now_us)]
    if left := leave(run, policy, elapsed_s=elapsed_s):
        after = reduce(evolve, left, run)
        return [*left, *resume(after, policy, code=code, elapsed_s=elapsed_s, now_us=now_us, woken=woken)]
    if wait.kind == "retry":
        return [] if wait.until_us is not None and wait.until_us > now_us else _again(run, code)
    assert run.current is not None
    if woken is None and wait.kind != "children" and wait.until_us is not None and wait.until_us <= now_us:
        woken = WaitEnded(
            task=run.task,
            stage=run.current,
            place=wait.place,
            kind=wait.kind,
            name=wait.name,
            outcome="elapsed" if wait.kind == "sleep" else "timeout",
        )
    return [] if woken is None else [woken, *told(run, run.current)]


def code_changed(run: Run, policy: Policy, code: str) -> RunHeld | None:
    """Whether the run must not go on, because its code is not what it began with. code: digest of the source now."""
    if policy.on_code_change == "go_on" or not run.code or run.code == code or run.status in ENDED:
        return None
    reason = (
        f"the code of the task {run.task} changed while the run was under way (from {run.code} to {code}): put the old "
        "code back, or cancel the run, or fork it"
    )
    return RunHeld(task=run.task, code="code_changed", reason=reason)


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


def question(run: Run) -> RunDoubted | None:
    """What somebody is to be asked about a run that nobody performs, if they were not yet: it follows from its events
    alone. So neither a pause, nor a task or an identity that is not here, conceals it."""
    return _doubt_of(run) if run.on_doubt == "ask" and has_open_effect(run) else None


def in_doubt(run: Run, policy: Policy, doubted: RunDoubted, *, code: str, elapsed_s: float) -> list[Event]:
    """The doubt, and what the policy makes of it, unless somebody is to be asked."""
    events: list[Event] = [doubted]
    run = evolve(run, doubted)
    while run.status == "in_doubt" and policy.on_doubt != "ask":
        resolved = resolve(run, policy.on_doubt, by=None, output=None, elapsed_s=elapsed_s, by_policy=True)
        events += resolved
        for event in resolved:
            run = evolve(run, event)
    return [*events, *_again(run, code)] if run.status == "running" else events


def cut_short(run: Run, policy: Policy, failed: StageFailed) -> RunDoubted | None:
    """The doubt that comes before the end of a stage that has failed for good, when it left a step under way."""
    if failed.retry_at_us is not None or policy.delivery != "at_most_once" or policy.on_doubt != "ask":
        return None
    return doubt(run, f"the stage failed while it was under way: {failed.reason}") if run.open_steps else None


def leave(run: Run, policy: Policy, *, elapsed_s: float) -> list[Event]:
    """What is to be said of a stage that waits now: of its steps that were under way when it was left, as those are
    that a task group cancels when another one has failed."""
    if run.wait is None or policy.delivery != "at_most_once" or not has_open_effect(run):
        return []
    return in_doubt(run, policy, _doubt_of(run), code=run.code, elapsed_s=elapsed_s)


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
        return [resolved, _failed(after, "in_doubt", reason, stage, elapsed_s)]
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


def _gone_on(run: Run, policy: Policy, code: str, elapsed_s: float) -> list[Event]:
    """After a crash, a stop or a pause."""
    if run.current is None:
        return go_on(run, elapsed_s=elapsed_s)
    is_doubtful = policy.delivery == "at_most_once" and has_open_effect(run)
    if verdict(run) == "give_up" and not (is_doubtful and policy.on_doubt == "ask"):
        reason = f"the process died {run.open_starts} times in a row while the stage {run.current} was under way"
        return [_failed(run, "crash_loop", reason, run.current, elapsed_s)]
    if is_doubtful:
        # Whoever is asked looks at what kills the process; a policy does not.
        doubted = _doubt_of(run, crashes=0 if policy.on_doubt == "ask" else run.open_starts)
        return in_doubt(run, policy, doubted, code=code, elapsed_s=elapsed_s)
    return _again(run, code)


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


def _doubt_of(run: Run, *, crashes: int = 0) -> RunDoubted:
    if _waits_for(run) is None:
        return doubt(run, "the process ended while it was under way", crashes=crashes)
    return doubt(run, "the stage was left while it was under way")


def _waits_for(run: Run) -> Wait | None:
    """Apart from being held."""
    return run.wait.before if run.wait is not None and run.wait.kind == "held" else run.wait


def _again(run: Run, code: str) -> list[Event]:
    assert run.current is not None
    return [
        *told(run, run.current),
        StageStarted(task=run.task, stage=run.current, attempt=run.attempt + 1, code=code, skipped=run.skipped),
    ]


def _failed(run: Run, error_type: str, reason: str, stage: str | None, elapsed_s: float) -> RunFailed:
    return RunFailed(task=run.task, via=run.via, error_type=error_type, reason=reason, stage=stage, took_s=elapsed_s)
