"""The file as it lies there, read without a lock: where no daemon is up, or beside one."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from cascadenced.eventlog.database import unreadable
from cascadenced.eventlog.rows import COLUMNS

_AT_ONCE = 1_000


@contextlib.contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """Raises Unavailable where it cannot be read, at once or later."""
    try:
        connection = sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, isolation_level=None)
        with contextlib.closing(connection):
            yield connection
    except sqlite3.Error as error:
        raise unreadable(error, path) from None


def is_complete(path: Path) -> bool:
    """Whether the first opening of the file got as far as the tables of the projections. Raises Unavailable."""
    with reading(path) as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if tables and "anchor" not in tables:
            raise sqlite3.DatabaseError("it is another program's database; set data_dir to another folder")
        return bool(tables) and connection.execute("SELECT 1 FROM projections LIMIT 1").fetchone() is not None


def rows_after(connection: sqlite3.Connection, position: int) -> Iterator[dict[str, Any]]:
    """The events behind `position`, in order: column → value."""
    cursor = connection.execute(
        f"SELECT {COLUMNS} FROM events WHERE position > ? ORDER BY position",  # noqa: S608 -- constants only
        (position,),
    )
    names = COLUMNS.split(", ")
    while rows := cursor.fetchmany(_AT_ONCE):
        for row in rows:
            yield dict(zip(names, row, strict=True))
