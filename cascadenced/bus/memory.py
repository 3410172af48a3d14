"""The double: a connection to streams in memory, and levers for everything that goes wrong with a real broker.

It passes the same contract tests as `jetstream.py`. Its time is the `Clock` it is given; nothing happens by itself but
`retry_later`: what was not acknowledged comes again when a test says so (`redeliver`, `reconnect`). The streams live in
a `MemoryServer`, so that a test can drop the connection, or forget to close it, and connect again.
"""

from __future__ import annotations

import asyncio
from collections import deque
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
from cascadenced.bus.marks import Break, Marks, compare, compare_own, digest, in_doubt, unexplained
from cascadenced.bus.memory_server import MemoryServer
from cascadenced.bus.memory_stream import Stored
from cascadenced.clock import Clock
from cascadenced.errors import BadMessage, Unavailable, Unknown
from cascadenced.events.outgoing import Outgoing

_MAX_PAYLOAD = 1024 * 1024
_AT_ONCE = 100

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
        server: MemoryServer | None = None,
    ) -> None:
        """server: one that was there before; prefix and max_messages are its own then."""
        self._clock, self._max_messages = clock, max_messages
        self.server = server or MemoryServer(clock=clock, prefix=prefix, max_messages=max_messages)
        self.server.origin = instance_id
        self.server.on_ready = self._on_ready
        self._max_age_us = round(max_age_s * 1_000_000)
        self._marks = marks or Marks()
        self.line = 0
        self._news: deque[News] = deque()
        self._has_news = asyncio.Event()
        self._held = False
        self._n_erased = 0
        self.can_forget_ids = True
        """A test clears it: the broker refuses to forget which ids it has seen."""
        self.scans_failing = 0
        """A test sets it: so many scans break off after their first messages."""
        self.published: deque[Outgoing] = deque(maxlen=max_messages)
        self.erased: deque[tuple[str, int]] = deque(maxlen=max_messages)
        self._verbs: Mapping[str, Responder] = {}
        self._arrived = asyncio.Event()
        self._connected, self._closed = True, False
        self._n_failing = 0
        self._stored_before_failing = 0
        self._begin()

    def _begin(self) -> None:
        """Compare the streams with what is remembered of them, and read on."""
        broken = self._broken()
        if broken is not None:
            self._hold(broken)
            return
        self._recognise()
        self.server.redeliver()

    # What the daemon uses.

    @property
    def marks(self) -> Marks:
        return in_doubt(self._marks) if any(isinstance(news, Doubt) for news in self._news) else self._marks

    def info(self) -> BusInfo:
        return BusInfo(
            connected=self._connected and not self._closed,
            url="memory",
            epoch=f"memory-{self.server.n_epochs}",
            server_id=f"memory-{self.server.n_starts}",
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
        self._recognise()

    def _recognise(self) -> None:
        """Take the streams for what they were; say so when that is worth a closer look."""
        seen = self.server.events.seen(self._marks.events, 0, self._max_age_us)
        if self._marks.server not in (0, digest(self.info().server_id)):
            self._tell(Doubt("server_restarted"))
        elif unexplained(self._marks.events, seen, self._n_erased, self._clock.now_us()):
            self._tell(Doubt("fewer_messages"))
        self._know(self._marks)

    def resume(self) -> None:
        if not self._held:
            return
        broken = self._broken()
        self._held = False
        if broken is not None and broken.misleads_consumers:
            self.server.begin_again()
        self._know(Marks())
        self.redeliver()
        self._arrived.set()

    async def storage(self) -> Storage:
        self._must_be_there()
        return Storage(self.server.events.name, self._max_age_us, 0, self._max_messages, self.server.events.full)

    async def scan(self) -> AsyncGenerator[Sequence[Sighting]]:
        await asyncio.sleep(0)
        messages = list(self.server.events.messages.values())
        for start in range(0, len(messages), _AT_ONCE):
            self._must_be_there()
            if start and self.scans_failing > 0:
                self.scans_failing -= 1
                raise Unavailable("looking through the stream was cut short: the test wants it so")
            some = messages[start : start + _AT_ONCE]
            yield [sighting for message in some if (sighting := Sighting.of(message.headers)) is not None]
            await asyncio.sleep(0)

    async def forget_ids(self) -> bool:
        self._must_be_there()
        if self.can_forget_ids:
            self.server.events.known_ids.clear()
        return self.can_forget_ids

    async def fetch(self, max_messages: int) -> list[Delivery]:
        taken: list[Delivery] = []
        while not taken:
            while not (self.server.ready and self._connected and not self._held):
                if self._closed:
                    raise Unavailable("the bus is closed")
                self._arrived.clear()
                await self._arrived.wait()
            taken = self._take(max_messages)
        return taken

    def _take(self, max_messages: int) -> list[Delivery]:
        taken = self.server.take(max_messages)
        for stored in taken:
            self._mark_read(stored)
        return [MemoryDelivery(self, stored) for stored in taken]

    async def publish(self, messages: Sequence[Outgoing]) -> None:
        await asyncio.sleep(0)  # as with the real one, others may run before the confirmation
        if self._closed or not self._connected or self._held:
            raise Unavailable(f"the bus is not connected: none of {len(messages)} messages was published")
        for message in messages:
            if len(message.body) > _MAX_PAYLOAD:
                raise BadMessage(f"a message for {message.subject} has {len(message.body)} bytes", code="too_large")
        failing = self._n_failing > 0
        for message in messages[: self._stored_before_failing] if failing else messages:
            new, stored = self.server.store(message.subject, message.body, message.headers)
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
        await self.server.left()
        self._arrived.set()
        self._has_news.set()

    # What only tests use.

    def send(self, subject: str, data: bytes, headers: Mapping[str, str] | None = None) -> None:
        """Publish from outside. A subject that no stream listens to goes nowhere."""
        self.server.store(subject, data, headers or {})

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
        return list((self.server.runs if runs else self.server.events).messages.values())

    def redeliver(self) -> None:
        """The broker lost patience: everything in hand and not ended is delivered again, oldest first."""
        self.server.redeliver()

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
        self.server.n_starts += restarted
        self._tell(Restored(self._clock.monotonic()))
        self._begin()
        self._arrived.set()

    def wipe(self) -> None:
        """See `MemoryServer`, here and below."""
        self.server.wipe()

    def take_over(self) -> None:
        self.server.take_over()

    def purge(self) -> None:
        """The events are gone; their ids are still known for two minutes, and the sequences go on."""
        self.server.events.messages.clear()

    def forget(self, wanted: Callable[[Stored], bool]) -> int:
        return self.server.forget(wanted)

    def forget_tail(self, n: int) -> None:
        self.server.forget_tail(n)

    # How it works.

    def _tell(self, news: News) -> None:
        self._news.append(news)
        self._has_news.set()

    def _broken(self) -> Break | None:
        marks = self._marks
        events = self.server.events.seen(marks.events, marks.own_seq, self._max_age_us)
        runs = self.server.runs.seen(marks.runs, 0, 0)
        now_us = self._clock.now_us()
        return compare(marks.events, events) or compare(marks.runs, runs) or compare_own(marks, events, now_us)

    def _hold(self, broken: Break) -> None:
        self._held = True
        self.line += 1
        epoch = self.info().epoch
        self._tell(Broken(broken.reason, broken.stream, broken.detail, "", epoch))

    def _know(self, marks: Marks) -> None:
        self._marks = msgspec.structs.replace(
            marks,
            events=self.server.events.known_as(marks.events),
            runs=self.server.runs.known_as(marks.runs),
            server=digest(self.info().server_id),
        )
        self._n_erased = 0

    def _mark_own(self, stored: Stored) -> None:
        if stored.stream == self.server.events.name:
            message_id = stored.headers.get("Nats-Msg-Id", "")
            self._marks = self._marks.after_storing(stored.seq, message_id, self._clock.now_us())

    def _mark_read(self, stored: Stored) -> None:
        is_event = stored.stream == self.server.events.name
        self._marks = self._marks.after_reading(stored.seq, stored.at_us, is_event=is_event)

    def _must_be_there(self) -> None:
        if not self._connected or self._closed:
            raise Unavailable("the bus is not connected")

    def _on_ready(self) -> None:
        if self._connected:
            self._arrived.set()

    def _acked(self, stored: Stored, erase: bool) -> None:
        if self._closed or not self.server.ended(stored, erase=erase):
            return
        if erase:
            self.erased.append((stored.stream, stored.seq))
            self._n_erased += 1

    def _later(self, stored: Stored, delay_s: float) -> None:
        if not self._closed:
            self.server.later(stored, delay_s)
