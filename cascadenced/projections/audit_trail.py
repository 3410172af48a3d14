"""The stage and audit rows of a task, oldest first.

The table only says which events concern a task; the rows themselves are read out of those events (events/audit.py),
so that text is stored once and both this list and the published messages say the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from cascadenced.clock import iso
from cascadenced.eventlog.base import Connection, Row, Tables
from cascadenced.eventlog.bulk import insert_many
from cascadenced.events.audit import AuditRow, audit_rows, stage_rows
from cascadenced.events.base import Json, Recorded
from cascadenced.events.catalogue import decode
from cascadenced.projections.page import Page, checked_limit, checked_position

_DDL = """
CREATE TABLE audit_trail (
    task     TEXT NOT NULL,
    position INTEGER NOT NULL,  -- of the event
    PRIMARY KEY (task, position)
) STRICT, WITHOUT ROWID
"""

Category = Literal["stage", "audit", "all"]


_TYPES = frozenset({
    "run.requested", "run.refused", "run.finished", "run.failed", "stage.started", "stage.finished", "stage.failed",
    "task.enabled", "task.disabled", "task.paused", "task.resumed", "pointer.added",
})  # fmt: skip


class AuditTrail:
    """Which events say something about a task."""

    name = "audit_trail"
    version = 1
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
    """status and what follows it are null for a stage row. time: ISO 8601 UTC."""

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
    """Chronological. limit counts events, each of which may give several rows. The filters match exactly."""
    checked_limit(limit)
    conditions, values = "", list[str]()
    for column, value in (("user_hash", user_hash), ("group_hash", group_hash)):
        if value is not None:
            conditions += f" AND e.{column} = ?"
            values.append(value)
    rows = await tables.fetch(
        "SELECT e.position, e.at_us, e.user_hash, e.group_hash, e.run_id, e.schema, e.data "  # noqa: S608
        "FROM audit_trail AS a JOIN events AS e ON e.position = a.position "
        f"WHERE a.task = ? AND a.position > ?{conditions} ORDER BY a.position LIMIT ?",
        (task, checked_position(after) or 0, *values, limit + 1),
    )
    items = [item for row in rows[:limit] for item in _trail_rows(row, category)]
    return Page(items, str(rows[limit - 1][0]) if len(rows) > limit else None)


def _trail_rows(row: Row, category: Category) -> list[TrailRow]:
    _, at_us, user_hash, group_hash, run_id, schema, data = row
    event = decode(data, schema)
    time = iso(at_us)

    def stage_row(stage: str) -> TrailRow:
        return TrailRow(stage, time, None, None, None, None, user_hash, group_hash, run_id)

    def audit_row(audit: AuditRow) -> TrailRow:
        return TrailRow(
            audit.stage, time, audit.status, audit.reason, audit.output, audit.partial, user_hash, group_hash, run_id
        )

    stages = [stage_row(stage.stage) for stage in stage_rows(event)] if category != "audit" else []
    audits = [audit_row(audit) for audit in audit_rows(event)] if category != "stage" else []
    return stages + audits
