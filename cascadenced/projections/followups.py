"""What the capability planner did about failed runs."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from cascadenced.eventlog.base import Connection, Tables
from cascadenced.events.base import Recorded
from cascadenced.events.followup import FollowupRequested, FollowupSkipped
from cascadenced.projections.page import Page, checked_end, checked_limit, page

_DDL = """
CREATE TABLE followups (
    position        INTEGER PRIMARY KEY,  -- of the event
    task            TEXT NOT NULL,        -- of the failed run
    run_id          TEXT NOT NULL,        -- the failed run
    followup_run_id TEXT,
    depth           INTEGER,
    skipped         TEXT                  -- code, when there is no follow-up
) STRICT
"""


class Followups:
    """One row a failed run."""

    name = "followups"
    version = 1
    tables = ("followups",)
    ddl = _DDL
    types = frozenset({"followup.requested", "followup.skipped"})

    def apply(self, connection: Connection, batch: Sequence[Recorded]) -> None:
        for recorded in batch:
            event = recorded.event
            row: tuple[str, str, str | None, int | None, str | None]
            if isinstance(event, FollowupRequested):
                row = (event.failed_task, event.failed_run_id, event.followup_run_id, event.depth, None)
            elif isinstance(event, FollowupSkipped):
                row = (event.failed_task, event.failed_run_id, None, None, event.code)
            else:
                continue
            connection.execute("INSERT INTO followups VALUES (?, ?, ?, ?, ?, ?)", (recorded.position, *row))


class FollowupRow(msgspec.Struct):
    """task and run_id: of the failed run.  status: of the follow-up's run, or `skipped: <code>`."""

    task: str
    run_id: str
    followup_run_id: str | None
    depth: int | None
    status: str


async def list_followups(tables: Tables, *, limit: int = 100, after: str | None = None) -> Page:
    """Newest first."""
    checked_limit(limit)
    end = checked_end(after)
    rows = await tables.fetch(
        "SELECT f.position, f.task, f.run_id, f.followup_run_id, f.depth, f.skipped, r.status "
        "FROM followups AS f LEFT JOIN runs AS r ON r.run_id = f.followup_run_id "
        "WHERE f.position < ? ORDER BY f.position DESC LIMIT ?",
        (end, limit + 1),
    )
    return page(
        rows,
        limit,
        lambda row: FollowupRow(row[1], row[2], row[3], row[4], f"skipped: {row[5]}" if row[5] else row[6] or "queued"),
        lambda row: str(row[0]),
    )
