"""The live end of the log on the event loop: observers, and followers that catch up and then wait."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from cascadenced.eventlog.base import Observer
from cascadenced.events.base import Recorded

MAX_RECENT = 16_384
"""Events kept in memory for followers; a follower further behind reads the file."""
MAX_YIELD = 1_000
"""Events handed to a follower at once."""

Read = Callable[[int, int], Awaitable[list[Recorded]]]


class LiveTail:
    """What was committed last, and who wants to know."""

    def __init__(self, position: int) -> None:
        self.position = position
        self._recent: list[Recorded] = []
        self._observers: list[Observer] = []
        self._waiting: list[asyncio.Future[None]] = []
        self._closed = False

    def observe(self, observer: Observer) -> None:
        self._observers.append(observer)

    def grew(self, batch: Sequence[Recorded]) -> None:
        """A batch is committed: tell observers, wake followers."""
        if not batch:
            return
        self.position = batch[-1].position
        self._recent.extend(batch)
        if len(self._recent) > MAX_RECENT:
            del self._recent[: len(self._recent) - MAX_RECENT // 2]
        for observer in self._observers:
            observer(batch)
        self._wake()

    def close(self) -> None:
        """Followers end."""
        self._closed = True
        self._wake()

    async def follow(self, after: int, read: Read) -> AsyncIterator[Sequence[Recorded]]:
        """Every event above `after`; `read` fetches what memory no longer has. Ends when the log is closed."""
        while not self._closed:
            if after >= self.position:
                woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                self._waiting.append(woken)
                await woken
                continue
            batch = self._remembered(after) or await read(after, MAX_YIELD)
            after = batch[-1].position
            yield batch

    def _remembered(self, after: int) -> Sequence[Recorded]:
        if not self._recent or self._recent[0].position > after + 1:
            return ()
        start = after + 1 - self._recent[0].position
        return self._recent[start : start + MAX_YIELD]

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for woken in waiting:
            if not woken.done():
                woken.set_result(None)
