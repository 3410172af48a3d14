"""Which runs there are, newest first; and one run in full, folded from its own stream.

The table knows a run's status and times, which change three times in its life.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from cascadenced.clock import iso
from cascadenced.errors import Invalid, Unknown
from cascadenced.eventlog.base import Connection, Row, Tables
from cascadenced.eventlog.bulk import insert_many
from cascadenced.events.base import Event, Json, Recorded
from cascadenced.events.catalogue import TYPE_NAMES, decode
from cascadenced.events.place import Place, in_order
from cascadenced.events.run import (
    TERMINAL,
    RunCancelled,
    RunDoubted,
    RunFailed,
    RunFinished,
    RunHeld,
    RunPaused,
    RunRefused,
    RunReleased,
    RunRequested,
    RunResolved,
    RunResumed,
    RunStarted,
)
from cascadenced.events.stage import StageFailed, StageFinished, StageStarted
from cascadenced.events.step import StepFailed, StepFinished, StepStarted
from cascadenced.events.wait import WaitEnded, WaitStarted
from cascadenced.events.workflow import EventDispatched
from cascadenced.pipeline.access import Caller
from cascadenced.pipeline.model import ENDED, STAGES, Child, Run, fold
from cascadenced.projections.page import Page, checked_limit, page

STATUSES = ("queued", "running", "waiting", "paused", "success", "error", "cancelled", "in_doubt", "refused")

_DDL = """
CREATE TABLE runs (
    run_id          TEXT PRIMARY KEY,
    task            TEXT NOT NULL,
    status          TEXT,              -- one of STATUSES but `paused`
    parent_run_id   TEXT,
    user_hash       TEXT,
    group_hash      TEXT,
    requested_at_us INTEGER,
    started_at_us   INTEGER,
    finished_at_us  INTEGER,
    paused          INTEGER            -- 1 while it is; whatever its status is meanwhile
) STRICT, WITHOUT ROWID;
CREATE INDEX runs_task ON runs (task, run_id);
CREATE INDEX runs_status ON runs (status, run_id);
CREATE INDEX runs_paused ON runs (run_id) WHERE paused = 1
"""

_COLUMNS = "run_id, task, status, parent_run_id, user_hash, group_hash, requested_at_us, started_at_us, finished_at_us"
_STORED = f"{_COLUMNS}, paused"
_INSERT = f"INSERT INTO runs ({_STORED}) VALUES"
_CHANGED = """
ON CONFLICT (run_id) DO UPDATE SET
    status = coalesce(excluded.status, status),
    started_at_us = coalesce(started_at_us, excluded.started_at_us),
    finished_at_us = coalesce(excluded.finished_at_us, finished_at_us),
    paused = coalesce(excluded.paused, paused)
"""

_LAST_START = (
    "(SELECT data FROM events WHERE stream = 'run-' || runs.run_id AND type = 'stage.started' "
    "ORDER BY version DESC LIMIT 1)"
)
"""Which stage a run has come to is read from its stream: keeping it here took two of three writes to this table."""
_LAST_WAIT = (
    "CASE WHEN status IN ('waiting', 'in_doubt') THEN "
    "(SELECT data FROM events WHERE stream = 'run-' || runs.run_id "
    "AND type IN ('wait.started', 'stage.failed', 'run.held', 'run.in_doubt') ORDER BY version DESC LIMIT 1) END"
)
"""And so is what it waits for."""
MAX_STEPS_SHOWN = 100
"""Of one stage; the newest."""
MAX_STEP_OUTPUT_BYTES = 2 * 1024
"""Of one step."""
MAX_PRINTED_CHARS = 8 * 1024
"""Of one stage; the newest."""

_STATUS: dict[type[Event], str] = {
    RunRequested: "queued",
    RunStarted: "running",
    RunHeld: "waiting",
    RunReleased: "running",
    WaitStarted: "waiting",
    WaitEnded: "running",
    RunDoubted: "in_doubt",
    RunResolved: "running",
    RunFinished: "success",
    RunFailed: "error",
    RunCancelled: "cancelled",
    RunRefused: "refused",
}
_ENDS = frozenset({RunFinished, RunFailed, RunCancelled, RunRefused})
_PAUSE: dict[type[Event], int] = {RunPaused: 1, RunResumed: 0, RunCancelled: 0}
_AMONG_OTHERS: frozenset[type[Event]] = frozenset({StageStarted, StageFailed})
"""Events that change the row only when a stage is tried again."""
_CHANGING: frozenset[type[Event]] = frozenset({*_STATUS, *_PAUSE, *_AMONG_OTHERS})


class Runs:
    """One row a run. A batch touches each of its runs once."""

    name = "runs"
    version = 3
    tables = ("runs",)
    ddl = _DDL
    types = frozenset(TYPE_NAMES[kind] for kind in _CHANGING)

    def apply(self, connection: Connection, batch: Sequence[Recorded]) -> None:
        changed: dict[str, list[Any]] = {}
        for recorded in batch:
            event, run_id = recorded.event, recorded.run_id
            kind = type(event)
            if kind not in _CHANGING or run_id is None:
                continue
            status, paused = _status_after(event), _PAUSE.get(kind)
            if status is None and paused is None:
                continue
            row = changed.get(run_id)
            if row is None:
                row = changed[run_id] = [run_id, event.task, *[None] * 8]  # type: ignore[attr-defined]
            row[2] = status or row[2]
            row[9] = row[9] if paused is None else paused
            _fold(row, recorded)
        if changed:
            insert_many(connection, _INSERT, list(changed.values()), _CHANGED)


def _status_after(event: Event) -> str | None:
    """The row's, None if it stays as it was."""
    kind = type(event)
    if kind is StageStarted:
        return "running" if event.attempt > 1 else None  # type: ignore[attr-defined]  # `is` narrows, mypy does not see it
    if kind is StageFailed:
        return "waiting" if event.retry_at_us is not None else None  # type: ignore[attr-defined]
    return event.status if kind is RunReleased else _STATUS.get(kind)  # type: ignore[attr-defined]


