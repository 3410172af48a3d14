"""What people write of a schedule, and what is said of what is none."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st

from cascadenced.errors import Invalid
from cascadenced.events.schedule import ScheduleSet
from cascadenced.schedules.definition import Definition, defined

NOW_US = 1_795_680_000_000_000  # 2026-11-26 08:00 UTC


def read(entry: Any, task: str = "report") -> Definition:
    return defined(task, entry, now_us=NOW_US, timezone="Europe/Berlin", via="file")


def test_a_text_is_an_expression() -> None:
    assert read("0 9 * * 1-5").rule == ScheduleSet(
        task="report", expr="0 9 * * 1-5", from_us=NOW_US, timezone="Europe/Berlin", via="file"
    )


def test_a_mapping_may_say_all_there_is() -> None:
    entry = {
        "expr": "30 2 * * *",
        "timezone": "America/New_York",
        "dst": {"gap": "skip", "overlap": "both"},
        "misfire": {"policy": "all", "within_s": 86_400, "max": 10},
        "overlap": "queue",
        "jitter_s": 30,
        "exclude": ["2026-12-26", "2026-12-25"],
        "args": {"sheet": 7},
        "event": "report.wanted",
        "recurrence": {"anything": ["at", None]},
        "user_id": "alice",
        "group_id": "eng",
        "deps": ["load", "clean", "load"],
    }
    definition = read(entry)
    assert definition.rule == ScheduleSet(
        task="report",
        expr="30 2 * * *",
        timezone="America/New_York",
        gap="skip",
        fold="both",
        misfire="all",
        misfire_within_s=86_400.0,
        misfire_max=10,
        overlap="queue",
        jitter_s=30.0,
        exclude=("2026-12-25", "2026-12-26"),
        args={"sheet": 7},
        event="report.wanted",
        deps=("load", "clean"),
        recurrence={"anything": ["at", None]},
        from_us=NOW_US,
        via="file",
    )
    assert definition.who == {"user_id": "alice", "group_id": "eng"}


@pytest.mark.parametrize(
    ("entry", "when"),
    [
        ({"rrule": "FREQ=WEEKLY;BYDAY=MO;BYHOUR=9"}, ("rrule", "FREQ=WEEKLY;BYDAY=MO;BYHOUR=9")),
        ({"every_s": 90}, ("every_s", 90)),
        ({"at": "2027-01-01T09:00"}, ("at", "2027-01-01T09:00")),
        ({"at": "2027-01-01T09:00:00+01:00"}, ("at", "2027-01-01T09:00:00+01:00")),
        ({"calendar_event": "n1"}, ("calendar_event", {"node": "n1"})),
        ({"calendar_event": "n1", "poll": 60}, ("calendar_event", {"node": "n1", "poll": 60.0})),
        ({"calendar_event": {"node": "n1"}}, ("calendar_event", {"node": "n1"})),
        ({"calendar_event": {"node": "n1", "poll": 60}, "poll": 5}, ("calendar_event", {"node": "n1", "poll": 60.0})),
        ({"calendar_event": "n1", "expr": "* * * * *"}, ("calendar_event", {"node": "n1"})),
    ],
)
def test_when_it_is_due_is_said_in_one_of_five_ways(entry: dict[str, Any], when: tuple[str, Any]) -> None:
    rule = read(entry).rule
    name, value = when
    assert getattr(rule, name) == value
    others = {"expr", "rrule", "every_s", "at", "calendar_event"} - {name}
    assert [getattr(rule, other) for other in others] == [None] * 4


def test_whom_a_calendar_event_is_for_may_be_said_there_and_that_counts() -> None:
    definition = read({"calendar_event": {"node": "n1", "user_id": "bob"}, "user_id": "alice", "group_id": "eng"})
    assert definition.who == {"user_id": "bob", "group_id": "eng"}


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        (123, "entry must be a string or mapping"),
        (None, "entry must be a string or mapping"),
        (["0 9 * * *"], "entry must be a string or mapping"),
        ({}, "missing 'expr' or 'calendar_event'"),
        ({"user_id": "alice"}, "missing 'expr' or 'calendar_event'"),
        ({"calendar_event": {}}, "calendar_event missing 'node'"),
        ({"calendar_event": ""}, "calendar_event node is required"),
        ({"calendar_event": {"node": " "}}, "calendar_event node is required"),
        ({"calendar_event": {"node": 7}}, "calendar_event node must be a text"),
        ({"calendar_event": {"node": "n", "pol": 5}}, "'calendar_event' must be a mapping of node, poll, user_id, .*"),
        ({"calendar_event": 123}, "'calendar_event' must be string or mapping"),
        ({"calendar_event": "n", "poll": 0}, "'poll' must be a number from 1 to .*"),
        ({"calendar_event": "n", "poll": True}, "'poll' must be a number from 1 to .*"),
        ({"calendar_event": "n", "poll": "often"}, "'poll' must be a number from 1 to .*"),
        ({"expr": 123}, "'expr' must be a non-empty string"),
        ({"expr": None}, "'expr' must be a non-empty string"),
        ({"expr": " "}, "'expr' must be a non-empty string"),
        ("", "'expr' must be a non-empty string"),
        ("* * *", "Wrong number of fields; got 3, expected 5"),
        ("* * * * * *", "Wrong number of fields; got 6, expected 5"),
        ("0 0 31 2 *", ".*never.*"),
        ({"expr": "* * * * *", "every_s": 5}, "'expr' and 'every_s' are both set; one says when"),
        ({"expr": "* * * * *", "timezone": "Mars/Base"}, ".*Mars/Base.*|.*IANA.*"),
        ({"expr": "* * * * *", "timezone": 7}, "'timezone' must be a non-empty string"),
        ({"expr": "* * * * *", "dst": {"gap": "jump"}}, "'dst.gap' must be shift or skip"),
        ({"expr": "* * * * *", "dst": {"fold": "first"}}, "'dst' must be a mapping of gap, overlap"),
        ({"expr": "* * * * *", "misfire": "never"}, "'misfire' must be skip, latest or all"),
        ({"expr": "* * * * *", "misfire": {"max": 0}}, "'misfire.max' must be a whole number from 1 to 10000"),
        ({"expr": "* * * * *", "misfire": {"within_s": -1}}, "'misfire.within_s' must be a number from 0 to .*"),
        ({"expr": "* * * * *", "overlap": "maybe"}, "'overlap' must be skip, queue, allow or cancel_previous"),
        ({"expr": "* * * * *", "jitter_s": -1}, "'jitter_s' must be a number from 0 to 86400"),
        ({"expr": "* * * * *", "jitter_s": float("nan")}, "'jitter_s' must be a number from 0 to 86400"),
        ({"expr": "* * * * *", "exclude": "2026-12-25"}, "'exclude' must be a list of at most .*"),
        ({"expr": "* * * * *", "exclude": ["2026-02-30"]}, "'exclude' must list dates .*"),
        ({"expr": "* * * * *", "args": [1]}, "'args' must be a mapping"),
        ({"expr": "* * * * *", "event": "two words"}, ".*"),
        ({"expr": "* * * * *", "deps": "load"}, "'deps' must be a list of task names"),
        ({"expr": "* * * * *", "user_id": 7}, "'user_id' must be a non-empty string"),
        ({"expr": "* * * * *", "time_zone": "UTC"}, r"unknown key 'time_zone'; did you mean 'timezone'\?"),
        ({"expr": "* * * * *", "xyzzy": 1}, "unknown key 'xyzzy'"),
        ({"every_s": 0}, ".*every.*"),
        ({"every_s": "often"}, "'every_s' must be a number of seconds, not str"),
        ({"every_s": True}, "'every_s' must be a number of seconds, not bool"),
        ({"at": "2020-01-01T09:00"}, "'at' is in the past: 2020-01-01T09:00"),
        ({"at": 7}, "'at' must be a text, not int"),
        ({"rrule": "FREQ=SOMETIMES"}, ".*"),
        ({"rrule": "FREQ=DAILY;UNTIL=20200101T000000Z"}, "it is never due from now on|.*UNTIL.*|.*never.*"),
    ],
)
def test_what_is_no_schedule_is_said_with_the_name_of_the_task(entry: Any, says: str) -> None:
    """TC 75, 76, 77"""
    with pytest.raises(Invalid, match=f"(?s)^report: ({says})$"):
        read(entry)


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=3),
    max_leaves=8,
)
KEYS = st.sampled_from(
    ["expr", "rrule", "every_s", "at", "calendar_event", "timezone", "dst", "misfire", "overlap", "jitter_s", "exclude"]
)


@for_all(st.dictionaries(KEYS, ANY_JSON, max_size=4) | ANY_JSON)
def test_whatever_is_written_is_read_or_refused_with_a_reason(entry: Any) -> None:
    said = "report: it is one"
    try:
        read(entry)
    except Invalid as error:
        said = str(error)
    assert said.startswith("report: ")


def test_what_cannot_be_kept_as_it_is_says_where_it_is_and_what_to_do() -> None:
    for key in ("recurrence", "args"):
        with pytest.raises(Invalid) as refused:
            read({"expr": "0 9 * * *", key: {"until": [date(2026, 12, 25)]}})
        assert str(refused.value) == (
            f"report: {key}, at .until[0], is of type date: JSON holds text, numbers, true, false, None, lists, and "
            "dicts with text as keys; write it in quotes"
        )


def test_what_is_too_large_to_be_kept_is_refused_as_anything_else_that_is_wrong() -> None:
    with pytest.raises(Invalid, match="report: args takes 1048587 bytes as JSON; 524288 are allowed"):
        read({"expr": "0 9 * * *", "args": {"text": "x" * 1024 * 1024}})
