"""Facts about what a stage waits for, in the run's stream. Meanwhile nothing of the run is in memory but its id."""

from __future__ import annotations

from cascadenced.events.base import Event, Json
from cascadenced.events.place import Place


class WaitStarted(Event, tag="wait.started", frozen=True, kw_only=True):
    """The stage stands still. kind: sleep, event or children; those have no place.

    name: of the event.  where: what the event's payload must hold, key by key.
    until_us: wall clock, µs since 1970; None: as long as it takes.  printed: as of `stage.finished`, up to here.
    """

    task: str
    stage: str
    place: Place
    kind: str
    name: str = ""
    where: dict[str, Json] = {}
    until_us: int | None = None
    printed: str | None = None


class WaitEnded(Event, tag="wait.ended", frozen=True, kw_only=True):
    """The stage goes on. outcome: elapsed, event, timeout or children.

    payload: the event's.  position: the event's, in this log.
    """

    task: str
    stage: str
    place: Place
    kind: str
    outcome: str
    name: str = ""
    payload: Json = None
    position: int = 0
