"""The double: both streams in memory, and levers for everything that goes wrong with a real broker.

It passes the same contract tests as `jetstream.py`. Its time is the `Clock` it is given; nothing happens by itself but
`retry_later`: what was not acknowledged comes again when a test says so (`redeliver`, `reconnect`).
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence

import msgspec
import structlog

from cascadenced.bus.base import (
    Broken,
    BusInfo,
    Delivery,
    Doubt,
    Lost,
    News,
    Reply,
    Responder,
    Restored,
    Sighting,
    Storage,
)
from cascadenced.bus.marks import Break, Marks, StreamMarks, compare, compare_own, digest, unexplained
from cascadenced.bus.memory_stream import Stored, Stream
from cascadenced.clock import Clock
from cascadenced.errors import BadMessage, Unavailable, Unknown
from cascadenced.events.outbound import POSITION_HEADER, REPUBLISHED_HEADER
from cascadenced.events.outgoing import Outgoing

_INWARD = ("event", "pointer", "schedule", "task_run")
_OUTWARD = ("task_spec", "stage", "audit", "followup", "dead")
_MAX_PAYLOAD = 1024 * 1024
_AT_ONCE = 100
_MAX_DIGITS = 18

_log = structlog.get_logger("cascadenced.bus")


class MemoryDelivery:
    """See `base.Delivery`."""

    def __init__(self, bus: MemoryBus, stored: Stored) -> None:
        self._bus, self._stored = bus, stored
        self._line = bus.line
        self._ended = False
        self.subject, self.data = stored.subject, stored.data
        self.headers: Mapping[str, str] = stored.headers
        self.stream, self.stream_seq, self.at_us = stored.stream, stored.seq, stored.at_us
        self.n_delivered = stored.n_delivered

    def ack(self, *, erase: bool = False) -> None:
        if not self._ended and self._line == self._bus.line:
            self._ended = True
            self._bus._acked(self._stored, erase)

    def retry_later(self, delay_s: float) -> None:
        if not self._ended and self._line == self._bus.line:
            self._ended = True
            self._bus._later(self._stored, delay_s)


class MemoryBus:
    """See `base.Bus` and the module's docstring.

    published: what `publish` stored, in order, for tests to read; the newest `max_messages`.
    erased: (stream, sequence) of every message acknowledged with `erase`, bounded likewise.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        prefix: str = "ume",
        instance_id: str = "memory",
        max_messages: int = 100_000,
        max_age_s: float = 7 * 86400,
        marks: Marks | None = None,
    ) -> None:
        self._clock, self._prefix, self._instance_id, self._max_messages = clock, prefix, instance_id, max_messages
        self._max_age_us = round(max_age_s * 1_000_000)
        self.marks = marks or Marks()
        self.line = 0
        self._news: deque[News] = deque()
        self._has_news = asyncio.Event()
        self._held = False
        self._n_erased = 0
        self._n_servers = 1
        self.can_forget_ids = True
        """A test clears it: the broker refuses to forget which ids it has seen."""
        self.scans_failing = 0
        """A test sets it: so many scans break off after their first messages."""
        self.published: deque[Outgoing] = deque(maxlen=max_messages)
        self.erased: deque[tuple[str, int]] = deque(maxlen=max_messages)
        self._verbs: Mapping[str, Responder] = {}
        self._waiting: set[asyncio.Task[None]] = set()
        self._arrived = asyncio.Event()
        self._connected, self._closed = True, False
        self._n_failing = 0
        self._stored_before_failing = 0
        self._n_epochs = 0
        self._new_streams()
        self._know(self.marks)

    def _new_streams(self) -> None:
        self._n_epochs += 1
        name, created = self._prefix.upper(), self._n_epochs
        self._events = Stream(name, self._max_messages, work_queue=False, created=created)
        self._runs = Stream(f"{name}_RUNS", self._max_messages, work_queue=True, created=created)
        self._ready: deque[Stored] = deque()
        self._in_hand: OrderedDict[tuple[str, int], Stored] = OrderedDict()

    # What the daemon uses.

    def info(self) -> BusInfo:
        return BusInfo(
            connected=self._connected and not self._closed,
            url="memory",
            epoch=f"memory-{self._n_epochs}",
            server_id=f"memory-{self._n_servers}",
            max_payload_bytes=_MAX_PAYLOAD,
            server_version="0.0.0",
            well=self._connected and not self._closed,
        )

    async def news(self) -> News:
        while not self._news:
            if self._closed:
                raise Unavailable("the bus is closed")
            self._has_news.clear()
            await self._has_news.wait()
        return self._news.popleft()

    async def check(self) -> None:
        await asyncio.sleep(0)
        if not self._connected or self._closed or self._held:
            return
        broken = self._broken()
        if broken is not None:
            self._hold(broken)
            return
        seen = self._events.seen(self.marks.events, 0, self._max_age_us)
        if self.marks.server not in (0, digest(self.info().server_id)):
            self._tell(Doubt("server_restarted"))
        elif unexplained(self.marks.events, seen, self._n_erased, self._clock.now_us()):
            self._tell(Doubt("fewer_messages"))
        self._know(self.marks)

    def resume(self) -> None:
        if not self._held:
            return
        broken = self._broken()
        self._held = False
        if broken is not None and broken.misleads_consumers:
            # The consumers start again: everything that others sent and that is still there.
            self._ready = deque(stored for stored in self._stored_messages() if self._is_inbound(stored))
            self._in_hand.clear()
        self._know(Marks())
        self.redeliver()
        self._arrived.set()

    async def storage(self) -> Storage:
        self._must_be_there()
        return Storage(self._events.name, self._max_age_us, 0, self._max_messages, self._events.full)

    async def scan(self) -> AsyncGenerator[Sequence[Sighting]]:
        await asyncio.sleep(0)
        messages = list(self._events.messages.values())
        for start in range(0, len(messages), _AT_ONCE):
            self._must_be_there()
            if start and self.scans_failing > 0:
                self.scans_failing -= 1
                raise Unavailable("looking through the stream was cut short: the test wants it so")
            headers = [message.headers for message in messages[start : start + _AT_ONCE]]
            yield [
                Sighting(
                    int(one[POSITION_HEADER]),
                    one.get("Nats-Msg-Id", ""),
                    one.get("Cascadence-Origin", ""),
                    REPUBLISHED_HEADER in one,
                )
                for one in headers
                if one.get(POSITION_HEADER, "").isdecimal() and len(one[POSITION_HEADER]) <= _MAX_DIGITS
            ]
            await asyncio.sleep(0)

    async def forget_ids(self) -> bool:
        self._must_be_there()
        if self.can_forget_ids:
            self._events.known_ids.clear()
        return self.can_forget_ids

    async def fetch(self, max_messages: int) -> list[Delivery]:
        taken: list[Delivery] = []
        while not taken:
            while not (self._ready and self._connected and not self._held):
                if self._closed:
                    raise Unavailable("the bus is closed")
                self._arrived.clear()
                await self._arrived.wait()
            taken = self._take(max_messages)
        return taken

    def _take(self, max_messages: int) -> list[Delivery]:
        taken: list[Delivery] = []
        while self._ready and len(taken) < max_messages:
            stored = self._ready.popleft()
            if not self._stream(stored).holds(stored):
                continue  # acknowledged late, or forgotten
            stored.n_delivered += 1
            stored.in_hand = True
            self._in_hand[stored.stream, stored.seq] = stored
            taken.append(MemoryDelivery(self, stored))
            self._mark_read(stored)
        return taken

    async def publish(self, messages: Sequence[Outgoing]) -> None:
        await asyncio.sleep(0)  # as with the real one, others may run before the confirmation
        if self._closed or not self._connected or self._held:
            raise Unavailable(f"the bus is not connected: none of {len(messages)} messages was published")
        for message in messages:
            if len(message.body) > _MAX_PAYLOAD:
                raise BadMessage(f"a message for {message.subject} has {len(message.body)} bytes", code="too_large")
        failing = self._n_failing > 0
        for message in messages[: self._stored_before_failing] if failing else messages:
            new, stored = self._store(message.subject, message.body, message.headers)
            if new:
                self.published.append(message)
            if stored is not None and not failing:
                self._mark_own(stored)
        if failing:
            self._n_failing -= 1
            raise Unavailable(f"none or some of {len(messages)} messages were confirmed: the test wants it so")

    async def serve(self, verbs: Mapping[str, Responder], *, version: str) -> None:
        self._verbs = dict(verbs)

    async def close(self) -> None:
        self._closed = True
        self._verbs = {}
        for task in self._waiting:
            task.cancel()
        await asyncio.gather(*self._waiting, return_exceptions=True)
        self._arrived.set()
        self._has_news.set()

    # What only tests use.

    def send(self, subject: str, data: bytes, headers: Mapping[str, str] | None = None) -> None:
        """Publish from outside. A subject that no stream listens to goes nowhere."""
        self._store(subject, data, headers or {})

    async def request(self, verb: str, body: bytes, headers: Mapping[str, str] | None = None) -> Reply:
        """Ask as `nats req` would. Raises Unknown when nobody serves `verb`."""
        responder = self._verbs.get(verb)
        if responder is None:
            raise Unknown(f"nobody serves the verb {verb!r}")
        try:
            return await responder(body, headers or {})
        except Exception:  # noqa: BLE001 -- as in jetstream_rpc: the asker is told that it failed, and no more
            _log.exception("rpc_failed", verb=verb)
            return b"", {"Nats-Service-Error": "internal", "Nats-Service-Error-Code": "500"}

    def messages(self, *, runs: bool = False) -> list[Stored]:
        """What the event stream, or that of run requests, holds now."""
        return list((self._runs if runs else self._events).messages.values())

    def redeliver(self) -> None:
        """The broker lost patience: everything in hand and not ended is delivered again, oldest first."""
        for stored in self._in_hand.values():
            self._again(stored)
        self._in_hand.clear()

    def fail_publishes(self, n: int = 1, *, stored: int = 0) -> None:
        """The next `n` calls of `publish` raise Unavailable, after storing the first `stored` messages of each."""
        self._n_failing, self._stored_before_failing = n, stored

    def disconnect(self) -> None:
        """`publish` raises and `fetch` waits until `reconnect`."""
        self._connected = False
        self.line += 1
        self._tell(Lost("disconnected", self._clock.monotonic()))

    def reconnect(self, *, restarted: bool = False) -> None:
        """restarted: it is another server, on the same streams."""
        self._connected = True
        self._n_servers += restarted
        self._tell(Restored(self._clock.monotonic()))
        broken = self._broken()
        if broken is not None:
            self._hold(broken)
            return
        if restarted:
            self._tell(Doubt("server_restarted"))
        self._know(self.marks)
        self.redeliver()
        self._arrived.set()

    def wipe(self) -> None:
        """The broker lost everything: empty streams, another epoch."""
        self._new_streams()

    def take_over(self) -> None:
        """The broker lost what it knew of the streams, and made them anew from their messages: another epoch."""
        self._n_epochs += 1
        self._events.created = self._runs.created = self._n_epochs

    def purge(self) -> None:
        """The events are gone; their ids are still known for two minutes, and the sequences go on."""
        self._events.messages.clear()

    def forget(self, wanted: Callable[[Stored], bool]) -> int:
        """Events that are `wanted` are gone, wherever they stood, and so are their ids; returns how many."""
        gone = [stored for stored in self._events.messages.values() if wanted(stored)]
        for stored in gone:
            del self._events.messages[stored.seq]
            self._events.known_ids.pop(stored.headers.get("Nats-Msg-Id", ""), None)
        return len(gone)

    def forget_tail(self, n: int) -> None:
        """The newest `n` events are gone as if they had never been; their sequences are given out again."""
        newest = set(list(self._events.messages)[-n:])
        self.forget(lambda stored: stored.seq in newest)
        self._events.end = max(self._events.messages, default=0)

    # How it works.

    def _tell(self, news: News) -> None:
        self._news.append(news)
        self._has_news.set()

    def _broken(self) -> Break | None:
        marks = self.marks
        events = self._events.seen(marks.events, marks.own_seq, self._max_age_us)
        runs = self._runs.seen(marks.runs, 0, 0)
        now_us = self._clock.now_us()
        return compare(marks.events, events) or compare(marks.runs, runs) or compare_own(marks, events, now_us)

    def _hold(self, broken: Break) -> None:
        self._held = True
        self.line += 1
        epoch = self.info().epoch
        self._tell(Broken(broken.reason, broken.stream, broken.detail, "", epoch))

    def _know(self, marks: Marks) -> None:
        self.marks = msgspec.structs.replace(
            marks,
            events=self._events.known_as(marks.events),
            runs=self._runs.known_as(marks.runs),
            server=digest(self.info().server_id),
        )
        self._n_erased = 0

    def _mark_own(self, stored: Stored) -> None:
        if stored.stream == self._events.name and stored.seq > self.marks.own_seq:
            self.marks = msgspec.structs.replace(
                self.marks,
                own_seq=stored.seq,
                own_id=digest(stored.headers.get("Nats-Msg-Id", "")),
                own_at_us=self._clock.now_us(),
            )

    def _mark_read(self, stored: Stored) -> None:
        field = "events" if stored.stream == self._events.name else "runs"
        known: StreamMarks = getattr(self.marks, field)
        if stored.seq > known.read_seq:
            known = msgspec.structs.replace(known, read_seq=stored.seq, read_at_us=stored.at_us)
            self.marks = msgspec.structs.replace(self.marks, **{field: known})

    def _must_be_there(self) -> None:
        if not self._connected or self._closed:
            raise Unavailable("the bus is not connected")

    def _stored_messages(self) -> list[Stored]:
        return [*self._events.messages.values(), *self._runs.messages.values()]

    def _is_inbound(self, stored: Stored) -> bool:
        _, *family = stored.subject.split(".")
        inward = stored.stream == self._runs.name or len(family) == 1 or family[0] in _INWARD
        return inward and stored.headers.get("Cascadence-Origin") != self._instance_id

    def _stream_of(self, subject: str) -> Stream | None:
        match subject.split("."):
            case [self._prefix, "run", "request", _, *_]:
                return self._runs
            case [self._prefix, family, _, *_] if family in _INWARD or family in _OUTWARD:
                return self._events
            case [self._prefix, _]:
                return self._events
        return None

    def _store(self, subject: str, data: bytes, headers: Mapping[str, str]) -> tuple[bool, Stored | None]:
        """Whether it is new, and what was stored. What no stream listens to is new."""
        stream = self._stream_of(subject)
        if stream is None:
            return True, None
        stored = stream.store(self._clock, subject, data, headers)
        if stored is not None and self._is_inbound(stored):
            self._again(stored)
        return stored is not None, stored

    def _stream(self, stored: Stored) -> Stream:
        return self._runs if stored.stream == self._runs.name else self._events

    def _again(self, stored: Stored) -> None:
        stored.in_hand = False
        self._ready.append(stored)
        if len(self._ready) > 4 * self._max_messages:  # the streams hold half of that: the rest is forgotten
            self._ready = deque(other for other in self._ready if self._stream(other).holds(other))
        if self._connected:
            self._arrived.set()

    def _acked(self, stored: Stored, erase: bool) -> None:
        stream = self._stream(stored)
        if self._closed or not stream.holds(stored):
            return
        self._in_hand.pop((stored.stream, stored.seq), None)
        if not stored.in_hand:
            self._ready = deque(other for other in self._ready if other is not stored)
        if erase:
            self.erased.append((stored.stream, stored.seq))
            self._n_erased += 1
        if erase or stream.work_queue:
            del stream.messages[stored.seq]

    def _later(self, stored: Stored, delay_s: float) -> None:
        if self._closed or not stored.in_hand:
            return  # it is on its way again already
        self._in_hand.pop((stored.stream, stored.seq), None)
        stored.in_hand = False

        async def wait() -> None:
            await self._clock.sleep(delay_s)
            self._again(stored)

        task = asyncio.create_task(wait())
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)
