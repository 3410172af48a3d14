"""Random but lawful histories, and how projections fold them. The same seed tells the same story."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any

from msgspec.structs import replace

from cascadenced.eventlog.base import Change, Projection
from cascadenced.eventlog.script import statements
from cascadenced.events.base import Context, Event, Recorded
from cascadenced.events.catalogue import decode
from cascadenced.events.dead_letter import MessageDeadLettered, MessageRedriven
from cascadenced.events.followup import FollowupRequested, FollowupSkipped
from cascadenced.events.pointer import PointerAdded
from cascadenced.events.run import (
    ForeignRunReported,
    RunCancelled,
    RunDoubted,
    RunFailed,
    RunHeld,
    RunPaused,
    RunRefused,
    RunRequested,
    RunResumed,
    RunStarted,
)
from cascadenced.events.schedule import ScheduleRemoved, ScheduleSet, TickBackfilled, TickFired, TicksPassed
from cascadenced.events.signal import ContextAttached
from cascadenced.events.stage import StageFailed, StageFinished, StageInterrupted, StageLate
from cascadenced.events.step import StepFinished
from cascadenced.events.task import TaskDisabled, TaskEnabled, TaskPaused, TaskRegistered, TaskResumed
from cascadenced.events.wait import WaitStarted
from cascadenced.ids import run_id_for
from cascadenced.pipeline.control import decide_resolution
from cascadenced.pipeline.decide import decide
from cascadenced.pipeline.doubts import RESOLUTIONS
from cascadenced.pipeline.model import ENDED, STAGES, Run, evolve, fold
from cascadenced.pipeline.policy import Policy
from cascadenced.pipeline.resume import resume
from tests.examples import AT_US, every_event, example, recorded

TASKS = ("alpha", "beta", "gamma")


def story(seed: int, n_runs: int) -> list[Change]:
    """Tasks are registered; then their runs, and everything else that happens, in a random interleaving."""
    chance = random.Random(seed)
    registered = [Change(f"task-{task}", [example(TaskRegistered, task=task)]) for task in TASKS]
    tales = [_run(chance, n) for n in range(n_runs)] + [[_aside(chance)] for _ in range(n_runs)]
    told: list[Change] = []
    while tales:
        tale = chance.choice(tales[:20])
        told.append(tale.pop(0))
        if not tale:
            tales.remove(tale)
    return registered + told


def _run(chance: random.Random, n: int) -> list[Change]:
    run_id = run_id_for(f"run {n}", AT_US + n * 1000)
    task = chance.choice(TASKS)
    context = Context(
        user_hash=f"user{n % 3}", group_hash=f"group{n % 2}" if n % 5 else None, run_id=run_id, correlation=run_id
    )
    request = example(RunRequested, task=task, via=chance.choice(["bus", "cli"]))
    groups: list[list[Event]] = [[request]]
    run = fold([request])

    def happens(*events: Event) -> None:
        nonlocal run
        group = list(events)
        for event in events:
            run = evolve(run, event)
        follows = decide(run, events[-1], elapsed_s=1.0)
        for event in follows:
            run = evolve(run, event)
        groups.append(group + follows)

    if chance.random() < 0.1:
        groups[0].append(example(RunRefused, task=task))
        return [Change(f"run-{run_id}", group, None, context) for group in groups]
    hooks = tuple(stage for stage in STAGES if chance.random() < 0.5)
    happens(example(RunStarted, task=task, stages=hooks))
    while run.status not in ENDED:
        fields = {"task": task, "stage": run.current, "attempt": run.attempt}
        if chance.random() < 0.2:
            happens(_in_between(chance, run))
        die = chance.random()
        if chance.random() < 0.03:
            happens(example(RunCancelled, task=task, stage=run.current))
        elif run.paused:
            happens(example(RunResumed, task=task))
            if run.current is None:
                happens(*resume(run, Policy(), code="c1", elapsed_s=2.0, now_us=AT_US))
        elif run.in_doubt is not None:
            verdict = chance.choice(RESOLUTIONS)
            happens(*decide_resolution(run, verdict, by=None, output=None, elapsed_s=2.0))
        elif run.wait is not None:
            late_us = AT_US + 10**9
            happens(*resume(run, Policy(), code="c1", elapsed_s=2.0, now_us=late_us))
        elif die < 0.1:
            wait = WaitStarted(task=task, stage=run.current or "", place="1", kind="sleep", until_us=AT_US)
            happens(chance.choice([wait, example(RunDoubted, task=task, stage=run.current)]))
        elif die < 0.2:
            happens(example(StageFailed, **fields, fatal=False, retry_at_us=AT_US))
        elif die < 0.7:
            happens(example(StageFinished, **fields, output=chance.choice([None, 1, "x", {"a": [1.5]}])))
        elif die < 0.8:
            happens(example(StageFailed, **fields, fatal=run.current != "research"))
        else:
            if die < 0.9:
                happens(example(StageInterrupted, **fields))
            elif die < 0.95:
                happens(example(RunHeld, task=task))
            happens(*resume(run, Policy(), code="c1", elapsed_s=2.0, now_us=AT_US))
    if isinstance(groups[-1][-1], RunFailed):
        planned = chance.choice([FollowupRequested, FollowupSkipped])
        groups.append([example(planned, failed_task=task, failed_run_id=run_id)])
    return [Change(f"run-{run_id}", group, None, context) for group in groups]


def _in_between(chance: random.Random, run: Run) -> Event:
    """What changes nothing about which stage is under way."""
    fields = {"task": run.task, "stage": run.current or "run"}
    return chance.choice(
        [
            example(RunPaused, task=run.task),
            example(ContextAttached, task=run.task),
            example(StepFinished, **fields, place=str(len(run.marks) + 1)),
            example(StageLate, **fields),
        ]
    )


def _aside(chance: random.Random) -> Change:
    task = chance.choice((*TASKS, "elsewhere"))
    event = chance.choice(
        [
            example(TaskEnabled, task=task),
            example(TaskDisabled, task=task),
            example(TaskPaused, task=task),
            example(TaskResumed, task=task),
            example(PointerAdded, task=task, run_id=f"r{chance.randrange(5)}"),
            example(ScheduleSet, task=task, recurrence=chance.choice([None, {"rule": "daily"}])),
            example(ScheduleRemoved, task=task),
            example(TickFired, task=task, due_us=chance.randrange(1, 50)),
            example(TickBackfilled, task=task, due_us=chance.randrange(1, 50)),
            example(TicksPassed, task=task, first_us=chance.randrange(1, 50), last_us=50),
            example(ForeignRunReported, task=task, status=chance.choice(["running", "success", "error"])),
            example(MessageDeadLettered, reason=chance.choice(["undecodable", "future_schema"])),
            example(MessageRedriven, position=chance.randrange(1, 200)),
        ]
    )
    return Change("aside", [event], None, Context(user_hash="user1"))


def chaos(seed: int, n_events: int) -> list[Recorded]:
    """Events of every type in no order at all, save that a run begins with its request and keeps its task."""
    chance = random.Random(seed)
    examples = every_event()
    task_of: dict[str, str] = {}
    events = []
    for position in range(1, n_events + 1):
        event = chance.choice(examples)
        if isinstance(event, RunRequested) or not task_of:
            run_id = f"{position:032x}"
            task_of[run_id] = chance.choice(TASKS)
            event = example(RunRequested)
        else:
            run_id = chance.choice(list(task_of)[-3:])
        if "task" in event.__struct_fields__:
            event = replace(event, task=task_of[run_id])
        events.append(recorded(event, position=position, run_id=run_id, stream=f"run-{run_id}", at_us=AT_US + position))
    return events


def as_read_back(events: Iterable[Recorded]) -> list[Recorded]:
    """As the log's file gives them: decoded from their bytes."""
    return [recorded(decode(e.data), **{n: getattr(e, n) for n in _HEADER}) for e in events]


_HEADER = tuple(name for name in Recorded.__struct_fields__ if name not in ("event", "type"))


def folded(projection: Projection, events: Sequence[Recorded], cuts: Iterable[int]) -> list[str]:
    """The dump of a projection's tables after folding `events` in batches that end at `cuts`."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    for statement in statements(projection.ddl):
        connection.execute(statement)
    start = 0
    for cut in [*sorted(cuts), len(events)]:
        if cut > start:
            projection.apply(connection, events[start:cut])
            start = cut
    lines = list(connection.iterdump())
    connection.close()
    return lines


def dump(connection: sqlite3.Connection, tables: Sequence[str]) -> list[Any]:
    """Every row of these tables, in the order SQLite has them."""
    return [(table, connection.execute(f"SELECT * FROM {table}").fetchall()) for table in tables]
