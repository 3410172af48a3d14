"""Reading the file: one connection, `mode=ro`, one short statement at a time."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiosqlite

from cascadenced.errors import LogCorrupt, Unavailable
from cascadenced.eventlog.base import Opening, ProjectionState, Row
from cascadenced.eventlog.chain import check_end, verify
from cascadenced.eventlog.database import LAST_KNOWN, unreadable
from cascadenced.eventlog.folding import is_database_failure
from cascadenced.eventlog.rows import COLUMNS, OPENINGS, from_row, opening_from_row
from cascadenced.events.base import Recorded

_READ = f"SELECT {COLUMNS} FROM events WHERE position > ? ORDER BY position LIMIT ?"  # noqa: S608
_VERIFIED_AT_ONCE = 500
"""Events whose hashes are computed on the loop before others have a turn: a few milliseconds."""
_OPENINGS_AT_ONCE = 1_000
"""Read and decoded before others have a turn, as above."""
_READ_STREAM = f"SELECT {COLUMNS} FROM events WHERE stream = ? AND version > ? ORDER BY version"  # noqa: S608
_READ_SOME = f"{_READ_STREAM} LIMIT ?"
_READ_AT_ONCE = 100
_VERSION_AT = (
    "SELECT coalesce((SELECT version FROM events WHERE stream = ? AND position <= ? ORDER BY version DESC LIMIT 1), 0)"
)
"""Versions of a stream are in the order of positions, so this walks back over what came later, and no further."""


class Reader:
    """Committed events and projection rows. Works beside a daemon, and without one."""

    def __init__(self, connection: aiosqlite.Connection, path: Path) -> None:
        self._connection = connection
        self._path = path

    @classmethod
    async def open(cls, path: Path) -> Reader:
        """Raises Unavailable if there is no log at `path` or it cannot be read."""
        if not path.exists():  # noqa: ASYNC240 -- aiosqlite leaves a thread behind when it cannot open a file
            raise Unavailable(f"{path} cannot be read: there is no such file")
        uri = f"file:{quote(str(path))}?mode=ro"
        connection = aiosqlite.connect(uri, uri=True, isolation_level=None)
        # The thread must not keep a dying process alive; the connection is one, or since aiosqlite 0.22 has one.
        thread: Any = getattr(connection, "_thread", connection)
        thread.daemon = True
        try:
            await connection
        except sqlite3.Error as error:
            raise unreadable(error, path) from None
        try:
            # Nothing but a statement opens the file.
            await connection.execute_fetchall("SELECT position FROM anchor")
        except sqlite3.Error as error:
            await connection.close()
            raise unreadable(error, path) from None
        return cls(connection, path)

    async def fetch(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """Raises Unavailable if the file cannot be read (any more)."""
        with self._reading():
            return [tuple(row) for row in await self._connection.execute_fetchall(sql, parameters)]

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            if not is_database_failure(error):
                raise
            raise unreadable(error, self._path) from None
        except ValueError:  # what aiosqlite says of a closed connection
            raise Unavailable(f"{self._path} is closed") from None

    async def read_stream(self, stream: str, after_version: int = 0) -> list[Recorded]:
        return [from_row(row) for row in await self.fetch(_READ_STREAM, (stream, after_version))]

    async def read_since(self, stream: str, position: int) -> AsyncIterator[Recorded]:
        [(version,)] = await self.fetch(_VERSION_AT, (stream, position))
        while batch := [from_row(row) for row in await self.fetch(_READ_SOME, (stream, version, _READ_AT_ONCE))]:
            for recorded in batch:
                yield recorded
            version = batch[-1].version

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

    async def openings(self) -> list[Opening]:
        found: list[Opening] = []
        with self._reading():
            async with self._connection.execute(OPENINGS) as cursor:
                while rows := list(await cursor.fetchmany(_OPENINGS_AT_ONCE)):
                    found += [opening_from_row(tuple(row)) for row in rows]
        return found

    async def projection_states(self) -> list[ProjectionState]:
        head = await self.position()
        return [
            ProjectionState(name, head if position is None else position, reason, at)
            for name, position, reason, at in await self.fetch(
                "SELECT name, position, reason, frozen_at_us FROM projections ORDER BY name"
            )
        ]

    async def verify(self) -> int:
        """Check the whole chain, a little at a time; returns the position reached. Raises LogCorrupt."""
        [(known,)] = await self.fetch(LAST_KNOWN)  # first: the log may grow meanwhile
        anchor = await self.fetch("SELECT position, hash FROM anchor")
        if not anchor:
            raise LogCorrupt("the anchor that the chain starts from is missing", position=0)
        position, previous = anchor[0]
        while rows := await self.fetch(_READ, (position, _VERIFIED_AT_ONCE)):
            position, previous = verify(position, previous, ((row[:16], row[16], row[17]) for row in rows))
        check_end(position, known)
        return int(position)

    async def close(self) -> None:
        await self._connection.close()
