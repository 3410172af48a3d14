"""Every question that HTTP, the bus, the socket and offline commands may ask, answered from committed rows.

Lists and rows from a frozen projection say so (`stale_since`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec

from cascadenced.calendar_files import CalendarFiles
from cascadenced.clock import iso
from cascadenced.errors import Conflict, Unknown, no_schedule
from cascadenced.eventlog.base import ProjectionState, Tables
from cascadenced.events.base import Recorded
from cascadenced.events.run import RunRequested
from cascadenced.events.schedule import ScheduleSet
from cascadenced.events.streams import run_stream
from cascadenced.pipeline.explain import Around, Explanation, Queue, explain, waits_for_children
from cascadenced.pipeline.model import fold
from cascadenced.pipeline.policy import Policy
from cascadenced.pipeline.queue import Slots
from cascadenced.pipeline.run_diff import RunDiff, diff
from cascadenced.projections import audit_trail, dead_letters, followups, pointers, runs, schedules, task_status
from cascadenced.projections.audit_trail import Category, Partial
from cascadenced.projections.dead_letters import DeadLetterRow
from cascadenced.projections.page import Page, checked_limit, checked_position
from cascadenced.projections.run_view import RunRow, RunView, run_view
from cascadenced.projections.schedule_view import ScheduleRow, list_schedules, list_ticks, one_schedule, tick_at
from cascadenced.projections.task_status import TaskRow
from cascadenced.schedules.explain import Record, TickExplanation, instants, meant
from cascadenced.schedules.explain import explain as explain_instant
from cascadenced.schedules.preview import Previewed, preview
from cascadenced.schedules.simulate import Difference, Simulation, difference, simulate
from cascadenced.schedules.timetable import Timetable


class TaskView(TaskRow):
    """A task and its newest runs."""

    recent_runs: list[RunRow]
    stale_since: str | None = None


class EventView(msgspec.Struct):
    """A recorded event as others may see it. time: ISO 8601 UTC.  data: the event's own JSON."""

    position: int
    id: str
    stream: str
    version: int
    type: str
    time: str
    run_id: str | None
    cause: str | None
    correlation: str | None
    user_hash: str | None
    group_hash: str | None
    data: msgspec.Raw


def event_view(recorded: Recorded) -> EventView:
    return EventView(
        position=recorded.position,
        id=recorded.id,
        stream=recorded.stream,
        version=recorded.version,
        type=recorded.type,
        time=iso(recorded.at_us),
        run_id=recorded.run_id,
        cause=recorded.cause,
        correlation=recorded.correlation,
        user_hash=recorded.user_hash,
        group_hash=recorded.group_hash,
        data=msgspec.Raw(recorded.data),
    )


