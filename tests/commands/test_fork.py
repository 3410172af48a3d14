"""Forks at the command line."""

from __future__ import annotations

import pytest

from tests.commands.conftest import WHO


def test_a_fork_runs_with_other_arguments_and_names_its_run(run, plugins):
    first = run("run", "loud", *WHO, "--args", '{"n": 1, "kept": true}', "--json").json
    ran = run("fork", first["run_id"][:20], "--from", "run", "--set", "n=2", "--set", "note=by = Friday", *WHO)
    assert ran.code == 0
    run_id = ran.out.removeprefix("run-id\t").strip()
    assert run_id != first["run_id"]
    view = run("show", run_id, "--json").json
    assert view["result"] == {"args": {"n": 2, "kept": True, "note": "by = Friday"}}
    assert f"as a fork of {first['run_id']}" in run("explain", run_id).out


def test_a_fork_that_fails_is_named_too(run, plugins):
    run("run", "boom", *WHO)
    run_id = run("runs", "--json").json["items"][0]["run_id"]
    ran = run("fork", run_id, "--from", "run", *WHO)
    assert (ran.code, ran.err) == (1, "error: boom\n")
    assert ran.out.startswith("run-id\t")
    assert run_id not in ran.out


@pytest.mark.parametrize("wrong", ["n", "=1", ""])
def test_what_is_no_assignment_is_a_usage_error(run, wrong):
    ran = run("fork", "0" * 32, "--from", "run", "--set", wrong, *WHO)
    assert ran.code == 2
    assert "is not KEY=VALUE, such as seconds=2." in ran.err


def test_somebody_elses_run_is_not_forked(run, plugins):
    run_id = run("run", "loud", *WHO, "--json").json["run_id"]
    ran = run("fork", run_id, "--from", "run", "--user-id", "alice", "--group-id", "ops")
    assert (ran.code, ran.err) == (
        1,
        f"error: the run {run_id} is another group's: only its own user may fork it\n",
    )
