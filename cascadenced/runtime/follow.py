"""Events after a checkpoint, in order, for ever: the shape of everything that reacts to the log."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import structlog

from cascadenced.clock import Clock
from cascadenced.errors import DiskFull, Unavailable
from cascadenced.eventlog.base import EventLog
from cascadenced.events.base import Recorded
from cascadenced.runtime.retry import backoff_s

_log = structlog.get_logger(__name__)

React = Callable[[Sequence[Recorded]], Awaitable[None]]


async def follow(log: EventLog, clock: Clock, name: str, react: React) -> None:
    """Hand every event after the checkpoint `name` to `react`, and move the checkpoint when it returns.

    While `react` raises Unavailable or DiskFull the same events are handed to it again, less and less often; what it
    does must bear being done twice. Ends when the log is closed.
    """
    async for batch in log.follow(await log.checkpoint(name)):
        attempt = 0
        while True:
            try:
                await react(batch)
            except (Unavailable, DiskFull) as error:
                attempt += 1
                _log.warning("follower_waits", follower=name, attempt=attempt, error=str(error))
                await clock.sleep(backoff_s(attempt))
            else:
                log.set_checkpoint(name, batch[-1].position)
                break
