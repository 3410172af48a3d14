"""Every n seconds, counted from an instant. Clocks on walls have no say in it."""

from __future__ import annotations

import msgspec

from cascadenced.errors import Invalid
from cascadenced.recurrence.walls import SECOND_US

MAX_S = 366 * 86_400


class Interval(msgspec.Struct, frozen=True, gc=False, cache_hash=True):
    """every_us: the time between two instants.  anchor_us: one of them, and the first."""

    every_us: int
    anchor_us: int

    def after(self, after_us: int) -> int:
        """The first instant after `after_us`."""
        n = (after_us - self.anchor_us) // self.every_us + 1
        return self.anchor_us + max(n, 0) * self.every_us


def parse_interval(every_s: object, *, anchor_us: int) -> Interval:
    """every_s: a number of seconds, from 1 to 366 days' worth. Raises Invalid (every.type, every.range)."""
    if isinstance(every_s, bool) or not isinstance(every_s, int | float):
        raise Invalid("'every_s' must be a number of seconds", code="every.type")
    if not 1 <= every_s <= MAX_S:  # which NaN is not either
        raise Invalid(f"'every_s' must be 1 to {MAX_S} seconds", code="every.range")
    return Interval(round(every_s * SECOND_US), anchor_us)
