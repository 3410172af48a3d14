"""Our own server is started again when it ends, hangs, or does not do its work; never for a pause of ours."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest

from cascadenced.bus.base import BusInfo
from cascadenced.clock import FakeClock
from cascadenced.errors import Unavailable
from cascadenced.runtime.server_keeper import CALL_EVERY_S, MAX_UNANSWERED, PATIENCE_S, ServerKeeper
from tests.doubles import idle

WELL = BusInfo(connected=True, url="", epoch="", server_id="", max_payload_bytes=1, server_version="")


class Server:
    """A server that does as it is told. log: what was done to it."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self._ended = asyncio.Event()
        self.running = True
        self.greets = True
        self.starts = True
        self.why_not: Exception = Unavailable("it did not get ready")
        self.log: list[str] = []

    def end(self) -> None:
        self.running = False
        self._ended.set()

    async def wait(self) -> int:
        await self._ended.wait()
        return -9

    async def restart(self) -> None:
        if not self.starts:
            self.log.append("did not start")
            raise self.why_not
        self.log.append("restart")
        self.running = self.greets = True
        self._ended.clear()

    def kill(self) -> None:
        self.log.append("kill")
        self.end()

    async def answers(self) -> bool:
        if not self.greets:
            await self._clock.sleep(5.0)
        return self.greets

    def set_aside(self, stream: str) -> None:
        assert not self.running
        self.log.append(f"set aside {stream}")


class Scene:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.server = Server(self.clock)
        self.info: BusInfo | None = WELL

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[ServerKeeper]:
        keeper = ServerKeeper(self.server, self.clock, lambda: self.info)
        running = asyncio.create_task(keeper.run())
        await idle(5)
        yield keeper
        assert not running.done()
        running.cancel()

    async def pass_time(self, seconds: float) -> None:
        for _ in range(round(seconds)):
            await self.clock.advance(1)
            await idle(5)


@pytest.fixture
def scene() -> Scene:
    return Scene()


async def test_a_server_that_ends_is_started_again(scene: Scene) -> None:
    async with scene.kept():
        scene.server.end()
        await scene.pass_time(2)
        assert scene.server.log == ["restart"]


@pytest.mark.parametrize(
    "why_not", [Unavailable("it did not get ready"), FileNotFoundError("being upgraded"), OSError(28, "disk full")]
)
async def test_one_that_does_not_start_is_tried_again_less_and_less_often(scene: Scene, why_not: Exception) -> None:
    async with scene.kept():
        scene.server.starts, scene.server.why_not = False, why_not
        scene.server.end()
        await scene.pass_time(60)
        assert 10 <= len(scene.server.log) <= 20
        scene.server.starts = True
        await scene.pass_time(6)
        assert scene.server.log[-1] == "restart"
        assert scene.server.running


async def test_one_that_hangs_is_killed_after_some_silence_and_started_again(scene: Scene) -> None:
    async with scene.kept():
        await scene.pass_time(60)
        scene.server.greets = False
        await scene.pass_time(2 * CALL_EVERY_S * (MAX_UNANSWERED - 1))
        assert scene.server.log == []
        await scene.pass_time(2 * CALL_EVERY_S + 1)
        assert scene.server.log == ["kill", "restart"]
        await scene.pass_time(60)
        assert scene.server.log == ["kill", "restart"]


async def test_a_silence_that_ends_in_time_is_forgiven(scene: Scene) -> None:
    async with scene.kept():
        for _ in range(5):
            scene.server.greets = False
            await scene.pass_time(2 * CALL_EVERY_S * (MAX_UNANSWERED - 1))
            scene.server.greets = True
            await scene.pass_time(3 * CALL_EVERY_S)
        assert scene.server.log == []


async def test_one_that_answers_but_does_not_do_its_work_is_given_a_minute_and_then_longer(scene: Scene) -> None:
    async with scene.kept():
        scene.info = msgspec.structs.replace(WELL, well=False)
        await scene.pass_time(PATIENCE_S - CALL_EVERY_S)
        assert scene.server.log == []
        await scene.pass_time(3 * CALL_EVERY_S)
        assert scene.server.log == ["kill", "restart"]
        await scene.pass_time(2 * PATIENCE_S - 5 * CALL_EVERY_S)
        assert scene.server.log == ["kill", "restart"]
        await scene.pass_time(7 * CALL_EVERY_S)
        assert scene.server.log == ["kill", "restart"] * 2
        scene.info = WELL
        await scene.pass_time(600)
        scene.info = msgspec.structs.replace(WELL, well=False)
        await scene.pass_time(PATIENCE_S + 3 * CALL_EVERY_S)
        assert scene.server.log == ["kill", "restart"] * 3


async def test_a_stream_it_cannot_read_is_moved_out_of_its_sight_once(scene: Scene) -> None:
    async with scene.kept():
        scene.info = msgspec.structs.replace(WELL, well=False, unreadable_stream="UME")
        await scene.pass_time(CALL_EVERY_S + 2)
        scene.info = WELL
        await scene.pass_time(30)
        assert scene.server.log == ["kill", "set aside UME", "restart"]


async def test_the_same_before_there_is_a_bus(scene: Scene) -> None:
    scene.info = None
    async with scene.kept() as keeper:
        keeper.set_aside("UME_RUNS")
        keeper.set_aside("UME_RUNS")
        await scene.pass_time(300)
        assert scene.server.log == ["kill", "set aside UME_RUNS", "restart"]
