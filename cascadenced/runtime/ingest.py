"""Messages → commands → events → acknowledged. A message that cannot be read costs itself and nobody else."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from hashlib import sha256
from typing import NoReturn, Protocol

import msgspec
import structlog

from cascadenced.bus.base import UNREADABLE_HEADERS, Bus, Delivery
from cascadenced.crashpoint import crashpoint
from cascadenced.errors import BadMessage, DiskError, DiskFull, Overloaded, Unavailable
from cascadenced.events.inbound import Command, decode, message_source, named, starts_effects
from cascadenced.runtime.counting import RefusalCounter
from cascadenced.runtime.retry import backoff_s

_log = structlog.get_logger(__name__)

MAX_FETCH = 512
"""Messages of one batch, if there is room for so many requests: any of them may be one."""
MAX_BATCHES = 4
"""Batches under way at once; the broker keeps the rest. While two are being committed, two more are decoded."""
MAX_ATTEMPTS = 5
"""Deliveries of a message that our own code fails on; then it is a dead letter."""


_TRACEPARENT = re.compile("[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
"""As W3C Trace Context has it."""


class Stamped(Protocol):
    """A delivery, or what was recorded of one."""

    @property
    def at_us(self) -> int: ...


class Message(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What handlers may know of a message besides its command.

    source: its identity.  stamp: what has the broker's time, which is read when somebody asks for it.  origin: the
    instance that published it, None for others' clients.
    """

    source: str
    stamp: Stamped
    origin: str | None
    traceparent: str | None

    @property
    def at_us(self) -> int:
        return self.stamp.at_us


class Outcome(Protocol):
    """How the recording of a command went. duplicate: it was recorded before, and had no effect now."""

    @property
    def duplicate(self) -> bool: ...


Handle = Callable[[Command, Message], Awaitable[Outcome]]
"""Begins to record what follows from a command: a future has only to be waited for, a coroutine does more when it is.
Raises BadMessage, at once or while it is awaited, if the command cannot be honoured as it is."""


class Commands(Protocol):
    """What messages mean to the rest of the program."""

    def batch(self) -> Handle:
        """For the messages of one batch, and to be dropped with it: it may remember whom they name."""
        ...


DeadLetter = Callable[[Delivery, Message, BadMessage], Awaitable[Outcome]]
"""Seals and records a message that cannot be read."""
Room = Callable[[], Awaitable[int]]
"""How many requests can be taken now, as soon as it is at least one. Those that have begun have their place already."""


class _Taken(msgspec.Struct, frozen=True):
    """A message in hand, and its recording. command: None if it could not be read."""

    delivery: Delivery
    message: Message
    command: Command | None
    recording: Awaitable[Outcome]

    def names_somebody(self) -> bool:
        """In clear, as far as we can tell."""
        return self.command is None or named(self.command) is not None


