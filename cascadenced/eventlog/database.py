"""The file: opened with the pragmas our promises rest on, migrated, and guarded against files that are not ours."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path

from cascadenced.errors import (
    RESTORE,
    CascadenceError,
    ConfigError,
    DiskError,
    DiskFull,
    LogCorrupt,
    LogUnreadable,
    Unavailable,
)
from cascadenced.eventlog.chain import Header, check_end, verify
from cascadenced.eventlog.rows import COLUMNS
from cascadenced.eventlog.script import statements
from cascadenced.ids import Ids

APPLICATION_ID = 0x43415343
"""Marks the file as ours ("CASC")."""

LAST_KNOWN = (
    "SELECT coalesce(max(position), 0) FROM "
    "(SELECT position FROM checkpoints WHERE instr(name, ':') = 0 UNION ALL SELECT position FROM unfinished)"
)
"""The newest position that is named elsewhere in the file, by what was committed with that event or after it.

Checkpoints with a colon in their names are other numbers.
"""

_WAL_LIMIT_BYTES = 64 * 1024 * 1024


def connect(path: Path) -> sqlite3.Connection:
    """A connection for the writer: WAL, synchronous=FULL, and both read back. Raises ConfigError or DiskError."""
    for kind in (bytes, type(None)):
        # Or the module looks in vain for somebody who turns each into something else, before it binds it as it is: a
        # quarter of what binding the row of an event costs.
        sqlite3.register_adapter(kind, _as_it_is)
    try:
        if not path.exists():
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=512)
    except (OSError, sqlite3.Error) as error:
        raise ConfigError(f"{path} cannot be opened ({error}); set data_dir to a folder of yours") from None
    try:
        _refuse_what_is_not_ours(connection, path)
        _set_pragmas(connection, path)
    except sqlite3.Error as error:
        connection.close()
        raise translated(error, path) from None
    except BaseException:
        connection.close()
        raise
    return connection


def _as_it_is(value: bytes | None) -> bytes | None:
    return value


def _refuse_what_is_not_ours(connection: sqlite3.Connection, path: Path) -> None:
    application = 0
    try:
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    except sqlite3.DatabaseError as error:
        if _primary(error) in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise  # it may well be ours
        if application == APPLICATION_ID:
            raise  # its first page says that it is
        raise _not_ours(path, str(error)) from None
    if application not in (0, APPLICATION_ID) or (application == 0 and tables):
        raise _not_ours(path, "another program's database")


def _set_pragmas(connection: sqlite3.Connection, path: Path) -> None:
    for pragma in (
        "journal_mode = WAL",
        "synchronous = FULL",
        "fullfsync = ON",
        "foreign_keys = ON",
        "trusted_schema = OFF",
        "cell_size_check = ON",
        "busy_timeout = 5000",
        "cache_size = -16384",
        f"journal_size_limit = {_WAL_LIMIT_BYTES}",
    ):
        connection.execute(f"PRAGMA {pragma}").fetchall()
    mode = connection.execute("PRAGMA journal_mode").fetchone()[0]
    synchronous = connection.execute("PRAGMA synchronous").fetchone()[0]
    if mode != "wal" or synchronous != 2:
        raise ConfigError(f"{path} cannot be opened with WAL and synchronous=FULL; is it on a local filesystem?")


def migrate(connection: sqlite3.Connection, path: Path, ids: Ids) -> None:
    """Bring the file to the newest shape, one transaction a step. A file from a newer program is left untouched."""
    steps = sorted(
        (entry for entry in resources.files("cascadenced.eventlog").joinpath("migrations").iterdir()
         if entry.name.endswith(".sql")),
        key=lambda entry: entry.name,
    )  # fmt: skip
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > len(steps):
        raise ConfigError(
            f"{path} was written by a newer version (its shape is {version}, this one knows {len(steps)}): "
            "install that version again, or restore a backup"
        )
    for number, step in enumerate(steps[version:], start=version + 1):
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement in statements(step.read_text()):
                connection.execute(statement)
            if number == 1:
                connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                anchor = bytes.fromhex(ids.token() + ids.token())
                connection.execute("INSERT INTO anchor (position, hash) VALUES (0, ?)", (anchor,))
            connection.execute(f"PRAGMA user_version = {number}")
            connection.execute("COMMIT")
        except BaseException as error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error):
                raise translated(error, path) from None
            raise


def verify_chain(
    connection: sqlite3.Connection, after: int | None = None, pause: Callable[[], object] | None = None
) -> tuple[int, bytes]:
    """Check the chain from the event at `after` (None: from the anchor) to the end; returns its position and hash.

    pause: called every 2,000 events, for those who share the interpreter with others.
    Raises LogCorrupt naming the first bad position. Events missing at the end are noticed as far as anything else in
    the file speaks of them.
    """
    # Asked first: beside a running daemon the log, and with it this position, grows while the events are read.
    known = connection.execute(LAST_KNOWN).fetchone()[0]
    anchor = connection.execute("SELECT position, hash FROM anchor").fetchone()
    if anchor is None:
        raise LogCorrupt("the anchor that the chain starts from is missing", position=0)
    position, previous = anchor
    if after is not None and after > position:
        row = connection.execute("SELECT hash FROM events WHERE position = ?", (after,)).fetchone()
        if row is None:
            raise LogCorrupt(f"event {after} is missing, though it was here at the last check", position=after)
        position, previous = after, row[0]
    try:
        end = verify(position, previous, _links(connection, position, pause))
        check_end(end[0], known)
        return end
    except sqlite3.DatabaseError as error:
        raise LogCorrupt(f"the file is damaged: {error}", position=position) from None


def translated(error: sqlite3.Error, path: Path) -> CascadenceError:
    """SQLite's error as ours: no space, a file that another program holds for the moment, or a failing disk."""
    if _is_full(error):
        return DiskFull(f"no space left to write {path}: {error}")
    if _primary(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return Unavailable(f"another program holds {path}: close it there; nothing is lost meanwhile")
    if _primary(error) == sqlite3.SQLITE_CORRUPT:
        return DiskError(f"{path} is damaged ({error}): {RESTORE}")
    return DiskError(f"{path} cannot be written: {error}")


def unreadable(error: sqlite3.Error, path: Path) -> Unavailable:
    """SQLite's error, to somebody who only wanted to read."""
    if _is_full(error):
        return Unavailable(
            f"{path} cannot be read: the disk is full ({error}), and SQLite needs a little space beside the file "
            "even to read it: free some and try again"
        )
    if _primary(error) == sqlite3.SQLITE_CORRUPT:
        return LogUnreadable(f"{path} is damaged ({error}): {RESTORE}")
    return Unavailable(f"{path} cannot be read: {error}")


def _is_full(error: sqlite3.Error) -> bool:
    # The index of the WAL, a file in shared memory beside the log, has a code of its own when it finds no space.
    return _primary(error) == sqlite3.SQLITE_FULL or _code(error) == sqlite3.SQLITE_IOERR_SHMSIZE


def _primary(error: sqlite3.Error) -> int:
    return _code(error) & 0xFF


def _code(error: sqlite3.Error) -> int:
    # Absent on errors that Python's module raises by itself.
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)


def _links(
    connection: sqlite3.Connection, after: int, pause: Callable[[], object] | None
) -> Iterator[tuple[Header, bytes, bytes]]:
    cursor = connection.execute(
        f"SELECT {COLUMNS} FROM events WHERE position > ? ORDER BY position",  # noqa: S608
        (after,),
    )
    while rows := cursor.fetchmany(2_000):
        for row in rows:
            yield row[:16], row[16], row[17]
        if pause is not None:
            pause()


def _not_ours(path: Path, why: str) -> ConfigError:
    return ConfigError(f"{path} is not an event log of cascadenced ({why}); set data_dir to another folder")
