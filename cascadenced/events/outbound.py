"""An event → the messages we publish about it. Pure.

Stage and audit rows first (`events/audit.py`), then what the event is published as besides. This is the most travelled
road of the program, sixteen messages a run, so everything that the messages of one event share is spelled once.

The header `Cascadence-Position` is the event's position in its origin's log: what is published again after the broker
lost it comes late, and by this finds its place.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import msgspec

from cascadenced.clock import iso
from cascadenced.errors import BadMessage
from cascadenced.events.audit import audit_rows, stage_rows
from cascadenced.events.base import Event, Recorded
from cascadenced.events.bodies import (
    SCHEMA_VERSION,
    AuditEventBody,
    DeadLetterBody,
    DispatchedBody,
    FollowupBody,
    PointerUpdateBody,
    RegisteredBody,
    ScheduleBody,
    StageUpdateBody,
    TaskRunBody,
    TaskSpecBody,
)
from cascadenced.events.dead_letter import MessageDeadLettered
from cascadenced.events.followup import FollowupRequested
from cascadenced.events.outgoing import Outgoing
from cascadenced.events.pointer import PointerAdded
from cascadenced.events.run import RunCancelled, RunFailed, RunFinished, RunRefused
from cascadenced.events.schedule import ScheduleRemoved, ScheduleSet
from cascadenced.events.subjects import event_subject, subject
from cascadenced.events.task import TaskRegistered
from cascadenced.events.workflow import EventDispatched

POSITION_HEADER = "Cascadence-Position"
REPUBLISHED_HEADER = "Cascadence-Republished"
"""On a message that was published before and went missing at the broker; its position tells where it belongs."""

Reveal = Callable[[str | None], str | None]
"""user_hash → raw user id, or None: what `emit_raw_user_id` switches on."""

_UNKNOWN = "UNKNOWN"
_REMEMBERED = 256
_PUBLISHED_STAGES = frozenset(
    {"intake", "research", "plan", "precheck", "run", "verify", "paused", "resumed", "context_attached", "unschedule"}
)
# start, finish and error frame a run asked for at the command line; on the bus the TaskRun says as much.

_encode = msgspec.json.Encoder().encode


def _nobody(_user_hash: str | None) -> str | None:
    return None


@lru_cache(maxsize=_REMEMBERED)
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


_About = tuple[str | None, str | None, None, str | None, str | None, str, str]
"""What bodies have in common after their first two fields: user_hash, user_id, group_id, group_hash, run_id, event_id,
time."""


class _Letterhead(msgspec.Struct, frozen=True, gc=False):
    """What all messages of one event share. lines: the headers that differ in nothing."""

    recorded: Recorded
    prefix: str
    about: _About
    lines: str

    def message(self, key: str, kind: str, full: str, body: msgspec.Struct) -> Outgoing:
        """key: tells apart what one event publishes.  kind: the family.  full: the subject."""
        message_id = f"{self.recorded.id}.{key}"
        lines = f"Nats-Msg-Id: {message_id}\r\nce-id: {message_id}\r\nce-type: cascadence.{kind}\r\n{self.lines}"
        return Outgoing(full, _encode(body), lines)


def messages(recorded: Recorded, prefix: str, *, broadcast_pointers: bool, reveal: Reveal = _nobody) -> list[Outgoing]:
    """What is published about `recorded`, in order. Empty for events of our own household."""
    event = recorded.event
    stages, audits, also = stage_rows(event), audit_rows(event), _ALSO.get(type(event))
    if not stages and not audits and also is None:
        return []
    found: list[Outgoing] = []
    head: _Letterhead | None = None
    for row in stages:
        if row.own and row.stage in _PUBLISHED_STAGES:
            head = head or _letterhead(recorded, prefix, reveal)
            full, event_type = _addressed(prefix, "stage", row.task, row.stage, None)
            update = StageUpdateBody(SCHEMA_VERSION, event_type, *head.about, row.task, row.stage)
            found.append(head.message(f"stage{len(found) or ''}", "stage", full, update))
    n_before = len(found)
    for each in audits:
        if each.own:
            head = head or _letterhead(recorded, prefix, reveal)
            task, stage, status = each.task, each.stage, each.status
            full, event_type = _addressed(prefix, "audit", task, stage, status)
            body = AuditEventBody(
                SCHEMA_VERSION, event_type, *head.about, task, stage, status, each.reason, each.output, each.partial
            )
            found.append(head.message(f"audit{len(found) - n_before or ''}", "audit", full, body))
    if also is not None and _is_for_others(event, broadcast_pointers=broadcast_pointers):
        found.append(also(event, head or _letterhead(recorded, prefix, reveal)))
    return found


@lru_cache(maxsize=_REMEMBERED)
def _addressed(prefix: str, family: str, task: str, stage: str, status: str | None) -> tuple[str, str]:
    """The subject and the `event_type` of a row."""
    return subject(prefix, family, task, stage), canonical_event_type(stage, status)


def _letterhead(recorded: Recorded, prefix: str, reveal: Reveal) -> _Letterhead:
    origin, trace, time = recorded.origin, recorded.traceparent, iso(recorded.at_us)
    if not origin.isprintable() or (trace is not None and not trace.isprintable()):
        raise BadMessage(f"event {recorded.position} cannot be published: a header has a line break", code="invalid")
    lines = (
        f"ce-specversion: 1.0\r\nce-source: /cascadence/{origin}\r\nce-time: {time}\r\n"
        f"content-type: application/json\r\nCascadence-Origin: {origin}\r\n"
        f"{POSITION_HEADER}: {recorded.position}\r\n"
    )
    if trace is not None:
        lines += f"traceparent: {trace}\r\n"
    user_hash, group_hash = recorded.user_hash, recorded.group_hash
    about = (user_hash, reveal(user_hash), None, group_hash, recorded.run_id, recorded.id, time)
    return _Letterhead(recorded, prefix, about, lines)


_PLACES = {"stage": 0, "stage1": 1, "audit": 2, "audit1": 3, "audit2": 4}
_ONLY_ONE = 5


def place(message_id: str) -> int:
    """Which of its event's messages one is, by its id: 0 to 7, another one for each."""
    return _PLACES.get(message_id.partition(".")[2], _ONLY_ONE)


