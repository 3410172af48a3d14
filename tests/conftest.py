"""Shared fixtures: a clock that stands still, ids from a seed, and the log in every implementation.

store      where a log lives, and survives: `await store.open()` again is the next start of the program
log        a log open in that store
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Protocol

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, settings

from cascadenced.clock import FakeClock
from cascadenced.eventlog.memory import MemoryEventLog, MemoryFile
from cascadenced.eventlog.sqlite import SqliteEventLog
from cascadenced.ids import SeededIds

# A slow machine is no fault of the code: examples may take as long as they need.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


def pytest_xdist_auto_num_workers() -> int:
    """One more at once than there are cores: most tests wait for processes and disks as much as they compute."""
    n_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return n_cores + 1


class Store(Protocol):
    """options: as `open` of the log takes them; clock and ids have sensible values, fresh ids at each opening."""

    async def open(self, **options: Any) -> Any: ...


class _Store:
    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.opened: list[Any] = []

    def options(self, options: dict[str, Any]) -> dict[str, Any]:
        return {"clock": self.clock, "ids": SeededIds(seed=len(self.opened)), **options}

    async def close(self) -> None:
        for log in self.opened:
            await log.close()


class FileStore(_Store):
    def __init__(self, path: Path, clock: FakeClock) -> None:
        super().__init__(clock)
        self.path = path

    async def open(self, **options: Any) -> SqliteEventLog:
        log = await SqliteEventLog.open(self.path, **self.options(options))
        self.opened.append(log)
        return log


class MemoryStore(_Store):
    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock)
        self.file = MemoryFile()

    async def open(self, **options: Any) -> MemoryEventLog:
        log = await MemoryEventLog.open(self.file, **self.options(options))
        self.opened.append(log)
        return log


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def ids() -> SeededIds:
    return SeededIds()


@pytest_asyncio.fixture
async def file_store(tmp_path: Path, clock: FakeClock) -> AsyncIterator[FileStore]:
    store = FileStore(tmp_path / "log.db", clock)
    yield store
    await store.close()


@pytest_asyncio.fixture
async def memory_store(clock: FakeClock) -> AsyncIterator[MemoryStore]:
    store = MemoryStore(clock)
    yield store
    await store.close()


@pytest_asyncio.fixture(params=["sqlite", "memory"])
async def store(request: pytest.FixtureRequest, tmp_path: Path, clock: FakeClock) -> AsyncIterator[Store]:
    store = FileStore(tmp_path / "log.db", clock) if request.param == "sqlite" else MemoryStore(clock)
    yield store
    await store.close()


@pytest_asyncio.fixture
async def log(store: Store) -> Any:
    return await store.open()
