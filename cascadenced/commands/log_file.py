"""The log's file as it lies there: checked and exported, beside a daemon that may be up; or put back from a backup."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from cascadenced import backup
from cascadenced.clock import SystemClock
from cascadenced.commands.folder import has_log
from cascadenced.completeness import refuse_incomplete
from cascadenced.config import Config
from cascadenced.errors import ConfigError, Invalid
from cascadenced.eventlog.at_rest import reading, rows_after
from cascadenced.eventlog.database import verify_chain
from cascadenced.eventlog.lock import DataFolderLock
from cascadenced.events.schema import document
from cascadenced.private_files import translated


def verify(config: Config) -> int:
    """The position up to which the log is intact, all of it. Raises LogCorrupt, Unavailable if it cannot be read."""
    with _log_file(config) as connection:
        return 0 if connection is None else verify_chain(connection)[0]


def export(config: Config, after: int, out: str | None) -> int:
    """Write the events behind `after` as JSON lines to the file `out`, None for stdout. Returns how many.

    Raises Unavailable if the log cannot be read, Invalid, DiskFull or DiskError if the file cannot be written.
    """
    n_events = 0
    with _log_file(config) as connection, _opened(None if out is None else Path(out)) as file:
        for line in _lines(connection, after):
            file.write(line)
            n_events += 1
        file.flush()
    return n_events


def restore(config: Config, folder: str, *, keys: str | None, force: bool) -> dict[str, Any]:
    """What was put back (`backup.Summary`) by `backup.restore`. Raises what that raises, LogHeld."""
    lock = DataFolderLock.acquire(config.data_dir, "the command log restore")
    try:
        beside = None if keys is None else Path(keys)
        done = backup.restore(config, Path(folder), keys=beside, force=force, clock=SystemClock())
    finally:
        lock.release()
    shown: dict[str, Any] = msgspec.to_builtins(done)
    return shown


def schema() -> Any:
    """The JSON Schema of the events."""
    return msgspec.json.decode(document())


def _lines(connection: sqlite3.Connection | None, after: int) -> Iterator[bytes]:
    if connection is None:
        return
    encode = msgspec.json.Encoder().encode
    for row in rows_after(connection, after):
        yield encode({**row, "data": msgspec.Raw(row["data"]), "hash": row["hash"].hex()}) + b"\n"


@contextlib.contextmanager
def _log_file(config: Config) -> Iterator[sqlite3.Connection | None]:
    """The log's file, None if there is none yet. Raises Unavailable if it cannot be read, ConfigError if it is gone."""
    if not has_log(config):
        refuse_incomplete(config)
        yield None
        return
    with reading(config.log_path) as connection:
        yield connection


@contextlib.contextmanager
def _opened(out: Path | None) -> Iterator[BinaryIO]:
    """Where an export goes."""
    if out is None:
        yield sys.stdout.buffer
        return
    draft = out.with_name(f"{out.name}.part")
    try:
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            yield file
        draft.replace(out)
    except OSError as error:
        said = translated(error, f"{out} cannot be written")
        raise Invalid(str(said)) if isinstance(said, ConfigError) else said from None
    finally:
        draft.unlink(missing_ok=True)
