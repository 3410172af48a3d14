"""The log as server-sent events."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiohttp import ClientPayloadError, ClientResponse
from aiohttp.test_utils import TestClient

from cascadenced.eventlog.base import Change
from cascadenced.events.idea import IdeaRecorded
from cascadenced.http import stream as streaming
from cascadenced.http.face import FACE
from tests.http.conftest import World

Client = TestClient[Any, Any]


class Reader:
    """Reads messages as a browser does."""

    def __init__(self, response: ClientResponse) -> None:
        self._response = response
        self.comments: list[str] = []

    async def message(self) -> dict[str, str]:
        fields: dict[str, str] = {}
        while True:
            line = (await asyncio.wait_for(self._response.content.readline(), 5)).decode()
            if not line:
                raise EOFError
            if line == "\n":
                if "data" in fields:
                    return fields
                fields = {}
            elif line.startswith(":"):
                self.comments.append(line.strip())
            else:
                name, _, value = line.rstrip("\n").partition(": ")
                fields[name] = value

    async def messages(self, n: int) -> list[dict[str, str]]:
        return [await self.message() for _ in range(n)]


async def _until(true: Callable[[], bool]) -> None:
    for _ in range(300):
        if true():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not become true")


async def _note(world: World, n: int = 1, size: int = 10) -> None:
    await world.instance.log.append([Change("idea", [IdeaRecorded(text="x" * size) for _ in range(n)])])


async def test_it_begins_at_the_live_end(world: World, public: Client):
    async with public.get("/events") as response:
        assert response.headers["Content-Type"] == "text/event-stream"
        assert response.headers["Cache-Control"] == "no-store"
        assert response.headers["X-Accel-Buffering"] == "no"
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        await asyncio.sleep(0.01)
        await _note(world)
        message = await Reader(response).message()
        assert message["event"] == "idea.recorded"
        assert message["id"] == str(world.instance.log.position)
        event = json.loads(message["data"])
        assert event["position"] == world.instance.log.position
        assert event["data"] == {"type": "idea.recorded", "text": "xxxxxxxxxx"}


async def test_a_client_that_comes_back_misses_nothing_and_sees_nothing_twice(world: World, public: Client):
    async def keep_appending() -> None:
        while True:
            await _note(world, 3)
            await asyncio.sleep(0.001)

    appending = asyncio.create_task(keep_appending())
    seen: list[int] = []
    last = "0"
    try:
        for n in (1, 2, 7, 40, 3, 200):
            async with public.get("/events", headers={"Last-Event-ID": last}) as response:
                messages = await Reader(response).messages(n)
            seen += [int(message["id"]) for message in messages]
            last = messages[-1]["id"]
    finally:
        appending.cancel()
    assert seen == list(range(1, len(seen) + 1))


async def test_the_header_wins_over_the_query_because_browsers_repeat_both(world: World, public: Client):
    await _note(world, 5)
    end = world.instance.log.position
    async with public.get("/events?after=1", headers={"Last-Event-ID": str(end - 1)}) as response:
        assert (await Reader(response).message())["id"] == str(end)
    async with public.get(f"/events?after={end - 2}") as response:
        assert (await Reader(response).message())["id"] == str(end - 1)


@pytest.mark.parametrize("last", ["abc", "-1", "1.5", "99999999999999999999", "٣"])
async def test_a_position_that_is_none_is_refused(public: Client, last: str):
    async with public.get("/events", headers={"Last-Event-ID": last}) as response:
        assert response.status == 400


async def test_a_position_beyond_the_end_is_one_of_another_log(public: Client):
    async with public.get("/events?after=1000000") as response:
        assert response.status == 409
        assert "another log" in (await response.json())["detail"]


async def test_a_quiet_stream_shows_that_it_lives(world: World, public: Client, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(streaming, "KEEP_ALIVE_S", 0.01)
    async with public.get("/events") as response:
        reader = Reader(response)
        reading = asyncio.create_task(reader.message())
        await asyncio.sleep(0.05)
        await _note(world)
        assert (await reading)["event"] == "idea.recorded"
        assert reader.comments


async def test_streams_are_bounded_and_given_back(world: World, public: Client, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(streaming, "MAX_STREAMS", 1)
    monkeypatch.setattr(streaming, "KEEP_ALIVE_S", 0.01)
    async with public.get("/events"), public.get("/events") as response:
        assert response.status == 429
        assert response.headers["Retry-After"] == "5"
    await _until(lambda: public.app[FACE].n_streams == 0)
    async with public.get("/events") as response:
        assert response.status == 200
    assert world.instance.refusals.total["overload"] == 1


async def test_a_client_that_does_not_read_is_cut_off(world: World, public: Client, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(streaming, "STALL_S", 0.1)
    sock = socket.create_connection(("127.0.0.1", public.port or 0))
    try:
        sock.setblocking(False)
        sock.send(b"GET /events?after=0 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await _note(world, 400, size=50_000)
        face = public.app[FACE]
        await _until(lambda: face.n_streams == 1)
        await _until(lambda: face.n_streams == 0)
    finally:
        sock.close()


async def test_a_stream_that_fails_breaks_off_rather_than_end(
    world: World, public: Client, monkeypatch: pytest.MonkeyPatch
):
    async def follow(_after: int) -> AsyncIterator[Any]:
        raise RuntimeError("the file is gone")
        yield

    monkeypatch.setattr(world.instance.log, "follow", follow)
    async with public.get("/events") as response:
        with pytest.raises(ClientPayloadError):
            await Reader(response).message()
    assert public.app is not None
    assert public.app[FACE].n_streams == 0


async def test_a_stream_ends_with_the_log(world: World, public: Client):
    async with public.get("/events") as response:
        await asyncio.sleep(0.01)
        await world.instance.log.close()
        with pytest.raises(EOFError):
            await Reader(response).message()


async def test_nobody_asks_for_the_head_of_a_stream(public: Client):
    async with public.head("/events") as response:
        assert response.status == 405
