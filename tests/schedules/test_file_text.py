"""`schedules.yml`: read as entries, and written again with all else in it as it was."""

from __future__ import annotations

from textwrap import dedent
from typing import Any

import pytest

from cascadenced.events.schedule import ScheduleSet
from cascadenced.schedules.definition import defined
from cascadenced.schedules.file_text import MAX_FILE_BYTES, entry_of, read, written

MARK = "# cascadenced: in step with the log up to event {} (leave this line)\n"


def text(source: str) -> bytes:
    return dedent(source).lstrip("\n").encode()


FILE = text("""
    # what runs at night

    report: "0 9 * * 1-5"   # every working day
    load:
      # early, so that it is done by nine
      expr: 30 2 * * *
      user_id: alice
      dst: {gap: skip}
    """)


def values(data: bytes) -> dict[str, Any]:
    found = read(data)
    assert found.problems == ()
    return {key: entry.value for key, entry in found.entries.items()}


def test_a_file_is_a_mapping_of_entries_with_their_lines() -> None:
    found = read(FILE)
    assert values(FILE) == {
        "report": "0 9 * * 1-5",
        "load": {"expr": "30 2 * * *", "user_id": "alice", "dst": {"gap": "skip"}},
    }
    assert [entry.line for entry in found.entries.values()] == [3, 4]
    assert found.knows is None


@pytest.mark.parametrize("data", [b"", b"# nothing yet\n", b"null\n", b"{}\n"])
def test_a_file_may_be_empty(data: bytes) -> None:
    assert read(data).entries == {}
    assert read(data).problems == ()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"report: [", "line "),
        (b"- a\n- b\n", "line 1: the file must be a list of `key: value` lines"),
        (b"a: 1\nb: 2\na: 3\n", "line 3: 'a': is already set in line 1"),
        (b"a: &x 1\nb: *x\n", "line 1: anchors and aliases"),
        (b"a: !!python/object:os.system x\n", "line 1: tags"),
        (b"\xff\xfe", "line 1: is not UTF-8"),
        (b"a: " + b"[" * 40 + b"]" * 40, "line 1: is nested deeper than 8 levels"),
        (b"x" * (MAX_FILE_BYTES + 1), f"has {MAX_FILE_BYTES + 1} bytes"),
    ],
    ids=["syntax", "list", "twice", "alias", "tag", "bytes", "depth", "size"],
)
def test_what_cannot_be_read_is_told_with_its_line(data: bytes, says: str) -> None:
    assert read(data).problems[0].startswith(says)


def test_what_is_as_it_should_be_stays_as_it_was_written() -> None:
    assert written(FILE, values(FILE), 7) == FILE + MARK.format(7).encode()


@pytest.mark.parametrize(
    "text",
    [
        "report:\n  expr: 0 9 * * *\n  exclude: [2026-12-24, 2026-12-25]  # at home\n  deps: []\n",
        "report:\n  expr: 0 9 * * *\n  deps:\n    # both\n    - load\n    - sort  # slow\n",
        "report:\n    expr: 0 9 * * *\n    deps:\n    - load\n    dst: {gap: skip}\n",
        "report:\n    expr: 0 9 * * *\n    exclude:\n        - 2026-12-24\n    dst:\n        gap: skip\n",
    ],
)
def test_an_entry_looks_as_it_did_where_another_one_is_written(text: str) -> None:
    wanted = {**{key: entry.value for key, entry in read(text.encode()).entries.items()}, "sum": "0 8 * * *"}
    assert written(text.encode(), wanted, 3).decode().startswith(f"{text}sum: 0 8 * * *\n# cascadenced:")


def test_a_key_beside_a_date_may_change() -> None:
    text = "report:\n  exclude: [2026-12-24]  # at home\n  expr: 0 9 * * *\n  user_id: alice\n"
    [entry] = read(text.encode()).entries.values()
    assert isinstance(entry.value, dict)
    wanted = {key: value for key, value in entry.value.items() if key != "user_id"} | {"user_hash": "a" * 64}
    assert (
        written(text.encode(), {"report": wanted}, 3)
        .decode()
        .startswith(f"report:\n  exclude: [2026-12-24]  # at home\n  expr: 0 9 * * *\n  user_hash: {'a' * 64}\n")
    )


