"""Reading the file: one connection, `mode=ro`, one short statement at a time."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiosqlite

from cascadenced.errors import Unavailable
from cascadenced.eventlog.base import ProjectionState, Row
from cascadenced.eventlog.rows import COLUMNS, from_row
from cascadenced.events.base import Recorded

_READ = f"SELECT {COLUMNS} FROM events WHERE position > ? ORDER BY position LIMIT ?"  # noqa: S608
_READ_STREAM = f"SELECT {COLUMNS} FROM events WHERE stream = ? AND version > ? ORDER BY version"  # noqa: S608


class Reader:
    """Committed events and projection rows. Works beside a daemon, and without one."""

    def __init__(self, connection: aiosqlite.Connection) -> None:
        self._connection = connection

    @classmethod
    async def open(cls, path: Path) -> Reader:
        """Raises Unavailable if there is no log at `path` or it cannot be read."""
        uri = f"file:{quote(str(path))}?mode=ro"
        connection = aiosqlite.connect(uri, uri=True, isolation_level=None)
        connection.daemon = True  # type: ignore[attr-defined]  # the thread must not keep a dying process alive
        try:
            return cls(await connection)
        except sqlite3.OperationalError as error:
            raise Unavailable(f"{path} cannot be read: {error}") from None

    async def fetch(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        return [tuple(row) for row in await self._connection.execute_fetchall(sql, parameters)]

    async def read_stream(self, stream: str, after_version: int = 0) -> list[Recorded]:
        return [from_row(row) for row in await self.fetch(_READ_STREAM, (stream, after_version))]

    async def read(self, after: int, limit: int) -> list[Recorded]:
        return [from_row(row) for row in await self.fetch(_READ, (after, limit))]

    async def position(self) -> int:
        rows = await self.fetch("SELECT coalesce(max(position), (SELECT position FROM anchor), 0) FROM events")
        return int(rows[0][0])

    async def checkpoint(self, name: str) -> int:
        rows = await self.fetch("SELECT position FROM checkpoints WHERE name = ?", (name,))
        return int(rows[0][0]) if rows else 0

    async def unfinished(self) -> list[str]:
        return [stream for (stream,) in await self.fetch("SELECT stream FROM unfinished ORDER BY position")]

    async def projection_states(self) -> list[ProjectionState]:
        head = await self.position()
        return [
            ProjectionState(name, head if position is None else position, reason, at)
            for name, position, reason, at in await self.fetch(
                "SELECT name, position, reason, frozen_at_us FROM projections ORDER BY name"
            )
        ]

    async def close(self) -> None:
        await self._connection.close()
