"""Facts about the instance itself. Stream `system`."""

from __future__ import annotations

from cascadenced.events.base import Event


class DaemonStarted(Event, tag="daemon.started", frozen=True, kw_only=True):
    """The log is open and consistent; loops are about to start."""

    version: str
    pid: int
    n_unfinished_runs: int = 0


class DaemonStopped(Event, tag="daemon.stopped", frozen=True, kw_only=True):
    """Stopped in good order. n_interrupted: stages that were still under way after the grace period."""

    reason: str
    n_interrupted: int = 0


class RequestsRefused(Event, tag="requests.refused", frozen=True, kw_only=True):
    """How often `reason` was given for `subject` within a minute: overload, duplicates, bad identities."""

    reason: str
    subject: str
    n_refused: int


class ConfigReread(Event, tag="config.reread", frozen=True, kw_only=True):
    """The configuration was read again. changed: settings with a new value from now on.

    waiting: settings that differ from what is in force and change at the next start. Names only, never values.
    """

    changed: tuple[str, ...] = ()
    waiting: tuple[str, ...] = ()


class ConfigRejected(Event, tag="config.rejected", frozen=True, kw_only=True):
    """The configuration was read again and is wrong: the old one stays in force. reason: secrets masked, cut."""

    reason: str