def _fold(row: list[Any], recorded: Recorded) -> None:
    event = recorded.event
    if type(event) is RunRequested:
        row[3], row[4], row[5], row[6] = event.parent_run_id, recorded.user_hash, recorded.group_hash, recorded.at_us
    elif type(event) is RunStarted:
        row[7] = row[7] or recorded.at_us
    elif type(event) in _ENDS:
        row[8] = recorded.at_us


class WaitView(msgspec.Struct):
    """What a run waits for. kind: sleep, event, children (runs of its plan), retry (of its stage), held (for a restart
    that can go on with it), or decision (`resolve`: what became of an effect in doubt).

    text: the same in words.  name: of the event, of the step in doubt, or the code of what it is held for.
    until: when that is over at the latest.  where: what the event's payload must hold.
    """

    kind: str
    text: str
    name: str | None = None
    until: str | None = None
    where: dict[str, Json] | None = None
    reason: str | None = None


class RunRow(msgspec.Struct):
    """A run in a list. Instants are ISO 8601 UTC. waits_for: also while it is paused; null: for nothing."""

    run_id: str
    task: str
    status: str
    stage: str | None
    attempt: int | None
    parent_run_id: str | None
    user_hash: str | None
    group_hash: str | None
    requested_at: str | None
    started_at: str | None
    finished_at: str | None
    waits_for: WaitView | None


class StepView(msgspec.Struct):
    """A step or a wait. kind: step, sleep or event.  status: started, waiting, success, error,
    or timeout: the event did not come.  took_s: seconds, of a step.  output: what a step returned; null, too,
    where that is longer than 2 KiB: the run's events have all of it.  error: what it raised."""

    place: Place
    kind: str
    name: str
    status: str
    took_s: float | None = None
    output: Json = None
    error: str | None = None


class StageView(msgspec.Struct):
    """status: pending (not reached), started, waiting, in_doubt, success, error, cancelled or skipped.

    took_s: seconds of the last attempt.  steps: the newest 100 of n_steps.  printed: by the last attempt, in a process
    of its own; the end of it.
    """

    stage: str
    status: str
    started_at: str | None = None
    took_s: float | None = None
    attempt: int = 0
    output: Json = None
    n_steps: int = 0
    steps: list[StepView] = []
    printed: str | None = None


class ChildView(msgspec.Struct):
    """A run that the plan asks for. run_id: the newest at this place, null: not asked for yet.

    status: planned, running (asked for and not ended), success, error, cancelled or refused.
    """

    index: int
    task: str
    run_id: str | None
    status: str
    attempt: int


class RunError(msgspec.Struct):
    """Why a run ended in error or was refused."""

    type: str
    message: str


class RunView(RunRow):
    """One run in full. stages: all six, in pipeline order.  children: in the plan's order."""

    args: dict[str, Json]
    result: Json
    error: RunError | None
    stages: list[StageView]
    children: list[ChildView]


