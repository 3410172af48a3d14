"""How each schedule stands, and the record of each of its due instants: the ledger."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from cascadenced.eventlog.base import Connection, Tables
from cascadenced.eventlog.bulk import insert_many, select_many
from cascadenced.events.base import Recorded
from cascadenced.events.catalogue import TYPE_NAMES
from cascadenced.events.schedule import (
    CalendarRead,
    CalendarUnread,
    SchedulePaused,
    ScheduleRemoved,
    ScheduleResumed,
    ScheduleSet,
    TickBackfilled,
    TickFired,
    TickQueued,
    TicksPassed,
)
from cascadenced.pipeline.model import ENDED
from cascadenced.schedules.model import Schedule, evolve

_DDL = """
CREATE TABLE schedules (
    task        TEXT PRIMARY KEY,
    state       BLOB NOT NULL,     -- schedules.model.Schedule, as JSON
    version     INTEGER NOT NULL,  -- of its stream
    position    INTEGER NOT NULL,  -- of the event with which somebody set or removed it
    is_set      INTEGER NOT NULL,
    paused      INTEGER NOT NULL,
    last_run_id TEXT,
    user_hash   TEXT,              -- whom it is for
    group_hash  TEXT
) STRICT, WITHOUT ROWID;
CREATE TABLE ticks (
    task     TEXT NOT NULL,
    first_us INTEGER NOT NULL,
    last_us  INTEGER NOT NULL,  -- the same, unless one record settles several
    n        INTEGER NOT NULL,  -- due instants that it settles
    verdict  TEXT NOT NULL,     -- fired, skipped, coalesced, suppressed; queued is to become one of these
    code     TEXT,              -- why
    run_id   TEXT,              -- that was fired, or that was in the way
    into_us  INTEGER,
    position INTEGER NOT NULL,  -- of the event
    PRIMARY KEY (task, first_us)
) STRICT, WITHOUT ROWID;
CREATE TABLE backfills (
    task     TEXT NOT NULL,
    due_us   INTEGER NOT NULL,
    run_id   TEXT NOT NULL,  -- that was asked for at that instant, beside what the ledger has of it; may be empty
    position INTEGER NOT NULL,  -- of the event
    PRIMARY KEY (task, due_us)
) STRICT, WITHOUT ROWID
"""

_OF_SCHEDULES = (
    *(ScheduleSet, SchedulePaused, ScheduleResumed, ScheduleRemoved, TickFired, TicksPassed, TickQueued),
    *(CalendarRead, CalendarUnread, TickBackfilled),
)
"""All that is in the stream of a schedule: a row's `version` is that of its stream."""
_INSERT = (
    "INSERT OR REPLACE INTO schedules "
    "(task, state, version, position, is_set, paused, last_run_id, user_hash, group_hash) VALUES"
)
_INSERT_TICK = (
    "INSERT OR REPLACE INTO ticks (task, first_us, last_us, n, verdict, code, run_id, into_us, position) VALUES"
)

_INSERT_BACKFILL = "INSERT OR REPLACE INTO backfills (task, due_us, run_id, position) VALUES"

_STORED = "task, state, version, position, user_hash, group_hash"

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Schedule).decode


class Stored(msgspec.Struct):
    """A schedule and whom it is for. version: of its stream.  position: of the event with which
    somebody set or removed it; what its calendar says is nobody's wish."""

    schedule: Schedule
    version: int = 0
    position: int = 0
    user_hash: str | None = None
    group_hash: str | None = None


class Schedules:
    """One row a schedule, and one a record of the ledger. A batch touches each schedule once."""

    name = "schedules"
    version = 3
    tables = ("schedules", "ticks", "backfills")
    ddl = _DDL
    types = frozenset(TYPE_NAMES[kind] for kind in _OF_SCHEDULES)

    def apply(self, connection: Connection, batch: Sequence[Recorded]) -> None:
        mine = [recorded for recorded in batch if isinstance(recorded.event, _OF_SCHEDULES)]
        tasks = sorted({recorded.event.task for recorded in mine})  # type: ignore[attr-defined]
        found = {
            row[0]: Stored(_decode(row[1]), *row[2:])
            for row in select_many(connection, f"SELECT {_STORED} FROM schedules WHERE task IN ({{}})", tasks)  # noqa: S608
        }
        ticks: dict[tuple[str, int], tuple[Any, ...]] = {}
        for recorded in mine:
            event = recorded.event
            assert isinstance(event, _OF_SCHEDULES)
            stored = found.setdefault(event.task, Stored(Schedule()))
            stored.schedule, stored.version = evolve(stored.schedule, event), recorded.version
            if isinstance(event, ScheduleRemoved) or (isinstance(event, ScheduleSet) and event.via != "calendar"):
                stored.position = recorded.position
            if isinstance(event, ScheduleSet):
                stored.user_hash, stored.group_hash = recorded.user_hash, recorded.group_hash
            if (tick := _tick(event, recorded.position)) is not None:
                ticks[tick[:2]] = tick
        insert_many(connection, _INSERT, [_row(task, found[task]) for task in tasks])
        insert_many(connection, _INSERT_TICK, list(ticks.values()))
        insert_many(
            connection,
            _INSERT_BACKFILL,
            [
                (recorded.event.task, recorded.event.due_us, recorded.event.run_id, recorded.position)
                for recorded in mine
                if isinstance(recorded.event, TickBackfilled)
            ],
        )


