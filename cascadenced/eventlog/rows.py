"""Rows of the events table ⇄ Recorded."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from cascadenced.errors import ConfigError
from cascadenced.eventlog.base import Connection, Row
from cascadenced.eventlog.bulk import insert_many
from cascadenced.eventlog.chain import header_of
from cascadenced.events.base import Event, Recorded
from cascadenced.events.catalogue import decode

COLUMNS = (
    "position, id, stream, version, type, at_us, origin, epoch, source, user_hash, group_hash, run_id, cause, "
    "correlation, traceparent, schema, data, hash"
)
_INSERT = f"INSERT INTO events ({COLUMNS}) VALUES"


def write(connection: Connection, rows: Sequence[Row]) -> None:
    """Add rows of COLUMNS to the table."""
    insert_many(connection, _INSERT, rows)


def from_row(row: Row) -> Recorded:
    return Recorded(*(*row, _event(row)))


def to_row(event: Recorded) -> Row:
    return (*header_of(event), event.data, event.hash)


def _event(row: Row) -> Event:
    """Raises ConfigError for a type or schema that this program does not know yet."""
    try:
        return decode(row[16], row[15])
    except (KeyError, msgspec.ValidationError) as error:
        raise ConfigError(
            f"event {row[0]} of type {row[4]} (schema {row[15]}) was recorded by a newer version: "
            f"install that version again, or restore a backup ({error})"
        ) from None
