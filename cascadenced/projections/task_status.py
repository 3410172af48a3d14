"""How each task is doing. One fold for both readers: the rows on disk and the board in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from cascadenced.clock import iso
from cascadenced.eventlog.base import Connection, Row, Tables
from cascadenced.events.base import Event, Recorded
from cascadenced.events.catalogue import TYPE_NAMES
from cascadenced.events.pointer import PointerAdded
from cascadenced.events.run import (
    ForeignRunReported,
    RunCancelled,
    RunFailed,
    RunFinished,
    RunRefused,
    RunRequested,
    RunStarted,
)
from cascadenced.events.stage import StageStarted
from cascadenced.events.task import TaskDisabled, TaskEnabled, TaskPaused, TaskRegistered, TaskResumed

_DDL = """
CREATE TABLE task_status (
    name                TEXT PRIMARY KEY,
    kind                TEXT NOT NULL,     -- cron, webhook, manual, pointer, workflow, task; foreign: only heard of
    mode                TEXT NOT NULL,     -- sync or async
    listens_to          TEXT,              -- event name of a workflow
    disabled            INTEGER NOT NULL,
    paused              INTEGER NOT NULL,
    running             INTEGER NOT NULL,  -- runs that have started and not ended
    queued              INTEGER NOT NULL,  -- runs that have not started
    stage               TEXT,              -- the stage that started last in any run
    last_run_id         TEXT,
    last_status         TEXT,              -- of the run that ended last
    last_finished_at_us INTEGER,
    n_pointers          INTEGER NOT NULL,
    registered_at       INTEGER NOT NULL   -- position; lists keep the order of registration
) STRICT, WITHOUT ROWID
"""


class StoredTask(msgspec.Struct):
    """A row of the table above."""

    name: str
    kind: str = "task"
    mode: str = "sync"
    listens_to: str | None = None
    disabled: bool = False
    paused: bool = False
    running: int = 0
    queued: int = 0
    stage: str | None = None
    last_run_id: str | None = None
    last_status: str | None = None
    last_finished_at_us: int | None = None
    n_pointers: int = 0
    registered_at: int = 0


_COLUMNS = ", ".join(StoredTask.__struct_fields__)
_MARKS = ", ".join("?" * len(StoredTask.__struct_fields__))
_SAVE = f"INSERT OR REPLACE INTO task_status ({_COLUMNS}) VALUES ({_MARKS})"  # noqa: S608 -- constants only
_LOAD = f"SELECT {_COLUMNS} FROM task_status"  # noqa: S608 -- constants only


def fold(rows: dict[str, StoredTask], recorded: Recorded) -> str | None:
    """Apply one event to the row of its task, made if need be; returns the task's name, None if it concerns none."""
    event = recorded.event
    change = _CHANGES.get(type(event))
    if change is None:
        return None
    name: str = event.task  # type: ignore[attr-defined]  # all of them have it
    row = rows.get(name)
    if row is None:
        if type(event) not in _MAKES_KNOWN:
            return None  # a run of a task that never was registered says nothing about a task
        row = rows[name] = StoredTask(name, kind="foreign", registered_at=recorded.position)
    change(row, event, recorded)
    return name


def _registered(row: StoredTask, event: TaskRegistered, _: Recorded) -> None:
    row.kind, row.mode, row.listens_to = event.kind, event.mode, event.listens_to


def _enabled(row: StoredTask, _event: TaskEnabled, _: Recorded) -> None:
    row.disabled = False


def _disabled(row: StoredTask, _event: TaskDisabled, _: Recorded) -> None:
    row.disabled = True


def _paused(row: StoredTask, _event: TaskPaused, _: Recorded) -> None:
    row.paused = True


def _resumed(row: StoredTask, _event: TaskResumed, _: Recorded) -> None:
    row.paused = False


def _requested(row: StoredTask, _: RunRequested, recorded: Recorded) -> None:
    row.queued += 1
    row.last_run_id = recorded.run_id


def _started(row: StoredTask, _event: RunStarted, _: Recorded) -> None:
    row.queued -= 1
    row.running += 1


def _stage_started(row: StoredTask, event: StageStarted, _: Recorded) -> None:
    row.stage = event.stage


