"""A calendar file (RFC 5545) → the stretches of time that its events take. Needs the extra `calendar`."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, time
from math import prod
from typing import Any
from zoneinfo import ZoneInfo

from cascadenced.errors import Invalid
from cascadenced.recurrence.exclusions import ExcludedSpans

NO_EXTRA = "exclude_ics needs what is not installed: pip install 'cascadenced[calendar]'"
MAX_SPANS = 10_000
"""Finding one takes a third of a millisecond."""
MAX_STEPS = 1_000_000
"""A rule is walked through from its beginning, however long ago that is."""
_A_YEAR = {"DAILY": 366, "WEEKLY": 53, "MONTHLY": 12, "YEARLY": 1}
_DAYS_IN_ONE = {"YEARLY": 53, "MONTHLY": 5}
"""Days that a weekday without a number means in a year or a month, at the most."""


def spans_of(data: bytes, *, zone: str, from_us: int, until_us: int) -> ExcludedSpans:
    """When the events of a calendar are, of those between two instants (µs since 1970); cancelled ones are not.

    zone: of days and times that name none. Slow: seconds for a large calendar.
    Raises Invalid (ics.extra, ics.broken, ics.too_many): nothing of the calendar is quoted.
    """
    try:
        import icalendar
        import recurring_ical_events
    except ImportError:
        raise Invalid(NO_EXTRA, code="ics.extra") from None
    begin, end = (datetime.fromtimestamp(at_us / 1e6, UTC) for at_us in (from_us, until_us))
    try:
        calendars = icalendar.Calendar.from_ical(data, multiple=True)
        if not calendars or any(calendar.name != "VCALENDAR" for calendar in calendars):
            raise Invalid("it is not a calendar", code="ics.broken")
        rules = [rule for calendar in calendars for rule in _rules(calendar)]
        _refuse_endless(rules, begin, end)
        events = [event for calendar in calendars for event in recurring_ical_events.of(calendar).between(begin, end)]
        return ExcludedSpans(
            (_us(event["DTSTART"].dt, zone), _us(event["DTEND"].dt, zone), str(event.get("SUMMARY", "")))
            for event in events
            if "DTEND" in event and str(event.get("STATUS", "")).upper() != "CANCELLED"
        )
    except Invalid:
        raise
    except Exception as error:  # noqa: BLE001 -- whatever two libraries raise at somebody's file, it is broken
        raise Invalid(f"it is not a calendar, or a broken one ({type(error).__name__})", code="ics.broken") from None


def _rules(calendar: Any) -> Iterator[tuple[Any, date]]:
    """Rules of recurring events, each with the day it begins on."""
    for event in calendar.walk("VEVENT"):
        given = event.get("RRULE", [])
        for rule in given if isinstance(given, list) else [given]:
            yield rule, event["DTSTART"].dt


def _refuse_endless(rules: list[tuple[Any, date]], begin: datetime, end: datetime) -> None:
    """Estimates, before anything is walked through, how far there is to walk."""
    steps = found = 0.0
    for rule, since in rules:
        [freq] = rule["FREQ"]
        if freq not in _A_YEAR:
            raise Invalid("one of its events recurs several times a day", code="ics.too_many")
        sets = [len(rule[key]) for key in rule if key.startswith("BY") and key != "BYSETPOS"]
        if "BYDAY" in rule:
            sets.append(_DAYS_IN_ONE.get(freq, 1))
        a_year = min(_A_YEAR[freq] * prod(sets) / rule.get("INTERVAL", [1])[0], 366 * prod(_times(rule)))
        steps += a_year * max(1, end.year - since.year)
        found += a_year * (end - begin).days / 365
    if steps > MAX_STEPS or found > MAX_SPANS:
        raise Invalid(f"it has more than {MAX_SPANS} events, or they go back too far", code="ics.too_many")


def _times(rule: Any) -> list[int]:
    return [len(rule[key]) for key in ("BYHOUR", "BYMINUTE", "BYSECOND") if key in rule]


def _us(at: date, zone: str) -> int:
    """Of a day, its midnight."""
    if not isinstance(at, datetime):
        at = datetime.combine(at, time())
    if at.tzinfo is None:
        at = at.replace(tzinfo=ZoneInfo(zone))
    return round(at.timestamp()) * 1_000_000