class Ingest:
    """The loop between the bus and the log. erase: overwrite what named somebody, once it is recorded.

    Most messages become one append each. Those of a batch are begun one after the other, without an asyncio task for
    each (9 µs); then one task waits for all of them and acknowledges. Meanwhile the next batch is begun, so that the
    log's thread is at work while we decode.

    No more is fetched than there is room for: what had to be refused would only come back later, after its backoff.
    Others ask for runs as well, so that this may still happen, but seldom.
    """

    def __init__(
        self,
        bus: Bus,
        prefix: str,
        *,
        commands: Commands,
        dead_letter: DeadLetter,
        room: Room,
        refusals: RefusalCounter,
        erase: bool,
    ) -> None:
        self._bus, self._prefix, self._refusals = bus, prefix, refusals
        self._commands, self._dead_letter, self._room = commands, dead_letter, room
        self._ordered = f"{prefix}.schedule."
        self._erase = erase

    async def run(self) -> None:
        """Until cancelled. What is in hand then is delivered again by the broker."""
        async with asyncio.TaskGroup() as tasks:
            under_way: deque[asyncio.Task[None]] = deque()
            while True:
                # Nothing of a batch is kept here: messages name people, and the next one may be long in coming.
                batch = await self._bus.fetch(min(MAX_FETCH, await self._room()))
                under_way.append(tasks.create_task(self._finish(*await self._begin(batch, tasks))))
                del batch
                # Each request takes its place now, before we ask again what room there is; and whoever has something to
                # tell the broker does it: it must not run out of what we asked for.
                await asyncio.sleep(0)
                if len(under_way) == MAX_BATCHES:
                    await under_way.popleft()

    async def _begin(
        self, deliveries: Sequence[Delivery], tasks: asyncio.TaskGroup
    ) -> tuple[list[_Taken], list[asyncio.Task[None]]]:
        """Take a batch in hand. Returns those messages whose append is begun, and the tasks of those that need more."""
        handle = self._commands.batch()
        appending: list[_Taken] = []
        others: list[asyncio.Task[None]] = []
        lanes: dict[str, list[Delivery]] = {}
        for delivery in deliveries:
            if delivery.subject.startswith(self._ordered):
                lanes.setdefault(delivery.subject, []).append(delivery)
            elif (taken := self._take(delivery, handle)) is not None:
                if isinstance(taken.recording, asyncio.Future):
                    appending.append(taken)
                else:
                    others.append(tasks.create_task(self._end(taken)))
        if lanes:
            # A schedule set and then removed is removed: these are over before another batch is begun.
            await asyncio.gather(*(self._in_turn(lane, handle) for lane in lanes.values()))
        return appending, others

    async def _in_turn(self, lane: Sequence[Delivery], handle: Handle) -> None:
        for delivery in lane:
            taken = self._take(delivery, handle)
            if taken is not None:
                await self._end(taken)

    async def _finish(self, appending: Sequence[_Taken], others: Sequence[asyncio.Task[None]]) -> None:
        for taken in appending:
            await self._end(taken)
        for task in others:
            await task

    def _take(self, delivery: Delivery, handle: Handle) -> _Taken | None:
        """Begin to record a message; None if there is nothing to record."""
        message = self._describe(delivery)
        if message.origin is not None and starts_effects(self._prefix, delivery.subject):
            # What another instance publishes is news, never a wish. Whoever claims to be one may have named somebody.
            self._refusals.count("foreign_request", delivery.subject)
            delivery.ack(erase=self._erase)
            return None
        command = None
        try:
            if UNREADABLE_HEADERS in delivery.headers:
                raise BadMessage("its headers are no NATS headers", code="undecodable")
            command = decode(self._prefix, delivery.subject, delivery.data)
            crashpoint("ingest.before_append")
            recording = handle(command, message)
        except BadMessage as error:
            recording = self._dead_letter(delivery, message, error)
        except Exception as error:  # noqa: BLE001 -- a fault of ours must not stop the next message
            recording = _raised(error)
        return _Taken(delivery, message, command, recording)

    async def _end(self, taken: _Taken) -> None:
        """Wait until a message is recorded, then acknowledge it; or see to it that it comes again."""
        delivery = taken.delivery
        try:
            try:
                outcome = await taken.recording
            except BadMessage as error:
                outcome = await self._dead_letter(delivery, taken.message, error)
        except (DiskFull, DiskError, Unavailable, Overloaded) as error:
            _log.warning("message_kept", subject=delivery.subject, error=str(error))
            delivery.retry_later(backoff_s(delivery.n_delivered))
        except Exception as error:  # noqa: BLE001 -- as above
            await self._failed(delivery, taken.message, error)
        else:
            if outcome.duplicate:
                self._refusals.count("duplicate", delivery.subject.removeprefix(f"{self._prefix}."))
            crashpoint("ingest.after_append")
            delivery.ack(erase=self._erase and taken.names_somebody())

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
            stamp=delivery,
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


async def _raised(error: Exception) -> NoReturn:
    raise error


def _traceparent(value: str | None) -> str | None:
    """`value` if it is one: it is kept in every event that follows, and sent on as a header."""
    return value if value is not None and _TRACEPARENT.fullmatch(value) else None
