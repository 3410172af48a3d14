"""The capability planner: one follow-up per failed run, and an end to chains of them."""

from __future__ import annotations

import msgspec

from cascadenced.events.base import Json
from cascadenced.events.followup import FollowupRequested, FollowupSkipped


class Planner(msgspec.Struct, frozen=True):
    """task: what every follow-up runs, None: the planner is off.  max_depth: follow-ups of follow-ups."""

    task: str | None
    max_depth: int


class Failure(msgspec.Struct, frozen=True):
    """A run that ended in error, here or elsewhere. depth: follow-ups that led to it."""

    task: str
    run_id: str
    reason: str
    depth: int


def follow_up(
    failure: Failure, planner: Planner, *, known: bool, followup_run_id: str
) -> FollowupRequested | FollowupSkipped:
    """What to do about `failure`. known: whether the planner's task is registered."""
    code, reason = "", ""
    if planner.task is None:
        code, reason = "planner_off", "follow_up_task is empty in the configuration"
    elif not known:
        code, reason = "no_task", f"the task {planner.task} is not registered"
    elif failure.depth >= planner.max_depth:
        code, reason = "depth_limit", f"{failure.depth} follow-ups led here; {planner.max_depth} are allowed"
    if planner.task is None or code:
        return skipped(failure, code, reason)
    return FollowupRequested(
        failed_task=failure.task,
        failed_run_id=failure.run_id,
        task=planner.task,
        followup_run_id=followup_run_id,
        depth=failure.depth + 1,
    )


def skipped(failure: Failure, code: str, reason: str) -> FollowupSkipped:
    """There will be no follow-up, and why."""
    return FollowupSkipped(failed_task=failure.task, failed_run_id=failure.run_id, code=code, reason=reason)


def arguments(failure: Failure) -> dict[str, Json]:
    """What the follow-up's task is told."""
    return {"failed_task": failure.task, "failed_run_id": failure.run_id, "reason": failure.reason}
