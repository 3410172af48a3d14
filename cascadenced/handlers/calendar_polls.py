"""Reads the calendar's nodes that schedules get their rules from: when one is set, and every `poll` seconds after."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import structlog

from cascadenced.clock import Clock
from cascadenced.errors import CascadenceError, Invalid
from cascadenced.eventlog.base import EventLog
from cascadenced.events.base import Recorded
from cascadenced.events.schedule import SchedulePaused, ScheduleRemoved, ScheduleResumed, ScheduleSet
from cascadenced.handlers.calendar_nodes import CalendarNodes, CalendarUnavailable
from cascadenced.handlers.schedule_requests import Node, ScheduleRequests, node_of
from cascadenced.projections import schedules
from cascadenced.runtime.tick import Ticker
from cascadenced.schedules.definition import DEFAULT_POLL_S

_log = structlog.get_logger(__name__)

_AT_ONCE = 8
_CHANGES = frozenset({ScheduleSet, SchedulePaused, ScheduleResumed, ScheduleRemoved})


class CalendarPolls:
    """ticker: when the node of each schedule is read. It is a ticker of its own, because its names are looked at at
    other times than those of schedules; a slow calendar keeps neither up."""

    def __init__(self, log: EventLog, clock: Clock, requests: ScheduleRequests, nodes: CalendarNodes) -> None:
        self._log, self._clock, self._requests, self._nodes = log, clock, requests, nodes
        self._gate = asyncio.Semaphore(_AT_ONCE)
        self._reads: dict[Node, asyncio.Task[str | None]] = {}
        self.ticker = Ticker(clock, self._look)

    async def run(self) -> None:
        """For ever."""
        self._log.observe(self._hear)
        after, now_us = "", self._clock.now_us()
        try:
            while chunk := await schedules.active(self._log.tables, after):
                after = chunk[-1][0]
                self.ticker.load(
                    (task, now_us) for task, schedule in chunk if schedule.rule and schedule.rule.calendar_event
                )
            await self.ticker.run()
        finally:
            for read in self._reads.values():
                read.cancel()
            await asyncio.gather(*self._reads.values(), return_exceptions=True)

    async def read_now(self, task: str) -> str | None:
        """Read the node of a schedule, or wait for whoever is doing it. Returns why it could not be read, None if it
        was, or if there is none."""
        stored = (await schedules.stored(self._log.tables, [task])).get(task)
        node = None if stored is None or stored.schedule.paused else node_of(task, stored)
        return None if node is None else await asyncio.shield(self._read(node))

    def _hear(self, batch: Sequence[Recorded]) -> None:
        for recorded in batch:
            event = recorded.event
            if type(event) in _CHANGES and not (isinstance(event, ScheduleSet) and event.via == "calendar"):
                self.ticker.refresh([event.task])  # type: ignore[attr-defined]  # all of these have it

    async def _look(self, names: Sequence[str]) -> Mapping[str, int | None]:
        found, wakes = await schedules.stored(self._log.tables, names), dict[str, int | None]()
        for task, stored in found.items():
            rule, node = stored.schedule.rule, node_of(task, stored)
            if rule is None or rule.calendar_event is None or node is None or stored.schedule.paused:
                continue
            self._read(node)
            poll_s = rule.calendar_event.get("poll", DEFAULT_POLL_S)
            assert isinstance(poll_s, int | float)
            wakes[task] = self._clock.now_us() + round(poll_s * 1e6)
        return wakes

    def _read(self, node: Node) -> asyncio.Task[str | None]:
        """The read of a node that is under way; begun, if there is none."""
        read = self._reads.get(node)
        if read is None:
            read = asyncio.get_running_loop().create_task(self._told(node), name=f"calendar-{node.task}")
            self._reads[node] = read
            read.add_done_callback(lambda _: self._reads.pop(node, None))
        return read

    async def _told(self, node: Node) -> str | None:
        try:
            async with self._gate:
                recurrence = await self._nodes.recurrence(
                    node.name, user_hash=node.user_hash, group_hash=node.group_hash
                )
            await self._requests.node_says(node, recurrence)
        except (CalendarUnavailable, Invalid) as error:
            _log.warning("calendar_unread", task=node.task, reason=str(error))
            try:
                await self._requests.node_unread(node, code=error.code, reason=str(error))
            except CascadenceError as worse:
                _log.error("calendar_unread_not_recorded", task=node.task, error=str(worse))
            return str(error)
        except CascadenceError as error:  # a full disk: the next poll tries again
            _log.error("calendar_not_taken_over", task=node.task, error=str(error))
            return str(error)
        return None
