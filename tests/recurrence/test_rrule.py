"""Rules of iCalendar: what dateutil says of them, bounded, in local time."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import islice

import pytest
from dateutil.rrule import rrulestr
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cascadenced.errors import Invalid
from cascadenced.recurrence.rrule import RRule
from cascadenced.recurrence.rrule_text import MAX_CHARS, parse_rrule
from cascadenced.recurrence.walls import local_of
from cascadenced.recurrence.zones import zone
from tests.recurrence.spec import NEW_YORK, first, instants, us

ANCHOR = "2025-01-15T09:30"


def read(text: str, *, in_zone: str = "UTC", anchor: str = ANCHOR) -> RRule:
    return parse_rrule(text, zone=zone(in_zone), anchor_us=us(anchor))


def walls(rule: RRule, n: int) -> list[datetime]:
    found: list[datetime] = []
    wall_s = rule.at_or_after(0)
    while wall_s is not None and len(found) < n:
        found.append(local_of(wall_s))
        wall_s = rule.at_or_after(wall_s + 1)
    return found


def understood(text: str, anchor_us: int) -> tuple[RRule | None, str]:
    """The rule, or the code it is refused with."""
    try:
        return parse_rrule(text, zone=zone("UTC"), anchor_us=anchor_us), ""
    except Invalid as refused:
        return None, refused.code


def refusal(text: object) -> tuple[str, str]:
    with pytest.raises(Invalid) as refused:
        parse_rrule(text, zone=zone("UTC"), anchor_us=us(ANCHOR))
    return refused.value.code, str(refused.value)


# ── dateutil as the oracle ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "text",
    [
        "FREQ=DAILY",
        "FREQ=DAILY;INTERVAL=3;COUNT=7",
        "FREQ=DAILY;INTERVAL=2;BYMONTH=2,3",
        "FREQ=DAILY;BYHOUR=9,17;BYMINUTE=0,30",
        "FREQ=DAILY;BYHOUR=9,17;BYMINUTE=0,30;BYSETPOS=1,-1",
        "FREQ=WEEKLY",
        "FREQ=WEEKLY;INTERVAL=2;BYDAY=MO,FR",
        "FREQ=WEEKLY;INTERVAL=2;BYDAY=SU,MO;WKST=SU",
        "FREQ=WEEKLY;BYDAY=MO,TU,WE,TH,FR;UNTIL=20250801T000000",
        "FREQ=MONTHLY",
        "FREQ=MONTHLY;BYMONTHDAY=31",
        "FREQ=MONTHLY;BYMONTHDAY=-1",
        "FREQ=MONTHLY;INTERVAL=5;BYDAY=-1FR",
        "FREQ=MONTHLY;BYDAY=1MO,3MO;BYMONTH=1,6",
        "FREQ=MONTHLY;BYDAY=MO,TU,WE,TH,FR;BYSETPOS=-1",
        "FREQ=MONTHLY;BYDAY=FR;BYMONTHDAY=13",
        "FREQ=YEARLY",
        "FREQ=YEARLY;BYDAY=20MO",
        "FREQ=YEARLY;BYWEEKNO=1,20,53;BYDAY=MO,SU",
        "FREQ=YEARLY;BYWEEKNO=-1",
        "FREQ=YEARLY;BYYEARDAY=1,100,-1",
        "FREQ=YEARLY;INTERVAL=4;BYMONTH=11;BYDAY=TU;BYMONTHDAY=2,3,4,5,6,7,8",
        "FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=29",
        "FREQ=YEARLY;BYMONTH=3,6;BYSETPOS=2;BYDAY=SA",
        "FREQ=HOURLY;INTERVAL=5",
        "FREQ=HOURLY;BYMINUTE=0,20,40;BYHOUR=8,9",
        "FREQ=HOURLY;INTERVAL=30;BYDAY=MO,TU",
        "FREQ=MINUTELY;INTERVAL=90",
        "FREQ=MINUTELY;INTERVAL=7;BYHOUR=9;BYDAY=WE",
        "FREQ=MINUTELY;INTERVAL=2000",
    ],
)
def test_a_rule_means_what_dateutil_says(text):
    theirs = rrulestr(text, dtstart=datetime.fromisoformat(ANCHOR))
    assert walls(read(text), 60) == list(islice(theirs, 60))


@st.composite
def rules(draw: st.DrawFn) -> str:
    """Without those that dateutil takes seconds for."""
    frequency = draw(st.sampled_from(["YEARLY", "MONTHLY", "WEEKLY", "DAILY", "HOURLY", "MINUTELY"]))
    parts = [f"FREQ={frequency}", f"INTERVAL={draw(st.integers(1, 9))}"]

    def some(name: str, values: st.SearchStrategy[object]) -> None:
        if draw(st.integers(0, 3)) == 0:
            chosen = draw(st.lists(values, min_size=1, max_size=4, unique=True))
            parts.append(f"{name}={','.join(map(str, chosen))}")

    ordinals = st.sampled_from(["", "1", "-1", "2", "-2"] if frequency in ("YEARLY", "MONTHLY") else [""])
    days = st.sampled_from(["MO", "TU", "WE", "TH", "FR", "SA", "SU"])
    some("BYDAY", st.tuples(ordinals, days).map("".join))
    some("BYHOUR", st.integers(0, 23))
    if frequency not in ("HOURLY", "MINUTELY"):
        some("BYMONTH", st.integers(1, 12))
        some("BYMONTHDAY", st.sampled_from([*range(1, 32), *range(-31, 0)]))
        some("WKST", days)
        parts = [part for part in parts if not (part.startswith("WKST") and "," in part)]
    if frequency == "YEARLY":
        some("BYWEEKNO", st.sampled_from([*range(1, 54), -1, -2]))
        some("BYYEARDAY", st.sampled_from([*range(1, 367), -1, -366]))
    if frequency in ("YEARLY", "MONTHLY") and not any(part.startswith("BYHOUR") for part in parts):
        some("BYSETPOS", st.sampled_from([1, 2, -1, -3]))
    return ";".join(parts)


@settings(max_examples=150, deadline=None)
@given(rules(), st.integers(us("2000-01-01"), us("2030-01-01")))
def test_any_rule_means_what_dateutil_says(text, anchor_us):
    rule, code = understood(text, anchor_us)
    assume(code != "rrule.never")
    assert rule is not None
    anchor = local_of(anchor_us // 60_000_000 * 60)
    ours = [wall for wall in walls(rule, 12) if wall.year < anchor.year + 30]
    theirs = rrulestr(text, dtstart=anchor)
    assert list(islice(theirs, len(ours))) == ours


@settings(max_examples=300, deadline=None)
@given(
    st.text(max_size=100)
    | st.text(alphabet="FREQ=DAILYINTERVAL;:,0123456789-+\nTZUCOYHM", max_size=200)
    | st.lists(
        st.tuples(
            st.sampled_from(
                ["FREQ", "INTERVAL", "COUNT", "UNTIL", "BYDAY", "BYSETPOS", "BYMONTH", "BYHOUR", "WKST", "X"]
            ),
            st.sampled_from(
                ["MINUTELY", "DAILY", "YEARLY", "1", "0", "-1", "999999999", "1,2,3", "MO,-1FR", "20300101", "2030"]
            ),
        ).map("=".join),
        min_size=1,
        max_size=5,
    ).map(";".join)
)
def test_any_text_is_either_a_rule_or_invalid(text):
    rule, code = understood(text, us(ANCHOR))
    assert rule is not None or code.startswith("rrule.")
    assert rule is None or rule.at_or_after(0) is not None


def shown_first(text: str, *, anchor: str = ANCHOR) -> str:
    return walls(read(text, in_zone=NEW_YORK, anchor=anchor), 1)[0].isoformat()


# ── local time ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_rule_of_days_keeps_to_the_wall_and_follows_the_rule_of_changing_clocks():
    rule = read("DTSTART:20250308T023000\nRRULE:FREQ=DAILY", in_zone=NEW_YORK)
    dues = first(rule, 3, after="2025-03-08T00:00", in_zone=NEW_YORK)
    assert instants(dues) == ["2025-03-08T07:30", "2025-03-09T07:00", "2025-03-10T06:30"]
    assert dues[1].note == "gap.shifted"


def test_a_rule_of_hours_goes_by_elapsed_time():
    rule = read("DTSTART:20251102T003000\nRRULE:FREQ=HOURLY", in_zone=NEW_YORK)
    dues = first(rule, 4, after="2025-11-02T00:00", in_zone=NEW_YORK)
    assert instants(dues) == ["2025-11-02T04:30", "2025-11-02T05:30", "2025-11-02T06:30", "2025-11-02T07:30"]


def test_without_a_dtstart_the_callers_anchor_stands_for_it_in_local_time_and_full_minutes():
    assert shown_first("FREQ=DAILY", anchor="2025-01-15T09:30:59") == "2025-01-15T04:30:00"


def test_an_anchor_in_utc_or_in_the_zone_by_name_is_local_time_there():
    assert shown_first("DTSTART:20250701T120000Z\nRRULE:FREQ=DAILY") == "2025-07-01T08:00:00"
    named = "DTSTART;TZID=America/New_York:20250701T120000\nRRULE:FREQ=DAILY"
    assert shown_first(named) == "2025-07-01T12:00:00"
    assert refusal(named) == ("rrule.zone", "'rrule': TZID must be the time zone of the schedule, UTC")


def test_until_is_an_instant_a_local_time_or_a_whole_day():
    def last(until: str) -> str:
        rule = read(f"DTSTART:20251101T013000\nRRULE:FREQ=DAILY;UNTIL={until}", in_zone=NEW_YORK)
        return instants(first(rule, 9, after="2025-10-01T00:00", in_zone=NEW_YORK))[-1]

    assert last("20251102T053000Z") == "2025-11-02T05:30"
    assert last("20251102T052959Z") == "2025-11-01T05:30"
    assert last("20251103T013000") == "2025-11-03T06:30"
    assert last("20251103") == "2025-11-03T06:30"


def test_dates_are_taken_out_and_put_in():
    text = (
        "DTSTART:20250101T090000\nRRULE:FREQ=DAILY;COUNT=5\nEXDATE:20250102T090000,20250104\n"
        "EXDATE;VALUE=DATE:20250105\nRDATE:20250103T120000,20260101T000000"
    )
    assert [at.isoformat(timespec="hours") for at in walls(read(text), 9)] == [
        "2025-01-01T09",
        "2025-01-03T09",
        "2025-01-03T12",
        "2026-01-01T00",
    ]


def test_a_rule_that_has_run_for_ages_is_as_quick_as_a_new_one():
    rule = read("DTSTART:19000101T000000\nRRULE:FREQ=MINUTELY;INTERVAL=7")
    [due] = first(rule, 1, after="2025-01-01T00:00")
    assert (datetime.fromtimestamp(due.at_us / 1e6, UTC) - datetime(1900, 1, 1, tzinfo=UTC)).total_seconds() % 420 == 0


# ── what is refused ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "rrule.empty"),
        (None, "rrule.empty"),
        ("FREQ=DAILY;" * MAX_CHARS, "rrule.length"),
        ("FREQ=DAILY\0", "rrule.characters"),
        ("FREQ=SECONDLY", "rrule.frequency"),
        ("FREQ=FORTNIGHTLY", "rrule.frequency"),
        ("INTERVAL=2", "rrule.frequency"),
        ("FREQ=DAILY;INTERVAL=0", "rrule.interval"),
        ("FREQ=YEARLY;INTERVAL=26", "rrule.interval"),
        ("FREQ=DAILY;INTERVAL=+1", "rrule.interval"),
        ("FREQ=DAILY;COUNT=0", "rrule.count"),
        ("FREQ=DAILY;COUNT=1000000000", "rrule.count"),
        ("FREQ=DAILY;COUNT=2;UNTIL=20300101", "rrule.part"),
        ("FREQ=DAILY;FREQ=DAILY", "rrule.part"),
        ("FREQ=DAILY;BYEASTER=0", "rrule.part"),
        ("FREQ", "rrule.part"),
        ("FREQ=DAILY;BYHOUR=24", "rrule.value"),
        ("FREQ=DAILY;BYDAY=XX", "rrule.value"),
        ("FREQ=DAILY;BYDAY=1MO", "rrule.value"),
        ("FREQ=MONTHLY;BYDAY=0MO", "rrule.value"),
        ("FREQ=MONTHLY;BYMONTHDAY=0", "rrule.value"),
        ("FREQ=MONTHLY;BYWEEKNO=1", "rrule.value"),
        ("FREQ=DAILY;UNTIL=tomorrow", "rrule.value"),
        ("FREQ=DAILY;UNTIL=20250230", "rrule.value"),
        ("DTSTART:00010105T000000\nFREQ=WEEKLY;BYDAY=MO,TU;BYSETPOS=1", "rrule.value"),
        ("FREQ=MINUTELY;BYSECOND=0,30", "rrule.times"),
        (f"FREQ=DAILY;BYHOUR={','.join(map(str, range(24)))};BYMINUTE={','.join(map(str, range(60)))}", "rrule.times"),
        ("FREQ=MONTHLY;BYHOUR=1,2;BYSETPOS=1", "rrule.setpos"),
        ("FREQ=MINUTELY;BYSETPOS=1", "rrule.setpos"),
        ("FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30", "rrule.never"),
        ("FREQ=HOURLY;INTERVAL=2;BYHOUR=8", "rrule.never"),
        ("FREQ=DAILY;BYSETPOS=2", "rrule.never"),
        ("FREQ=DAILY;UNTIL=20200101", "rrule.never"),
        ("FREQ=MINUTELY;INTERVAL=10080;BYDAY=SU", "rrule.never"),
        ("RRULE:FREQ=DAILY\nRRULE:FREQ=WEEKLY", "rrule.line"),
        ("EXDATE:20250101", "rrule.line"),
        ("EXRULE:FREQ=DAILY", "rrule.line"),
        ("DTSTART:20250101,20250102\nRRULE:FREQ=DAILY", "rrule.line"),
    ],
)
def test_what_is_wrong_or_would_take_for_ever_is_refused(text, code):
    got, sentence = refusal(text)
    assert got == code
    assert sentence.startswith("'rrule'")
