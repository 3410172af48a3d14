"""Messages that could not be read, newest first. Their bytes are sealed in the vault."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from cascadenced.clock import iso
from cascadenced.errors import Unknown
from cascadenced.eventlog.base import Connection, Tables
from cascadenced.events.base import Recorded
from cascadenced.events.dead_letter import MessageDeadLettered, MessageRedriven
from cascadenced.projections.page import Page, checked_end, checked_limit, page

_DDL = """
CREATE TABLE dead_letters (
    position    INTEGER PRIMARY KEY,
    subject     TEXT NOT NULL,
    reason      TEXT NOT NULL,
    detail      TEXT NOT NULL,
    at_us       INTEGER NOT NULL,
    n_bytes     INTEGER NOT NULL,
    digest      TEXT NOT NULL,
    redriven_at INTEGER            -- position of the event that says so
) STRICT;
CREATE INDEX dead_letters_parked ON dead_letters (position) WHERE reason = 'future_schema' AND redriven_at IS NULL
"""


class DeadLetters:
    """One row a letter."""

    name = "dead_letters"
    version = 1
    tables = ("dead_letters",)
    ddl = _DDL
    types = frozenset({"message.dead_lettered", "message.redriven"})

    def apply(self, connection: Connection, batch: Sequence[Recorded]) -> None:
        for recorded in batch:
            event = recorded.event
            if isinstance(event, MessageDeadLettered):
                connection.execute(
                    "INSERT INTO dead_letters VALUES (?, ?, ?, ?, ?, ?, ?, NULL)",
                    (
                        recorded.position,
                        event.subject,
                        event.reason,
                        event.detail,
                        recorded.at_us,
                        event.n_bytes,
                        event.digest,
                    ),
                )
            elif isinstance(event, MessageRedriven):
                connection.execute(
                    "UPDATE dead_letters SET redriven_at = ? WHERE position = ?", (recorded.position, event.position)
                )


class DeadLetterRow(msgspec.Struct):
    """at: ISO 8601 UTC.  redriven: whether it has been read well since."""

    position: int
    subject: str
    reason: str
    detail: str
    at: str
    n_bytes: int
    digest: str
    redriven: bool


_COLUMNS = "position, subject, reason, detail, at_us, n_bytes, digest, redriven_at"


async def list_dead_letters(tables: Tables, *, limit: int = 100, after: str | None = None) -> Page:
    """Newest first."""
    checked_limit(limit)
    end = checked_end(after)
    rows = await tables.fetch(
        f"SELECT {_COLUMNS} FROM dead_letters WHERE position < ? ORDER BY position DESC LIMIT ?",  # noqa: S608
        (end, limit + 1),
    )
    return page(rows, limit, _letter, lambda row: str(row[0]))


async def dead_letter(tables: Tables, position: int) -> DeadLetterRow:
    """Raises Unknown."""
    rows = await tables.fetch(f"SELECT {_COLUMNS} FROM dead_letters WHERE position = ?", (position,))  # noqa: S608
    if not rows:
        raise Unknown(f"no dead letter at position {position}")
    return _letter(rows[0])


async def parked(tables: Tables) -> list[int]:
    """Positions of letters from a newer version, oldest first."""
    rows = await tables.fetch(
        "SELECT position FROM dead_letters WHERE reason = 'future_schema' AND redriven_at IS NULL ORDER BY position"
    )
    return [row[0] for row in rows]


def _letter(row: tuple[object, ...]) -> DeadLetterRow:
    position, subject, reason, detail, at_us, n_bytes, digest, redriven_at = row
    return msgspec.convert(
        {
            "position": position,
            "subject": subject,
            "reason": reason,
            "detail": detail,
            "at": iso(at_us),  # type: ignore[arg-type]  # the column is INTEGER NOT NULL in a STRICT table
            "n_bytes": n_bytes,
            "digest": digest,
            "redriven": redriven_at is not None,
        },
        DeadLetterRow,
    )
