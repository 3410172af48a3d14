"""Calendar files as stretches of time."""

from __future__ import annotations

import sys

import pytest

from cascadenced.errors import Invalid
from cascadenced.recurrence.exclusions import ExcludedSpans
from cascadenced.recurrence.ics import NO_EXTRA, spans_of
from tests.recurrence.spec import us


def calendar(*events: str, more: str = "") -> bytes:
    """Events as lines; `;` ends none of them."""
    bodies = "".join(f"BEGIN:VEVENT\nUID:{n}\n{event}\nEND:VEVENT\n" for n, event in enumerate(events))
    return f"BEGIN:VCALENDAR\nVERSION:2.0\nPRODID:x\n{more}{bodies}END:VCALENDAR\n".replace("\n", "\r\n").encode()


def spans(data: bytes, zone: str = "UTC") -> ExcludedSpans:
    return spans_of(data, zone=zone, from_us=us("2025-11-26"), until_us=us("2028-11-26"))


def test_an_event_lasts_from_its_beginning_to_its_end() -> None:
    found = spans(calendar("DTSTART:20261126T090000Z\nDTEND:20261126T100000Z\nSUMMARY:tea"))
    assert found.at(us("2026-11-26T08:59:59")) is None
    assert found.at(us("2026-11-26T09:00:00")) == found.at(us("2026-11-26T09:59:59")) == "tea"
    assert found.at(us("2026-11-26T10:00:00")) is None
    assert found.end(us("2026-11-26T09:30:00")) == us("2026-11-26T10:00:00")


def test_a_day_lasts_as_long_as_it_does_in_the_zone_of_the_schedule() -> None:
    data = calendar("DTSTART;VALUE=DATE:20270328\nSUMMARY:short")  # 23 hours in Berlin
    found = spans(data, "Europe/Berlin")
    assert found.at(us("2027-03-27T23:00:00")) == "short"
    assert found.at(us("2027-03-28T21:59:59")) == "short"
    assert found.at(us("2027-03-28T22:00:00")) is None
    assert spans(data).at(us("2027-03-28T22:00:00")) == "short"


def test_a_time_without_a_zone_is_one_of_the_schedules() -> None:
    found = spans(calendar("DTSTART:20261126T090000\nDURATION:PT1H"), "America/New_York")
    assert found.at(us("2026-11-26T14:30:00")) == ""


def test_recurring_events_with_exceptions_are_expanded() -> None:
    easter = "DTSTART;VALUE=DATE:20000101\nRRULE:FREQ=YEARLY\nEXDATE;VALUE=DATE:20270101\nSUMMARY:new year"
    found = spans(calendar(easter))
    assert [found.at(us(f"{year}-01-01T12:00:00")) for year in (2026, 2027, 2028)] == ["new year", None, "new year"]


def test_a_cancelled_event_excludes_nothing_and_one_without_a_length_neither() -> None:
    cancelled = "DTSTART:20261126T090000Z\nDTEND:20261126T100000Z\nSTATUS:CANCELLED"
    assert len(spans(calendar(cancelled, "DTSTART:20261127T090000Z"))) == 0


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xfe",
        b"0 9 * * *",
        b"BEGIN:VCALENDAR\r\n",
        b"BEGIN:VEVENT\r\nUID:1\r\nEND:VEVENT\r\n",
        calendar("DTSTART:alice"),
        calendar("SUMMARY:alice"),
        calendar("DTSTART:20261126T090000Z\nRRULE:FREQ=NEVER"),
        calendar("DTSTART:20261126T090000Z\nRRULE:COUNT=2"),
    ],
)
def test_what_is_no_calendar_is_refused_without_quoting_it(data: bytes) -> None:
    with pytest.raises(Invalid, match="^it is not a calendar") as refused:
        spans(data)
    assert "alice" not in str(refused.value)


@pytest.mark.parametrize("rule", ["SECONDLY", "MINUTELY", "HOURLY"])
def test_what_recurs_several_times_a_day_is_refused_before_it_is_expanded(rule: str) -> None:
    with pytest.raises(Invalid, match="^one of its events recurs several times a day$"):
        spans(calendar(f"DTSTART:20261126T090000Z\nDURATION:PT1S\nRRULE:FREQ={rule}"))


@pytest.mark.parametrize(
    "events",
    [
        ["DTSTART;VALUE=DATE:20250101\nRRULE:FREQ=DAILY"] * 11,
        ["DTSTART;VALUE=DATE:00010101\nRRULE:FREQ=DAILY"] * 2,
        ["DTSTART:20261126T000000Z\nRRULE:FREQ=DAILY;BYHOUR=1,2,3,4;BYMINUTE=1,2,3"],
    ],
)
def test_too_many_events_are_refused_before_they_are_expanded(events: list[str]) -> None:
    with pytest.raises(Invalid, match="^it has more than 10000 events, or they go back too far$"):
        spans(calendar(*events))


def test_without_the_extra_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "recurring_ical_events", None)
    with pytest.raises(Invalid, match="pip install 'cascadenced\\[calendar\\]'$") as refused:
        spans(calendar())
    assert str(refused.value) == NO_EXTRA
