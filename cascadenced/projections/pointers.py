"""Which pointers each task has. An update that is already there changes nothing, in whatever order it comes."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from cascadenced.eventlog.base import Connection, Tables
from cascadenced.eventlog.bulk import insert_many
from cascadenced.events.base import Recorded
from cascadenced.events.pointer import PointerAdded
from cascadenced.projections.page import Page, checked_limit, checked_position, page

_DDL = """
CREATE TABLE pointers (
    position   INTEGER PRIMARY KEY,  -- of the event that added it
    task       TEXT NOT NULL,
    run_id     TEXT NOT NULL,
    user_hash  TEXT NOT NULL,
    group_hash TEXT NOT NULL         -- '' for none
) STRICT;
CREATE UNIQUE INDEX pointers_key ON pointers (task, run_id, user_hash, group_hash)
"""


_INSERT = "INSERT OR IGNORE INTO pointers (position, task, run_id, user_hash, group_hash) VALUES"


class Pointers:
    """One row a pointer."""

    name = "pointers"
    version = 1
    tables = ("pointers",)
    ddl = _DDL
    types = frozenset({"pointer.added"})

    def apply(self, connection: Connection, batch: Sequence[Recorded]) -> None:
        rows = [
            (r.position, r.event.task, r.event.run_id, r.event.user_hash, r.event.group_hash or "")
            for r in batch
            if isinstance(r.event, PointerAdded)
        ]
        if rows:
            insert_many(connection, _INSERT, rows)


class PointerRow(msgspec.Struct):
    """A pointer, by pseudonyms."""

    task: str
    run_id: str
    user_hash: str
    group_hash: str | None


async def list_pointers(
    tables: Tables,
    *,
    task: str | None = None,
    user_hash: str | None = None,
    group_hash: str | None = None,
    limit: int = 100,
    after: str | None = None,
) -> Page:
    """Oldest first. The filters match exactly."""
    checked_limit(limit)
    where, values = "position > ?", [checked_position(after) or 0]
    filters = [
        (c, v) for c, v in (("task", task), ("user_hash", user_hash), ("group_hash", group_hash)) if v is not None
    ]
    where += "".join(f" AND {column} = ?" for column, _ in filters)
    rows = await tables.fetch(
        f"SELECT position, task, run_id, user_hash, group_hash FROM pointers WHERE {where} "  # noqa: S608
        "ORDER BY position LIMIT ?",
        [*values, *(value for _, value in filters), limit + 1],
    )
    return page(rows, limit, lambda row: PointerRow(row[1], row[2], row[3], row[4] or None), lambda row: str(row[0]))
