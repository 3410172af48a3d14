"""A schedule is set, changed, paused, resumed or removed, through whichever door.

Before any of these, what is due by then and has no record gets one: what was due before a change is the old rule's, and
is never fired by the new one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePath
from typing import NamedTuple
from weakref import WeakValueDictionary

import msgspec
from msgspec.structs import replace

from cascadenced.calendar_files import CalendarFiles
from cascadenced.clock import Clock
from cascadenced.errors import Conflict, Invalid, NotAllowed, Unknown, WrongVersion, no_schedule
from cascadenced.eventlog.base import Change, EventLog
from cascadenced.events.base import Context, Event, Json
from cascadenced.events.content import cut
from cascadenced.events.schedule import (
    CalendarRead,
    CalendarUnread,
    SchedulePaused,
    ScheduleRemoved,
    ScheduleResumed,
    ScheduleSet,
    TicksPassed,
)
from cascadenced.events.streams import schedule_stream
from cascadenced.handlers.calendar_nodes import NOT_CONFIGURED
from cascadenced.handlers.prerequisites import Prerequisites
from cascadenced.identity import Identity, Pseudonyms
from cascadenced.projections import schedules
from cascadenced.projections.schedules import Stored
from cascadenced.runtime.tasks import Tasks
from cascadenced.schedules.calendar_node import as_node_says
from cascadenced.schedules.decide import Due, drop_queued, pass_all
from cascadenced.schedules.definition import Definition, defined
from cascadenced.schedules.model import Schedule
from cascadenced.schedules.timetable import timetable_now
from cascadenced.vault import VaultPort

_SETTLED_AT_ONCE = 10_000
_FROM_OUTSIDE = frozenset({"bus", "http", "event"})
"""Doors of others than the owner of the data folder, who must not learn which files there are on this machine."""


def _is_beside(path: str) -> bool:
    return not PurePath(path).is_absolute() and ".." not in PurePath(path).parts


class ScheduleChanged(msgspec.Struct, frozen=True):
    """changed: whether something was recorded.  duplicate: whether that was so before, under the same source."""

    task: str
    changed: bool = True
    duplicate: bool = False


class Node(NamedTuple):
    """A node of the calendar, the schedule that gets its rule from it, and whom that is for."""

    task: str
    name: str
    user_hash: str | None
    group_hash: str | None


def node_of(task: str, stored: Stored) -> Node | None:
    """The node of a schedule, None if it has none."""
    name = None if stored.schedule.rule is None else _node(stored.schedule.rule)
    return None if name is None else Node(task, name, stored.user_hash, stored.group_hash)


class ScheduleRequests:
    """The one way to change schedules. Changes of one schedule are made in the order they are asked for.

    All of them raise NotAllowed with the scheduler `base`. by: pseudonym of whoever asks.  source: of the append.
    """

    def __init__(
        self,
        log: EventLog,
        clock: Clock,
        tasks: Tasks,
        vault: VaultPort,
        pseudonyms: Pseudonyms,
        prerequisites: Prerequisites,
        calendars: CalendarFiles,
        *,
        timezone: str,
        enabled: bool,
        has_calendar: bool = False,
    ) -> None:
        """timezone: of schedules that name none.  enabled: False with the scheduler `base`, which has none.

        has_calendar: whether there is one to read nodes of.
        """
        self._log, self._clock, self._tasks = log, clock, tasks
        self._vault, self._pseudonyms = vault, pseudonyms
        self._prerequisites, self._calendars = prerequisites, calendars
        self._timezone, self._enabled, self._has_calendar = timezone, enabled, has_calendar
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def limit(self, *, timezone: str) -> None:
        """Another default from now on."""
        self._timezone = timezone

    def defined(self, task: str, entry: Json, via: str) -> Definition:
        """See `schedules.definition.defined`."""
        return defined(task, entry, now_us=self._clock.now_us(), timezone=self._timezone, via=via)

    async def set(
        self, task: str, entry: Json, *, via: str, who: Identity | None = None, source: str | None = None
    ) -> ScheduleChanged:
        """Set the schedule of a task, or change it. who: whom it is for, where `entry` does not say.

        Nothing is recorded if it is so already, unless there is a source to remember.
        Raises Unknown for a task that is not registered, or that it is to run after and is not; Invalid for an entry
        that is no schedule.
        """
        definition = self.defined(task, entry, via)
        self.refuse_strangers(definition)
        await self.refuse_unreadable(definition)
        self.refuse_cycle(task, {task: definition})
        return await self.set_defined(task, definition, who=who, source=source)

    async def refuse_unreadable(self, definition: Definition) -> None:
        """Raises Invalid for a new rule that names a calendar which cannot be read. What is set already stays so: a
        setting or a file that is missing today takes nobody's schedules away."""
        if definition.rule.calendar_event is not None and not self._has_calendar:
            raise Invalid(NOT_CONFIGURED, code="not_configured")
        path = definition.rule.exclude_ics
        if path is not None and definition.rule.via in _FROM_OUTSIDE and not _is_beside(path):
            raise Invalid(
                "exclude_ics: from outside only a file in the folder of schedules.yml can be named, by a relative path",
                code="exclude_ics",
            )
        await self._calendars.check(definition.rule)

    def refuse_strangers(self, definition: Definition) -> None:
        """Raises Unknown for what is to run after tasks that there are none of: no run of it could ever start."""
        for needed in definition.rule.deps:
            if self._tasks.get(needed) is None:
                raise Unknown(f"Unknown task: {needed}", code="unknown_task")

    def refuse_cycle(self, task: str, definitions: Mapping[str, Definition]) -> None:
        """Raises Invalid if `task` would have to run before itself, were all of these set, by task."""
        self._prerequisites.check(task, {name: each.rule.deps for name, each in definitions.items()})

    async def set_defined(
        self, task: str, definition: Definition, *, who: Identity | None = None, source: str | None = None
    ) -> ScheduleChanged:
        """As `set`, of an entry that was read before and that nothing refuses."""
        self._refuse_base()
        if definition.rule.event is None and self._tasks.get(task) is None:
            raise Unknown(f"Unknown task: {task}", code="unknown_task")
        context = await self.whom(definition, who)

        def change(stored: Stored, owed: Sequence[Due]) -> list[Event]:
            rule = _continued(stored.schedule, definition.rule)
            is_same = stored.schedule.rule == rule and (stored.user_hash, stored.group_hash) == (
                context.user_hash,
                context.group_hash,
            )
            if is_same:  # nothing that is due is settled by being asked for what is so already
                return [] if source is None else [rule]
            dropped = [] if _does_the_same(stored, rule, context) else drop_queued(stored.schedule, "changed")
            return [*dropped, *pass_all(task, owed, "suppressed", "changed"), rule]

        return await self._change(task, change, context, source)

    async def whom(self, definition: Definition, who: Identity | None = None) -> Context:
        """Whom it is for, by pseudonym; raw ids are in the vault then."""
        named = definition.who
        if "user_id" in named:
            who = Identity(named["user_id"], named.get("group_id", named["user_id"]))
        elif "user_hash" in named:
            return Context(user_hash=named["user_hash"], group_hash=named.get("group_hash"))
        if who is not None:
            await self._vault.remember([who], self._pseudonyms)
        return self.by(who)

    async def remove(
        self, task: str, *, by: Context, source: str | None = None, even_if_unset: bool = False
    ) -> ScheduleChanged:
        """Raises Unknown if it is not set, unless it may be so."""
        now_us = self._clock.now_us()  # before what is owed is looked up, so that nothing falls between

        def change(stored: Stored, owed: Sequence[Due]) -> list[Event]:
            if not even_if_unset:
                self._refuse_unset(task, stored)
            removed = ScheduleRemoved(task=task, by=by.user_hash, settled_us=now_us)
            return [
                *drop_queued(stored.schedule, "removed"),
                *pass_all(task, owed, "suppressed", "removed"),
                removed,
            ]

        return await self._change(task, change, by, source)

    async def pause(self, task: str, *, by: Context, source: str | None = None) -> ScheduleChanged:
        """Nothing fires until it is resumed; nothing is recorded if it is paused already. Raises Unknown."""

        def change(stored: Stored, owed: Sequence[Due]) -> list[Event]:
            self._refuse_unset(task, stored)
            if stored.schedule.paused:
                return []
            return [*pass_all(task, owed, "suppressed", "paused"), SchedulePaused(task=task, by=by.user_hash)]

        return await self._change(task, change, by, source)

    async def resume(self, task: str, *, by: Context, source: str | None = None) -> ScheduleChanged:
        """What was due meanwhile is recorded as suppressed. Raises Unknown, Conflict if it is not paused."""

        def change(stored: Stored, owed: Sequence[Due]) -> list[Event]:
            self._refuse_unset(task, stored)
            if not stored.schedule.paused:
                raise Conflict(f"the schedule of {task} is not paused", code="not_paused")
            return [*pass_all(task, owed, "suppressed", "paused"), ScheduleResumed(task=task, by=by.user_hash)]

        return await self._change(task, change, by, source)

    async def node_says(self, node: Node, recurrence: Json) -> ScheduleChanged:
        """Take over what a node was found to have as its recurrence; nothing, if it is that of the schedule no more.

        Raises Invalid for what is none.
        """

        def change(stored: Stored, owed: Sequence[Due]) -> list[Event]:
            rule = stored.schedule.rule
            if rule is None or node_of(node.task, stored) != node:
                return []
            said = as_node_says(rule, recurrence, now_us=self._clock.now_us())
            was_read = stored.schedule.calendars.get(node.name) == ""
            heard = [] if was_read else [CalendarRead(task=node.task, node=node.name)]
            if said is rule:
                return [*heard]
            passed = pass_all(node.task, owed, "suppressed", "changed") if said.from_us != rule.from_us else []
            return [*passed, *heard, said]

        return await self._change(node.task, change, _whose(node), None)

    async def node_unread(self, node: Node, *, code: str, reason: str) -> ScheduleChanged:
        """A node could not be read. Recorded when the reason is another one than before."""
        reason = cut(reason)

        def change(stored: Stored, owed: Sequence[Due]) -> list[Event]:
            if node_of(node.task, stored) != node or stored.schedule.calendars.get(node.name) == reason:
                return []
            return [CalendarUnread(task=node.task, node=node.name, code=code, reason=reason)]

        return await self._change(node.task, change, _whose(node), None)

    # ── how ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def _change(
        self,
        task: str,
        change: Callable[[Stored, Sequence[Due]], list[Event]],
        context: Context,
        source: str | None,
    ) -> ScheduleChanged:
        self._refuse_base()
        turn = self._turns.setdefault(task, asyncio.Lock())
        async with turn:
            while True:
                stored = (await schedules.stored(self._log.tables, [task])).get(task, Stored(Schedule()))
                owed = self._owed(stored.schedule)
                events = change(stored, owed[:_SETTLED_AT_ONCE])
                if not events:
                    return ScheduleChanged(task, changed=False)
                passed = [event for event in events if isinstance(event, TicksPassed)]
                is_all = len(owed) <= _SETTLED_AT_ONCE or not passed
                if not is_all:  # the rest, and the change itself, in the next round
                    events = [*passed]
                try:
                    receipt = await self._log.append(
                        [Change(schedule_stream(task), events, stored.version, context)],
                        source=source if is_all else None,
                    )
                except WrongVersion:
                    continue
                if is_all:
                    return ScheduleChanged(task, changed=not receipt.duplicate, duplicate=receipt.duplicate)

    def _owed(self, schedule: Schedule) -> Sequence[Due]:
        """What is due by now and has no record."""
        rule = schedule.rule
        if rule is None or (table := timetable_now(rule)) is None:
            return ()
        return table.due(schedule.settled_us, self._clock.now_us(), _SETTLED_AT_ONCE + 1)

    def is_set_so(self, stored: Stored, definition: Definition) -> bool:
        """Whether the rule that is set is the one that was written."""
        return stored.schedule.rule == self.continued(stored, definition)

    def continued(self, stored: Stored, definition: Definition) -> ScheduleSet:
        """The rule, were it set now."""
        return _continued(stored.schedule, definition.rule)

    def by(self, who: Identity | None) -> Context:
        """Whoever asks, by pseudonym."""
        if who is None:
            return Context()
        return Context(user_hash=self._pseudonyms.user(who.user_id), group_hash=self._pseudonyms.group(who.group_id))

    def _refuse_base(self) -> None:
        if not self._enabled:
            raise NotAllowed("scheduler lacks cron capabilities")

    def _refuse_unset(self, task: str, stored: Stored) -> None:
        if not stored.schedule.is_set:
            raise no_schedule(task)


def _continued(schedule: Schedule, rule: ScheduleSet) -> ScheduleSet:
    """`rule`, as what it changes goes on: what its calendar node said stays, and so does the beginning it counts from
    if it says the same."""
    old = schedule.rule
    if old is None:
        return rule
    if _node(rule) is not None and _node(rule) == _node(old):
        rule = replace(rule, expr=old.expr, rrule=old.rrule, node_timezone=old.node_timezone, recurrence=old.recurrence)
    return old if replace(rule, from_us=old.from_us, via=old.via) == old else rule


def _does_the_same(stored: Stored, rule: ScheduleSet, context: Context) -> bool:
    """Whether what waits for the end of a run would be the same run under `rule`."""
    old = stored.schedule.rule
    return (
        old is not None
        and (old.event, old.args) == (rule.event, rule.args)
        and (stored.user_hash, stored.group_hash) == (context.user_hash, context.group_hash)
    )


def _node(rule: ScheduleSet) -> str | None:
    return None if rule.calendar_event is None else str(rule.calendar_event["node"])


def _whose(node: Node) -> Context:
    return Context(user_hash=node.user_hash, group_hash=node.group_hash)
