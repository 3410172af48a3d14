"""What was recorded under a source: what the outside called it."""

from __future__ import annotations

from cascadenced.eventlog.base import Tables

_POSITION = "SELECT position FROM events WHERE source = ?"


async def position_of(tables: Tables, source: str) -> int | None:
    """Of the first event of its append; None if nothing was."""
    rows = await tables.fetch(_POSITION, (source,))
    return int(rows[0][0]) if rows else None
