"""What the broker ought to have, what it has, and the difference published again.

The log says what was published: the messages of every event up to the outbox's checkpoint. Of these the stream keeps
what its limits leave. So what is missing is found in three steps: owe the messages of the newest events, as many as the
stream has room for and no older than it keeps; look through the stream, striking out what is there; forgive what a full
stream dropped by itself.

The last step needs care: were a full stream blamed for dropping its oldest messages, publishing them again would make
it drop others, for ever. A stream is in the order of positions, but for what was published again after a loss, which
its header tells. So the first message that was not is the oldest that a full stream need have.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from itertools import takewhile

import msgspec
import structlog

from cascadenced.bus.base import Bus, Storage
from cascadenced.clock import Clock
from cascadenced.errors import DiskError, LogCorrupt, Unavailable
from cascadenced.eventlog.base import EventLog
from cascadenced.events.base import Recorded
from cascadenced.events.outbound import POSITION_HEADER, REPUBLISHED_HEADER
from cascadenced.events.outgoing import Outgoing
from cascadenced.runtime.outbox import CHECKPOINT as OUTBOX
from cascadenced.runtime.outbox import carriable
from cascadenced.runtime.owed import Owed

MAX_POSITIONS = 2_000_000
"""Positions that are compared in one look through the stream: 10 MB. More take several looks, the newest first."""
_AT_ONCE = 200
"""Events that are worked on before others have their turn: a few milliseconds."""
_ROOM_USED = 0.9
"""Of the stream's bounds: the rest is for what we cannot count exactly, and for others."""
_OVERHEAD_BYTES = 480
"""Of a message beside its body: headers, subject and what a server adds."""

_log = structlog.get_logger(__name__)

Translate = Callable[[Sequence[Recorded]], Awaitable[list[Outgoing]]]


class Pace:
    """Rests after each piece of work so that only a share of the time is worked. share: 0 to 1."""

    def __init__(self, clock: Clock, share: float) -> None:
        self._clock, self._share = clock, share
        self._since = clock.monotonic()

    async def rest(self) -> None:
        worked_s = self._clock.monotonic() - self._since
        await self._clock.sleep(worked_s * (1 / self._share - 1))
        self._since = self._clock.monotonic()


class _Room:
    """What the stream can hold beside what was counted already."""

    def __init__(self, storage: Storage) -> None:
        self._n_bytes = storage.max_bytes * _ROOM_USED if storage.max_bytes else float("inf")
        self._n_messages = storage.max_messages * _ROOM_USED if storage.max_messages else float("inf")

    def takes(self, message: Outgoing) -> bool:
        self._n_bytes -= len(message.body) + _OVERHEAD_BYTES
        self._n_messages -= 1
        return self._n_bytes >= 0 and self._n_messages >= 0


