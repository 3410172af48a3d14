"""What a calendar's node says, as part of a rule."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from cascadenced.errors import Invalid
from cascadenced.events.schedule import ScheduleSet
from cascadenced.schedules.calendar_node import MISSING, as_node_says, checked_node, node_path

NOW = 1_795_683_600_000_000
RULE = ScheduleSet(task="report", calendar_event={"node": "n1"}, timezone="Europe/Berlin", from_us=5, via="cli")


def said(recurrence: Any, rule: ScheduleSet = RULE) -> ScheduleSet:
    return as_node_says(rule, recurrence, now_us=NOW)


def test_its_cron_expression_becomes_the_trigger_and_all_it_says_is_kept() -> None:
    recurrence = {"cron": "0 9 * * 1", "note": "weekly"}
    assert said(recurrence) == replace(
        RULE, expr="0 9 * * 1", recurrence=recurrence, from_us=NOW, via="calendar", node_timezone=None
    )


def test_or_its_rule_of_icalendar() -> None:
    assert said({"rrule": "FREQ=DAILY"}).rrule == "FREQ=DAILY"
    both = said({"cron": "0 9 * * *", "rrule": "FREQ=DAILY"})
    assert (both.expr, both.rrule) == ("0 9 * * *", None)


def test_its_time_zone_stands_in_the_place_of_the_schedules_own_as_long_as_it_says_one() -> None:
    abroad = said({"cron": "0 9 * * *", "timezone": "America/New_York"})
    assert (abroad.zone, abroad.timezone) == ("America/New_York", "Europe/Berlin")
    assert said({"cron": "0 9 * * *"}, abroad).zone == "Europe/Berlin"


def test_the_same_again_changes_nothing() -> None:
    once = said({"cron": "0 9 * * *"})
    assert as_node_says(once, {"cron": "0 9 * * *"}, now_us=NOW + 9) is once


def test_what_does_not_change_when_it_is_due_does_not_change_what_it_counts_from() -> None:
    once = said({"rrule": "FREQ=DAILY"})
    again = as_node_says(once, {"rrule": "FREQ=DAILY", "note": "new"}, now_us=NOW + 9)
    assert (again.from_us, again.recurrence) == (NOW, {"rrule": "FREQ=DAILY", "note": "new"})


@pytest.mark.parametrize(
    "recurrence", [None, {}, [], "0 9 * * *", {"cron": None}, {"cron": " "}, {"cron": 7}, {"rrule": ["FREQ=DAILY"]}]
)
def test_without_a_recurrence_that_is_what_is_said(recurrence: Any) -> None:
    """TC 82"""
    with pytest.raises(Invalid, match=f"^{MISSING}$"):
        said(recurrence)


@pytest.mark.parametrize(
    "recurrence",
    [
        {"cron": "alice * * * *"},
        {"cron": "0 0 31 2 *"},
        {"rrule": "FREQ=NEVER;X=alice"},
        {"rrule": "DTSTART:20200101T090000Z\nRRULE:FREQ=DAILY;COUNT=1"},
        {"cron": "0 9 * * *", "timezone": "Mars/alice"},
        {"cron": "0 9 * * *", "timezone": 7},
        {"cron": "0 9 * * *", "n": 2**70},
    ],
)
def test_what_is_no_rule_or_never_due_is_refused_without_quoting_it(recurrence: Any) -> None:
    with pytest.raises(Invalid, match=r"^its recurrence is (no rule that can be kept|never due)") as refused:
        said(recurrence)
    assert "alice" not in str(refused.value)


def test_a_node_is_a_path() -> None:
    assert checked_node(" /plans/tea time ") == "/plans/tea time"
    assert node_path("/plans/tea time?x=1#y") == "plans/tea%20time%3Fx%3D1%23y"


@pytest.mark.parametrize("node", ["", " ", "/", "//", "a/../b", "..", "./a", "a\nb", "x" * 1_001])
def test_and_nothing_that_could_lead_elsewhere(node: str) -> None:
    with pytest.raises(Invalid, match="^calendar_event node "):
        checked_node(node)
