"""When a schedule is due next, for people. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice

import msgspec

from cascadenced.schedules.timetable import Timetable

EXCLUDED: Mapping[str, str] = {"excluded.date": "The day is excluded.", "excluded.span": "A calendar excludes it."}


class Previewed(msgspec.Struct, omit_defaults=True):
    """at: ISO 8601 with the zone's offset.  fires: False for an instant that the rule leaves out.  note: what is
    special about it, a whole sentence."""

    at: str
    fires: bool = True
    note: str | None = None


def preview(table: Timetable, *, after_us: int, count: int) -> list[Previewed]:
    """The next `count` instants after `after_us`, those that the rule leaves out among them."""
    return [
        Previewed(table.shown(due.at_us), due.fires, None if due.code is None else _note(table, due.at_us, due.code))
        for due in islice(table.following(after_us), count)
    ]


def _note(table: Timetable, at_us: int, code: str) -> str:
    return EXCLUDED.get(code) or table.why(at_us).sentence