class Missing:
    """One comparison, from the newest event to the oldest that matters.

    translate: events → their messages, as the outbox publishes them.  origin: ours.
    """

    def __init__(self, log: EventLog, clock: Clock, bus: Bus, translate: Translate, *, origin: str, pace: Pace) -> None:
        self._log, self._clock, self._bus, self._translate = log, clock, bus, translate
        self._origin, self._pace = origin, pace
        self.n_scanned = 0
        """Messages with a position that were seen in the stream."""
        self.upto = 0
        """The last event whose messages were looked for."""
        self.stream = ""
        self._max_age_us = 0

    async def messages(self) -> AsyncGenerator[list[Outgoing]]:
        """What is missing, in the order of the log, some at a time. Raises Unavailable: begin again."""
        storage = await self._bus.storage()
        self.stream, self._max_age_us = storage.stream, storage.max_age_us
        newest = self.upto = await self._log.checkpoint(OUTBOX)
        room = _Room(storage)
        while newest > 0:
            owed = Owed()
            oldest = await self._owe(owed, newest, room)
            n_owed = owed.n
            await self._strike_out(owed, oldest + 1)
            if storage.selective and owed.n < n_owed:
                # It drops what it likes, so nothing can be said of what is not there; unless that is everything.
                _log.warning("stream_keeps_a_selection", remedy="unset max_msgs_per_subject to have holes found")
                return
            async for batch in self._due(owed):
                yield batch
            if oldest == 0 or newest - oldest < MAX_POSITIONS:
                return
            newest = oldest

    async def _owe(self, owed: Owed, newest: int, room: _Room) -> int:
        """Fill `owed` backwards from `newest`; returns the position before the oldest that was looked at."""
        oldest = newest
        while oldest > 0 and newest - oldest < MAX_POSITIONS:
            after = max(0, oldest - _AT_ONCE)
            batch = await self._log.read(after, oldest - after)
            oldest = after
            young = [recorded for recorded in batch if self._is_young(recorded)]
            messages = await self._translated(young)
            fitting = list(takewhile(room.takes, reversed(messages)))
            for message in fitting:
                owed.add(*_place_of(message))
            if not young or len(fitting) < len(messages):
                break
            await self._pace.rest()
        return oldest

    async def _strike_out(self, owed: Owed, first: int) -> None:
        before = await self._bus.storage()
        async with aclosing(self._bus.scan()) as chunks:
            async for chunk in chunks:
                self.n_scanned += len(chunk)
                for position, message_id, _, _ in chunk:
                    owed.strike(position, message_id)
                await self._pace.rest()
        after = await self._bus.storage()
        if before.full or after.full:
            # What it dropped while we looked through it is older than what is the oldest by now.
            owed.forgive(await self._oldest_kept(owed, first))

    async def _oldest_kept(self, owed: Owed, first: int) -> int:
        """The position of the oldest message of ours that was published once; if there is none, beyond all."""
        async with aclosing(self._bus.scan()) as chunks:
            async for chunk in chunks:
                for position, message_id, origin, again in chunk:
                    ours = owed.strike(position, message_id) or (origin == self._origin and position < first)
                    if ours and not again:
                        return position
                await self._pace.rest()
        return self.upto + 1

    async def _due(self, owed: Owed) -> AsyncIterator[list[Outgoing]]:
        """The messages that are left in `owed`, and not too old by now."""
        async for batch in self._events(owed):
            young = [recorded for recorded in batch if self._is_young(recorded)]
            missing = [message for message in await self._translated(young) if owed.holds(*_place_of(message))]
            if missing:
                yield [_again(message) for message in missing]
            await self._pace.rest()

    async def _events(self, owed: Owed) -> AsyncIterator[list[Recorded]]:
        """The events that something is owed for, in order."""
        reached = 0
        for position in owed.positions():
            if position <= reached:
                continue
            batch = await self._log.read(position - 1, _AT_ONCE)
            if not batch:
                return
            reached = batch[-1].position
            yield batch

    def _is_young(self, recorded: Recorded) -> bool:
        return not self._max_age_us or recorded.at_us + self._max_age_us > self._clock.now_us()

    async def _translated(self, batch: Sequence[Recorded]) -> list[Outgoing]:
        """What the outbox publishes. It skips an event that nothing can be made of, and so do we."""
        try:
            return carriable(await self._translate(batch), self._bus)
        except (Unavailable, DiskError, LogCorrupt):
            raise
        except Exception:  # noqa: BLE001 -- whichever event it is, it costs itself
            if len(batch) <= 1:
                return []
            return [message for recorded in batch for message in await self._translated([recorded])]


def _again(message: Outgoing) -> Outgoing:
    return msgspec.structs.replace(message, lines=f"{message.lines}{REPUBLISHED_HEADER}: 1\r\n")


def _place_of(message: Outgoing) -> tuple[int, str]:
    """Its event's position, and its id."""
    headers = message.headers
    return int(headers[POSITION_HEADER]), headers["Nats-Msg-Id"]
