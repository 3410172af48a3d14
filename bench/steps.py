"""What a durable step costs beside a stage, and what runs that sleep cost.

Three tasks through the engine (`bench/engine.py`), 50 runs at a time: one stage; five stages; one stage of 20 steps.
What four stages more, or 20 steps, add to a run is what one of them costs.

Units: µs of wall time and of CPU for each stage and step; MiB of memory for 1,000 runs that sleep.
"""

from __future__ import annotations

import asyncio
import gc
import tempfile
import tracemalloc
from pathlib import Path

from bench.durable_runs import through_engine
from bench.engine import ConfirmingBus, followed, instance_of
from bench.sides import Figures
from bench.workloads import N_STEPS, SOMEBODY
from cascadenced.config import load
from cascadenced.handlers.run_requests import Origin
from cascadenced.instance import Instance

_CONCURRENCY = 50
_N_MORE_STAGES = 4
_MIB = 1 << 20


def measure(n: int) -> Figures:
    """n: runs of each task."""
    cost: dict[str, tuple[float, float]] = {}
    for task in ("one", "async", "steps"):
        with tempfile.TemporaryDirectory() as folder:
            figures = asyncio.run(through_engine(Path(folder, "data"), n, task=task, concurrency=_CONCURRENCY))
        cost[task] = 1e6 / figures["runs_per_s"], figures["cpu_ms_per_run"] * 1e3
    (wall, cpu), (five_wall, five_cpu), (steps_wall, steps_cpu) = cost["one"], cost["async"], cost["steps"]
    return {
        "stage_us": (five_wall - wall) / _N_MORE_STAGES,
        "step_us": (steps_wall - wall) / N_STEPS,
        "stage_cpu_us": (five_cpu - cpu) / _N_MORE_STAGES,
        "step_cpu_us": (steps_cpu - cpu) / N_STEPS,
    }


def measure_sleeping(n: int) -> Figures:
    """n: runs that sleep at once."""
    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(_sleeping(Path(folder, "data"), n))


async def _sleeping(data_dir: Path, n: int) -> Figures:
    config = load(None, {}, {"data_dir": str(data_dir), "max_concurrent_runs": _CONCURRENCY})
    async with instance_of(config, task="sleeps") as instance, followed(instance, ConfirmingBus()) as outbox:
        await _put_to_sleep(instance, 50)
        await outbox.drained()
        gc.collect()
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            await _put_to_sleep(instance, n)
            await outbox.drained()
            gc.collect()
            after, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        return {"sleeping_runs": float(n), "mib": (after - before) / _MIB, "kib_per_run": (after - before) / n / 1024}


async def _put_to_sleep(instance: Instance, n: int) -> None:
    wanted = instance.runs.n_asleep + n
    await asyncio.gather(*(instance.requests.run("stages", SOMEBODY, {}, Origin(via="python")) for _ in range(n)))
    while instance.runs.n_asleep < wanted:
        await asyncio.sleep(0.01)
