"""Broker → fetch. Our own pull requests, answered through one subscription into one bounded buffer.

A request asks one consumer for some messages within 5 s. It ends when they all came (silently) or with a status message
that says how many are still owed (`Nats-Pending-Messages`), so that of each consumer we only count what is still to
come. Half of what may be in flight is asked for again as soon as the other half is handed over: the pipe stays full
while somebody fetches, and empties while nobody does.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

from cascadenced.bus.jetstream_client import Heard
from cascadenced.bus.jetstream_link import Client, Occasionally, Sender
from cascadenced.bus.jetstream_setup import Consumer
from cascadenced.clock import Clock
from cascadenced.errors import Unavailable

IN_FLIGHT = 320
"""Messages of one consumer that are asked for or buffered; times six consumers: 1,920."""
_IN_FLIGHT_BYTES = 8 * 1024 * 1024
_PULL_EXPIRES_S = 5
_GRACE_S = 1.0
_NO_HEADERS: Mapping[str, str] = {}
_ACK = "$JS.ACK."
_GONE = ("404", "409", "503")


class Erase(Protocol):
    """What a delivery's `ack(erase=True)` needs."""

    def erase(self, stream: str, seq: int, reply: str, n_delivered: int) -> None: ...

    def erasing(self, stream: str, seq: int, reply: str) -> bool:
        """Whether this message is on its way out already; `reply` is then what acknowledges it."""
        ...


class JetStreamDelivery:
    """See `base.Delivery`."""

    __slots__ = (
        "_line",
        "_pulls",
        "_reply",
        "at_us",
        "data",
        "headers",
        "n_delivered",
        "stream",
        "stream_seq",
        "subject",
    )

    def __init__(self, pulls: Pulls, message: Heard, fields: tuple[str, int, int, int]) -> None:
        self._pulls = pulls
        self._line = pulls.line
        self._reply: str | None = message.reply
        self.subject = message.subject
        self.data = message.data
        self.headers = message.headers or _NO_HEADERS
        self.stream, self.n_delivered, self.stream_seq, self.at_us = fields

    def ack(self, *, erase: bool = False) -> None:
        reply, self._reply = self._reply, None
        if reply is None or self._line != self._pulls.line:
            return
        if erase:
            self._pulls.eraser.erase(self.stream, self.stream_seq, reply, self.n_delivered)
        else:
            self._pulls.sender.send(reply, b"+ACK")

    def retry_later(self, delay_s: float) -> None:
        reply, self._reply = self._reply, None
        if reply is not None and self._line == self._pulls.line:
            # At least a nanosecond: to NATS zero means that there is no delay in the request.
            self._pulls.sender.send(reply, b'-NAK {"delay": %d}' % max(1, round(delay_s * 1e9)))


def parse_reply(reply: str) -> tuple[str, str, int, int, int]:
    """(stream, consumer, times delivered, stream sequence, µs since 1970) of an acknowledgement subject.

    $JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time, ns>.<pending>, or with a domain and an
    account before the stream (servers differ). Raises ValueError.
    """
    tokens = reply.split(".")
    first = 2 if len(tokens) == 9 else 4
    if len(tokens) < first + 7:
        raise ValueError(f"{reply!r} is no acknowledgement subject")
    stream, consumer, delivered, stream_seq, _, at_ns = tokens[first : first + 6]
    return stream, consumer, int(delivered), int(stream_seq), int(at_ns) // 1000


class _Flow:
    """What is in flight of one consumer. owed: asked for and not here. buffered: here and not fetched."""

    __slots__ = ("buffered", "due", "index", "next_message", "owed")

    def __init__(self, index: int, consumer: Consumer) -> None:
        self.index = index
        self.next_message = f"$JS.API.CONSUMER.MSG.NEXT.{consumer.stream}.{consumer.durable}"
        self.owed = 0
        self.buffered = 0
        self.due = 0.0
        """Monotonic time at which every request so far has ended, heard or not."""


