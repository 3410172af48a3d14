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
from cascadenced.events.wait import WaitEnded, WaitStarted
from cascadenced.pipeline.model import ENDED, STAGES, fold
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


class Runs:
    """One row a run. A batch touches each of its runs once."""

    name = "runs"
    version = 3
    tables = ("runs",)
    ddl = _DDL
    types = frozenset(TYPE_NAMES[kind] for kind in (*_STATUS, *_PAUSE, *_AMONG_OTHERS))

    def apply(self, connection: Connection, batch: Sequence[Recorded]) -> None:
        changed: dict[str, list[Any]] = {}
        for recorded in batch:
            event, run_id = recorded.event, recorded.run_id
            status = (
                event.status if type(event) is RunReleased else _STATUS.get(type(event)) or _status_of_attempt(event)
            )
            paused = _PAUSE.get(type(event))
            if (status is None and paused is None) or run_id is None:
                continue
            row = changed.get(run_id)
            if row is None:
                row = changed[run_id] = [run_id, event.task, *[None] * 8]  # type: ignore[attr-defined]
            row[2] = status or row[2]
            row[9] = row[9] if paused is None else paused
            _fold(row, recorded)
        if changed:
            insert_many(connection, _INSERT, list(changed.values()), _CHANGED)


def _status_of_attempt(event: Event) -> str | None:
    if type(event) is StageStarted and event.attempt > 1:
        return "running"
    return "waiting" if type(event) is StageFailed and event.retry_at_us is not None else None


def _fold(row: list[Any], recorded: Recorded) -> None:
    event = recorded.event
    if type(event) is RunRequested:
        row[3], row[4], row[5], row[6] = event.parent_run_id, recorded.user_hash, recorded.group_hash, recorded.at_us
    elif type(event) is RunStarted:
        row[7] = row[7] or recorded.at_us
    elif type(event) in _ENDS:
        row[8] = recorded.at_us


class RunRow(msgspec.Struct):
    """A run in a list. Instants are ISO 8601 UTC."""

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


class StageView(msgspec.Struct):
    """status: pending (not reached), started, success, error or skipped.  took_s: seconds of the last attempt."""

    stage: str
    status: str
    started_at: str | None = None
    took_s: float | None = None
    attempt: int = 0
    output: Json = None


class RunError(msgspec.Struct):
    """Why a run ended in error or was refused."""

    type: str
    message: str


class RunView(RunRow):
    """One run in full. stages: all six, in pipeline order."""

    args: dict[str, Json]
    result: Json
    error: RunError | None
    stages: list[StageView]


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
        f"SELECT {_STORED}, {_LAST_START} FROM runs WHERE {where} ORDER BY run_id DESC LIMIT ?",  # noqa: S608 -- constants only
        [*(value for _, value in conditions), limit + 1],
    )
    return page(rows, limit, _run_row, lambda row: str(row[0]))


def _status_is(status: str | None) -> tuple[str, str, Any]:
    return ("paused", "=", 1) if status == "paused" else ("status", "=", status)


def _run_row(row: Row) -> RunRow:
    run_id, task, status, parent, user_hash, group_hash, *instants, paused, last_start = row
    start = None if last_start is None else decode(last_start)
    stage, attempt = (start.stage, start.attempt) if isinstance(start, StageStarted) else (None, None)
    times = [None if at is None else iso(at) for at in instants]
    return RunRow(run_id, task, "paused" if paused else status, stage, attempt, parent, user_hash, group_hash, *times)


async def resolve_run_id(tables: Tables, given: str) -> str:
    """The run whose id is, or begins with, `given` (8 characters at least). Raises Unknown, Invalid if several do."""
    if len(given) < 8 or not given.isalnum():
        raise Unknown(f"no run {given[:40]!r}: give its id, or the first 8 or more characters of it")
    rows = await tables.fetch(
        "SELECT run_id FROM runs WHERE run_id >= ? AND run_id < ? ORDER BY run_id LIMIT 2", (given, given + "~")
    )
    if not rows:
        raise Unknown(f"no run {given[:64]!r}")
    if len(rows) > 1 and rows[0][0] != given:
        raise Invalid(f"several runs begin with {given!r}: give more of the id")
    return str(rows[0][0])


def run_view(events: Sequence[Recorded]) -> RunView:
    """A run's stream, folded for people. `events`: all of them, from the first."""
    first = events[0]
    run = fold(recorded.event for recorded in events)
    stages = {stage: StageView(stage, "pending") for stage in STAGES}
    times: dict[str, int] = {}
    for recorded in events:
        _show_stage(stages, recorded)
        times[recorded.type] = times.get(recorded.type, recorded.at_us)
    if run.stages or run.status in ENDED:
        for stage, view in stages.items():
            if stage not in run.stages and not (stage == "run" and run.children is not None):
                view.status = "skipped"
    request = first.event
    last_stage = next((r.event.stage for r in reversed(events) if isinstance(r.event, StageStarted)), None)
    finished = next((times[kind] for kind in TERMINAL if kind in times), None)
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
        args=run.args,
        result=run.result if run.status == "success" else None,
        error=RunError(run.error_type, run.reason or "") if run.error_type else None,
        stages=list(stages.values()),
    )


def _show_stage(stages: dict[str, StageView], recorded: Recorded) -> None:
    match recorded.event:
        case StageStarted(stage=stage, attempt=attempt):
            view = stages[stage]
            view.status, view.attempt, view.started_at = "started", attempt, iso(recorded.at_us)
        case StageFinished(stage=stage, output=output, took_s=took_s):
            view = stages[stage]
            view.status, view.output, view.took_s = "success", output, took_s
        case StageFailed(stage=stage, took_s=took_s):
            view = stages[stage]
            view.status, view.took_s, view.output = "error", took_s, recorded.event.partial
        case RunFailed(stage=str(stage)) | RunCancelled(stage=str(stage)):  # it was under way when the run was given up
            stages[stage].status = "error"
