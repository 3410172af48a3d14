"""A schedule as its events leave it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec
from msgspec.structs import replace

from cascadenced.events.base import Event
from cascadenced.events.schedule import (
    CalendarRead,
    CalendarUnread,
    SchedulePaused,
    ScheduleRemoved,
    ScheduleResumed,
    ScheduleSet,
    TickFired,
    TickQueued,
    TicksPassed,
)

Verdict = Literal["skipped", "coalesced", "suppressed"]

_NOTHING = -(2**62)


class Queued(msgspec.Struct, frozen=True, array_like=True):
    """A due instant and what is known of it, as in `decide.Due`; of a schedule: one that waits for the end of a run."""

    due_us: int
    local: str = ""
    code: str | None = None
    merged: tuple[str, ...] = ()


class Schedule(msgspec.Struct, frozen=True, omit_defaults=True):
    """rule: None when it is not set, or not any more.

    settled_us: each due instant up to this one has its record, or is in `queued`; never goes down, whatever becomes of
    the rule.  last_run_id: of the newest tick that fired.  fired_us: its instant.
    calendars: those that its rule names and that were read, or could not be → why not, the last time; empty if they
    could.
    """

    rule: ScheduleSet | None = None
    settled_us: int = _NOTHING
    paused: bool = False
    queued: tuple[Queued, ...] = ()
    last_run_id: str | None = None
    fired_us: int | None = None
    calendars: dict[str, str] = {}

    @property
    def is_set(self) -> bool:
        return self.rule is not None


def evolve(schedule: Schedule, event: Event) -> Schedule:
    """`schedule` after `event`, which is of its stream."""
    match event:
        case TickFired():  # first what comes all the time
            return replace(
                schedule,
                settled_us=max(schedule.settled_us, event.due_us),
                queued=_without(schedule.queued, event.due_us, event.due_us),
                last_run_id=event.run_id,
                fired_us=event.due_us,
            )
        case ScheduleSet():
            named = ((event.calendar_event or {}).get("node"), event.exclude_ics)
            calendars = {name: why for name, why in schedule.calendars.items() if name in named}
            settled_us = max(schedule.settled_us, event.from_us)
            return replace(schedule, rule=event, settled_us=settled_us, calendars=calendars)
        case ScheduleRemoved():
            return Schedule(settled_us=max(schedule.settled_us, event.settled_us))
        case CalendarRead():
            return replace(schedule, calendars={**schedule.calendars, event.node: ""})
        case CalendarUnread():
            return replace(schedule, calendars={**schedule.calendars, event.node: event.reason})
        case SchedulePaused():
            return replace(schedule, paused=True)
        case ScheduleResumed():
            return replace(schedule, paused=False)
        case TicksPassed():
            return replace(
                schedule,
                settled_us=max(schedule.settled_us, event.last_us),
                queued=_without(schedule.queued, event.first_us, event.last_us),
            )
        case TickQueued():
            waits = Queued(event.due_us, event.local, event.code, event.merged)
            return replace(
                schedule, settled_us=max(schedule.settled_us, event.due_us), queued=(*schedule.queued, waits)
            )
        case _:
            return schedule


def fold(events: Iterable[Event]) -> Schedule:
    schedule = Schedule()
    for event in events:
        schedule = evolve(schedule, event)
    return schedule


def _without(queued: tuple[Queued, ...], first_us: int, last_us: int) -> tuple[Queued, ...]:
    return tuple(waits for waits in queued if not first_us <= waits.due_us <= last_us) if queued else queued
