"""NATS behind a few verbs: what the rest of the program knows of it.

The broker may forget; the log is the record. So the bus promises little: what it delivers may come twice, in another
order, or never; what it confirms may be lost later. `Nats-Msg-Id` makes publishing again harmless.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

import msgspec

from cascadenced.events.outgoing import Outgoing

UNREADABLE_HEADERS = ""
"""The name, which no header can have, of a header block that is none: its value is the whole block."""


class BusInfo(msgspec.Struct, frozen=True):
    """What the status page says of the bus.

    url: without credentials.
    epoch: digest of the streams' creation times: the same across restarts of the server, another one when the streams
        are not those we knew. Part of the identity of messages that bring none.
    server_id: chosen by the server at each start; another one means: it was away, see what it forgot.
    max_payload_bytes: the server's bound for headers and body together.
    """

    connected: bool
    url: str
    epoch: str
    server_id: str
    max_payload_bytes: int
    server_version: str


class Delivery(Protocol):
    """One message in hand. The first call of a verb below ends it, later calls do nothing; none waits for the broker.

    An end that is lost on the way (a broken connection) only means that the message is delivered again.
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

    def info(self) -> BusInfo:
        """What is known without asking the server."""
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
        of them again. Raises BadMessage `too_large` (nothing is sent then) for a message over `max_payload_bytes`.
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
