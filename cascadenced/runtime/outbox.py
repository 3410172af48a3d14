"""The log → the bus: what others may know of each event, in log order, again after a crash.

The outbox is the log plus a checkpoint. A publish whose confirmation is missing is *unknown* and sent again; the
message id makes that harmless.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from cascadenced.bus.base import Bus
from cascadenced.clock import Clock
from cascadenced.crashpoint import crashpoint
from cascadenced.errors import Unavailable
from cascadenced.eventlog.base import EventLog
from cascadenced.events.base import Recorded
from cascadenced.events.outgoing import Outgoing
from cascadenced.runtime.counting import RefusalCounter
from cascadenced.runtime.follow import follow

CHECKPOINT = "outbox"
MAX_PUBLISH = 500
"""Messages in flight at once."""
_HEADER_ROOM_BYTES = 2_048

Translate = Callable[[Sequence[Recorded]], Awaitable[list[Outgoing]]]


class Outbox:
    """One follower of the log. translate: events → their messages, in order."""

    def __init__(self, log: EventLog, clock: Clock, bus: Bus, translate: Translate, refusals: RefusalCounter) -> None:
        self._log, self._clock, self._bus = log, clock, bus
        self._translate, self._refusals = translate, refusals
        self._moved = asyncio.Event()
        self.position = 0
        """The last event whose messages the broker has confirmed."""

    async def run(self) -> None:
        """Until cancelled, or the log is closed."""
        self.position = await self._log.checkpoint(CHECKPOINT)
        self._moved.set()
        await follow(self._log, self._clock, CHECKPOINT, self._publish, self._skip)

    async def drained(self) -> None:
        """Return when everything that is in the log now has been published."""
        target = self._log.position
        while self.position < target:
            self._moved.clear()
            await self._moved.wait()

    async def _publish(self, batch: Sequence[Recorded]) -> None:
        messages = await self._translate(batch)
        fitting = carriable(messages, self._bus)
        crashpoint("outbox.before_publish")
        for start in range(0, len(fitting), MAX_PUBLISH):
            await self._bus.publish(fitting[start : start + MAX_PUBLISH])
        crashpoint("outbox.after_publish")
        for message in messages if len(fitting) < len(messages) else ():
            if message not in fitting:
                # The event stays in the log; only this server cannot carry it. Retrying would stop all others.
                self._refusals.count("unpublishable", message.subject)
        self._moved_to(batch[-1].position)

    def _skip(self, recorded: Recorded) -> None:
        self._refusals.count("event_skipped", CHECKPOINT)
        self._moved_to(recorded.position)

    def _moved_to(self, position: int) -> None:
        self.position = position
        self._moved.set()


def carriable(messages: Sequence[Outgoing], bus: Bus) -> list[Outgoing]:
    """Those that this server has room for. Raises Unavailable while nobody knows how much that is."""
    max_payload_bytes = bus.info().max_payload_bytes
    if not max_payload_bytes:
        raise Unavailable("NATS is not connected, and nobody knows how large a message may be")
    room_bytes = max_payload_bytes - _HEADER_ROOM_BYTES
    return [message for message in messages if len(message.body) <= room_bytes]
