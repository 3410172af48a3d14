"""A cron expression as sets of minutes, hours, days, months and weekdays, and the next wall time in all of them.

Our own stepping, not croniter's: that one takes 33 µs for a step and 50 to 220 for an expression, fires twice in an
overlap, and answers `5-5` with every minute and `0 0 31 2 *` with an exception after searching for fifty years. The
sets are what croniter's are, save where docs/schedules-dst.md says so; the tests compare them.
"""

from __future__ import annotations

from datetime import date
from typing import NamedTuple

import msgspec

from cascadenced.recurrence.walls import DAY_S, FIRST_S, LAST_S, local_of

_EPOCH_DAY = date(1970, 1, 1).toordinal()
_FROM_THE_FIRST = (1 << 32) - 2
_A_WEEK = 0b1111_1110
_EVERY_WEEK = sum(1 << 7 * week for week in range(6))
_MAX_MONTHS = 12 * 41
"""The rarest day there is, the 29th of February on one weekday, comes after forty years at most (around 2100)."""


class Fields(NamedTuple):
    """Sets of numbers, as bits. Days of a month from 1; weekdays from 0, Sunday.

    last: the last day of the month.  nth: for each weekday, bits 1 to 5: the how-manieth in the month; 0: the last.
    either: whether a day is meant that is in one of the two sets of days; else it has to be in both.
    """

    minutes: int
    hours: int
    days: int
    months: int
    weekdays: int
    last: bool
    nth: tuple[int, ...]
    either: bool
    is_continuous: bool


class Cron(msgspec.Struct, frozen=True, gc=False, cache_hash=True):
    """A cron expression that was read: see `cron_text.parse_cron`. Implements Walls.

    text: as it was written, its blanks put in order.
    """

    text: str
    fields: Fields

    @property
    def is_continuous(self) -> bool:
        return self.fields.is_continuous

    @property
    def last_us(self) -> None:
        return None

    def at_or_after(self, wall_s: int) -> int | None:
        fields = self.fields
        day, second = divmod(max(wall_s, FIRST_S), DAY_S)
        minute = (second + 59) // 60
        at = date.fromordinal(day + _EPOCH_DAY)
        days = _days(fields, at.year, at.month) >> at.day
        if days & 1:
            hour, minute = divmod(minute, 60)
            hours = fields.hours >> hour
            if hours & 1:
                minutes = fields.minutes >> minute
                if minutes:
                    return day * DAY_S + hour * 3600 + (minute + _lowest(minutes)) * 60
            hours >>= 1
            if hours:
                return day * DAY_S + (hour + 1 + _lowest(hours)) * 3600 + _lowest(fields.minutes) * 60
        days >>= 1
        first = _lowest(fields.hours) * 3600 + _lowest(fields.minutes) * 60
        if days:
            return (day + 1 + _lowest(days)) * DAY_S + first
        return self._in_a_later_month(at.year, at.month, first)

    def mismatch(self, wall_s: int) -> str | None:
        """Which field `wall_s` is not in, as a part of a sentence; None if it is in all of them."""
        fields, at = self.fields, local_of(wall_s)
        if at.second:
            return f"it is {at.second} seconds past a full minute"
        for name, value, bits in (
            ("month", at.month, fields.months),
            ("hour", at.hour, fields.hours),
            ("minute", at.minute, fields.minutes),
        ):
            if not bits >> value & 1:
                return f"the {name} {value} is not among {_listed(bits)}"
        if not _days(fields, at.year, at.month) >> at.day & 1:
            return f"the expression does not mean the {at.date().isoformat()}, a {at:%A}"
        return None

    def _in_a_later_month(self, year: int, month: int, first_s: int) -> int | None:
        fields = self.fields
        for _ in range(_MAX_MONTHS):
            month += 1
            if month > 12:
                year, month = year + 1, 1
            days = _days(fields, year, month)
            if days:
                day = date(year, month, _lowest(days)).toordinal() - _EPOCH_DAY
                found = day * DAY_S + first_s
                return found if found <= LAST_S else None
        return None


def never(fields: Fields) -> bool:
    """Whether there is no such day in any year. Every day of the year falls on every weekday in some year."""
    any_of_weekday = _FROM_THE_FIRST if fields.weekdays else 0
    for nth in fields.nth:
        for n in range(1, 6):
            if nth >> n & 1:
                any_of_weekday |= _A_WEEK << 7 * (n - 1)
    has_last = any(nth & 1 for nth in fields.nth)
    for month in range(1, 13):
        for length in {_length(2000, month), _length(2001, month)} if fields.months >> month & 1 else ():
            days = fields.days | (1 << length if fields.last else 0)
            of_weekday = any_of_weekday | (_A_WEEK << length - 7 if has_last else 0)
            if (days | of_weekday if fields.either else days & of_weekday) & ((2 << length) - 2):
                return False
    return True


def _days(fields: Fields, year: int, month: int) -> int:
    """The days of that month that are meant, as bits from 1."""
    if not fields.months >> month & 1:
        return 0
    length = _length(year, month)
    all_days = (2 << length) - 2
    days = fields.days & all_days
    if fields.last:
        days |= 1 << length
    if fields.weekdays == 127:
        return all_days if fields.either else days
    # The weekday of the 1st, from 0, Sunday; then the weekdays as bits from the 1st on, repeated for each week.
    begin = (date(year, month, 1).weekday() + 1) % 7
    turned = (fields.weekdays >> begin | fields.weekdays << (7 - begin)) & 127
    weekdays = turned * _EVERY_WEEK << 1
    if fields.nth:
        for weekday, nth in enumerate(fields.nth):
            first = 1 + (weekday - begin) % 7
            for n in range(1, 6):
                if nth >> n & 1:
                    weekdays |= 1 << first + 7 * (n - 1)
            if nth & 1:
                weekdays |= 1 << first + (length - first) // 7 * 7
    return (days | weekdays if fields.either else days & weekdays) & all_days


def _length(year: int, month: int) -> int:
    if month == 2:
        return 29 if year % 4 == 0 and (year % 100 != 0 or year % 400 == 0) else 28
    return 30 if month in (4, 6, 9, 11) else 31


def _lowest(bits: int) -> int:
    return (bits & -bits).bit_length() - 1


def _listed(bits: int) -> str:
    """ "0, 9 to 17, 20"."""
    parts: list[str] = []
    while bits:
        low = _lowest(bits)
        run = _lowest(~(bits >> low))
        parts.append(str(low) if run == 1 else f"{low} to {low + run - 1}")
        bits &= ~(((1 << run) - 1) << low)
    return ", ".join(parts)
