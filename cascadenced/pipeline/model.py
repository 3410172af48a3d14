"""A run's state: nothing but its events, folded."""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce
from typing import Literal

import msgspec
from msgspec.structs import replace

from cascadenced.events.base import Event, Json
from cascadenced.events.run import RunFailed, RunFinished, RunHeld, RunRefused, RunRequested, RunStarted
from cascadenced.events.stage import StageFailed, StageFinished, StageInterrupted, StageStarted

STAGES = ("intake", "research", "plan", "precheck", "run", "verify")
"""In the order every run passes them."""

Status = Literal["queued", "running", "waiting", "success", "error", "refused"]
ENDED: frozenset[Status] = frozenset({"success", "error", "refused"})


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """stages: those the task has code for.  done: those that ended, in order.  outputs: what each put out.

    current: the stage that is to be performed now, None between stages and at the ends.
    attempt: starts of `current` so far.  open_starts: those of them that were followed by nothing: each but the last
    one was ended by a crash of the process, and after a restart the last one was too.
    """

    task: str = ""
    via: str = ""
    args: dict[str, Json] = {}
    depth: int = 0
    status: Status = "queued"
    stages: tuple[str, ...] = ()
    code: str = ""
    done: tuple[str, ...] = ()
    outputs: dict[str, Json] = {}
    current: str | None = None
    attempt: int = 0
    open_starts: int = 0
    skipped: tuple[str, ...] = ()
    error_type: str | None = None
    reason: str | None = None

    @property
    def result(self) -> Json:
        """What the run returned: `verify`'s output if the task has it, else `run`'s."""
        return self.outputs.get("verify" if "verify" in self.stages else "run")


def evolve(run: Run, event: Event) -> Run:
    """`run` after `event`. Events of other families leave it alone."""
    match event:
        case RunRequested():
            return Run(task=event.task, via=event.via, args=event.args, depth=event.depth)
        case RunStarted():
            return replace(run, status="running", stages=event.stages, code=event.code)
        case StageStarted(stage=stage):
            return replace(
                run,
                status="running",
                current=stage,
                attempt=event.attempt,
                open_starts=run.open_starts + 1,
                skipped=event.skipped,
                code=event.code,
            )
        case StageFinished(stage=stage, output=output):
            outputs = run.outputs if output is None else {**run.outputs, stage: output}
            return replace(run, done=(*run.done, stage), outputs=outputs, current=None, attempt=0, open_starts=0)
        case StageFailed(stage=stage):
            return replace(run, done=(*run.done, stage), current=None, attempt=0, open_starts=0)
        case StageInterrupted():
            return replace(run, open_starts=0)
        case RunHeld():
            return replace(run, status="waiting", reason=event.reason, open_starts=0)
        case RunFinished():
            return replace(run, status="success", current=None)
        case RunFailed():
            return replace(run, status="error", current=None, error_type=event.error_type, reason=event.reason)
        case RunRefused():
            return replace(run, status="refused", error_type=event.code, reason=event.reason)
    return run


def fold(events: Iterable[Event]) -> Run:
    """The run whose events these are, from the first on."""
    return reduce(evolve, events, Run())
