"""Broker → fetch. Our own pull requests, answered through one subscription into a bounded buffer for each consumer.

A request asks one consumer for some messages within 5 s. It ends when they all came (silently) or with a status message
that says how many are still owed (`Nats-Pending-Messages`), so that of each consumer we only count what is still to
come. Half of what may be in flight is asked for again as soon as the other half is handed over: the pipe stays full
while somebody fetches, and empties while nobody does.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Protocol

import msgspec

from cascadenced.bus.jetstream_client import Heard
from cascadenced.bus.jetstream_link import Client, Occasionally, Sender
from cascadenced.bus.jetstream_setup import Consumer
from cascadenced.clock import Clock
from cascadenced.errors import Unavailable

IN_FLIGHT = 1_024
"""Messages of one consumer that are asked for or buffered; times six consumers: 6,000."""
_IN_FLIGHT_BYTES = 8 * 1024 * 1024
"""What one request may bring. When it had to end for that, there is no other one before all it brought is fetched; as
one more may be under way already, a consumer has at most twice as much in flight."""
_PULL_EXPIRES_S = 5
_GRACE_S = 1.0
_NO_HEADERS: Mapping[str, str] = {}
_ACK = "$JS.ACK."
_N_TOKENS = 9
_GONE = ("404", "409", "503")


class Erase(Protocol):
    """What a delivery's `ack(erase=True)` needs."""

    def erase(self, stream: str, seq: int, reply: str, n_delivered: int) -> None: ...

    @property
    def busy(self) -> bool:
        """Whether any message is on its way out."""
        ...

    def erasing(self, stream: str, seq: int, reply: str) -> bool:
        """Whether this message is on its way out already; `reply` is then what acknowledges it."""
        ...


class JetStreamDelivery(msgspec.Struct, eq=False, gc=False):
    """See `base.Delivery`. What the acknowledgement subject tells is read from it when somebody asks: few do."""

    subject: str
    data: bytes
    headers: Mapping[str, str]
    reply: str
    flow: _Flow
    line: int
    has_ended: bool = False

    @property
    def stream(self) -> str:
        return parse_reply(self.reply).stream

    @property
    def stream_seq(self) -> int:
        return parse_reply(self.reply).stream_seq

    @property
    def at_us(self) -> int:
        return parse_reply(self.reply).at_us

    @property
    def n_delivered(self) -> int:
        return parse_reply(self.reply).n_delivered

    def ack(self, *, erase: bool = False) -> None:
        if self.has_ended or self.line != self.flow.line:
            return
        self.has_ended = True
        if erase:
            place = parse_reply(self.reply)
            self.flow.eraser.erase(place.stream, place.stream_seq, self.reply, place.n_delivered)
        else:
            self.flow.sender.acknowledge(self.reply)

    def retry_later(self, delay_s: float) -> None:
        if self.has_ended or self.line != self.flow.line:
            return
        self.has_ended = True
        # At least a nanosecond: to NATS zero means that there is no delay in the request.
        self.flow.sender.send(self.reply, b'-NAK {"delay": %d}' % max(1, round(delay_s * 1e9)))


class Place(msgspec.Struct, frozen=True):
    """Where a message lies, and how it came. at_us: when it was published, µs since 1970."""

    stream: str
    stream_seq: int
    at_us: int
    n_delivered: int