async def list_runs(
    tables: Tables, *, task: str | None = None, status: str | None = None, limit: int = 100, after: str | None = None
) -> Page:
    """Newest first. status: one of STATUSES. after: cursor. Raises Invalid."""
    checked_limit(limit)
    if status is not None and status not in STATUSES:
        raise Invalid(f"status must be one of {', '.join(STATUSES)}, not {status[:40]!r}")
    conditions = [
        (f"{column} {comparison} ?", value)
        for column, comparison, value in (("task", "=", task), _status_is(status), ("run_id", "<", after))
        if value is not None
    ]
    where = " AND ".join(condition for condition, _ in conditions) or "1"
    if status is not None and status != "paused":
        where += " AND paused IS NOT 1"
    rows = await tables.fetch(
        f"SELECT {_STORED}, {_LAST_START}, {_LAST_WAIT} FROM runs WHERE {where} ORDER BY run_id DESC LIMIT ?",  # noqa: S608 -- constants only
        [*(value for _, value in conditions), limit + 1],
    )
    return page(rows, limit, _run_row, lambda row: str(row[0]))


def _status_is(status: str | None) -> tuple[str, str, Any]:
    return ("paused", "=", 1) if status == "paused" else ("status", "=", status)


def _run_row(row: Row) -> RunRow:
    run_id, task, status, parent, user_hash, group_hash, *instants, paused, last_start, last_wait = row
    start = None if last_start is None else decode(last_start)
    stage, attempt = (start.stage, start.attempt) if isinstance(start, StageStarted) else (None, None)
    requested_at, started_at, finished_at = (None if at is None else iso(at) for at in instants)
    waits_for = None if last_wait is None else _wait_of(decode(last_wait))
    return RunRow(
        run_id=run_id,
        task=task,
        status="paused" if paused else status,
        stage=stage,
        attempt=attempt,
        parent_run_id=parent,
        user_hash=user_hash,
        group_hash=group_hash,
        requested_at=requested_at,
        started_at=started_at,
        finished_at=finished_at,
        waits_for=waits_for,
    )


def _wait_of(event: Event) -> WaitView | None:
    """What a run waits for after `event`, if it is one that lets it wait."""
    match event:
        case WaitStarted(kind="children"):
            return WaitView("children", "the runs of its plan")
        case WaitStarted(kind="event", name=name, until_us=until_us, where=where):
            text = f"the event {name}{_until(until_us)}"
            return WaitView("event", text, name, None if until_us is None else iso(until_us), where or None)
        case WaitStarted(kind=kind, until_us=until_us):
            return WaitView(
                kind, f"a time to pass{_until(until_us)}", until=None if until_us is None else iso(until_us)
            )
        case StageFailed(retry_at_us=int(at_us), reason=reason):
            return WaitView("retry", f"its next attempt, at {_short(at_us)}", until=iso(at_us), reason=reason)
        case RunHeld(code=code, reason=reason):
            return WaitView("held", f"a restart: {reason}", code, reason=reason)
        case RunDoubted(stage=stage, step=step, reason=reason):
            what = f"the stage {stage}" if step is None else f"the step {step}"
            return WaitView("decision", f"a decision about {what}: retry, done or fail", step, reason=reason)
    return None


def _until(at_us: int | None) -> str:
    return "" if at_us is None else f", until {_short(at_us)}"


def _short(at_us: int) -> str:
    return f"{iso(at_us)[:19].replace('T', ' ')}Z"


async def resolve_run_id(tables: Tables, given: str, among: Caller | None = None) -> str:
    """The run whose id is, or begins with, `given` (8 characters at least). Raises Unknown, Invalid if several do.

    among: only runs that this caller may control; None: all there are.
    """
    if len(given) < 8 or not given.isalnum():
        raise Unknown(f"no run {given[:40]!r}: give its id, or the first 8 or more characters of it")
    condition, values = _controlled_by(among)
    rows = await tables.fetch(
        "SELECT run_id FROM runs "  # noqa: S608 -- constants only
        f"WHERE run_id >= ? AND run_id < ? AND {condition} ORDER BY run_id LIMIT 2",
        (given, given + "~", *values),
    )
    if not rows:
        raise Unknown(f"no run {given[:64]!r}: the list of runs has those there are")
    if len(rows) > 1 and rows[0][0] != given:
        raise Invalid(f"several runs begin with {given!r}: give more of the id")
    return str(rows[0][0])


