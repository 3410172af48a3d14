"""Time as an argument. Wall clock for people and records, monotonic for durations and timers.

Instants in events are whole microseconds since 1970 UTC (`…at_us`); `iso` is the one way they are shown.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from datetime import UTC, datetime
from functools import lru_cache
from typing import Protocol


class Clock(Protocol):
    """The only source of time in the program."""

    def now_us(self) -> int:
        """Wall clock: microseconds since 1970 UTC. May jump either way."""
        ...

    def monotonic(self) -> float:
        """Seconds on a clock that never goes back; its zero means nothing."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds` of monotonic time; at once, but not before a switch of tasks, when not positive."""
        ...


class SystemClock:
    """The machine's clocks."""

    def now_us(self) -> int:
        return time.time_ns() // 1000

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds))


class FakeClock:
    """Virtual time: stands still until `advance`, which wakes sleepers in order of their due time."""

    def __init__(self, start_us: int = 1_790_000_000_000_000) -> None:
        self._now_us = start_us
        self._monotonic = 0.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._n = 0

    def now_us(self) -> int:
        return self._now_us

    def monotonic(self) -> float:
        return self._monotonic

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        self._n += 1
        due: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._monotonic + seconds, self._n, due))
        await due

    @property
    def n_sleeping(self) -> int:
        """Sleepers that wait for time to pass."""
        return sum(not due.done() for _, _, due in self._sleepers)

    async def advance(self, seconds: float) -> None:
        """Let `seconds` pass; every sleeper due by then has been woken and has run once when this returns."""
        target = self._monotonic + seconds
        while self._sleepers and self._sleepers[0][0] <= target:
            at, _, due = heapq.heappop(self._sleepers)
            self._move_to(at)
            if not due.done():
                due.set_result(None)
            await asyncio.sleep(0)
        self._move_to(target)
        await asyncio.sleep(0)

    def jump(self, seconds: float) -> None:
        """Move only the wall clock, as an operator or NTP would."""
        self._now_us += round(seconds * 1_000_000)

    def _move_to(self, monotonic: float) -> None:
        self._now_us += round((monotonic - self._monotonic) * 1_000_000)
        self._monotonic = monotonic


def iso(at_us: int) -> str:
    """`at_us` as ISO 8601 in UTC with microseconds: `2026-11-23T09:00:00.000000Z`."""
    return f"{_second(at_us // 1_000_000)}.{at_us % 1_000_000:06d}Z"


@lru_cache(maxsize=64)
def _second(at_s: int) -> str:
    """Formatting it costs eight times what the rest of `iso` does, and thousands of events share a second."""
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def parse_iso(text: str) -> int:
    """Microseconds since 1970 of an ISO 8601 instant with offset. Raises ValueError; a naive instant is refused."""
    instant = datetime.fromisoformat(text)
    if instant.tzinfo is None:
        raise ValueError(f"{text!r} has no UTC offset")
    whole = instant.replace(microsecond=0).timestamp()
    return int(whole) * 1_000_000 + instant.microsecond