def _finished(row: StoredTask, _: RunFinished, recorded: Recorded) -> None:
    row.running -= 1
    row.last_status, row.last_finished_at_us = "success", recorded.at_us


def _failed(row: StoredTask, event: RunFailed, recorded: Recorded) -> None:
    _leave(row, started=event.started)
    row.last_status, row.last_finished_at_us = "error", recorded.at_us


def _refused(row: StoredTask, _: RunRefused, recorded: Recorded) -> None:
    row.queued -= 1
    row.last_status, row.last_finished_at_us = "refused", recorded.at_us


def _cancelled(row: StoredTask, event: RunCancelled, recorded: Recorded) -> None:
    _leave(row, started=event.started)
    row.last_status, row.last_finished_at_us = "cancelled", recorded.at_us


def _leave(row: StoredTask, *, started: bool) -> None:
    if started:
        row.running -= 1
    else:
        row.queued -= 1


def _reported(row: StoredTask, event: ForeignRunReported, recorded: Recorded) -> None:
    row.last_run_id = event.foreign_run_id
    if event.status not in ("started", "running"):
        row.last_status, row.last_finished_at_us = event.status, recorded.at_us


def _pointer_added(row: StoredTask, _event: PointerAdded, _: Recorded) -> None:
    row.n_pointers += 1


_CHANGES: Mapping[type[Event], Callable[[StoredTask, Any, Recorded], None]] = {
    TaskRegistered: _registered,
    TaskEnabled: _enabled,
    TaskDisabled: _disabled,
    TaskPaused: _paused,
    TaskResumed: _resumed,
    RunRequested: _requested,
    RunStarted: _started,
    StageStarted: _stage_started,
    RunFinished: _finished,
    RunFailed: _failed,
    RunCancelled: _cancelled,
    RunRefused: _refused,
    ForeignRunReported: _reported,
    PointerAdded: _pointer_added,
}


_MAKES_KNOWN = frozenset({TaskRegistered, ForeignRunReported, PointerAdded})


class TaskStatus:
    """One row a task. The rows a batch touches are read once and written once."""

    name = "task_status"
    version = 2
    tables = ("task_status",)
    ddl = _DDL
    types = frozenset(TYPE_NAMES[kind] for kind in _CHANGES)

    def apply(self, connection: Connection, batch: Sequence[Recorded]) -> None:
        names = {r.event.task for r in batch if type(r.event) in _CHANGES}  # type: ignore[attr-defined]
        if not names:
            return
        marks = ", ".join("?" * len(names))
        stored = connection.execute(f"{_LOAD} WHERE name IN ({marks})", tuple(names)).fetchall()
        rows = {row.name: row for row in map(_from_row, stored)}
        for recorded in batch:
            fold(rows, recorded)
        connection.executemany(_SAVE, [msgspec.structs.astuple(row) for row in rows.values()])


def _from_row(row: Row) -> StoredTask:
    state = StoredTask(*row)
    state.disabled, state.paused = bool(state.disabled), bool(state.paused)
    return state


async def load(tables: Tables) -> dict[str, StoredTask]:
    """All rows, in order of registration."""
    rows = map(_from_row, await tables.fetch(f"{_LOAD} ORDER BY registered_at"))
    return {row.name: row for row in rows}


class TaskRow(msgspec.Struct):
    """A task as the status page shows it. Instants are ISO 8601 UTC."""

    name: str
    kind: str
    mode: str
    disabled: bool
    paused: bool
    running: int
    queued: int
    stage: str | None
    last_run_id: str | None
    last_status: str | None
    last_finished_at: str | None
    next_fire_at: str | None
    n_pointers: int


def task_row(state: StoredTask, next_fire_us: int | None = None) -> TaskRow:
    """next_fire_us: of its schedule, if it has one that fires in this process."""
    return TaskRow(
        name=state.name,
        kind=state.kind,
        mode=state.mode,
        disabled=state.disabled,
        paused=state.paused,
        running=state.running,
        queued=state.queued,
        stage=state.stage,
        last_run_id=state.last_run_id,
        last_status=state.last_status,
        last_finished_at=None if state.last_finished_at_us is None else iso(state.last_finished_at_us),
        next_fire_at=None if next_fire_us is None else iso(next_fire_us),
        n_pointers=state.n_pointers,
    )