class Answers:
    """Over a live log, or over a file that nobody writes."""

    def __init__(
        self,
        tables: Tables,
        read_stream: Callable[[str, int], Awaitable[list[Recorded]]],
        states: Callable[[], Awaitable[Sequence[ProjectionState]]],
        calendars: CalendarFiles,
    ) -> None:
        self._tables, self._read_stream, self._states = tables, read_stream, states
        self._calendars = calendars

    async def tasks(self) -> list[TaskRow]:
        """All tasks, in order of registration."""
        return [task_status.task_row(state) for state in (await task_status.load(self._tables)).values()]

    async def task(self, name: str, row: TaskRow | None = None) -> TaskView:
        """row: fresher than the table, if the caller has it. Raises Unknown."""
        if row is None:
            state = (await task_status.load(self._tables)).get(name)
            if state is None:
                raise Unknown(f"Unknown task: {name}")
            row = task_status.task_row(state)
        recent = await runs.list_runs(self._tables, task=name, limit=20)
        stale = await self._stale("runs") or await self._stale("task_status")
        return TaskView(**msgspec.structs.asdict(row), recent_runs=recent.items, stale_since=stale)

    async def runs(self, **query: Any) -> Page:
        """See `projections.runs.list_runs`."""
        return await self._page("runs", runs.list_runs(self._tables, **query))

    async def run(self, given: str) -> RunView:
        """A run by its id or the beginning of it. Raises Unknown, Invalid if it is ambiguous."""
        events = await self._events_of(given)
        request = events[0].event
        requires = request.requires if isinstance(request, RunRequested) else ()
        return run_view(events, await runs.statuses(self._tables, requires) if requires else {})

    async def run_events(self, given: str, *, limit: int = 100, after: str | None = None) -> Page:
        """The events of a run, oldest first; the cursor is a version."""
        checked_limit(limit)
        version = checked_position(after) or 0
        events = [event for event in await self._events_of(given) if event.version > version]
        shown = events[:limit]
        return Page([event_view(e) for e in shown], str(shown[-1].version) if len(events) > limit else None)

    async def explain(
        self,
        given: str,
        *,
        limit: int,
        policy: Callable[[str], Policy | None],
        is_up: bool,
        now_us: int,
        epoch: int | None = None,
        slots: Callable[[str, str], Slots | None] = lambda run_id, task: None,
    ) -> Explanation:
        """Why a run is as it is. limit: slots of the instance.  policy: of a task, None if its code is not here.
        is_up: whether a daemon is there that could go on with it.  epoch: of what that one records.  slots: how a run
        of a task finds them; None: as far as the table knows. Raises as `run` does."""
        events = await self._events_of(given)
        run = fold(recorded.event for recorded in events)
        queue, max_attempts = None, {}
        if run.status == "queued" or (run.wait is not None and run.wait.kind == "retry"):
            asked = policy(run.task) or Policy()
            max_attempts = {stage: retry.max_attempts for stage, retry in asked.retries.items()}
            if run.status == "queued":
                run_id = events[0].run_id or ""
                found = slots(run_id, run.task) or await runs.slots(self._tables, run.task)
                ahead = await runs.n_ahead(self._tables, run_id) if found.ahead is None else found.ahead
                queue = Queue(
                    place=1 + ahead,
                    n_running=found.n_running,
                    limit=limit,
                    n_of_task=0 if asked.max_concurrent is None else found.n_of_task,
                    task_limit=asked.max_concurrent,
                )
        around = Around(
            statuses=await runs.statuses(self._tables, waits_for_children(run)),
            required=await runs.required(self._tables, run.requires) if run.is_held_back else (),
            queue=queue,
            max_attempts=max_attempts,
            is_up=is_up,
            epoch=epoch,
            now_us=now_us,
            came_at=await runs.came_at(self._tables, run, events[0].group_hash, events[0].position),
        )
        return explain(events, around)

    async def diff(self, left: str, right: str, *, times: bool = False) -> RunDiff:
        """Where two runs differ. Raises as `run` does."""
        return diff(await self._events_of(left), await self._events_of(right), times=times)

    async def trail(self, task: str, category: Category = "all", **query: Any) -> Page:
        """See `projections.audit_trail.trail`."""
        return await self._page("audit_trail", audit_trail.trail(self._tables, task, category=category, **query))

    async def partial(self, task: str, stage: str, **query: Any) -> Partial:
        """See `projections.audit_trail.newest_partial`."""
        return await audit_trail.newest_partial(self._tables, task, stage, **query)

    async def pointers(self, **query: Any) -> Page:
        return await self._page("pointers", pointers.list_pointers(self._tables, **query))

    async def schedules(self, *, now_us: int = 0, **query: Any) -> Page:
        """now_us: what comes after it is next, and after what is settled."""
        listing = list_schedules(self._tables, self._calendars.shown, now_us=now_us, **query)
        return await self._page("schedules", listing)

    async def schedule(self, task: str, *, now_us: int) -> ScheduleRow | None:
        """None if it is not set."""
        return await one_schedule(self._tables, self._calendars.shown, task, now_us=now_us)

    async def explain_tick(self, task: str, asked: str, *, now_us: int) -> TickExplanation:
        """Why an instant of a schedule is due or is not, and what became of it. asked: a local time of its zone, or an
        instant with an offset. Raises Unknown for a schedule that never was, Invalid for what is no time."""
        stored = (await schedules.stored(self._tables, [task])).get(task)
        if stored is None:
            raise no_schedule(task)
        rule = stored.schedule.rule
        table = None if rule is None else await self._calendars.shown(rule)
        due = instants(table, asked)
        others = () if due else meant(None if rule is None else rule.zone, asked)
        records = [record for at_us in due if (record := await tick_at(self._tables, task, at_us)) is not None]
        for at_us in others:
            # Of another rule that the schedule had: what is between a record's ends may not be its own.
            record = await tick_at(self._tables, task, at_us)
            if record is not None and iso(at_us) in (record.at, record.until):
                records.append(record)
        again = [
            run_id
            for at_us in (*due, *others)
            if (run_id := await schedules.backfilled(self._tables, task, at_us)) is not None
        ]
        return explain_instant(
            stored.schedule,
            table,
            asked,
            task=task,
            again=again,
            records=[Record(r.at, r.until, r.n, r.verdict, r.code, r.run_id, r.into) for r in records],
            now_us=now_us,
        )

    async def preview(self, task: str, *, after_us: int, count: int) -> list[Previewed]:
        """When a schedule is due next. Raises Unknown, Conflict where its calendar was not read yet, Unavailable where
        the file whose events it excludes cannot be."""
        stored = (await schedules.stored(self._tables, [task])).get(task)
        if stored is None or stored.schedule.rule is None:
            raise no_schedule(task)
        table = await self._calendars.timetable(stored.schedule.rule)
        if table is None:
            raise Conflict(f"the calendar of {task} was not read yet", code="calendar_unread")
        return preview(table, after_us=after_us, count=count)

    async def simulate(
        self, *, from_us: int, to_us: int, changed: Mapping[str, ScheduleSet] | None
    ) -> tuple[Simulation, Simulation | None, list[Difference]]:
        """What the schedules that are set would do in a time, and what they would if they were `changed`; runs last as
        long as the newest of their tasks did. Raises Invalid where that is too much."""
        stored = await schedules.everything(self._tables)
        rules = {
            task: each.schedule.rule
            for task, each in stored.items()
            if each.schedule.rule is not None and not each.schedule.paused
        }
        calendars = await self._excluding(rules)
        lasting = await runs.durations_s(self._tables, sorted({*rules, *(changed or ())}))
        # It is much to compute, and others are to be served meanwhile.
        span = {"from_us": from_us, "to_us": to_us}
        before = await asyncio.to_thread(simulate, rules, **span, durations_s=lasting, calendars=calendars)
        if changed is None:
            return before, None, []
        calendars = await self._excluding(changed)
        after = await asyncio.to_thread(simulate, changed, **span, durations_s=lasting, calendars=calendars)
        return before, after, difference(before, after, {**rules, **changed})

    async def _excluding(self, rules: Mapping[str, ScheduleSet]) -> Mapping[str, Timetable | None]:
        """What rules are due at that name a calendar not to fire during."""
        naming = {task: rule for task, rule in rules.items() if rule.exclude_ics is not None}
        return {task: await self._calendars.timetable(rule) for task, rule in naming.items()}

    async def ticks(self, task: str, **query: Any) -> Page:
        """What became of its due instants, newest first. Raises Unknown for a schedule that never was."""
        page = await self._page("schedules", list_ticks(self._tables, task, **query))
        if not page.items and task not in await schedules.stored(self._tables, [task]):
            raise no_schedule(task)
        return page

    async def followups(self, **query: Any) -> Page:
        return await self._page("followups", followups.list_followups(self._tables, **query))

    async def dead_letters(self, **query: Any) -> Page:
        return await self._page("dead_letters", dead_letters.list_dead_letters(self._tables, **query))

    async def dead_letter(self, position: int) -> DeadLetterRow:
        return await dead_letters.dead_letter(self._tables, position)

    async def projection_states(self) -> Sequence[ProjectionState]:
        return await self._states()

    async def _events_of(self, given: str) -> list[Recorded]:
        # A whole id needs no table: the run's own stream is asked, also while the table of runs is frozen.
        events = await self._read_stream(run_stream(given), 0)
        if not events:
            events = await self._read_stream(run_stream(await runs.resolve_run_id(self._tables, given)), 0)
        return events

    async def _page(self, projection: str, listing: Awaitable[Page]) -> Page:
        page = await listing
        page.stale_since = await self._stale(projection)
        return page

    async def _stale(self, projection: str) -> str | None:
        for state in await self._states():
            if state.name == projection and state.stale_since_us is not None:
                return iso(state.stale_since_us)
        return None
