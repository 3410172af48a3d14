"""An instance on doubles with the two applications before it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from cascadenced import config
from cascadenced.clock import FakeClock
from cascadenced.eventlog.memory import MemoryEventLog
from cascadenced.http.app import build_app, build_socket_app
from cascadenced.identity import Pseudonyms
from cascadenced.ids import SeededIds
from cascadenced.instance import BusStatus, Instance, assemble
from cascadenced.plugins.base import BaseTask
from cascadenced.plugins.builtin import BUILTINS
from cascadenced.plugins.discover import collect
from cascadenced.projections import all_projections
from cascadenced.projections.runs import Runs
from cascadenced.runtime.spawn import InlineSpawner
from cascadenced.vault import MemoryVault
from cascadenced.verbs import LOCAL_VERBS, VERBS, perform

ALICE = {"user_id": "alice-the-user", "group_id": "engineers-group"}


class Failing:
    """Names whoever it runs for in everything it leaves."""

    name = "failing"

    def run(self) -> None:
        raise ValueError(f"<b>no</b> travel for {self.user_id} of {self.group_id}")  # type: ignore[attr-defined]


class Endless:
    """Runs until it is cancelled."""

    name = "endless"

    async def run(self) -> None:
        import asyncio

        await asyncio.get_running_loop().create_future()


class Patient(BaseTask):
    """Waits for an event, and shows what it was told meanwhile."""

    name = "patient"

    async def run(self) -> Any:
        return await self.wait_for("go")

    async def verify(self, payload: Any) -> Any:
        return [payload, self.context]


class FragileRuns(Runs):
    """Folds until a test breaks it."""

    broken = False

    def apply(self, connection: Any, batch: Sequence[Any]) -> None:
        if self.broken:
            raise ValueError("broken by a test")
        super().apply(connection, batch)


class World:
    """The instance and shortcuts to what tests do with it."""

    def __init__(self, instance: Instance, clock: FakeClock, runs: FragileRuns) -> None:
        self.instance, self.clock, self.runs = instance, clock, runs
        self.bus = BusStatus(connected=True, url="nats://127.0.0.1:4222", epoch="e1", outbox_pending=0)
        self.ready = True
        self.n_stops = 0
        instance.bus_status = lambda: self.bus

    async def do(self, verb: str, **arguments: Any) -> Any:
        return await perform({**VERBS, **LOCAL_VERBS}[verb], self.instance, arguments)

    async def run(self, task: str = "example", **arguments: Any) -> str:
        """Run a task, return the run's id however it ends."""
        accepted = await self.do("run", task=task, **{**ALICE, "wait": False, **arguments})
        if arguments.get("wait", True):
            await self.instance.runs.ended(accepted.run_id)
        return str(accepted.run_id)

    def stop(self) -> None:
        self.n_stops += 1

    def is_ready(self) -> bool:
        return self.ready


@asynccontextmanager
async def a_world(data_dir: Path, **settings: Any) -> AsyncIterator[World]:
    clock, ids = FakeClock(), SeededIds()
    runs = FragileRuns()
    log = await MemoryEventLog.open(
        clock=clock, ids=ids, instance_id="instance-1", projections=[runs, *all_projections()[1:]]
    )
    found = [(target.__name__, target) for target in (*BUILTINS, Failing, Endless, Patient)]
    instance = await assemble(
        config.load(None, {}, {"data_dir": str(data_dir), "http_port": 0, **settings}),
        clock=clock,
        ids=ids,
        log=log,
        vault=MemoryVault(),
        spawner=InlineSpawner(),
        catalogue=collect(found),
        pseudonyms=Pseudonyms("a secret of this test"),
    )
    yield World(instance, clock, runs)
    await instance.runs.stop(0)
    await instance.refusals.flush()
    await log.close()


@asynccontextmanager
async def client_of(app: web.Application) -> AsyncIterator[TestClient[Any, Any]]:
    async with TestClient(TestServer(app)) as client:
        yield client


@pytest_asyncio.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with a_world(tmp_path) as world:
        yield world


@pytest_asyncio.fixture
async def public(world: World) -> AsyncIterator[TestClient[Any, Any]]:
    async with client_of(build_app(world.instance, world.is_ready)) as client:
        yield client


@pytest_asyncio.fixture
async def owner(world: World) -> AsyncIterator[TestClient[Any, Any]]:
    """A client of the socket's application, over TCP for the test's convenience."""
    async with client_of(build_socket_app(world.instance, world.is_ready, world.stop)) as client:
        yield client


Get = Callable[..., Any]


@pytest.fixture
def get(public: TestClient[Any, Any]) -> Get:
    """`await get("/runs", limit=1)` → the decoded answer of a request that succeeds."""

    async def get(path: str, **query: Any) -> Any:
        async with public.get(path, params={name: str(value) for name, value in query.items()}) as response:
            assert response.status == 200, await response.text()
            return await response.json()

    return get
