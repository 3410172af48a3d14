"""What the planner does about a failed run."""

from __future__ import annotations

import pytest

from cascadenced.events.followup import FollowupRequested, FollowupSkipped
from cascadenced.pipeline.followups import Failure, Planner, arguments, follow_up

PLANNER = Planner(task="capability_follow_up", max_depth=3)


def failed(depth: int = 0) -> Failure:
    return Failure(task="demo", run_id="r1", reason="boom", depth=depth)


def planned(failure: Failure, planner: Planner = PLANNER, *, known: bool = True):
    return follow_up(failure, planner, known=known, followup_run_id="r2")


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_a_failed_run_gets_one_follow_up_one_deeper(depth):
    assert planned(failed(depth)) == FollowupRequested(
        failed_task="demo", failed_run_id="r1", task="capability_follow_up", followup_run_id="r2", depth=depth + 1
    )


@pytest.mark.parametrize("depth", [3, 4])
def test_a_chain_of_follow_ups_ends_at_the_depth_that_is_allowed(depth):
    assert planned(failed(depth)) == FollowupSkipped(
        failed_task="demo",
        failed_run_id="r1",
        code="depth_limit",
        reason=f"{depth} follow-ups led here; 3 are allowed",
    )


def test_a_depth_of_zero_allows_no_follow_up_at_all():
    assert planned(failed(), Planner(task="t", max_depth=0)).code == "depth_limit"


def test_a_planner_that_is_off_says_so():
    skipped = planned(failed(), Planner(task=None, max_depth=3))
    assert (skipped.code, skipped.reason) == ("planner_off", "follow_up_task is empty in the configuration")


def test_a_planner_whose_task_is_not_registered_says_so():
    skipped = planned(failed(), known=False)
    assert (skipped.code, skipped.reason) == ("no_task", "the task capability_follow_up is not registered")


def test_the_follow_up_is_told_what_failed():
    assert arguments(failed()) == {"failed_task": "demo", "failed_run_id": "r1", "reason": "boom"}
