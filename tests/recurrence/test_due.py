"""When a recurrence is due, above all where clocks change."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise, takewhile
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascadenced.errors import Invalid
from cascadenced.recurrence import due as due_module
from cascadenced.recurrence.cron_text import parse_cron
from cascadenced.recurrence.dst import Dst, parse_dst
from cascadenced.recurrence.due import following, next_due, next_occurrence
from cascadenced.recurrence.interval import parse_interval
from cascadenced.recurrence.one_off import parse_one_off
from cascadenced.recurrence.zones import zone
from tests.recurrence.expressions import Meaning, generated
from tests.recurrence.scanner import Walk, changes
from tests.recurrence.spec import APIA, LORD_HOWE, NEW_YORK, first, instants, us

# ── gaps: in New York 02:00 to 03:00 on 2025-03-09, 07:00 UTC ────────────────────────────────────────────────────────


def test_a_local_time_that_does_not_exist_fires_at_the_end_of_the_gap():
    [due] = first("30 2 * * *", 1, after="2025-03-08T12:00", in_zone=NEW_YORK)
    assert instants([due]) == ["2025-03-09T07:00"]
    assert (due.local, due.note, due.missing) == ("2025-03-09T02:30", "gap.shifted", ())


def test_the_days_before_and_after_the_gap_are_as_ever():
    dues = first("30 2 * * *", 3, after="2025-03-08T00:00", in_zone=NEW_YORK)
    assert instants(dues) == ["2025-03-08T07:30", "2025-03-09T07:00", "2025-03-10T06:30"]
    assert [due.note for due in dues] == [None, "gap.shifted", None]


def test_all_that_one_gap_swallows_becomes_one_instant_that_knows_of_the_others():
    due, after = first("10,30,50 2 * * *", 2, after="2025-03-08T12:00", in_zone=NEW_YORK)
    assert instants([due, after]) == ["2025-03-09T07:00", "2025-03-10T06:10"]
    assert due.local == "2025-03-09T02:10"
    assert due.missing_local == ("2025-03-09T02:30", "2025-03-09T02:50")


def test_what_is_due_at_the_end_of_the_gap_anyway_stands_for_what_the_gap_swallowed():
    due, after = first("0,30 2-3 * * *", 2, after="2025-03-08T12:00", in_zone=NEW_YORK)
    assert instants([due, after]) == ["2025-03-09T07:00", "2025-03-09T07:30"]
    assert (due.local, due.note) == ("2025-03-09T03:00", "gap.merged")
    assert due.missing_local == ("2025-03-09T02:00", "2025-03-09T02:30")


def test_a_gap_may_be_skipped_instead_and_that_is_told():
    due, after = first("10,30 2 * * *", 2, after="2025-03-08T12:00", in_zone=NEW_YORK, gap="skip")
    assert (due.fires, due.note, due.local) == (False, "gap.skipped", "2025-03-09T02:10")
    assert due.missing_local == ("2025-03-09T02:30",)
    assert instants([after]) == ["2025-03-10T06:10"]


def test_what_is_due_at_the_end_of_a_skipped_gap_fires_and_tells_what_was_skipped():
    [due] = first("0,30 2-3 * * *", 1, after="2025-03-09T06:00", in_zone=NEW_YORK, gap="skip")
    assert (due.fires, due.note, due.local) == (True, "gap.skipped", "2025-03-09T03:00")
    assert due.missing_local == ("2025-03-09T02:00", "2025-03-09T02:30")


def test_the_next_due_instant_passes_over_what_is_skipped():
    due = next_due(parse_cron("30 2 * * *"), zone(NEW_YORK), Dst("skip"), after_us=us("2025-03-08T12:00"))
    assert due is not None
    assert instants([due]) == ["2025-03-10T06:30"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("30 * * * *", ["2025-03-09T06:30", "2025-03-09T07:30"]),
        ("*/30 2 * * *", ["2025-03-10T06:00", "2025-03-10T06:30"]),
        ("0 */2 * * *", ["2025-03-09T08:00", "2025-03-09T10:00"]),
    ],
)
def test_an_expression_that_goes_by_elapsed_time_gets_nothing_for_a_gap(text, expected):
    dues = first(text, 2, after="2025-03-09T06:00", in_zone=NEW_YORK)
    assert instants(dues) == expected
    assert {due.note for due in dues} == {None}


# ── overlaps: in New York 01:00 to 02:00 twice on 2025-11-02, 05:00 and 06:00 UTC ────────────────────────────────────


@pytest.mark.parametrize(
    ("overlap", "expected", "notes"),
    [
        ("first", ["2025-11-02T05:30", "2025-11-03T06:30"], ["overlap.first", None]),
        ("last", ["2025-11-02T06:30", "2025-11-03T06:30"], ["overlap.second", None]),
        ("both", ["2025-11-02T05:30", "2025-11-02T06:30"], ["overlap.first", "overlap.second"]),
    ],
)
def test_a_local_time_that_exists_twice_fires_when_the_rule_says(overlap, expected, notes):
    dues = first("30 1 * * *", 2, after="2025-11-01T12:00", in_zone=NEW_YORK, overlap=overlap)
    assert instants(dues) == expected
    assert [due.note for due in dues] == notes


def test_both_times_of_several_local_times_come_in_the_order_of_time():
    dues = first("0,30 1 * * *", 4, after="2025-11-01T12:00", in_zone=NEW_YORK, overlap="both")
    assert [due.local[11:] for due in dues] == ["01:00", "01:30", "01:00", "01:30"]


def test_asked_between_the_two_it_has_fired_already():
    [due] = first("30 1 * * *", 1, after="2025-11-02T05:45", in_zone=NEW_YORK)
    assert instants([due]) == ["2025-11-03T06:30"]


@pytest.mark.parametrize("overlap", ["first", "last", "both"])
def test_an_expression_that_goes_by_elapsed_time_fires_in_both_passes(overlap):
    dues = first("30 * * * *", 4, after="2025-11-02T04:00", in_zone=NEW_YORK, overlap=overlap)
    assert instants(dues) == ["2025-11-02T04:30", "2025-11-02T05:30", "2025-11-02T06:30", "2025-11-02T07:30"]
    assert [due.note for due in dues] == [None, "overlap.first", "overlap.second", None]


def test_a_rare_expression_of_elapsed_time_is_not_lost_in_the_second_pass():
    dues = first("*/59 1 2 11 *", 4, after="2025-11-02T05:59", in_zone=NEW_YORK)
    assert instants(dues) == ["2025-11-02T06:00", "2025-11-02T06:59", "2026-11-02T06:00", "2026-11-02T06:59"]


# ── odd zones ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_half_an_hour_is_skipped_and_repeated_on_lord_howe():
    dues = first("15 2 * * *", 2, after="2025-10-04T00:00", in_zone=LORD_HOWE)
    assert instants(dues) == ["2025-10-04T15:30", "2025-10-05T15:15"]
    twice = first("45 1 * * *", 2, after="2025-04-05T00:00", in_zone=LORD_HOWE, overlap="both")
    assert instants(twice) == ["2025-04-05T14:45", "2025-04-05T15:15"]


@pytest.mark.parametrize(
    ("name", "day", "at"),
    [(APIA, "2011-12-30", "2011-12-30T10:00"), ("Pacific/Kwajalein", "1993-08-21", "1993-08-21T12:00")],
)
def test_what_is_due_on_a_day_that_a_zone_skips_fires_when_the_next_day_begins(name, day, at):
    before = (datetime.fromisoformat(day) - timedelta(days=1)).isoformat()
    found = [due for due in first("0 9,17 * * *", 8, after=before, in_zone=name) if due.note]
    assert instants(found) == [at]
    assert (found[0].local, found[0].missing_local) == (f"{day}T09:00", (f"{day}T17:00",))


def test_offsets_with_seconds_are_kept_to_the_second():
    # Liberia was 00:44:30 behind until 1972, and then not: a gap from 00:00:00 to 00:44:30.
    dues = first("30 0 * * *", 3, after="1972-01-06T00:00", in_zone="Africa/Monrovia")
    assert instants(dues) == ["1972-01-06T01:14:30", "1972-01-07T00:44:30", "1972-01-08T00:30"]
    assert dues[1].note == "gap.shifted"


@pytest.mark.parametrize(
    "name",
    [
        "Africa/Monrovia",
        "America/New_York",
        "Europe/Amsterdam",
        "Asia/Kolkata",
        "America/Juneau",
        "Asia/Manila",
        "Europe/Dublin",
    ],
)
def test_historical_offsets_are_as_the_scanner_finds_them_second_by_second(name):
    meanings = [(text, Meaning(text)) for text in ("*/7 * * * *", "0,20,40 0-23 * * *", "30 0 * * *", "15 */2 * * *")]
    for at_s, by_s in changes(name, 1840, 1975)[:3]:
        reach_s = abs(by_s) + 3_600
        walk = Walk(name, at_s - reach_s - 3_600, at_s + reach_s + 3_600, step_s=1)
        for text, meaning in meanings:
            for rule in (Dst(), Dst("skip", "last"), Dst("shift", "both")):
                until_us = (at_s + reach_s) * 1_000_000
                rising = following(parse_cron(text), zone(name), rule, after_us=(at_s - reach_s) * 1_000_000 - 1)
                dues = list(takewhile(lambda due, until_us=until_us: due.at_us < until_us, rising))
                truth = walk.due(meaning, gap=rule.gap, overlap=rule.overlap)
                assert [due.at_us // 1_000_000 for due in dues if due.fires] == [
                    each for each in truth if at_s - reach_s <= each < at_s + reach_s
                ], (name, at_s, text, rule)


# ── intervals, single times ──────────────────────────────────────────────────────────────────────────────────────────


def test_an_interval_counts_from_its_anchor_whatever_clocks_show():
    every = parse_interval(5400, anchor_us=us("2025-11-02T04:00"))
    assert instants(first(every, 4, after="2025-11-01T00:00", in_zone=NEW_YORK)) == [
        "2025-11-02T04:00",
        "2025-11-02T05:30",
        "2025-11-02T07:00",
        "2025-11-02T08:30",
    ]


def test_an_interval_is_due_strictly_after():
    every = parse_interval(60, anchor_us=us("2025-01-01T00:00"))
    assert instants(first(every, 1, after="2025-01-01T05:00")) == ["2025-01-01T05:01"]


@pytest.mark.parametrize("every", [0, 0.5, -1, float("nan"), float("inf"), 1e12, True, "60", None])
def test_an_interval_of_less_than_a_second_or_more_than_a_year_is_refused(every):
    with pytest.raises(Invalid, match="'every_s' must be"):
        parse_interval(every, anchor_us=0)


def test_once_is_once():
    assert instants(first(parse_one_off("2025-06-01T12:00:00+02:00"), 5, after="2025-01-01")) == ["2025-06-01T10:00"]
    assert instants(first(parse_one_off("2025-06-01T12:00"), 5, after="2025-01-01", in_zone=NEW_YORK)) == [
        "2025-06-01T16:00"
    ]
    assert first(parse_one_off("2025-06-01T12:00Z"), 5, after="2025-06-01T12:00") == []


def test_once_at_a_local_time_that_does_not_exist_or_exists_twice_follows_the_rule():
    assert instants(first(parse_one_off("2025-03-09T02:30"), 2, after="2025-01-01", in_zone=NEW_YORK)) == [
        "2025-03-09T07:00"
    ]
    twice = first(parse_one_off("2025-11-02T01:30"), 3, after="2025-01-01", in_zone=NEW_YORK, overlap="both")
    assert instants(twice) == ["2025-11-02T05:30", "2025-11-02T06:30"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "tomorrow",
        "2025-02-30T00:00",
        "2025-01-01",
        "2025-01-01T00:00:00.5",
        "0001-01-01T00:00",
        "９９99-01-01T00:00",
        5,
    ],
)
def test_a_time_that_is_none_is_refused(text):
    with pytest.raises(Invalid, match="'at'"):
        parse_one_off(text)


# ── zones and rules ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_rule_of_other_words_is_refused():
    with pytest.raises(Invalid, match=r"'dst.gap' must be shift or skip"):
        parse_dst(gap="run")
    with pytest.raises(Invalid, match=r"'dst.overlap' must be first, last or both"):
        parse_dst(overlap=None)
    assert parse_dst(gap="skip", overlap="both") == Dst("skip", "both")


# ── whatever it is ───────────────────────────────────────────────────────────────────────────────────────────────────

_EXPRESSIONS = st.sampled_from(generated(7, 150))
_ZONES = st.sampled_from([NEW_YORK, LORD_HOWE, APIA, "UTC", "Africa/Casablanca", "America/St_Johns", "Africa/Monrovia"])
_RULES = st.builds(Dst, st.sampled_from(["shift", "skip"]), st.sampled_from(["first", "last", "both"]))
_INSTANTS = st.integers(us("1960-01-01"), us("2060-01-01"))


@given(_EXPRESSIONS, _ZONES, _RULES, _INSTANTS)
def test_instants_rise_strictly(text, name, rule, after_us):
    dues = list(islice(following(parse_cron(text), zone(name), rule, after_us=after_us), 40))
    found = [after_us, *(due.at_us for due in dues)]
    assert all(a < b for a, b in pairwise(found))


@given(_EXPRESSIONS, _ZONES, _RULES, _INSTANTS)
def test_what_is_due_is_on_the_wall_unless_the_gap_swallowed_it(text, name, rule, after_us):
    meaning = Meaning(text)
    for due in islice(following(parse_cron(text), zone(name), rule, after_us=after_us), 10):
        wall = datetime.fromtimestamp(due.at_us // 1_000_000, ZoneInfo(name)).replace(tzinfo=None, fold=0)
        asked = datetime.fromisoformat(due.local)
        assert meaning.on(asked.date())
        assert asked.hour * 60 + asked.minute in meaning.times
        assert (wall == asked) != (due.note == "gap.shifted" or not due.fires)


@given(_EXPRESSIONS, _ZONES, _RULES, _INSTANTS)
def test_it_does_not_matter_where_one_begins_to_ask(text, name, rule, after_us):
    read, at = parse_cron(text), zone(name)
    due = next_occurrence(read, at, rule, after_us=after_us)
    assert due is not None
    for asked_us in (after_us + (due.at_us - after_us) // 2, due.at_us - 1):
        assert next_occurrence(read, at, rule, after_us=asked_us) == due


@settings(max_examples=40)
@given(_EXPRESSIONS, _ZONES, st.integers(us("0001-01-01") - 10**15, us("9999-01-01") + 10**15))
def test_the_ends_of_time_are_no_error(text, name, after_us):
    for due in islice(following(parse_cron(text), zone(name), after_us=after_us), 3):
        assert due.at_us > after_us


def test_many_schedules_with_one_expression_cost_one_computation():
    due_module._after_minute.cache_clear()
    for second in range(60):
        next_due(parse_cron("0 9 * * *"), zone("UTC"), after_us=us(f"2025-01-01T00:00:{second:02}"))
    assert due_module._after_minute.cache_info().misses == 1


def test_an_instant_is_exact_to_the_microsecond():
    at_us = us("2025-01-01T09:00")
    read = parse_cron("0 9 * * *")
    assert next_due(read, zone("UTC"), after_us=at_us - 1).at_us == at_us
    assert next_due(read, zone("UTC"), after_us=at_us).at_us == at_us + 86_400_000_000


def test_the_zone_of_a_day_is_looked_at_once():
    utc_zone = zone("UTC")
    assert utc_zone is zone("UTC")
    assert utc_zone.stretch(0) is utc_zone.stretch(86_400)
    assert utc_zone.wall(int(datetime(2025, 1, 1, tzinfo=UTC).timestamp())) == 1_735_689_600
