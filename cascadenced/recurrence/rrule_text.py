"""Reading an iCalendar rule: a line `RRULE:…` or only what follows the colon, with DTSTART, EXDATE and RDATE lines.

As RFC 5545 says and dateutil understands it (so DTSTART is not meant itself unless the rule means it), but for this:
rules that go by the second are refused; an UNTIL or EXDATE of a date alone means the whole day; BYSETPOS counts days.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from math import gcd
from typing import NamedTuple, NoReturn

from msgspec.structs import replace

from cascadenced.errors import Invalid
from cascadenced.recurrence.rrule import PERIOD_S, Filters, Frequency, RRule
from cascadenced.recurrence.walls import DAY_S, FIRST_S, SECOND_US, instant_us, wall_of
from cascadenced.recurrence.zones import Zone

MAX_CHARS = 2048
MAX_COUNT = 1000
MAX_TIMES = 288
"""Of a day, in a rule of days: more of them is a rule of hours or minutes."""

# 25 years each: see the horizon in rrule.py.
_MAX_INTERVAL: dict[Frequency, int] = {
    "YEARLY": 25,
    "MONTHLY": 25 * 12,
    "WEEKLY": 25 * 52,
    "DAILY": 25 * 365,
    "HOURLY": 25 * 365 * 24,
    "MINUTELY": 25 * 365 * 1440,
}
_WEEKDAYS = ["MO", "TU", "WE", "TH", "FR", "SA", "SU"]
_PARTS = {
    *("FREQ", "INTERVAL", "COUNT", "UNTIL", "WKST", "BYSETPOS", "BYMONTH", "BYMONTHDAY", "BYYEARDAY", "BYWEEKNO"),
    *("BYDAY", "BYHOUR", "BYMINUTE", "BYSECOND"),
}
_UNSHOWABLE = re.compile(r"[^ -~\n]")
_LINE = re.compile(r"(RRULE|DTSTART|EXDATE|RDATE)((?:;[A-Z]+=[^;:]*)*):(.*)")
_INTEGER = re.compile(r"[+-]?[0-9]{1,8}")
_DAY = re.compile(r"([+-]?[0-9]{1,2})?(MO|TU|WE|TH|FR|SA|SU)")
_DATE = re.compile(r"[0-9]{8}(T[0-9]{6}Z?)?")


class _When(NamedTuple):
    """A date or a time. is_date: without a time of the day.  at_us: the instant, if it is one."""

    wall_s: int
    is_date: bool
    at_us: int | None


def parse_rrule(text: object, *, zone: Zone, anchor_us: int) -> RRule:
    """The rule in `text`, which is evaluated in the local time of `zone`.

    anchor_us: stands for DTSTART where there is none, its seconds dropped: such as when the schedule was made.
    Raises Invalid: rrule.empty, rrule.characters, rrule.length, rrule.line, rrule.part, rrule.value, rrule.zone,
    rrule.frequency, rrule.interval, rrule.count, rrule.times, rrule.setpos, rrule.never.
    """
    lines = _lines(text)
    anchor_s = zone.wall(anchor_us // SECOND_US) // 60 * 60
    rules: list[str] = []
    added: list[_When] = []
    removed: list[_When] = []
    for name, options, value in lines:
        if name == "RRULE":
            rules.append(value)
            continue
        found = [_when(name, each, options, zone) for each in value.split(",")]
        if name == "DTSTART":
            if len(found) != 1:
                _refuse("line", "DTSTART must be one date or time")
            anchor_s = found[0].wall_s
        else:
            (added if name == "RDATE" else removed).extend(found)
    if len(rules) != 1:
        _refuse("line", f"there must be one rule; got {len(rules)}")
    rule = _rule(_parts(rules[0]), str(text).strip(), anchor_s, zone)
    rule = replace(
        rule,
        added=tuple(sorted({each.wall_s for each in added})),
        removed=frozenset(each.wall_s for each in removed if not each.is_date),
        removed_days=frozenset(each.wall_s // DAY_S for each in removed if each.is_date),
    )
    if rule.at_or_after(FIRST_S) is None:
        _refuse("never", "it never comes")
    return rule


def _lines(text: object) -> list[tuple[str, dict[str, str], str]]:
    if not isinstance(text, str) or not text.strip():
        raise Invalid("'rrule' must be a non-empty string", code="rrule.empty")
    if len(text) > MAX_CHARS:
        raise Invalid(f"'rrule' has {len(text)} characters; {MAX_CHARS} are allowed", code="rrule.length")
    unix = text.replace("\r\n", "\n")
    if _UNSHOWABLE.search(unix):
        raise Invalid("'rrule' must be lines of printable ASCII characters", code="rrule.characters")
    found = []
    for line in unix.replace("\n ", "").upper().split("\n"):
        if not line.strip():
            continue
        match = _LINE.fullmatch(line.strip() if ":" in line else f"RRULE:{line.strip()}")
        if match is None:
            _refuse("line", "lines may be RRULE, DTSTART, EXDATE and RDATE")
        options = dict(option.split("=", 1) for option in match[2].split(";")[1:])
        found.append((match[1], options, match[3]))
    return found


def _parts(rule: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in rule.rstrip(";").split(";"):
        name, _, value = part.partition("=")
        if name not in _PARTS or not value:
            _refuse("part", f"its parts are written NAME=VALUE; the names are {', '.join(sorted(_PARTS))}")
        if name in found:
            _refuse("part", f"{name} must be there once")
        found[name] = value
    if "COUNT" in found and "UNTIL" in found:
        _refuse("part", "COUNT and UNTIL exclude each other")
    return found


def _rule(parts: dict[str, str], text: str, anchor_s: int, zone: Zone) -> RRule:
    frequency = _frequency(parts.get("FREQ", ""))
    interval_text = parts.get("INTERVAL", "1")
    interval = int(interval_text) if interval_text.isdigit() else 0
    if not 1 <= interval <= _MAX_INTERVAL[frequency]:
        _refuse("interval", f"INTERVAL must be 1 to {_MAX_INTERVAL[frequency]}, which is 25 years")
    times = _times(parts, frequency, interval, anchor_s)
    positions = _numbers(parts, "BYSETPOS", 1, 366, signed=True)
    if positions and frequency == "DAILY":
        times = tuple(sorted({times[p - (p > 0)] for p in positions if -len(times) <= p - (p > 0) < len(times)}))
        positions = ()
        if not times:
            _refuse("never", "it never comes")
    if positions and (frequency in PERIOD_S or len(times) > 1):
        _refuse("setpos", "BYSETPOS needs a rule of days or more, with one time of the day")
    rule = RRule(
        text=text,
        frequency=frequency,
        interval=interval,
        anchor_s=anchor_s,
        filters=_filters(parts, frequency, anchor_s),
        times=times,
        positions=positions,
    )
    if "UNTIL" in parts:
        until = _when("UNTIL", parts["UNTIL"], {}, zone)
        return replace(
            rule,
            until_s=until.wall_s + DAY_S - 1 if until.is_date else until.wall_s if until.at_us is None else None,
            last_us=until.at_us,
        )
    return _counted(rule, parts["COUNT"]) if "COUNT" in parts else rule


def _frequency(word: str) -> Frequency:
    if word == "SECONDLY":
        _refuse("frequency", "the finest frequency is MINUTELY")
    if word not in _MAX_INTERVAL:
        _refuse("frequency", f"FREQ must be one of {', '.join(_MAX_INTERVAL)}")
    return word


def _filters(parts: dict[str, str], frequency: Frequency, anchor_s: int) -> Filters:
    """What the rule says, and what RFC 5545 takes from the anchor where it says nothing."""
    months = _numbers(parts, "BYMONTH", 1, 12)
    month_days = _numbers(parts, "BYMONTHDAY", 1, 31, signed=True)
    year_days = _numbers(parts, "BYYEARDAY", 1, 366, signed=True)
    week_numbers = _numbers(parts, "BYWEEKNO", 1, 53, signed=True)
    weekdays = _weekdays(parts, frequency)
    if week_numbers and frequency != "YEARLY":
        _refuse("value", "BYWEEKNO needs FREQ=YEARLY")
    week_start = parts.get("WKST", "MO")
    if week_start not in _WEEKDAYS:
        _refuse("value", f"WKST must be one of {', '.join(_WEEKDAYS)}")
    anchor = datetime.fromtimestamp(anchor_s, UTC)
    if not (month_days or year_days or week_numbers or weekdays):
        if frequency == "YEARLY":
            months, month_days = months or (anchor.month,), (anchor.day,)
        elif frequency == "MONTHLY":
            month_days = (anchor.day,)
        elif frequency == "WEEKLY":
            weekdays = ((anchor.weekday(), 0),)
    return Filters(
        months=months,
        month_days=month_days,
        year_days=year_days,
        week_numbers=week_numbers,
        weekdays=weekdays,
        is_monthly=frequency == "MONTHLY",
        week_start=_WEEKDAYS.index(week_start),
    )


def _weekdays(parts: dict[str, str], frequency: Frequency) -> tuple[tuple[int, int], ...]:
    found = []
    for item in parts["BYDAY"].split(",") if "BYDAY" in parts else ():
        match = _DAY.fullmatch(item)
        if match is None:
            _refuse("value", f"BYDAY must be a list of {', '.join(_WEEKDAYS)}, in a month or a year also -1FR or 2MO")
        n = int(match[1] or 0)
        if match[1] is not None and (frequency not in ("MONTHLY", "YEARLY") or not 1 <= abs(n) <= 53):
            _refuse("value", "BYDAY may have numbers, -53 to 53, only with FREQ=MONTHLY or FREQ=YEARLY")
        found.append((_WEEKDAYS.index(match[2]), n))
    return tuple(found)


def _times(parts: dict[str, str], frequency: Frequency, interval: int, anchor_s: int) -> tuple[int, ...]:
    """Seconds of the day. For rules of hours or minutes: those that some whole number of intervals leads to."""
    minute, second = anchor_s // 60, anchor_s % 60
    is_of_days = frequency not in PERIOD_S
    hours = _numbers(parts, "BYHOUR", 0, 23) or ((minute // 60 % 24,) if is_of_days else tuple(range(24)))
    minutes = _numbers(parts, "BYMINUTE", 0, 59) or (tuple(range(60)) if frequency == "MINUTELY" else (minute % 60,))
    seconds = _numbers(parts, "BYSECOND", 0, 59) or (second,)
    if len(seconds) > 1:
        _refuse("times", "BYSECOND must be one number: the finest frequency is MINUTELY")
    if is_of_days and len(hours) * len(minutes) > MAX_TIMES:
        _refuse("times", f"it means more than {MAX_TIMES} times a day; use FREQ=MINUTELY or FREQ=HOURLY")
    times = [hour * 3600 + minute * 60 + seconds[0] for hour in hours for minute in minutes]
    if not is_of_days:
        period_s = PERIOD_S[frequency]
        reach_s = gcd(interval * period_s, DAY_S)
        start_s = anchor_s // period_s * period_s
        times = [time_s for time_s in times if (time_s // period_s * period_s - start_s) % reach_s == 0]
        if not times:
            _refuse("never", "no whole number of intervals leads to one of its hours and minutes")
    return tuple(sorted(times))


def _numbers(parts: dict[str, str], name: str, low: int, high: int, *, signed: bool = False) -> tuple[int, ...]:
    found = set()
    for item in parts[name].split(",") if name in parts else ():
        value = int(item) if _INTEGER.fullmatch(item) else high + 1
        if not low <= (abs(value) if signed else value) <= high:
            _refuse("value", f"{name} must be numbers from {low} to {high}{', or the same below 0' if signed else ''}")
        found.add(value)
    return tuple(sorted(found))


def _counted(rule: RRule, text: str) -> RRule:
    """COUNT as an UNTIL, so that nobody has to count again."""
    n = int(text) if _INTEGER.fullmatch(text) else 0
    if not 1 <= n <= MAX_COUNT:
        _refuse("count", f"COUNT must be 1 to {MAX_COUNT}; a longer rule can have an UNTIL")
    wall_s = last_s = FIRST_S
    for _ in range(n):
        found = rule.by_rule(wall_s)
        if found is None:
            break
        last_s, wall_s = found, found + 1
    return replace(rule, until_s=last_s)


def _when(name: str, text: str, options: dict[str, str], zone: Zone) -> _When:
    if _DATE.fullmatch(text) is None:
        _refuse("value", f"{name} must be written 20250309, 20250309T023000 or 20250309T023000Z")
    named = options.get("TZID")
    if named is not None and named != zone.name.upper():
        _refuse("zone", f"TZID must be the time zone of the schedule, {zone.name}")
    try:
        at = datetime.strptime(text.rstrip("Z"), "%Y%m%dT%H%M%S" if "T" in text else "%Y%m%d")  # noqa: DTZ007
    except ValueError:
        _refuse("value", f"{name} must be a date that there is")
    wall_s = wall_of(at)
    if not 1900 <= at.year < 9998:
        _refuse("value", f"{name} must lie in the years 1900 to 9997")
    if not text.endswith("Z"):
        return _When(wall_s, "T" not in text, None)
    at_us = instant_us(at.replace(tzinfo=UTC))
    return _When(zone.wall(at_us // SECOND_US), False, at_us)


def _refuse(code: str, why: str) -> NoReturn:
    raise Invalid(f"'rrule': {why}", code=f"rrule.{code}")