def test_the_mark_is_replaced_and_read_again() -> None:
    once = written(FILE, values(FILE), 7)
    assert read(once).knows == 7
    assert written(once, values(once), 19) == FILE + MARK.format(19).encode()


def test_an_entry_that_changes_keeps_the_comments_about_it_and_its_place() -> None:
    wanted = values(FILE)
    wanted["load"] = {"expr": "30 2 * * *", "user_hash": "ab", "dst": {"gap": "skip"}}
    wanted["report"] = "0 10 * * 1-5"
    found = written(FILE, wanted, 7).decode()
    assert values(found.encode()) == wanted
    assert "# early, so that it is done by nine" in found
    assert "# every working day" in found
    assert "# what runs at night" in found
    assert "alice" not in found
    assert list(values(found.encode())) == ["report", "load"]


def test_entries_are_added_at_the_end_and_removed_where_they_are() -> None:
    found = written(FILE, {"load": values(FILE)["load"], "new": "* * * * *"}, 7)
    assert list(values(found)) == ["load", "new"]


def test_a_file_that_is_not_there_yet_is_made() -> None:
    found = written(b"", {"report": "0 9 * * *", "load": {"every_s": 30.0, "args": {"a": [1, None, True]}}}, 3)
    assert values(found) == {"report": "0 9 * * *", "load": {"every_s": 30.0, "args": {"a": [1, None, True]}}}


def test_a_file_of_comments_keeps_them() -> None:
    assert written(b"# mine\n", {}, 1).decode() == "# mine\n" + MARK.format(1)
    assert written(b"# mine", {"a": "* * * * *"}, 1).decode().startswith("# mine\n")


RULES = [
    {"expr": "0 9 * * 1-5"},
    {"rrule": "FREQ=DAILY;BYHOUR=9"},
    {"every_s": 90},
    {"at": "2027-01-01T09:00"},
    {"calendar_event": {"node": "n1", "poll": 60.0}},
    {"expr": "0 9 * * *", "timezone": "America/New_York", "dst": {"gap": "skip"}},
    {"expr": "0 9 * * *", "dst": {"gap": "skip", "overlap": "both"}, "misfire": "skip", "overlap": "allow"},
    {"expr": "0 9 * * *", "misfire": {"policy": "all", "within_s": 60.0, "max": 3}, "jitter_s": 5.0},
    {"expr": "0 9 * * *", "misfire": {"within_s": 60.0}},
    {
        "expr": "0 9 * * *",
        "exclude": ["2026-12-25"],
        "args": {"n": 1},
        "event": "a.b",
        "deps": ["x", "y"],
        "recurrence": {"x": [1]},
    },
]


@pytest.mark.parametrize("entry", RULES)
def test_the_entry_of_a_rule_is_read_as_that_rule_again(entry: dict[str, Any]) -> None:
    def rule(of: Any) -> ScheduleSet:
        return defined("t", of, now_us=0, timezone="Europe/Berlin", via="file").rule

    shown = entry_of(rule(entry), user_hash=None, group_hash=None, timezone="Europe/Berlin")
    assert rule(shown) == rule(entry)
    assert rule(values(written(b"", {"t": shown}, 1))["t"]) == rule(entry)


def test_an_expression_alone_is_written_bare_and_with_an_identity_by_pseudonym() -> None:
    """TC 61, 62"""
    rule = ScheduleSet(task="t", expr="0 9 * * *", timezone="UTC")
    assert entry_of(rule, user_hash=None, group_hash=None, timezone="UTC") == "0 9 * * *"
    assert entry_of(rule, user_hash="ab", group_hash="cd", timezone="UTC") == {
        "expr": "0 9 * * *",
        "user_hash": "ab",
        "group_hash": "cd",
    }


def test_whole_numbers_are_written_as_such_and_content_as_it_is() -> None:
    entry: dict[str, Any] = {"every_s": 20, "misfire": {"within_s": 600}, "jitter_s": 1.5, "args": {"rate": 2.0}}
    rule = defined("report", entry, now_us=0, timezone="UTC", via="cli").rule
    shown = entry_of(rule, user_hash=None, group_hash=None, timezone="UTC")
    assert repr(shown) == "{'every_s': 20, 'misfire': {'within_s': 600}, 'jitter_s': 1.5, 'args': {'rate': 2.0}}"
