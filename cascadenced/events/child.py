"""Facts about the runs that a run's plan asked for, in the parent's stream. Each is a run of its own besides."""

from __future__ import annotations

import msgspec

from cascadenced.events.base import Event, Json


class Planned(msgspec.Struct, frozen=True, gc=False):
    """One task of a plan. name: what it would be registered as.  kind: the qualified name of its class, by which it
    is found again in what `plan()` returns another time."""

    name: str
    kind: str


class ChildRequested(Event, tag="child.requested", frozen=True, kw_only=True):
    """A run is asked for. index: its place in the plan, from 0.  attempt: counts the runs at this place, from 1."""

    task: str
    index: int
    child_task: str
    child_run_id: str
    attempt: int = 1


class ChildEnded(Event, tag="child.ended", frozen=True, kw_only=True):
    """The parent has taken in how it ended. status: success, error, cancelled or refused.

    output: what it returned, content.  lineage: as in StageFailed.
    """

    task: str
    index: int
    child_run_id: str
    status: str
    output: Json = None
    error_type: str | None = None
    reason: str | None = None
    lineage: tuple[str, ...] = ()
