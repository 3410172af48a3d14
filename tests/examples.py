"""Ready-made events of every type, each field overridable, and the log's header around them.

example(StageFinished, stage="plan")     an event with sensible values
recorded(event, position=7)              the event as the log keeps it
run_of("intake", "run", fails="run")     the events of a whole run, as the pipeline would record them
"""

from __future__ import annotations

from typing import Any, TypeVar

from cascadenced.events.base import Event, Recorded
from cascadenced.events.catalogue import SCHEMA, TYPE_NAMES, encode
from cascadenced.events.child import ChildEnded, ChildRequested
from cascadenced.events.dead_letter import MessageDeadLettered, MessageRedriven
from cascadenced.events.followup import FollowupRequested, FollowupSkipped
from cascadenced.events.idea import IdeaRecorded, NoteRecorded
from cascadenced.events.pointer import PointerAdded
from cascadenced.events.run import (
    ForeignRunReported,
    RunCancelled,
    RunDoubted,
    RunFailed,
    RunFinished,
    RunHeld,
    RunPaused,
    RunRefused,
    RunReleased,
    RunRequested,
    RunResolved,
    RunResumed,
    RunStarted,
)
from cascadenced.events.schedule import (
    CalendarRead,
    CalendarUnread,
    ScheduleFileRejected,
    SchedulePaused,
    ScheduleRemoved,
    ScheduleResumed,
    ScheduleSet,
    TickBackfilled,
    TickFired,
    TickQueued,
    TicksPassed,
)
from cascadenced.events.signal import ContextAttached, ContextConsumed
from cascadenced.events.stage import StageFailed, StageFinished, StageInterrupted, StageLate, StageStarted
from cascadenced.events.step import StepFailed, StepFinished, StepStarted
from cascadenced.events.system import (
    BusLost,
    BusRestored,
    ConfigRejected,
    ConfigReread,
    DaemonStarted,
    DaemonStopped,
    EpochBroken,
    EpochRepaired,
    LoopBlocked,
    RequestsRefused,
)
from cascadenced.events.task import (
    TaskDisabled,
    TaskEnabled,
    TaskPaused,
    TaskRegistered,
    TaskRejected,
    TaskResumed,
)
from cascadenced.events.wait import WaitEnded, WaitStarted
from cascadenced.events.workflow import EventDispatched

RUN_ID = "019f00000000a1b2c3d4e5f60718293a"
OTHER_RUN_ID = "019f00000001ffeeddccbbaa99887766"
EVENT_ID = "019f0000000170008000000000000001"
AT_US = 1_790_000_000_123_456
AT = "2026-09-21T14:13:20.123456Z"
USER_HASH = "ab" * 32
OTHER_HASH = "ba" * 32
GROUP_HASH = "cd" * 32
STAGES = ("intake", "research", "plan", "precheck", "run", "verify")

E = TypeVar("E", bound=Event)