def parse_reply(reply: str) -> Place:
    """What an acknowledgement subject says, 1 µs. A number that is none is taken for 0: whoever knows our inbox can
    send us anything.

    $JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time, ns>.<pending>, or with a domain and an
    account before the stream (servers differ).
    """
    tokens = reply.split(".")
    if len(tokens) != _N_TOKENS:
        del tokens[2:4]
    _, _, stream, _, delivered, stream_seq, _, at_ns, *_ = tokens
    return Place(stream, _number(stream_seq), _number(at_ns) // 1000, _number(delivered))


def _number(token: str) -> int:
    return int(token) if token.isdecimal() else 0


def _is_acknowledgement_subject(reply: str) -> bool:
    n_tokens = reply.count(".") + 1
    is_long_enough = n_tokens == _N_TOKENS or n_tokens >= _N_TOKENS + 2
    return is_long_enough and "\r" not in reply and "\n" not in reply


class _Flow:
    """What is in flight of one consumer. owed: asked for and not here.  buffer: here and not fetched.  is_heavy: the
    last request brought as many bytes as it could."""

    __slots__ = ("buffer", "due", "eraser", "index", "is_heavy", "line", "next_message", "owed", "sender")

    def __init__(self, index: int, consumer: Consumer, sender: Sender, eraser: Erase) -> None:
        self.index, self.sender, self.eraser = index, sender, eraser
        self.next_message = f"$JS.API.CONSUMER.MSG.NEXT.{consumer.stream}.{consumer.durable}"
        self.owed = 0
        self.buffer: deque[JetStreamDelivery] = deque()
        self.is_heavy = False
        self.line = 0
        """Ends of deliveries from before it changed are void: under their sequences may be other messages now."""
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
        read: Callable[[Place], None] = lambda _last: None,
    ) -> None:
        """read: called with where the last message of each consumer lies that a `fetch` handed out."""
        self._eraser, self._read = eraser, read
        self._own_origin, self._clock, self._complaints, self._broken = own_origin, clock, complaints, broken
        self._flows = [_Flow(n, consumer, sender, eraser) for n, consumer in enumerate(consumers)]
        self._in_turn = list(self._flows)
        """Whoever was fetched from last stands last."""
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
        # What may arrive is bounded by what we ask for. A subscription for each consumer tells whose message it is.
        for flow in self._flows:
            await client.listen(f"{self._inbox}.*.{flow.index}", partial(self._on_message, flow))

    def start(self) -> None:
        """Ask all consumers anew: after (re)connecting, or when they were made anew."""
        self._generation += 1
        self._pulling, self._held, self._stale = True, False, ()
        self._arrived.set()
        for flow in self._flows:
            flow.owed = 0
            self._refill(flow)

    def stop(self) -> None:
        """Ask no more, and wake whoever waits in `fetch`. What is buffered goes back at once."""
        self._pulling, self._closed = False, True
        for flow in self._flows:
            while flow.buffer:
                flow.buffer.popleft().retry_later(0)
        self._arrived.set()

    def pause(self) -> None:
        """Ask no more until `start`."""
        self._pulling = False

    def void(self, stale: Collection[str] = ()) -> None:
        """Hand out nothing until `start`, and forget what was delivered: the broker delivers again what it still has.

        stale: streams whose consumers begin again then, so that what still comes of them is not even kept.
        """
        self._pulling, self._held, self._stale = False, True, stale
        for flow in self._flows:
            flow.buffer.clear()
            flow.line += 1

    async def fetch(self, max_messages: int) -> list[JetStreamDelivery]:
        """See `base.Bus`. Each consumer has its share: a flood from one of them keeps nothing else waiting."""
        while self._held or not (waiting := [flow for flow in self._in_turn if flow.buffer]):
            if self._closed:
                raise Unavailable("the bus is closed")
            self._arrived.clear()
            await self._arrived.wait()
        taken: list[JetStreamDelivery] = []
        while waiting and len(taken) < max_messages:
            share = math.ceil((max_messages - len(taken)) / len(waiting))
            flow = waiting.pop(0)
            taken += [flow.buffer.popleft() for _ in range(min(share, len(flow.buffer)))]
            self._refill(flow)
            if taken:
                self._read(parse_reply(taken[-1].reply))
            self._in_turn.remove(flow)
            self._in_turn.append(flow)
        return taken

    async def watch(self) -> None:
        """For ever: report requests whose end was not heard of a second after it must have come.

        Servers ignore requests to a consumer they do not have, so this is how we learn that one went missing.
        """
        while True:
            now = self._clock.monotonic()
            unanswered = [flow for flow in self._flows if flow.owed and now >= flow.due]
            if unanswered and self._pulling:
                self._complaints.warn("pull_unanswered", consumer=unanswered[0].next_message)
                self._pulling = False
                self._broken()
            pending = [flow.due for flow in self._flows if flow.owed and flow.due > now]
            await self._clock.sleep(min(pending, default=now + _PULL_EXPIRES_S) - now)

    def _refill(self, flow: _Flow) -> None:
        wanted = IN_FLIGHT - flow.owed - len(flow.buffer)
        if not self._pulling or wanted < IN_FLIGHT // 2 or (flow.is_heavy and flow.buffer):
            return
        flow.is_heavy = False
        flow.owed += wanted
        flow.due = self._clock.monotonic() + _PULL_EXPIRES_S + _GRACE_S
        flow.sender.send(
            flow.next_message,
            b'{"batch":%d,"expires":%d000000000,"max_bytes":%d}' % (wanted, _PULL_EXPIRES_S, self._max_bytes),
            f"{self._inbox}.{self._generation}.{flow.index}",
        )

    def _on_message(self, flow: _Flow, message: Heard) -> None:
        reply = message.reply
        if not reply.startswith(_ACK):
            self._on_status(flow, message)
            return
        if not _is_acknowledgement_subject(reply):
            self._complaints.warn("delivery_not_understood", subject=message.subject)
            return
        if flow.owed:
            flow.owed -= 1
        headers = message.headers or _NO_HEADERS
        delivery = JetStreamDelivery(message.subject, message.data, headers, reply, flow, flow.line)
        if headers.get("Cascadence-Origin") == self._own_origin:
            delivery.ack()
        elif not (self._closed or self._is_stale(delivery) or self._is_going(delivery)):
            self._arrived.set()
            flow.buffer.append(delivery)
            return
        self._refill(flow)

    def _is_stale(self, delivery: JetStreamDelivery) -> bool:
        """Whether it comes from a stream whose consumers are about to begin again."""
        return bool(self._stale) and delivery.stream in self._stale

    def _is_going(self, delivery: JetStreamDelivery) -> bool:
        """Whether it is being erased already."""
        if not self._eraser.busy:
            return False
        place = parse_reply(delivery.reply)
        return self._eraser.erasing(place.stream, place.stream_seq, delivery.reply)

    def _on_status(self, flow: _Flow, message: Heard) -> None:
        if message.subject != f"{self._inbox}.{self._generation}.{flow.index}":
            return  # about a request that was given up
        headers = message.headers or _NO_HEADERS
        status, why = headers.get("Status", ""), headers.get("Description", "")
        if status == "100":
            return
        still_owed = headers.get("Nats-Pending-Messages", "")
        flow.owed = max(0, flow.owed - int(still_owed)) if still_owed.isdigit() else 0
        flow.is_heavy = "maxbytes" in why.lower()
        if status in _GONE and not flow.is_heavy and "batch completed" not in why.lower():
            # The consumer, its stream or JetStream itself went away (or its leader moved): asking again at once would
            # spin, so whoever mends it starts us again.
            self._complaints.warn("pull_refused", status=status, why=why, consumer=flow.next_message)
            self._pulling = False
            self._broken()
            return
        self._refill(flow)
