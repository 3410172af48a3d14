"""The projections' tables of a log in memory, to be compared with what the same log folds to from nothing."""

from __future__ import annotations

import sqlite3
from typing import Any

import msgspec

from cascadenced.eventlog.memory import MemoryEventLog
from cascadenced.projections import all_projections

TABLES = [table for projection in all_projections() for table in projection.tables]


class Tables(msgspec.Struct, frozen=True):
    """position: of the last event they have taken in.  rows: by table, in the order SQLite has them."""

    position: int
    rows: dict[str, list[Any]]

    @classmethod
    def of(cls, log: MemoryEventLog) -> Tables | None:
        """None if the log is closed."""
        connection = log._connection
        try:
            position = connection.execute("SELECT coalesce(max(position), 0) FROM events").fetchone()[0]
        except sqlite3.ProgrammingError:
            return None
        return cls(position, {name: connection.execute(f"SELECT * FROM {name}").fetchall() for name in TABLES})

    def differences(self, folded: Tables, whose: str) -> list[str]:
        """folded: from nothing; None where it is about another position."""
        if self.position != folded.position:
            return []
        return [
            f"the table {name} of {whose} is not what the log folds to"
            for name, rows in self.rows.items()
            if rows != folded.rows[name]
        ]
