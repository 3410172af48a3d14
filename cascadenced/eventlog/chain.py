"""The hash chain: any change to a recorded event, and any event taken out, breaks every hash after it.

    hash = SHA-256(previous hash ‖ canonical header ‖ SHA-256(data))

The data enters as its digest, so that erased data can be replaced by that digest and the chain still verifies.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256

import msgspec

from cascadenced.errors import LogCorrupt
from cascadenced.events.base import Recorded

canonical = msgspec.json.Encoder().encode
"""A header as the chain sees it."""

Header = tuple[
    int, str, str, int, str, int, str, int, str | None, str | None, str | None, str | None, str | None, str | None,
    str | None, int,
]  # fmt: skip
"""position, id, stream, version, type, at_us, origin, epoch, source, user_hash, group_hash, run_id, cause,
correlation, traceparent, schema: the columns before `data`, in this order, as a JSON array without spaces."""


def link(previous: bytes, header: Header, data: bytes) -> bytes:
    """The hash of the event with this header and data, after the event whose hash is `previous`."""
    return sha256(previous + canonical(header) + sha256(data).digest()).digest()


def header_of(event: Recorded) -> Header:
    return (
        event.position, event.id, event.stream, event.version, event.type, event.at_us, event.origin, event.epoch,
        event.source, event.user_hash, event.group_hash, event.run_id, event.cause, event.correlation,
        event.traceparent, event.schema,
    )  # fmt: skip


def verify(position: int, previous: bytes, rows: Iterable[tuple[Header, bytes, bytes]]) -> tuple[int, bytes]:
    """Check that `rows` (header, data, hash) continue the chain after `position`; returns the new end.

    Raises LogCorrupt naming the first position that is missing or does not match.
    """
    for header, data, stored in rows:
        if header[0] != position + 1:
            raise LogCorrupt(
                f"event {position + 1} is missing: the next one stored is {header[0]}", position=position + 1
            )
        previous = link(previous, header, data)
        position += 1
        if previous != stored:
            raise LogCorrupt(f"event {position} is not what was recorded: its hash does not match", position=position)
    return position, previous


def first_misfit(rows: Iterable[tuple[Header, bytes, bytes]]) -> Header | None:
    """The first of some events out of one log, in order of position, that is not what was recorded; None if none is
    known to be.

    rows: header, data, hash, in any order. An event is known by the hash of the one before it in the log: without that
    one among the rows it is only what the next one builds on. Of two with one position the second cannot have been.
    """
    before, known = -1, b""
    for header, data, stored in sorted(rows, key=lambda row: row[0][0]):
        position = header[0]
        if position == before or (position == before + 1 and link(known, header, data) != stored):
            return header
        before, known = position, stored
    return None


def check_end(position: int, known: int) -> None:
    """Check that a chain which ends at `position` reaches as far as the log is known to have reached.

    The chain itself does not tell: without its newest events it is as good as before they came.
    Raises LogCorrupt naming the first event that is missing.
    """
    if position < known:
        which = f"event {known} is" if known == position + 1 else f"events {position + 1} to {known} are"
        raise LogCorrupt(
            f"{which} missing at the end: the log had come to {known} before",
            position=position + 1,
        )
