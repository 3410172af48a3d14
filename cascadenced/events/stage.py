"""Facts about the stages of a run, in the run's stream.

`shown` is the display text of an output when it is not simply `repr(output)`: cut, or with the run's ids replaced.
"""

from __future__ import annotations

from cascadenced.events.base import Event, Json
from cascadenced.events.child import Planned


class StageStarted(Event, tag="stage.started", frozen=True, kw_only=True):
    """Committed before the stage's code runs.

    attempt: counts the starts of this stage, from 1.  code: digest of the task's source at this start.
    skipped: stages without a hook between the last one that had one and this.
    """

    task: str
    stage: str
    attempt: int
    code: str
    skipped: tuple[str, ...] = ()


class StageFinished(Event, tag="stage.finished", frozen=True, kw_only=True):
    """The stage returned. output: content, stored exactly.  took_s: seconds, monotonic.  attempt: 0 if it was taken
    over from the run that this one is a fork of.

    children: what a plan of tasks asks for, in order.  parallel: at the same time.  printed: what a process of its own
    wrote to its output, redacted and cut.
    """

    task: str
    stage: str
    attempt: int
    output: Json = None
    shown: str | None = None
    took_s: float = 0.0
    children: tuple[Planned, ...] | None = None
    parallel: bool = False
    printed: str | None = None


class StageFailed(Event, tag="stage.failed", frozen=True, kw_only=True):
    """The stage raised. fatal: whether the run ends here (research may fail and the run goes on).

    reason: redacted text.  partial: what the exception carried as `.partial`, content.
    retry_at_us: when it is tried again, µs since 1970; None: it is not.
    lineage: of a run of a plan, names of the error's classes (`module:qualname`), for the parent's policy.
    """

    task: str
    stage: str
    attempt: int
    error_type: str
    reason: str
    partial: Json = None
    shown: str | None = None
    took_s: float = 0.0
    fatal: bool = True
    retry_at_us: int | None = None
    printed: str | None = None
    lineage: tuple[str, ...] = ()


class StageInterrupted(Event, tag="stage.interrupted", frozen=True, kw_only=True):
    """The daemon stopped, in good order, before this stage ended; it starts again later. Not a crash."""

    task: str
    stage: str
    attempt: int
    reason: str


class StageLate(Event, tag="stage.late", frozen=True, kw_only=True):
    """Code of an attempt that nobody waited for any more has ended. It changes nothing. outcome: success or error."""

    task: str
    stage: str
    attempt: int
    outcome: str
    reason: str = ""
