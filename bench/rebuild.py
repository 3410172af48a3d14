"""All projections of a log of n events folded again, as `cascadenced log rebuild` has the daemon do it; beside reading
the same rows in order and decoding them with the log's own decoder.

Units: events/s, MiB.
"""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
import time
from contextlib import closing
from pathlib import Path

from bench import prefilled
from bench.engine import instance_of
from bench.processes import peak_rss_mib
from bench.sides import Figures
from cascadenced.config import load
from cascadenced.eventlog.rows import COLUMNS, from_row

_AT_ONCE = 1_000


def measure(n: int) -> Figures:
    """n: events in the log."""
    with tempfile.TemporaryDirectory() as name:
        data_dir = Path(name, "data")
        prefilled.copied(n, "ordered", data_dir)
        n_events, took_s, cpu_s = asyncio.run(_rebuild(data_dir))
        peak = peak_rss_mib()
        began = time.perf_counter()
        _scan(data_dir / "log.db")
        scan_s = time.perf_counter() - began
    return {
        "events_per_s": n_events / took_s,
        "scan_and_decode_events_per_s": n_events / scan_s,
        "took_s": took_s,
        "cpu_s": cpu_s,
        "peak_rss_mib": peak,
    }


async def _rebuild(data_dir: Path) -> tuple[int, float, float]:
    """(events, seconds, CPU seconds)"""
    async with instance_of(load(None, {}, {"data_dir": str(data_dir)})) as instance:
        began, cpu = time.perf_counter(), time.process_time()
        states = await instance.log.rebuild()
        took_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu
        assert all(state.frozen is None for state in states), states
        return instance.log.position, took_s, cpu_s


def _scan(path: Path) -> None:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        cursor = connection.execute(f"SELECT {COLUMNS} FROM events ORDER BY position")
        while rows := cursor.fetchmany(_AT_ONCE):
            for row in rows:
                from_row(row)
