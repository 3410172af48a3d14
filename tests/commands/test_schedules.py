"""Schedules from the command line, without a daemon: what is set stays set, and is in the file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

WHO = ("--user-id", "alice", "--group-id", "eng")


def rows(run) -> dict[str, dict]:
    return {row["task"]: row for row in json.loads(run("schedules", "--json").out)["items"]}


def test_a_schedule_is_set_listed_and_removed(run) -> None:
    """TC 61, 119"""
    ran = run("schedule", "example", "0 9 * * 1-5", *WHO, "--timezone", "Europe/Berlin")
    assert ran.code == 0
    assert ran.out.splitlines()[0] == "example scheduled: 0 9 * * 1-5"
    assert ran.out.splitlines()[1].startswith("next: 20")
    assert run("schedules").out == "example\t0 9 * * 1-5\n"
    assert rows(run)["example"]["timezone"] == "Europe/Berlin"
    ran = run("unschedule", "example", *WHO)
    assert (ran.code, ran.out) == (0, "example unscheduled\n")
    assert run("schedules").out == ""


def test_it_is_in_the_file_by_pseudonym(run, folder: Path) -> None:
    run("schedule", "example", "0 9 * * *", *WHO)
    text = (folder / "schedules.yml").read_text()
    assert "expr: 0 9 * * *\n" in text
    assert f"user_hash: {rows(run)['example']['user_hash']}\n" in text
    assert "alice" not in text


def test_all_that_a_schedule_may_say_can_be_said(run) -> None:
    ran = run(
        *("schedule", "example", "--every", "90", "--gap", "skip", "--fold", "both", "--misfire", "all", "--max", "5"),
        *("--within", "600", "--overlap", "queue", "--jitter", "3", "--exclude", "2026-12-25"),
        *("--args", '{"n": 1}', "--event", "tea.time"),
    )
    assert (ran.code, ran.out.splitlines()[0]) == (0, "example scheduled: every 90 s"), ran.err
    row = rows(run)["example"]
    assert (row["every_s"], row["gap"], row["fold"], row["misfire"], row["misfire_max"]) == (
        90,
        "skip",
        "both",
        "all",
        5,
    )
    assert (row["misfire_within_s"], row["overlap"], row["jitter_s"]) == (600, "queue", 3)
    assert (row["exclude"], row["args"], row["event"]) == (["2026-12-25"], {"n": 1}, "tea.time")
    assert row["expr"] is None


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("schedule", "nobody", "* * * * *"), "error: Unknown task: nobody\n"),
        (("schedule", "example", "* * *"), "error: example: Wrong number of fields; got 3, expected 5\n"),
        (("schedule", "example", "* * * * *", "--timezone", "Mars/Base"), "error: example: "),
        (("unschedule", "example"), "error: Unknown schedule: example\n"),
        (("schedule-pause", "example"), "error: Unknown schedule: example\n"),
        (("load-schedules", "nowhere.yml"), "error: nowhere.yml cannot be read: No such file or directory\n"),
    ],
)
def test_what_cannot_be_done_says_why_and_changes_nothing(run, words, says: str) -> None:
    """TC 66, 70"""
    ran = run(*words)
    assert ran.code == 1
    assert ran.err.startswith(says)
    assert run("schedules").out == ""


@pytest.mark.parametrize("words", [("schedule", "example"), ("schedule", "example", "* * * * *", "--every", "5")])
def test_when_it_is_due_is_said_once(run, words) -> None:
    ran = run(*words)
    assert ran.code == 2
    assert "Give EXPR, or one of --every, --at, --rrule and --calendar-event." in ran.err


def test_a_node_of_a_calendar_needs_a_calendar(run, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = run("schedule", "example", "--calendar-event", "plans/7")
    assert (ran.code, ran.err) == (1, "error: UME_BASE_URL not configured\n")
    monkeypatch.setenv("UME_BASE_URL", "http://127.0.0.1:1")
    ran = run("schedule", "example", "--calendar-event", "plans/7")
    assert ran.code == 0
    assert ran.out == "example scheduled: plans/7\nits calendar cannot be read now: it cannot be reached\n"
    assert run("schedules", "--next").out.endswith("\tunknown: it cannot be reached\n")


def test_the_base_scheduler_has_none(run, monkeypatch: pytest.MonkeyPatch) -> None:
    """TC 119"""
    monkeypatch.setenv("CASCADENCE_SCHEDULER", "base")
    ran = run("schedule", "example", "* * * * *")
    assert (ran.code, ran.err) == (1, "error: scheduler lacks cron capabilities\n")


def test_pause_and_resume(run) -> None:
    run("schedule", "example", "0 9 * * *")
    assert run("schedule-pause", "example").out == "example schedule paused\n"
    assert run("schedules", "--next").out == "example\t0 9 * * *\tpaused\n"
    said = "suppressed, unless the schedule, which is paused, is resumed before.\n"
    assert run("explain", "example@2037-01-01T09:00").out.endswith(said)
    assert run("schedule-resume", "example").out == "example schedule resumed\n"
    assert run("schedule-resume", "example").err == "error: the schedule of example is not paused\n"


def test_a_file_of_schedules_is_loaded(run, tmp_path: Path) -> None:
    path = tmp_path / "night.yml"
    path.write_text('example: "0 9 * * *"\ncountdown:\n  expr: 30 2 * * *\n  recurrence: {cron: x}\n')
    ran = run("load-schedules", path)
    assert (ran.code, ran.out) == (0, f"loaded schedules from {path}\n")
    assert run("schedules").out == "countdown\t30 2 * * *\nexample\t0 9 * * *\n"
    assert rows(run)["countdown"]["recurrence"] == {"cron": "x"}  # TC 78


def test_a_file_with_anything_wrong_sets_nothing(run, tmp_path: Path) -> None:
    path = tmp_path / "night.yml"
    path.write_text('example: "0 9 * * *"\ncountdown: 7\n')
    ran = run("load-schedules", path)
    assert ran.code == 1
    assert ran.err == f"error: {path}: line 2: countdown: entry must be a string or mapping\n"
    assert run("schedules").out == ""


def test_a_preview_shows_the_offset_and_what_the_clocks_do(run) -> None:
    asked = (
        "--preview",
        "30 2 * * *",
        "--timezone",
        "America/New_York",
        "--from",
        "2027-03-13T00:00:00Z",
        "--count",
        "2",
    )
    lines = run("schedules", *asked).out.splitlines()
    assert lines[0].split() == ["DUE", "NOTE"]
    assert lines[1].split() == ["2027-03-13T02:30:00-05:00"]
    assert lines[2].startswith("2027-03-14T03:00:00-04:00")
    assert len(lines[2]) > len("2027-03-14T03:00:00-04:00") + 20
    shown = json.loads(run("schedules", *asked, "--json").out)
    assert [item["at"] for item in shown["items"]] == ["2027-03-13T02:30:00-05:00", "2027-03-14T03:00:00-04:00"]


def test_an_instant_is_explained_by_its_local_time(run) -> None:
    run("schedule", "example", "30 2 * * *", "--timezone", "America/New_York")
    out = run("explain", "example@2027-03-14T02:30").out
    assert out.splitlines()[-1] == "It is still to come."
    assert run("explain", "nobody@2027-03-14T02:30").err == "error: Unknown schedule: nobody\n"
    assert run("ticks", "example").out == "nothing yet\n"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("0 9 * * *", "example"), "error: NAME comes before EXPR: schedule example '0 9 * * *'."),
        (
            ("example", "0", "9", "*", "*", "*"),
            "error: EXPR is one argument: put it into quotes, as in schedule report",
        ),
    ],
)
def test_an_expression_in_the_wrong_place_or_without_quotes_is_told_where_it_belongs(run, words, says: str) -> None:
    ran = run("schedule", *words)
    assert (ran.code, ran.out) == (2, "")
    assert says in ran.err


def test_what_is_to_run_after_a_task_that_is_not_there_is_not_set(run) -> None:
    ran = run("schedule", "example", "0 9 * * *", "--after", "slepeer")
    assert (ran.code, ran.err) == (1, "error: Unknown task: slepeer\ndid you mean sleeper?\n")
    assert run("schedules").out == ""


def test_what_a_file_would_only_add_is_not_compared_with_nothing(run, tmp_path: Path) -> None:
    run("schedule", "example", "--every", "3600")
    assert run("schedules").out == 'example\t{"every_s":3600}\n'
    (tmp_path / "new.yml").write_text("countdown: 0 10 * * *\nexample: {every_s: 3600}\n")
    span = ("--simulate", "--from", "2027-01-01T00:00:00Z", "--to", "2027-01-02T00:00:00Z")
    out = run("schedules", *span, "--change", tmp_path / "new.yml").out
    assert out.splitlines()[-1] == "countdown: 1 run more (2027-01-01T10:00:00+00:00)"


def test_all_schedules_are_simulated_and_compared_with_a_file(run, tmp_path: Path) -> None:
    run("schedule", "example", "0 9 * * *")
    changed = tmp_path / "new.yml"
    changed.write_text("example: 0 10 * * *\n")
    span = ("--simulate", "--from", "2027-01-01T00:00:00Z", "--to", "2027-01-03T00:00:00Z")
    lines = run("schedules", *span).out.splitlines()
    assert lines[1].split() == ["example", "2", "2027-01-01T09:00:00+00:00", "2027-01-02T09:00:00+00:00"]
    out = run("schedules", *span, "--change", changed).out
    assert out.splitlines()[-2:] == [
        "differences:",
        "example: 2 runs fewer (2027-01-01T09:00:00+00:00, 2027-01-02T09:00:00+00:00), "
        "2 runs more (2027-01-01T10:00:00+00:00, 2027-01-02T10:00:00+00:00)",
    ]
    found = json.loads(run("schedules", *span, "--json").out)
    assert (found["simulation"]["n_instants"], found["changed"], found["differences"]) == (2, None, [])


def test_a_bound_is_told_in_digits(run) -> None:
    ran = run("schedule", "example", "0 9 * * *", "--within", "-1")
    assert ran.err == "error: example: 'misfire.within_s' must be a number from 0 to 31622400\n"


def test_a_simulation_includes_both_of_its_ends_as_a_backfill_does(run) -> None:
    run("schedule", "example", "@daily")
    lines = run("schedules", "--simulate", "--from", "2027-01-01T00:00:00Z", "--to", "2027-01-02T00:00:00Z").out
    assert lines.splitlines()[1].split() == ["example", "2", "2027-01-01T00:00:00+00:00", "2027-01-02T00:00:00+00:00"]


def test_the_present_file_would_change_nothing_and_what_is_of_no_task_is_told(run, folder: Path) -> None:
    """Intervals go on counting from where they began, and a paused schedule stays so."""
    run("schedule", "example", "--every", "7")
    run("schedule", "countdown", "0 9 * * *")
    run("schedule-pause", "countdown")
    path = folder / "schedules.yml"
    path.write_text(path.read_text().replace("example:", "gone: 0 1 * * *\nexample:"))
    span = ("--simulate", "--from", "2027-01-01T00:00:00Z", "--to", "2027-01-01T00:10:00Z")
    ran = run("schedules", *span, "--change", path)
    assert ran.out.splitlines()[-1] == "no run would be at another time"
    assert ran.err == f"{path}: gone: there is no such task; its entry does nothing until there is\n"


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("--simulate",), 2, "--simulate needs --from and --to, and no --preview."),
        (
            ("--simulate", "--from", "x", "--to", "y"),
            2,
            "'--from': an instant with an offset or Z, such as 2026-11-30T09",
        ),
        (("--preview", "example", "--from", "2027-01-02"), 2, "'--from': an instant with an offset or Z, such as"),
        (("--preview", "example", "--count", "0"), 2, "Invalid value for '--count': 0 is not in the range 1<=x<=1000."),
        (("--preview", "example", "--timezone", "UTC"), 2, "the schedule of example has its own zone"),
        (("--simulate", "--from", "2027-01-02T00:00:00Z", "--to", "2027-01-01T00:00:00Z"), 1, "error: the end must be"),
    ],
)
def test_a_simulation_or_preview_that_cannot_be_says_why(run, words, code: int, says: str) -> None:
    ran = run("schedules", *words)
    assert ran.code == code
    assert says in ran.err


def test_due_instants_of_the_past_are_run_once(run) -> None:
    run("schedule", "example", "0 9 * * *")
    asked = ("backfill", "example", "--from", "2026-01-05T00:00:00Z", "--to", "2026-01-06T23:00:00Z")
    ran = run(*asked)
    assert (ran.code, len(ran.out.splitlines())) == (0, 3), ran.err
    assert ran.out.splitlines()[1].startswith("2026-01-05T09:00:00Z ")
    assert ran.out.splitlines()[1].endswith("success")
    assert run(*asked).out.count("asked before") == 2
    assert len(json.loads(run("runs", "--json").out)["items"]) == 2
    assert run(*asked, "--max", "1").err == "error: 2 instants are due in that range; 1 are allowed\n"
    assert run("backfill", "example").code == 2


def test_the_ledger_of_a_schedule_that_never_was_is_an_error_and_an_empty_one_is_none(run) -> None:
    ran = run("ticks", "exmaple")
    assert (ran.code, ran.err) == (1, "error: Unknown schedule: exmaple\n")
    run("schedule", "example", "0 9 * * *", *WHO)
    assert run("ticks", "example").out == "nothing yet\n"
