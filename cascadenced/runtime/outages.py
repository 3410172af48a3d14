"""What is recorded of a connection that comes and goes: the begin and end of an outage, one in a minute."""

from __future__ import annotations

from cascadenced.events.base import Event
from cascadenced.events.system import BusLost, BusRestored

QUIET_S = 60.0
"""After a recorded `bus.lost` the next one waits so long; what breaks meanwhile is counted."""


class Outages:
    """Pure: told what happens and when (monotonic seconds), it answers with what is to be recorded now."""

    def __init__(self) -> None:
        self._down_since: float | None = None
        self._reason = ""
        self._told = False
        self._away_s = 0.0
        self._n_breaks = 0
        self._quiet_until = float("-inf")

    @property
    def due(self) -> float | None:
        """When `late` is to be asked, if nothing else happens."""
        return self._quiet_until if self._n_breaks and not self._told else None

    def lost(self, now: float, reason: str) -> Event | None:
        if self._down_since is not None:
            return None
        self._down_since, self._reason = now, reason
        self._n_breaks += 1
        return self._tell_lost(now) if now >= self._quiet_until else None

    def restored(self, now: float, *, server_id: str, server_version: str) -> Event | None:
        if self._down_since is None:
            return None
        self._away_s += now - self._down_since
        self._down_since = None
        return self._tell_restored(server_id, server_version) if self._told else None

    def late(self, now: float, *, server_id: str, server_version: str) -> Event | None:
        """What was held back, when it is time."""
        if self.due is None or now < self.due:
            return None
        if self._down_since is not None:
            return self._tell_lost(now)
        self._quiet_until = now + QUIET_S
        return self._tell_restored(server_id, server_version)

    def _tell_lost(self, now: float) -> Event:
        self._told, self._quiet_until = True, now + QUIET_S
        return BusLost(reason=self._reason)

    def _tell_restored(self, server_id: str, server_version: str) -> Event:
        event = BusRestored(
            away_s=round(self._away_s, 3),
            n_breaks=self._n_breaks,
            server_id=server_id,
            server_version=server_version,
        )
        self._told, self._away_s, self._n_breaks = False, 0.0, 0
        return event
