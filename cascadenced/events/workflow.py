"""Facts about dispatched events. Stream `workflow-<event name>`."""

from __future__ import annotations

from cascadenced.events.base import Event, Json


class EventDispatched(Event, tag="event.dispatched", frozen=True, kw_only=True):
    """Somebody dispatched `name`. run_id: the run of the workflow registered for it; None: nobody listens.

    via: bus, cli, http, python or workflow (then it is published as well).
    """

    name: str
    via: str
    payload: dict[str, Json] = {}
    run_id: str | None = None
