"""Events after a checkpoint, in order, for ever: the shape of everything that reacts to the log."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import structlog

from cascadenced.clock import Clock
from cascadenced.errors import DiskError, DiskFull, LogCorrupt, Unavailable
from cascadenced.eventlog.base import EventLog
from cascadenced.events.base import Recorded
from cascadenced.runtime.retry import backoff_s

_log = structlog.get_logger(__name__)

MAX_ATTEMPTS = 5
"""How often an event is handed over that the reaction fails on; then it is skipped."""

React = Callable[[Sequence[Recorded]], Awaitable[None]]
Skip = Callable[[Recorded], object]
"""Told of an event that nothing could be made of."""


async def follow(log: EventLog, clock: Clock, name: str, react: React, skip: Skip) -> None:
    """Hand every event after the checkpoint `name` to `react`, and move the checkpoint when it returns.

    While `react` raises Unavailable or DiskFull the same events are handed to it again, less and less often; what it
    does must bear being done twice. When it raises anything else they are handed over one by one, and one that it
    goes on failing on is skipped: a single event must not stop all others, at this start and every next one.
    Ends when the log is closed. Raises DiskError and LogCorrupt of `react`.
    """
    async for batch in log.follow(await log.checkpoint(name)):
        if await _hand_over(clock, name, react, batch, max_attempts=1) is not None:
            for recorded in batch:
                error = await _hand_over(clock, name, react, [recorded], max_attempts=MAX_ATTEMPTS)
                if error is not None:
                    where = {"follower": name, "position": recorded.position, "type": recorded.type}
                    _log.error("event_skipped", **where, error=f"{type(error).__name__}: {error}")
                    skip(recorded)
                log.set_checkpoint(name, recorded.position)
        log.set_checkpoint(name, batch[-1].position)


async def _hand_over(
    clock: Clock, name: str, react: React, batch: Sequence[Recorded], *, max_attempts: int
) -> Exception | None:
    """None when `react` took the batch; its error when it has failed on it `max_attempts` times."""
    attempt = n_failed = 0
    while True:
        try:
            await react(batch)
        except (Unavailable, DiskFull) as error:
            attempt += 1
            _log.warning("follower_waits", follower=name, attempt=attempt, error=str(error))
        except (DiskError, LogCorrupt):
            raise
        except Exception as error:  # noqa: BLE001 -- a fault of ours, or a damaged row: it costs one event
            attempt, n_failed = attempt + 1, n_failed + 1
            positions = f"{batch[0].position}-{batch[-1].position}"
            _log.exception("follower_failed", follower=name, attempt=attempt, positions=positions)
            if n_failed == max_attempts:
                return error
        else:
            return None
        await clock.sleep(backoff_s(attempt))
