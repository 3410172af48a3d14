"""Messages → commands → events → acknowledged. A message that cannot be read costs itself and nobody else."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from hashlib import sha256

import msgspec
import structlog

from cascadenced.bus.base import UNREADABLE_HEADERS, Bus, Delivery
from cascadenced.crashpoint import crashpoint
from cascadenced.errors import BadMessage, DiskError, DiskFull, Overloaded, Unavailable
from cascadenced.events.inbound import Command, carries_identity, decode, message_source, starts_effects
from cascadenced.runtime.counting import RefusalCounter
from cascadenced.runtime.retry import backoff_s

_log = structlog.get_logger(__name__)

MAX_FETCH = 500
"""Messages handled at once; the broker keeps the rest."""
MAX_ATTEMPTS = 5
"""Deliveries of a message that our own code fails on; then it is a dead letter."""


_TRACEPARENT = re.compile("[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
"""As W3C Trace Context has it."""


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """What handlers may know of a message besides its command.

    source: its identity.  at_us: broker time.  origin: the instance that published it, None for others' clients.
    """

    source: str
    at_us: int
    origin: str | None
    traceparent: str | None


Handle = Callable[[Command, Message], Awaitable[None]]
"""Records what follows from a command. Raises BadMessage if it cannot be honoured as it is."""
DeadLetter = Callable[[Delivery, Message, BadMessage], Awaitable[None]]
"""Seals and records a message that cannot be read."""
Room = Callable[[], Awaitable[None]]
"""Returns when another request can be taken."""


class Ingest:
    """The loop between the bus and the log. erase: overwrite what named somebody, once it is recorded."""

    def __init__(
        self,
        bus: Bus,
        prefix: str,
        *,
        handle: Handle,
        dead_letter: DeadLetter,
        room: Room,
        refusals: RefusalCounter,
        erase: bool,
    ) -> None:
        self._bus, self._prefix, self._refusals = bus, prefix, refusals
        self._handle, self._dead_letter, self._room = handle, dead_letter, room
        self._erase = erase

    async def run(self) -> None:
        """Until cancelled. What is in hand then is delivered again by the broker."""
        while True:
            await self._room()
            deliveries = await self._bus.fetch(MAX_FETCH)
            await asyncio.gather(*(self._in_turn(lane) for lane in self._lanes(deliveries)))

    def _lanes(self, deliveries: Sequence[Delivery]) -> Iterable[list[Delivery]]:
        """Messages that must keep their order among themselves: a schedule set and then removed is removed."""
        lanes: dict[object, list[Delivery]] = {}
        for n, delivery in enumerate(deliveries):
            ordered = delivery.subject.startswith(f"{self._prefix}.schedule.")
            lanes.setdefault(delivery.subject if ordered else n, []).append(delivery)
        return lanes.values()

    async def _in_turn(self, lane: list[Delivery]) -> None:
        for delivery in lane:
            await self._one(delivery)

    async def _one(self, delivery: Delivery) -> None:
        message = self._describe(delivery)
        named = True
        if message.origin is not None and starts_effects(self._prefix, delivery.subject):
            # What another instance publishes is news, never a wish. Whoever claims to be one may have named somebody.
            self._refusals.count("foreign_request", delivery.subject)
            delivery.ack(erase=self._erase)
            return
        try:
            try:
                if UNREADABLE_HEADERS in delivery.headers:
                    raise BadMessage("its headers are no NATS headers", code="undecodable")
                command = decode(self._prefix, delivery.subject, delivery.data)
                named = carries_identity(command)
                crashpoint("ingest.before_append")
                await self._handle(command, message)
            except BadMessage as error:
                await self._dead_letter(delivery, message, error)
        except (DiskFull, DiskError, Unavailable, Overloaded) as error:
            _log.warning("message_kept", subject=delivery.subject, error=str(error))
            delivery.retry_later(backoff_s(delivery.n_delivered))
        except Exception as error:  # noqa: BLE001 -- a fault of ours must not stop the next message
            await self._failed(delivery, message, error)
        else:
            crashpoint("ingest.after_append")
            delivery.ack(erase=self._erase and named)

    async def _failed(self, delivery: Delivery, message: Message, error: Exception) -> None:
        _log.exception("message_failed", subject=delivery.subject, n_delivered=delivery.n_delivered)
        if delivery.n_delivered < MAX_ATTEMPTS:
            delivery.retry_later(backoff_s(delivery.n_delivered))
            return
        try:
            reason = BadMessage(f"our own handler failed: {type(error).__name__}", code="handler_failed")
            await self._dead_letter(delivery, message, reason)
        except Exception as worse:  # noqa: BLE001 -- nor may this; the broker keeps what we can put nowhere
            _log.error("message_kept", subject=delivery.subject, error=str(worse))
            delivery.retry_later(backoff_s(delivery.n_delivered))
        else:
            delivery.ack(erase=self._erase)

    def _describe(self, delivery: Delivery) -> Message:
        headers = delivery.headers
        return Message(
            source=message_source(headers, delivery.subject, self._prefix, lambda: self._digest(delivery)),
            at_us=delivery.at_us,
            origin=headers.get("Cascadence-Origin"),
            traceparent=_traceparent(headers.get("traceparent")),
        )

    def _digest(self, delivery: Delivery) -> str:
        """The identity of a message without one: the same at every redelivery, another for another publish.

        The stream's creation time is no part of it: a server that lost the description of a stream takes its messages
        over into a new one, and delivers them again.
        """
        where = f"{delivery.stream}:{delivery.stream_seq}:{delivery.at_us}:".encode()
        return sha256(where + delivery.data).hexdigest()[:40]


def _traceparent(value: str | None) -> str | None:
    """`value` if it is one: it is kept in every event that follows, and sent on as a header."""
    return value if value is not None and _TRACEPARENT.fullmatch(value) else None
