"""An event → the stage and audit rows people know. Pure and stateless: each event says all that its rows need.

A stage without a hook has no events; its rows appear with the next event that says it was skipped. The run stage is
called `execute` in audit rows, and it opens before the precheck, because the precheck guards it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from cascadenced.events.base import Event, Json
from cascadenced.events.content import shown
from cascadenced.events.pointer import PointerAdded
from cascadenced.events.run import (
    RunCancelled,
    RunDoubted,
    RunFailed,
    RunFinished,
    RunPaused,
    RunRefused,
    RunRequested,
    RunResolved,
    RunResumed,
)
from cascadenced.events.schedule import (
    CalendarUnread,
    SchedulePaused,
    ScheduleRemoved,
    ScheduleResumed,
    ScheduleSet,
    TicksPassed,
)
from cascadenced.events.signal import ContextAttached, ContextConsumed
from cascadenced.events.stage import StageFailed, StageFinished, StageStarted
from cascadenced.events.task import TaskDisabled, TaskEnabled, TaskPaused, TaskResumed


class AuditRow(msgspec.Struct, frozen=True, gc=False):
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


class StageRow(msgspec.Struct, frozen=True, gc=False):
    """The run passed `stage`. own: whether the task has code for it."""

    task: str
    stage: str
    own: bool = True


def audit_rows(event: Event) -> Sequence[AuditRow]:
    """The audit rows of one event, in order. Empty for events that leave none."""
    rows = _AUDIT.get(type(event))
    return () if rows is None else rows(event)


def stage_rows(event: Event) -> Sequence[StageRow]:
    """The stage rows of one event, in order. A run asked for at the command line is framed by start and finish."""
    rows = _STAGES.get(type(event))
    return () if rows is None else rows(event)


# ── audit rows ───────────────────────────────────────────────────────────────────────────────────────────────


def _audit_of_start(event: StageStarted) -> list[AuditRow]:
    task, stage = event.task, event.stage
    rows = _skipped(task, event.skipped) if event.attempt == 1 and event.skipped else []
    if stage == "precheck" or (stage == "run" and ("precheck" in event.skipped or event.attempt > 1)):
        rows.append(AuditRow(task, "execute", "started"))
    if stage != "run":
        rows.append(AuditRow(task, stage, "started"))
    return rows


def _audit_of_finish(event: StageFinished) -> list[AuditRow]:
    text = event.shown
    if text is None and event.output is not None:
        text = shown(event.output)
    return [AuditRow(event.task, _audit_name(event.stage), "success", output=text)]


def _audit_of_failure(event: StageFailed) -> list[AuditRow]:
    text = event.shown
    if text is None and event.partial is not None:
        text = shown(event.partial)
    failed = AuditRow(event.task, _audit_name(event.stage), "error", event.reason, text, event.partial)
    return [failed, *_unexecuted(event.task, event.stage, event.reason)]


def _audit_of_failed_run(event: RunFailed) -> list[AuditRow]:
    if event.stage is None:
        return [AuditRow(event.task, "run", "error", event.reason)]
    if event.error_type != "crash_loop":
        return []  # its stage said so before
    failed = AuditRow(event.task, _audit_name(event.stage), "error", event.reason)
    return [failed, *_unexecuted(event.task, event.stage, event.reason)]


def _unexecuted(task: str, stage: str, reason: str) -> list[AuditRow]:
    """A precheck that fails ends the execution that it guards."""
    return [AuditRow(task, "execute", "error", reason)] if stage == "precheck" else []


def _skipped(task: str, stages: tuple[str, ...]) -> list[AuditRow]:
    """What the pipeline says of stages that the task has no code for."""
    rows = []
    for stage in stages:
        if stage != "precheck":
            rows.append(AuditRow(task, stage, "started", own=False))
            rows.append(AuditRow(task, stage, "skipped" if stage == "research" else "success", own=False))
    return rows


def _audit_name(stage: str) -> str:
    return "execute" if stage == "run" else stage


def _of_schedule(status: str) -> _Audit:
    return lambda event: [AuditRow(event.task, "schedule", status)]


def _of_switch(status: str) -> _Audit:
    return lambda event: [AuditRow(event.task, "scheduler", status)]


_Audit = Callable[[Any], list[AuditRow]]

_AUDIT: Mapping[type[Event], _Audit] = {
    StageStarted: _audit_of_start,
    StageFinished: _audit_of_finish,
    StageFailed: _audit_of_failure,
    RunFinished: lambda event: _skipped(event.task, event.skipped),
    RunFailed: _audit_of_failed_run,
    RunRefused: lambda event: [AuditRow(event.task, "run", "error", event.reason)],
    RunCancelled: lambda event: [AuditRow(event.task, _audit_name(event.stage or "run"), "cancelled", event.reason)],
    RunDoubted: lambda event: [AuditRow(event.task, _audit_name(event.stage), "in_doubt", event.reason)],
    RunResolved: lambda event: [AuditRow(event.task, "run", "resolved", event.verdict)],
    ContextAttached: lambda event: [AuditRow(event.task, "context_attached", "received", output=event.shown)],
    ContextConsumed: lambda event: [
        AuditRow(event.task, f"{_audit_name(event.stage)}.context", "consumed", output=shown) for shown in event.shown
    ],
    TaskEnabled: _of_switch("enabled"),
    TaskDisabled: _of_switch("disabled"),
    TaskPaused: _of_switch("paused"),
    TaskResumed: _of_switch("resumed"),
    ScheduleSet: _of_schedule("success"),
    SchedulePaused: _of_schedule("paused"),
    ScheduleResumed: _of_schedule("resumed"),
    ScheduleRemoved: lambda event: [AuditRow(event.task, "unschedule", "success")],
    TicksPassed: lambda event: [AuditRow(event.task, "schedule", event.verdict, event.code)],
    CalendarUnread: lambda event: [AuditRow(event.task, "schedule", "error", event.reason)],
    PointerAdded: lambda event: [AuditRow(event.task, "pointer_sync", "success")] if event.via == "bus" else [],
}


# ── stage rows ───────────────────────────────────────────────────────────────────────────────────────────────


def _passed(task: str, stages: tuple[str, ...]) -> list[StageRow]:
    """A run passes the stages it has no code for as well; a precheck, which only guards, it does not."""
    return [StageRow(task, stage, own=False) for stage in stages if stage != "precheck"]


def _framed(event: RunRequested | RunFinished | RunFailed | RunRefused | RunCancelled, stage: str) -> list[StageRow]:
    return [StageRow(event.task, stage)] if event.via == "cli" else []


_STAGES: Mapping[type[Event], Callable[[Any], list[StageRow]]] = {
    RunRequested: lambda event: _framed(event, "start"),
    StageStarted: lambda event: _passed(event.task, event.skipped) if event.skipped and event.attempt == 1 else [],
    StageFinished: lambda event: [StageRow(event.task, event.stage)],
    StageFailed: lambda event: (
        [StageRow(event.task, event.stage)] if event.stage != "run" and event.retry_at_us is None else []
    ),
    RunFinished: lambda event: [*_passed(event.task, event.skipped), *_framed(event, "finish")],
    RunFailed: lambda event: _framed(event, "error"),
    RunRefused: lambda event: _framed(event, "error"),
    RunCancelled: lambda event: _framed(event, "error"),
    RunPaused: lambda event: [StageRow(event.task, "paused")],
    RunResumed: lambda event: [StageRow(event.task, "resumed")],
    ContextAttached: lambda event: [StageRow(event.task, "context_attached")],
    ScheduleRemoved: lambda event: [StageRow(event.task, "unschedule")],
}

SHOWN: frozenset[type[Event]] = frozenset({*_AUDIT, *_STAGES})
"""Events that rows are read out of; each of them names its task."""
