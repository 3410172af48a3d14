"""Both buses, each with its outside world, and a real nats-server where one is needed."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import nats
import pytest
import pytest_asyncio

from cascadenced.bus.base import Broken, Bus, News, Reply
from cascadenced.bus.embedded import EmbeddedServer
from cascadenced.bus.jetstream import JetStreamBus
from cascadenced.bus.memory import MemoryBus
from cascadenced.clock import FakeClock

TOKEN = "0123456789abcdef0123456789abcdef"
ACK_WAIT_S = 0.5
SERVER = os.environ.get("CASCADENCED_TEST_NATS_SERVER")
"""Another nats-server to run these tests with, e.g. an old one; None: the one that would be found."""


class World(Protocol):
    """A bus, named `me`, and what happens around it."""

    bus: Bus
    told: list[News]
    """The bus's news so far."""
    resumes: bool
    """Whether the bus is told at once to go on when something broke. It is, unless a test says otherwise."""
    hears: asyncio.Event
    """Set: the bus's news are heard."""

    async def send(self, subject: str, data: bytes, headers: Mapping[str, str] | None = None) -> None:
        """Publish from outside; return when it is stored."""
        ...

    async def impatience(self) -> None:
        """Let the broker lose patience with what is in hand; it delivers that again, soon."""
        ...

    async def pass_time(self, seconds: float) -> None: ...

    async def stored(self, *, runs: bool = False) -> list[tuple[str, bytes]]:
        """(subject, data) of all a stream holds."""
        ...

    async def request(self, verb: str, body: bytes) -> Reply: ...

    async def restart(self) -> None:
        """The broker goes and comes back with all it has; return when the bus has met it."""
        ...

    async def purge(self) -> None:
        """An operator purges the events."""
        ...

    async def forget(self, message_id: str) -> None:
        """One event is gone, wherever it stood."""
        ...

    async def recreate(self) -> None:
        """An operator deletes the streams; the bus makes others when it notices."""
        ...


