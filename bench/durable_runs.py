"""Runs of five recorded stages (intake, plan, precheck, run, verify) through the engine (`bench/engine.py`).

A run counts when its caller has been told of its end; the clock stops when the outbox has handed everything on. Right
afterwards the limit: raw SQLite with as many rows in a transaction as the log's commits had on average.

Units: runs/s, events/s, milliseconds from request to end (p50, p99), CPU milliseconds per run (all threads), MiB.
"""

from __future__ import annotations

import asyncio
import itertools
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from bench import disk, raw_sqlite
from bench.engine import ConfirmingBus, followed, instance_of
from bench.percentiles import percentile
from bench.processes import peak_rss_mib
from bench.sides import Figures
from bench.workloads import SOMEBODY
from cascadenced.config import load
from cascadenced.handlers.run_requests import Origin
from cascadenced.instance import Instance

_RAW_ROWS = 20_000


def measure(n: int, *, task: str, concurrency: int) -> Figures:
    """n: runs. task: `async` or `plain`, see workloads."""
    with tempfile.TemporaryDirectory() as folder:
        figures = asyncio.run(through_engine(Path(folder, "data"), n, task=task, concurrency=concurrency))
        batch = max(1, round(figures["events_per_commit"]))
        n_rows = min(_RAW_ROWS, n * 13) if batch > 5 else min(_RAW_ROWS // 10, n * 13)
        figures["raw_rows_per_s"] = raw_sqlite.rows_per_s(Path(folder), batch=batch, n_rows=n_rows)
        return figures


def measure_idle(n: int) -> Figures:
    """n: runs, one at a time; and as many syncs of the same disk, some before and some after them."""
    with tempfile.TemporaryDirectory() as folder:
        synced = disk.fdatasync_ms(Path(folder), n)
        figures = asyncio.run(through_engine(Path(folder, "data"), n, task="async", concurrency=1))
        synced += disk.fdatasync_ms(Path(folder), n)
    return {
        "p50_ms": figures["p50_ms"],
        "p99_ms": figures["p99_ms"],
        "commits_per_run": figures["commits_per_run"],
        "fdatasync_p50_ms": percentile(synced, 50),
        "fdatasync_p99_ms": percentile(synced, 99),
    }


async def through_engine(
    data_dir: Path, n: int, *, task: str, concurrency: int, source: Callable[[], str] | None = None
) -> Figures:
    """source: makes what the outside calls each request, as a message's id does; None: requests have none."""
    config = load(None, {}, {"data_dir": str(data_dir), "max_concurrent_runs": concurrency})
    async with instance_of(config, task=task) as instance, followed(instance, bus := ConfirmingBus()) as outbox:
        n_commits = 0

        def count(_batch: object) -> None:
            nonlocal n_commits
            n_commits += 1

        await runs(instance, min(n, max(50, concurrency)), concurrency, source)
        await outbox.drained()
        instance.log.observe(count)
        first, n_published = instance.log.position, bus.n_published
        began, cpu = time.perf_counter(), time.process_time()
        latencies_ms = await runs(instance, n, concurrency, source)
        await outbox.drained()
        took_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu
        n_events = instance.log.position - first
        return {
            "runs_per_s": n / took_s,
            "events_per_s": n_events / took_s,
            "p50_ms": percentile(latencies_ms, 50),
            "p99_ms": percentile(latencies_ms, 99),
            "cpu_ms_per_run": cpu_s / n * 1e3,
            "peak_rss_mib": peak_rss_mib(),
            "events_per_run": n_events / n,
            "messages_out_per_run": (bus.n_published - n_published) / n,
            "events_per_commit": n_events / n_commits,
            "commits_per_run": n_commits / n,
        }


async def runs(instance: Instance, n: int, concurrency: int, source: Callable[[], str] | None = None) -> list[float]:
    """Do `n` runs, `concurrency` at a time; returns how long each took, milliseconds."""
    latencies_ms: list[float] = []

    async def client(numbers: Iterator[int]) -> None:
        for _ in numbers:
            origin = Origin(via="python", source=source() if source else None)
            began = time.perf_counter()
            accepted = await instance.requests.run("stages", SOMEBODY, {}, origin)
            await instance.runs.ended(accepted.run_id)
            latencies_ms.append((time.perf_counter() - began) * 1e3)

    numbers = iter(range(n))
    await asyncio.gather(*(client(numbers) for _ in range(min(concurrency, n))))
    return latencies_ms


def sources(ids: str) -> Callable[[], str]:
    """What senders may call their messages. ids: `ordered` rises with time, `random` is uuid4."""
    if ids == "random":
        return lambda: f"run.request:{uuid.uuid4()}"
    count = itertools.count()
    return lambda: f"run.request:{time.time_ns():016x}-{next(count):08x}"
