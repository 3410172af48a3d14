"""What schedules would do over a time."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from cascadenced.errors import Invalid
from cascadenced.events.schedule import ScheduleSet
from cascadenced.schedules.definition import defined
from cascadenced.schedules.simulate import MAX_INSTANTS, difference, simulate


def us(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1_000_000


def rule(task: str, entry: Any) -> ScheduleSet:
    return defined(task, entry, now_us=us("2020-01-01"), timezone="UTC", via="file").rule


def ran(entries: dict[str, Any], start: str, end: str, **durations_s: float) -> Any:
    rules = {task: rule(task, entry) for task, entry in entries.items()}
    return simulate(rules, from_us=us(start), to_us=us(end), durations_s=durations_s)


def test_each_instant_fires_where_nothing_is_in_the_way() -> None:
    found = ran({"a": "*/10 * * * *", "b": "0 * * * *"}, "2026-11-26 09:00", "2026-11-26 11:00")
    assert [(each.task, each.n_fired) for each in found.schedules] == [("a", 12), ("b", 2)]
    assert (found.schedules[0].first, found.schedules[0].last) == (
        "2026-11-26T09:10:00+00:00",
        "2026-11-26T11:00:00+00:00",
    )
    assert found.n_instants == 14


@pytest.mark.parametrize(
    ("overlap", "n_fired", "left_out"),
    [("skip", 3, {"overlap": 3}), ("allow", 6, {}), ("cancel_previous", 6, {}), ("queue", 4, {"waited": 5})],
)
def test_runs_that_last_longer_than_their_interval_meet_as_the_rule_says(
    overlap: str, n_fired: int, left_out: dict[str, int]
) -> None:
    found = ran(
        {"a": {"expr": "*/10 * * * *", "overlap": overlap}}, "2026-11-26 09:00", "2026-11-26 10:00", a=15 * 60
    ).schedules[0]
    if overlap == "queue":  # what waits at the end goes on after it
        assert found.left_out == left_out
        assert found.n_fired == 6
    else:
        assert (found.n_fired, found.left_out) == (n_fired, left_out)


def test_the_peak_is_the_most_runs_at_once() -> None:
    entries = {"a": "0 * * * *", "b": "0 * * * *", "c": "30 * * * *"}
    found = ran(entries, "2026-11-26 09:00", "2026-11-26 10:10", a=60, b=3_000, c=60)
    assert (found.peak.n_runs, found.peak.at_us) == (2, us("2026-11-26 10:00"))
    assert ran({"a": "0 9 * * *"}, "2026-11-26 09:00", "2026-11-26 10:00").peak.n_runs == 0
    beside = {"a": {"expr": "* * * * *", "overlap": "cancel_previous"}}
    assert ran(beside, "2026-11-26 09:00", "2026-11-26 09:10", a=600).peak.n_runs == 1


def test_what_the_clocks_do_is_told() -> None:
    entry = {"expr": "30 2 * * *", "timezone": "America/New_York", "exclude": ["2027-03-13"]}
    found = ran({"a": entry}, "2027-03-12 12:00", "2027-03-15 12:00").schedules[0]
    assert found.n_fired == 2
    assert found.left_out == {"excluded.date": 1}
    assert [oddity.at for oddity in found.oddities] == ["2027-03-13T02:30:00-05:00", "2027-03-14T03:00:00-04:00"]


def test_two_simulations_differ_where_they_fire_otherwise() -> None:
    span = {"from_us": us("2026-11-26"), "to_us": us("2026-11-29"), "durations_s": {}}
    before = {"a": rule("a", "0 9 * * *"), "b": rule("b", "0 9 * * *"), "gone": rule("gone", "0 1 * * *")}
    after = {"a": rule("a", "0 10 * * *"), "b": rule("b", "0 9 * * *"), "new": rule("new", "0 2 26 * *")}
    found = difference(simulate(before, **span), simulate(after, **span), {**before, **after})
    assert [(each.task, each.n_only_before, each.n_only_after) for each in found] == [
        ("a", 3, 3),
        ("gone", 3, 0),
        ("new", 0, 1),
    ]
    assert found[0].only_after[0] == "2026-11-26T10:00:00+00:00"


def test_too_much_is_refused() -> None:
    with pytest.raises(Invalid, match=f"^more than {MAX_INSTANTS} instants are due"):
        ran({"a": "* * * * *"}, "2020-01-01", "2026-01-01")
    with pytest.raises(Invalid, match="^the end must be after the beginning$"):
        ran({"a": "* * * * *"}, "2026-01-02", "2026-01-01")
