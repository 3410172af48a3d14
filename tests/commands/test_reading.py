"""Runs, events, dead letters, schedules: what is shown, in text and as JSON."""

from __future__ import annotations

import json

from cascadenced.commands.tables import coloured
from cascadenced.projections.audit_trail import TrailRow
from cascadenced.projections.page import Page
from cascadenced.projections.run_view import RunRow, RunView
from cascadenced.verbs.runs import DispatchResult
from tests.commands.conftest import WHO
from tests.commands.test_tasks import fields


def test_runs_are_listed_newest_first_and_in_pages(run):
    ids = [run("run", "example", *WHO, "--json").json["run_id"] for _ in range(3)]
    first = run("runs", "--limit", "2")
    assert [line.split()[0] for line in first.out.splitlines()[1:]] == [ids[2], ids[1]]
    assert f"--after {ids[1]}" in first.err
    rest = run("runs", "--limit", "2", "--after", ids[1], "--json").json
    assert [row["run_id"] for row in rest["items"]] == [ids[0]]
    assert set(rest) == fields(Page)
    assert set(rest["items"][0]) == fields(RunRow)


def test_runs_are_filtered(run):
    run("run", "example", *WHO)
    run("run", "nope", *WHO)
    assert [r["task"] for r in run("runs", "--status", "refused", "--json").json["items"]] == ["nope"]
    assert [r["status"] for r in run("runs", "--task", "example", "--json").json["items"]] == ["success"]
    assert run("runs", "--task", "sleeper").out == "no runs\n"
    ran = run("runs", "--status", "great")
    assert ran.code == 1
    assert "status must be one of" in ran.err


def test_a_run_is_shown_in_full_by_the_beginning_of_its_id(run):
    run_id = run("run", "countdown", *WHO, "--args", '{"seconds": 0}', "--json").json["run_id"]
    text = run("show", run_id[:20]).out
    assert "alice" not in text
    for shown in (run_id, "countdown", "success", '{"seconds":0}', "research  skipped", '["three","two","one"]'):
        assert shown in text
    view = run("show", run_id, "--json").json
    assert set(view) == fields(RunView)
    assert [stage["stage"] for stage in view["stages"]] == ["intake", "research", "plan", "precheck", "run", "verify"]


def test_an_unknown_run_is_an_error(run):
    for given in ("zzzzzzzzzz", "short"):
        ran = run("show", given)
        assert ran.code == 1
        assert ran.err.startswith("error: no run")


def test_the_trail_hides_who_and_tells_what(run):
    run("run", "countdown", *WHO, "--args", '{"seconds": 0}')
    text = run("audit", "countdown").out
    assert "alice" not in text
    assert "['three', 'two', 'one']" in text
    rows = run("audit", "countdown", "--json").json["items"]
    assert set(rows[0]) == fields(TrailRow)


def test_an_event_is_answered_by_its_workflow(run):
    ran = run("dispatch", "demo.greeting", '{"name": "Ada"}', *WHO)
    assert ran.code == 0
    assert 'result\t{"greeting":"Hello, Ada!"}' in ran.out
    asjson = run("dispatch", "demo.greeting", *WHO, "--json").json
    assert set(asjson) == fields(DispatchResult)
    assert asjson["result"] == {"greeting": "Hello, world!"}


def test_an_event_that_fails_or_is_nobodys_says_so(run):
    failed = run("dispatch", "demo.greeting", '{"name": 3}', *WHO)
    assert (failed.code, failed.err) == (1, "error: name must be a string\n")
    assert failed.out.startswith("run-id\t")
    said = "recorded; no workflow listens to nobody.cares, only runs of this group that wait for it\n"
    assert run("dispatch", "nobody.cares", *WHO).out == said
    assert run("dispatch", "bad name", *WHO).code == 1
    assert run("dispatch", "demo.greeting", "{", *WHO).code == 2


def test_empty_lists_read_well(run):
    assert run("dead-letters").out == "no dead letters\n"
    assert run("dead-letters", "list", "--json").json["items"] == []
    assert run("schedules").out == ""
    assert run("runs").out == "no runs\n"


def test_a_dead_letter_that_is_not_there_is_an_error(run):
    for command in ("show", "redrive"):
        ran = run("dead-letters", command, "7")
        assert (ran.code, ran.err) == (1, "error: no dead letter at position 7\n")


def test_text_of_tasks_cannot_drive_the_terminal(run):
    run("run", "example", *WHO, "--args", json.dumps({"a": "\x1b[31m\u202e"}))
    run_id = run("runs", "--json").json["items"][0]["run_id"]
    text = run("show", run_id).out
    assert "\x1b" not in text
    assert "\u202e" not in text


def test_colours_are_for_terminals_that_want_them(run, monkeypatch):
    assert "\x1b" not in run("status").out
    assert coloured("success") == "\x1b[32msuccess\x1b[0m"
    monkeypatch.setenv("NO_COLOR", "1")
    assert coloured("success") == "success"
