"""Worker processes for tests: started, asked, and afterwards nothing is left of them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from cascadenced.pipeline.policy import Limits
from cascadenced.runtime.worker import Performed, Worker, Workers
from cascadenced.runtime.worker_protocol import (
    Answer,
    Ask,
    Go,
    Recorded,
    StageCall,
    StepWanted,
    TaskSource,
)

GIVEN = {"user_id": "alice", "group_id": "eng", "run_id": "r-1", "args": {}, "context": []}


class Asked:
    """Answers a task: from `recorded` what is there, else it is to be done. Keeps what was asked."""

    def __init__(self, **recorded: Answer) -> None:
        self.recorded, self.asks = recorded, []
        self.begun = asyncio.Event()

    async def __call__(self, ask: Ask) -> Answer:
        self.asks.append(ask)
        if getattr(ask, "name", None) == "begun":
            self.begun.set()
        if isinstance(ask, StepWanted):
            return self.recorded.get(ask.name, Go())
        return self.recorded.get(type(ask).__name__, Recorded())

    def plainly(self) -> list[dict[str, Any]]:
        """What was asked, without ids and times."""
        asks = [{"ask": type(ask).__name__, **msgspec.structs.asdict(ask)} for ask in self.asks]
        return [{key: value for key, value in ask.items() if key not in ("id", "took_s")} for ask in asks]


def source(task: type) -> TaskSource:
    return TaskSource(task.__module__, task.__qualname__)


def call(stage: str = "run", argument: Any = msgspec.UNSET, **args: Any) -> StageCall:
    return StageCall(stage=stage, argument=argument, attributes={**GIVEN, "args": args})


class Bench:
    """Workers, and what tests do with them."""

    def __init__(self, workers: Workers) -> None:
        self.workers = workers

    async def start(self, task: type, **limits: Any) -> Worker:
        return await self.workers.start(source(task), Limits(**limits))

    async def do(self, task: type, stage: str = "run", asked: Asked | None = None, **args: Any) -> Performed:
        """One stage in a process of its own."""
        worker = await self.start(task)
        try:
            return await worker.perform(call(stage, **args), asked or Asked())
        finally:
            await worker.close()


@asynccontextmanager
async def bench(max_workers: int = 4, n_spares: int = 0, **environ: str) -> AsyncIterator[Bench]:
    """Fails if a process or a descriptor is left."""
    before = descriptors()
    workers = Workers(environ={**os.environ, **environ}, max_workers=max_workers, n_spares=n_spares)
    try:
        async with asyncio.timeout(50):
            yield Bench(workers)
    finally:
        await workers.close()
    assert children() == []
    assert descriptors() == before
    assert workers.n_workers == 0


def descriptors() -> dict[str, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[name] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue  # the one that lists them
    return found


def children() -> list[int]:
    """Zombies included."""
    return [int(pid) for path in Path("/proc/self/task").glob("*/children") for pid in path.read_text().split()]


def is_alive(pid: int) -> bool:
    try:
        return b") Z " not in Path(f"/proc/{pid}/stat").read_bytes()
    except FileNotFoundError:
        return False


async def until(condition: Callable[[], Any]) -> None:
    """For what the kernel does in its own time."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)
