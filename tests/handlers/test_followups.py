"""The capability planner: one follow-up for each failed run, and an end to chains of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from cascadenced.errors import DiskFull
from cascadenced.events.base import Context, Recorded
from cascadenced.events.followup import FollowupRequested, FollowupSkipped
from cascadenced.events.idea import NoteRecorded
from cascadenced.events.inbound import ReportRun
from cascadenced.events.run import RunFailed, RunFinished, RunRefused, RunRequested
from cascadenced.handlers.followups import CHECKPOINT, CapabilityPlanner
from cascadenced.instance import Instance
from cascadenced.pipeline.followups import Planner
from cascadenced.plugins.builtin import CapabilityFollowUp
from cascadenced.runtime.follow import follow
from cascadenced.vault import MemoryVault
from tests.doubles import PSEUDONYMS, World, ask, idle, run, until


class Fails:
    name = "fails"

    async def run(self) -> None:
        raise ValueError("boom of alice")


class Succeeds:
    name = "succeeds"

    async def run(self) -> None:
        return None


class FailsAsWell(Fails):
    """A follow-up that fails, so that a chain begins."""

    name = "fails_as_well"


class Planned(World):
    def __init__(self, *tasks: object, task: str | None = "capability_follow_up", max_depth: int = 3, **config: Any):
        super().__init__(*(tasks or (Fails, Succeeds, FailsAsWell, CapabilityFollowUp)), **config)
        self.planner = Planner(task, max_depth)
        self.skipped: list[Recorded] = []

    @asynccontextmanager
    async def planning(self) -> AsyncIterator[Instance]:
        async with self.up() as instance:
            react = CapabilityPlanner(instance.log, instance.runs, instance.tasks, instance.vault, self.planner)
            running = asyncio.create_task(follow(instance.log, self.clock, CHECKPOINT, react, self.skipped.append))
            try:
                yield instance
                await idle()
            finally:
                assert not running.done(), running.exception()
                assert self.skipped == []
                running.cancel()


def report(run_id: str, status: str, **who: Any) -> ReportRun:
    nobody = dict.fromkeys(("user_id", "user_hash", "group_id", "group_hash"))
    return ReportRun(
        task="theirs", run_id=run_id, status=status, started_at=None, finished_at=None, **{**nobody, **who}
    )


async def test_a_failed_run_gets_one_follow_up_that_runs_as_the_same_user() -> None:
    world = Planned()
    async with world.planning() as instance:
        failed = await ask(instance, "fails")
        await until(lambda: world.events(FollowupRequested))
        [planned] = world.events(FollowupRequested)
        ended = await instance.runs.ended(planned.followup_run_id)
        assert ended.run.status == "success"
    assert (planned.failed_task, planned.failed_run_id) == ("fails", failed.run_id)
    assert (planned.task, planned.depth) == ("capability_follow_up", 1)
    _, requested = world.recorded(RunRequested)
    assert (requested.event.via, requested.event.depth) == ("followup", 1)
    assert (requested.user_hash, requested.group_hash) == (PSEUDONYMS.user("alice"), PSEUDONYMS.group("eng"))
    assert requested.event.args["failed_run_id"] == failed.run_id
    assert world.events(NoteRecorded)[0].note == f"run {failed.run_id} of fails failed"


async def test_it_is_linked_to_the_failure_by_cause_and_correlation() -> None:
    world = Planned()
    async with world.planning() as instance:
        await run(instance, "fails")
        await until(lambda: world.events(FollowupRequested))
    failure, planned = world.recorded(RunFailed)[0], world.recorded(FollowupRequested)[0]
    requested = world.recorded(RunRequested)[1]
    assert planned.cause == failure.id
    assert planned.stream == failure.stream
    assert requested.cause == planned.id
    assert failure.correlation == planned.correlation == requested.correlation


async def test_what_the_follow_up_is_told_names_nobody() -> None:
    world = Planned()
    async with world.planning() as instance:
        await run(instance, "fails")
        await until(lambda: world.events(FollowupRequested))
    assert "alice" not in world.text()


async def test_a_success_or_a_refusal_gets_none() -> None:
    world = Planned()
    async with world.planning() as instance:
        await run(instance, "succeeds")
        await instance.tasks.switch("succeeds", "disable", Context())
        await ask(instance, "succeeds")
    assert len(world.events(RunRefused)) == 1
    assert world.events(FollowupRequested) == world.events(FollowupSkipped) == []


async def test_a_chain_of_follow_ups_ends_at_the_limit() -> None:
    world = Planned(task="fails_as_well", max_depth=3)
    async with world.planning() as instance:
        await run(instance, "fails")
        await until(lambda: world.events(FollowupSkipped))
        assert instance.runs.n_running == 0
    assert [event.depth for event in world.events(FollowupRequested)] == [1, 2, 3]
    [skipped] = world.events(FollowupSkipped)
    assert (skipped.code, skipped.reason) == ("depth_limit", "3 follow-ups led here; 3 are allowed")


async def test_with_a_limit_of_none_there_is_no_follow_up() -> None:
    world = Planned(max_depth=0)
    async with world.planning() as instance:
        await run(instance, "fails")
    assert [event.code for event in world.events(FollowupSkipped)] == ["depth_limit"]


@pytest.mark.parametrize(("task", "code"), [(None, "planner_off"), ("nothing", "no_task")])
async def test_why_there_is_no_follow_up_is_recorded(task: str | None, code: str) -> None:
    world = Planned(task=task)
    async with world.planning() as instance:
        await run(instance, "fails")
    assert [event.code for event in world.events(FollowupSkipped)] == [code]
    assert len(world.events(RunRequested)) == 1


async def test_a_failed_run_whose_identity_is_missing_gets_none_and_the_planner_goes_on() -> None:
    world = Planned()
    async with world.planning() as instance:
        accepted = await ask(instance, "fails")
        kept, world.vault._raw = world.vault._raw, {}
        await instance.runs.ended(accepted.run_id)
        await until(lambda: world.events(FollowupSkipped))
        world.vault._raw = kept
        await run(instance, "fails")
        await until(lambda: world.events(FollowupRequested))
    assert isinstance(world.vault, MemoryVault)
    assert [event.code for event in world.events(FollowupSkipped)] == ["identity_missing"]


async def test_a_foreign_run_that_failed_gets_a_follow_up_that_runs_as_the_system() -> None:
    world = Planned()
    async with world.planning() as instance:
        await instance.facts.report(report("r1", "error", user_id="alice"), "task_run:m1", None)
        await until(lambda: world.events(RunFinished))
    [planned] = world.events(FollowupRequested)
    assert (planned.failed_task, planned.failed_run_id, planned.depth) == ("theirs", "r1", 1)
    assert world.recorded(RunRequested)[0].user_hash == PSEUDONYMS.user("system")


async def test_a_foreign_run_reported_twice_gets_one_follow_up() -> None:
    world = Planned()
    async with world.planning() as instance:
        for message in ("m1", "m2"):
            await instance.facts.report(report("r1", "error"), f"task_run:{message}", None)
        await instance.facts.report(report("r2", "error"), "task_run:m3", None)
    assert [event.failed_run_id for event in world.events(FollowupRequested)] == ["r1", "r2"]


@pytest.mark.parametrize(("status", "origin"), [("success", None), ("started", None), ("error", "i-other")])
async def test_a_foreign_success_or_what_another_instance_reports_gets_none(status: str, origin: str | None) -> None:
    world = Planned()
    async with world.planning() as instance:
        await instance.facts.report(report("r1", status), "task_run:m1", origin)
    assert world.events(FollowupRequested) == world.events(FollowupSkipped) == []


async def test_after_a_crash_a_follow_up_is_asked_for_exactly_once() -> None:
    world = Planned()
    async with world.planning() as instance:
        await run(instance, "fails")
        await until(lambda: world.events(RunFinished))
        world.crash(instance)
        await idle()
    world.file.checkpoints.clear()  # it never reached the disk
    for _ in range(2):
        async with world.planning():
            pass
    assert len(world.events(FollowupRequested)) == len(world.events(NoteRecorded)) == 1


async def test_a_failure_that_nobody_planned_for_before_the_crash_is_planned_for_after_it() -> None:
    world = Planned()
    async with world.up() as instance:
        await run(instance, "fails")
    async with world.planning():
        await until(lambda: world.events(RunFinished))
    assert len(world.events(FollowupRequested)) == 1


async def test_a_full_disk_only_delays_a_follow_up() -> None:
    world = Planned()
    async with world.planning() as instance:
        accepted = await ask(instance, "fails")
        await until(lambda: world.events(RunFailed))
        instance.log.fail_next = DiskFull("no space")
        await instance.runs.ended(accepted.run_id)
        await until(lambda: world.clock.n_sleeping > 0)  # the planner waits before it tries again
        await world.clock.advance(5.0)
        await until(lambda: world.events(RunFinished))
    assert len(world.events(FollowupRequested)) == 1


async def test_a_full_queue_only_delays_a_follow_up() -> None:
    gate = asyncio.Event()

    class Gated:
        name = "gated"

        async def run(self) -> None:
            await gate.wait()

    world = Planned(Gated, Fails, CapabilityFollowUp, max_concurrent_runs=1, max_queued_runs=1)
    async with world.planning() as instance:
        await run(instance, "fails")
        await until(lambda: world.events(RunFinished))
        await ask(instance, "gated")
        await ask(instance, "gated")
        await instance.facts.report(report("r1", "error"), "task_run:m1", None)
        await idle()
        assert len(world.events(FollowupRequested)) == 1
        gate.set()
        await idle()
        await world.clock.advance(5.0)
        await until(lambda: len(world.events(FollowupRequested)) == 2)


async def test_the_list_of_follow_ups_tells_how_each_stands() -> None:
    world = Planned()
    async with world.planning() as instance:
        failed = await ask(instance, "fails")
        await until(lambda: world.events(RunFinished))
        page = await instance.answers.followups()
    assert [(row.task, row.run_id, row.depth, row.status) for row in page.items] == [
        ("fails", failed.run_id, 1, "success")
    ]


async def test_a_failure_skipped_while_the_planner_was_off_stays_skipped_when_it_is_reported_again() -> None:
    world = Planned()
    on, world.planner = world.planner, Planner(None, 3)
    async with world.planning() as instance:
        await instance.facts.report(report("f-1", "error"), "task_run:1", None)
        await until(lambda: world.events(FollowupSkipped))
    world.planner = on
    async with world.planning() as instance:
        await instance.facts.report(report("f-1", "error"), "task_run:2", None)
        await instance.facts.report(report("f-2", "error"), "task_run:3", None)
        await until(lambda: world.events(FollowupRequested))  # the next one is planned: nothing was stopped
    assert [event.failed_run_id for event in world.events(FollowupRequested)] == ["f-2"]
