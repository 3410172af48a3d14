"""DBOS on SQLite: workflows of five trivial steps. WAL is set by us (its default is the rollback journal).

`python -m bench.peers.dbos_runs MODE N CONCURRENCY`; MODE: `threads` (plain functions, as many at once as DBOS's own
pool takes) or `async` (coroutines, CONCURRENCY at once). Prints the figures of `durable_runs`, and of one at a time.
"""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from dbos import DBOS, DBOSConfig

from bench.percentiles import percentile
from bench.processes import peak_rss_mib, rss_mib


@DBOS.step()
def step(n: int) -> int:
    return n + 1


@DBOS.workflow()
def five(n: int) -> int:
    for _ in range(5):
        n = step(n)
    return n


@DBOS.step()
async def async_step(n: int) -> int:
    return n + 1


@DBOS.workflow()
async def async_five(n: int) -> int:
    for _ in range(5):
        n = await async_step(n)
    return n


def in_threads(n: int, concurrency: int) -> list[float]:
    """Do `n` workflows; how long each took if they are one at a time, milliseconds."""
    took_ms: list[float] = []
    if concurrency == 1:
        for i in range(n):
            began = time.perf_counter()
            assert DBOS.start_workflow(five, i).get_result() == i + 5
            took_ms.append((time.perf_counter() - began) * 1e3)
        return took_ms
    handles = [DBOS.start_workflow(five, i) for i in range(n)]
    assert [handle.get_result() for handle in handles] == [i + 5 for i in range(n)]
    return took_ms


def on_loop(n: int, concurrency: int) -> list[float]:
    """Do `n` workflows; how long each took, milliseconds."""
    took_ms: list[float] = []

    async def client(numbers: Iterator[int]) -> None:
        for i in numbers:
            began = time.perf_counter()
            handle = await DBOS.start_workflow_async(async_five, i)
            assert await handle.get_result() == i + 5
            took_ms.append((time.perf_counter() - began) * 1e3)

    async def clients() -> None:
        numbers = iter(range(n))
        await asyncio.gather(*(client(numbers) for _ in range(concurrency)))

    asyncio.run(clients())
    return took_ms


def main() -> None:
    mode, n, concurrency = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    do = {"threads": in_threads, "async": on_loop}[mode]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "dbos.sqlite")
        with sqlite3.connect(path) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
        DBOS(
            config=DBOSConfig(
                name="bench", system_database_url=f"sqlite:///{path}", log_level="ERROR", console_log_level="ERROR"
            )
        )
        DBOS.launch()
        empty_rss_mib = rss_mib(os.getpid())
        do(max(2, n // 20), concurrency)
        began, cpu = time.perf_counter(), time.process_time()
        do(n, concurrency)
        took_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu
        one_by_one = do(max(5, n // 5), 1)
        figures = {
            "runs_per_s": n / took_s,
            "cpu_ms_per_run": cpu_s / n * 1e3,
            "idle_p50_ms": percentile(one_by_one, 50),
            "idle_p99_ms": percentile(one_by_one, 99),
            "empty_rss_mib": empty_rss_mib,
            "peak_rss_mib": peak_rss_mib(),
        }
        DBOS.destroy()
    print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
