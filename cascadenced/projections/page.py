"""Pages of lists: `{"items": […], "next": cursor|null}`, the same shape everywhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from cascadenced.errors import Invalid
from cascadenced.eventlog.base import Row

MAX_LIMIT = 1_000
ABOVE_ALL = 2**62
"""More than any position, and any instant in microseconds."""


class Page(msgspec.Struct):
    """items: rows of one kind.  next: hand it back as `after` for the next page, None on the last one.

    stale_since: ISO 8601, when the projection behind it froze; None while it keeps up.
    """

    items: list[Any]
    next: str | None = None
    stale_since: str | None = None


def checked_limit(limit: int) -> int:
    """`limit` if it is 1–MAX_LIMIT; else raises Invalid."""
    if not 1 <= limit <= MAX_LIMIT:
        raise Invalid(f"limit must be 1–{MAX_LIMIT}, not {limit}")
    return limit


def checked_position(after: str | None) -> int | None:
    """A cursor that is a position; raises Invalid if it is not a number."""
    if after is None:
        return None
    if not after.isascii() or not after.isdigit() or len(after) > 18:
        raise Invalid(f"after must be a cursor from `next`, not {after[:40]!r}")
    return int(after)


def checked_end(after: str | None) -> int:
    """Of a list that begins with the newest: the cursor `after`, which is a position, or what is above all of them."""
    position = checked_position(after)
    return ABOVE_ALL if position is None else position


def page(rows: Sequence[Row], limit: int, item: Callable[[Row], Any], cursor: Callable[[Row], str]) -> Page:
    """`rows` were fetched with one more than `limit`: the extra one says that there is a next page."""
    shown = rows[:limit]
    return Page([item(row) for row in shown], cursor(shown[-1]) if len(rows) > limit else None)
