"""Rows of the events table ⇄ Recorded."""

from __future__ import annotations

from collections.abc import Sequence
from sys import intern

import msgspec

from cascadenced.errors import ConfigError, LogCorrupt
from cascadenced.eventlog.base import Connection, Opening, Row, Tables
from cascadenced.eventlog.bulk import insert_many
from cascadenced.eventlog.chain import header_of
from cascadenced.events.base import Event, Recorded
from cascadenced.events.catalogue import SCHEMA, TYPE_NAMES, decode
from cascadenced.events.run import RunRequested

COLUMNS = (
    "position, id, stream, version, type, at_us, origin, epoch, source, user_hash, group_hash, run_id, cause, "
    "correlation, traceparent, schema, data, hash"
)
OPENINGS = (
    "SELECT stream, position, group_hash, type, schema, json_remove(CAST(data AS TEXT), '$.args') "
    "FROM events WHERE position IN (SELECT position FROM unfinished) ORDER BY position"
)
"""What opened the unfinished streams. The arguments, which may be large, stay where they are: no step of `upcast.py`
may need them to read the rest."""
_KNOWN = frozenset(TYPE_NAMES.values())
_INSERT = f"INSERT INTO events ({COLUMNS}) VALUES"


def write(connection: Connection, rows: Sequence[Row]) -> None:
    """Add rows of COLUMNS to the table."""
    insert_many(connection, _INSERT, rows)


def from_row(row: Row) -> Recorded:
    return Recorded(*(*row, _event(row[0], row[4], row[15], row[16])))


def opening_from_row(row: Row) -> Opening:
    """row: as OPENINGS gives it."""
    stream, position, group_hash, type_name, schema, data = row
    return opening(stream, position, group_hash, _event(position, type_name, schema, data.encode()))


def opening(stream: str, position: int, group_hash: str | None, event: Event) -> Opening:
    assert isinstance(event, RunRequested)  # the only one of `events.run.OPENING`
    # A hundred thousand of them name a few tasks and groups: each name is kept once.
    group_hash = None if group_hash is None else intern(group_hash)
    return Opening(stream, position, intern(event.task), group_hash, event.priority, event.parent_run_id)


def to_row(event: Recorded) -> Row:
    return (*header_of(event), event.data, event.hash)


def _event(position: int, type_name: str, schema: int, data: bytes) -> Event:
    """Raises ConfigError for a type or schema that this program does not know yet, LogCorrupt for what it does know
    and cannot read."""
    try:
        return decode(data, schema)
    except (KeyError, msgspec.DecodeError, UnicodeDecodeError) as error:
        if type_name in _KNOWN and schema <= SCHEMA:
            raise LogCorrupt(
                f"event {position} of type {type_name} is not what was recorded: it cannot be read ({error})",
                position=position,
            ) from None
        raise ConfigError(
            f"event {position} of type {type_name} (schema {schema}) was recorded by a newer version: "
            f"install that version again, or restore a backup ({error})"
        ) from None


async def position_of(tables: Tables, source: str) -> int | None:
    """Where what was recorded under `source` begins, None if nothing was."""
    rows = await tables.fetch("SELECT position FROM events WHERE source = ?", (source,))
    return rows[0][0] if rows else None
