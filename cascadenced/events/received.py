"""The bodies of messages that others publish, as `/asyncapi.json` shows them; inbound.py makes commands of them.

`Received` tells them from what we publish ourselves (bodies.py). Fields that are not known here are nothing to us.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

MAX_PRIORITY = 2**31 - 1


class ReceivedEventBody(msgspec.Struct):
    user_id: str
    payload: dict[str, Any] = {}
    group_id: str | None = None


class ReceivedRunBody(msgspec.Struct):
    user_id: str
    group_id: str
    args: dict[str, Any] = {}
    idempotency_key: str | None = None
    priority: Annotated[int, msgspec.Meta(ge=-MAX_PRIORITY, le=MAX_PRIORITY)] = 0


class Somebody(msgspec.Struct, kw_only=True):
    user_id: str | None = None
    user_hash: str | None = None
    group_id: str | None = None
    group_hash: str | None = None


class ReceivedPointerBody(Somebody, kw_only=True):
    run_id: str
    task_name: str | None = None


class ReceivedScheduleBody(msgspec.Struct, kw_only=True):
    expr: str | None = None
    calendar_event: str | dict[str, Any] | None = None
    rrule: str | None = None
    every_s: float | None = None
    at: str | None = None
    timezone: str | None = None
    dst: dict[str, Any] | None = None
    misfire: str | dict[str, Any] | None = None
    overlap: str | None = None
    jitter_s: float | None = None
    exclude: list[str] | None = None
    exclude_ics: str | None = None
    event: str | None = None
    args: dict[str, Any] | None = None
    recurrence: Any = None
    poll: float | None = None
    user_id: str | None = None
    group_id: str | None = None


class ReceivedSpec(msgspec.Struct):
    id: str | None = None


class ReceivedTaskRunBody(Somebody, kw_only=True):
    run_id: str
    status: str
    spec: ReceivedSpec | None = None
    started_at: str | None = None
    finished_at: str | None = None


class ReceivedIdeaBody(Somebody, kw_only=True):
    text: str


class ReceivedNoteBody(Somebody, kw_only=True):
    note: str
    task_name: str | None = None
    run_id: str | None = None
