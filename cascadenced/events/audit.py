"""An event → the stage and audit rows people know. Pure and stateless: each event says all that its rows need.

A stage without a hook has no events; its rows appear with the next event that says it was skipped. The run stage is
called `execute` in audit rows, and it opens before the precheck, because the precheck guards it.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from cascadenced.events.base import Event, Json
from cascadenced.events.content import shown
from cascadenced.events.pointer import PointerAdded
from cascadenced.events.run import RunFailed, RunFinished, RunRefused, RunRequested
from cascadenced.events.stage import StageFailed, StageFinished, StageStarted
from cascadenced.events.task import TaskDisabled, TaskEnabled, TaskPaused, TaskResumed

_SCHEDULER_STATUS: dict[type[Event], str] = {
    TaskEnabled: "enabled",
    TaskDisabled: "disabled",
    TaskPaused: "paused",
    TaskResumed: "resumed",
}


class AuditRow(msgspec.Struct, frozen=True):
    """What happened at `stage`. status: started, success, error or skipped, or the new state of a task.

    output: display text.  partial: content the failing code left.  own: whether the task has code for this stage.
    """

    task: str
    stage: str
    status: str
    reason: str | None = None
    output: str | None = None
    partial: Json = None
    own: bool = True


class StageRow(msgspec.Struct, frozen=True):
    """The run passed `stage`. own: whether the task has code for it."""

    task: str
    stage: str
    own: bool = True


def audit_rows(event: Event) -> list[AuditRow]:
    """The audit rows of one event, in order. Empty for events that leave none."""
    return list(_audit(event))


def stage_rows(event: Event) -> list[StageRow]:
    """The stage rows of one event, in order. A run asked for at the command line is framed by start and finish."""
    return list(_stages(event))


def _audit(event: Event) -> Iterator[AuditRow]:
    match event:
        case StageStarted(task=task, stage=stage, attempt=attempt, skipped=skipped):
            if attempt == 1:
                yield from _skipped(task, skipped)
            if stage == "precheck" or (stage == "run" and ("precheck" in skipped or attempt > 1)):
                yield AuditRow(task, "execute", "started")
            if stage != "run":
                yield AuditRow(task, stage, "started")
        case StageFinished(task=task, stage=stage, output=output):
            text = event.shown if event.shown is not None else None if output is None else shown(output)
            yield AuditRow(task, _audit_name(stage), "success", output=text)
        case StageFailed(task=task, stage=stage, reason=reason, partial=partial):
            text = event.shown if event.shown is not None else None if partial is None else shown(partial)
            yield AuditRow(task, _audit_name(stage), "error", reason, text, partial)
            if stage == "precheck":
                yield AuditRow(task, "execute", "error", reason)
        case RunFinished(task=task, skipped=skipped):
            yield from _skipped(task, skipped)
        case RunFailed(task=task, stage=None, reason=reason) | RunRefused(task=task, reason=reason):
            yield AuditRow(task, "run", "error", reason)
        case RunFailed(task=task, error_type="crash_loop", stage=str(stage), reason=reason):
            yield AuditRow(task, _audit_name(stage), "error", reason)
            if stage == "precheck":
                yield AuditRow(task, "execute", "error", reason)
        case TaskEnabled(task=task) | TaskDisabled(task=task) | TaskPaused(task=task) | TaskResumed(task=task):
            yield AuditRow(task, "scheduler", _SCHEDULER_STATUS[type(event)])
        case PointerAdded(task=task, via="bus"):
            yield AuditRow(task, "pointer_sync", "success")
        case _:
            return


def _stages(event: Event) -> Iterator[StageRow]:
    match event:
        case RunRequested(task=task, via="cli"):
            yield StageRow(task, "start")
        case StageStarted(task=task, attempt=1, skipped=skipped):
            yield from _passed(task, skipped)
        case StageFinished(task=task, stage=stage):
            yield StageRow(task, stage)
        case StageFailed(task=task, stage=stage) if stage != "run":
            yield StageRow(task, stage)
        case RunFinished(task=task, via=via, skipped=skipped):
            yield from _passed(task, skipped)
            if via == "cli":
                yield StageRow(task, "finish")
        case RunFailed(task=task, via="cli") | RunRefused(task=task, via="cli"):
            yield StageRow(task, "error")
        case _:
            return


def _skipped(task: str, stages: tuple[str, ...]) -> Iterator[AuditRow]:
    """What the pipeline says of stages that the task has no code for."""
    for stage in stages:
        if stage != "precheck":
            yield AuditRow(task, stage, "started", own=False)
            yield AuditRow(task, stage, "skipped" if stage == "research" else "success", own=False)


def _passed(task: str, stages: tuple[str, ...]) -> Iterator[StageRow]:
    """A run passes the stages it has no code for as well; a precheck, which only guards, it does not."""
    return (StageRow(task, stage, own=False) for stage in stages if stage != "precheck")


def _audit_name(stage: str) -> str:
    return "execute" if stage == "run" else stage
