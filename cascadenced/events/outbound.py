"""An event → the messages we publish about it. Pure. Bodies are the public JSON schemas of the predecessor.

Every body starts with `schema_version` and `event_type` and has `run_id`, `event_id` and `time` added. `user_id` and
`group_id` are always null (see `emit_raw_user_id`): readers correlate by `user_hash` and `group_hash`.

The header `Cascadence-Position` is the event's position in its origin's log: what is published again after the broker
lost it comes late, and by this finds its place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from cascadenced.clock import iso
from cascadenced.events.audit import audit_rows, stage_rows
from cascadenced.events.base import Json, Recorded
from cascadenced.events.dead_letter import MessageDeadLettered
from cascadenced.events.followup import FollowupRequested
from cascadenced.events.pointer import PointerAdded
from cascadenced.events.run import RunFailed, RunFinished, RunRefused
from cascadenced.events.schedule import ScheduleRemoved, ScheduleSet
from cascadenced.events.subjects import event_subject, subject
from cascadenced.events.task import TaskRegistered
from cascadenced.events.workflow import EventDispatched

SCHEMA_VERSION = "2026.04.0"

POSITION_HEADER = "Cascadence-Position"
REPUBLISHED_HEADER = "Cascadence-Republished"
"""On a message that was published before and went missing at the broker; its position tells where it belongs."""

Reveal = Callable[[str | None], str | None]
"""user_hash → raw user id, or None: what `emit_raw_user_id` switches on."""


def _nobody(_user_hash: str | None) -> str | None:
    return None


class Outgoing(msgspec.Struct, frozen=True):
    """A message to publish: full subject, body, headers."""

    subject: str
    body: bytes
    headers: dict[str, str]


class _Body(msgspec.Struct, kw_only=True):
    schema_version: str = SCHEMA_VERSION
    event_type: str = "UNKNOWN"


class TaskSpecBody(_Body, kw_only=True):
    """A task as others may know it. id and name are both the registered name."""

    id: str
    name: str
    description: str | None
    user_hash: str | None = None
    user_id: str | None = None
    group_id: str | None = None
    group_hash: str | None = None


class RegisteredBody(TaskSpecBody, kw_only=True):
    """A task was registered."""

    run_id: str | None
    event_id: str
    time: str


class _AboutRun(_Body, kw_only=True):
    user_hash: str | None
    user_id: str | None
    group_id: str | None = None
    group_hash: str | None
    run_id: str | None
    event_id: str
    time: str


class StageUpdateBody(_AboutRun, kw_only=True):
    """A run passed a stage."""

    task_name: str
    stage: str


class AuditEventBody(_AboutRun, kw_only=True):
    """One audit row."""

    task_name: str
    stage: str
    status: str
    reason: str | None
    output: str | None
    partial: Json


class TaskRunBody(_AboutRun, kw_only=True):
    """A run ended. status: success, error or refused. Instants are ISO 8601 UTC."""

    spec: TaskSpecBody
    status: str
    started_at: str | None
    finished_at: str | None


class PointerUpdateBody(_AboutRun, kw_only=True):
    """A pointer was added. `run_id` is the run it points to."""

    task_name: str


class ScheduleBody(_AboutRun, kw_only=True):
    """A schedule was set, or removed when both `expr` and `calendar_event` are null."""

    task_name: str
    expr: str | None = None
    calendar_event: dict[str, Json] | None = None
    timezone: str | None = None
    recurrence: Json = None


class FollowupBody(_AboutRun, kw_only=True):
    """The planner asks `task_name` to look at the failed run. run_id: the follow-up's."""

    task_name: str
    failed_task: str
    failed_run_id: str
    depth: int


class DispatchedBody(_AboutRun, kw_only=True):
    """An event that a workflow emitted."""

    payload: dict[str, Json]


class DeadLetterBody(_AboutRun, kw_only=True):
    """A message could not be read."""

    subject: str
    reason: str
    n_bytes: int
    digest: str


def canonical_event_type(stage: str, status: str | None = None) -> str:
    """The public `event_type` of a stage or audit row; the first rule that fits wins."""
    stage, status = stage.strip().lower(), (status or "").strip().lower()
    if stage == "context_attached" or status == "received":
        return "CONTEXT.ATTACHED"
    if status in ("started", "start") or stage in ("start", "started"):
        return "TASK.STAGE.STARTED"
    if status in ("success", "finish", "finished", "completed") or stage in (
        "finish",
        "finished",
        "completed",
        "resumed",
    ):
        return "TASK.STAGE.SUCCESS"
    if status in ("error", "failure", "failed") or stage in ("error", "failure", "failed"):
        return "TASK.STAGE.ERROR"
    if status == "skipped" or stage == "skipped":
        return "TASK.STAGE.SKIPPED"
    return "TASK.STAGE.UPDATED"


_encode = msgspec.json.Encoder().encode


def messages(recorded: Recorded, prefix: str, *, broadcast_pointers: bool, reveal: Reveal = _nobody) -> list[Outgoing]:
    """What is published about `recorded`, in order. Empty for events of our own household."""
    event = recorded.event
    if recorded.type in _SILENT or (type(event) is EventDispatched and event.via != "workflow"):
        return []
    return [
        Outgoing(full, _encode(body), _headers(recorded, key, kind))
        for key, kind, full, body in _bodies(recorded, prefix, broadcast_pointers, reveal)
    ]


