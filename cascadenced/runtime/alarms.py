"""When to look at which run again: one timer for all of them."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable

from cascadenced.clock import Clock
from cascadenced.runtime.whose import work


class Alarms:
    """ring: called with the run's id. Instants are monotonic seconds; there is at most one for each run."""

    def __init__(self, clock: Clock, ring: Callable[[str], None]) -> None:
        self._clock, self._ring = clock, ring
        self._heap: list[tuple[float, str]] = []
        self._due: dict[str, float] = {}  # what the heap has beyond these was cleared
        self._earlier = asyncio.Event()
        self._sleeping: asyncio.Task[None] | None = None

    def set(self, run_id: str, at: float) -> None:
        self._due[run_id] = at
        heapq.heappush(self._heap, (at, run_id))
        if self._sleeping is None or self._sleeping.done():
            self._sleeping = asyncio.get_running_loop().create_task(self._sleep(), name="alarms")
        elif self._heap[0] == (at, run_id):
            self._earlier.set()

    def clear(self, run_id: str) -> None:
        self._due.pop(run_id, None)
        if len(self._heap) > 64 and len(self._heap) > 2 * len(self._due):
            self._heap = [(at, run_id) for run_id, at in self._due.items()]
            heapq.heapify(self._heap)

    def stop(self) -> None:
        if self._sleeping is not None:
            self._sleeping.cancel()

    async def _sleep(self) -> None:
        work.set(None)
        while self._heap:
            at, run_id = self._heap[0]
            if self._due.get(run_id) != at:
                heapq.heappop(self._heap)
            elif (left := at - self._clock.monotonic()) <= 0:
                heapq.heappop(self._heap)
                del self._due[run_id]
                self._ring(run_id)
            else:
                await self._sleep_or_earlier(left)

    async def _sleep_or_earlier(self, seconds: float) -> None:
        self._earlier.clear()
        ways = [
            asyncio.ensure_future(self._clock.sleep(seconds)),
            asyncio.ensure_future(self._earlier.wait()),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
