"""What the predecessor's users may go on relying on, item by item, where no other test says it.

TC 1–26 are in `tests/test_task_pipeline.py`, 27–36 in `test_children.py`, 37–49 in `test_controls.py`.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from cascadenced import ParallelPlan, TaskPipeline
from cascadenced.errors import Conflict, Invalid, RunFailedError, Unknown
from cascadenced.events.audit import AuditRow, audit_rows
from cascadenced.events.outbound import messages
from cascadenced.events.run import RunRefused, RunRequested
from cascadenced.events.task import TaskDisabled, TaskPaused, TaskResumed
from cascadenced.verbs import VERBS, perform
from tests.doubles import ALICE, PSEUDONYMS, World

WHO = {"user_id": "alice", "group_id": "eng"}


class Plain:
    """No stages but `run`."""

    name = "plain"
    run_id: str

    def run(self) -> str:
        return self.run_id


class Guarded:
    name = "guarded"
    passes: Any = True
    calls: list[str] = []

    def precheck(self) -> Any:
        return self.passes

    def run(self) -> str:
        self.calls.append("run")
        return "ran"


class Fails:
    name = "fails"

    def run(self) -> None:
        raise ValueError("boom")


class Parent:
    name = "parent"

    def plan(self) -> Any:
        return ParallelPlan([Plain(), Plain()])


async def do(instance: Any, verb: str, **arguments: Any) -> Any:
    return await perform(VERBS[verb], instance, arguments, via="http")


def rows(world: World) -> list[AuditRow]:
    return [row for event in world.events() for row in audit_rows(event)]


def task_runs(world: World, task: str) -> list[dict[str, Any]]:
    sent = [message for recorded in world.recorded() for message in messages(recorded, "ume", broadcast_pointers=False)]
    return [json.loads(message.body) for message in sent if message.subject == f"ume.task_run.{task}"]


async def test_an_unknown_name_is_told_and_audited() -> None:
    """TC 50: Given an unknown name, when run, then error text is `Unknown task: NAME` and an audit `run`/`error` row
    exists."""
    world = World(Plain)
    async with world.up() as instance:
        with pytest.raises(Unknown, match="^Unknown task: nobody$"):
            await do(instance, "run", task="nobody", **WHO)
    assert [(row.task, row.stage, row.status, row.reason) for row in rows(world)] == [
        ("nobody", "run", "error", "Unknown task: nobody")
    ]


@pytest.mark.parametrize(("switch", "said"), [("disable", "disabled"), ("pause", "paused")])
async def test_a_disabled_or_paused_task_is_refused_with_the_reason(switch: str, said: str) -> None:
    """TC 51: Given a disabled task, then running fails with `Task 'NAME' is disabled`; paused likewise."""
    world = World(Plain)
    async with world.up() as instance:
        await do(instance, switch, task="plain")
        with pytest.raises(Conflict, match=f"^Task 'plain' is {said}$"):
            await do(instance, "run", task="plain", **WHO)
    assert [event.code for event in world.events(RunRefused)] == [said]


@pytest.mark.parametrize("user_id", [None, ""])
async def test_without_a_user_nothing_runs(user_id: Any) -> None:
    """TC 52: Given no user id, then `user_id is required`."""
    world = World(Plain)
    async with world.up() as instance:
        with pytest.raises(Invalid, match="user_id"):
            await do(instance, "run", task="plain", user_id=user_id, group_id="eng")
    assert world.events(RunRequested) == []


async def test_a_task_without_stages_returns_its_result_with_a_run_id_and_sends_one_task_run() -> None:
    """TC 53: Given a task without stages, then its direct `run` result is returned with a run id, and one `TaskRun` is
    emitted with that id."""
    world = World(Plain)
    async with world.up() as instance:
        answer = await do(instance, "run", task="plain", **WHO)
    assert answer.result == answer.run_id
    assert [(sent["run_id"], sent["status"]) for sent in task_runs(world, "plain")] == [(answer.run_id, "success")]


async def test_a_task_with_stages_sends_one_task_run_as_well() -> None:
    """TC 54: Given a pipeline task run by the scheduler, then exactly one `TaskRun` is emitted."""
    world = World(Guarded)
    async with world.up() as instance:
        answer = await do(instance, "run", task="guarded", **WHO)
    assert [sent["run_id"] for sent in task_runs(world, "guarded")] == [answer.run_id]


@pytest.mark.parametrize("passes", [False, "no budget"])
async def test_a_precheck_is_honoured_whoever_starts_the_run(passes: Any) -> None:
    """TC 55: Given only `precheck`+`run`, when run by the scheduler, then precheck is honoured."""
    task = type("Guarded", (Guarded,), {"passes": passes, "calls": []})
    world = World(task)
    async with world.up() as instance:
        with pytest.raises(RunFailedError, match=f"^{passes or 'precheck failed'}$"):
            await do(instance, "run", task="guarded", **WHO)
    assert task.calls == []
    assert [sent["status"] for sent in task_runs(world, "guarded")] == ["error"]


async def test_a_parent_that_only_plans_has_its_subtasks_executed_and_each_sends_its_own_task_run() -> None:
    """TC 56: Given a plan-only parent, when run by the scheduler, then subtasks execute."""
    world = World(Parent)
    async with world.up() as instance:
        answer = await do(instance, "run", task="parent", **WHO)
    assert len(set(answer.result)) == 2
    assert [sent["run_id"] for sent in task_runs(world, "parent")] == [answer.run_id]
    assert sorted(sent["run_id"] for sent in task_runs(world, "Plain") + task_runs(world, "plain")) == sorted(
        answer.result
    )


async def test_switches_leave_audit_rows_with_the_identity_of_whoever_turned_them() -> None:
    """TC 57: Given disable, pause, resume, then audit rows `scheduler`/`disabled|paused|resumed` carry the identity."""
    world = World(Plain)
    async with world.up() as instance:
        for switch in ("disable", "enable", "pause", "resume"):
            await do(instance, switch, task="plain", **WHO)
    assert [(row.stage, row.status) for row in rows(world)] == [
        ("scheduler", "disabled"),
        ("scheduler", "enabled"),
        ("scheduler", "paused"),
        ("scheduler", "resumed"),
    ]
    switched = [r for r in world.recorded() if isinstance(r.event, TaskDisabled | TaskPaused | TaskResumed)]
    assert {(r.user_hash, r.group_hash) for r in switched} == {
        (PSEUDONYMS.user(ALICE.user_id), PSEUDONYMS.group(ALICE.group_id))
    }


async def test_a_disabled_task_stays_disabled_over_restarts_and_new_code() -> None:
    """TC 58: Given a disabled task that is rescheduled or refreshed, then it stays disabled."""
    world = World(Plain)
    async with world.up() as instance:
        await do(instance, "disable", task="plain")
    newer = type("Newer", (Plain,), {"name": "plain", "run": lambda self: "newer"})
    async with world.up(newer) as instance:
        with pytest.raises(Conflict, match="^Task 'plain' is disabled$"):
            await do(instance, "run", task="plain", **WHO)


def test_all_rows_of_a_failed_run_share_its_id_too() -> None:
    """TC 23: Given any run, then all its stage and audit rows share one non-empty run id."""
    pipeline = TaskPipeline(Fails())
    with pytest.raises(ValueError, match="boom"):
        pipeline.run(**WHO)
    assert {recorded.run_id for recorded in pipeline.events} == {pipeline.run_id}
    assert pipeline.run_id


def test_plain_and_async_plans_reach_run_as_values_in_a_script() -> None:
    """TC 13: Given async `plan`, when run synchronously, then the plan value (not a coroutine) reaches `run`."""

    class Planned:
        async def plan(self) -> list[int]:
            return [1, 2]

        def run(self, plan: Any) -> Any:
            return [type(plan).__name__, plan]

    assert TaskPipeline(Planned()).run(**WHO) == ["list", [1, 2]]


def test_an_async_intake_is_over_before_research_begins() -> None:
    """TC 14: Given async `intake`, then it is awaited before research."""
    order: list[str] = []

    class Async:
        async def intake(self) -> None:
            import asyncio

            await asyncio.sleep(0.01)
            order.append("intake")

        def research(self) -> None:
            order.append("research")

        def run(self) -> None: ...

    TaskPipeline(Async()).run(**WHO)
    assert order == ["intake", "research"]