def _bodies(
    recorded: Recorded, prefix: str, broadcast_pointers: bool, reveal: Reveal
) -> Iterator[tuple[str, str, str, _Body]]:
    """(suffix of the message id, type, subject, body). The suffix tells apart what one event publishes."""
    event = recorded.event
    about = _about(recorded, reveal)
    for n, stage in enumerate(row for row in stage_rows(event) if row.own and row.stage in _PUBLISHED_STAGES):
        yield (
            f"stage{n or ''}",
            "stage",
            subject(prefix, "stage", stage.task, stage.stage),
            StageUpdateBody(
                event_type=canonical_event_type(stage.stage), task_name=stage.task, stage=stage.stage, **about
            ),
        )
    for n, row in enumerate(row for row in audit_rows(event) if row.own):
        yield (
            f"audit{n or ''}",
            "audit",
            subject(prefix, "audit", row.task, row.stage),
            AuditEventBody(
                event_type=canonical_event_type(row.stage, row.status),
                task_name=row.task,
                stage=row.stage,
                status=row.status,
                reason=row.reason,
                output=row.output,
                partial=row.partial,
                **about,
            ),
        )
    match event:
        case RunFinished(task=task, took_s=took_s):
            yield _task_run(recorded, prefix, about, task, "success", took_s)
        case RunFailed(task=task, took_s=took_s):
            yield _task_run(recorded, prefix, about, task, "error", took_s)
        case RunRefused(task=task):
            yield _task_run(recorded, prefix, about, task, "refused", None)
        case TaskRegistered(task=task):
            spec = RegisteredBody(id=task, name=task, description=event.description or None, **about)
            yield "task_spec", "task_spec", subject(prefix, "task_spec", task), spec
        case PointerAdded(task=task, run_id=run_id) if event.via != "bus" or broadcast_pointers:
            body = PointerUpdateBody(task_name=task, **{**about, "run_id": run_id})
            yield "pointer", "pointer", subject(prefix, "pointer", task), body
        case ScheduleSet(task=task):
            body_ = ScheduleBody(
                task_name=task,
                expr=event.expr,
                calendar_event=event.calendar_event,
                timezone=event.timezone,
                recurrence=event.recurrence,
                **about,
            )
            yield "schedule", "schedule", subject(prefix, "schedule", task), body_
        case ScheduleRemoved(task=task):
            yield "schedule", "schedule", subject(prefix, "schedule", task), ScheduleBody(task_name=task, **about)
        case FollowupRequested(task=task):
            followup = FollowupBody(
                task_name=task,
                failed_task=event.failed_task,
                failed_run_id=event.failed_run_id,
                depth=event.depth,
                **{**about, "run_id": event.followup_run_id},
            )
            yield "followup", "followup", subject(prefix, "followup", task), followup
        case EventDispatched(name=name, via="workflow", payload=payload):
            yield "event", "event", event_subject(prefix, name), DispatchedBody(payload=payload, **about)
        case MessageDeadLettered(reason=reason):
            letter = DeadLetterBody(
                subject=event.subject, reason=reason, n_bytes=event.n_bytes, digest=event.digest, **about
            )
            yield "dead", "dead", subject(prefix, "dead", reason), letter
        case _:
            return


_SILENT = frozenset({"run.requested", "run.started", "run.held", "stage.interrupted", "followup.skipped"})
# The frequent ones among the events that nothing is published about; the others fall through to the same answer.

_PUBLISHED_STAGES = frozenset({"intake", "research", "plan", "precheck", "run", "verify"})
# start, finish and error frame a run asked for at the command line; on the bus the TaskRun says as much.


def _about(recorded: Recorded, reveal: Reveal) -> dict[str, Any]:
    return {
        "user_hash": recorded.user_hash,
        "user_id": reveal(recorded.user_hash),
        "group_hash": recorded.group_hash,
        "run_id": recorded.run_id,
        "event_id": recorded.id,
        "time": iso(recorded.at_us),
    }


def _task_run(
    recorded: Recorded, prefix: str, about: dict[str, Any], task: str, status: str, took_s: float | None
) -> tuple[str, str, str, _Body]:
    spec = TaskSpecBody(
        id=task,
        name=task,
        description=None,
        user_hash=recorded.user_hash,
        user_id=about["user_id"],
        group_hash=recorded.group_hash,
    )
    started = None if took_s is None else iso(recorded.at_us - round(took_s * 1_000_000))
    body = TaskRunBody(spec=spec, status=status, started_at=started, finished_at=iso(recorded.at_us), **about)
    return "task_run", "task_run", subject(prefix, "task_run", task), body


_PLACES = {"stage": 0, "stage1": 1, "audit": 2, "audit1": 3, "audit2": 4}
_ONLY_ONE = 5


def place(message_id: str) -> int:
    """Which of its event's messages one is, by its id: 0 to 7, another one for each."""
    return _PLACES.get(message_id.partition(".")[2], _ONLY_ONE)


def _headers(recorded: Recorded, key: str, kind: str) -> dict[str, str]:
    message_id = f"{recorded.id}.{key}"
    headers = {
        "Nats-Msg-Id": message_id,
        "ce-id": message_id,
        "ce-specversion": "1.0",
        "ce-type": f"cascadence.{kind}",
        "ce-source": f"/cascadence/{recorded.origin}",
        "ce-time": iso(recorded.at_us),
        "content-type": "application/json",
        "Cascadence-Origin": recorded.origin,
        POSITION_HEADER: str(recorded.position),
    }
    if recorded.traceparent:
        headers["traceparent"] = recorded.traceparent
    return headers