_FIELDS: dict[type[Event], dict[str, Any]] = {
    RunRequested: {"task": "example", "via": "bus", "args": {"n": 1}, "priority": 2},
    RunRefused: {"task": "example", "via": "bus", "code": "disabled", "reason": "example is disabled"},
    RunStarted: {"task": "example", "stages": ("run",), "code": "c0de"},
    RunFinished: {"task": "example", "via": "bus", "skipped": ("verify",), "took_s": 1.5},
    RunFailed: {
        "task": "example",
        "via": "bus",
        "error_type": "ValueError",
        "reason": "boom",
        "stage": "run",
        "took_s": 1.5,
    },
    RunHeld: {"task": "example", "code": "task_missing", "reason": "no task example is registered"},
    RunReleased: {"task": "example"},
    RunPaused: {"task": "example", "by": OTHER_HASH},
    RunResumed: {"task": "example", "by": OTHER_HASH},
    RunCancelled: {"task": "example", "via": "bus", "reason": "not needed any more", "stage": "run", "by": OTHER_HASH},
    RunDoubted: {"task": "example", "stage": "run", "attempt": 1, "step": "charge", "place": "2", "reason": "it died"},
    RunResolved: {"task": "example", "verdict": "done", "by": OTHER_HASH, "output": {"receipt": 7}},
    ForeignRunReported: {
        "task": "example",
        "foreign_run_id": "theirs-1",
        "status": "error",
        "started_at": "2026-09-21T14:13:19Z",
        "finished_at": AT,
    },
    StageStarted: {"task": "example", "stage": "run", "attempt": 1, "code": "c0de", "skipped": ("intake", "research")},
    StageFinished: {"task": "example", "stage": "run", "attempt": 1, "output": {"sum": 3}, "took_s": 0.25},
    StageFailed: {
        "task": "example",
        "stage": "run",
        "attempt": 1,
        "error_type": "ValueError",
        "reason": "boom",
        "partial": [1, 2],
        "took_s": 0.25,
    },
    StageLate: {"task": "example", "stage": "run", "attempt": 1, "outcome": "error", "reason": "boom"},
    StepStarted: {"task": "example", "stage": "run", "place": "2", "name": "charge"},
    StepFinished: {"task": "example", "stage": "run", "place": "2", "name": "charge", "output": 7, "took_s": 0.5},
    StepFailed: {
        "task": "example",
        "stage": "run",
        "place": "2",
        "name": "charge",
        "error_type": "ValueError",
        "reason": "boom",
        "took_s": 0.5,
    },
    WaitStarted: {
        "task": "example",
        "stage": "run",
        "place": "3",
        "kind": "event",
        "name": "invoice.paid",
        "where": {"number": 7},
        "until_us": 1_790_000_000_000_000,
    },
    WaitEnded: {
        "task": "example",
        "stage": "run",
        "place": "3",
        "kind": "event",
        "name": "invoice.paid",
        "outcome": "event",
        "payload": {"number": 7},
        "position": 12,
    },
    ChildRequested: {"task": "example", "index": 0, "child_task": "part", "child_run_id": OTHER_RUN_ID, "attempt": 1},
    ChildEnded: {"task": "example", "index": 0, "child_run_id": OTHER_RUN_ID, "status": "success", "output": 3},
    ContextAttached: {
        "task": "example",
        "via": "cli",
        "payload": {"note": "by Friday"},
        "shown": "{'note': 'by Friday'}",
        "by": OTHER_HASH,
    },
    ContextConsumed: {"task": "example", "stage": "verify", "shown": ("{'note': 'by Friday'}",)},
    StageInterrupted: {"task": "example", "stage": "run", "attempt": 1, "reason": "the daemon stopped"},
    TaskRegistered: {
        "task": "example",
        "kind": "manual",
        "mode": "sync",
        "stages": ("run",),
        "code": "c0de",
        "description": "Adds numbers.",
    },
    TaskRejected: {"plugin": "shop.tasks:Broken", "reason": "the module cannot be imported"},
    TaskEnabled: {"task": "example"},
    TaskDisabled: {"task": "example"},
    TaskPaused: {"task": "example"},
    TaskResumed: {"task": "example"},
    PointerAdded: {"task": "example", "run_id": "any-run", "user_hash": USER_HASH, "group_hash": GROUP_HASH},
    ScheduleSet: {"task": "example", "expr": "0 9 * * 1-5", "timezone": "Europe/Berlin"},
    SchedulePaused: {"task": "example"},
    ScheduleResumed: {"task": "example"},
    ScheduleRemoved: {"task": "example"},
    TickFired: {
        "task": "example",
        "due_us": 1_790_000_000_000_000,
        "run_id": OTHER_RUN_ID,
        "local": "2026-09-21T15:33:20",
    },
    TicksPassed: {
        "task": "example",
        "verdict": "skipped",
        "code": "late",
        "first_us": 1_790_000_000_000_000,
        "last_us": 1_790_086_400_000_000,
        "n": 2,
    },
    TickQueued: {"task": "example", "due_us": 1_790_000_000_000_000, "behind": OTHER_RUN_ID},
    ScheduleFileRejected: {"problems": ("schedules.yml: line 3: report: 'expr' must be a non-empty string",)},
    TickBackfilled: {"task": "example", "due_us": 1_795_683_600_000_000, "run_id": RUN_ID},
    CalendarRead: {"task": "example", "node": "n1"},
    CalendarUnread: {"task": "example", "node": "n1", "code": "unavailable", "reason": "HTTP 500"},
    FollowupRequested: {
        "failed_task": "example",
        "failed_run_id": RUN_ID,
        "task": "capability_follow_up",
        "followup_run_id": OTHER_RUN_ID,
        "depth": 1,
    },
    FollowupSkipped: {
        "failed_task": "example",
        "failed_run_id": RUN_ID,
        "code": "depth_limit",
        "reason": "three follow-ups lead here already",
    },
    IdeaRecorded: {"text": "water the plants when it is dry"},
    NoteRecorded: {"note": "No travel details", "task": "example", "about_run_id": RUN_ID},
    EventDispatched: {
        "name": "calendar.event.created",
        "via": "workflow",
        "payload": {"event_id": "e1"},
        "run_id": RUN_ID,
    },
    MessageDeadLettered: {
        "subject": "ume.run.request.example",
        "reason": "undecodable",
        "detail": "not JSON: Expecting value at character 0",
        "n_bytes": 3,
        "digest": "ef" * 32,
    },
    MessageRedriven: {"position": 7, "subject": "ume.run.request.example"},
    DaemonStarted: {"version": "0.1.0", "pid": 4711, "n_unfinished_runs": 2},
    DaemonStopped: {"reason": "SIGTERM", "n_interrupted": 1},
    LoopBlocked: {
        "blocked_s": 2.5,
        "where": "File tasks.py, line 7, in run",
        "task": "example",
        "stage": "run",
        "run": RUN_ID,
    },
    RequestsRefused: {"reason": "overload", "subject": "ume.run.request.example", "n_refused": 12},
    ConfigReread: {"changed": ("log_level",), "waiting": ("http_port",)},
    ConfigRejected: {"reason": "cascadence.yml:3: max_threds: unknown key (did you mean max_threads?)"},
    BusLost: {"reason": "disconnected"},
    BusRestored: {"away_s": 3.2, "server_id": "NDSTARTEDAGAIN", "server_version": "2.15.1"},
    EpochBroken: {
        "reason": "end_lost",
        "stream": "UME",
        "detail": "it ended at 8020 and ends at 7973 now",
        "before": "00c0ffee00c0ffee",
        "after": "00c0ffee00c0ffee",
    },
    EpochRepaired: {"position": 4711, "n_scanned": 7973, "n_republished": 47, "took_s": 0.4, "reasons": ("end_lost",)},
}


