"""Why a run is as it is, at the command line."""

from __future__ import annotations

import pytest

from tests.commands.conftest import WHO


def test_a_failed_run_is_explained_without_a_daemon(run, plugins):
    run_id = run("run", "boom", *WHO, "--json").json
    run_id = run("runs", "--json").json["items"][0]["run_id"]
    ran = run("explain", run_id[:20])
    assert ran.code == 0
    assert "Why: the stage run failed: RuntimeError: boom." in ran.out
    assert f"Do:  cascadenced fork {run_id} --from run" in ran.out
    assert "ended in error: RuntimeError: boom" in ran.out
    assert "alice" not in ran.out


def test_an_explanation_is_json_as_the_route_answers_it(run):
    run("run", "nope", *WHO)
    run_id = run("runs", "--json").json["items"][0]["run_id"]
    explanation = run("explain", run_id, "--json").json
    assert (explanation["status"], explanation["reasons"][0]["detail"]) == ("refused", "unknown_task")
    assert [moment["code"] for moment in explanation["timeline"]] == ["run.requested", "run.refused"]


@pytest.mark.parametrize("given", ["zzzzzzzzzz", "someone@example", "@2026-11-30"])
def test_what_is_neither_a_run_nor_an_instant_is_an_unknown_run(run, given):
    ran = run("explain", given)
    assert (ran.code, ran.err[:14]) == (1, "error: no run ")
