"""Runs through the engine, 50 at once, with n events in the log already.

ids: what the senders call their requests, for the log a unique index: `ordered` ids rise with time, `random` ones are
uuid4. Units as in `durable_runs`; the log's size in MiB.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from bench import prefilled
from bench.durable_runs import sources, through_engine
from bench.sides import Figures

_MIB = 1 << 20


def measure(n: int, *, ids: str) -> Figures:
    """n: events in the log before; below 10,000 only a few runs are made."""
    with tempfile.TemporaryDirectory() as name:
        data_dir = Path(name, "data")
        prefilled.copied(n, ids, data_dir)
        log_mib = (data_dir / "log.db").stat().st_size / _MIB
        n_runs = 2_000 if n >= 10_000 else 30
        figures = asyncio.run(through_engine(data_dir, n_runs, task="async", concurrency=50, source=sources(ids)))
    kept = ("runs_per_s", "p50_ms", "p99_ms", "cpu_ms_per_run", "peak_rss_mib")
    return {key: figures[key] for key in kept} | {"log_mib": log_mib}
