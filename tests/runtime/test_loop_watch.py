"""What keeps the loop is recorded as the run's whose code it is, wherever that has put it; and as no other's."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import structlog

from cascadenced.events.system import LoopBlocked
from cascadenced.instance import Instance
from cascadenced.plugins.base import BaseTask
from cascadenced.runtime.alarms import Alarms
from cascadenced.runtime.journey import Journey
from cascadenced.runtime.loop_watch import watch_loop
from cascadenced.runtime.record import LiveRun
from cascadenced.runtime.whose import Work, work
from tests.doubles import World, ask, until
from tests.handlers.test_steps import task

AFTER_S = 0.05


@contextmanager
def watched(instance: Instance) -> Iterator[Callable[[], None]]:
    """Yields what blocks the loop until that is noticed."""
    stop = watch_loop(instance.log, after_s=AFTER_S)
    with structlog.testing.capture_logs() as lines:

        def n_noticed() -> int:
            return sum(line["event"] == "loop_blocked" and "in block" in line["stack"] for line in lines)

        def block() -> None:
            before, until_s = n_noticed(), time.monotonic() + 10
            while n_noticed() == before:
                assert time.monotonic() < until_s
                time.sleep(0.002)

        try:
            yield block
        finally:
            stop()


async def ran(instance: Instance, name: str) -> str:
    """The id of a run that has ended."""
    run_id = (await ask(instance, name)).run_id
    await instance.runs.ended(run_id)
    return run_id


async def recorded(world: World, *, of: str = "in block") -> LoopBlocked:
    """The one blockage by code that the stack shows as `of`; a busy machine may have others."""
    found: list[Any] = []

    def is_there() -> bool:
        found[:] = [event for event in world.events(LoopBlocked) if of in event.where]  # type: ignore[attr-defined]
        return bool(found)

    await until(is_there)
    [blocked] = found
    return blocked


async def in_the_hook(self: Any) -> None:
    self.block()


async def in_a_step(self: Any) -> None:
    async def blocks() -> None:
        self.block()

    await self.step("x", blocks)


async def in_a_plain_step(self: Any) -> None:
    await self.step("x", self.block)


async def in_a_gathered_branch(self: Any) -> None:
    async def branch() -> None:
        await asyncio.sleep(0)
        self.block()

    await asyncio.gather(branch(), asyncio.sleep(0))


async def in_a_branch_of_a_group(self: Any) -> None:
    async def branch() -> None:
        self.block()

    async with asyncio.TaskGroup() as group:
        group.create_task(branch())


async def in_a_step_of_a_branch(self: Any) -> None:
    await asyncio.gather(in_a_step(self))


async def in_a_task_of_any_name(self: Any) -> None:
    async def branch() -> None:
        self.block()

    await asyncio.create_task(branch(), name="run-of-the-mill")


async def in_a_callback(self: Any) -> None:
    called = asyncio.Event()

    def callback() -> None:
        self.block()
        called.set()

    asyncio.get_running_loop().call_later(0, callback)
    await called.wait()


@pytest.mark.parametrize(
    "hook",
    [
        in_the_hook,
        in_a_step,
        in_a_plain_step,
        in_a_gathered_branch,
        in_a_branch_of_a_group,
        in_a_step_of_a_branch,
        in_a_task_of_any_name,
        in_a_callback,
    ],
)
@pytest.mark.parametrize("limits", [{}, {"timeout_s": 3600}], ids=["", "within a time limit"])
async def test_code_of_a_run_that_blocks_is_named(hook: Callable[..., Any], limits: dict[str, Any]) -> None:
    t = task(hook, **limits)
    world = World(t)
    async with world.up() as instance:
        with watched(instance) as block:
            t.block = staticmethod(block)  # type: ignore[attr-defined]
            run_id = await ran(instance, "t")
            blocked = await recorded(world)
    assert (blocked.task, blocked.stage, blocked.run) == ("t", "run", run_id)


async def test_what_a_stage_has_left_behind_is_still_its_own() -> None:
    async def verify(self: Any, result: Any) -> None:
        self.gate.set()
        await self.done.wait()

    async def leaves_something(self: Any) -> None:
        async def late() -> None:
            await self.gate.wait()
            self.block()
            self.done.set()

        self.late = asyncio.create_task(late())

    t: Any = task(leaves_something, verify=verify, gate=asyncio.Event(), done=asyncio.Event())
    world = World(t)
    async with world.up() as instance:
        with watched(instance) as block:
            t.block = staticmethod(block)
            run_id = await ran(instance, "t")
            blocked = await recorded(world)
    assert (blocked.task, blocked.stage, blocked.run) == ("t", "run", run_id)


async def test_a_callback_in_c_stands_in_the_stack_by_its_name() -> None:
    async def hook(self: Any) -> None:
        asyncio.get_running_loop().call_later(0, time.sleep, 10 * AFTER_S)
        await asyncio.sleep(2 * AFTER_S)

    world = World(task(hook))
    async with world.up() as instance:
        with watched(instance):
            run_id = await ran(instance, "t")
            blocked = await recorded(world, of="time.sleep")
    assert (blocked.task, blocked.stage, blocked.run) == ("t", "run", run_id)
    assert blocked.where.endswith("  calls time.sleep\n")


async def test_of_runs_side_by_side_the_one_that_blocks_is_named() -> None:
    gate = asyncio.Event()

    async def waits(self: Any) -> None:
        await asyncio.gather(gate.wait(), self.step("x", gate.wait))

    t: Any = task(in_a_step_of_a_branch)
    world = World(t, task(waits, name="other"))
    async with world.up() as instance:
        with watched(instance) as block:
            t.block = staticmethod(block)
            others = [(await ask(instance, "other")).run_id for _ in range(3)]
            run_id = await ran(instance, "t")
            gate.set()
            for other in others:
                await instance.runs.ended(other)
            blocked = await recorded(world)
    assert (blocked.task, blocked.run) == ("t", run_id)


async def test_a_run_that_another_one_made_room_for_is_named_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    gate, begin = asyncio.Event(), Journey.begin

    async def waits(self: Any) -> None:
        await gate.wait()

    async def does_nothing(self: Any) -> None: ...

    world = World(task(does_nothing), task(waits, name="first"), max_concurrent_runs=1)
    async with world.up() as instance:
        with watched(instance) as block:

            async def begins_slowly(self: Journey, live: LiveRun) -> None:
                block()
                await begin(self, live)

            monkeypatch.setattr(Journey, "begin", begins_slowly)
            first = (await ask(instance, "first")).run_id
            second = (await ask(instance, "t")).run_id
            gate.set()
            await instance.runs.ended(first)
            await instance.runs.ended(second)
            blocked = await recorded(world)
    assert (blocked.task, blocked.run) == ("t", second)


async def test_a_plan_that_is_made_again_for_a_child_is_the_parents() -> None:
    gate = asyncio.Event()

    class Kid(BaseTask):
        name = "kid"

        async def run(self) -> None:
            await gate.wait()

    class Parent(BaseTask):
        name = "parent"
        block: Any = staticmethod(lambda: None)

        def plan(self) -> list[Any]:
            self.block()
            return [Kid()]

    world = World(Parent)
    instance = await world.start()
    parent = (await ask(instance, "parent")).run_id
    await until(lambda: instance.runs.n_running == 1 and instance.runs.n_asleep == 1)
    world.crash(instance)
    gate.set()
    async with world.up(recover=False) as instance:
        with watched(instance) as block:
            Parent.block = staticmethod(block)
            await instance.runs.recover()
            await instance.runs.ended(parent)
            blocked = await recorded(world, of="in plan")
    assert (blocked.task, blocked.stage, blocked.run) == ("parent", "plan", parent)


async def test_what_serves_all_runs_is_not_the_one_that_came_first() -> None:
    async def hook(self: Any) -> None:
        await self.sleep(3600)

    whose: list[Work | None] = []
    world = World(task(hook))
    async with world.up() as instance:
        alarms = Alarms(world.clock, lambda _: whose.append(work.get()))
        run_id = (await ask(instance, "t")).run_id
        await until(lambda: instance.runs.n_asleep == 1)
        live = await instance.runs.find(run_id)
        before = work.set(Work(live))
        alarms.set(run_id, world.clock.monotonic())
        work.reset(before)
        await until(lambda: whose)
    assert whose == [None]
