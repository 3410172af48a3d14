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


def write(connection: Connection, events: Sequence[Recorded]) -> None:
    """Add the events to the table."""
    insert_many(connection, _INSERT, [(*header_of(event), event.data, event.hash) for event in events])


def from_row(row: Row) -> Recorded:
    return Recorded(
        position=row[0], id=row[1], stream=row[2], version=row[3], type=row[4], at_us=row[5], origin=row[6],
        epoch=row[7], source=row[8], user_hash=row[9], group_hash=row[10], run_id=row[11], cause=row[12],
        correlation=row[13], traceparent=row[14], schema=row[15], data=row[16], hash=row[17],
        event=_event(row),
    )  # fmt: skip


def _event(row: Row) -> Event:
    """Raises ConfigError for a type or schema that this program does not know yet."""
    try:
        return decode(row[16], row[15])
    except (KeyError, msgspec.ValidationError) as error:
        raise ConfigError(
            f"event {row[0]} of type {row[4]} (schema {row[15]}) was recorded by a newer version: "
            f"install that version again, or restore a backup ({error})"
        ) from None
