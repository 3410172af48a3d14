"""Sockets: where they are, who may open them, what may come through them, how they close."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import stat
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio

from cascadenced.errors import ConfigError
from cascadenced.http import app as application
from cascadenced.http import body
from cascadenced.http.app import serve
from tests.http.conftest import ALICE, World, a_world


def _serving(world: World) -> AbstractAsyncContextManager[str]:
    return serve(world.instance, ready=world.is_ready, stop=world.stop)


@pytest_asyncio.fixture
async def url(world: World) -> AsyncIterator[str]:
    async with _serving(world) as url:
        yield url


def _over(path: Path) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path)))


async def _raw(url: str, data: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
    writer.write(data)
    answer = await asyncio.wait_for(reader.read(65536), 5)
    writer.close()
    return answer


async def test_port_0_is_any_free_one_and_the_url_says_which(url: str):
    assert url.startswith("http://127.0.0.1:")
    async with aiohttp.ClientSession() as session, session.get(f"{url}/healthz") as response:
        assert response.status == 200


async def test_a_name_with_two_addresses_has_one_port(tmp_path: Path):
    async with (
        a_world(tmp_path, http_host="localhost") as world,
        _serving(world) as url,
        aiohttp.ClientSession() as session,
        session.get(f"{url}/healthz") as response,
    ):
        assert url.startswith("http://localhost:")
        assert response.status == 200


async def test_the_socket_is_its_owners_alone(world: World, url: str):
    path = world.instance.config.socket_path
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    async with _over(path) as session, session.post("http://cascadence/rpc/list") as response:
        assert response.status == 200


async def test_the_socket_of_a_killed_daemon_is_replaced(world: World):
    path = world.instance.config.socket_path
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(path))
    stale.close()
    async with _serving(world), _over(path) as session, session.get("http://cascadence/status") as response:
        assert response.status == 200
    assert not path.exists()


async def test_a_file_in_the_sockets_place_is_left_alone(world: World):
    path = world.instance.config.socket_path
    path.write_text("mine")
    with pytest.raises(ConfigError, match="no socket"):
        async with _serving(world):
            pass
    assert path.read_text() == "mine"


async def test_a_long_data_folder_has_its_socket_elsewhere(tmp_path: Path):
    folder = tmp_path / ("d" * 100)
    folder.mkdir()
    async with a_world(folder) as world:
        path = world.instance.config.socket_path
        assert path.parent != folder
        async with _serving(world), _over(path) as session, session.get("http://cascadence/status") as response:
            assert response.status == 200


async def test_a_port_in_use_names_host_port_and_setting(tmp_path: Path):
    taken = socket.create_server(("127.0.0.1", 0))
    port = taken.getsockname()[1]
    async with a_world(tmp_path, http_port=port) as world:
        with pytest.raises(ConfigError) as raised:
            async with _serving(world):
                pass
    assert f"http_host 127.0.0.1, http_port {port}" in str(raised.value)
    assert "another program listens there" in str(raised.value)
    assert not world.instance.config.socket_path.exists()
    taken.close()


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
async def test_an_address_of_another_machine_is_a_configuration_error(tmp_path: Path, host: str):
    async with a_world(tmp_path, http_host=host, http_token="t") as world:
        with pytest.raises(ConfigError, match=host):
            async with _serving(world):
                pass


async def test_the_socket_may_ask_the_daemon_to_stop(world: World, url: str):
    path = world.instance.config.socket_path
    async with _over(path) as session, session.post("http://cascadence/stop") as response:
        assert response.status == 202
    assert world.n_stops == 1


async def test_streams_and_waiting_callers_do_not_hold_the_stop(world: World):
    path = world.instance.config.socket_path
    async with _over(path) as owner, aiohttp.ClientSession() as session:
        async with _serving(world) as url:
            stream = await session.get(f"{url}/events")
            assert stream.status == 200
            body = {"task": "endless", **ALICE}
            waiting = asyncio.create_task(owner.post("http://cascadence/rpc/run", json=body))
            idle = socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])))
            await asyncio.sleep(0.05)
            began = time.monotonic()
        took = time.monotonic() - began
        assert (await waiting).status == 503
        stream.close()
        idle.close()
    assert took < 10


async def test_a_stream_nobody_reads_does_not_hold_the_stop(world: World):
    from cascadenced.eventlog.base import Change
    from cascadenced.events.idea import IdeaRecorded

    await world.instance.log.append([Change("idea", [IdeaRecorded(text="x" * 50_000)] * 400)])
    async with _serving(world) as url:
        sock = socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])))
        sock.sendall(b"GET /events?after=0 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await asyncio.sleep(0.2)
        began = time.monotonic()
    assert time.monotonic() - began < 10
    sock.close()


async def test_connections_are_bounded(world: World, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(application, "MAX_CONNECTIONS", 2)
    async with _serving(world) as url:
        port = int(url.rpartition(":")[2])
        held = [socket.create_connection(("127.0.0.1", port)) for _ in range(2)]
        await asyncio.sleep(0.05)
        try:
            answer = await _raw(url, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        except ConnectionError:
            answer = b""
        assert answer == b""
        for one in held:
            one.close()
        await asyncio.sleep(0.05)
        assert b"200 OK" in await _raw(url, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(64)) + b"\r\n\r\n",
        b"\x00\x00\x00\x00\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nA\xff\xfe: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 5000 + b"\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /runs/\xff\xfe\x80 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"GET /runs?task=\xff\xfe HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"GET http://evil.example/status HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n",
        b"GET /status HTTP/1.0\r\n\r\n",
        b"GET //runs HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"GET /status HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\nConnection: close\r\n\r\n",
        b"GET /events HTTP/1.1\r\nHost: localhost\r\nLast-Event-ID: \xff\xff\r\nConnection: close\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept: \xff;;;=,q=x;\r\nConnection: close\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    ],
)
async def test_what_is_not_http_hurts_nobody(
    world: World, url: str, data: bytes, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
):
    with caplog.at_level(logging.DEBUG):
        answer = await _raw(url, data)
    assert answer == b"" or answer.startswith((b"HTTP/1.1 4", b"HTTP/1.0 4", b"HTTP/1.1 200")), answer[:200]
    assert "Traceback" not in caplog.text
    assert "Traceback" not in "".join(capsys.readouterr())
    async with aiohttp.ClientSession() as session, session.get(f"{url}/healthz") as response:
        assert response.status == 200


def _post(n_bytes: int, sent: bytes) -> bytes:
    names = b"X-User-ID: alice\r\nX-Group-ID: eng\r\n"
    return b"POST /tasks/example/run HTTP/1.1\r\nHost: localhost\r\n%sContent-Length: %d\r\n\r\n%s" % (
        *(names, n_bytes, sent),
    )


async def test_a_body_that_does_not_come_is_not_waited_for_for_ever(url: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(body, "BODY_WITHIN_S", 0.1)
    answer = await _raw(url, _post(100, b"{"))
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"error":"too_slow"' in answer
    async with aiohttp.ClientSession() as session, session.get(f"{url}/healthz") as response:
        assert response.status == 200


async def test_a_body_that_says_it_is_too_large_is_refused_before_it_comes(url: str):
    assert (await _raw(url, _post(10**12, b"{"))).startswith(b"HTTP/1.1 413 ")


async def test_no_descriptor_is_left_open(world: World):
    async def once() -> None:
        async with _serving(world) as url, aiohttp.ClientSession() as session, session.get(f"{url}/") as response:
            await response.read()

    await once()
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    await once()
    await asyncio.sleep(0.05)
    after = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    assert after <= before
