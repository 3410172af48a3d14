"""Facts about what a run is told from outside while it is under way, in the run's stream."""

from __future__ import annotations

from cascadenced.events.base import Event, Json


class ContextAttached(Event, tag="context.attached", frozen=True, kw_only=True):
    """Somebody told the run something. payload: content, stored exactly.

    shown: display text, cut, the run's ids replaced; None: nothing to show.
    via: as of a run's request.  by: pseudonym of whoever sent it, if that is not the run's own user.
    """

    task: str
    via: str
    payload: Json
    shown: str | None = None
    by: str | None = None


class ContextConsumed(Event, tag="context.consumed", frozen=True, kw_only=True):
    """`stage` is about to start with all that was attached before. shown: of each that no stage before it had."""

    task: str
    stage: str
    shown: tuple[str | None, ...]