class Pulls:
    """All consumers of one bus. `broken` is called when a consumer or stream is not there any more."""

    def __init__(
        self,
        consumers: Sequence[Consumer],
        *,
        own_origin: str,
        clock: Clock,
        sender: Sender,
        eraser: Erase,
        complaints: Occasionally,
        broken: Callable[[], None],
        read: Callable[[str, int, int], None] = lambda stream, seq, at_us: None,
    ) -> None:
        """read: called with stream, sequence and broker time of the last delivery of each `fetch`."""
        self.sender, self.eraser, self._read = sender, eraser, read
        self.line = 0
        """Ends of deliveries from before it changed are void: under their sequences may be other messages now."""
        self._own_origin, self._clock, self._complaints, self._broken = own_origin, clock, complaints, broken
        self._flows = {consumer.durable: _Flow(n, consumer) for n, consumer in enumerate(consumers)}
        self._by_index = list(self._flows.values())
        self._buffer: deque[tuple[_Flow, JetStreamDelivery]] = deque()
        self._arrived = asyncio.Event()
        self._pulling = False
        self._held = False
        self._stale: Collection[str] = ()
        self._closed = False
        self._generation = 0
        self._inbox = ""
        self._max_bytes = _IN_FLIGHT_BYTES

    async def attach(self, client: Client) -> None:
        """Listen on a new client; nothing is pulled before `start`."""
        self._inbox = client.new_inbox()
        # A message over the server's bound cannot exist, so one of any size always fits into a request.
        self._max_bytes = max(_IN_FLIGHT_BYTES, client.max_payload + 64 * 1024)
        # What may arrive is bounded by what we ask for.
        await client.listen(f"{self._inbox}.*.*", self._on_message)

    def start(self) -> None:
        """Ask all consumers anew: after (re)connecting, or when they were made anew."""
        self._generation += 1
        self._pulling, self._held, self._stale = True, False, ()
        if self._buffer:
            self._arrived.set()
        for flow in self._by_index:
            flow.owed = 0
            self._refill(flow)

    def stop(self) -> None:
        """Ask no more, and wake whoever waits in `fetch`. What is buffered goes back at once."""
        self._pulling, self._closed = False, True
        while self._buffer:
            self._buffer.popleft()[1].retry_later(0)
        self._arrived.set()

    def pause(self) -> None:
        """Ask no more until `start`."""
        self._pulling = False

    def void(self, stale: Collection[str] = ()) -> None:
        """Hand out nothing until `start`, and forget what was delivered: the broker delivers again what it still has.

        stale: streams whose consumers begin again then, so that what still comes of them is not even kept.
        """
        self._pulling, self._held, self._stale = False, True, stale
        self.line += 1
        self._buffer.clear()
        for flow in self._by_index:
            flow.buffered = 0

    async def fetch(self, max_messages: int) -> list[JetStreamDelivery]:
        while not self._buffer or self._held:
            if self._closed:
                raise Unavailable("the bus is closed")
            self._arrived.clear()
            await self._arrived.wait()
        buffer = self._buffer
        taken = []
        for _ in range(min(max_messages, len(buffer))):
            flow, delivery = buffer.popleft()
            flow.buffered -= 1
            taken.append(delivery)
        for flow in self._by_index:
            self._refill(flow)
        if taken:
            self._read(taken[-1].stream, taken[-1].stream_seq, taken[-1].at_us)
        return taken

    async def watch(self) -> None:
        """For ever: report requests whose end was not heard of a second after it must have come.

        Servers ignore requests to a consumer they do not have, so this is how we learn that one went missing.
        """
        while True:
            now = self._clock.monotonic()
            unanswered = [flow for flow in self._by_index if flow.owed and now >= flow.due]
            if unanswered and self._pulling:
                self._complaints.warn("pull_unanswered", consumer=unanswered[0].next_message)
                self._pulling = False
                self._broken()
            pending = [flow.due for flow in self._by_index if flow.owed and flow.due > now]
            await self._clock.sleep(min(pending, default=now + _PULL_EXPIRES_S) - now)

    def _refill(self, flow: _Flow) -> None:
        wanted = IN_FLIGHT - flow.owed - flow.buffered
        if not self._pulling or wanted < IN_FLIGHT // 2:
            return
        flow.owed += wanted
        flow.due = self._clock.monotonic() + _PULL_EXPIRES_S + _GRACE_S
        self.sender.send(
            flow.next_message,
            b'{"batch":%d,"expires":%d000000000,"max_bytes":%d}' % (wanted, _PULL_EXPIRES_S, self._max_bytes),
            f"{self._inbox}.{self._generation}.{flow.index}",
        )

    def _on_message(self, message: Heard) -> None:
        reply = message.reply
        if not reply.startswith(_ACK):
            self._on_status(message)
            return
        try:
            stream, consumer, delivered, seq, at_us = parse_reply(reply)
            flow = self._flows[consumer]
        except (ValueError, KeyError):
            self._complaints.warn("delivery_not_understood", subject=message.subject)
            return
        if flow.owed:
            flow.owed -= 1
        headers = message.headers
        if headers is not None and headers.get("Cascadence-Origin") == self._own_origin:
            self.sender.send(reply, b"+ACK")
        elif not self.eraser.erasing(stream, seq, reply) and not (self._closed or stream in self._stale):
            flow.buffered += 1
            self._buffer.append((flow, JetStreamDelivery(self, message, (stream, delivered, seq, at_us))))
            self._arrived.set()
        self._refill(flow)

    def _on_status(self, message: Heard) -> None:
        generation, _, index = message.subject.removeprefix(f"{self._inbox}.").partition(".")
        if generation != str(self._generation) or not index.isdigit():
            return  # about a request that was given up
        flow = self._by_index[int(index)]
        headers = message.headers or _NO_HEADERS
        status, why = headers.get("Status", ""), headers.get("Description", "")
        if status == "100":
            return
        still_owed = headers.get("Nats-Pending-Messages", "")
        flow.owed = max(0, flow.owed - int(still_owed)) if still_owed.isdigit() else 0
        if status in _GONE and "maxbytes" not in why.lower() and "batch completed" not in why.lower():
            # The consumer, its stream or JetStream itself went away (or its leader moved): asking again at once would
            # spin, so whoever mends it starts us again.
            self._complaints.warn("pull_refused", status=status, why=why, consumer=flow.next_message)
            self._pulling = False
            self._broken()
            return
        self._refill(flow)
