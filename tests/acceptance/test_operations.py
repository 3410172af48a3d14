"""The daemon as an operator has it: told to read its configuration again, watched by systemd, robbed of its folder."""

from __future__ import annotations

import asyncio
import os
import pty
import signal
import socket
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.acceptance.conftest import Daemon

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]


class Manager:
    """The end of the notification socket that systemd holds."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.setblocking(False)

    async def hears(self, assignment: str) -> list[str]:
        """Everything up to the next message that contains `assignment`."""
        heard: list[str] = []
        async with asyncio.timeout(20):
            while not heard or assignment not in heard[-1].split("\n"):
                data = await asyncio.get_running_loop().sock_recv(self._socket, 4096)
                heard.append(data.decode())
        return heard

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(tmp_path / "notify")
    yield manager
    manager.close()


async def test_systemd_hears_of_every_state_and_a_reload_is_recorded(daemon: Daemon, manager: Manager) -> None:
    settings = daemon.folder / "cascadence.yml"
    settings.write_text("max_concurrent_runs: 5\n")
    await daemon.start(NOTIFY_SOCKET=str(manager.path), WATCHDOG_USEC="600000")
    assert daemon.process is not None
    assert daemon.found["http_url"] in (await manager.hears("READY=1"))[-1]
    await manager.hears("WATCHDOG=1")
    await manager.hears("WATCHDOG=1")

    settings.write_text("max_concurrent_runs: 7\nstream_max_age_s: 3600\n")
    daemon.process.send_signal(signal.SIGHUP)
    assert "MONOTONIC_USEC=" in (await manager.hears("RELOADING=1"))[-1]
    await manager.hears("READY=1")
    await daemon.until({"type": "config.reread", "changed": ["max_concurrent_runs"], "waiting": ["stream_max_age_s"]})

    settings.write_text("max_concurrent_runs: 0\n")
    daemon.process.send_signal(signal.SIGHUP)
    await manager.hears("RELOADING=1")
    await manager.hears("READY=1")
    await daemon.until({"type": "config.rejected"})
    assert any("config_rejected" in line and "max_concurrent_runs" in line for line in daemon.output)

    daemon.process.send_signal(signal.SIGTERM)
    await manager.hears("STOPPING=1")
    assert await daemon.ended() == 0


@pytest.mark.parametrize("how", ["deleted", "replaced"])
async def test_a_daemon_whose_folder_is_taken_away_stops_with_74_and_touches_nothing(daemon: Daemon, how: str) -> None:
    await daemon.start()
    aside = daemon.folder / "aside"
    daemon.data_dir.rename(aside)
    theirs = []
    if how == "replaced":
        theirs = [daemon.data_dir / name for name in ("log.db", "log.db-wal", "vault.db", "daemon.json", "socket")]
        daemon.data_dir.mkdir(mode=0o700)
        for path in theirs:
            path.write_text("another daemon's")
    assert await daemon.ended() == 74
    assert any("data folder was" in line for line in daemon.output)
    assert all(path.read_text() == "another daemon's" for path in theirs)
    daemon.data_dir = aside
    code, _, err = await daemon.command("log", "verify")
    assert code == 0, err


async def test_a_log_with_a_damaged_event_ends_the_daemon_with_74_and_the_event(daemon: Daemon) -> None:
    assert (await daemon.command("run", "telling", "--user-id", "alice", "--group-id", "eng"))[0] == 0
    with closing(sqlite3.connect(daemon.data_dir / "log.db")) as connection, connection:
        (at,) = connection.execute("SELECT position FROM events WHERE type = 'run.requested'").fetchone()
        connection.execute("DROP TRIGGER events_are_not_changed")
        connection.execute("UPDATE events SET data = CAST('{' AS BLOB) WHERE position = ?", (at,))
    await daemon.launch()
    assert await daemon.ended() == 74, daemon.output
    said = "\n".join(daemon.output)
    assert f"event {at} of type run.requested is not what was recorded" in said
    assert "cascadenced log restore" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(("how", "status"), [("asked to", 0), ("folder lost", 74)])
async def test_a_daemon_whose_output_nobody_reads_any_more_goes_on_and_ends_as_it_should(
    daemon: Daemon, how: str, status: int
) -> None:
    await daemon.start()
    assert daemon.process is not None
    daemon.process._transport.get_pipe_transport(1).close()  # type: ignore[attr-defined]
    code, _, err = await daemon.command("run", "telling", "--user-id", "alice", "--group-id", "eng")
    assert code == 0, err
    if how == "asked to":
        assert await daemon.stop() == status
    else:
        daemon.data_dir.rename(daemon.folder / "elsewhere")
        assert await daemon.ended() == status


async def test_a_terminal_that_is_closed_stops_the_daemon_in_it(daemon: Daemon) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(daemon.folder)
        os.execve(sys.executable, [sys.executable, "-m", "cascadenced", "up"], daemon.env)
    told = b""
    while b"is ready" not in told:
        told += await asyncio.to_thread(os.read, terminal, 4096)
    os.close(terminal)
    _, status = await asyncio.to_thread(os.waitpid, pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert not (daemon.data_dir / "daemon.json").exists()
