"""When to look at which schedule: one heap of wake-up instants, one timer for all of them. Nothing polls."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

import structlog

from cascadenced.clock import Clock
from cascadenced.errors import CascadenceError

_log = structlog.get_logger(__name__)

AT_ONCE = 200
"""Schedules that are looked at in one go. More are not settled any sooner, and the loop has to wait for them."""
JUMP_S = 0.25
"""By so much the wall clock may drift from the monotonic one before its sleepers are woken."""
_AGAIN_S = 1.0

Look = Callable[[Sequence[str]], Awaitable[Mapping[str, int | None]]]
"""Settles what is due of these schedules; returns when each is to be looked at next, µs since 1970, None for never."""


class Ticker:
    """look: see `Look`; what it raises is logged, and these schedules are looked at again a second later."""

    def __init__(self, clock: Clock, look: Look) -> None:
        self._clock, self._look = clock, look
        self._heap: list[tuple[int, str]] = []
        self._wake_us: dict[str, int] = {}  # what the heap has beyond these was replaced
        self._changed = asyncio.Event()
        self._offset_s = self._offset()

    def __len__(self) -> int:
        """How many schedules have a wake-up instant."""
        return len(self._wake_us)

    def next_us(self, name: str) -> int | None:
        """When that one is looked at next, None for never."""
        return self._wake_us.get(name)

    def set(self, name: str, wake_us: int | None) -> None:
        """Look at it then."""
        if wake_us is None:
            self._wake_us.pop(name, None)
            return
        if self._wake_us.get(name) != wake_us:
            self._wake_us[name] = wake_us
            heapq.heappush(self._heap, (wake_us, name))
        if self._heap and self._heap[0] == (wake_us, name):
            self._changed.set()
        if len(self._heap) > 64 and len(self._heap) > 2 * len(self._wake_us):
            self._heap = [(wake_us, name) for name, wake_us in self._wake_us.items()]
            heapq.heapify(self._heap)

    def load(self, wakes: Iterable[tuple[str, int]]) -> None:
        """Many at once, before `run`. One that was set meanwhile stays so."""
        for name, wake_us in wakes:
            if self._wake_us.setdefault(name, wake_us) == wake_us:
                self._heap.append((wake_us, name))
        heapq.heapify(self._heap)

    def refresh(self, names: Iterable[str]) -> None:
        """Something has changed about these: look at them now."""
        for name in names:
            self.set(name, self._clock.now_us())

    def look_at_clock(self) -> None:
        """Called now and then: has somebody moved the wall clock? A timer that sleeps would not know."""
        offset_s = self._offset()
        if abs(offset_s - self._offset_s) > JUMP_S:
            _log.warning("clock_jumped", seconds=round(offset_s - self._offset_s, 3))
            self._changed.set()
        self._offset_s = offset_s

    async def run(self) -> None:
        """For ever: look at what is due, sleep until the next is or something changes."""
        while True:
            self._changed.clear()
            names = self.due(AT_ONCE)
            if not names:
                await self._sleep()
                continue
            try:
                wakes = await self._look(names)
            except CascadenceError as error:
                _log.error("schedules_wait", n=len(names), error=str(error))
                again_us = self._clock.now_us() + round(_AGAIN_S * 1e6)
                wakes = dict.fromkeys(names, again_us)
            for name in names:
                # What changed while it was looked at is in the heap already, for now.
                if name not in self._wake_us:
                    self.set(name, wakes.get(name))

    def due(self, at_most: int) -> list[str]:
        """Those whose instant has come, oldest first; they have none any more."""
        now_us, names = self._clock.now_us(), list[str]()
        while self._heap and len(names) < at_most:
            wake_us, name = self._heap[0]
            if self._wake_us.get(name) == wake_us:
                if wake_us > now_us:
                    break
                del self._wake_us[name]
                names.append(name)
            heapq.heappop(self._heap)
        return names

    async def _sleep(self) -> None:
        """Until the first of the heap is due, or `_changed`."""
        ways: list[asyncio.Future[object]] = [asyncio.ensure_future(self._changed.wait())]
        if self._heap:
            left_s = (self._heap[0][0] - self._clock.now_us()) / 1e6
            ways.append(asyncio.ensure_future(self._clock.sleep(left_s)))
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()

    def _offset(self) -> float:
        return self._clock.now_us() / 1e6 - self._clock.monotonic()
