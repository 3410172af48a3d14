"""The stage and audit rows of a task, oldest first.

The table only says which events concern a task; the rows themselves are read out of those events (events/audit.py),
so that text is stored once and both this list and the published messages say the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from cascadenced.clock import iso
from cascadenced.eventlog.base import Connection, Tables
from cascadenced.eventlog.bulk import insert_many
from cascadenced.eventlog.rows import COLUMNS, from_row
from cascadenced.events.audit import SHOWN, audit_rows, stage_rows
from cascadenced.events.base import Json, Recorded
from cascadenced.events.catalogue import TYPE_NAMES
from cascadenced.events.stage import StageFailed
from cascadenced.projections.page import ABOVE_ALL, Page, checked_limit, checked_position

_DDL = """
CREATE TABLE audit_trail (
    task     TEXT NOT NULL,
    position INTEGER NOT NULL,  -- of the event
    PRIMARY KEY (task, position)
) STRICT, WITHOUT ROWID
"""

_COLUMNS = ", ".join(f"e.{column}" for column in COLUMNS.split(", "))

_CHUNK = 500
"""Events read at a time: of a category that is rare among them, a page needs many."""

Category = Literal["stage", "audit", "all"]


_TYPES = frozenset(TYPE_NAMES[kind] for kind in SHOWN)


class AuditTrail:
    """Which events say something about a task."""

    name = "audit_trail"
    version = 2
    tables = ("audit_trail",)
    ddl = _DDL
    types = _TYPES

    def apply(self, connection: Connection, batch: Sequence[Recorded]) -> None:
        rows = [
            (recorded.event.task, recorded.position)  # type: ignore[attr-defined]  # all of these types have it
            for recorded in batch
            if recorded.type in _TYPES
        ]
        if rows:
            insert_many(connection, "INSERT INTO audit_trail (task, position) VALUES", rows)


class TrailRow(msgspec.Struct):
    """status and what follows it are null for a stage row. time: ISO 8601 UTC.  user_hash: whoever did it, as far as
    that is known, else the run's user."""

    stage: str
    time: str
    status: str | None
    reason: str | None
    output: str | None
    partial: Json
    user_hash: str | None
    group_hash: str | None
    run_id: str | None


async def trail(
    tables: Tables,
    task: str,
    *,
    category: Category = "all",
    user_hash: str | None = None,
    group_hash: str | None = None,
    limit: int = 100,
    after: str | None = None,
) -> Page:
    """Chronological. The filters match exactly.

    after: `<position>` of the last event shown, or `<position>:<rows>` where a page ended amid an event's rows.
    """
    checked_limit(limit)
    position, n_shown = _cursor(after)
    conditions, values = _whose(user_hash, group_hash)
    items: list[TrailRow] = []
    last = ""
    while True:
        rows = await tables.fetch(
            f"SELECT {_COLUMNS} "  # noqa: S608 -- constants only
            "FROM audit_trail AS a JOIN events AS e ON e.position = a.position "
            f"WHERE a.task = ? AND a.position >= ?{conditions} ORDER BY a.position LIMIT ?",
            (task, position, *values, _CHUNK),
        )
        for row in rows:
            position = row[0]
            for item in _trail_rows(from_row(row), category)[n_shown:]:
                if len(items) == limit:
                    return Page(items, last)
                items.append(item)
                n_shown += 1
                last = f"{position}:{n_shown}"
            n_shown = 0
        if len(rows) < _CHUNK:
            return Page(items)
        position += 1


class Partial(msgspec.Struct):
    """What code that failed had carried as `.partial`. stage: by its name in the audit trail.  partial: null if there
    is none; then the other fields but task and stage are too."""

    task: str
    stage: str
    partial: Json = None
    run_id: str | None = None
    attempt: int | None = None
    time: str | None = None
    reason: str | None = None


async def newest_partial(
    tables: Tables, task: str, stage: str, *, user_hash: str | None = None, group_hash: str | None = None
) -> Partial:
    """Of the newest failure of that stage that left something. The filters match exactly."""
    stage = "execute" if stage == "run" else stage
    conditions, values = _whose(user_hash, group_hash)
    below = ABOVE_ALL
    while True:
        rows = await tables.fetch(
            f"SELECT {_COLUMNS} "  # noqa: S608 -- constants only
            "FROM audit_trail AS a JOIN events AS e ON e.position = a.position "
            f"WHERE a.task = ? AND a.position < ? AND e.type = ?{conditions} ORDER BY a.position DESC LIMIT ?",
            (task, below, TYPE_NAMES[StageFailed], *values, _CHUNK),
        )
        for recorded in map(from_row, rows):
            event = recorded.event
            below = recorded.position
            if isinstance(event, StageFailed) and event.partial is not None and _failed_stage(event) == stage:
                time = iso(recorded.at_us)
                return Partial(task, stage, event.partial, recorded.run_id, event.attempt, time, event.reason)
        if len(rows) < _CHUNK:
            return Partial(task, stage)


def _failed_stage(event: StageFailed) -> str:
    return audit_rows(event)[0].stage


def _whose(user_hash: str | None, group_hash: str | None) -> tuple[str, list[str]]:
    """More conditions on events, and their values."""
    wanted = [(column, value) for column, value in (("user_hash", user_hash), ("group_hash", group_hash)) if value]
    return "".join(f" AND e.{column} = ?" for column, _ in wanted), [value for _, value in wanted]


def _cursor(after: str | None) -> tuple[int, int]:
    """(position of the next event, how many of its rows were shown)."""
    if after is None:
        return 0, 0
    position, colon, n_shown = after.partition(":")
    if colon:
        return checked_position(position) or 0, checked_position(n_shown) or 0
    return (checked_position(position) or 0) + 1, 0


def _trail_rows(recorded: Recorded, category: Category) -> list[TrailRow]:
    # Who controls a run need not be its user.
    by = getattr(recorded.event, "by", None) or recorded.user_hash
    time, who = iso(recorded.at_us), (by, recorded.group_hash, recorded.run_id)
    rows = []
    if category != "audit":
        rows += [TrailRow(row.stage, time, None, None, None, None, *who) for row in stage_rows(recorded.event)]
    if category != "stage":
        rows += [
            TrailRow(row.stage, time, row.status, row.reason, row.output, row.partial, *who)
            for row in audit_rows(recorded.event)
        ]
    return rows
