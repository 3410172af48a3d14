"""Two runs, compared at the command line."""

from __future__ import annotations

import json

from tests.commands.conftest import WHO


def a_run(run, task, args):
    run("run", task, *WHO, "--args", json.dumps(args))
    return run("runs", "--json").json["items"][0]["run_id"]


def test_runs_that_did_the_same_exit_0(run, plugins):
    first, second = (a_run(run, "loud", {"n": 1}) for _ in range(2))
    ran = run("diff", first[:20], second)
    assert (ran.code, ran.out.splitlines()[-1]) == (0, "no difference")
    assert run("diff", first, second, "--json").json["same"] is True


def test_runs_that_differ_exit_1_and_say_where(run, plugins):
    first, second = a_run(run, "loud", {"n": 1}), a_run(run, "loud", {"n": [2], "m": None})
    ran = run("diff", first, second)
    assert ran.code == 1
    assert [line.split() for line in ran.out.splitlines()[3:]] == [
        ["WHERE", "LEFT", "RIGHT"],
        ["args", ".n", "1", "[2]"],
        ["args", ".m", "(nothing)", "null"],
        ["run", "output", ".args.n", "1", "[2]"],
        ["run", "output", ".args.m", "(nothing)", "null"],
        ["result", ".args.n", "1", "[2]"],
        ["result", ".args.m", "(nothing)", "null"],
    ]
    asjson = run("diff", first, second, "--json")
    assert (asjson.code, asjson.json["differences"][0]) == (
        1,
        {"what": "args", "path": ".n", "left": 1, "right": [2]},
    )


def test_how_long_it_took_is_told_if_asked(run, plugins):
    first, second = (a_run(run, "loud", {"n": 1}) for _ in range(2))
    assert "TOOK" not in run("diff", first, second).out
    ran = run("diff", first, second, "--times")
    assert (ran.code, "the run" in ran.out) == (0, True)


def test_a_run_that_is_not_there_cannot_be_compared(run, plugins):
    first = a_run(run, "loud", {})
    ran = run("diff", first, "f" * 32)
    assert (ran.code, ran.err) == (1, f"error: no run '{'f' * 32}': the list of runs has those there are\n")
