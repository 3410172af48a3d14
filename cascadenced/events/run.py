"""Facts about runs. Stream `run-<run id>`; a run's events are its only state."""

from __future__ import annotations

from cascadenced.events.base import Event, Json
from cascadenced.events.place import Place


class RunRequested(Event, tag="run.requested", frozen=True, kw_only=True):
    """Somebody, or something, wants `task` to run. First event of every run.

    via: bus, cli, http, python, followup, workflow or plan.  args: content, stored exactly.
    priority: the higher goes first.  parent_run_id: the run whose plan asked for it; nesting: how many such lead here.
    depth: how many follow-ups lead here from a run that nobody asked a follow-up for.
    forked_from: the run whose recorded results it begins with.
    requires: runs that must have succeeded before it starts; if one ends otherwise, it is refused.
    """

    task: str
    via: str
    args: dict[str, Json] = {}
    priority: int = 0
    parent_run_id: str | None = None
    depth: int = 0
    nesting: int = 0
    forked_from: str | None = None
    requires: tuple[str, ...] = ()


class RunRefused(Event, tag="run.refused", frozen=True, kw_only=True):
    """Valid, but not now: the rule said no. Ends the run; nothing was started.

    code: unknown_task, disabled, paused, prerequisite_failed.  reason: a sentence for people.
    """

    task: str
    via: str
    code: str
    reason: str


class RunStarted(Event, tag="run.started", frozen=True, kw_only=True):
    """A slot was free. stages: the hooks the class has, in pipeline order.  code: digest of the class's source.

    on_doubt: what is made of an effect that may have happened: ask, retry or fail; None: all may happen again.
    """

    task: str
    stages: tuple[str, ...]
    code: str
    on_doubt: str | None = None


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

    reason: the exception's text with this run's ids replaced by pseudonyms.  started: whether it ever had a slot.
    """

    task: str
    via: str
    error_type: str
    reason: str
    stage: str | None = None
    took_s: float = 0.0
    started: bool = True


class RunCancelled(Event, tag="run.cancelled", frozen=True, kw_only=True):
    """Somebody ended the run. stage: the one that was under way; what it did by then is done.

    by: pseudonym of whoever asked, None: the run's own parent.  started: whether it ever had a slot.
    """

    task: str
    via: str
    reason: str
    stage: str | None = None
    by: str | None = None
    took_s: float = 0.0
    started: bool = True


class RunPaused(Event, tag="run.paused", frozen=True, kw_only=True):
    """A stage under way ends; nothing new of the run starts. by: pseudonym of whoever asked."""

    task: str
    by: str | None = None


class RunResumed(Event, tag="run.resumed", frozen=True, kw_only=True):
    """The pause is over."""

    task: str
    by: str | None = None


class RunHeld(Event, tag="run.held", frozen=True, kw_only=True):
    """The run cannot go on now and waits for a restart that can.

    code: task_missing, identity_missing or code_changed."""

    task: str
    code: str
    reason: str


class RunReleased(Event, tag="run.released", frozen=True, kw_only=True):
    """What a run was held for is there again: it goes on. status: what it is now, as before it was held."""

    task: str
    status: str = "running"


class RunDoubted(Event, tag="run.in_doubt", frozen=True, kw_only=True):
    """The process died, or the time was up, or its stage was left, while an effect was under way that must not happen
    twice: it may have happened. step: its name and place if the stage works in steps.

    crashes: in a row, with the stage under way, if one led to this and the task's policy answers.
    """

    task: str
    stage: str
    attempt: int
    step: str | None = None
    place: Place = ""
    reason: str = ""
    crashes: int = 0


class RunResolved(Event, tag="run.resolved", frozen=True, kw_only=True):
    """What is to be made of the doubt. verdict: retry, done or fail.  output: what the effect returned, if it was done.

    by: pseudonym of whoever said so.  by_policy: the task did, beforehand.  status: what the run is now.
    """

    task: str
    verdict: str
    by: str | None = None
    output: Json = None
    by_policy: bool = False
    status: str = "running"


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
TERMINAL = frozenset({"run.refused", "run.finished", "run.failed", "run.cancelled"})
"""… and types that end it, for ever."""
