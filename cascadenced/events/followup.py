"""Facts about follow-ups: what the capability planner does about a failed run. In the failed run's stream."""

from __future__ import annotations

from cascadenced.events.base import Event


class FollowupRequested(Event, tag="followup.requested", frozen=True, kw_only=True):
    """`task` is asked to run because `failed_run_id` failed. depth: 1 for the first follow-up of a chain."""

    failed_task: str
    failed_run_id: str
    task: str
    followup_run_id: str
    depth: int


class FollowupSkipped(Event, tag="followup.skipped", frozen=True, kw_only=True):
    """A run failed and gets no follow-up. code: depth_limit, no_task, planner_off or
    identity_missing."""

    failed_task: str
    failed_run_id: str
    code: str
    reason: str
