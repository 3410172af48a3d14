"""What the clocks of a zone do, as stretches of time with one offset each.

`zoneinfo` answers for one instant at a time. Stepping through a schedule asks about the next change of the clocks, so
the changes are looked for once per zone and about a year (a block): the offset is probed day by day, and where two
probes differ the second of the change is found by bisection. Two changes that cancel each other within a day would be
missed; there are none: the closest two of all zones are almost four days apart, in Freetown in 1939 (a test looks).
"""

from __future__ import annotations

from bisect import bisect_right
from datetime import datetime
from functools import cache
from typing import NamedTuple
from zoneinfo import ZoneInfo, available_timezones

from cascadenced.errors import Invalid
from cascadenced.recurrence.walls import DAY_S, FIRST_S, LAST_S

_BLOCK_S = 366 * DAY_S
_MARGIN_S = 3 * DAY_S
"""A block also knows the changes just outside it: clocks were put back by as much as a day, which reaches into it."""
_MAX_BLOCKS = 64
"""Kept per zone. Schedules ask about this year and the next; somebody who leafs through centuries must not fill us."""
_SHOWN_CHARS = 40


class Stretch(NamedTuple):
    """A time of one offset, or a part of one. Seconds since 1970 UTC; offsets in seconds east of Greenwich.

    start_s, end_s: from, to (exclusive).  before_s, after_s: the offsets that end and begin there; the same as
    `offset_s` where nothing changes, and only the part ends.
    """

    start_s: int
    end_s: int
    offset_s: int
    before_s: int
    after_s: int


class Zone:
    """An IANA time zone. There is one object for each name: see `zone`."""

    __slots__ = ("_blocks", "_info", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self._info = ZoneInfo(name)
        self._blocks: dict[int, tuple[list[int], list[Stretch]]] = {}

    def __repr__(self) -> str:
        return f"zone({self.name!r})"

    def stretch(self, at_s: int) -> Stretch:
        """The one that the instant lies in."""
        number = at_s // _BLOCK_S
        block = self._blocks.get(number)
        if block is None:
            if len(self._blocks) >= _MAX_BLOCKS:
                self._blocks.clear()
            block = self._blocks[number] = self._found(number * _BLOCK_S)
        starts, stretches = block
        return stretches[0] if len(starts) == 1 else stretches[bisect_right(starts, at_s) - 1]

    def wall(self, at_s: int) -> int:
        """What clocks show at the instant."""
        return at_s + self.stretch(at_s).offset_s

    def instants(self, wall_s: int) -> list[int]:
        """When clocks show `wall_s`, in order: once as a rule, twice where they were put back, never in a gap."""
        # No offset exceeds a day, and changes are rarer: one of those in force a day before and after it is.
        offsets = {self.stretch(wall_s - DAY_S).offset_s, self.stretch(wall_s + DAY_S).offset_s}
        return sorted(wall_s - offset_s for offset_s in offsets if self.wall(wall_s - offset_s) == wall_s)

    def gap(self, wall_s: int) -> Stretch | None:
        """The stretch that begins with the gap in which `wall_s` lies; None if clocks did show it."""
        at_s = wall_s - DAY_S - DAY_S
        while at_s <= wall_s + DAY_S + DAY_S:
            stretch = self.stretch(at_s)
            if stretch.start_s + stretch.before_s <= wall_s < stretch.start_s + stretch.offset_s:
                return stretch
            at_s = stretch.end_s
        return None

    def _found(self, start_s: int) -> tuple[list[int], list[Stretch]]:
        """The stretches of a block, and those around it that reach into its margins."""
        start_s, end_s = start_s - _MARGIN_S, start_s + _BLOCK_S + _MARGIN_S
        starts, offsets = [start_s], [self._offset(start_s)]
        for day_s in range(start_s, end_s, DAY_S):
            if self._offset(day_s + DAY_S) != offsets[-1]:
                starts.append(self._change(day_s, day_s + DAY_S))
                offsets.append(self._offset(day_s + DAY_S))
        around = [offsets[0], *offsets, offsets[-1]]
        stretches = zip(starts, [*starts[1:], end_s], offsets, around[:-2], around[2:], strict=True)
        return starts, [Stretch(*each) for each in stretches]

    def _change(self, before_s: int, after_s: int) -> int:
        """The first second with the offset that is in force at `after_s`."""
        new = self._offset(after_s)
        while after_s - before_s > 1:
            middle = (before_s + after_s) // 2
            if self._offset(middle) == new:
                after_s = middle
            else:
                before_s = middle
        return after_s

    def _offset(self, at_s: int) -> int:
        offset = datetime.fromtimestamp(min(max(at_s, FIRST_S), LAST_S), self._info).utcoffset()
        assert offset is not None
        return offset.days * DAY_S + offset.seconds


@cache
def zone(name: str) -> Zone:
    """The zone of an IANA name, such as Europe/Berlin. Raises Invalid for anything else."""
    if name not in _names():
        told = "" if not _is_telling(name) else f" {name[:_SHOWN_CHARS]!r}"
        raise Invalid(f"'timezone'{told} is not an IANA time zone, such as Europe/Berlin", code="timezone.unknown")
    return Zone(name)


@cache
def _names() -> frozenset[str]:
    """Read once: it means walking through a folder of hundreds of files."""
    return frozenset(available_timezones())


def _is_telling(name: str) -> bool:
    return name.isascii() and name.replace("/", "").replace("_", "").isalnum()
