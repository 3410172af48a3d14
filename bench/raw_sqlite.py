"""The limit of a log: rows of an event's size into one indexed SQLite table, WAL and synchronous=FULL."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

_EVENT_BYTES = 290


def rows_per_s(folder: Path, *, batch: int, n_rows: int) -> float:
    """Insert about `n_rows` rows, `batch` in a transaction, with `executemany`."""
    path = folder / "raw.db"
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE log (position INTEGER PRIMARY KEY, stream TEXT, version INTEGER, data BLOB)")
    connection.execute("CREATE UNIQUE INDEX log_stream ON log (stream, version)")
    data = b"x" * _EVENT_BYTES
    n_batches = max(1, n_rows // batch)
    began = time.perf_counter()
    for n in range(n_batches):
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(
            "INSERT INTO log (stream, version, data) VALUES (?, ?, ?)",
            [(f"run-{n:08d}-{i:04d}", 1, data) for i in range(batch)],
        )
        connection.execute("COMMIT")
    took_s = time.perf_counter() - began
    connection.close()
    path.unlink()
    return n_batches * batch / took_s
