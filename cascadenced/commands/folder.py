"""Whether there is a log to read, said before anything is made of it."""

from __future__ import annotations

import contextlib
import sqlite3
import stat
from pathlib import Path
from urllib.parse import quote

from cascadenced.config import Config
from cascadenced.errors import ConfigError


def has_log(config: Config) -> bool:
    """False where nothing was recorded yet; also while another process is just making the file.

    Raises ConfigError for a data folder that cannot be looked into, Unavailable for a file that cannot be read.
    """
    folder = Path(config.data_dir)
    try:
        if not stat.S_ISDIR(folder.stat().st_mode):
            raise ConfigError(f"{folder} is not a folder: choose another data_dir")
        if not config.log_path.exists():
            return False
    except FileNotFoundError:
        return False
    except OSError as error:
        raise ConfigError(f"{folder} cannot be looked into: {error.strerror}") from None
    try:
        with contextlib.closing(read_only(config)) as connection:
            return _is_complete(connection)
    except sqlite3.Error as error:
        from cascadenced.eventlog.database import unreadable

        raise unreadable(error, config.log_path) from None


def read_only(config: Config) -> sqlite3.Connection:
    """The log's file, for reading. Its statements raise sqlite3.Error."""
    return sqlite3.connect(f"file:{quote(str(config.log_path))}?mode=ro", uri=True, isolation_level=None)


def _is_complete(connection: sqlite3.Connection) -> bool:
    """Whether the first opening of the file got as far as the tables of the projections."""
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if tables and "anchor" not in tables:
        raise sqlite3.DatabaseError("it is another program's database; set data_dir to another folder")
    return bool(tables) and connection.execute("SELECT 1 FROM projections LIMIT 1").fetchone() is not None
