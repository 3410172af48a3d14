"""Why an instant or a local time is due, or is not."""

from __future__ import annotations

import pytest

from cascadenced.errors import Invalid
from cascadenced.recurrence.cron_text import parse_cron
from cascadenced.recurrence.dst import Dst
from cascadenced.recurrence.due import Recurrence
from cascadenced.recurrence.explain import Answer, at
from cascadenced.recurrence.interval import parse_interval
from cascadenced.recurrence.one_off import parse_one_off
from cascadenced.recurrence.rrule_text import parse_rrule
from cascadenced.recurrence.zones import zone
from tests.recurrence.spec import NEW_YORK, us, utc


def asked(recurrence: Recurrence | str, when: str | int, *, gap: str = "shift", overlap: str = "first") -> Answer:
    read = parse_cron(recurrence) if isinstance(recurrence, str) else recurrence
    return at(read, zone(NEW_YORK), Dst(gap, overlap), when=when)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("expression", "when", "code", "sentence"),
    [
        ("0 9 * * *", "2025-06-02T09:00", "due", "It is due: 2025-06-02T09:00 in America/New_York."),
        ("0 9 * * *", "2025-06-02T13:00Z", "due", "It is due: 2025-06-02T09:00 in America/New_York."),
        (
            "0 9-17 * * *",
            "2025-06-02T18:00",
            "mismatch",
            "It does not fire at 2025-06-02T18:00 in America/New_York: the hour 18 is not among 9 to 17.",
        ),
        (
            "0 9 * * MON",
            "2025-06-03T09:00",
            "mismatch",
            "It does not fire at 2025-06-03T09:00 in America/New_York: the expression does not mean the 2025-06-03, a "
            "Tuesday.",
        ),
        (
            "30 2 * * *",
            "2025-03-09T02:30",
            "gap.shifted",
            "The local time 2025-03-09T02:30 did not exist in America/New_York; it fires at the end of the gap, "
            "2025-03-09T03:00.",
        ),
        (
            "0,30 2-3 * * *",
            "2025-03-09T02:30",
            "gap.merged",
            "The local time 2025-03-09T02:30 did not exist in America/New_York; it fires at the end of the gap, "
            "2025-03-09T03:00, once for all that is due there.",
        ),
        (
            "30 2 * * *",
            "2025-03-09T03:00",
            "due",
            "The local time 2025-03-09T02:30 did not exist in America/New_York; it fires at this instant, the end of "
            "the gap.",
        ),
        (
            "0 3 * * *",
            "2025-03-09T02:30",
            "mismatch",
            "The local time 2025-03-09T02:30 did not exist in America/New_York. It does not fire at 2025-03-09T02:30 "
            "in America/New_York: the hour 2 is not among 3.",
        ),
        (
            "*/30 * * * *",
            "2025-03-09T02:30",
            "gap.passed",
            "The local time 2025-03-09T02:30 did not exist in America/New_York; the schedule goes by elapsed time, "
            "which nothing is missing from.",
        ),
        (
            "30 1 * * *",
            "2025-11-02T01:30",
            "due",
            "2025-11-02T01:30 is shown twice in America/New_York; it fires at this instant, the first of the two.",
        ),
        (
            "30 1 * * *",
            "2025-11-02T06:30Z",
            "overlap.other",
            "2025-11-02T01:30 is shown twice in America/New_York; it fires at the first of the two, not at this one.",
        ),
        (
            "30 * * * *",
            "2025-11-02T01:30",
            "overlap.both",
            "2025-11-02T01:30 is shown twice in America/New_York; it fires both times.",
        ),
    ],
)
def test_each_answer_is_a_word_and_a_sentence(expression, when, code, sentence):
    answer = asked(expression, when)
    assert (answer.code, answer.sentence) == (code, sentence)


def test_an_answer_says_when_it_does_fire():
    assert [utc(each) for each in asked("30 2 * * *", "2025-03-09T02:30").fires_us] == ["2025-03-09T07:00"]
    assert [utc(each) for each in asked("30 1 * * *", "2025-11-02T06:30Z").fires_us] == ["2025-11-02T05:30"]
    assert [utc(each) for each in asked("30 1 * * *", "2025-11-02T01:30", overlap="last").fires_us] == [
        "2025-11-02T06:30"
    ]
    assert len(asked("30 1 * * *", "2025-11-02T01:30", overlap="both").fires_us) == 2
    assert asked("0 9 * * *", "2025-11-02T01:30").fires_us == ()


def test_a_skipped_local_time_is_told_by_its_name_and_by_the_instant():
    for when in ("2025-03-09T02:30", "2025-03-09T07:00Z"):
        answer = asked("30 2 * * *", when, gap="skip")
        assert answer == Answer(
            "gap.skipped", "The local time 2025-03-09T02:30 did not exist in America/New_York, and is skipped."
        )


def test_an_instant_may_be_a_number():
    assert asked("0 9 * * *", us("2025-06-02T13:00")).code == "due"
    assert asked("0 9 * * *", us("2025-06-02T13:00") + 1).code == "mismatch"


def test_an_instant_that_no_calendar_shows_is_refused():
    with pytest.raises(Invalid, match="'at' must lie in the years"):
        asked("0 9 * * *", 10**30)


def test_what_is_after_the_end_of_a_rule_is_over():
    rule = parse_rrule("FREQ=DAILY;UNTIL=20250301T000000Z", zone=zone(NEW_YORK), anchor_us=us("2025-01-01T07:30"))
    assert asked(rule, "2025-02-01T02:30").code == "due"
    assert asked(rule, "2025-04-01T02:30").code == "over"
    assert asked(rule, "2025-03-09T02:30").code == "over"
    assert asked(rule, "2025-02-01T02:31").code == "mismatch"


def test_intervals_and_single_times_are_explained_too():
    every = parse_interval(3600, anchor_us=us("2025-01-01T00:00"))
    assert asked(every, "2025-06-01T12:00Z").code == "due"
    assert "whole number of intervals" in asked(every, "2025-06-01T12:01Z").sentence
    assert asked(parse_one_off("2025-03-09T02:30"), "2025-03-09T02:30").code == "gap.shifted"
    assert "but once, at 2025-06-01T12:00." in asked(parse_one_off("2025-06-01T12:00"), "2025-06-01T12:01").sentence
    assert asked(parse_one_off("2025-06-01T12:00Z"), "2025-06-01T12:00Z").code == "due"
    assert asked(every, "2025-03-09T02:30").code == "mismatch"
