"""How a run goes on that nobody performs: after a crash, a stop, a pause, or when what it waited for has come. Pure."""

from __future__ import annotations

from functools import reduce
from typing import Literal

from cascadenced.events.base import Event
from cascadenced.events.run import RunHeld, RunReleased
from cascadenced.events.wait import WaitEnded
from cascadenced.pipeline.decide import again, failed, go_on, told
from cascadenced.pipeline.doubts import doubt_of, has_open_effect, in_doubt, leave
from cascadenced.pipeline.model import ENDED, Run, evolve
from cascadenced.pipeline.policy import Policy

CRASHES_TO_SUSPECT = 3
CRASHES_TO_GIVE_UP = 5

Verdict = Literal["resume", "alone", "give_up"]


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
        return [] if wait.until_us is not None and wait.until_us > now_us else again(run, code)
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


def _gone_on(run: Run, policy: Policy, code: str, elapsed_s: float) -> list[Event]:
    """After a crash, a stop or a pause."""
    if run.current is None:
        return go_on(run, elapsed_s=elapsed_s)
    is_doubtful = policy.delivery == "at_most_once" and has_open_effect(run)
    if verdict(run) == "give_up" and not (is_doubtful and policy.on_doubt == "ask"):
        reason = f"the process died {run.open_starts} times in a row while the stage {run.current} was under way"
        return [failed(run, "crash_loop", reason, run.current, elapsed_s)]
    if is_doubtful:
        # Whoever is asked looks at what kills the process; a policy does not.
        doubted = doubt_of(run, crashes=0 if policy.on_doubt == "ask" else run.open_starts)
        return in_doubt(run, policy, doubted, code=code, elapsed_s=elapsed_s)
    return again(run, code)