def example(kind: type[E], /, **fields: Any) -> E:
    """An event of `kind`; `fields` replace the sensible values."""
    return kind(**{**_FIELDS[kind], **fields})


def every_event() -> list[Event]:
    """One example of each type that has one."""
    return [example(kind) for kind in _FIELDS]


def recorded(event: Event, **header: Any) -> Recorded:
    """`event` as the log would keep it; `header` replaces any of the log's own fields."""
    fields: dict[str, Any] = {
        "position": 1,
        "id": EVENT_ID,
        "stream": f"run-{RUN_ID}",
        "version": 1,
        "type": TYPE_NAMES[type(event)],
        "at_us": AT_US,
        "origin": "instance-1",
        "epoch": 1,
        "source": None,
        "user_hash": USER_HASH,
        "group_hash": GROUP_HASH,
        "run_id": RUN_ID,
        "cause": None,
        "correlation": RUN_ID,
        "traceparent": None,
        "schema": SCHEMA,
        "data": encode(event),
        "hash": bytes(32),
        "event": event,
    }
    return Recorded(**{**fields, **header})


def run_of(*hooks: str, fails: str | None = None, task: str = "example", via: str = "bus") -> list[Event]:
    """The events of one run of a task with these stage hooks; the stage `fails` raises "boom"."""
    events: list[Event] = [
        example(RunRequested, task=task, via=via),
        example(RunStarted, task=task, stages=hooks),
    ]
    skipped: tuple[str, ...] = ()
    for stage in STAGES:
        if stage not in hooks:
            skipped += (stage,)
            continue
        events.append(example(StageStarted, task=task, stage=stage, skipped=skipped))
        skipped = ()
        if stage != fails:
            events.append(example(StageFinished, task=task, stage=stage, output=_output(stage)))
            continue
        fatal = stage != "research"
        events.append(example(StageFailed, task=task, stage=stage, partial=None, fatal=fatal))
        if fatal:
            return [*events, example(RunFailed, task=task, via=via, stage=stage)]
    return [*events, example(RunFinished, task=task, via=via, skipped=skipped)]


def _output(stage: str) -> Any:
    return True if stage == "precheck" else f"{stage} output"
