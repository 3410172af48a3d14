"""Many messages at once through a plain NATS client, and what the broker said to each."""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp

from tests.acceptance.conftest import Daemon

WINDOW = 1000
"""Messages without an answer yet. The broker's own buffers must not be what is tested."""
ANSWERED_WITHIN_S = 60.0


class Told(NamedTuple):
    """What the broker answered. error: its sentence, if it would not take the message."""

    duplicate: bool
    error: str | None


class Flood:
    """Publishes without waiting for each answer. `told` has them by number."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._room = asyncio.Semaphore(WINDOW)
        self._n_sent = 0
        self._all_told = asyncio.Event()
        self.told: list[Told | None] = []

    async def __aenter__(self) -> Flood:
        self._inbox = self._client.new_inbox()
        await self._client.subscribe(f"{self._inbox}.*", cb=self._heard)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._all_told.set()

    async def publish(self, subject: str, body: bytes, headers: dict[str, str] | None = None) -> int:
        """Returns the message's number."""
        await asyncio.wait_for(self._room.acquire(), ANSWERED_WITHIN_S)
        number = len(self.told)
        self.told.append(None)
        self._all_told.clear()
        await self._client.publish(subject, body, reply=f"{self._inbox}.{number}", headers=headers or None)
        return number

    async def answered(self) -> list[Told]:
        """Every answer, once they are all here."""
        if None in self.told:
            await asyncio.wait_for(self._all_told.wait(), ANSWERED_WITHIN_S)
        return [told for told in self.told if told is not None]

    async def _heard(self, message: Any) -> None:
        number = int(message.subject.rpartition(".")[2])
        answer = json.loads(message.data) if message.data else {"error": {"description": "no answer"}}
        error = answer.get("error")
        self.told[number] = Told(answer.get("duplicate", False), error and str(error.get("description")))
        self._room.release()
        self._n_sent += 1
        if self._n_sent == len(self.told):
            self._all_told.set()


async def numbers(daemon: Daemon) -> dict[str, float]:
    """Everything at /metrics: `name{labels}` → value."""
    async with aiohttp.ClientSession() as session, session.get(daemon.found["http_url"] + "/metrics") as response:
        lines = (await response.text()).splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[:1] != "#")}


def total(found: dict[str, float], name: str) -> int:
    """The sum over all labels."""
    return int(sum(value for key, value in found.items() if key.partition("{")[0] == name))


def memory_mib(daemon: Daemon) -> float:
    """What the daemon has in memory now (RSS); 0 where the system does not say it in this way."""
    assert daemon.process is not None
    try:
        with open(f"/proc/{daemon.process.pid}/statm") as file:
            pages = int(file.read().split()[1])
    except FileNotFoundError:
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


@asynccontextmanager
async def daemon_in_memory() -> AsyncIterator[Daemon]:
    """A daemon whose folder is in memory where the system has such a place: for what is about numbers, not disks."""
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=place, prefix="cascadenced-") as folder:
        daemon = Daemon(Path(folder))
        try:
            yield daemon
        finally:
            if daemon.process is not None and daemon.process.returncode is None:
                await daemon.kill()
