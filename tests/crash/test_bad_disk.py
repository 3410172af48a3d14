"""A real daemon under load while its disk fills up, has space again, and at last breaks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest

import cascadenced
from tests.acceptance.conftest import Daemon
from tests.crash.chaos import QUIET, aftermath
from tests.crash.client import Clients
from tests.crash.disk import why_not

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(180),
    pytest.mark.skipif(why_not() is not None, reason=str(why_not())),
]

EXIT_DISK_ERROR = 74

# Python imports this by itself before anything else: the shim is under SQLite before the daemon opens a file.
SITE = """
from pathlib import Path
from tests.crash.disk import watched
from tests.crash.faults import SwitchedDisk

folder = Path({folder!r})
(folder / "data").mkdir(mode=0o700, exist_ok=True)
_disk = watched(folder / "data", SwitchedDisk({way!r}, folder / "switch", {files!r}))
_disk.__enter__()
"""


class BadDisk:
    """A daemon whose disk fails while `switch` exists."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.switch = daemon.folder / "switch"

    async def start(self, way: str, files: str = "log.db") -> None:
        await self.daemon.start(**self._environment(way, files))

    async def launch(self, way: str, files: str = "log.db") -> None:
        await self.daemon.launch(**self._environment(way, files))

    def _environment(self, way: str, files: str) -> dict[str, str]:
        site = self.daemon.folder / "site"
        site.mkdir(exist_ok=True)
        (site / "sitecustomize.py").write_text(SITE.format(folder=str(self.daemon.folder), way=way, files=files))
        repo = Path(cascadenced.__file__).parent.parent
        return {**QUIET, "PYTHONPATH": f"{site}:{repo}"}

    async def ask(self, key: str) -> tuple[int, dict[str, Any]]:
        """A run over the Unix socket: (status, answer)."""
        connector = aiohttp.UnixConnector(self.daemon.found["socket"])
        body = {"task": "traced", "user_id": "alice", "group_id": "eng", "args": {"n": key}, "idempotency_key": key}
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.post("http://daemon/rpc/run", json=body) as response,
        ):
            return response.status, await response.json()


@pytest.fixture
async def bad_disk(tmp_path: Path) -> AsyncIterator[BadDisk]:
    daemon = Daemon(tmp_path)
    yield BadDisk(daemon)
    if daemon.process is not None and daemon.process.returncode is None:
        await daemon.kill()


async def test_a_full_disk_answers_507_and_heals_by_itself_when_there_is_space(bad_disk: BadDisk) -> None:
    await bad_disk.start("full")
    assert (await bad_disk.ask("before"))[0] == 200
    bad_disk.switch.touch()
    status, answer = await bad_disk.ask("a")
    assert (status, answer["error"]) == (507, "disk_full")
    assert "no space left" in (await bad_disk.daemon.get("/status"))["read_only"]
    bad_disk.switch.unlink()
    status, answer = await bad_disk.ask("a")
    assert (status, answer["result"]["n"]) == (200, "a")
    assert (await bad_disk.daemon.get("/status"))["read_only"] is None


@pytest.mark.parametrize("files", ["log.db", "vault.db"])
async def test_an_io_error_ends_the_daemon_with_74(bad_disk: BadDisk, files: str) -> None:
    await bad_disk.start("worn", files)
    bad_disk.switch.touch()
    with suppress(aiohttp.ClientError):  # it may be gone before it has answered
        assert (await bad_disk.ask("a"))[0] == 503
    assert await bad_disk.daemon.ended() == EXIT_DISK_ERROR


async def test_under_load_nothing_is_lost_on_a_disk_that_is_full_now_and_then(bad_disk: BadDisk) -> None:
    daemon = bad_disk.daemon
    await bad_disk.start("full", "")
    clients = Clients(daemon.data_dir, 1)
    clients.start()
    for _ in range(4):
        await asyncio.sleep(0.5)
        bad_disk.switch.touch()
        await asyncio.sleep(0.4)
        bad_disk.switch.unlink()
    await asyncio.sleep(1.5)
    assert daemon.process is not None
    assert daemon.process.returncode is None
    await daemon.kill()
    outcome = await aftermath(daemon, clients, "a full disk")
    assert outcome.faults == [], outcome.told


async def test_a_daemon_that_starts_on_a_full_disk_says_so(bad_disk: BadDisk) -> None:
    await bad_disk.start("full", "")
    assert await bad_disk.daemon.stop() == 0
    bad_disk.switch.touch()
    await bad_disk.launch("full", "")
    assert await bad_disk.daemon.ended() == EXIT_DISK_ERROR
    assert "no space" in bad_disk.daemon.output[-1]


async def test_under_load_nothing_that_was_acknowledged_is_lost_when_the_disk_breaks(bad_disk: BadDisk) -> None:
    daemon = bad_disk.daemon
    await bad_disk.start("worn")
    clients = Clients(daemon.data_dir, 2)
    clients.start()
    for _ in range(2):
        await asyncio.sleep(0.7)
        bad_disk.switch.touch()
        assert await daemon.ended() == EXIT_DISK_ERROR, "\n".join(daemon.output[-40:])
        bad_disk.switch.unlink()
        await bad_disk.start("worn")
    await daemon.kill()
    outcome = await aftermath(daemon, clients, "a broken disk")
    assert outcome.faults == [], outcome.told
