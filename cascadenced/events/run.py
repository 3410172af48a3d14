"""Facts about runs. Stream `run-<run id>`; a run's events are its only state."""

from __future__ import annotations

from cascadenced.events.base import Event, Json


class RunRequested(Event, tag="run.requested", frozen=True, kw_only=True):
    """Somebody, or something, wants `task` to run. First event of every run.

    via: bus, cli, http, python, followup or workflow.  args: content, stored exactly.
    depth: how many follow-ups lead here from a run that nobody asked a follow-up for.
    """

    task: str
    via: str
    args: dict[str, Json] = {}
    priority: int = 0
    parent_run_id: str | None = None
    depth: int = 0


class RunRefused(Event, tag="run.refused", frozen=True, kw_only=True):
    """Valid, but not now: the rule said no. Ends the run; nothing was started.

    code: unknown_task, disabled, paused.  reason: a sentence for people.
    """

    task: str
    via: str
    code: str
    reason: str


class RunStarted(Event, tag="run.started", frozen=True, kw_only=True):
    """A slot was free. stages: the hooks the class has, in pipeline order.  code: digest of the class's source."""

    task: str
    stages: tuple[str, ...]
    code: str


class RunFinished(Event, tag="run.finished", frozen=True, kw_only=True):
    """All stages ended well; the run's result is what `verify`, else `run`, put out.

    skipped: stages without a hook after the last one that had one.
    took_s: seconds from start to end by the wall clock, downtime included.
    """

    task: str
    via: str
    skipped: tuple[str, ...] = ()
    took_s: float = 0.0


class RunFailed(Event, tag="run.failed", frozen=True, kw_only=True):
    """The run ended in error. stage: the one that failed, None if none was under way.

    reason: the exception's text with this run's ids replaced by pseudonyms.
    """

    task: str
    via: str
    error_type: str
    reason: str
    stage: str | None = None
    took_s: float = 0.0


class RunHeld(Event, tag="run.held", frozen=True, kw_only=True):
    """The run cannot go on now and waits for a restart that can.

    code: task_missing or identity_missing."""

    task: str
    code: str
    reason: str


class RunResumed(Event, tag="run.resumed", frozen=True, kw_only=True):
    """What a run was held for is there again: it goes on."""

    task: str


class ForeignRunReported(Event, tag="run.reported", frozen=True, kw_only=True):
    """Another system told the bus how a run of its own went. Stream `task-<task>`.

    foreign_origin: the instance of ours that sent it; it plans its own follow-ups. None: somebody else did.
    """

    task: str
    foreign_run_id: str
    status: str
    started_at: str | None = None
    finished_at: str | None = None
    foreign_origin: str | None = None


OPENING = frozenset({"run.requested"})
"""Types after which a run is unfinished …"""
TERMINAL = frozenset({"run.refused", "run.finished", "run.failed"})
"""… and types that end it, for ever."""
