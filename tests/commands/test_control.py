"""Controlling runs from the command line, without a daemon and with one."""

from __future__ import annotations

from typing import Any

import pytest

from cascadenced.projections.run_view import RunView
from cascadenced.verbs.runs import RunControlled, Signalled
from tests.commands.conftest import WHO, outcome, spawn
from tests.commands.test_tasks import fields

GROUP = ("--group-id", "eng")


@pytest.fixture
def waiting(run: Any, plugins: None) -> str:
    """A run that waits for an event; nothing of it is in memory."""
    started = run("run", "patient", *WHO, "--no-wait", "--json")
    run_id: str = started.json["run_id"]
    assert run("show", run_id, "--json").json["status"] == "waiting"
    return run_id


@pytest.fixture
def in_doubt(run: Any, plugins: None) -> str:
    """A run whose process died in an effect, found by the next start."""
    died = outcome(spawn("run", "bills", *WHO))
    assert died.code != 0
    [row] = run("runs", "--task", "bills", "--json").json["items"]
    return str(row["run_id"])


# ── showing ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_run_that_waits_shows_for_what_and_how_far_it_has_come(run, waiting):
    text = run("show", waiting).out
    assert "waits for  the event go, until " in text
    assert "  1 measure" in text
    assert "  2 event go" in text
    view = run("show", waiting, "--json").json
    assert set(view) == fields(RunView)
    assert (view["waits_for"]["kind"], view["waits_for"]["name"]) == ("event", "go")
    [stage] = [stage for stage in view["stages"] if stage["stage"] == "run"]
    assert (stage["status"], stage["n_steps"]) == ("waiting", 2)
    assert [(s["place"], s["kind"], s["name"], s["status"]) for s in stage["steps"]] == [
        ("1", "step", "measure", "success"),
        ("2", "event", "go", "waiting"),
    ]


def test_a_list_of_runs_says_what_each_waits_for(run, waiting):
    listed = run("runs", "--status", "waiting")
    assert waiting in listed.out
    assert "the event go, until " in listed.out
    [row] = run("runs", "--status", "waiting", "--json").json["items"]
    assert row["waits_for"]["name"] == "go"
    run("pause", waiting, *WHO)
    [row] = run("runs", "--status", "paused", "--json").json["items"]
    assert (row["status"], row["waits_for"]["name"]) == ("paused", "go")


def test_a_run_that_must_not_start_before_another_names_it(run, plugins):
    outcome(spawn("run", "needs", *WHO))  # the process dies in the run that comes first
    needs, first = run("runs", "--json").json["items"]
    assert (needs["task"], needs["status"], first["status"]) == ("needs", "queued", "running")
    assert "the runs that must come before it" in run("runs", "--task", "needs").out
    assert "waits for  the runs that must come before it" in run("show", needs["run_id"]).out
    text = " ".join(run("explain", needs["run_id"]).out.split())
    assert f"0 of 1 have: first is running ({first['run_id']}); no daemon is up to notice." in text
    assert f"Do: cascadenced explain {first['run_id']} cascadenced up" in text


def test_what_a_process_of_its_own_printed_is_shown_with_its_run(run, plugins):
    run_id = run("run", "apart", *WHO, "--json").json["run_id"]
    assert run("show", run_id).out.endswith("printed by run\n  first line\n  second line\n")


def test_the_runs_of_a_plan_are_shown_and_end_with_it(run, plugins):
    run_id = run("run", "whole", *WHO, "--no-wait", "--json").json["run_id"]
    view = run("show", run_id, "--json").json
    assert view["waits_for"]["kind"] == "children"
    assert [(child["task"], child["status"]) for child in view["children"]] == [
        ("part", "running"),
        ("part", "planned"),
    ]
    child = view["children"][0]["run_id"]
    assert child in run("show", run_id).out
    assert run("show", child, "--json").json["parent_run_id"] == run_id
    run("cancel", run_id)
    assert run("show", child, "--json").json["status"] == "cancelled"


