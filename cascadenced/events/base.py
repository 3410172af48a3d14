"""What every event shares, and what the log adds to it when it is recorded."""

from __future__ import annotations

from typing import Any

import msgspec

Json = Any
"""A JSON value as Python sees it: None, bool, int, float, str, list, or dict with str keys."""


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type", gc=False):
    """A fact, past tense. Unknown fields are tolerated when read; later fields always have a default.

    An event holds JSON and other values without references back, so the cycle collector need not look at any.
    """


class Context(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Whom and what a group of events belongs to; becomes part of each event's header.

    cause: id of the event that led to the first of them (each further one is caused by the one before it).
    correlation: one id for the whole story, carried from cause to effect.
    """

    user_hash: str | None = None
    group_hash: str | None = None
    run_id: str | None = None
    cause: str | None = None
    correlation: str | None = None
    traceparent: str | None = None


class Recorded(msgspec.Struct, frozen=True, gc=False):
    """An event as the log keeps it: the columns of the table, in their order, and the event itself.

    position: 1, 2, 3 … without gaps, the log's total order.  version: the same within `stream`.
    at_us: UTC, microseconds.  origin: the instance that recorded it.  epoch: raised by every open for writing.
    source: what the outside called it, unique in the log; on the first event of its append only.
    data: the event's JSON, exactly as stored.  hash: SHA-256(previous hash ‖ canonical header ‖ SHA-256(data)).
    """

    position: int
    id: str
    stream: str
    version: int
    type: str
    at_us: int
    origin: str
    epoch: int
    source: str | None
    user_hash: str | None
    group_hash: str | None
    run_id: str | None
    cause: str | None
    correlation: str | None
    traceparent: str | None
    schema: int
    data: bytes
    hash: bytes
    event: Event