async def statuses(tables: Tables, run_ids: Sequence[str]) -> dict[str, str]:
    """How these runs stand, by id; without those that are not there."""
    marks = ", ".join("?" * len(run_ids))
    rows = await tables.fetch(f"SELECT run_id, status, paused FROM runs WHERE run_id IN ({marks})", run_ids)  # noqa: S608
    return {run_id: "paused" if paused and status not in ENDED else status for run_id, status, paused in rows}


async def place_in_queue(tables: Tables, run_id: str) -> int:
    """1 for the queued run that was asked for first."""
    return 1 + await _count(tables, "status = 'queued' AND run_id < ?", run_id)


async def n_running(tables: Tables, task: str | None = None) -> int:
    """Runs that have a slot, as far as the table knows: of one task, or of all."""
    condition = "status = 'running' AND paused IS NOT 1"
    return await (_count(tables, condition) if task is None else _count(tables, f"{condition} AND task = ?", task))


_NEWEST_EVENTS = "SELECT position, group_hash, data FROM events WHERE stream = ? ORDER BY version DESC LIMIT 1000"


async def came_at(tables: Tables, run: Run, group_hash: str | None, since: int) -> int | None:
    """Position of the event that the run waits for, among the newest of its name and behind `since`; None: it has not
    come."""
    wait = run.wait
    if wait is None or wait.kind != "event":
        return None
    since, found = max(since, run.heard.get(wait.name, 0)), None
    for position, group, data in await tables.fetch(_NEWEST_EVENTS, (f"workflow-{wait.name}",)):
        if position <= since:
            break
        event = decode(data)
        if (
            isinstance(event, EventDispatched)
            and group == group_hash
            and all(key in event.payload and event.payload[key] == value for key, value in wait.where.items())
        ):
            found = int(position)
    return found


async def _count(tables: Tables, condition: str, *parameters: str) -> int:
    [(n,)] = await tables.fetch(f"SELECT count(*) FROM runs WHERE {condition}", parameters)  # noqa: S608
    return int(n)


async def durations_s(tables: Tables, tasks: Sequence[str]) -> dict[str, float]:
    """How long the newest runs of these tasks took that succeeded, on average, in seconds."""
    found: dict[str, float] = {}
    for task in tasks:
        rows = await tables.fetch(
            "SELECT avg(finished_at_us - started_at_us) / 1e6 FROM (SELECT finished_at_us, started_at_us FROM runs "
            "WHERE task = ? AND status = 'success' AND started_at_us IS NOT NULL ORDER BY run_id DESC LIMIT 20)",
            (task,),
        )
        if rows[0][0] is not None:
            found[task] = float(rows[0][0])
    return found


async def running(tables: Tables, task: str, among: Caller, *, paused: bool, limit: int) -> list[str]:
    """Runs of `task` that have started and not ended, newest first; of those that `among` may control.

    paused: only those that are.
    """
    condition, values = _controlled_by(among)
    rows = await tables.fetch(
        # Over the index of what is unfinished: a task may have run a million times.
        "SELECT run_id FROM runs INDEXED BY runs_status "  # noqa: S608 -- constants only
        "WHERE status IN ('running', 'waiting', 'in_doubt') AND task = ? AND started_at_us IS NOT NULL "
        f"AND (NOT ? OR paused = 1) AND {condition} ORDER BY run_id DESC LIMIT ?",
        (task, paused, *values, limit),
    )
    return [str(row[0]) for row in rows]


def _controlled_by(caller: Caller | None) -> tuple[str, list[str | None]]:
    """`may_control` as a condition on a row, and its values."""
    if caller is None or caller.is_owner:
        return "1", []
    return "(user_hash = ? OR group_hash = ?)", [caller.user_hash, caller.group_hash]


