"""The crash sweep of durable runs, in its short form: `make crash` goes on for as long as one likes."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.crash.chaos import Blow
from tests.crash.sweep import PASSES, blows, replay, sweep

N_SWEEPS, N_KILLS, N_WORLDS = 2, 150, 3
"""Each sweep is a test of its own, so that two cores have one each."""

CAN_FORK = pytest.mark.skipif(not hasattr(os, "fork"), reason="daemons are forked")


def test_the_same_seed_deals_the_same_blows() -> None:
    assert blows(3, 50) == blows(3, 50)
    assert blows(3, 50) != blows(4, 50)


def test_every_crash_point_comes_before_any_comes_again() -> None:
    hit = [blow.at.partition(":")[0] for blow in blows(1, 100) if blow.at]
    n = len(PASSES)
    assert set(hit[:n]) == set(hit[n : 2 * n]) == set(PASSES)


@CAN_FORK
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("nth", range(N_SWEEPS))
async def test_no_effect_is_lost_or_repeated_however_often_the_daemon_is_killed(tmp_path: Path, nth: int) -> None:
    seed = random.randrange(10**6)
    outcome = await sweep(tmp_path, seed, N_KILLS, print, n_worlds=N_WORLDS)
    print(outcome.told)
    assert outcome.faults == [], f"{outcome.told}\nAgain: {replay(seed, N_KILLS, N_WORLDS)}"


# ── and the harness is no rubber stamp ───────────────────────────────────────────────────────────────────────────

THE_END_OF_A_STEP_IS_NOT_RECORDED = """
from cascadenced.handlers.steps import Steps

async def finished(self, seq, name, output, took_s):
    if name != "first":
        await really(self, seq, name, output, took_s)

really, Steps._finished = Steps._finished, finished
"""

AT_MOST_ONCE_IS_TREATED_AS_AT_LEAST_ONCE = """
from cascadenced.handlers import run_stage
from cascadenced.pipeline import doubts

doubts.may_have_happened = run_stage.may_have_happened = lambda run: False
"""

A_CHILD_IS_REQUESTED_TWICE = """
from cascadenced.runtime import children

def every(run):
    return [n for n, child in enumerate(run.children or ()) if not child.is_done]

children._next = every
"""

WHAT_IS_OVER_GOES_ON = """
from cascadenced.handlers.steps import Steps

Steps._is_under_way = lambda self, run: True
Steps._is_left = property(lambda self: False, lambda self, is_left: None)
"""

A_CANCELLATION_IS_NOT_PASSED_ON = """
from cascadenced.runtime.runs import Runs

async def withdraw(self, live):
    pass

Runs.withdraw = withdraw
"""

DOUBTS_ARE_NOT_LISTED = """
from cascadenced.projections import runs
from cascadenced.events.run import RunDoubted

del runs._STATUS[RunDoubted]
"""

BLOWS = [
    Blow("kill", 0.4),
    Blow("crash at", at="step.after_effect:3"),
    Blow("kill", 0.5),
    Blow("crash at", at="step.after_effect:2"),
    Blow("kill", 0.4),
]
LONG_LIVES = [Blow("kill", 1.5), Blow("kill", 1.5)]
"""Time for people to meddle."""


@CAN_FORK
@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("defect", "dealt", "tasks", "rules"),
    [
        (
            THE_END_OF_A_STEP_IS_NOT_RECORDED,
            BLOWS,
            ["async", "plain"],
            {"what_is_recorded_was_done", "an_effect_happens_once_for_each_attempt"},
        ),
        (AT_MOST_ONCE_IS_TREATED_AS_AT_LEAST_ONCE, BLOWS, ["once", "once_plainly"], {"at_most_once_is_never_twice"}),
        (A_CHILD_IS_REQUESTED_TWICE, BLOWS, ["parent", "crowd"], {"children_are_asked_for_once"}),
        (WHAT_IS_OVER_GOES_ON, BLOWS, ["late"], {"attempts_that_are_over_do_nothing", "runs_go_the_lawful_way"}),
        (A_CANCELLATION_IS_NOT_PASSED_ON, LONG_LIVES, ["async", "flaky"], {"cancelled_runs_do_nothing_more"}),
        (DOUBTS_ARE_NOT_LISTED, BLOWS, ["once"], {"what_is_in_doubt_is_listed"}),
    ],
    ids=[
        "end not recorded",
        "at least once",
        "child twice",
        "over goes on",
        "cancel not passed on",
        "doubts not listed",
    ],
)
async def test_a_defect_is_found_out(
    tmp_path: Path, defect: str, dealt: list[Blow], tasks: list[str], rules: set[str]
) -> None:
    for seed in (1, 2, 3, 4):  # what is under way when a blow falls is a matter of luck
        folder = tmp_path / str(seed)
        folder.mkdir()
        outcome = await sweep(
            folder,
            seed,
            0,
            print,
            n_worlds=1,
            dealt=dealt,
            tasks=tasks,
            defect=defect,
            rests_within_s=2,
            cancels=0.7 if dealt is LONG_LIVES else 0.0,
        )
        broken = {rule for rule in rules if any(f": {rule}: " in fault for fault in outcome.faults)}
        if broken:
            return
    raise AssertionError("\n".join([outcome.told, *outcome.faults[:20]]))
