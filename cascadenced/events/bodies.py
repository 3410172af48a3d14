"""The bodies of what we publish: the public JSON schemas of the predecessor.

Every body starts with `schema_version` and `event_type` and has `run_id`, `event_id` and `time` added. `user_id` and
`group_id` are always null (see `emit_raw_user_id`): readers correlate by `user_hash` and `group_hash`.

The order of the fields is that of the arguments: bodies are made by position, in a tenth of the time that names take.
"""

from __future__ import annotations

import msgspec

from cascadenced.events.base import Json

SCHEMA_VERSION = "2026.04.0"


class TaskSpecBody(msgspec.Struct, gc=False):
    """A task as others may know it. id and name are both the registered name."""

    schema_version: str
    event_type: str
    id: str
    name: str
    description: str | None
    user_hash: str | None
    user_id: str | None
    group_id: str | None
    group_hash: str | None


class RegisteredBody(TaskSpecBody, gc=False):
    """A task was registered."""

    run_id: str | None
    event_id: str
    time: str


class AboutRun(msgspec.Struct, gc=False):
    """What every other body begins with."""

    schema_version: str
    event_type: str
    user_hash: str | None
    user_id: str | None
    group_id: str | None
    group_hash: str | None
    run_id: str | None
    event_id: str
    time: str


class StageUpdateBody(AboutRun, gc=False):
    """A run passed a stage."""

    task_name: str
    stage: str


class AuditEventBody(AboutRun, gc=False):
    """One audit row."""

    task_name: str
    stage: str
    status: str
    reason: str | None
    output: str | None
    partial: Json


class TaskRunBody(AboutRun, gc=False):
    """A run ended. status: success, error or refused. Instants are ISO 8601 UTC."""

    spec: TaskSpecBody
    status: str
    started_at: str | None
    finished_at: str | None


class PointerUpdateBody(AboutRun, gc=False):
    """A pointer was added. `run_id` is the run it points to."""

    task_name: str


class ScheduleBody(AboutRun, gc=False):
    """A schedule was set, or removed when both `expr` and `calendar_event` are null."""

    task_name: str
    expr: str | None = None
    calendar_event: dict[str, Json] | None = None
    timezone: str | None = None
    recurrence: Json = None


class FollowupBody(AboutRun, gc=False):
    """The planner asks `task_name` to look at the failed run. run_id: the follow-up's."""

    task_name: str
    failed_task: str
    failed_run_id: str
    depth: int


class DispatchedBody(AboutRun, gc=False):
    """An event that a workflow emitted."""

    payload: dict[str, Json]


class DeadLetterBody(AboutRun, gc=False):
    """A message could not be read."""

    subject: str
    reason: str
    n_bytes: int
    digest: str
