"""NATS behind a few verbs: what the rest of the program knows of it.

The broker may forget; the log is the record. So the bus promises little: what it delivers may come twice, in another
order, or never; what it confirms may be lost later. `Nats-Msg-Id` makes publishing again harmless. That the broker did
forget is `news`; what exactly, whoever knows what there must be finds out with `scan`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import msgspec

from cascadenced.bus.marks import Marks
from cascadenced.errors import ConfigError, Unavailable
from cascadenced.events.outbound import POSITION_HEADER, REPUBLISHED_HEADER
from cascadenced.events.outgoing import Outgoing

_MAX_DIGITS = 18
"""Of a position: it fits into 63 bits then."""

DUPLICATE_WINDOW_S = 120
"""So long a broker knows which message ids it has seen."""
UNREADABLE_HEADERS = ""
"""The name, which no header can have, of a header block that is none: its value is the whole block."""


class JetStreamOff(ConfigError):
    """The server answers, but has no JetStream (or none just now)."""


class StreamUnreadable(Unavailable):
    """The server has files of this stream that it cannot read, and makes no new one in their place."""

    def __init__(self, stream: str, description: str) -> None:
        super().__init__(
            f"the server cannot read what it has stored of the stream {stream} ({description}): stop it, move the "
            "folder streams/" + stream + " of its store away, and start it again"
        )
        self.stream = stream


class ScanStuck(Unavailable):
    """The server is there, but goes no further through its stream."""


class BusInfo(msgspec.Struct, frozen=True):
    """What the status page says of the bus.

    url: without credentials.
    epoch: digest of the streams' creation times: the same across restarts of the server, another one when the streams
        are not those we knew.
    server_id: drawn by the server at each start.
    well: connected, and it does what we ask of it.
    unreadable_stream: a stream whose files the server cannot read, so that nothing can be made in its place; else "".
    max_payload_bytes: the bound of the server and of its stream of events for headers and body together, 0 while it is
        not known.
    """

    connected: bool
    url: str
    epoch: str
    server_id: str
    max_payload_bytes: int
    server_version: str
    well: bool = True
    unreadable_stream: str = ""


class Lost(msgspec.Struct, frozen=True):
    """The bus cannot be worked with. reason: see `events.system.BusLost`.  at: monotonic."""

    reason: str
    at: float


class Restored(msgspec.Struct, frozen=True):
    """It can again. at: monotonic."""

    at: float


class Broken(msgspec.Struct, frozen=True):
    """The broker forgot something that it had confirmed. Nothing is published or delivered until `resume`.

    reason: see `events.system.EpochBroken`.  stream: JetStream's name.  detail: a sentence.  before, after: epochs.
    """

    reason: str
    stream: str
    detail: str
    before: str
    after: str


class Doubt(msgspec.Struct, frozen=True):
    """Nothing was found wrong, but something may be missing that only a `scan` would show.

    reason: `server_restarted`, or `fewer_messages` than there should be.
    """

    reason: str


News = Lost | Restored | Broken | Doubt


class Storage(msgspec.Struct, frozen=True):
    """What the stream of events has room for now. 0 stands for no bound.

    stream: JetStream's name.
    full: it drops its oldest messages, for want of room.
    selective: it drops other messages than its oldest, e.g. all but the newest of each subject.
    """

    stream: str
    max_age_us: int
    max_bytes: int
    max_messages: int
    full: bool
    selective: bool = False


class Sighting(NamedTuple):
    """A message with a `Cascadence-Position` that is in the stream of events.

    position, message_id: its headers.  origin: who published it.  again: whether it was published again after a loss;
    all others of an origin are in the order of their positions.
    """

    position: int
    message_id: str
    origin: str
    again: bool

    @classmethod
    def of(cls, headers: Mapping[str, str]) -> Sighting | None:
        """None for a message without a position, or with what cannot be one."""
        position = headers.get(POSITION_HEADER, "")
        if len(position) > _MAX_DIGITS or not position.isdecimal():
            return None
        message_id, origin = headers.get("Nats-Msg-Id", ""), headers.get("Cascadence-Origin", "")
        return cls(int(position), message_id, origin, REPUBLISHED_HEADER in headers)


class Delivery(Protocol):
    """One message in hand. The first call of a verb below ends it, later calls do nothing; none waits for the broker.

    An end that is lost on the way (a broken connection) only means that the message is delivered again. So does one
    that comes after the connection broke: what was delivered before may be another message by now.
    """

    @property
    def subject(self) -> str: ...

    @property
    def data(self) -> bytes: ...

    @property
    def headers(self) -> Mapping[str, str]: ...

    @property
    def stream(self) -> str: ...

    @property
    def stream_seq(self) -> int: ...

    @property
    def at_us(self) -> int:
        """Broker time of the publish, microseconds since 1970 UTC: the same at every redelivery."""
        ...

    @property
    def n_delivered(self) -> int:
        """1 at the first delivery."""
        ...

    def ack(self, *, erase: bool = False) -> None:
        """Recorded: do not deliver it again. erase: also get rid of its bytes in the broker's store.

        Run requests are a work queue, which drops the bytes by itself as soon as all older ones are acknowledged.
        """
        ...

    def retry_later(self, delay_s: float) -> None:
        """Not now: deliver it again after about `delay_s` seconds."""
        ...


Reply = tuple[bytes, Mapping[str, str]]
Responder = Callable[[bytes, Mapping[str, str]], Awaitable[Reply]]
"""(request body, headers) → (reply body, headers). An error has the headers `Nats-Service-Error` (a code word) and
`Nats-Service-Error-Code` (an HTTP status)."""


class Bus(Protocol):
    """An open connection with both streams in place, which mends itself.

    Created open (`JetStreamBus.open`), closed with `close`.
    """

    @property
    def marks(self) -> Marks:
        """What is to be stored now and then, and handed to the bus of the next start.

        As long as a `Doubt` is in the news that nobody has heard, they are in doubt (`marks.in_doubt`): whoever starts
        with them has it again. Once it is heard, the hearer sees to that.
        """
        ...

    def info(self) -> BusInfo:
        """What is known without asking the server."""
        ...

    async def news(self) -> News:
        """Wait for what happens to the connection and the streams, oldest first; each is told once.

        Beyond a bound the oldest are forgotten, save for `Broken`. Raises Unavailable once closed.
        """
        ...

    async def check(self) -> None:
        """Look whether the server answers and the streams are what they were. What it finds is `news`, and mended.

        At every (re)connection that happens by itself. It costs a few requests.
        """
        ...

    def resume(self) -> None:
        """After `Broken`: it is recorded, go on. Consumers that would skip something start again from the beginning."""
        ...

    async def storage(self) -> Storage:
        """Raises Unavailable."""
        ...

    def scan(self) -> AsyncGenerator[Sequence[Sighting]]:
        """Every message with a position that is in the stream of events when it begins, in the stream's order.

        Raises Unavailable when the connection breaks or the stream changes hands meanwhile: begin again; ScanStuck.
        """
        ...

    async def forget_ids(self) -> bool:
        """Have the broker forget which message ids it has seen lately, even of messages that are gone.

        False if it refuses; then that takes two minutes by itself. Raises Unavailable.
        """
        ...

    async def fetch(self, max_messages: int) -> list[Delivery]:
        """Wait for at least one message of any inbound family, then return what is there, at most `max_messages`.

        Not calling it stops the pulling: nothing is taken from the broker beyond a bounded number in flight.
        Messages that carry our own `Cascadence-Origin` are acknowledged unseen. Raises Unavailable once closed.
        """
        ...

    async def publish(self, messages: Sequence[Outgoing]) -> None:
        """Publish in order; return when the broker has stored every one of them.

        Raises Unavailable when any confirmation is missing or negative: some may be stored nevertheless, publish all
        of them again. That an id was seen before counts as stored, though the message may be gone (`forget_ids`).
        Raises BadMessage `too_large` (nothing is sent then) for a message over `max_payload_bytes`.
        A subject outside our families that no stream listens to counts as stored: nobody asked for it.
        """
        ...

    async def serve(self, verbs: Mapping[str, Responder], *, version: str) -> None:
        """Answer requests on `<prefix>.rpc.<verb>` as the micro service `cascadence`, until closed.

        Each request runs in a task of its own; above 256 at once it is answered with the error `overloaded` (429).
        A responder that raises is answered for with error 500 and no details.
        """
        ...

    async def close(self) -> None:
        """Stop pulling, send what was acknowledged, disconnect. Idempotent."""
        ...
