"""Refusals that may come in floods: counted, and recorded as at most one event per reason, subject and minute."""

from __future__ import annotations

import asyncio
from collections import Counter

import structlog

from cascadenced.clock import Clock
from cascadenced.errors import CascadenceError
from cascadenced.eventlog.base import Change, EventLog
from cascadenced.events.streams import SYSTEM_STREAM
from cascadenced.events.system import RequestsRefused
from cascadenced.runtime.whose import work

_log = structlog.get_logger(__name__)

WINDOW_S = 60.0
MAX_KEYS = 1_000
"""Different (reason, subject) pairs in one window; further ones are counted under the subject `other`."""


class RefusalCounter:
    """Counts now, records when the minute is over. Nothing runs while there is nothing to count."""

    def __init__(self, log: EventLog, clock: Clock) -> None:
        self._log, self._clock = log, clock
        self._counts: Counter[tuple[str, str]] = Counter()
        self._timer: asyncio.Task[None] | None = None
        self.total: Counter[str] = Counter()
        """Since the start, by reason; for metrics."""

    def count(self, reason: str, subject: str) -> None:
        """One more `reason` for `subject` (a subject, task or route; never an identity)."""
        self.total[reason] += 1
        self._add(reason, subject, 1)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().create_task(self._record_later(), name="refusal-counter")

    async def flush(self) -> None:
        """Record what is counted now; at stop. A log that cannot be written is no error of the stop."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        await self._record()

    async def _record_later(self) -> None:
        work.set(None)
        await self._clock.sleep(WINDOW_S)
        self._timer = None
        await self._record()

    async def _record(self) -> None:
        counts, self._counts = self._counts, Counter()
        if not counts:
            return
        events = [RequestsRefused(reason=r, subject=s, n_refused=n) for (r, s), n in counts.items()]
        try:
            await self._log.append([Change(SYSTEM_STREAM, events)])
        except CascadenceError as error:
            # Whoever counts next has them recorded as well; a log that cannot be written is told of elsewhere.
            for (reason, subject), n in counts.items():
                self._add(reason, subject, n)
            _log.warning("refusals_not_recorded", n_refused=counts.total(), error=str(error))

    def _add(self, reason: str, subject: str, n: int) -> None:
        key = (reason, subject)
        if key not in self._counts and len(self._counts) >= MAX_KEYS:
            key = (reason, "other")
        self._counts[key] += n
