"""A database copied while others write to it, and a log checked that lies still.

SQLite's backup begins again whenever somebody commits between two of its steps: under constant writes it never ends
(measured). Inside a read transaction it sees one snapshot from its first page to its last, and no commit waits for it;
what it costs is that the WAL cannot be shortened meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import msgspec

from cascadenced.errors import BackupDamaged, CascadenceError, ConfigError, DiskError, Unknown
from cascadenced.eventlog.database import APPLICATION_ID, translated, verify_chain
from cascadenced.private_files import create_private
from cascadenced.private_files import translated as translated_os

_PAGES_AT_ONCE = 256
_SYNC_EVERY_STEPS = 16
"""16 MiB with pages of 4 KiB. One sync of everything at the end would hold up the syncs of commits (measured)."""


class End(msgspec.Struct, frozen=True):
    """Where a log ends. hash: of the event at `position`, hex; of the anchor in an empty log."""

    position: int
    epoch: int
    hash: str
    instance_id: str


def copy_database(source: Path, target: Path, pause: Callable[[], object]) -> None:
    """Write what is committed in `source` now into the new file `target` (0600), one self-contained file, on disk on
    return.

    pause: called between steps of a megabyte; what it raises ends the copying.
    Raises Unknown without a source, ConfigError, DiskFull, DiskError. A target that is not finished is left behind.
    """
    if not source.exists():
        raise Unknown(f"there is no {source}: nothing to copy")
    if not create_private(target):
        raise ConfigError(f"{target} is there already")
    # Closing any descriptor of a file drops SQLite's locks on it; on a file that is ours alone that hurts nobody.
    descriptor = os.open(target, os.O_RDWR)
    try:
        with _reader(source) as reading, contextlib.closing(_new(target)) as writing:
            _copy(reading, writing, descriptor, pause)
            # The copied header says WAL; a file that stands alone is read from anywhere, read-only media included.
            writing.execute("PRAGMA journal_mode = DELETE").fetchall()
        os.fsync(descriptor)
    except sqlite3.Error as error:
        raise _our_error(error, source, target) from None
    except OSError as error:
        raise translated_os(error, f"{target} cannot be written") from None
    finally:
        os.close(descriptor)


def check_log(path: Path, pause: Callable[[], object] | None = None) -> End:
    """Check a log that nobody writes to, without changing it: SQLite's own check, then every link of the chain.

    Raises BackupDamaged for a file that is damaged or no log, LogCorrupt where the chain breaks, ConfigError for one of
    a newer version.
    """
    uri = f"file:{quote(str(path))}?mode=ro&immutable=1"
    try:
        with contextlib.closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as connection:
            found = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
            if found != "ok":
                raise BackupDamaged(f"{path} is damaged: {found}")
            if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
                raise BackupDamaged(f"{path} is not an event log of cascadenced")
            position, last = verify_chain(connection, pause=pause)
            meta = dict(connection.execute("SELECT key, value FROM meta").fetchall())
    except sqlite3.Error as error:
        raise BackupDamaged(f"{path} is damaged: {error}") from None
    return End(position, int(meta.get("epoch", "0")), last.hex(), meta.get("instance_id", ""))


def epoch_of(path: Path) -> int:
    """The epoch of a log that nobody writes to; 0 where there is none that can be read."""
    if not path.exists():
        return 0
    try:
        with _reader(path) as connection:
            row = connection.execute("SELECT value FROM meta WHERE key = 'epoch'").fetchone()
    except (sqlite3.Error, OSError):
        return 0
    return int(row[0]) if row else 0


def raise_epoch(path: Path, epoch: int) -> None:
    """Let the log in a file that nobody uses go on in another epoch. On disk on return. Raises DiskFull, DiskError."""
    try:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute(
                "INSERT INTO meta (key, value) VALUES ('epoch', ?) "
                "ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                (str(epoch),),
            )
    except sqlite3.Error as error:
        raise translated(error, path) from None


@contextlib.contextmanager
def _reader(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that sees one snapshot until it is closed."""
    with contextlib.closing(
        sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, isolation_level=None)
    ) as connection:
        connection.execute("PRAGMA busy_timeout = 5000")
        connection.execute("BEGIN")
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()  # only a statement takes the snapshot
        yield connection


def _new(path: Path) -> sqlite3.Connection:
    # Half a copy is thrown away, so it needs no journal; the syncs are ours.
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = OFF").fetchall()
    connection.execute("PRAGMA synchronous = OFF")
    return connection


def _copy(
    reading: sqlite3.Connection, writing: sqlite3.Connection, descriptor: int, pause: Callable[[], object]
) -> None:
    n_steps = 0

    def step(_status: int, _remaining: int, _total: int) -> None:
        nonlocal n_steps
        n_steps += 1
        if n_steps % _SYNC_EVERY_STEPS == 0:
            os.fsync(descriptor)
        pause()

    reading.backup(writing, pages=_PAGES_AT_ONCE, progress=step)


def _our_error(error: sqlite3.Error, source: Path, target: Path) -> CascadenceError:
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CANTOPEN):
        return DiskError(f"{source} cannot be read: {error}")
    return translated(error, target)
