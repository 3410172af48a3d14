"""Runs of five recorded stages (intake, plan, precheck, run, verify) through the real engine: rules, log, projections,
identities and task instances; without NATS and HTTP. 50 at once.

Units: runs/s, events/s, milliseconds from request to end (p50, p99), CPU milliseconds per run.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Iterator

from cascadenced.config import load
from cascadenced.handlers.run_requests import Origin
from cascadenced.identity import Identity
from cascadenced.instance import open_instance
from cascadenced.plugins.discover import collect

N_RUNS = 2_000
CONCURRENCY = 50
WARM_UP = 50


class AsyncStages:
    """Five hooks that do nothing, as coroutines."""

    name = "stages"

    async def intake(self) -> str:
        return "taken"

    async def plan(self) -> str:
        return "planned"

    async def precheck(self) -> bool:
        return True

    async def run(self) -> str:
        return "done"

    async def verify(self) -> str:
        return "verified"


class PlainStages:
    """The same as plain functions, each of which takes a thread."""

    name = "stages"

    def intake(self) -> str:
        return "taken"

    def plan(self) -> str:
        return "planned"

    def precheck(self) -> bool:
        return True

    def run(self) -> str:
        return "done"

    def verify(self) -> str:
        return "verified"


def measure_async() -> dict[str, float]:
    return asyncio.run(_measure(AsyncStages))


def measure_threads() -> dict[str, float]:
    return asyncio.run(_measure(PlainStages))


async def _measure(task: type) -> dict[str, float]:
    identity = Identity("bench", "bench")
    with tempfile.TemporaryDirectory() as folder:
        config = load(None, {}, {"data_dir": folder, "max_concurrent_runs": CONCURRENCY})
        async with open_instance(config, who="bench", catalogue=collect([("bench", task)])) as instance:
            latencies_ms: list[float] = []

            async def client(numbers: Iterator[int]) -> None:
                for _ in numbers:
                    began = time.perf_counter()
                    accepted = await instance.requests.run("stages", identity, {}, Origin(via="python"))
                    await instance.runs.ended(accepted.run_id)
                    latencies_ms.append((time.perf_counter() - began) * 1e3)

            async def load_of(n_runs: int) -> None:
                numbers = iter(range(n_runs))
                await asyncio.gather(*(client(numbers) for _ in range(CONCURRENCY)))

            await load_of(WARM_UP)
            latencies_ms.clear()
            first, began, cpu = instance.log.position, time.perf_counter(), time.process_time()
            await load_of(N_RUNS)
            took_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu
            n_events = instance.log.position - first
    latencies_ms.sort()
    return {
        "runs_per_s": N_RUNS / took_s,
        "events_per_s": n_events / took_s,
        "p50_ms": latencies_ms[len(latencies_ms) // 2],
        "p99_ms": latencies_ms[len(latencies_ms) * 99 // 100],
        "cpu_ms_per_run": cpu_s / N_RUNS * 1e3,
    }
