"""Many messages at once through a plain NATS client, and what the broker said to each."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from typing import Any, NamedTuple

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
