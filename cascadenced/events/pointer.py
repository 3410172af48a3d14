"""Facts about pointers: marks that connect a task to a run for a user. Stream `pointer-<task>`."""

from __future__ import annotations

from cascadenced.events.base import Event


class PointerAdded(Event, tag="pointer.added", frozen=True, kw_only=True):
    """A pointer that was not there before. run_id: whatever the caller calls the run, not necessarily one of ours.

    via: bus, cli, http or python.
    """

    task: str
    run_id: str
    user_hash: str
    group_hash: str | None = None
    via: str = "python"
