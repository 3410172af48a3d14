"""Which runs there are, newest first; one run in full is told by its own stream (run_view.py).

The table knows a run's status and times, which change three times in its life.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from cascadenced.clock import iso
from cascadenced.errors import Invalid, Unknown, no_run
from cascadenced.eventlog.base import Connection, Row, Tables
from cascadenced.eventlog.bulk import insert_many
from cascadenced.events.base import Event, Recorded
from cascadenced.events.catalogue import TYPE_NAMES, decode
from cascadenced.events.run import (
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
from cascadenced.events.stage import StageFailed, StageStarted
from cascadenced.events.streams import workflow_stream
from cascadenced.events.wait import WaitEnded, WaitStarted
from cascadenced.events.workflow import EventDispatched
from cascadenced.pipeline.access import Caller
from cascadenced.pipeline.explain import Required
from cascadenced.pipeline.model import ENDED, NOTHING_HANDED, Run
from cascadenced.pipeline.queue import Slots
from cascadenced.projections.page import Page, checked_limit, page
from cascadenced.projections.run_view import RunRow, for_prerequisites, wait_of

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
    paused          INTEGER,           -- 1 while it is; whatever its status is meanwhile
    requires        TEXT               -- ids of the runs that must succeed before it starts, as JSON; null: none
) STRICT, WITHOUT ROWID;
CREATE INDEX runs_task ON runs (task, run_id);
CREATE INDEX runs_status ON runs (status, run_id);
CREATE INDEX runs_paused ON runs (run_id) WHERE paused = 1
"""

_COLUMNS = "run_id, task, status, parent_run_id, user_hash, group_hash, requested_at_us, started_at_us, finished_at_us"
_STORED = f"{_COLUMNS}, paused, requires"
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
    "CASE status WHEN 'in_doubt' THEN (SELECT data FROM events WHERE stream = 'run-' || runs.run_id "
    "AND type = 'run.in_doubt' ORDER BY version DESC LIMIT 1) "
    "WHEN 'waiting' THEN (SELECT data FROM events WHERE stream = 'run-' || runs.run_id "
    "AND (type IN ('wait.started', 'stage.failed') OR (type = 'run.held' AND version > coalesce((SELECT max(version) "
    "FROM events WHERE stream = 'run-' || runs.run_id AND type = 'run.released'), 0))) "
    "ORDER BY version DESC LIMIT 1) END"
)
"""And so is what it waits for: what it was held for is over when it was released."""
_IS_HELD_BACK = (
    "CASE WHEN requires IS NOT NULL AND status = 'queued' THEN EXISTS (SELECT 1 FROM json_each(runs.requires) AS id "
    "LEFT JOIN runs AS required ON required.run_id = id.value WHERE required.status IS NOT 'success') END"
)
"""1 while it waits for other runs before it may start: as `Run.still_requires` has it, and as cheap for those that
require none."""
_LISTED = f"{_COLUMNS}, paused, {_LAST_START}, {_LAST_WAIT}, {_IS_HELD_BACK}"
_STATUS: dict[type[Event], str] = {
    RunRequested: "queued",
    RunStarted: "running",
    RunHeld: "waiting",
    WaitStarted: "waiting",
    WaitEnded: "running",
    RunDoubted: "in_doubt",
    RunFinished: "success",
    RunFailed: "error",
    RunCancelled: "cancelled",
    RunRefused: "refused",
}
_ENDS: frozenset[type[Event]] = frozenset({RunFinished, RunFailed, RunCancelled, RunRefused})
_PAUSE: dict[type[Event], int] = {RunPaused: 1, RunResumed: 0, **dict.fromkeys(_ENDS, 0)}
_AMONG_OTHERS: frozenset[type[Event]] = frozenset({StageStarted, StageFailed})
"""Events that change the row only when a stage is tried again."""
_SAYING: frozenset[type[Event]] = frozenset({RunReleased, RunResolved})
"""Events that say what the run is after them."""
_CHANGING: frozenset[type[Event]] = frozenset({*_STATUS, *_PAUSE, *_AMONG_OTHERS, *_SAYING})


class Runs:
    """One row a run. A batch touches each of its runs once."""

    name = "runs"
    version = 5
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
                row = changed[run_id] = [run_id, event.task, *[None] * 9]  # type: ignore[attr-defined]
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
    return event.status if kind in _SAYING else _STATUS.get(kind)  # type: ignore[attr-defined]


def _fold(row: list[Any], recorded: Recorded) -> None:
    event = recorded.event
    if type(event) is RunRequested:
        row[3], row[4], row[5], row[6] = event.parent_run_id, recorded.user_hash, recorded.group_hash, recorded.at_us
        row[10] = msgspec.json.encode(event.requires).decode() if event.requires else None
    elif type(event) is RunStarted:
        row[7] = row[7] or recorded.at_us
    elif type(event) in _ENDS:
        row[8] = recorded.at_us


async def list_runs(
    tables: Tables, *, task: str | None = None, status: str | None = None, limit: int = 100, after: str | None = None
) -> Page:
    """Newest first. status: one of STATUSES; in_doubt: also those that are paused meanwhile, since somebody has to say
    what became of them all the same. after: cursor. Raises Invalid."""
    checked_limit(limit)
    if status is not None and status not in STATUSES:
        raise Invalid(f"status must be one of {', '.join(STATUSES)}, not {status[:40]!r}")
    conditions = [
        (f"{column} {comparison} ?", value)
        for column, comparison, value in (("task", "=", task), _status_is(status), ("run_id", "<", after))
        if value is not None
    ]
    where = " AND ".join(condition for condition, _ in conditions) or "1"
    if status not in (None, "paused", "in_doubt"):
        where += " AND paused IS NOT 1"
    rows = await tables.fetch(
        f"SELECT {_LISTED} FROM runs WHERE {where} ORDER BY run_id DESC LIMIT ?",  # noqa: S608 -- constants only
        [*(value for _, value in conditions), limit + 1],
    )
    return page(rows, limit, _run_row, lambda row: str(row[0]))


