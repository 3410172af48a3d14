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


class LoopBlocked(Event, tag="loop.blocked", frozen=True, kw_only=True):
    """Nothing else was served for a while: code kept the event loop. blocked_s: for how long.

    where: the innermost calls.  task, stage, run: whose it was, None if it was no run's.
    """

    blocked_s: float
    where: str
    task: str | None = None
    stage: str | None = None
    run: str | None = None


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


class BusLost(Event, tag="bus.lost", frozen=True, kw_only=True):
    """NATS cannot be worked with any more; what is recorded waits for it.

    reason: `disconnected` (the line broke), `no_answer` (connected, but silent), `no_jetstream`, `refused` (it answers,
    with errors), `not_reached` (nobody there at the start).
    """

    reason: str


class BusRestored(Event, tag="bus.restored", frozen=True, kw_only=True):
    """NATS does its work again. away_s: how long it did not, in all.  n_breaks: how often, since the last such event.

    server_id: drawn by the server at each of its starts; another one than before means that it was restarted.
    """

    away_s: float
    n_breaks: int = 1
    server_id: str = ""
    server_version: str = ""


class EpochBroken(Event, tag="bus.epoch_broken", frozen=True, kw_only=True):
    """The broker forgot something it had confirmed. A repair follows, ended by `bus.epoch_repaired`.

    reason: `stream_recreated`, `end_lost` (its sequence counts on from earlier), `marker_gone` (the last message that
    it confirmed is missing), `consumers_gone` (what we have read is forgotten), `messages_missing` (a hole was found),
    `messages_hidden` (requests wait, and are not delivered), `messages_unreadable` (they cannot be).
    stream: JetStream's name.  detail: a sentence.  before, after: epochs, different for another stream.
    """

    reason: str
    stream: str
    detail: str
    before: str = ""
    after: str = ""


class EpochRepaired(Event, tag="bus.epoch_repaired", frozen=True, kw_only=True):
    """Everything within the stream's retention that was published up to `position` is on the bus again.

    n_scanned: messages of the stream that were looked at.  n_republished: those that were missing.
    n_missing: those that the stream does not keep, whatever is done.  n_breaks: breaks since the last repair, for these
    reasons.
    """

    position: int
    n_scanned: int
    n_republished: int
    took_s: float
    n_missing: int = 0
    n_breaks: int = 1
    reasons: tuple[str, ...] = ()
