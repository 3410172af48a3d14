"""Which schedules are set. Nothing fires them yet; they are kept, shown and published."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from cascadenced.eventlog.base import Connection, Tables
from cascadenced.events.base import Json, Recorded
from cascadenced.events.schedule import ScheduleRemoved, ScheduleSet
from cascadenced.projections.page import Page, checked_limit, page

_DDL = """
CREATE TABLE schedules (
    task           TEXT PRIMARY KEY,
    expr           TEXT,
    timezone       TEXT NOT NULL,
    calendar_event TEXT,  -- JSON object
    recurrence     TEXT,  -- JSON, verbatim
    user_hash      TEXT,
    group_hash     TEXT
) STRICT, WITHOUT ROWID
"""


class Schedules:
    """One row a task."""

    name = "schedules"
    version = 1
    tables = ("schedules",)
    ddl = _DDL
    types = frozenset({"schedule.set", "schedule.removed"})

    def apply(self, connection: Connection, batch: Sequence[Recorded]) -> None:
        for recorded in batch:
            event = recorded.event
            if isinstance(event, ScheduleSet):
                connection.execute(
                    "INSERT OR REPLACE INTO schedules VALUES (?, ?, ?, ?, ?, ?, ?)",
                    (
                        event.task,
                        event.expr,
                        event.timezone,
                        _text(event.calendar_event),
                        _text(event.recurrence),
                        recorded.user_hash,
                        recorded.group_hash,
                    ),
                )
            elif isinstance(event, ScheduleRemoved):
                connection.execute("DELETE FROM schedules WHERE task = ?", (event.task,))


def _text(value: Json) -> str | None:
    return None if value is None else msgspec.json.encode(value).decode()


class ScheduleRow(msgspec.Struct):
    """A schedule. next_fire_at is null: nothing fires it yet."""

    task: str
    expr: str | None
    timezone: str
    paused: bool
    next_fire_at: str | None
    calendar_event: Json
    recurrence: Json
    user_hash: str | None
    group_hash: str | None


async def list_schedules(tables: Tables, *, limit: int = 100, after: str | None = None) -> Page:
    """By task name."""
    checked_limit(limit)
    rows = await tables.fetch("SELECT * FROM schedules WHERE task > ? ORDER BY task LIMIT ?", (after or "", limit + 1))
    return page(
        rows,
        limit,
        lambda row: ScheduleRow(
            task=row[0],
            expr=row[1],
            timezone=row[2],
            paused=False,
            next_fire_at=None,
            calendar_event=_json(row[3]),
            recurrence=_json(row[4]),
            user_hash=row[5],
            group_hash=row[6],
        ),
        lambda row: str(row[0]),
    )


def _json(text: str | None) -> Json:
    return None if text is None else msgspec.json.decode(text)
