"""What schedules would do over a time, past or to come: the rules of `decide.py` under a clock of its own. Pure.

Runs last as long as they are said to. Nothing else is guessed: no crash, no downtime, no run that somebody asks for.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from cascadenced.errors import Invalid
from cascadenced.events.schedule import ScheduleSet, TickFired, TickQueued, TicksPassed
from cascadenced.recurrence.jitter import jitter_us
from cascadenced.schedules.decide import settle
from cascadenced.schedules.model import Schedule, evolve
from cascadenced.schedules.preview import EXCLUDED
from cascadenced.schedules.timetable import Timetable, shown, timetable_now

MAX_INSTANTS = 200_000
"""Of all schedules together."""
MAX_SHOWN = 20
"""Oddities, and differences, of one schedule."""


class Oddity(msgspec.Struct, frozen=True):
    """An instant that is not like the others. at: ISO 8601 with the zone's offset.  why: a whole sentence."""

    at: str
    why: str


class Simulated(msgspec.Struct, frozen=True):
    """What one schedule does. left_out: how often an instant did not fire, by reason.  oddities: the first of them.

    fires: the instants of its runs, µs since 1970; not shown to people.
    """

    task: str
    n_fired: int
    left_out: Mapping[str, int]
    first: str | None
    last: str | None
    oddities: Sequence[Oddity]
    fires: Sequence[int] = ()


class Peak(msgspec.Struct, frozen=True):
    """The most runs at once. at_us: when there are first so many, µs since 1970."""

    n_runs: int
    at_us: int | None


class Simulation(msgspec.Struct, frozen=True):
    """schedules: by name.  peak: over all of them."""

    schedules: Sequence[Simulated]
    peak: Peak
    n_instants: int


_NO_CALENDARS: Mapping[str, Timetable | None] = {}


class Difference(msgspec.Struct, frozen=True):
    """Of one schedule: runs that only one of two simulations has; at: the first of them, with the zone's offset."""

    task: str
    n_only_before: int
    n_only_after: int
    only_before: Sequence[str]
    only_after: Sequence[str]


def simulate(
    rules: Mapping[str, ScheduleSet],
    *,
    from_us: int,
    to_us: int,
    durations_s: Mapping[str, float],
    calendars: Mapping[str, Timetable | None] = _NO_CALENDARS,
) -> Simulation:
    """All of them from `from_us` (exclusive) to `to_us`. durations_s: of runs, by task; 0 where it is not known.

    calendars: the timetables of those for which a calendar says more than the rule.

    Raises Invalid where there are more than MAX_INSTANTS.
    """
    if to_us <= from_us:
        raise Invalid("the end must be after the beginning")
    world = _World(from_us, to_us, durations_s)
    for name in sorted(rules):
        world.add(name, rules[name], calendars[name] if name in calendars else timetable_now(rules[name]))
    world.run()
    return world.outcome()


def difference(before: Simulation, after: Simulation, rules: Mapping[str, ScheduleSet]) -> list[Difference]:
    """Schedules that do not fire alike. rules: for their zones."""
    fires = [{each.task: set(each.fires) for each in simulation.schedules} for simulation in (before, after)]
    found = []
    for task in sorted(fires[0].keys() | fires[1].keys()):
        old, new = fires[0].get(task, set()), fires[1].get(task, set())
        if old != new:
            lost, gained = sorted(old - new), sorted(new - old)
            first = [[shown(at, rules[task].zone) for at in some[:MAX_SHOWN]] for some in (lost, gained)]
            found.append(Difference(task, len(lost), len(gained), *first))
    return found


class _Lane:
    """One schedule on its way."""

    def __init__(self, rule: ScheduleSet, table: Timetable, from_us: int, to_us: int) -> None:
        self.rule, self.table = rule, table
        self.state = evolve(Schedule(settled_us=from_us), msgspec.structs.replace(rule, from_us=from_us))
        self.due = self._until(table, from_us, to_us)
        self.next = next(self.due, None)
        self.ends_us: int | None = None
        self.span: int | None = None  # of its last run, among those of all
        self.fires: list[int] = []
        self.left_out: Counter[str] = Counter()
        self.oddities: list[Oddity] = []

    @staticmethod
    def _until(table: Timetable, from_us: int, to_us: int) -> Iterator[tuple[int, str | None]]:
        for due in table.following(from_us):
            if due.at_us > to_us:
                return
            yield due.at_us, due.code


