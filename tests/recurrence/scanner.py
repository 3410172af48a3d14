"""The oracle of our own: it walks through time minute by minute, reads the clock on the wall, and applies the rule.

It shares nothing with `cascadenced.recurrence`, does not know what a transition is, and is far too slow for a daemon.
"""

from __future__ import annotations

from bisect import bisect_right
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from tests.recurrence.expressions import Meaning

_MINUTE = timedelta(minutes=1)
_HALF_DAY_S = 43_200


class Walk:
    """What the clocks of a zone showed while time went from `start_s` to `end_s`.

    step_s: 60, or 1 where clocks were not a whole number of minutes away from Greenwich.
    """

    def __init__(self, zone: str, start_s: int, end_s: int, *, step_s: int = 60) -> None:
        info = ZoneInfo(zone)
        self.shown: dict[datetime, list[int]] = {}
        """Full minute on the wall → when it was shown."""
        self.jumps: list[tuple[datetime, datetime, int]] = []
        """(last shown before, first shown after, when that was), wherever clocks left out something."""
        before: datetime | None = None
        step = timedelta(seconds=step_s)
        for at_s in range(start_s, end_s, step_s):
            wall = datetime.fromtimestamp(at_s, info).replace(tzinfo=None)
            wall = wall.replace(fold=0)
            if wall.second == 0:
                self.shown.setdefault(wall, []).append(at_s)
            if before is not None and wall - before > step:
                self.jumps.append((before, wall, at_s))
            before = wall
        self.first, self.last = min(self.shown), max(self.shown)

    def due(self, meaning: Meaning, *, gap: str = "shift", overlap: str = "first") -> list[int]:
        """When the expression fires, in seconds since 1970."""
        found: set[int] = set()
        for wall in self._meant(meaning):
            when = self.shown.get(wall, [])
            if meaning.is_continuous:
                found.update(when)
            elif len(when) > 1 and overlap != "both":
                found.add(when[0] if overlap == "first" else when[-1])
            elif when:
                found.update(when)
            elif gap == "shift":
                found.update(after for low, high, after in self.jumps if low < wall < high)
        return sorted(found)

    def _meant(self, meaning: Meaning) -> list[datetime]:
        found, day = [], self.first.date()
        while day <= self.last.date():
            if meaning.on(day):
                midnight = datetime(day.year, day.month, day.day)  # noqa: DTZ001
                times = (midnight + minutes * _MINUTE for minutes in meaning.times)
                found += [wall for wall in times if self.first <= wall <= self.last]
            day += timedelta(days=1)
        return found


def changes(zone: str, first_year: int, last_year: int) -> list[tuple[int, int]]:
    """(second, by how much) of each change of a zone's clocks from the first year to the last one."""
    info = ZoneInfo(zone)

    def offset(at_s: int) -> timedelta:
        found = datetime.fromtimestamp(at_s, info).utcoffset()
        assert found is not None
        return found

    start = int(datetime(first_year, 1, 1, tzinfo=UTC).timestamp())
    end = int(datetime(last_year + 1, 1, 1, tzinfo=UTC).timestamp())
    found, before = [], offset(start)
    for at_s in range(start + _HALF_DAY_S, end, _HALF_DAY_S):
        after = offset(at_s)
        if after != before:
            span = range(at_s - _HALF_DAY_S, at_s + 1)
            second = span[bisect_right(span, 0, key=lambda s, new=after: int(offset(s) == new))]
            found.append((second, int((after - before).total_seconds())))
            before = after
    return found
