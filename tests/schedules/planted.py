"""Bugs that are planted in the real code, to see whether a month finds them.

Each replaces one thing by a worse one; when a name is gone, planting fails and says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from msgspec.structs import replace

from cascadenced.events.base import Event, Recorded
from cascadenced.events.schedule import ScheduleResumed, ScheduleSet, TickFired, TicksPassed
from cascadenced.handlers import schedule_requests, ticks
from cascadenced.handlers.ticks import Ticks
from cascadenced.projections import schedules
from cascadenced.runtime.runs import Request, Runs
from cascadenced.schedules.model import Schedule, evolve

Put = Callable[[object, str, object], None]
"""(place, name, what is worse)"""

BUGS: dict[str, Callable[[Put], None]] = {}


def _bug(plant: Callable[[Put], None]) -> Callable[[Put], None]:
    BUGS[plant.__name__] = plant
    return plant


@_bug
def the_cursor_stays_behind_what_was_skipped(put: Put) -> None:
    def worse(schedule: Schedule, event: Event) -> Schedule:
        after = evolve(schedule, event)
        if isinstance(event, TicksPassed) and event.n > 1:
            return replace(after, settled_us=max(schedule.settled_us, event.first_us))
        return after

    put(schedules, "evolve", worse)


@_bug
def a_change_does_not_settle_what_is_owed(put: Put) -> None:
    put(schedule_requests, "pass_all", lambda *_: [])


@_bug
def a_stale_version_is_as_good_as_any(put: Put) -> None:
    change = ticks._change

    def worse(*args: Any) -> Any:
        return replace(change(*args), expected=None)

    put(ticks, "_change", worse)


@_bug
def neither_the_version_nor_the_source_is_looked_at(put: Put) -> None:
    a_stale_version_is_as_good_as_any(put)
    request = Runs.request

    async def worse(self: Runs, asked: Request, **options: Any) -> Any:
        is_tick = (asked.source or "").startswith("tick:")
        return await request(self, replace(asked, source=None) if is_tick else asked, **options)

    put(Runs, "request", worse)


@_bug
def what_waits_is_forgotten_at_a_restart(put: Put) -> None:
    row = schedules._row
    apply = schedules.Schedules.apply

    def without(task: str, stored: schedules.Stored) -> Any:
        stored.schedule = replace(stored.schedule, queued=())
        return row(task, stored)

    def worse(self: schedules.Schedules, connection: Any, batch: Sequence[Recorded]) -> None:
        is_restart = batch[0].at_us != batch[-1].at_us  # else it is a commit
        schedules._row = without if is_restart else row
        apply(self, connection, batch)

    put(schedules, "_row", row)  # which puts it back in the end
    put(schedules.Schedules, "apply", worse)


@_bug
def runs_under_way_are_forgotten_at_a_restart(put: Put) -> None:
    async def worse(_: Any) -> dict[str, str]:
        return {}

    put(schedules, "open_runs", worse)


@_bug
def a_clock_that_was_set_back_takes_the_cursor_along(put: Put) -> None:
    def worse(schedule: Schedule, event: Event) -> Schedule:
        after = evolve(schedule, event)
        return replace(after, settled_us=event.from_us) if isinstance(event, ScheduleSet) else after

    put(schedules, "evolve", worse)


@_bug
def the_run_is_an_append_of_its_own(put: Put) -> None:
    request = Runs.request

    async def worse(self: Runs, asked: Request, *, before: Sequence[Any] = (), **options: Any) -> Any:
        if before:
            await self._log.append(before)
        return await request(self, asked, **options)

    put(Runs, "request", worse)


@_bug
def a_pause_is_not_remembered(put: Put) -> None:
    put(schedules, "evolve", lambda schedule, event: replace(evolve(schedule, event), paused=False))


@_bug
def a_resumed_schedule_is_looked_at_at_the_next_start_only(put: Put) -> None:
    put(ticks, "_CHANGES", ticks._CHANGES - {ScheduleResumed})


@_bug
def a_disabled_task_runs_all_the_same(put: Put) -> None:
    decided = Ticks._decided

    def worse(self: Ticks, schedule: Schedule, rule: ScheduleSet) -> Any:
        tasks, self._tasks = self._tasks, _Willing()  # type: ignore[assignment]
        try:
            return decided(self, schedule, rule)
        finally:
            self._tasks = tasks

    put(Ticks, "_decided", worse)


class _Willing:
    """Tasks that take any run."""

    def refusal(self, _: str) -> None:
        return None


@_bug
def the_table_keeps_no_fires(put: Put) -> None:
    tick = schedules._tick

    def worse(event: object, position: int) -> Any:
        return None if isinstance(event, TickFired) and event.queued else tick(event, position)

    put(schedules, "_tick", worse)