# ── cancel, pause, signal ────────────────────────────────────────────────────────────────────────────────────────


def test_a_run_is_cancelled_by_the_beginning_of_its_id(run, waiting):
    ran = run("cancel", waiting[:12], "--reason", "ordered twice")
    assert (ran.code, ran.out) == (0, f"{waiting} cancelled\n")
    view = run("show", waiting, "--json").json
    assert (view["status"], view["error"]["message"]) == ("cancelled", "ordered twice")
    again = run("cancel", waiting)
    assert (again.code, again.err) == (
        1,
        "error: the run has ended (cancelled): it cannot be cancelled any more; "
        "to do it again, fork it or ask for another\n",
    )


def test_a_cancel_under_a_key_can_be_repeated(run, waiting):
    asked = ("cancel", waiting, "--idempotency-key", "k", "--json")
    first, again = run(*asked).json, run(*asked).json
    assert set(first) == fields(RunControlled)
    assert again == {**first, "duplicate": True}


def test_who_cancelled_is_in_the_trail_by_pseudonym(run, waiting):
    run("cancel", waiting, "--user-id", "carol", *GROUP, "--reason", "carol said so")
    assert "carol" not in run("audit", "patient").out
    assert "carol" not in run("show", waiting).out


def test_a_task_with_a_run_under_way_pauses_the_run(run, waiting):
    assert run("pause", "patient", *GROUP).err == "error: user_id is required\n"
    paused = run("pause", "patient", *WHO)
    assert (paused.out, paused.err) == (
        "patient paused\n",
        f"that is its run {waiting}; the task itself is as it was\n",
    )
    assert run("show", waiting, "--json").json["status"] == "paused"
    assert run("resume", "patient", *WHO).out == "patient resumed\n"
    assert run("show", waiting, "--json").json["status"] == "waiting"


def test_a_task_without_a_run_under_way_is_paused_itself_and_no_run_is_named(run):
    paused = run("pause", "example", *GROUP)
    assert (paused.out, paused.err) == ("example paused\n", "")


def test_a_run_is_paused_by_its_id_and_by_its_task_and_job(run, waiting):
    assert run("pause", waiting, *GROUP).out == f"{waiting} paused\n"
    assert run("resume", "patient", "--job-id", waiting, *WHO, "--json").json["run_id"] == waiting
    assert run("pause", "patient", "--job-id", waiting[:12], *WHO).code == 0
    assert run("resume", waiting[:12], *GROUP).code == 0


def test_a_job_that_does_not_run_is_an_error(run, waiting):
    for job in ("f" * 32, "patient", "short"):
        for command in ("pause", "resume"):
            ran = run(command, "patient", "--job-id", job, *WHO)
            assert (ran.code, ran.err) == (1, "error: pipeline not running\n")
    assert run("pause", "example", "--job-id", waiting, *WHO).err == "error: pipeline not running\n"


def test_neither_a_task_nor_a_run_is_an_error(run):
    assert run("pause", "nope", *GROUP).err == "error: Unknown task: nope\n"
    assert run("pause", "0123456789abcdef", *GROUP).err.startswith("error: no run '0123456789abcdef'")


def test_a_run_is_told_something(run, waiting):
    assert run("signal", waiting, "--note", "hello", "--url", "https://x").out == f"{waiting} delivered\n"
    told = run("signal", waiting[:12], "--value", '{"limit": 200}', "--json").json
    assert set(told) == fields(Signalled)
    assert run("audit", "patient", "--category", "audit").out.count("context_attached") == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "say what to tell it"),
        (("--note", "a", "--value", "{}"), "say what to tell it"),
        (("--value", "{"), "JSON is expected"),
    ],
)
def test_a_signal_says_something_in_one_way(run, options, said):
    ran = run("signal", "f" * 32, *options)
    assert ran.code == 2
    assert said in ran.err


def test_a_signal_that_cannot_be_one_is_an_error(run, waiting):
    ran = run("signal", waiting, "--note", "x" * 2049)
    assert (ran.code, ran.err) == (1, "error: note exceeds maximum length\n")


