"""The limit: rows of an event's size into one indexed SQLite table, WAL and synchronous=FULL, 50 in a transaction.

50 is what 50 runs at once put into one commit. Units: events/s.
"""

from __future__ import annotations

import sqlite3
import tempfile
import time
from pathlib import Path

BATCH = 50
BATCHES = 1_000


def measure() -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        connection = sqlite3.connect(Path(folder) / "raw.db", isolation_level=None)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("CREATE TABLE log (position INTEGER PRIMARY KEY, stream TEXT, version INTEGER, data BLOB)")
        connection.execute("CREATE UNIQUE INDEX log_stream ON log (stream, version)")
        data = b"x" * 290
        began = time.perf_counter()
        for n in range(BATCHES):
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(
                "INSERT INTO log (stream, version, data) VALUES (?, ?, ?)",
                [(f"run-{n:08d}-{i:04d}", 1, data) for i in range(BATCH)],
            )
            connection.execute("COMMIT")
        took_s = time.perf_counter() - began
        connection.close()
    return {"events_per_s": BATCH * BATCHES / took_s}
