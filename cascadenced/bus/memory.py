"""The double: both streams in memory, and levers for everything that goes wrong with a real broker.

It passes the same contract tests as `jetstream.py`. Its time is the `Clock` it is given; nothing happens by itself but
`retry_later`: what was not acknowledged comes again when a test says so (`redeliver`, `reconnect`).
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence

import structlog

from cascadenced.bus.base import BusInfo, Delivery, Reply, Responder
from cascadenced.clock import Clock
from cascadenced.errors import BadMessage, Unavailable, Unknown
from cascadenced.events.outgoing import Outgoing

_INWARD = ("event", "pointer", "schedule", "task_run")
_OUTWARD = ("task_spec", "stage", "audit", "followup", "dead")
_DUPLICATE_WINDOW_S = 120.0
_MAX_PAYLOAD = 1024 * 1024

_log = structlog.get_logger("cascadenced.bus")


class Stored:
    """One message of a stream. in_hand: somebody fetched it, has not ended it, and the broker is still patient."""

    __slots__ = ("at_us", "data", "headers", "in_hand", "n_delivered", "seq", "stream", "subject")

    def __init__(
        self, stream: str, seq: int, at_us: int, subject: str, data: bytes, headers: Mapping[str, str]
    ) -> None:
        self.stream, self.seq, self.at_us = stream, seq, at_us
        self.subject, self.data, self.headers = subject, data, dict(headers)
        self.n_delivered = 0
        self.in_hand = False


class MemoryDelivery:
    """See `base.Delivery`."""

    def __init__(self, bus: MemoryBus, stored: Stored) -> None:
        self._bus, self._stored = bus, stored
        self._ended = False
        self.subject, self.data = stored.subject, stored.data
        self.headers: Mapping[str, str] = stored.headers
        self.stream, self.stream_seq, self.at_us = stored.stream, stored.seq, stored.at_us
        self.n_delivered = stored.n_delivered

    def ack(self, *, erase: bool = False) -> None:
        if not self._ended:
            self._ended = True
            self._bus._acked(self._stored, erase)

    def retry_later(self, delay_s: float) -> None:
        if not self._ended:
            self._ended = True
            self._bus._later(self._stored, delay_s)


class _Stream:
    """Messages by sequence, oldest first, at most `max_messages`. A full work queue refuses, another stream forgets."""

    def __init__(self, name: str, max_messages: int, *, work_queue: bool) -> None:
        self.name, self.work_queue = name, work_queue
        self._max_messages = max_messages
        self._last_seq = 0
        self.messages: OrderedDict[int, Stored] = OrderedDict()
        self._known: OrderedDict[str, float] = OrderedDict()

    def store(self, clock: Clock, subject: str, data: bytes, headers: Mapping[str, str]) -> Stored | None:
        """None for a message id seen in the last two minutes, and when refused."""
        now = clock.monotonic()
        while self._known and next(iter(self._known.values())) <= now - _DUPLICATE_WINDOW_S:
            self._known.popitem(last=False)
        message_id = headers.get("Nats-Msg-Id")
        full = len(self.messages) >= self._max_messages
        if (full and self.work_queue) or message_id in self._known:
            return None
        if message_id:
            self._known[message_id] = now
        if full:
            self.messages.popitem(last=False)
        self._last_seq += 1
        stored = Stored(self.name, self._last_seq, clock.now_us(), subject, data, headers)
        self.messages[stored.seq] = stored
        return stored

    def holds(self, stored: Stored) -> bool:
        return self.messages.get(stored.seq) is stored


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
    ) -> None:
        self._clock, self._prefix, self._instance_id, self._max_messages = clock, prefix, instance_id, max_messages
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

    def _new_streams(self) -> None:
        self._n_epochs += 1
        name = self._prefix.upper()
        self._events = _Stream(name, self._max_messages, work_queue=False)
        self._runs = _Stream(f"{name}_RUNS", self._max_messages, work_queue=True)
        self._ready: deque[Stored] = deque()
        self._in_hand: OrderedDict[tuple[str, int], Stored] = OrderedDict()

    # What the daemon uses.

    def info(self) -> BusInfo:
        return BusInfo(
            connected=self._connected and not self._closed,
            url="memory",
            epoch=f"memory-{self._n_epochs}",
            server_id="memory",
            max_payload_bytes=_MAX_PAYLOAD,
            server_version="0.0.0",
        )

    async def fetch(self, max_messages: int) -> list[Delivery]:
        taken: list[Delivery] = []
        while not taken:
            while not (self._ready and self._connected):
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
        return taken

    async def publish(self, messages: Sequence[Outgoing]) -> None:
        await asyncio.sleep(0)  # as with the real one, others may run before the confirmation
        if self._closed or not self._connected:
            raise Unavailable(f"the bus is not connected: none of {len(messages)} messages was published")
        for message in messages:
            if len(message.body) > _MAX_PAYLOAD:
                raise BadMessage(f"a message for {message.subject} has {len(message.body)} bytes", code="too_large")
        failing = self._n_failing > 0
        for message in messages[: self._stored_before_failing] if failing else messages:
            if self._store(message.subject, message.body, message.headers):
                self.published.append(message)
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

    def reconnect(self) -> None:
        self._connected = True
        self.redeliver()
        self._arrived.set()

    def wipe(self) -> None:
        """The broker lost everything: empty streams, another epoch."""
        self._new_streams()

    # How it works.

    def _stream_of(self, subject: str) -> _Stream | None:
        match subject.split("."):
            case [self._prefix, "run", "request", _, *_]:
                return self._runs
            case [self._prefix, family, _, *_] if family in _INWARD or family in _OUTWARD:
                return self._events
            case [self._prefix, _]:
                return self._events
        return None

    def _store(self, subject: str, data: bytes, headers: Mapping[str, str]) -> bool:
        """Whether it is new. What no stream listens to is."""
        stream = self._stream_of(subject)
        if stream is None:
            return True
        stored = stream.store(self._clock, subject, data, headers)
        if stored is None:
            return False
        _, *family = subject.split(".")
        inward = stream is self._runs or len(family) == 1 or family[0] in _INWARD
        if inward and headers.get("Cascadence-Origin") != self._instance_id:
            self._again(stored)
        return True

    def _stream(self, stored: Stored) -> _Stream:
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