def test_unknown_runs_are_errors(run):
    for command in (("cancel",), ("signal", "--note", "x"), ("resolve", "retry")):
        ran = run(command[0], "f" * 32, *command[1:])
        assert (ran.code, ran.err) == (1, f"error: no run '{'f' * 32}': the list of runs has those there are\n")


def test_what_a_step_returned_is_shown_with_it(run, waiting):
    [line] = [line for line in run("show", waiting).out.splitlines() if "measure" in line]
    assert line.split()[:3] == ["1", "measure", "success"]
    assert line.split()[-1] == "7"


# ── what cannot go on here ───────────────────────────────────────────────────────────────────────────────────────


def test_without_a_daemon_nobody_waits_for_an_event_that_cannot_come(run, plugins):
    ran = run("run", "patient", *WHO, "--json")
    assert ran.code == 1
    assert "waits for the event go: it goes on when a daemon is up" in ran.err
    assert ran.json["error"] == "waiting"
    [row] = run("runs", "--task", "patient", "--json").json["items"]
    assert row["status"] == "waiting"


def test_without_a_daemon_the_runs_of_a_plan_are_part_of_the_command(run, plugins):
    ran = run("run", "whole", *WHO)
    assert ran.code == 1
    assert "it goes on when a daemon is up" in ran.err
    assert [row["task"] for row in run("runs", "--status", "waiting", "--json").json["items"]] == ["part", "whole"]


def test_without_a_daemon_nobody_waits_for_a_run_whose_prerequisite_cannot_go_on(run, plugins):
    ran = run("run", "after-patient", *WHO)
    assert ran.code == 1
    assert "it goes on when a daemon is up" in ran.err
    assert [row["task"] for row in run("runs", "--status", "queued", "--json").json["items"]] == ["after-patient"]


# ── doubt ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_only_runs_in_doubt_are_resolved(run, waiting):
    ran = run("resolve", waiting, "retry")
    assert (ran.code, ran.err) == (1, "error: the run is waiting, not in doubt: there is nothing to resolve\n")
    assert run("resolve", waiting, "shrug").code == 2
    assert run("resolve", waiting, "retry", "--output", "1").code == 2


def test_runs_in_doubt_are_listed(run, in_doubt):
    assert run("runs", "--in-doubt").out == "no runs\n"  # nobody has looked at it since it died
    assert run("runs", "--in-doubt", "--status", "error").code == 2


# ── with a daemon ────────────────────────────────────────────────────────────────────────────────────────────────


def test_with_a_daemon_it_is_asked(run, daemon):
    daemon.answers["/rpc/cancel"] = (200, {"run_id": "r", "task": "t", "status": "cancelled", "duplicate": False})
    assert run("cancel", "0123456789", "--reason", "why").out == "r cancelled\n"
    assert daemon.asked == [("/rpc/cancel", {"run": "0123456789", "reason": "why"})]


@pytest.mark.parametrize(
    "command", [("cancel", "0123456789"), ("signal", "0123456789", "--note", "x"), ("resolve", "0123456789", "done")]
)
def test_a_daemon_that_hangs_up_is_not_asked_twice_without_a_key(run, daemon, command):
    daemon.answers[f"/rpc/{command[0]}"] = None
    ran = run(*command)
    assert ran.code == 1
    assert "went away before it answered" in ran.err
    assert len(daemon.asked) == 1


def test_a_hex_word_is_a_task_first_and_else_a_run(run, daemon):
    daemon.answers["/rpc/pause"] = (404, {"detail": "Unknown task: feedface00", "error": "unknown"})
    daemon.answers["/rpc/pause_run"] = (200, {"run_id": "feedface00", "task": "t", "status": "paused"})
    assert run("pause", "feedface00", *GROUP).out == "feedface00 paused\n"
    assert [path for path, _ in daemon.asked] == ["/rpc/pause", "/rpc/pause_run"]