def run_view(events: Sequence[Recorded]) -> RunView:
    """A run's stream, folded for people. `events`: all of them, from the first."""
    first = events[0]
    run = fold(recorded.event for recorded in events)
    stages = {stage: StageView(stage, "pending") for stage in STAGES}
    steps: dict[str, dict[Place, StepView]] = {stage: {} for stage in STAGES}
    times: dict[str, int] = {}
    for recorded in events:
        _show_stage(stages, recorded)
        _show_step(steps, recorded.event)
        times[recorded.type] = times.get(recorded.type, recorded.at_us)
    for stage, places in steps.items():
        stages[stage].n_steps = len(places)
        newest = list(places.values())[-MAX_STEPS_SHOWN:]
        stages[stage].steps = sorted(newest, key=lambda step: in_order(step.place))
    if run.stages or run.status in ENDED:
        for stage, view in stages.items():
            if stage not in run.stages and not (stage == "run" and run.children is not None):
                view.status = "skipped"
    request = first.event
    last_stage = next((r.event.stage for r in reversed(events) if isinstance(r.event, StageStarted)), None)
    finished = next((times[kind] for kind in TERMINAL if kind in times), None)
    waits = run.wait is not None or run.in_doubt is not None
    waits_for = next(filter(None, (_wait_of(recorded.event) for recorded in reversed(events))), None) if waits else None
    return RunView(
        run_id=first.run_id or first.stream.removeprefix("run-"),
        task=run.task,
        status=run.shown_status,
        stage=last_stage,
        attempt=stages[last_stage].attempt if last_stage else None,
        parent_run_id=request.parent_run_id if isinstance(request, RunRequested) else None,
        user_hash=first.user_hash,
        group_hash=first.group_hash,
        requested_at=iso(first.at_us),
        started_at=iso(times["run.started"]) if "run.started" in times else None,
        finished_at=iso(finished) if finished else None,
        waits_for=waits_for,
        args=run.args,
        result=run.result if run.status == "success" else None,
        error=RunError(run.error_type, run.reason or "") if run.error_type else None,
        stages=list(stages.values()),
        children=[_child_view(run, index, child) for index, child in enumerate(run.children or ())],
    )


def _child_view(run: Run, index: int, child: Child) -> ChildView:
    if child.ended is not None:
        status = child.ended.status
    elif child.run_id is None:
        status = "planned"
    else:  # runs of a plan do not outlive it
        status = "cancelled" if run.status in ENDED else "running"
    return ChildView(index, child.planned.name, child.run_id, status, child.attempt)


def _show_stage(stages: dict[str, StageView], recorded: Recorded) -> None:
    event = recorded.event
    if isinstance(event, StageFinished | StageFailed | WaitStarted) and event.printed:
        view = stages[event.stage]
        view.printed = f"{view.printed or ''}{event.printed}"[-MAX_PRINTED_CHARS:]
    match recorded.event:
        case StageStarted(stage=stage, attempt=attempt):
            view = stages[stage]
            view.status, view.attempt, view.started_at, view.printed = "started", attempt, iso(recorded.at_us), None
        case StageFinished(stage=stage, output=output, took_s=took_s):
            view = stages[stage]
            view.status, view.output, view.took_s = "success", output, took_s
        case StageFailed(stage=stage, took_s=took_s, retry_at_us=retry_at_us):
            view = stages[stage]
            view.status = "error" if retry_at_us is None else "waiting"
            view.took_s, view.output = took_s, recorded.event.partial
        case WaitStarted(stage=stage):
            stages[stage].status = "waiting"
        case WaitEnded(stage=stage):
            stages[stage].status = "started"
        case RunDoubted(stage=stage):
            stages[stage].status = "in_doubt"
        case RunResolved():
            for view in stages.values():
                view.status = "started" if view.status == "in_doubt" else view.status
        case RunFailed(stage=str(stage)):  # it was under way when the run was given up
            stages[stage].status = "error"
        case RunCancelled(stage=str(stage)):
            stages[stage].status = "cancelled"


def _show_step(steps: dict[str, dict[Place, StepView]], event: Event) -> None:
    match event:
        case StepStarted(stage=stage, place=place, name=name):
            steps[stage][place] = StepView(place, "step", name, "started")
        case StepFinished(stage=stage, place=place, name=name, took_s=took_s, output=output):
            shown = output if len(msgspec.json.encode(output)) <= MAX_STEP_OUTPUT_BYTES else None
            steps[stage][place] = StepView(place, "step", name, "success", took_s, shown)
        case StepFailed(stage=stage, place=place, name=name, took_s=took_s):
            error = f"{event.error_type}: {event.reason}"
            steps[stage][place] = StepView(place, "step", name, "error", took_s, None, error)
        case WaitStarted(stage=stage, place=place, kind="sleep" | "event" as kind, name=name):
            steps[stage][place] = StepView(place, kind, name, "waiting")
        case WaitEnded(stage=stage, place=place, kind="sleep" | "event" as kind, name=name, outcome=outcome):
            steps[stage][place] = StepView(place, kind, name, "timeout" if outcome == "timeout" else "success")
