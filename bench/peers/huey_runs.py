"""Huey on SQLite (WAL, its default): pipelines of five trivial tasks, one worker.

`python -m bench.peers.huey_runs N` enqueues N pipelines and waits for their results; the consumer is a process of its
own (`… huey_runs consumer FILE`), as Huey means it. CPU and memory are of both. One at a time: the consumer's poll, at
most every 0.1 s, shows.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from huey import SqliteHuey

from bench.percentiles import percentile
from bench.processes import cpu_s, peak_rss_mib

WITHIN_S = 300
MAX_POLL_S = 0.1


def opened(path: str) -> tuple[Any, Any]:
    """The queue in `path`, and its one task."""
    queue = SqliteHuey("bench", filename=path)

    @queue.task(name="step")
    def step(n: int) -> int:
        return n + 1

    return queue, step


def enqueue(queue: Any, step: Any, n: int) -> Any:
    """Ask for a pipeline; returns the result of its last task."""
    pipeline = step.s(n)
    for _ in range(4):
        pipeline = pipeline.then(step)
    return list(queue.enqueue(pipeline))[-1]


def wait(result: Any, expected: int) -> None:
    deadline = time.monotonic() + WITHIN_S
    while (value := result.get()) is None:
        assert time.monotonic() < deadline, "the consumer does not answer"
        time.sleep(0.001)
    assert value == expected


def do(queue: Any, step: Any, n: int) -> None:
    results = [enqueue(queue, step, i) for i in range(n)]
    for i, result in enumerate(results):
        wait(result, i + 5)


def main(n: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "huey.db"))
        queue, step = opened(path)
        consumer = subprocess.Popen(
            [sys.executable, "-m", "bench.peers.huey_runs", "consumer", path],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            do(queue, step, max(2, n // 20))
            began, cpu = time.perf_counter(), cpu_s(os.getpid(), consumer.pid)
            do(queue, step, n)
            took_s, used_s = time.perf_counter() - began, cpu_s(os.getpid(), consumer.pid) - cpu
            one_by_one = []
            for i in range(max(3, min(40, n // 20))):
                began = time.perf_counter()
                wait(enqueue(queue, step, i), i + 5)
                one_by_one.append((time.perf_counter() - began) * 1e3)
            figures = {
                "runs_per_s": n / took_s,
                "cpu_ms_per_run": used_s / n * 1e3,
                "idle_p50_ms": percentile(one_by_one, 50),
                "idle_p99_ms": percentile(one_by_one, 99),
                "peak_rss_mib": peak_rss_mib() + peak_rss_mib(consumer.pid),
            }
        finally:
            consumer.terminate()
            consumer.wait()
    print(json.dumps(figures))


if __name__ == "__main__":
    if sys.argv[1] == "consumer":
        opened(sys.argv[2])[0].create_consumer(workers=1, max_delay=MAX_POLL_S, periodic=False).run()
    else:
        main(int(sys.argv[1]))
