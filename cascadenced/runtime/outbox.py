"""The log → the bus: what others may know of each event, in log order, again after a crash.

The outbox is the log plus a checkpoint. A publish whose confirmation is missing is *unknown* and sent again; the
message id makes that harmless.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cascadenced.bus.base import Bus
from cascadenced.clock import Clock
from cascadenced.crashpoint import crashpoint
from cascadenced.eventlog.base import EventLog
from cascadenced.events.base import Recorded
from cascadenced.events.outbound import Outgoing
from cascadenced.runtime.counting import RefusalCounter
from cascadenced.runtime.follow import follow

CHECKPOINT = "outbox"
MAX_PUBLISH = 500
"""Messages in flight at once."""
_HEADER_ROOM_BYTES = 2_048

Translate = Callable[[Recorded], Sequence[Outgoing]]


class Outbox:
    """One follower of the log. translate: an event → its messages (events/outbound.py)."""

    def __init__(self, log: EventLog, clock: Clock, bus: Bus, translate: Translate, refusals: RefusalCounter) -> None:
        self._log, self._clock, self._bus = log, clock, bus
        self._translate, self._refusals = translate, refusals

    async def run(self) -> None:
        """Until cancelled, or the log is closed."""
        await follow(self._log, self._clock, CHECKPOINT, self._publish)

    async def _publish(self, batch: Sequence[Recorded]) -> None:
        messages = [message for recorded in batch for message in self._translate(recorded)]
        bound = self._bus.info().max_payload_bytes - _HEADER_ROOM_BYTES
        fitting = [message for message in messages if len(message.body) <= bound]
        crashpoint("outbox.before_publish")
        for start in range(0, len(fitting), MAX_PUBLISH):
            await self._bus.publish(fitting[start : start + MAX_PUBLISH])
        crashpoint("outbox.after_publish")
        for message in messages:
            if len(message.body) > bound:
                # The event stays in the log; only this server cannot carry it. Retrying would stop all others.
                self._refusals.count("unpublishable", message.subject)