class Listener:
    """Takes note of the bus's news, and has it go on after each break."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.told: list[News] = []
        self.resumes = True
        self.hears = asyncio.Event()
        self.hears.set()

    async def listens(self) -> None:
        while True:
            await self.hears.wait()
            news = await self.bus.news()
            self.told.append(news)
            if isinstance(news, Broken) and self.resumes:
                self.bus.resume()


class MemoryWorld(Listener):
    bus: MemoryBus

    def __init__(self) -> None:
        self.clock = FakeClock()
        super().__init__(MemoryBus(clock=self.clock, instance_id="me"))

    async def send(self, subject: str, data: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.bus.send(subject, data, headers)

    async def impatience(self) -> None:
        self.bus.redeliver()

    async def pass_time(self, seconds: float) -> None:
        await asyncio.sleep(0)
        await self.clock.advance(seconds)

    async def stored(self, *, runs: bool = False) -> list[tuple[str, bytes]]:
        return [(message.subject, message.data) for message in self.bus.messages(runs=runs)]

    async def request(self, verb: str, body: bytes) -> Reply:
        return await self.bus.request(verb, body)

    async def restart(self) -> None:
        self.bus.disconnect()
        self.bus.reconnect(restarted=True)

    async def purge(self) -> None:
        self.bus.purge()

    async def forget(self, message_id: str) -> None:
        assert self.bus.forget(lambda stored: stored.headers.get("Nats-Msg-Id") == message_id) == 1

    async def recreate(self) -> None:
        self.bus.wipe()
        await self.bus.check()


class RealWorld(Listener):
    bus: JetStreamBus

    def __init__(self, bus: JetStreamBus, client: Any, server: EmbeddedServer | None = None) -> None:
        super().__init__(bus)
        self.client = client
        self._server = server

    async def send(self, subject: str, data: bytes, headers: Mapping[str, str] | None = None) -> None:
        await self.client.request(subject, data, headers=dict(headers or {}), timeout=5)

    async def impatience(self) -> None:
        """The broker loses it by itself after ACK_WAIT_S."""

    async def pass_time(self, seconds: float) -> None:
        """Passes by itself; tests use short times and wait for what follows."""

    async def stored(self, *, runs: bool = False) -> list[tuple[str, bytes]]:
        stream = "UME_RUNS" if runs else "UME"
        await self.client.flush()
        state = (await self.api(f"STREAM.INFO.{stream}"))["state"]
        js = self.client.jetstream()
        found = []
        for seq in range(max(1, state["first_seq"]), state["last_seq"] + 1):
            try:
                message = await js.get_msg(stream, seq)
            except nats.js.errors.NotFoundError:
                continue
            found.append((message.subject, message.data or b""))
        return found

    async def request(self, verb: str, body: bytes) -> Reply:
        answer = await self.client.request(f"ume.rpc.{verb}", body, timeout=5)
        return answer.data, answer.headers or {}

    async def restart(self) -> None:
        assert self._server is not None
        before = self.bus.info().server_id
        await self._server.restart()
        async with asyncio.timeout(10):
            while self.bus.info().server_id == before or not (self.bus.info().well and self.client.is_connected):
                await asyncio.sleep(0.01)

    async def purge(self) -> None:
        assert (await self.api("STREAM.PURGE.UME"))["success"]

    async def forget(self, message_id: str) -> None:
        js = self.client.jetstream()
        last = (await self.api("STREAM.INFO.UME"))["state"]["last_seq"]
        for seq in range(1, last + 1):
            message = await js.get_msg("UME", seq)
            if (message.headers or {}).get("Nats-Msg-Id") == message_id:
                assert (await self.api("STREAM.MSG.DELETE.UME", {"seq": seq}))["success"]
                return
        raise AssertionError(f"{message_id} is not there")

    async def recreate(self) -> None:
        for stream in ("UME", "UME_RUNS"):
            assert (await self.api(f"STREAM.DELETE.{stream}"))["success"]

    async def api(self, verb: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        answer = await self.client.request(f"$JS.API.{verb}", json.dumps(body or {}).encode(), timeout=5)
        decoded: dict[str, Any] = json.loads(answer.data)
        return decoded


@pytest_asyncio.fixture
async def server(tmp_path: Path) -> AsyncIterator[EmbeddedServer]:
    running = await EmbeddedServer.start(tmp_path, token=TOKEN, server=SERVER)
    yield running
    await running.stop()


async def quiet(_error: Exception) -> None:
    """For clients whose server goes away on purpose."""


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Any]:
    """Somebody else's connection."""
    client = await nats.connect(url, error_cb=quiet, reconnect_time_wait=0.05, max_reconnect_attempts=-1)
    try:
        yield client
    finally:
        await client.close()


@asynccontextmanager
async def real_world(server: EmbeddedServer) -> AsyncIterator[RealWorld]:
    url = server.url
    async with connected(url) as outside:
        bus = await JetStreamBus.open(url=url, instance_id="me", ack_wait_s=ACK_WAIT_S, atomic_batches=True)
        world = RealWorld(bus, outside, server)
        listening = asyncio.create_task(world.listens())
        try:
            yield world
        finally:
            listening.cancel()
            await bus.close()


@pytest_asyncio.fixture
async def real(server: EmbeddedServer) -> AsyncIterator[RealWorld]:
    async with real_world(server) as world:
        yield world


@pytest_asyncio.fixture(params=["memory", pytest.param("jetstream", marks=pytest.mark.slow)])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    # The server is started here and not asked for as a fixture, so that the double's tests go without.
    if request.param == "memory":
        in_memory = MemoryWorld()
        listening = asyncio.create_task(in_memory.listens())
        yield in_memory
        listening.cancel()
        await in_memory.bus.close()
        return
    running = await EmbeddedServer.start(tmp_path, token=TOKEN, server=SERVER)
    try:
        async with real_world(running) as world:
            yield world
    finally:
        await running.stop()
