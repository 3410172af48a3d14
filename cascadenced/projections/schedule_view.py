"""Schedules as people read them, with when they are due next; and what became of their due instants."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import msgspec

from cascadenced.clock import iso
from cascadenced.eventlog.base import Row, Tables
from cascadenced.events.base import Json
from cascadenced.events.schedule import ScheduleSet
from cascadenced.projections.page import Page, checked_end, checked_limit, page
from cascadenced.schedules.model import Schedule
from cascadenced.schedules.timetable import Timetable

_decode = msgspec.json.Decoder(Schedule).decode

_SHOWN = "task, state, user_hash, group_hash"
TimetableOf = Callable[[ScheduleSet], Awaitable[Timetable | None]]
"""Knows when a rule is due."""


class ScheduleRow(msgspec.Struct):
    """A schedule. next_fire_at: ISO 8601 with the zone's offset; null when it is paused, or never due any more.

    n_queued: due instants that wait for the end of a run.  unread: why a calendar that it names cannot be read, now.
    """

    task: str
    expr: str | None
    timezone: str
    paused: bool
    next_fire_at: str | None
    rrule: str | None
    every_s: float | None
    at: str | None
    calendar_event: Json
    recurrence: Json
    event: str | None
    gap: str
    fold: str
    misfire: str
    misfire_within_s: float
    misfire_max: int
    overlap: str
    jitter_s: float
    exclude: Sequence[str]
    exclude_ics: str | None
    args: dict[str, Json]
    via: str
    last_run_id: str | None
    last_fired_at: str | None
    n_queued: int
    unread: str | None
    user_hash: str | None
    group_hash: str | None


async def list_schedules(
    tables: Tables, timetable_of: TimetableOf, *, now_us: int, limit: int = 100, after: str | None = None
) -> Page:
    """By task name. now_us: what comes after it is next."""
    checked_limit(limit)
    rows = await tables.fetch(
        f"SELECT {_SHOWN} FROM schedules WHERE is_set = 1 AND task > ? ORDER BY task LIMIT ?",  # noqa: S608
        (after or "", limit + 1),
    )
    shown = {row[0]: await _shown(row, timetable_of, now_us) for row in rows[:limit]}
    return page(rows, limit, lambda row: shown[row[0]], lambda row: str(row[0]))


async def one_schedule(tables: Tables, timetable_of: TimetableOf, task: str, *, now_us: int) -> ScheduleRow | None:
    """None if it is not set."""
    rows = await tables.fetch(f"SELECT {_SHOWN} FROM schedules WHERE is_set = 1 AND task = ?", (task,))  # noqa: S608
    return await _shown(rows[0], timetable_of, now_us) if rows else None


async def _shown(row: Row, timetable_of: TimetableOf, now_us: int) -> ScheduleRow:
    task, state, user_hash, group_hash = row
    schedule = _decode(state)
    rule = schedule.rule
    assert rule is not None
    return ScheduleRow(
        task=task,
        expr=rule.expr,
        timezone=rule.zone,
        paused=schedule.paused,
        next_fire_at=None if schedule.paused else _next_fire_at(schedule, await timetable_of(rule), now_us),
        rrule=rule.rrule,
        every_s=rule.every_s,
        at=rule.at,
        calendar_event=rule.calendar_event,
        recurrence=rule.recurrence,
        event=rule.event,
        gap=rule.gap,
        fold=rule.fold,
        misfire=rule.misfire,
        misfire_within_s=rule.misfire_within_s,
        misfire_max=rule.misfire_max,
        overlap=rule.overlap,
        jitter_s=rule.jitter_s,
        exclude=rule.exclude,
        exclude_ics=rule.exclude_ics,
        args=rule.args,
        via=rule.via,
        last_run_id=schedule.last_run_id,
        last_fired_at=None if schedule.fired_us is None else iso(schedule.fired_us),
        n_queued=len(schedule.queued),
        unread=next((why for why in schedule.calendars.values() if why), None),
        user_hash=user_hash,
        group_hash=group_hash,
    )


def _next_fire_at(schedule: Schedule, table: Timetable | None, now_us: int) -> str | None:
    if table is None:
        return None
    next_us = table.next_fire_us(max(now_us, schedule.settled_us))
    return None if next_us is None else table.shown(next_us)


class TickRow(msgspec.Struct):
    """What became of a due instant, or of `n` in a row up to `until`. run_id: that was fired, or that was in the way.

    into: the instant that it was coalesced with.  at, until, into: ISO 8601 UTC.  n_backfilled: instants among these
    for which a run was asked for later.
    """

    task: str
    at: str
    until: str
    n: int
    verdict: str
    code: str | None
    run_id: str | None
    into: str | None
    position: int
    n_backfilled: int


_TICK = (
    "task, first_us, last_us, n, verdict, code, run_id, into_us, position, "
    "(SELECT COUNT(*) FROM backfills AS b WHERE b.task = ticks.task AND b.due_us BETWEEN first_us AND last_us)"
)


async def list_ticks(tables: Tables, task: str, *, limit: int = 100, after: str | None = None) -> Page:
    """Newest first. after: an instant, µs since 1970."""
    checked_limit(limit)
    end = checked_end(after)
    rows = await tables.fetch(
        f"SELECT {_TICK} FROM ticks WHERE task = ? AND first_us < ? ORDER BY first_us DESC LIMIT ?",  # noqa: S608
        (task, end, limit + 1),
    )
    return page(rows, limit, _tick_row, lambda row: str(row[1]))


async def tick_at(tables: Tables, task: str, due_us: int) -> TickRow | None:
    """The record that settles an instant, None if there is none."""
    rows = await tables.fetch(
        f"SELECT {_TICK} FROM ticks WHERE task = ? AND first_us <= ? ORDER BY first_us DESC LIMIT 1",  # noqa: S608
        (task, due_us),
    )
    return _tick_row(rows[0]) if rows and rows[0][2] >= due_us else None


def _tick_row(row: Row) -> TickRow:
    task, first_us, last_us, n, verdict, code, run_id, into_us, position, n_backfilled = row
    into = None if into_us is None else iso(into_us)
    return TickRow(task, iso(first_us), iso(last_us), n, verdict, code, run_id, into, position, n_backfilled)
