"""An iCalendar rule (RFC 5545) as days that are meant, and times of the day; and the next wall time that is both.

python-dateutil says which days of a year pass the rule's filters: one year at a time, which is a bounded amount of
work. The rest is arithmetic on day numbers. Asked for the next instant itself, dateutil counts up from the first one,
millions of steps for a rule of minutes that is some years old, and searches until the year 9999 for one that never
comes.
"""

from __future__ import annotations

from bisect import bisect_left
from calendar import isleap
from datetime import date, datetime
from functools import lru_cache
from typing import Literal

import msgspec
from dateutil.rrule import YEARLY, rrule, weekday

from cascadenced.recurrence.walls import DAY_S, FIRST_S, LAST_S

Frequency = Literal["YEARLY", "MONTHLY", "WEEKLY", "DAILY", "HOURLY", "MINUTELY"]
PERIOD_S: dict[Frequency, int] = {"HOURLY": 3600, "MINUTELY": 60}
"""Of the frequencies that go by elapsed time."""

_EPOCH_DAY = date(1970, 1, 1).toordinal()
_HORIZON_YEARS = 120
"""What does not come for so long never does: longer than any rule with an interval of 25 years at most can pause."""
_ONLY_ONCE = 10_000
"""As an interval of years: dateutil stops after the one it begins with."""


class Filters(msgspec.Struct, frozen=True, gc=False, cache_hash=True):
    """Which days of a year are meant, as RFC 5545 calls them; empty: any.

    weekdays: (0 for Monday, how-manieth or 0).  is_monthly: whether that counts within the month.  week_start: 0 for
    Monday.
    """

    months: tuple[int, ...] = ()
    month_days: tuple[int, ...] = ()
    year_days: tuple[int, ...] = ()
    week_numbers: tuple[int, ...] = ()
    weekdays: tuple[tuple[int, int], ...] = ()
    is_monthly: bool = False
    week_start: int = 0


