"""Runs for due instants of the past, because somebody asks for them: each once, however often that is repeated.

The ledger is not touched. What became of an instant when it was due stays what it was; that it was run later is a
record of its own beside it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from itertools import count
from weakref import WeakValueDictionary

import msgspec

from cascadenced.calendar_files import CalendarFiles
from cascadenced.clock import Clock, iso
from cascadenced.errors import Conflict, Invalid, NotAllowed, Overloaded, Unknown, no_schedule
from cascadenced.eventlog.base import Change, EventLog
from cascadenced.events.base import Context
from cascadenced.events.run import RunRefused
from cascadenced.events.schedule import ScheduleSet, TickBackfilled
from cascadenced.events.streams import run_stream, schedule_stream
from cascadenced.handlers.run_requests import Origin, RunRequests
from cascadenced.handlers.ticks import whose
from cascadenced.identity import Identity
from cascadenced.projections import schedules
from cascadenced.projections.schedules import Stored
from cascadenced.runtime.runs import Request, Runs
from cascadenced.runtime.tasks import Tasks
from cascadenced.schedules.decide import Due
from cascadenced.vault import VaultPort

DEFAULT_MAX = 1_000
MAX_SCANNED = 100_000
"""Due instants of a range that are looked at, whatever becomes of them."""
VIA = "backfill"


class BackfilledRun(msgspec.Struct, frozen=True):
    """at: the instant, ISO 8601 UTC.  run_id: None where an event was dispatched that nobody answers.

    duplicate: whether it had been asked for before, in the same way.  status: how the run ended; None if it was not
    waited for.
    """

    at: str
    run_id: str | None
    duplicate: bool
    status: str | None = None


class Backfilled(msgspec.Struct, frozen=True):
    """items: in order of the instants.  n_left_out: those that the rule itself leaves out, or its calendar.

    n_unsettled: those whose turn is still to come; they fire, or are recorded, by themselves.
    """

    task: str
    items: Sequence[BackfilledRun]
    n_left_out: int
    n_unsettled: int


class Backfills:
    """One backfill of a schedule at a time. enabled: False with the scheduler `base`."""

    def __init__(
        self,
        log: EventLog,
        clock: Clock,
        runs: Runs,
        requests: RunRequests,
        tasks: Tasks,
        vault: VaultPort,
        calendars: CalendarFiles,
        *,
        enabled: bool,
    ) -> None:
        self._log, self._clock, self._runs, self._requests, self._tasks = log, clock, runs, requests, tasks
        self._vault, self._calendars, self._enabled = vault, calendars, enabled
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def backfill(
        self,
        task: str,
        *,
        first_us: int,
        last_us: int,
        missed_only: bool = False,
        at_most: int = DEFAULT_MAX,
        by: str | None = None,
    ) -> Backfilled:
        """Ask for runs at the due instants of a schedule's present rule, from one instant to another, both included.

        With overlap `allow` they are asked for at once; else each after the one before has ended, as are those that the
        schedule fired itself, and this returns when all have been asked for. by: pseudonym of whoever asks.
        Raises Unknown, Invalid for more than `at_most`, Conflict for a task that takes no runs, and Unavailable if a
        run that is to be waited for does not end in this process: what was asked for stays, and the same again goes on.
        """
        if not self._enabled:
            raise NotAllowed("scheduler lacks cron capabilities")
        turn = self._turns.setdefault(task, asyncio.Lock())
        async with turn:
            stored = (await schedules.stored(self._log.tables, [task])).get(task)
            if stored is None or stored.schedule.rule is None:
                raise no_schedule(task)
            rule = stored.schedule.rule
            due, n_left_out, n_unsettled = await self._due(stored, rule, first_us, last_us)
            if missed_only:
                fired = await schedules.fired(self._log.tables, task, first_us, last_us)
                due = [each for each in due if each.at_us not in fired]
            if len(due) > at_most:
                raise Invalid(f"{len(due)} instants are due in that range; {at_most} are allowed", code="too_many")
            if (who := await whose(self._vault, stored)) is None:
                raise Conflict(f"the vault does not have whom {task} runs for", code="identity_missing")
            items = [await self._asked(stored, rule, each, who, by) for each in due]
            return Backfilled(task, items, n_left_out, n_unsettled)

    async def _due(self, stored: Stored, rule: ScheduleSet, first_us: int, last_us: int) -> tuple[list[Due], int, int]:
        """(those to run, how many the rule leaves out, how many have their turn still to come)."""
        if first_us > last_us:
            raise Invalid("the range ends before it begins", code="range")
        since_us = self._calendars.since_us(rule)
        if since_us is not None and first_us < since_us:
            raise Invalid(f"what its calendar excludes is known from {iso(since_us)} on only", code="range")
        if (table := await self._calendars.timetable(rule)) is None:
            raise Conflict(f"the calendar of {rule.task} was not read yet", code="calendar_unread")
        found = table.due(first_us - 1, min(last_us, self._clock.now_us()), MAX_SCANNED + 1)
        if len(found) > MAX_SCANNED:
            raise Invalid(f"more than {MAX_SCANNED} instants are due in that range", code="too_many")
        waiting = {waits.due_us for waits in stored.schedule.queued}
        past = [each for each in found if each.at_us <= stored.schedule.settled_us and each.at_us not in waiting]
        due = [each for each in past if each.fires]
        return due, len(past) - len(due), len(found) - len(past)

    async def _asked(self, stored: Stored, rule: ScheduleSet, due: Due, who: Identity, by: str | None) -> BackfilledRun:
        if rule.overlap != "allow" and stored.schedule.last_run_id:
            with suppress(Unknown):
                await self._runs.ended(stored.schedule.last_run_id)
        while True:
            # A run that were refused would be the one of its source for ever.
            if rule.event is None and (refusal := self._tasks.refusal(rule.task)) is not None:
                raise Conflict(refusal[1], code=refusal[0])
            try:
                run_id, is_duplicate = await self._requested(stored, rule, due, who, by)
                break
            except Overloaded:
                await self._runs.room()
        status = None
        if rule.overlap != "allow" and run_id:
            status = (await self._runs.ended(run_id)).run.status
        return BackfilledRun(iso(due.at_us), run_id, is_duplicate, status)

    async def _requested(
        self, stored: Stored, rule: ScheduleSet, due: Due, who: Identity, by: str | None
    ) -> tuple[str | None, bool]:
        """(run, whether it had been asked for before). One that was refused, because what it needs had failed, has
        done nothing, and is asked for again under another source."""
        source = f"tick:{rule.task}:{due.at_us}:backfill"
        for nth in count(1):
            run_id, is_duplicate = await self._request(
                source if nth == 1 else f"{source}:{nth}", stored, rule, due, who, by
            )
            if not is_duplicate:
                return run_id, False
            told = [] if run_id is None else await self._log.read_stream(run_stream(run_id))
            if not told:
                return None, True  # the event was dispatched, and nobody answered
            if not any(isinstance(recorded.event, RunRefused) for recorded in told):
                return run_id, True
        raise AssertionError

    async def _request(
        self, source: str, stored: Stored, rule: ScheduleSet, due: Due, who: Identity, by: str | None
    ) -> tuple[str | None, bool]:
        is_answered = rule.event is None or self._tasks.listener(rule.event) is not None
        run_id = self._runs.new_run_id(source, due.at_us)
        event = TickBackfilled(task=rule.task, due_us=due.at_us, run_id=run_id if is_answered else "", by=by)
        context = Context(user_hash=stored.user_hash, group_hash=stored.group_hash)
        before = [Change(schedule_stream(rule.task), [event], None, context)]
        if rule.event is not None:
            origin = Origin(via=VIA, source=source, at_us=due.at_us)
            dispatched = await self._requests.dispatch(rule.event, rule.args, who, origin, before=before)
            return run_id if dispatched.duplicate else dispatched.run_id, dispatched.duplicate
        request = Request(task=rule.task, identity=who, via=VIA, args=rule.args, source=source, at_us=due.at_us)
        try:
            accepted = await self._requests.after_others(request, run_id=run_id, before=before)
        except Unknown:  # what was recorded first under this source is the record of the schedule
            return run_id, True
        return accepted.run_id, accepted.duplicate
