"""Steps and waits of asyncio tasks that a stage has started: each finds its own again, whatever is faster this time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from cascadenced.clock import SystemClock
from cascadenced.errors import Superseded
from cascadenced.events.run import RunDoubted
from cascadenced.events.stage import StageStarted
from cascadenced.events.step import StepFinished, StepStarted
from cascadenced.events.wait import WaitEnded, WaitStarted
from cascadenced.handlers.replay import Replay, replay
from cascadenced.instance import Instance
from cascadenced.pipeline.policy import Retry
from cascadenced.pipeline.run_diff import diff
from cascadenced.plugins.base import BaseTask
from cascadenced.plugins.describe import describe
from cascadenced.runtime.spawn import InlineSpawner
from tests.doubles import World, ask, idle, run, until
from tests.handlers.test_steps import HOUR_S, asleep, crash_in, dispatch, task


async def gathered(self: Any) -> Any:
    found = await asyncio.gather(*(self.branch(name) for name in "abc"))
    await self.sleep(HOUR_S)
    return found


async def grouped(self: Any) -> Any:
    async with asyncio.TaskGroup() as group:
        branches = [group.create_task(self.branch(name)) for name in "abc"]
    await self.sleep(HOUR_S)
    return [branch.result() for branch in branches]


async def created(self: Any) -> Any:
    branches = [asyncio.create_task(self.branch(name)) for name in "abc"]
    found = [await branch for branch in reversed(branches)]
    await self.sleep(HOUR_S)
    return found[::-1]


async def two_steps(self: Any, name: str) -> Any:
    """All branches give their steps the same names: only the place tells them apart."""
    return [await self.step("first", self.work, f"{name}1"), await self.step("second", self.work, f"{name}2")]


RESULT = [["a1", "a2"], ["b1", "b2"], ["c1", "c2"]]


def working(hook: Callable[..., Any], branch: Callable[..., Any] = two_steps, **attributes: Any) -> Any:
    """A task whose steps end when the test says so: `gates`, by what they work at."""

    async def work(self: Any, what: str) -> str:
        self.calls.append(what)
        gate = self.gates.get(what)
        if gate is not None:
            await gate.wait()
        return what

    return task(hook, branch=branch, work=work, gates={}, **attributes)


async def waits_over(world: World, instance: Instance, n: int) -> None:
    """Let an hour pass when the run has gone to sleep after its first `n` sleeps."""
    await until(lambda: len(world.events(WaitStarted)) == n + 1)
    await asleep(instance)
    await world.clock.advance(HOUR_S)


def places(world: World) -> list[str]:
    return sorted(f"{event.place} {event.name}" for event in world.events(StepFinished))


async def again(world: World, t: type[BaseTask]) -> Replay:
    events = [event for event in world.recorded() if event.stream.startswith("run-")]
    return await asyncio.wait_for(replay(events, describe(t), clock=SystemClock(), spawner=InlineSpawner()), 10)


# ── whatever was faster ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("hook", [gathered, grouped, created])
@pytest.mark.parametrize("order", ["abc", "cba", "bca"])
async def test_branches_that_ended_in_another_order_are_handed_their_own_results(hook: Any, order: str) -> None:
    t = working(hook)
    t.gates = {f"{name}1": asyncio.Event() for name in "abc"}
    world = World(t)
    async with world.up() as instance:
        run_id = (await ask(instance, "t")).run_id
        await until(lambda: len(t.calls) == 3)
        for n, name in enumerate(order):
            t.gates[f"{name}1"].set()
            await until(lambda n=n: len(world.events(StepFinished)) == 2 * n + 2)  # its second as well
        await asleep(instance)
        await world.clock.advance(HOUR_S)
        assert (await instance.runs.ended(run_id)).run.result == RESULT
    assert sorted(t.calls) == ["a1", "a2", "b1", "b2", "c1", "c2"]
    assert places(world) == [f"{n}:{m} {name}" for n in (1, 2, 3) for m, name in ((1, "first"), (2, "second"))]
    assert (await again(world, t)).divergence is None


@pytest.mark.parametrize("nth", range(1, 7))
@pytest.mark.parametrize("slow", "abc")
async def test_after_a_crash_branches_go_on_where_each_of_them_was(
    slow: str, nth: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def branch(self: Any, name: str) -> Any:
        return [await self.step("first", self.later, f"{name}1"), await self.step("second", self.later, f"{name}2")]

    async def later(self: Any, what: str) -> str:
        self.calls.append(what)
        for _ in range(20 if what[0] == self.slow else 1):
            await asyncio.sleep(0)
        return what

    t = task(gathered, branch=branch, later=later, slow=slow, delivery="at_least_once")
    world = World(t)
    run_id = await crash_in(world, monkeypatch, "step.after_effect", nth=nth)
    recorded = len(world.events(StepFinished))
    t.slow = "abc"[("abc".index(slow) + 1) % 3]  # another one is slow now
    t.calls.clear()
    async with world.up() as instance:
        await asleep(instance)
        await world.clock.advance(HOUR_S)
        assert (await instance.runs.ended(run_id)).run.result == RESULT
    assert len(t.calls) == 6 - recorded
    assert len(places(world)) == len(set(places(world))) == 6


async def test_gatherings_within_branches_are_branches_of_those() -> None:
    async def branch(self: Any, name: str) -> Any:
        before = await self.step("before", self.work, f"{name}0")
        return [before, *await asyncio.gather(self.leaf(f"{name}1"), self.leaf(f"{name}2"))]

    async def leaf(self: Any, what: str) -> Any:
        return await self.step("leaf", self.work, what)

    t = working(gathered, branch, leaf=leaf)
    t.gates = {"a0": asyncio.Event(), "b1": asyncio.Event()}
    world = World(t)
    async with world.up() as instance:
        run_id = (await ask(instance, "t")).run_id
        await until(lambda: "c2" in t.calls)
        t.gates["b1"].set()
        t.gates["a0"].set()
        await asleep(instance)
        await world.clock.advance(HOUR_S)
        ended = await instance.runs.ended(run_id)
    assert ended.run.result == [[f"{name}{n}" for n in range(3)] for name in "abc"]
    assert len(t.calls) == 9
    assert places(world) == sorted(
        place for n in (1, 2, 3) for place in (f"{n}:1 before", f"{n}.1:1 leaf", f"{n}.2:1 leaf")
    )


async def test_steps_that_the_stage_itself_asks_for_have_its_own_places() -> None:
    async def hook(self: Any) -> Any:
        one = await self.step("one", self.work, "1")
        side = asyncio.create_task(self.branch("a"))
        two, three = await asyncio.gather(self.step("two", self.work, "2"), self.step("three", self.work, "3"))
        return [one, two, three, await side, await self.step("four", self.work, "4")]

    world = World(working(hook))
    async with world.up() as instance:
        assert (await run(instance, "t")).run.result == ["1", "2", "3", ["a1", "a2"], "4"]
    assert places(world) == ["1 one", "1:1 first", "1:2 second", "2 two", "3 three", "4 four"]


async def test_branches_of_another_attempt_are_numbered_anew() -> None:
    async def hook(self: Any) -> Any:
        found = await asyncio.gather(*(self.branch(name) for name in "abc"))
        await self.step("fails once", self.fail)
        return found

    def fail(self: Any) -> None:
        if self.calls.count("fail") == 0:
            self.calls.append("fail")
            raise ValueError("once")

    world = World(working(hook, fail=fail, retries=Retry(max_attempts=2, initial_s=0)))
    async with world.up() as instance:
        assert (await run(instance, "t")).run.result == RESULT
    assert len(world.events(StageStarted)) == 2
    assert (await again(world, world.tasks[0])).divergence is None


# ── waits in branches ────────────────────────────────────────────────────────────────────────────────────────────────


async def naps(self: Any, name: str) -> Any:
    before = await self.step("before", self.work, f"{name}1")
    await self.sleep(HOUR_S)
    return [before, await self.step("after", self.work, f"{name}2")]


@pytest.mark.parametrize("hook", [gathered, grouped])
@pytest.mark.parametrize("delivery", ["at_least_once", "at_most_once"])
async def test_branches_may_wait_and_no_step_of_the_others_is_done_twice(hook: Any, delivery: str) -> None:
    """One wait at a time: each unwinds the whole stage."""
    t = working(hook, naps, delivery=delivery)
    world = World(t)
    async with world.up() as instance:
        run_id = (await ask(instance, "t")).run_id
        for n in range(4):
            await waits_over(world, instance, n)
        assert (await asyncio.wait_for(instance.runs.ended(run_id), 5)).run.result == RESULT
    assert sorted(t.calls) == ["a1", "a2", "b1", "b2", "c1", "c2"]
    assert {event.place for event in world.events(WaitEnded)} == {"1:2", "2:2", "3:2", "1"}
    assert (await again(world, t)).divergence is None


@pytest.mark.parametrize("hook", [gathered, grouped])
async def test_a_wait_lets_a_slow_step_of_another_branch_end_first(hook: Any) -> None:
    """A task group would cut it off, and with at_most_once it would then be in doubt."""

    async def branch(self: Any, name: str) -> Any:
        if name == "b":
            await self.sleep(HOUR_S)
        return [await self.step("first", self.work, f"{name}1"), await self.step("second", self.work, f"{name}2")]

    t = working(hook, branch, delivery="at_most_once")
    t.gates = {"a1": asyncio.Event()}
    world = World(t)
    async with world.up() as instance:
        run_id = (await ask(instance, "t")).run_id
        await until(lambda: t.calls)
        await idle()
        assert world.events(WaitStarted) == []
        t.gates["a1"].set()
        for n in range(2):
            await waits_over(world, instance, n)
        assert (await asyncio.wait_for(instance.runs.ended(run_id), 5)).run.result == RESULT
    assert sorted(t.calls) == ["a1", "a2", "b1", "b2", "c1", "c2"]


async def test_a_wait_deep_down_stops_the_branches_above_it_at_their_next_steps() -> None:
    """Their way out is the shorter one, and what they leave the stage with is no error."""

    async def hook(self: Any) -> Any:
        return await asyncio.gather(asyncio.gather(asyncio.gather(self.nap())), self.branch("a"))

    async def nap(self: Any) -> str:
        await self.sleep(HOUR_S)
        return "slept"

    async def branch(self: Any, name: str) -> Any:
        return [name, await self.step("one", self.work, name)]

    t = working(hook, branch, nap=nap)
    world = World(t)
    async with world.up() as instance:
        run_id = (await ask(instance, "t")).run_id
        await waits_over(world, instance, 0)
        assert (await asyncio.wait_for(instance.runs.ended(run_id), 5)).run.result == [[["slept"]], ["a", "a"]]
    assert t.calls == ["a"]


async def test_a_branch_that_fails_beside_one_that_waits_is_the_stages_error() -> None:
    async def hook(self: Any) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self.nap())
            group.create_task(self.fails())

    async def nap(self: Any) -> None:
        await self.sleep(HOUR_S)

    async def fails(self: Any) -> None:
        try:
            await asyncio.sleep(HOUR_S)
        finally:
            raise ValueError("when it was cancelled")

    world = World(task(hook, nap=nap, fails=fails))
    async with world.up() as instance:
        ended = await run(instance, "t")
    assert ended.run.error_type == "ExceptionGroup"
    assert world.events(WaitStarted) == []


async def test_a_branch_may_wait_for_an_event_and_another_one_for_the_next() -> None:
    async def hook(self: Any) -> Any:
        return await asyncio.gather(self.branch("a"), self.branch("b"))

    async def branch(self: Any, name: str) -> Any:
        return [name, (await self.wait_for("paid"))["n"]]

    world = World(working(hook, branch))
    async with world.up() as instance:
        run_id = (await ask(instance, "t")).run_id
        await asleep(instance)
        await dispatch(instance, "paid", n=1)
        await until(lambda: len(world.events(WaitStarted)) == 2)
        await dispatch(instance, "paid", n=2)
        assert (await asyncio.wait_for(instance.runs.ended(run_id), 5)).run.result == [["a", 1], ["b", 2]]


# ── code that does something else than before ────────────────────────────────────────────────────────────────────────


async def second_naps(self: Any) -> Any:
    await asyncio.gather(self.branch("a"), self.branch("b"))
    await self.sleep(HOUR_S)


async def second_is_gone(self: Any) -> Any:
    await asyncio.gather(self.branch("a"))
    await self.sleep(HOUR_S)


async def one_is_new(self: Any) -> Any:
    await asyncio.gather(self.branch("new"), self.branch("a"), self.branch("b"))


async def one_step(self: Any, name: str) -> Any:
    return await self.step(name, self.work, name)


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (second_is_gone, "place 1 of branch 2 was the step 'b', and now the stage ends before it"),
        (one_is_new, "place 1 of branch 1 was the step 'a', and now the stage asks for the step 'new'"),
    ],
)
async def test_a_branch_that_is_gone_or_new_is_named(now: Any, said: str) -> None:
    world = World(working(second_naps, one_step))
    instance = await world.start()
    run_id = (await ask(instance, "t")).run_id
    await asleep(instance)
    world.crash(instance)
    async with world.up(working(now, one_step)) as instance:
        await asleep(instance)
        await world.clock.advance(HOUR_S)
        ended = await instance.runs.ended(run_id)
    assert ended.run.error_type == "step.mismatch"
    assert said in ended.run.reason


async def test_a_branch_that_the_stage_leaves_behind_comes_to_no_more_steps() -> None:
    """Else the next attempt would be made beside it."""
    left: list[Exception] = []

    async def hook(self: Any) -> Any:
        await asyncio.gather(self.branch("a"), self.fails())

    async def branch(self: Any, name: str) -> Any:
        await self.step("first", self.work, "a1")
        try:
            await self.step("second", self.work, "a2")
        except Superseded as error:
            left.append(error)

    async def fails(self: Any) -> None:
        raise ValueError("at once")

    t = working(hook, branch, fails=fails)
    t.gates = {"a1": asyncio.Event()}
    world = World(t)
    async with world.up() as instance:
        run_id = (await ask(instance, "t")).run_id
        await until(lambda: t.calls)
        await idle()
        t.gates["a1"].set()
        assert (await instance.runs.ended(run_id)).run.error_type == "ValueError"
    assert t.calls == ["a1"]
    assert len(world.events(StepFinished)) == 1
    assert "what it left behind takes no more steps" in str(left[0])


async def test_tasks_that_start_tasks_without_end_are_stopped() -> None:
    async def hook(self: Any) -> Any:
        await self.branch("a")

    async def branch(self: Any, name: str) -> Any:
        await self.step("down", self.work, name)
        await asyncio.create_task(self.branch(name))

    world = World(working(hook, branch))
    async with world.up() as instance:
        ended = await run(instance, "t")
    assert "nested too deeply" in ended.run.reason


# ── what is said of them ─────────────────────────────────────────────────────────────────────────────────────────────


async def failing(self: Any, name: str) -> Any:
    """b fails when a has come to its first step, and c to nothing."""
    if name == "b":
        await self.step("fails", self.fail)
    return await two_steps(self, name)


def fail(self: Any) -> None:
    raise ValueError("it fails")


@pytest.mark.parametrize("hook", [gathered, grouped])
async def test_a_replay_lets_no_branch_run_ahead_of_the_one_that_ended_the_stage(hook: Any) -> None:
    t = working(hook, failing, fail=fail)
    t.gates = {"a1": asyncio.Event(), "c1": asyncio.Event()}
    world = World(t)
    async with world.up() as instance:
        run_id = (await ask(instance, "t")).run_id
        await until(lambda: "a1" in t.calls)
        await idle()
        t.gates["a1"].set()
        t.gates["c1"].set()
        await instance.runs.ended(run_id)
    assert (await again(world, t)).divergence is None


async def test_a_replay_of_a_branch_that_is_new_names_its_place() -> None:
    async def fails(self: Any, name: str) -> Any:
        await self.step("one", self.fail)

    async def hook(self: Any) -> Any:
        await asyncio.gather(*(self.branch(name) for name in self.names))

    t = working(hook, fails, fail=fail, names="ab")
    world = World(t)
    async with world.up() as instance:
        await run(instance, "t")

    async def swallows(self: Any, name: str) -> Any:
        try:
            await self.step("one", self.fail)
        except ValueError:
            await self.step("other", lambda: None)

    found = (await again(world, working(hook, swallows, fail=fail, names="ab"))).divergence
    assert found is not None
    assert (found.place, found.expected, found.got) == ("1:2", "nothing more before the end", "the step 'other'")


async def test_runs_with_branches_are_compared_place_by_place() -> None:
    streams = []

    async def hook(self: Any) -> Any:
        await asyncio.gather(*(self.branch(name) for name in self.names))

    for names in ("ab", "ax"):
        world = World(working(hook, one_step, names=names))
        async with world.up() as instance:
            await run(instance, "t")
        streams.append([event for event in world.recorded() if event.stream.startswith("run-")])
    [found] = diff(*streams).differences
    assert (found.what, found.place, found.left, found.right) == ("asked", "2:1", "step b", "step x")


async def test_what_a_branch_waits_for_and_what_of_it_is_in_doubt_is_told_with_the_branch() -> None:
    async def branch(self: Any, name: str) -> Any:
        await self.step(name, self.work, name)
        if name == "b":
            await self.sleep(HOUR_S)

    t = working(gathered, branch, delivery="at_most_once")
    world = World(t)
    async with world.up() as instance:
        run_id = (await ask(instance, "t")).run_id
        await asleep(instance)
        assert "(place 2 of branch 2)" in (await explained(instance, run_id))
        view = await instance.answers.run(run_id)
        [stage] = [stage for stage in view.stages if stage.stage == "run"]
        assert [(step.place, step.name) for step in stage.steps] == [
            ("1:1", "a"), ("2:1", "b"), ("2:2", ""), ("3:1", "c")
        ]  # fmt: skip

    t = working(gathered, one_step, delivery="at_most_once")
    t.gates = {"b": asyncio.Event()}
    world = World(t)
    instance = await world.start()
    run_id = (await ask(instance, "t")).run_id
    await until(lambda: len(world.events(StepStarted)) == 3 and len(world.events(StepFinished)) == 2)
    world.crash(instance)
    async with world.up() as instance:
        await until(lambda: world.events(RunDoubted))
        await idle()
        assert "the step b (place 1 of branch 2 of the stage run, attempt 1)" in (await explained(instance, run_id))
        t.gates["b"].set()
        await instance.controls.resolve(run_id, "done", by=None, output="found")
        await asleep(instance)
        await world.clock.advance(HOUR_S)
        assert (await instance.runs.ended(run_id)).run.result == ["a", "found", "c"]


async def explained(instance: Instance, run_id: str) -> str:
    told = await instance.answers.explain(run_id, limit=1, policy=lambda _: None, is_up=True, now_us=0)
    return str(told.reasons[0].text)