def _row(task: str, stored: Stored) -> tuple[Any, ...]:
    schedule = stored.schedule
    return (
        task,
        _encode(schedule),
        stored.version,
        stored.position,
        int(schedule.is_set),
        int(schedule.paused),
        schedule.last_run_id,
        stored.user_hash,
        stored.group_hash,
    )


def _tick(event: object, position: int) -> tuple[Any, ...] | None:
    match event:
        case TickFired(task=task, due_us=due_us, run_id=run_id, code=code):
            return task, due_us, due_us, 1, "fired", code, run_id, None, position
        case TickQueued(task=task, due_us=due_us, behind=behind):
            return task, due_us, due_us, 1, "queued", "overlap", behind, None, position
        case TicksPassed(task=task, first_us=first_us, last_us=last_us, n=n, verdict=verdict, code=code, cause=cause):
            return task, first_us, last_us, n, verdict, code, cause, event.into_us, position
        case _:
            return None


# ── what the loop reads ──────────────────────────────────────────────────────────────────────────────────────

_CHUNK = 2_000
"""Schedules read at once: each time the reader's thread is asked takes as long as reading a hundred of them."""


async def stored(tables: Tables, tasks: Sequence[str]) -> dict[str, Stored]:
    """These schedules; one that never was is not there, one that was removed is with `rule` None."""
    found: dict[str, Stored] = {}
    for start in range(0, len(tasks), _CHUNK):
        some = tasks[start : start + _CHUNK]
        rows = await tables.fetch(
            f"SELECT {_STORED} FROM schedules WHERE task IN ({', '.join('?' * len(some))})",  # noqa: S608 -- marks only
            some,
        )
        found.update({row[0]: Stored(_decode(row[1]), *row[2:]) for row in rows})
    return found


async def everything(tables: Tables) -> dict[str, Stored]:
    """All schedules there ever were, by name: the removed ones too."""
    rows = await tables.fetch(f"SELECT {_STORED} FROM schedules ORDER BY task")  # noqa: S608 -- constants only
    return {row[0]: Stored(_decode(row[1]), *row[2:]) for row in rows}


async def needs(tables: Tables) -> dict[str, tuple[str, ...]]:
    """Set schedules with tasks that must have run before → these."""
    rows = await tables.fetch(
        "SELECT task, state FROM schedules WHERE is_set = 1 AND instr(state, CAST('\"deps\"' AS BLOB)) > 0"
    )
    found = ((row[0], _decode(row[1]).rule) for row in rows)
    return {task: rule.deps for task, rule in found if rule is not None and rule.deps}


async def active(tables: Tables, after: str = "") -> list[tuple[str, Schedule]]:
    """Schedules that are set and not paused, by name, in chunks: empty after the last one."""
    rows = await tables.fetch(
        "SELECT task, state FROM schedules WHERE is_set = 1 AND paused = 0 AND task > ? ORDER BY task LIMIT ?",
        (after, _CHUNK),
    )
    return [(row[0], _decode(row[1])) for row in rows]


async def open_runs(tables: Tables) -> dict[str, str]:
    """Of set schedules whose last run has not ended: that run's id → the schedule."""
    ended = ", ".join(f"'{status}'" for status in sorted(ENDED))
    rows = await tables.fetch(
        "SELECT s.last_run_id, s.task FROM schedules AS s JOIN runs AS r ON r.run_id = s.last_run_id "  # noqa: S608
        f"WHERE s.is_set = 1 AND r.status NOT IN ({ended})"
    )
    return dict(rows)


async def fired(tables: Tables, task: str, first_us: int, last_us: int) -> set[int]:
    """The instants of a range that fired when they were due."""
    rows = await tables.fetch(
        "SELECT first_us FROM ticks WHERE task = ? AND first_us BETWEEN ? AND ? "
        "AND (verdict = 'fired' OR code = 'fired_before')",
        (task, first_us, last_us),
    )
    return {row[0] for row in rows}


async def backfilled(tables: Tables, task: str, due_us: int) -> str | None:
    """The run that was asked for later at an instant; empty where an event was dispatched, None if there is none."""
    rows = await tables.fetch("SELECT run_id FROM backfills WHERE task = ? AND due_us = ?", (task, due_us))
    return rows[0][0] if rows else None
