"""Settles what is due: asks for the run in the same append that records the instant, or records why there is none."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import reduce
from itertools import islice, takewhile

import structlog
from msgspec.structs import replace

from cascadenced.calendar_files import CalendarFiles, ExclusionsUnknown
from cascadenced.clock import Clock
from cascadenced.errors import CascadenceError, Conflict, Overloaded, Unknown, VaultDamaged, WrongVersion
from cascadenced.eventlog.base import Change, EventLog
from cascadenced.events.base import Context, Event, Recorded
from cascadenced.events.run import TERMINAL
from cascadenced.events.schedule import (
    CalendarRead,
    CalendarUnread,
    SchedulePaused,
    ScheduleRemoved,
    ScheduleResumed,
    ScheduleSet,
    TickFired,
    TicksPassed,
)
from cascadenced.events.streams import schedule_stream
from cascadenced.events.task import TaskEnabled, TaskResumed
from cascadenced.handlers.run_requests import Origin, RunRequests
from cascadenced.identity import SYSTEM, Identity
from cascadenced.ids import RunId
from cascadenced.projections import schedules
from cascadenced.projections.schedules import Stored
from cascadenced.recurrence.jitter import jitter_us
from cascadenced.runtime.controls import Controls
from cascadenced.runtime.runs import Request, Runs
from cascadenced.runtime.tasks import Tasks
from cascadenced.runtime.tick import Ticker
from cascadenced.schedules.decide import Due, Settled, needed_behind, settle
from cascadenced.schedules.model import Schedule, evolve
from cascadenced.schedules.timetable import Timetable, timetable
from cascadenced.vault import VaultPort

_log = structlog.get_logger(__name__)

MAX_DUE = 10_000
"""Instants of one schedule that are settled in one append, at the most."""
_SIDE_BY_SIDE = 64
_AFTER_A_FAULT_S = 60.0
_LOOK_AGAIN_US = 60_000_000
"""After so long, whether a calendar that was never read can be."""
_CHANGES = frozenset({ScheduleSet, SchedulePaused, ScheduleResumed, ScheduleRemoved, TaskEnabled, TaskResumed})
"""Events of a task after which its schedule is looked at."""
_REPLACED = "the next run of its schedule takes its place"


class Ticks:
    """Fires schedules. ticker: when each is looked at."""

    def __init__(
        self,
        log: EventLog,
        clock: Clock,
        runs: Runs,
        requests: RunRequests,
        tasks: Tasks,
        controls: Controls,
        vault: VaultPort,
        calendars: CalendarFiles,
    ) -> None:
        self._log, self._clock = log, clock
        self._runs, self._requests, self._tasks, self._controls = runs, requests, tasks, controls
        self._vault, self._calendars = vault, calendars
        self._open: dict[str, str] = {}  # last runs that have not ended → their schedules
        self._last: dict[str, str] = {}  # and the other way round
        self._over: set[str] | None = set()  # runs that end while the others are read, None from then on
        self._waiting: set[str] = set()  # schedules with instants that wait for the end of a run
        self._revealed: dict[tuple[str, str], Identity] = {}  # whom runs are for, while these are looked at
        self._crowded: dict[str, None] = {}  # those whose run found the queue full, in order
        self._is_crowded = asyncio.Event()
        self.ticker = Ticker(clock, self.look)
        self.on_change: Callable[[], None] = lambda: None
        """Called when schedules are due at other instants than before."""

    async def run(self) -> None:
        """For ever."""
        await self.load()
        self.on_change()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._make_room())
            await self.ticker.run()

    async def _make_room(self) -> None:
        """For ever: schedules whose run found the queue full are looked at again, as many as there is room for."""
        while True:
            await self._is_crowded.wait()
            n_free = await self._runs.room()
            names = list(islice(self._crowded, n_free))
            for name in names:
                del self._crowded[name]
            if not self._crowded:
                self._is_crowded.clear()
            self.ticker.refresh(names)
            await asyncio.sleep(0)

    async def load(self) -> None:
        """Know when each schedule is to be looked at, and hear of what changes that."""
        self._log.observe(self._hear)
        for run_id, task in (await schedules.open_runs(self._log.tables)).items():
            if run_id not in (self._over or ()) and task not in self._last:
                self._begin(run_id, task)
        self._over = None
        after = ""
        while chunk := await schedules.active(self._log.tables, after):
            after = chunk[-1][0]
            self._waiting.update(task for task, schedule in chunk if schedule.queued)
            found = [(task, self._wake_of(task, schedule)) for task, schedule in chunk]
            self.ticker.load([(task, wake_us) for task, wake_us in found if wake_us is not None])
            await asyncio.sleep(0)  # a hundred thousand of them take a while

    def _hear(self, batch: Sequence[Recorded]) -> None:
        """These events were recorded. An end of a run may be what an instant has waited for."""
        for recorded in batch:
            event = recorded.event
            if isinstance(event, TickFired):  # by whomever
                self._begin(event.run_id, event.task)
            elif recorded.type in TERMINAL:
                self._ended(recorded.run_id or "")
            elif type(event) in _CHANGES:
                if isinstance(event, ScheduleRemoved):
                    self._open.pop(self._last.pop(event.task, ""), None)
                self.ticker.refresh([event.task])  # type: ignore[attr-defined]  # all of these have it

    def _wake_of(self, task: str, schedule: Schedule) -> int | None:
        """As `_wake`. A rule that was good and is none now (the data of zones change) is looked at like any other, and
        told of then."""
        try:
            return self._wake(schedule, None if schedule.rule is None else timetable(schedule.rule))
        except CascadenceError:
            return self._clock.now_us()

    async def look(self, names: Sequence[str]) -> Mapping[str, int | None]:
        """Settle what is due of these schedules. Returns when each is to be looked at next."""
        found = await schedules.stored(self._log.tables, names)
        gate, wakes = asyncio.Semaphore(_SIDE_BY_SIDE), dict[str, int | None]()

        async def one(name: str, stored: Stored) -> None:
            async with gate:
                try:
                    wakes[name] = await self._settled(name, stored)
                except Exception:  # noqa: BLE001 -- a fault of ours about one schedule; the others go on
                    _log.exception("schedule_not_settled", task=name)
                    wakes[name] = self._clock.now_us() + round(_AFTER_A_FAULT_S * 1e6)

        await asyncio.gather(*(one(name, stored) for name, stored in found.items()))
        self._revealed.clear()
        self.on_change()
        return wakes

    async def _settled(self, name: str, stored: Stored) -> int | None:
        while True:
            schedule = stored.schedule
            rule = schedule.rule
            if rule is None or schedule.paused:
                self._waiting.discard(name)
                return None
            try:
                if (heard := await self._heard(schedule, rule)) is not None:
                    await self._append(stored, rule, [heard])
                    stored = await self._again(name, stored)
                    continue
                table = await self._calendars.timetable(rule)
                found = self._decided(schedule, rule, table)
                if found.fire is not None:
                    recorded = await self._fire(stored, rule, found)
                elif found.records:
                    recorded = await self._append(stored, rule, found.records)
                else:
                    (self._waiting.add if schedule.queued else self._waiting.discard)(name)
                    return self._wake(schedule, table)
                stored = _after(stored, recorded)
            except WrongVersion:
                stored = await self._again(name, stored)
            except Overloaded:
                self._crowded[name] = None
                self._is_crowded.set()
                return None
            except ExclusionsUnknown:  # nothing is decided until it is known what is excluded; it is recorded why
                return self._clock.now_us() + _LOOK_AGAIN_US
            except CascadenceError as error:
                _log.error("schedule_waits", task=name, error=str(error))
                return self._clock.now_us() + 1_000_000

    async def _again(self, name: str, stored: Stored) -> Stored:
        return (await schedules.stored(self._log.tables, [name])).get(name, stored)

    async def _heard(self, schedule: Schedule, rule: ScheduleSet) -> Event | None:
        """What is new about the file whose events exclude: that it cannot be read, or can again."""
        if rule.exclude_ics is None:
            return None
        path, before = rule.exclude_ics, schedule.calendars.get(rule.exclude_ics, "")
        problem = await self._calendars.problem(rule)
        if (problem or "") == before:
            return None
        if problem is None:
            return CalendarRead(task=rule.task, node=path)
        _log.warning("calendar_unread", task=rule.task, reason=problem)
        return CalendarUnread(task=rule.task, node=path, code="exclude_ics", reason=problem)

    def _decided(self, schedule: Schedule, rule: ScheduleSet, table: Timetable | None) -> Settled:
        now_us = self._clock.now_us()
        due = [] if table is None else _due(rule, table, schedule.settled_us, now_us)
        is_open = rule.task in self._last
        return settle(schedule, due, now_us=now_us, is_open=is_open, refusal=self._refusal(rule), at_most=MAX_DUE)

    def _refusal(self, rule: ScheduleSet) -> str | None:
        """Why the task takes no runs (a code); an event is dispatched whoever answers it."""
        refusal = None if rule.event is not None else self._tasks.refusal(rule.task)
        return None if refusal is None else refusal[0]

    def _wake(self, schedule: Schedule, table: Timetable | None) -> int | None:
        """When something is due next, or waits no longer."""
        rule = schedule.rule
        if rule is None or table is None:
            return None
        if schedule.queued and rule.task not in self._last and self._refusal(rule) is None:
            return self._clock.now_us()
        next_us = table.next_us(schedule.settled_us)
        return None if next_us is None else next_us + _later_us(rule, next_us)

    async def _fire(self, stored: Stored, rule: ScheduleSet, found: Settled) -> Sequence[Event]:
        """Returns what was recorded of the schedule."""
        fire, schedule = found.fire, stored.schedule
        assert fire is not None
        who = await self._who(stored)
        if who is None:
            lost = TicksPassed(
                task=rule.task,
                verdict="suppressed",
                code="identity_missing",
                first_us=fire.due_us,
                last_us=fire.due_us,
            )
            return await self._append(stored, rule, [*found.records, lost])
        if found.cancel is not None:
            with suppress(Conflict, Unknown):  # it has ended, just now
                await self._controls.cancel(found.cancel, via="schedule", by=None, reason=_REPLACED)
        source = f"tick:{rule.task}:{fire.due_us}"
        run_id = self._runs.new_run_id(source, fire.due_us)
        is_answered = rule.event is None or self._tasks.listener(rule.event) is not None
        fired = TickFired(
            task=rule.task,
            due_us=fire.due_us,
            run_id=run_id if is_answered else "",
            local=fire.local,
            code=fire.code,
            merged=fire.merged,
            late_s=max(0, self._clock.now_us() - fire.due_us) / 1e6,
            queued=any(waits.due_us == fire.due_us for waits in schedule.queued),
        )
        records = [*found.records, fired]
        if await self._is_duplicate(rule, fire.due_us, source, who, run_id, [_change(stored, rule, records)]):
            again = TicksPassed(
                task=rule.task,
                verdict="suppressed",
                code="fired_before",
                first_us=fire.due_us,
                last_us=fire.due_us,
            )
            return await self._append(stored, rule, [*found.records, again])
        return records

    async def _is_duplicate(
        self, rule: ScheduleSet, due_us: int, source: str, who: Identity, run_id: RunId, before: Sequence[Change]
    ) -> bool:
        """Ask for what the rule says, with `before` in the same append; whether the instant had fired already."""
        try:
            if rule.event is not None:
                origin = Origin(via="schedule", source=source, at_us=due_us)
                return (await self._requests.dispatch(rule.event, rule.args, who, origin, before=before)).duplicate
            request = Request(task=rule.task, identity=who, via="schedule", args=rule.args, source=source, at_us=due_us)
            return (await self._requests.after_others(request, run_id=run_id, before=before)).duplicate
        except Unknown:  # what was recorded under this source is no run
            return True

    async def _append(self, stored: Stored, rule: ScheduleSet, records: Sequence[Event]) -> Sequence[Event]:
        await self._log.append([_change(stored, rule, records)])
        return records

    async def _who(self, stored: Stored) -> Identity | None:
        """As `whose`; asked once for all that is looked at together."""
        named = stored.user_hash or "", stored.group_hash or ""
        if named not in self._revealed:
            if (who := await whose(self._vault, stored)) is None:
                return None
            self._revealed[named] = who
        return self._revealed[named]

    def _begin(self, run_id: str, task: str) -> None:
        """It is the last run of its schedule; one without an id has ended already."""
        self._open.pop(self._last.pop(task, ""), None)
        if run_id:
            self._open[run_id] = task
            self._last[task] = run_id

    def _ended(self, run_id: str) -> None:
        if self._over is not None:
            self._over.add(run_id)
        task = self._open.pop(run_id, None)
        if task is not None:
            del self._last[task]
            if task in self._waiting:
                self.ticker.refresh([task])


async def whose(vault: VaultPort, stored: Stored) -> Identity | None:
    """Whom the runs of a schedule are for: the system, where it names nobody; None if the vault cannot tell."""
    if stored.user_hash is None:
        return SYSTEM
    try:
        return await vault.reveal(stored.user_hash, stored.group_hash or "")
    except (Unknown, VaultDamaged):
        return None


def _due(rule: ScheduleSet, table: Timetable, after_us: int, now_us: int) -> list[Due]:
    due = table.due(after_us, now_us, MAX_DUE + needed_behind(rule))
    if not rule.jitter_s:
        return due
    delayed = [replace(each, later_us=_later_us(rule, each.at_us)) for each in due]
    # What comes after one that is still delayed is not settled before it.
    return list(takewhile(lambda each: each.late_us(now_us) >= 0, delayed))


def _later_us(rule: ScheduleSet, at_us: int) -> int:
    return jitter_us(rule.task, at_us, rule.jitter_s) if rule.jitter_s else 0


def _after(stored: Stored, events: Sequence[Event]) -> Stored:
    """As it is stored once these events are recorded."""
    return replace(stored, schedule=reduce(evolve, events, stored.schedule), version=stored.version + len(events))


def _change(stored: Stored, rule: ScheduleSet, events: Sequence[Event]) -> Change:
    context = Context(user_hash=stored.user_hash, group_hash=stored.group_hash)
    return Change(schedule_stream(rule.task), events, stored.version, context)