class RRule(msgspec.Struct, frozen=True, gc=False, cache_hash=True):
    """A rule that was read: see `rrule_text.parse_rrule`. Implements Walls.

    anchor_s: wall time from which it counts; nothing is meant before.  positions: BYSETPOS, of the days of a period.
    times: seconds of the day, rising.  until_s, last_us: no wall time, no instant after it.
    added, removed: wall times, rising.  removed_days: days since 1970.
    """

    text: str
    frequency: Frequency
    interval: int
    anchor_s: int
    filters: Filters
    times: tuple[int, ...]
    positions: tuple[int, ...] = ()
    until_s: int | None = None
    last_us: int | None = None
    added: tuple[int, ...] = ()
    removed: frozenset[int] = frozenset()
    removed_days: frozenset[int] = frozenset()

    @property
    def is_continuous(self) -> bool:
        return self.frequency in PERIOD_S

    def at_or_after(self, wall_s: int) -> int | None:
        wall_s = max(wall_s, FIRST_S)
        while True:
            found = self.by_rule(wall_s)
            at = bisect_left(self.added, wall_s)
            if at < len(self.added) and (found is None or self.added[at] < found):
                found = self.added[at]
            if found is None:
                return None
            if found // DAY_S in self.removed_days:
                wall_s = (found // DAY_S + 1) * DAY_S
            elif found in self.removed:
                wall_s = found + 1
            else:
                return found

    def by_rule(self, wall_s: int) -> int | None:
        """As `at_or_after`, without what was added and removed."""
        wall_s = max(wall_s, self.anchor_s)
        end_s = min(wall_s + _HORIZON_YEARS * 366 * DAY_S, LAST_S if self.until_s is None else self.until_s)
        while wall_s <= end_s:
            day = self._day(self._on_grid(wall_s) // DAY_S, end_s // DAY_S)
            if day is None:
                return None
            wall_s = max(wall_s, day * DAY_S)
            if self._on_grid(wall_s) // DAY_S == day:
                for time_s in self.times[bisect_left(self.times, wall_s - day * DAY_S) :]:
                    found = day * DAY_S + time_s
                    if self._on_grid(found) <= found:
                        return found if found <= end_s else None
            wall_s = (day + 1) * DAY_S
        return None

    def _on_grid(self, wall_s: int) -> int:
        """The start of the first hour or minute, not before the one of `wall_s`, that is a whole number of intervals
        away from the anchor's; for other frequencies `wall_s`."""
        period_s = PERIOD_S.get(self.frequency)
        if period_s is None:
            return wall_s
        anchor = self.anchor_s // period_s
        ahead = (anchor - wall_s // period_s) % self.interval
        return (wall_s // period_s + ahead) * period_s

    def _day(self, day: int, last_day: int) -> int | None:
        """The first day meant that is not before `day`, in days since 1970."""
        year = date.fromordinal(day + _EPOCH_DAY).year
        last_year = date.fromordinal(last_day + _EPOCH_DAY).year
        while year <= last_year:
            january = date(year, 1, 1).toordinal() - _EPOCH_DAY
            days = _days(self, year) >> max(day - january, 0)
            if days:
                return max(day, january) + (days & -days).bit_length() - 1
            year += 1
        return None


@lru_cache(maxsize=2048)
def _days(rule: RRule, year: int) -> int:
    """The days of the year that the rule means, as bits from 0, the 1st of January."""
    if rule.frequency == "YEARLY" and (year - _anchor(rule).year) % rule.interval:
        return 0
    days = _picked(rule, year) if rule.positions else _passing(rule.filters, _like(year))
    if rule.interval == 1 or rule.frequency == "YEARLY" or rule.frequency in PERIOD_S:
        return days
    january = date(year, 1, 1).toordinal()
    kept = 0
    while days:
        lowest = days & -days
        if _period(rule, january + lowest.bit_length() - 1) % rule.interval == 0:
            kept |= lowest
        days ^= lowest
    return kept


def _picked(rule: RRule, year: int) -> int:
    """BYSETPOS: of the days of each period, those at some places. A week may begin in one year and end in the next."""
    january = date(year, 1, 1).toordinal()
    periods: dict[int, list[int]] = {}
    for each in (year - 1, year, year + 1) if rule.frequency == "WEEKLY" else (year,):
        start, days = date(each, 1, 1).toordinal(), _passing(rule.filters, _like(each))
        for at in range(days.bit_length()):
            if days >> at & 1:
                periods.setdefault(_period(rule, start + at), []).append(start + at)
    picked = 0
    for days_of_period in periods.values():
        for position in rule.positions:
            at = position - 1 if position > 0 else len(days_of_period) + position
            if 0 <= at < len(days_of_period) and 0 <= days_of_period[at] - january < 366:
                day = date.fromordinal(days_of_period[at])
                if day.year == year:
                    picked |= 1 << days_of_period[at] - january
    return picked


def _period(rule: RRule, ordinal: int) -> int:
    """The year, month, week or day, counted from that of the anchor."""
    anchor, day = _anchor(rule), date.fromordinal(ordinal)
    match rule.frequency:
        case "YEARLY":
            return day.year - anchor.year
        case "MONTHLY":
            return (day.year - anchor.year) * 12 + day.month - anchor.month
        case "WEEKLY":
            weeks_begin = anchor.toordinal() - (anchor.weekday() - rule.filters.week_start) % 7
            return (ordinal - weeks_begin) // 7
    return ordinal - anchor.toordinal()


def _anchor(rule: RRule) -> date:
    return date.fromordinal(rule.anchor_s // DAY_S + _EPOCH_DAY)


def _calendar(year: int) -> tuple[bool, bool, int]:
    """Whether the year before has a leap day (its last week may reach into this one), this one, and how it begins."""
    return isleap(year - 1), isleap(year), date(year, 1, 1).weekday()


_EACH = {_calendar(year): year for year in range(1972, 2000)}
"""There are only so many calendars: a rule that never comes is asked about 21 years, not 120."""


def _like(year: int) -> int:
    return _EACH[_calendar(year)]


@lru_cache(maxsize=2048)
def _passing(filters: Filters, year: int) -> int:
    """The days of the year that pass the filters, whatever the frequency."""
    january = date(year, 1, 1).toordinal()
    if not (filters.months or filters.month_days or filters.year_days or filters.week_numbers or filters.weekdays):
        return (1 << date(year, 12, 31).toordinal() - january + 1) - 1
    # Of the first weekday of months dateutil knows when it is told months; of days of any kind, when told any.
    months = filters.months or (tuple(range(1, 13)) if filters.is_monthly else ())
    found = rrule(
        YEARLY,
        dtstart=datetime(year, 1, 1),  # noqa: DTZ001 -- a wall time
        interval=_ONLY_ONCE,
        wkst=filters.week_start,
        bymonth=months or None,
        bymonthday=filters.month_days or (None if _names_days(filters) else tuple(range(1, 32))),
        byyearday=filters.year_days or None,
        byweekno=filters.week_numbers or None,
        byweekday=[weekday(day, n or None) for day, n in filters.weekdays] or None,
        byhour=0,
        byminute=0,
        bysecond=0,
    )
    days = 0
    for at in found:
        days |= 1 << at.toordinal() - january
    return days


def _names_days(filters: Filters) -> bool:
    return bool(filters.year_days or filters.week_numbers or filters.weekdays)
