"""Virtual time as a `Clock`: the loop's time, and a wall clock that may jump."""

from __future__ import annotations

import asyncio

START_US = 1_790_000_000_000_000


class SimClock:
    """One machine's clock. set_back_s: by how much, all in all; a sleep that began before may take so much longer."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._offset_us = START_US
        self.has_jumped, self.set_back_s = False, 0.0

    def now_us(self) -> int:
        return round(self._loop.time() * 1_000_000) + self._offset_us

    def monotonic(self) -> float:
        return self._loop.time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds))

    def jump(self, seconds: float) -> None:
        """Only the wall clock, either way."""
        self.has_jumped = True
        self.set_back_s += max(0.0, -seconds)
        self._offset_us += round(seconds * 1_000_000)
