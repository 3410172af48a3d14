"""Facts about schedules. Stream `schedule-<task>`. Exactly one of `expr` and `calendar_event` is set."""

from __future__ import annotations

from cascadenced.events.base import Event, Json


class ScheduleSet(Event, tag="schedule.set", frozen=True, kw_only=True):
    """The task is to run by the clock.

    expr: five-field cron.  timezone: IANA name.  calendar_event: node and poll.  recurrence: kept verbatim.
    """

    task: str
    expr: str | None = None
    timezone: str = "UTC"
    calendar_event: dict[str, Json] | None = None
    recurrence: Json = None


class ScheduleRemoved(Event, tag="schedule.removed", frozen=True, kw_only=True):
    """The task is no longer scheduled."""

    task: str
