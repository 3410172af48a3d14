"""Instants at which a recurrence is due in a zone.

A zone's time is cut into stretches of one offset. Within one, wall times and instants differ by a constant, so a
schedule steps from wall time to wall time with integers; only at the seams is there something to decide (`dst.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import msgspec

from cascadenced.recurrence.dst import DEFAULT, Dst, Note
from cascadenced.recurrence.interval import Interval
from cascadenced.recurrence.one_off import OneOff
from cascadenced.recurrence.walls import DAY_S, FIRST_S, LAST_S, SECOND_US, Walls, shown
from cascadenced.recurrence.zones import Stretch, Zone

MINUTE_US = 60 * SECOND_US
_MAX_REMEMBERED = 16_384
"""Answers of `next_due`, about 500 bytes each."""
_FAR_S = 2 * DAY_S
"""More than clocks were ever changed at once, together with any offset."""


class Due(msgspec.Struct, frozen=True, gc=False):
    """An instant that a recurrence means.

    at_us: when.  wall_s: the local time that was asked for.  fires: False if the rule skips it.
    note: what the rule did; None where there was nothing to decide.
    missing: further local times that did not exist and ended up here: merged into this one, or skipped (see `note`).
    """

    at_us: int
    wall_s: int
    note: Note | None = None
    fires: bool = True
    missing: tuple[int, ...] = ()

    @property
    def local(self) -> str:
        """The local time that was asked for, ISO 8601 without an offset."""
        return shown(self.wall_s)

    @property
    def missing_local(self) -> tuple[str, ...]:
        return tuple(shown(wall_s) for wall_s in self.missing)


Recurrence = Walls | Interval | OneOff


def next_due(recurrence: Recurrence, zone: Zone, dst: Dst = DEFAULT, *, after_us: int) -> Due | None:
    """The first instant after `after_us` that fires; None if there is none any more.

    Answers are remembered by minute and shared: ten thousand schedules with one expression cost one computation.
    """
    found = next_occurrence(recurrence, zone, dst, after_us=after_us)
    while found is not None and not found.fires:
        found = next_occurrence(recurrence, zone, dst, after_us=found.at_us)
    return found


def next_occurrence(recurrence: Recurrence, zone: Zone, dst: Dst = DEFAULT, *, after_us: int) -> Due | None:
    """As `next_due`, and also what the rule skips: an instant with `fires` False."""
    if isinstance(recurrence, Interval | OneOff):
        return _after(recurrence, zone, dst, after_us)
    found = _after_minute(recurrence, zone, dst, after_us // MINUTE_US)
    if found is None or found.at_us > after_us:
        return found
    return _after(recurrence, zone, dst, after_us)


def following(recurrence: Recurrence, zone: Zone, dst: Dst = DEFAULT, *, after_us: int) -> Iterator[Due]:
    """All instants after `after_us`, strictly rising, those that the rule skips among them.

    None of them is remembered: a walk through years would displace the answers that schedules wait for.
    """
    while (found := _after(recurrence, zone, dst, after_us)) is not None:
        yield found
        after_us = found.at_us


def _after(recurrence: Recurrence, zone: Zone, dst: Dst, after_us: int) -> Due | None:
    if isinstance(recurrence, Interval | OneOff):
        at_us = recurrence.after(after_us)
        if at_us is None or at_us > LAST_S * SECOND_US:
            return None
        return Due(at_us, zone.wall(at_us // SECOND_US))
    return _search(recurrence, zone, dst, after_us // SECOND_US + 1)


@lru_cache(maxsize=_MAX_REMEMBERED)
def _after_minute(walls: Walls, zone: Zone, dst: Dst, minute: int) -> Due | None:
    """The first instant after the one that the minute begins with."""
    return _search(walls, zone, dst, minute * 60 + 1)


def _search(walls: Walls, zone: Zone, dst: Dst, from_s: int) -> Due | None:
    """The first instant not before `from_s`."""
    from_s = max(from_s, FIRST_S)
    while from_s <= LAST_S:
        stretch = zone.stretch(from_s)
        found, next_s = _within(walls, stretch, dst, from_s)
        if found is not None:
            is_over = walls.last_us is not None and found.at_us > walls.last_us
            return None if is_over else found
        if next_s is None:
            return None
        from_s = next_s
    return None


def _within(walls: Walls, stretch: Stretch, dst: Dst, from_s: int) -> tuple[Due | None, int | None]:
    """The first instant of the stretch that is not before `from_s`; else where to go on, if there is anything left."""
    start_s, end_s, offset_s, before_s, after_s = stretch
    fixed = not walls.is_continuous
    first_s = from_s + offset_s
    if fixed and from_s == start_s and before_s < offset_s:
        missing = _missing(walls, start_s + before_s, first_s)
        if missing:
            return _at_end_of_gap(walls, dst, start_s, first_s, missing), None
    # Fixed times that clocks show twice are left out where they are not wanted: at the head of this stretch if they
    # were in the one before, at its tail if they will be in the one after.
    limit_s = end_s + offset_s
    if fixed and before_s > offset_s and dst.overlap == "first":
        first_s = max(first_s, start_s + before_s)
    if fixed and after_s < offset_s and dst.overlap == "last":
        limit_s = end_s + after_s
    wall_s = walls.at_or_after(first_s)
    if wall_s is not None and wall_s < limit_s:
        note: Note | None = None
        if wall_s < start_s + before_s:
            note = "overlap.second"
        elif wall_s >= end_s + after_s:
            note = "overlap.first"
        return Due((wall_s - offset_s) * SECOND_US, wall_s, note), None
    if after_s < offset_s:
        return None, end_s  # what clocks are about to show again may have to be looked at again
    if wall_s is None:
        return None, None
    return None, max(end_s, wall_s - offset_s - _FAR_S)


def _missing(walls: Walls, from_s: int, to_s: int) -> tuple[int, ...]:
    """The wall times meant that a gap has swallowed."""
    found = []
    wall_s = walls.at_or_after(from_s)
    while wall_s is not None and wall_s < to_s:
        found.append(wall_s)
        wall_s = walls.at_or_after(wall_s + 1)
    return tuple(found)


def _at_end_of_gap(walls: Walls, dst: Dst, at_s: int, wall_s: int, missing: tuple[int, ...]) -> Due:
    """One instant for all that the gap has swallowed, and for the wall time it ends with, if that is meant too."""
    at_us = at_s * SECOND_US
    is_meant = walls.at_or_after(wall_s) == wall_s
    if dst.gap == "skip":
        if is_meant:
            return Due(at_us, wall_s, "gap.skipped", True, missing)
        return Due(at_us, missing[0], "gap.skipped", False, missing[1:])
    if is_meant:
        return Due(at_us, wall_s, "gap.merged", True, missing)
    return Due(at_us, missing[0], "gap.shifted", True, missing[1:])
