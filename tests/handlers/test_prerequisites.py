"""Tasks that must have run before another: once each, in order, through every door."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from cascadenced.errors import Invalid
from cascadenced.events.base import Context
from cascadenced.events.run import RunFailed, RunRefused, RunRequested
from cascadenced.events.task import TaskRejected
from cascadenced.plugins.base import BaseTask
from cascadenced.verbs import VERBS, perform
from tests.doubles import ALICE, World, ask, run, until

WHO = {"user_id": "alice", "group_id": "eng"}
SEEN: list[str] = []
GATES: dict[str, asyncio.Event] = {}
FAILING: set[str] = set()


def task(name: str, *dependencies: str) -> type:
    async def run(self: Any) -> str:
        SEEN.append(f"{name} begins")
        if name in GATES:
            await GATES[name].wait()
        if name in FAILING:
            raise ValueError("boom")
        SEEN.append(f"{name} ends")
        return name

    return type(name.upper(), (BaseTask,), {"name": name, "dependencies": list(dependencies), "run": run})


@pytest.fixture(autouse=True)
def fresh() -> None:
    SEEN.clear()
    GATES.clear()
    FAILING.clear()


def diamond() -> World:
    return World(task("a", "b", "c"), task("b", "c"), task("c"))


def ended() -> list[str]:
    return [seen.removesuffix(" ends") for seen in SEEN if seen.endswith(" ends")]


async def test_they_run_before_it_each_once() -> None:
    """TC 86"""
    async with diamond().up() as instance:
        assert (await run(instance, "a")).run.result == "a"
    assert ended() == ["c", "b", "a"]


@pytest.mark.parametrize("via", ["cli", "http", "bus"])
async def test_through_every_door(via: str) -> None:
    """TC 89"""
    async with diamond().up() as instance:
        done = await perform(VERBS["run"], instance, {**WHO, "task": "a"}, via=via)
        assert (done.status, done.result) == ("success", "a")
    assert ended() == ["c", "b", "a"]


async def test_and_by_the_clock() -> None:
    world = diamond()
    async with world.up() as instance:
        await instance.schedules.set("a", "* * * * *", via="cli", who=ALICE)
        ticks = asyncio.create_task(instance.ticks.run())
        await until(lambda: len(instance.ticks.ticker) == 1)
        await world.clock.advance(60)  # type: ignore[attr-defined]
        await until(lambda: ended() == ["c", "b", "a"])
        ticks.cancel()
        await asyncio.wait({ticks})
    assert {event.via for event in world.events(RunRequested)} == {"schedule", "dependency"}


async def test_they_run_for_whom_it_runs() -> None:
    world = diamond()
    async with world.up() as instance:
        await run(instance, "a")
    assert len({recorded.user_hash for recorded in world.recorded(RunRequested)}) == 1


async def test_branches_that_do_not_need_each_other_run_side_by_side() -> None:
    GATES.update(b=asyncio.Event(), c=asyncio.Event())
    async with World(task("a", "b", "c"), task("b"), task("c")).up() as instance:
        accepted = await ask(instance, "a")
        await until(lambda: len(SEEN) == 2)
        assert sorted(SEEN) == ["b begins", "c begins"]
        GATES["c"].set()
        await until(lambda: ended() == ["c"])
        GATES["b"].set()
        await instance.runs.ended(accepted.run_id)
    assert ended() == ["c", "b", "a"]


async def test_if_one_fails_what_comes_after_it_is_refused_and_says_so() -> None:
    FAILING.add("c")
    world = World(task("a", "b", "d"), task("b", "c"), task("c"), task("d"))
    async with world.up() as instance:
        found = (await run(instance, "a")).run
        assert found.status == "refused"
    assert ended() == ["d"]
    [failed] = world.recorded(RunFailed)
    why = f"the task c, which must have run before, did not succeed (error); its run is {failed.run_id}"
    assert [(event.task, event.code, event.reason) for event in world.events(RunRefused)] == [
        ("b", "prerequisite_failed", why),
        ("a", "prerequisite_failed", why),
    ]


@pytest.mark.parametrize("switch", ["disable", "pause"])
async def test_so_it_is_if_one_takes_no_runs(switch: Any) -> None:
    world = diamond()
    async with world.up() as instance:
        await instance.tasks.switch("c", switch, Context())
        assert (await run(instance, "a")).run.status == "refused"
    assert SEEN == []


async def test_and_if_there_is_no_such_task() -> None:
    world = World(task("a", "nobody"))
    async with world.up() as instance:
        assert (await run(instance, "a")).run.status == "refused"
    unknown, refused = world.events(RunRefused)
    assert (unknown.code, refused.code) == ("unknown_task", "prerequisite_failed")
    assert "did not succeed (refused: Unknown task: nobody); its run is " in refused.reason


async def test_a_task_that_takes_no_runs_itself_starts_none_of_them() -> None:
    world = diamond()
    async with world.up() as instance:
        await instance.tasks.switch("a", "disable", Context())
        assert (await run(instance, "a")).run.status == "refused"
    assert [event.task for event in world.events(RunRequested)] == ["a"]


async def test_tasks_that_need_themselves_are_rejected_with_the_way_round() -> None:
    """TC 87"""
    world = World(task("a", "b"), task("b", "a"), task("c"))
    async with world.up() as instance:
        assert instance.tasks.names() == ["c"]
    assert {event.reason for event in world.events(TaskRejected)} == {
        "Cyclic dependency detected: a -> b -> a",
        "Cyclic dependency detected: b -> a -> b",
    }


async def test_a_schedule_may_name_them_and_they_are_kept_over_a_restart() -> None:
    """TC 88"""
    world = World(task("a"), task("b"))
    async with world.up() as instance:
        await instance.schedules.set("a", {"expr": "0 9 * * *", "deps": ["b"]}, via="file")
        with pytest.raises(Invalid, match="^Cyclic dependency detected: b -> a -> b$"):
            await instance.schedules.set("b", {"expr": "0 9 * * *", "deps": ["a"]}, via="file")
    async with world.up() as instance:
        await run(instance, "a")
        assert ended() == ["b", "a"]
        await instance.schedules.remove("a", by=Context())
        SEEN.clear()
        await run(instance, "a")
        assert ended() == ["a"]


async def test_a_crash_while_one_of_them_is_under_way_loses_nothing_and_repeats_no_end() -> None:
    GATES["b"] = asyncio.Event()
    world = diamond()
    async with world.up() as instance:
        accepted = await ask(instance, "a")
        await until(lambda: "b begins" in SEEN)
        world.crash(instance)
    GATES["b"] = asyncio.Event()
    GATES["b"].set()
    async with world.up() as instance:
        assert (await instance.runs.ended(accepted.run_id)).run.result == "a"
    assert ended() == ["c", "b", "a"]


async def test_the_same_wish_asked_twice_asks_for_them_once() -> None:
    world = diamond()
    async with world.up() as instance:
        for _ in range(2):
            await perform(VERBS["run"], instance, {**WHO, "task": "a", "idempotency_key": "k"}, via="http")
    assert ended() == ["c", "b", "a"]


async def test_a_run_that_waits_for_others_can_be_cancelled() -> None:
    GATES["c"] = asyncio.Event()
    async with diamond().up() as instance:
        accepted = await ask(instance, "a")
        await until(lambda: "c begins" in SEEN)
        await instance.controls.cancel(accepted.run_id, via="cli", by=None)
        assert (await instance.runs.ended(accepted.run_id)).run.status == "cancelled"
        GATES["c"].set()
        await until(lambda: ended() == ["c", "b"])
    assert ended() == ["c", "b"]


async def test_a_run_that_waits_for_others_says_so_and_names_those_that_are_not_done() -> None:
    GATES["b"] = asyncio.Event()
    world = diamond()
    async with world.up() as instance:
        accepted = await ask(instance, "a")
        await until(lambda: "b begins" in SEEN and instance.runs.n_running == 1)
        [reason] = (await perform(VERBS["explain"], instance, {"run": accepted.run_id})).reasons
        b, c = (run_of(world, task) for task in "bc")
        assert (
            reason.text == f"it starts after the runs that it requires have succeeded, 1 of 2 have: b is running ({b})"
        )
        assert [(each.run_id, each.status) for each in reason.required] == [(b, "running"), (c, "success")]
        assert reason.remedies == [f"cascadenced explain {b}"]
        [row] = (await perform(VERBS["runs"], instance, {"task": "a"})).items
        assert (row.status, row.waits_for.text) == ("queued", "the runs that must come before it")
        assert (await perform(VERBS["show"], instance, {"run": accepted.run_id})).waits_for == row.waits_for
        GATES["b"].set()
        await instance.runs.ended(accepted.run_id)


async def test_what_has_them_behind_it_waits_for_a_slot_like_others() -> None:
    GATES["c"] = asyncio.Event()
    async with World(task("b", "c"), task("c")).up() as instance:
        accepted = await ask(instance, "b")
        await until(lambda: "c begins" in SEEN and instance.runs.n_running == 1)
        instance.runs.limit(0, 10)
        GATES["c"].set()
        await until(lambda: instance.runs.n_queued == 1 and instance.runs.n_running == 0)
        [reason] = (await perform(VERBS["explain"], instance, {"run": accepted.run_id})).reasons
        assert (reason.code, reason.queue.place, reason.queue.n_running) == ("queued", 1, 0)
        assert (await perform(VERBS["show"], instance, {"run": accepted.run_id})).waits_for is None
        instance.runs.limit(1, 10)
        await instance.runs.ended(accepted.run_id)


def run_of(world: World, task: str) -> str | None:
    [run_id] = [recorded.run_id for recorded in world.recorded(RunRequested) if recorded.event.task == task]  # type: ignore[attr-defined]
    return run_id


async def test_the_graph_is_told() -> None:
    async with diamond().up() as instance:
        found = await perform(VERBS["graph"], instance, {"task": "a"})
    assert list(found.order) == ["c", "b", "a"]
