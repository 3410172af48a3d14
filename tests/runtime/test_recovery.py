"""What the crash sweep has found, each in its smallest form: runs go on after a crash as if there had been none."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from cascadenced import BaseTask
from cascadenced.clock import Clock
from cascadenced.eventlog.memory import MemoryEventLog
from cascadenced.events.base import Context
from cascadenced.events.child import ChildRequested, Planned
from cascadenced.events.run import RunDoubted, RunPaused, RunRequested
from cascadenced.events.stage import StageFinished, StageStarted
from cascadenced.ids import RunId
from cascadenced.pipeline.model import fold
from cascadenced.pipeline.policy import Retry
from cascadenced.plugins.describe import describe_once
from cascadenced.runtime.children import Children
from cascadenced.runtime.record import LiveRun
from cascadenced.runtime.tasks import TaskEntry
from tests.doubles import World, ask, idle, until
from tests.examples import example


class Child(BaseTask):
    name = "child"

    async def run(self) -> str:
        await self.sleep(60)
        return f"done for {self.user_id}"


class Family(BaseTask):
    name = "family"

    def plan(self) -> list[Child]:
        return [Child()]

    def run(self, results: list[str]) -> list[str]:
        return results


async def test_the_children_of_a_plan_go_on_after_a_crash() -> None:
    world = World(Family)
    first = await world.start()
    run_id = (await ask(first, "family")).run_id
    await until(lambda: first.runs.n_asleep == 2)
    world.crash(first)
    async with world.up() as second:
        await until(lambda: second.runs.n_asleep == 2)
        await world.clock.advance(61)
        ended = await second.runs.ended(run_id)
        assert (ended.run.status, ended.run.result) == ("success", ["done for alice"]), ended.run.reason


class Counting(BaseTask):
    name = "counting"
    n_counted = 0

    async def plan(self) -> list[Child]:
        return [Child() for _ in range(await self.step("counted", self.count))]

    async def count(self) -> int:
        Counting.n_counted += 1
        return 2


async def test_a_plan_that_is_made_again_is_handed_the_steps_it_has_behind_it() -> None:
    Counting.n_counted = 0
    world = World(Counting)
    first = await world.start()
    run_id = (await ask(first, "counting")).run_id
    await until(lambda: first.runs.n_asleep == 2)
    world.crash(first)
    async with world.up() as second:
        await until(lambda: second.runs.n_asleep == 2)
        await world.clock.advance(61)
        await until(lambda: second.runs.n_asleep == 2)
        await world.clock.advance(61)
        ended = await second.runs.ended(run_id)
        assert ended.run.status == "success", ended.run.reason
    assert Counting.n_counted == 1


async def test_code_whose_attempt_is_over_does_no_further_step() -> None:
    class Tardy(BaseTask):
        name, timeout_s = "tardy", 5
        said: str = ""

        async def run(self) -> None:
            with suppress(asyncio.CancelledError):  # it goes on though nobody waits for it
                await asyncio.sleep(3600)
            await asyncio.sleep(0.3)
            try:
                await self.step("late", self.late)
            except BaseException as error:
                Tardy.said = type(error).__name__

        async def late(self) -> None:
            Tardy.said = "done"

    world = World(Tardy)
    async with world.up() as instance:
        run_id = (await ask(instance, "tardy")).run_id
        await idle()
        await world.clock.advance(6)
        assert (await instance.runs.ended(run_id)).run.error_type == "timeout"
        async with asyncio.timeout(5):
            while not Tardy.said:
                await asyncio.sleep(0.01)
    assert Tardy.said == "Superseded"


class Careful(BaseTask):
    name, delivery = "careful", "at_most_once"
    done: list[str] = []
    hangs_in = ""

    async def intake(self) -> str:
        Careful.done.append("intake")
        if Careful.hangs_in == "intake":
            await asyncio.Event().wait()
        return "it came in"

    async def run(self) -> str:
        return await self.step("paid", self.pay)

    async def pay(self) -> str:
        Careful.done.append("paid")
        if Careful.hangs_in == "paid":
            await asyncio.Event().wait()
        return "paid"


async def in_doubt(world: World, *, about: str) -> str:
    """A run whose process died while it did what `about` says."""
    Careful.done, Careful.hangs_in = [], about
    instance = await world.start()
    run_id = (await ask(instance, "careful")).run_id
    await until(lambda: about in Careful.done)
    world.crash(instance)
    Careful.done, Careful.hangs_in = [], ""
    return run_id


@pytest.mark.parametrize(
    ("about", "resolution", "done"),
    [
        ("intake", "retry", ["intake", "paid"]),
        ("intake", "done", ["paid"]),
        ("paid", "retry", ["paid"]),
        ("paid", "done", []),
    ],
)
async def test_a_doubt_that_is_settled_is_over(about: str, resolution: str, done: list[str]) -> None:
    world = World(Careful)
    run_id = await in_doubt(world, about=about)
    async with world.up() as instance:
        await until(lambda: instance.runs.n_asleep == 1)
        await instance.controls.resolve(run_id, resolution, by=None, output="it was done")
        await idle(300)
        assert (await instance.answers.run(run_id)).status == "success"
    assert Careful.done == done
    starts = [(event.stage, event.attempt) for event in world.events(StageStarted, run_id=run_id)]
    assert len(starts) == len(set(starts))
    assert len(world.events(RunDoubted, run_id=run_id)) == 1


class Timed(Careful):
    name, timeout_s, on_doubt = "timed", 5, "fail"


class TimedAgain(Timed):
    name, on_doubt = "timed_again", "retry"


@pytest.mark.parametrize(("task", "status"), [("timed", "error"), ("timed_again", "success")])
async def test_the_policy_settles_what_a_time_limit_leaves_in_doubt(task: str, status: str) -> None:
    Careful.done, Careful.hangs_in = [], "intake"
    world = World(Timed, TimedAgain)
    async with world.up() as instance:
        run_id = (await ask(instance, task)).run_id
        await until(lambda: Careful.done)
        Careful.hangs_in = ""
        await world.clock.advance(6)
        async with asyncio.timeout(5):
            assert (await instance.runs.ended(run_id)).run.status == status


async def test_a_parent_that_is_paused_just_before_it_asks_for_its_children_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(Family)
    async with world.up() as instance:
        really_ask = instance.runs._children.ask

        async def ask_late(live: LiveRun, clock: Clock) -> list[LiveRun]:
            await instance.controls.pause(live.run_id, by=None)
            return await really_ask(live, clock)

        monkeypatch.setattr(instance.runs._children, "ask", ask_late)
        run_id = (await ask(instance, "family")).run_id
        await until(lambda: world.events(RunPaused, run_id=run_id))
        await idle(300)
        assert world.events(ChildRequested, run_id=run_id) == []
        monkeypatch.undo()
        await instance.controls.resume(run_id, by=None)
        await until(lambda: instance.runs.n_asleep == 2)
        await world.clock.advance(61)
        assert (await instance.runs.ended(run_id)).run.status == "success"


@pytest.mark.parametrize("turns", range(6))
async def test_a_child_that_is_cancelled_just_when_it_wakes_has_ended_for_its_parent_too(turns: int) -> None:
    """The cancellation is recorded by what reads the log beside the child, which is being read as well."""
    world = World(Family)
    async with world.up() as instance:
        parent = (await ask(instance, "family")).run_id
        await until(lambda: instance.runs.n_asleep == 2)
        [requested] = world.events(ChildRequested, run_id=parent)
        child = requested.child_run_id
        cancelling = asyncio.create_task(instance.controls.cancel(child, via="cli", by=None))
        await idle(turns)
        instance.runs._sleepers.rouse(child)
        await cancelling
        async with asyncio.timeout(5):
            assert (await instance.runs.ended(child)).run.status == "cancelled"
            assert (await instance.runs.ended(parent)).run.status == "error"


@pytest.mark.parametrize("turns", range(8))
async def test_a_run_that_is_paused_just_when_a_restart_finds_it_does_nothing(turns: int) -> None:
    world = World(Careful)
    run_id = await in_doubt(world, about="intake")
    async with world.up(recover=False) as instance:
        await instance.runs.recover()
        await idle(turns)
        await instance.controls.pause(run_id, by=None)
        await idle(300)
        assert Careful.done == []
        await instance.controls.resume(run_id, by=None)
        await idle(300)
        assert (await instance.answers.run(run_id)).status == "in_doubt"
    assert Careful.done == []


async def test_a_child_that_ends_while_its_plan_is_made_again_is_no_error() -> None:
    """As the run in the middle of a plan within a plan does, when it is cancelled while its own child is looked at."""
    child, parent = LiveRun(RunId("c"), Context()), LiveRun(RunId("p"), Context())
    child.run = fold([example(RunRequested, task="child", parent_run_id="p")])
    planned = example(StageFinished, stage="plan", children=(Planned("child", Child.__qualname__),))
    asked = ChildRequested(task="family", index=0, child_task="child", child_run_id="c")
    parent.run = fold([example(RunRequested), planned, asked])

    class Perform:
        async def plan_again(self, live: LiveRun, retry: Retry) -> list[TaskEntry]:
            children.ended(child)
            return [describe_once(Child())]

    async def find(live: LiveRun) -> bool:
        live.entry = describe_once(Child())
        return True

    async def rest(delay_s: float) -> bool:
        return True

    children = Children(MemoryEventLog, Perform())  # type: ignore[arg-type]
    found = await children.entry_of(child, parent, find, rest)
    assert isinstance(found, TaskEntry)
