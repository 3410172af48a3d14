"""Facts about schedules and their due instants. Stream `schedule-<task>`.

Every instant at which a schedule is due has one record that settles it: `tick.fired`, or its place in a `tick.passed`.
"""

from __future__ import annotations

from cascadenced.events.base import Event, Json


class ScheduleSet(Event, tag="schedule.set", frozen=True, kw_only=True):
    """The task is to run by the clock, from now on by this rule.

    Of expr (five-field cron), rrule (RFC 5545), every_s (seconds) and at (once: a local time, or an instant with an
    offset) one is set. With calendar_event ({node, poll}) it comes from that node, and before it was read none is.
    event: dispatch this event with `args` instead of running the task.

    from_us: instants after this one count, µs since 1970; where an rrule or every_s has no beginning of its own it is
    that one. Never lower than what is settled.
    timezone: IANA name.  node_timezone: what the node says in its place.
    gap: shift or skip a time that a change of the clocks leaves out.  fold: first, last or both of two equal times.
    misfire: skip, latest or all of what comes late, up to misfire_within_s late and misfire_max at once.
    overlap: skip, queue, allow or cancel_previous while the last run has not ended.
    jitter_s: up to so much later, the same for an instant each time.
    exclude: local dates (ISO).  exclude_ics: path of a calendar whose events exclude what is due during them.
    deps: tasks that must have run before, each time.
    recurrence: kept verbatim.  via: the door, `file` for schedules.yml, `calendar` for what a node has said.
    """

    task: str
    expr: str | None = None
    rrule: str | None = None
    every_s: float | None = None
    at: str | None = None
    calendar_event: dict[str, Json] | None = None
    event: str | None = None
    args: dict[str, Json] = {}
    from_us: int = 0
    timezone: str = "UTC"
    node_timezone: str | None = None
    gap: str = "shift"
    fold: str = "first"
    misfire: str = "latest"
    misfire_within_s: float = 3_600.0
    misfire_max: int = 100
    overlap: str = "skip"
    jitter_s: float = 0.0
    exclude: tuple[str, ...] = ()
    exclude_ics: str | None = None
    deps: tuple[str, ...] = ()
    recurrence: Json = None
    via: str = ""

    @property
    def zone(self) -> str:
        """The time zone that it is read in."""
        return self.node_timezone or self.timezone


class SchedulePaused(Event, tag="schedule.paused", frozen=True, kw_only=True):
    """Nothing is fired until it is resumed. What is due meanwhile is settled then. by: pseudonym of whoever did it."""

    task: str
    by: str | None = None


class ScheduleResumed(Event, tag="schedule.resumed", frozen=True, kw_only=True):
    """The end of a pause."""

    task: str
    by: str | None = None


class ScheduleRemoved(Event, tag="schedule.removed", frozen=True, kw_only=True):
    """The task is no longer scheduled. settled_us: a schedule that is set later counts from there on, at the least."""

    task: str
    by: str | None = None
    settled_us: int = 0


class TickFired(Event, tag="tick.fired", frozen=True, kw_only=True):
    """A run was asked for, in the same append. due_us: the instant, µs since 1970.  local: the time that the rule says.

    code: how local and due_us differ from what one would expect.  merged: further local times that there were not, and
    that are one with this.  late_s: how much later than due it was.  queued: it had waited for the end of another run.
    run_id: empty where an event was dispatched that nobody answers.
    """

    task: str
    due_us: int
    run_id: str
    local: str = ""
    code: str | None = None
    merged: tuple[str, ...] = ()
    late_s: float = 0.0
    queued: bool = False


class TickBackfilled(Event, tag="tick.backfilled", frozen=True, kw_only=True):
    """Somebody asked for a run at an instant of the past, in the same append. It settles nothing: what became of the
    instant when it was due stays its one record.

    run_id: empty where an event was dispatched that nobody answers.  by: pseudonym of whoever asked.
    """

    task: str
    due_us: int
    run_id: str
    by: str | None = None


class TicksPassed(Event, tag="tick.passed", frozen=True, kw_only=True):
    """`n` due instants in a row, from first_us to last_us, for which nothing was done.

    verdict: `skipped` (too late, or another run was under way), `coalesced` (with the one at into_us), `suppressed`
    (paused, disabled, excluded, forbidden by the rule).  code: why.  cause: the run or the event it was because of.
    """

    task: str
    verdict: str
    code: str
    first_us: int
    last_us: int
    n: int = 1
    into_us: int | None = None
    cause: str | None = None


class TickQueued(Event, tag="tick.queued", frozen=True, kw_only=True):
    """Due while the last run has not ended: it is fired after that. behind: that run."""

    task: str
    due_us: int
    behind: str
    local: str = ""
    code: str | None = None
    merged: tuple[str, ...] = ()


class CalendarRead(Event, tag="calendar.read", frozen=True, kw_only=True):
    """A calendar that a schedule names was read, after it could not be; a node also for the first time.

    node: as the schedule names it: the node of its event, or the path of the file whose events exclude.
    """

    task: str
    node: str


class CalendarUnread(Event, tag="calendar.unread", frozen=True, kw_only=True):
    """A calendar that a schedule names could not be read, or what it says cannot be kept; what it said before counts.

    Recorded when the reason changes, not for each attempt.
    """

    task: str
    node: str
    code: str
    reason: str


class ScheduleFileRejected(Event, tag="schedules.file_rejected", frozen=True, kw_only=True):
    """`schedules.yml` was changed and something is wrong with it: none of it was taken over. Stream `system`.

    problems: each with its line.
    """

    problems: tuple[str, ...]