class _World:
    def __init__(self, from_us: int, to_us: int, durations_s: Mapping[str, float]) -> None:
        self._from_us, self._to_us, self._durations_s = from_us, to_us, durations_s
        self._lanes: dict[str, _Lane] = {}
        self._heap: list[tuple[int, int, str]] = []  # (when, 0: a run ends, 1: something is due; whose)
        self._spans: list[tuple[int, int]] = []  # of runs
        self._n = 0

    def add(self, name: str, rule: ScheduleSet, table: Timetable | None) -> None:
        if table is not None:
            self._lanes[name] = lane = _Lane(rule, table, self._from_us, self._to_us)
            self._push(name, lane)

    def _push(self, name: str, lane: _Lane) -> None:
        if lane.next is not None:
            at_us = lane.next[0]
            later_us = jitter_us(name, at_us, lane.rule.jitter_s) if lane.rule.jitter_s else 0
            heapq.heappush(self._heap, (at_us + later_us, 1, name))

    def run(self) -> None:
        while self._heap:
            now_us, kind, name = heapq.heappop(self._heap)
            lane = self._lanes[name]
            if kind == 0:
                if lane.ends_us == now_us:
                    lane.ends_us = None
                    self._settle(name, lane, now_us, due=False)
                continue
            self._n += 1
            if self._n > MAX_INSTANTS:
                raise Invalid(f"more than {MAX_INSTANTS} instants are due in that time: choose a shorter one")
            self._settle(name, lane, now_us, due=True)
            lane.next = next(lane.due, None)
            self._push(name, lane)

    def _settle(self, name: str, lane: _Lane, now_us: int, *, due: bool) -> None:
        assert lane.next is not None or not due
        given = lane.table.due(lane.state.settled_us, lane.next[0], 10) if due and lane.next is not None else []
        for each in given:
            if each.code is not None and len(lane.oddities) < MAX_SHOWN:
                why = EXCLUDED.get(each.code) or lane.table.why(each.at_us).sentence
                lane.oddities.append(Oddity(lane.table.shown(each.at_us), why))
        while True:
            rest = [each for each in given if each.at_us > lane.state.settled_us]
            found = settle(lane.state, rest, now_us=now_us, is_open=lane.ends_us is not None)
            for record in found.records:
                lane.state = evolve(lane.state, record)
                if isinstance(record, TicksPassed):
                    lane.left_out[record.code] += record.n
                elif isinstance(record, TickQueued):
                    lane.left_out["waited"] += 1
            if found.fire is None:
                return
            if found.cancel is not None and lane.span is not None:
                self._spans[lane.span] = (self._spans[lane.span][0], now_us)
            run_id = f"{len(lane.fires)}"
            lane.state = evolve(lane.state, TickFired(task=name, due_us=found.fire.due_us, run_id=run_id))
            lane.fires.append(found.fire.due_us)
            ends_us = now_us + round(self._durations_s.get(name, 0.0) * 1e6)
            lane.span = len(self._spans)
            self._spans.append((now_us, ends_us))
            if ends_us > now_us:
                lane.ends_us = ends_us
                heapq.heappush(self._heap, (ends_us, 0, name))

    def outcome(self) -> Simulation:
        return Simulation(
            [
                Simulated(
                    task=name,
                    n_fired=len(lane.fires),
                    left_out=dict(lane.left_out),
                    first=lane.table.shown(lane.fires[0]) if lane.fires else None,
                    last=lane.table.shown(lane.fires[-1]) if lane.fires else None,
                    oddities=lane.oddities,
                    fires=lane.fires,
                )
                for name, lane in self._lanes.items()
            ],
            _peak(self._spans),
            self._n,
        )


def _peak(spans: Sequence[tuple[int, int]]) -> Peak:
    """A run that ends when another begins is not beside it."""
    changes = sorted(change for start, end in spans for change in ((start, 1), (max(end, start + 1), -1)))
    n, most, when = 0, 0, None
    for at_us, change in changes:
        n += change
        if n > most:
            most, when = n, at_us
    return Peak(most, when)
