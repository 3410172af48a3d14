"""Virtual time as a `Clock`: the loop's time, and a wall clock that may jump."""

from __future__ import annotations

import asyncio

START_US = 1_790_000_000_000_000


class SimClock:
    """One machine's clock."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._offset_us = START_US
        self.has_jumped = False

    def now_us(self) -> int:
        return round(self._loop.time() * 1_000_000) + self._offset_us

    def monotonic(self) -> float:
        return self._loop.time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds))

    def jump(self, seconds: float) -> None:
        """Only the wall clock, either way."""
        self.has_jumped = True
        self._offset_us += round(seconds * 1_000_000)