# ── what an event is published as, besides its rows ──────────────────────────────────────────────────────────

_Publish = Callable[[Any, _Letterhead], Outgoing]


def _is_for_others(event: Event, *, broadcast_pointers: bool) -> bool:
    """What came from the bus is not said there again; nor is an event that nobody there would answer."""
    if isinstance(event, EventDispatched):
        return event.via == "workflow"
    return not isinstance(event, PointerAdded) or event.via != "bus" or broadcast_pointers


def _run_ended(event: RunFinished | RunFailed | RunCancelled | RunRefused, head: _Letterhead) -> Outgoing:
    task, at_us = event.task, head.recorded.at_us
    user_hash, user_id, group_id, group_hash, _, _, time = head.about
    spec = TaskSpecBody(SCHEMA_VERSION, _UNKNOWN, task, task, None, user_hash, user_id, group_id, group_hash)
    started = None if isinstance(event, RunRefused) else iso(at_us - round(event.took_s * 1_000_000))
    body = TaskRunBody(SCHEMA_VERSION, _UNKNOWN, *head.about, spec, _STATUS[type(event)], started, time)
    return head.message("task_run", "task_run", subject(head.prefix, "task_run", task), body)


_STATUS: dict[type[Event], str] = {
    RunFinished: "success",
    RunFailed: "error",
    RunCancelled: "cancelled",
    RunRefused: "refused",
}


def _task_registered(event: TaskRegistered, head: _Letterhead) -> Outgoing:
    user_hash, user_id, group_id, group_hash, run_id, event_id, time = head.about
    body = RegisteredBody(
        SCHEMA_VERSION,
        _UNKNOWN,
        event.task,
        event.task,
        event.description or None,
        user_hash,
        user_id,
        group_id,
        group_hash,
        run_id,
        event_id,
        time,
    )
    return head.message("task_spec", "task_spec", subject(head.prefix, "task_spec", event.task), body)


def _pointer_added(event: PointerAdded, head: _Letterhead) -> Outgoing:
    about = _about_another_run(head, event.run_id)
    body = PointerUpdateBody(SCHEMA_VERSION, _UNKNOWN, *about, event.task)
    return head.message("pointer", "pointer", subject(head.prefix, "pointer", event.task), body)


def _schedule_set(event: ScheduleSet, head: _Letterhead) -> Outgoing:
    body = ScheduleBody(
        SCHEMA_VERSION,
        _UNKNOWN,
        *head.about,
        event.task,
        event.expr,
        event.calendar_event,
        event.timezone,
        event.recurrence,
    )
    return head.message("schedule", "schedule", subject(head.prefix, "schedule", event.task), body)


def _schedule_removed(event: ScheduleRemoved, head: _Letterhead) -> Outgoing:
    body = ScheduleBody(SCHEMA_VERSION, _UNKNOWN, *head.about, event.task)
    return head.message("schedule", "schedule", subject(head.prefix, "schedule", event.task), body)


def _followup_requested(event: FollowupRequested, head: _Letterhead) -> Outgoing:
    body = FollowupBody(
        SCHEMA_VERSION,
        _UNKNOWN,
        *_about_another_run(head, event.followup_run_id),
        event.task,
        event.failed_task,
        event.failed_run_id,
        event.depth,
    )
    return head.message("followup", "followup", subject(head.prefix, "followup", event.task), body)


def _event_dispatched(event: EventDispatched, head: _Letterhead) -> Outgoing:
    body = DispatchedBody(SCHEMA_VERSION, _UNKNOWN, *head.about, event.payload)
    return head.message("event", "event", event_subject(head.prefix, event.name), body)


def _dead_lettered(event: MessageDeadLettered, head: _Letterhead) -> Outgoing:
    body = DeadLetterBody(
        SCHEMA_VERSION,
        _UNKNOWN,
        *head.about,
        event.subject,
        event.reason,
        event.n_bytes,
        event.digest,
    )
    return head.message("dead", "dead", subject(head.prefix, "dead", event.reason), body)


def _about_another_run(head: _Letterhead, run_id: str) -> _About:
    user_hash, user_id, group_id, group_hash, _, event_id, time = head.about
    return user_hash, user_id, group_id, group_hash, run_id, event_id, time


_ALSO: dict[type[Event], _Publish] = {
    RunFinished: _run_ended,
    RunFailed: _run_ended,
    RunCancelled: _run_ended,
    RunRefused: _run_ended,
    TaskRegistered: _task_registered,
    PointerAdded: _pointer_added,
    ScheduleSet: _schedule_set,
    ScheduleRemoved: _schedule_removed,
    FollowupRequested: _followup_requested,
    EventDispatched: _event_dispatched,
    MessageDeadLettered: _dead_lettered,
}