def _status_is(status: str | None) -> tuple[str, str, Any]:
    return ("paused", "=", 1) if status == "paused" else ("status", "=", status)


def _run_row(row: Row) -> RunRow:
    run_id, task, status, parent, user_hash, group_hash, *instants, paused, last_start, last_wait, is_held_back = row
    start = None if last_start is None else decode(last_start)
    stage, attempt = (start.stage, start.attempt) if isinstance(start, StageStarted) else (None, None)
    requested_at, started_at, finished_at = (None if at is None else iso(at) for at in instants)
    waits_for = None if last_wait is None else wait_of(decode(last_wait))
    if is_held_back:
        waits_for = for_prerequisites()
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
        raise no_run(given)
    if len(rows) > 1 and rows[0][0] != given:
        raise Invalid(f"several runs begin with {given!r}: give more of the id")
    return str(rows[0][0])


async def statuses(tables: Tables, run_ids: Sequence[str]) -> dict[str, str]:
    """How these runs stand, by id; without those that are not there."""
    marks = ", ".join("?" * len(run_ids))
    rows = await tables.fetch(f"SELECT run_id, status, paused FROM runs WHERE run_id IN ({marks})", run_ids)  # noqa: S608
    return {run_id: _shown(status, paused) for run_id, status, paused in rows}


async def required(tables: Tables, run_ids: Sequence[str]) -> list[Required]:
    """How these runs stand, in this order; without those that are not there."""
    marks = ", ".join("?" * len(run_ids))
    rows = await tables.fetch(f"SELECT run_id, task, status, paused FROM runs WHERE run_id IN ({marks})", run_ids)  # noqa: S608
    known = {
        run_id: Required(run_id=run_id, task=task, status=_shown(status, paused))
        for run_id, task, status, paused in rows
    }
    return [known[run_id] for run_id in run_ids if run_id in known]


def _shown(status: str, paused: int | None) -> str:
    return "paused" if paused and status not in ENDED else status


async def n_ahead(tables: Tables, run_id: str) -> int:
    """Queued runs that may start and were asked for before this one."""
    may_start = f"status = 'queued' AND paused IS NOT 1 AND {_IS_HELD_BACK} IS NOT 1"
    return await _count(tables, f"{may_start} AND run_id < ?", run_id)


async def slots(tables: Tables, task: str) -> Slots:
    """As far as the table knows: of a paused run it does not know whether its stage is still under way."""
    condition = "status = 'running' AND paused IS NOT 1"
    n_of_task = await _count(tables, f"{condition} AND task = ?", task)
    return Slots(await _count(tables, condition), n_of_task, ahead=None)


_NEWEST_EVENTS = "SELECT position, group_hash, data FROM events WHERE stream = ? ORDER BY version DESC LIMIT 1000"


async def came_at(tables: Tables, run: Run, group_hash: str | None, since: int) -> int | None:
    """Position of the event that the run waits for, among the newest of its name and behind `since`; None: it has not
    come."""
    wait = run.wait
    if wait is None or wait.kind != "event":
        return None
    handed = run.handed.get(wait.name, NOTHING_HANDED)
    since, found = max(since, handed.until), None
    for position, group, data in await tables.fetch(_NEWEST_EVENTS, (workflow_stream(wait.name),)):
        if position <= since:
            break
        event = decode(data)
        if (
            isinstance(event, EventDispatched)
            and group == group_hash
            and position not in handed
            and wait.is_met_by(event.payload)
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


async def cut_off(tables: Tables) -> list[str]:
    """Runs that had something under way of which somebody is to be asked, if it is not now."""
    rows = await tables.fetch(
        "SELECT run_id FROM runs WHERE status = 'running' AND EXISTS (SELECT 1 FROM events "
        "WHERE stream = 'run-' || runs.run_id AND type = 'run.started' AND instr(data, ?)) ORDER BY run_id",
        ('"on_doubt":"ask"',),
    )
    return [str(row[0]) for row in rows]


async def running(tables: Tables, task: str, among: Caller, *, paused: bool, limit: int) -> list[str]:
    """Runs of `task` that have started and not ended, newest first; of those that `among` may control.

    paused: only those that are, or only those that are not.
    """
    condition, values = _controlled_by(among)
    rows = await tables.fetch(
        # Over the index of what is unfinished: a task may have run a million times.
        "SELECT run_id FROM runs INDEXED BY runs_status "  # noqa: S608 -- constants only
        "WHERE status IN ('running', 'waiting', 'in_doubt') AND task = ? AND started_at_us IS NOT NULL "
        f"AND (paused IS 1) = ? AND {condition} ORDER BY run_id DESC LIMIT ?",
        (task, paused, *values, limit),
    )
    return [str(row[0]) for row in rows]


def _controlled_by(caller: Caller | None) -> tuple[str, list[str | None]]:
    """`may_control` as a condition on a row, and its values."""
    if caller is None or caller.is_owner:
        return "1", []
    return "(user_hash = ? OR group_hash = ?)", [caller.user_hash, caller.group_hash]
