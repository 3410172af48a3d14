"""The server's side of the double: both streams, and who was handed what. It outlives whoever connects to it."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping

from cascadenced.bus.memory_stream import Stored, Stream
from cascadenced.clock import Clock
from cascadenced.events.subjects import BOTH_WAYS, OUTWARD


class MemoryServer:
    """For one client at a time. Nothing happens by itself: what is in hand comes again when somebody says so.

    origin: whose own messages are not handed out.  on_ready: called when something can be taken.
    ready, in_hand: what waits to be taken, and what was taken and not ended; by (stream, sequence).
    """

    def __init__(self, *, clock: Clock, prefix: str = "ume", max_messages: int = 100_000) -> None:
        self._clock, self._prefix, self._max_messages = clock, prefix, max_messages
        self.origin = ""
        self.on_ready: Callable[[], None] = lambda: None
        self.n_starts = 1
        self.n_epochs = 0
        self._delays: set[asyncio.Task[None]] = set()
        self._new_streams()

    def _new_streams(self) -> None:
        self.n_epochs += 1
        name, created = self._prefix.upper(), self.n_epochs
        self.events = Stream(name, self._max_messages, work_queue=False, created=created)
        self.runs = Stream(f"{name}_RUNS", self._max_messages, work_queue=True, created=created)
        self.ready: deque[Stored] = deque()
        self.in_hand: OrderedDict[tuple[str, int], Stored] = OrderedDict()

    # What clients ask of it.

    def store(self, subject: str, data: bytes, headers: Mapping[str, str]) -> tuple[bool, Stored | None]:
        """Whether it is new, and what was stored. What no stream listens to is new."""
        stream = self.stream_of(subject)
        if stream is None:
            return True, None
        stored = stream.store(self._clock, subject, data, headers)
        if stored is not None and self._is_inbound(stored):
            self.again(stored)
        return stored is not None, stored

    def take(self, max_messages: int) -> list[Stored]:
        """The next messages, which are in hand from now on."""
        taken: list[Stored] = []
        while self.ready and len(taken) < max_messages:
            stored = self.ready.popleft()
            if not self.stream(stored).holds(stored):
                continue  # acknowledged late, or forgotten
            stored.n_delivered += 1
            stored.in_hand = True
            self.in_hand[stored.stream, stored.seq] = stored
            taken.append(stored)
        return taken

    def ended(self, stored: Stored, *, erase: bool) -> bool:
        """It need not be handed out again. False if it is not there any more."""
        stream = self.stream(stored)
        if not stream.holds(stored):
            return False
        self.in_hand.pop((stored.stream, stored.seq), None)
        if not stored.in_hand:
            self.ready = deque(other for other in self.ready if other is not stored)
        if erase or stream.work_queue:
            del stream.messages[stored.seq]
        return True

    def later(self, stored: Stored, delay_s: float) -> None:
        """Hand it out again after `delay_s`, or when the client goes."""
        if not stored.in_hand:
            return  # it is on its way again already
        self.in_hand.pop((stored.stream, stored.seq), None)
        stored.in_hand = False

        async def wait() -> None:
            await self._clock.sleep(delay_s)

        task = asyncio.create_task(wait())
        self._delays.add(task)
        task.add_done_callback(self._delays.discard)
        task.add_done_callback(lambda _: self.again(stored))

    def again(self, stored: Stored) -> None:
        """It can be taken, once more."""
        stored.in_hand = False
        self.ready.append(stored)
        if len(self.ready) > 4 * self._max_messages:  # the streams hold half of that: the rest is forgotten
            self.ready = deque(other for other in self.ready if self.stream(other).holds(other))
        self.on_ready()

    def redeliver(self) -> None:
        """Everything in hand and not ended is handed out again, oldest first."""
        in_hand, self.in_hand = self.in_hand, OrderedDict()
        for stored in in_hand.values():
            self.again(stored)

    def begin_again(self) -> None:
        """Whoever reads starts from the beginning: everything that others sent and that is still there."""
        messages = (*self.events.messages.values(), *self.runs.messages.values())
        self.ready = deque(stored for stored in messages if self._is_inbound(stored))
        self.in_hand.clear()

    async def left(self) -> None:
        """The client has gone."""
        self.on_ready = lambda: None
        for task in self._delays:
            task.cancel()
        await asyncio.gather(*self._delays, return_exceptions=True)

    def stream_of(self, subject: str) -> Stream | None:
        """Which stream listens to `subject`."""
        match subject.split("."):
            case [self._prefix, "run", "request", _, *_]:
                return self.runs
            case [self._prefix, family, _, *_] if family in BOTH_WAYS or family in OUTWARD:
                return self.events
            case [self._prefix, _]:
                return self.events
        return None

    def stream(self, stored: Stored) -> Stream:
        return self.runs if stored.stream == self.runs.name else self.events

    def _is_inbound(self, stored: Stored) -> bool:
        _, *family = stored.subject.split(".")
        inward = stored.stream == self.runs.name or len(family) == 1 or family[0] in BOTH_WAYS
        return inward and stored.headers.get("Cascadence-Origin") != self.origin

    # What can become of it.

    def wipe(self) -> None:
        """It lost everything: empty streams, another epoch."""
        self._new_streams()

    def take_over(self) -> None:
        """It lost what it knew of the streams, and made them anew from their messages: another epoch."""
        self.n_epochs += 1
        self.events.created = self.runs.created = self.n_epochs

    def forget(self, wanted: Callable[[Stored], bool]) -> int:
        """Events that are `wanted` are gone, wherever they stood, and so are their ids; returns how many."""
        gone = [stored for stored in self.events.messages.values() if wanted(stored)]
        for stored in gone:
            self.events.drop(stored)
        return len(gone)

    def forget_tail(self, n: int) -> None:
        """The newest `n` events are gone as if they had never been; their sequences are given out again."""
        newest = set(list(self.events.messages)[-n:]) if n else set()
        self.forget(lambda stored: stored.seq in newest)
        self.events.end = max(self.events.messages, default=0)
