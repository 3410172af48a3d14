"""When a schedule is not to fire although it is due; and by how much it is late on purpose."""

from __future__ import annotations

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascadenced.errors import Invalid
from cascadenced.recurrence.exclusions import ExcludedSpans, Exclusions, parse_dates
from cascadenced.recurrence.jitter import jitter_us
from tests.recurrence.spec import APIA, first, us


def test_a_date_is_excluded_in_local_time():
    exclusions = Exclusions(parse_dates(["2025-12-25"]))
    dues = first("0 1 * * *", 3, after="2025-12-23T18:00", in_zone="Asia/Tokyo")
    assert [exclusions.reason(due) for due in dues] == [("excluded.date", "2025-12-25"), None, None]


def test_the_date_is_that_of_the_local_time_that_was_asked_for():
    exclusions = Exclusions(parse_dates([date(2011, 12, 30)]))
    shifted = next(due for due in first("0 9 * * *", 3, after="2011-12-29T00:00", in_zone=APIA) if due.note)
    assert exclusions.reason(shifted) == ("excluded.date", "2011-12-30")


def test_a_span_excludes_from_its_start_up_to_its_end():
    spans = ExcludedSpans([(us("2025-12-24T12:00"), us("2025-12-24T14:00"), "Freeze")])
    reasons = [Exclusions(spans=spans).reason(due) for due in first("0 * * * *", 4, after="2025-12-24T10:30")]
    assert reasons == [None, ("excluded.span", "Freeze"), ("excluded.span", "Freeze"), None]


def test_nothing_is_excluded_by_nothing():
    assert Exclusions().reason(first("* * * * *", 1, after="2025-01-01T00:00")[0]) is None


_SPANS = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 60), st.sampled_from("abc")), max_size=12)


@given(_SPANS, st.integers(-5, 65))
def test_spans_may_overlap_nest_and_be_empty(spans, at_us):
    covering = [span for span in sorted(spans) if span[0] <= at_us < span[1]]
    assert ExcludedSpans(spans).at(at_us) == (covering[0][2] if covering else None)


@pytest.mark.parametrize("dates", [None, "2025-12-25", ["25.12.2025"], ["2025-02-30"], [5], ["2025-12-25"] * 1001])
def test_dates_that_are_none_are_refused(dates):
    with pytest.raises(Invalid, match="'exclude' must") as refused:
        parse_dates(dates)
    assert refused.value.code == "exclude.dates"


@given(st.text(), st.integers(-(10**17), 10**17), st.floats(0, 86_400))
def test_jitter_is_less_than_it_may_be_and_always_the_same(name, at_us, jitter_s):
    delay_us = jitter_us(name, at_us, jitter_s)
    assert delay_us == jitter_us(name, at_us, jitter_s)
    assert 0 <= delay_us < max(jitter_s * 1_000_000 + 1, 1)


def test_jitter_differs_between_schedules_and_instants_and_covers_its_range():
    delays = [jitter_us(f"task-{i}", 0, 60) for i in range(500)] + [jitter_us("task", i, 60) for i in range(500)]
    assert len(set(delays)) > 990
    assert min(delays) < 1_000_000
    assert max(delays) > 59_000_000


def test_without_jitter_there_is_no_delay():
    assert jitter_us("task", 5, 0) == 0
