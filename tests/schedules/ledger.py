"""What must be true of schedules when all is said and done, worked out from the log by books of our own.

Which instants were due is asked of the timetable of each rule, for as long as it was set; everything else is counted
here: each of these instants has one record that settles it, and no other instant has any.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from cascadenced.events.base import Recorded
from cascadenced.events.run import TERMINAL, RunRequested
from cascadenced.events.schedule import (
    SchedulePaused,
    ScheduleRemoved,
    ScheduleResumed,
    ScheduleSet,
    TickFired,
    TickQueued,
    TicksPassed,
)
from cascadenced.events.task import TaskDisabled, TaskEnabled, TaskPaused, TaskResumed
from cascadenced.schedules.decide import PUNCTUAL_S
from cascadenced.schedules.timetable import timetable
from tests.schedules.rules import jitter_of

PATIENCE_US = 5_000_000
"""So much later than due an instant may be settled while nothing is wrong: what was refused is tried again."""
_MANY = 1_000_000


def faults(events: Sequence[Recorded], rows: Iterable[Sequence[Any]], *, now_us: int) -> list[str]:
    """What is wrong, each a sentence. rows: of the table `ticks`: task, first_us, last_us, n, verdict."""
    books, runs = dict[str, Book](), Runs()
    for recorded in events:
        runs.hear(recorded)
        task = getattr(recorded.event, "task", None)
        if recorded.stream.startswith("schedule-"):
            books.setdefault(str(task), Book(str(task), runs)).hear(recorded)
    found = runs.faults()
    for book in books.values():
        found += book.end(now_us)
    return found + _differences(books, rows)


class Runs:
    """Runs that schedules have asked for, and switches of tasks."""

    def __init__(self) -> None:
        self.over: set[str] = set()
        self.off: dict[str, int] = {}  # tasks that take no runs → since when
        self._fired: dict[str, Recorded] = {}
        self._requested: dict[str, Recorded] = {}
        self._off: dict[str, set[str]] = {}

    def hear(self, recorded: Recorded) -> None:
        match recorded.event:
            case TaskDisabled(task=task) | TaskPaused(task=task):
                self._off.setdefault(task, set()).add(recorded.type)
                self.off.setdefault(task, recorded.at_us)
            case TaskEnabled(task=task) | TaskResumed(task=task):
                is_enabled = isinstance(recorded.event, TaskEnabled)
                self._off.setdefault(task, set()).discard("task.disabled" if is_enabled else "task.paused")
                if not self._off[task]:
                    self.off.pop(task, None)
            case TickFired(run_id=run_id) if run_id:
                self._fired[run_id] = recorded
            case RunRequested(via="schedule"):
                self._requested[str(recorded.run_id)] = recorded
        if recorded.type in TERMINAL:
            self.over.add(str(recorded.run_id))

    def faults(self) -> list[str]:
        found = [f"run {run_id} has no record" for run_id in self._requested.keys() - self._fired.keys()]
        found += [f"run {run_id} was fired and never asked for" for run_id in self._fired.keys() - self._requested]
        for run_id in self._fired.keys() & self._requested.keys():
            if not 0 < self._requested[run_id].position - self._fired[run_id].position <= 2:
                found.append(f"run {run_id} and its record were recorded apart")
        return found


class Book:
    """One schedule."""

    def __init__(self, task: str, runs: Runs) -> None:
        self.task, self._runs = task, runs
        self.settled: dict[int, str] = {}  # instant → verdict
        self.waiting: set[int] = set()
        self._rule: ScheduleSet | None = None
        self._is_paused = False
        self._from_us = self._highest_us = -(2**62)
        self._new: set[int] = set()  # instants recorded since the last change of the schedule
        self._last_run = ""
        self._faults: list[str] = []

    def hear(self, recorded: Recorded) -> None:
        event, at_us = recorded.event, recorded.at_us
        match event:
            case ScheduleSet():
                self._close(at_us, "changed")
                # Where the clock was set back meanwhile, the later of two beginnings stays.
                self._rule, self._from_us = event, max(event.from_us, self._from_us)
            case ScheduleRemoved():
                self._close(at_us, "removed")
                if self.waiting:
                    self._say(min(self.waiting), "still waits though its schedule is removed")
                self._rule, self._is_paused, self._last_run = None, False, ""
                self._highest_us = max(self._highest_us, event.settled_us)
            case SchedulePaused() | ScheduleResumed():
                self._close(at_us, recorded.type)
                self._is_paused = isinstance(event, SchedulePaused)
            case TickFired():
                self._fired(event, at_us)
            case TickQueued(due_us=due_us):
                self._record([due_us], None, at_us)
                self.waiting.add(due_us)
                if self._is_paused:
                    self._say(due_us, "was queued while its schedule was paused")
                if event.behind != self._last_run:
                    self._say(due_us, f"waits for {event.behind!r}, which is not the last run")
            case TicksPassed(first_us=first_us) if first_us in self.waiting:
                self._leave(first_us, event.verdict)
            case TicksPassed(first_us=first_us, last_us=last_us, n=n):
                instants = [at for at, _ in self._due(first_us - 1, last_us)]
                if len(instants) != n or {first_us, last_us} - set(instants):
                    self._say(
                        first_us, f"to {_shown(last_us)}: {n} instants by the record, {len(instants)} by the rule"
                    )
                self._record(instants, event.verdict, at_us)

    def end(self, now_us: int) -> list[str]:
        """All that is wrong about it."""
        rule = self._rule
        if rule is not None and not self._is_paused:
            fires_us = 0  # none is settled before those that are due before it, whatever its own delay
            for at in [at for at, _ in self._due(self._start_us, now_us) if at not in self._new]:
                fires_us = max(fires_us, at + jitter_of(rule, at))
                if fires_us < now_us - PATIENCE_US:
                    self._say(at, "was never settled")
        self._close(self._start_us, "the end")
        is_ready = rule is not None and not self._is_paused and (rule.event or self.task not in self._runs.off)
        if self.waiting and is_ready and self._last_run in self._runs.over:
            self._say(min(self.waiting), "still waits, and the run before it has ended")
        return self._faults

    @property
    def _start_us(self) -> int:
        return max(self._from_us, self._highest_us)

    def _fired(self, event: TickFired, at_us: int) -> None:
        rule, due_us = self._rule, event.due_us
        if rule is None:
            self._say(due_us, "fired while nothing was set")
            return
        if self._is_paused:
            self._say(due_us, "fired while its schedule was paused")
        if rule.event is None and self._runs.off.get(self.task, at_us) != at_us:
            self._say(due_us, "fired while its task took no runs")
        if rule.overlap != "allow" and self._last_run and self._last_run not in self._runs.over:
            self._say(due_us, f"fired while {self._last_run} was under way")
        self._last_run = event.run_id
        if due_us in self.waiting:
            self._leave(due_us, "fired")
            return
        later_us = jitter_of(rule, due_us)
        late_us = at_us - due_us - later_us
        window_s = PUNCTUAL_S if rule.misfire == "skip" else max(rule.misfire_within_s, PUNCTUAL_S)
        if late_us < 0:
            self._say(due_us, "fired before it was to")
        if late_us > window_s * 1e6:
            self._say(due_us, f"fired {late_us / 1e6:g} s late, which its rule forbids")
        if rule.misfire == "latest" and late_us >= PUNCTUAL_S * 1e6 and not rule.jitter_s:
            newer = [at for at, fires in self._due(due_us, at_us) if fires]
            if newer:
                self._say(due_us, f"fired late though {_shown(newer[-1])} was due as well")
        self._record([due_us], "fired", at_us)

    def _due(self, after_us: int, until_us: int) -> list[tuple[int, bool]]:
        """(instant, whether it fires)"""
        table = None if self._rule is None else timetable(self._rule)
        return [] if table is None else [(each.at_us, each.fires) for each in table.due(after_us, until_us, _MANY)]

    def _record(self, instants: Sequence[int], verdict: str | None, at_us: int) -> None:
        """verdict: None for one that waits."""
        for instant in instants:
            if instant in self.settled or instant in self.waiting:
                self._say(instant, f"{verdict or 'queued'}, and it was {self.settled.get(instant, 'queued')} before")
            if instant > at_us:
                self._say(instant, f"{verdict or 'queued'} at {_shown(at_us)}, before it was due")
            if verdict is not None:
                self.settled[instant] = verdict
            self._new.add(instant)

    def _leave(self, instant: int, verdict: str) -> None:
        """It waits no longer."""
        self.waiting.discard(instant)
        self.settled[instant] = verdict

    def _close(self, until_us: int, why: str) -> None:
        """The schedule changes: what was due under the rule that it had is recorded by now, and nothing else is."""
        until_us = max(until_us, *self._new, self._start_us)
        due = {at for at, _ in self._due(self._start_us, until_us)}
        for at in sorted(due - self._new):
            self._say(at, f"has no record ({why})")
        for at in sorted(self._new - due):
            self._say(at, f"has a record and was not due ({why})")
        self._highest_us = max(self._highest_us, *self._new, self._highest_us)
        self._new = set()

    def _say(self, at_us: int, what: str) -> None:
        self._faults.append(f"{self.task}@{_shown(at_us)} {what}")


def _differences(books: Mapping[str, Book], rows: Iterable[Sequence[Any]]) -> list[str]:
    """The table says the same as the log."""
    found, n_instants = list[str](), dict.fromkeys(books, 0)
    for task, first_us, last_us, n, verdict in rows:
        n_instants[task] = n_instants.get(task, 0) + n
        for at in {first_us, last_us}:
            expected = "queued" if at in books[task].waiting else books[task].settled.get(at)
            if verdict != expected:
                found.append(f"{task}@{_shown(at)} is {verdict} in the table and {expected} in the log")
    for task, book in books.items():
        if n_instants[task] != len(book.settled) + len(book.waiting):
            found.append(f"the table has {n_instants[task]} instants of {task}, the log more or less")
    return found


def _shown(at_us: int) -> str:
    return datetime.fromtimestamp(at_us / 1e6, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f").rstrip("0").rstrip(".")
