"""The live end of the log on the event loop: observers, and followers that catch up and then wait."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import structlog

from cascadenced.errors import LogCorrupt
from cascadenced.eventlog.base import Observer
from cascadenced.events.base import Recorded

_log = structlog.get_logger(__name__)

MAX_RECENT = 16_384
"""Events kept in memory for followers; a follower further behind reads the file."""
MAX_RECENT_BYTES = 64 * 1024 * 1024
"""How much JSON they may hold together."""
MAX_YIELD = 1_000
"""Events handed to a follower at once."""

Read = Callable[[int, int], Awaitable[list[Recorded]]]


class LiveTail:
    """What was committed last, and who wants to know."""

    def __init__(self, position: int) -> None:
        self.position = position
        self._recent: list[Recorded] = []
        self._n_bytes = 0
        self._observers: list[Observer] = []
        self._grown = asyncio.Event()
        self._closed = False

    def observe(self, observer: Observer) -> None:
        self._observers.append(observer)

    def grew(self, batch: Sequence[Recorded], n_bytes: int) -> None:
        """A batch is committed: tell observers, wake followers. An observer that raises is logged and keeps nobody.

        n_bytes: of the batch's JSON.
        """
        if not batch:
            return
        self.position = batch[-1].position
        self._recent.extend(batch)
        self._n_bytes += n_bytes
        if len(self._recent) > MAX_RECENT or self._n_bytes > MAX_RECENT_BYTES:
            self._forget()
        for observer in self._observers:
            try:
                observer(batch)
            except Exception:  # noqa: BLE001 -- its own loss; these callers have their events recorded
                _log.exception("observer_failed", observer=repr(observer), position=self.position)
        self._wake()

    def close(self) -> None:
        """Followers end."""
        self._closed = True
        self._wake()

    async def follow(self, after: int, read: Read) -> AsyncIterator[Sequence[Recorded]]:
        """Every event above `after`; `read` fetches what memory no longer has. Ends when the log is closed."""
        while not self._closed:
            if after >= self.position:
                await self._grown.wait()
                continue
            batch = self._remembered(after) or await read(after, MAX_YIELD)
            if not batch:
                raise LogCorrupt(f"event {after + 1} was committed and cannot be read any more", position=after + 1)
            after = batch[-1].position
            yield batch

    def _remembered(self, after: int) -> Sequence[Recorded]:
        if not self._recent or self._recent[0].position > after + 1:
            return ()
        start = after + 1 - self._recent[0].position
        return self._recent[start : start + MAX_YIELD]

    def _forget(self) -> None:
        """Keep the newer half only, so that this is done seldom."""
        while len(self._recent) > MAX_RECENT // 2 or (self._recent and self._n_bytes > MAX_RECENT_BYTES // 2):
            older = self._recent[: (len(self._recent) + 1) // 2]
            self._n_bytes -= _size(older)
            del self._recent[: len(older)]

    def _wake(self) -> None:
        # Whoever waits, waits on the old one; a follower that was cancelled has left it by itself.
        grown, self._grown = self._grown, asyncio.Event()
        grown.set()


def _size(events: Sequence[Recorded]) -> int:
    """Bytes of JSON."""
    return sum([len(recorded.data) for recorded in events])
