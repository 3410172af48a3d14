"""Steps and waits: what a stage has behind it is not done again, over crashes, waits and restarts."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cascadenced.clock import SystemClock
from cascadenced.errors import DiskError
from cascadenced.events.run import RunFailed
from cascadenced.events.stage import StageFailed, StageStarted
from cascadenced.events.step import StepFailed, StepFinished, StepStarted
from cascadenced.events.wait import WaitEnded, WaitStarted
from cascadenced.events.workflow import EventDispatched
from cascadenced.handlers import steps as steps_module
from cascadenced.handlers.run_requests import Origin
from cascadenced.identity import Identity
from cascadenced.instance import Instance
from cascadenced.pipeline.policy import Retry
from cascadenced.plugins.base import BaseTask
from cascadenced.runtime.spawn import ThreadSpawner
from cascadenced.workflows import subscribe
from tests.doubles import ALICE, BOB, PSEUDONYMS, World, ask, idle, run, until

HOUR_S = 3600.0


def task(hook: Callable[..., Any], name: str = "t", **attributes: Any) -> type[BaseTask]:
    """A task whose `run` is `hook`, with `calls` for it to note what is really done."""
    return type("T", (BaseTask,), {"name": name, "run": hook, "calls": [], **attributes})


@pytest.fixture
def threads() -> Iterator[ThreadSpawner]:
    spawner = ThreadSpawner(4)
    yield spawner
    spawner.close()


async def asleep(instance: Instance, n: int = 1) -> None:
    await until(lambda: instance.runs.n_asleep == n and instance.runs.n_running == 0)
    await idle(5)


async def dispatch(instance: Instance, name: str, who: Identity = ALICE, **payload: Any) -> None:
    await instance.requests.dispatch(name, payload, who, Origin(via="http"))


class PowerCut(BaseException):
    """What would follow in the code does not happen any more."""


async def crash_in(world: World, monkeypatch: pytest.MonkeyPatch, point: str, name: str = "t", nth: int = 1) -> str:
    """A life that ends by a power cut at the `nth` pass of a crash point. Returns the run's id."""
    died = asyncio.Event()
    instance = await world.start()
    left = nth

    def crashpoint(passed: str) -> None:
        nonlocal left
        left -= passed == point
        if passed == point and left == 0:
            instance.log.die()
            died.set()
            raise PowerCut

    monkeypatch.setattr(steps_module, "crashpoint", crashpoint)
    run_id = (await ask(instance, name)).run_id
    await asyncio.wait_for(died.wait(), 5)
    await idle()
    world.crash(instance)
    await idle()
    monkeypatch.setattr(steps_module, "crashpoint", lambda _: None)
    return run_id


# ── for whom ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def named(self: Any) -> Any:
    await self.step(f"look up {self.user_id}", lambda: 1)
    await self.sleep(HOUR_S)
    return await self.step(f"bill {self.group_id}", self.bill)


def _fail(self: Any) -> None:
    raise ValueError("no")


async def test_the_name_of_a_step_names_nobody_and_is_the_same_one_when_the_stage_runs_again() -> None:
    world, (user, group) = World(task(named, bill=_fail)), (PSEUDONYMS.user("alice"), PSEUDONYMS.group("eng"))
    instance = await world.start()
    run_id = (await ask(instance, "t")).run_id
    await asleep(instance)
    world.crash(instance)
    await world.clock.advance(HOUR_S)
    async with world.up() as instance:
        await instance.runs.ended(run_id)
    assert [e.name for e in world.events(StepFinished)] == [f"look up {user}"]
    assert [e.name for e in world.events(StepFailed)] == [f"bill {group}"]


# ── once ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_step_returns_what_its_function_returns_and_that_is_recorded() -> None:
    async def hook(self: Any) -> Any:
        return [await self.step("plain", lambda: 1), await self.step("async", self.later, 2)]

    async def later(self: Any, n: int) -> int:
        return n

    world = World(task(hook, later=later))
    async with world.up() as instance:
        assert (await run(instance, "t")).run.result == [1, 2]
    assert [(e.place, e.name, e.output, e.stage) for e in world.events(StepFinished)] == [
        ("1", "plain", 1, "run"),
        ("2", "async", 2, "run"),
    ]
    assert world.events(StepStarted) == []  # only who asks for at_most_once pays for it


async def test_a_step_in_a_plain_hook_is_a_plain_call(threads: ThreadSpawner) -> None:
    def hook(self: Any) -> Any:
        return [self.step("one", lambda: 1), self.step("two", int, "2"), threading.current_thread().name]

    world = World(task(hook), spawner=threads, clock=SystemClock())
    async with world.up() as instance:
        one, two, thread = (await run(instance, "t")).run.result
    assert (one, two) == (1, 2)
    assert thread != threading.main_thread().name
    assert [e.name for e in world.events(StepFinished)] == ["one", "two"]


async def test_arguments_and_keywords_reach_the_function() -> None:
    async def hook(self: Any) -> Any:
        return await self.step("s", lambda *args, **kwargs: [args, kwargs], 1, "name", function_="x", n=2)

    async with World(task(hook)).up() as instance:
        assert (await run(instance, "t")).run.result == [[1, "name"], {"function_": "x", "n": 2}]


async def test_what_a_step_returns_is_what_it_will_return_when_it_is_read_back() -> None:
    """Tuples as lists at once, not only after a restart."""

    async def hook(self: Any) -> Any:
        value = await self.step("s", lambda: (1, (2,)))
        return [type(value).__name__, value]

    async with World(task(hook)).up() as instance:
        assert (await run(instance, "t")).run.result == ["list", [1, [2]]]


async def test_what_a_stage_does_to_a_steps_result_does_not_change_what_is_recorded() -> None:
    async def hook(self: Any) -> Any:
        value = await self.step("s", lambda: [1])
        value.append(2)
        await self.sleep(1)
        return value

    world = World(task(hook))
    async with world.up() as instance:
        run_id = (await ask(instance, "t")).run_id
        await asleep(instance)
        await world.clock.advance(1)
        assert (await instance.runs.ended(run_id)).run.result == [1, 2]
    assert [e.output for e in world.events(StepFinished)] == [[1]]


@pytest.mark.parametrize("point", ["step.before_effect", "step.after_effect"])
@pytest.mark.parametrize("is_async", [True, False])
async def test_after_a_crash_only_the_step_that_was_under_way_is_done_again(
    point: str, is_async: bool, threads: ThreadSpawner, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def later(self: Any) -> Any:
        return [await self.step(name, self.do, name) for name in ("one", "two", "three")]

    def plainly(self: Any) -> Any:
        return [self.step(name, self.do, name) for name in ("one", "two", "three")]

    def do(self: Any, name: str) -> str:
        self.calls.append(name)
        return name

    t = task(later if is_async else plainly, do=do)
    world = World(t, spawner=None if is_async else threads)
    run_id = await crash_in(world, monkeypatch, point, nth=2)
    assert [e.name for e in world.events(StepFinished)] == ["one"]
    done_before = list(t.calls)
    assert done_before == (["one"] if point == "step.before_effect" else ["one", "two"])
    async with world.up() as instance:
        assert (await instance.runs.ended(run_id)).run.result == ["one", "two", "three"]
    assert t.calls == [*done_before, "two", "three"]
    assert [e.name for e in world.events(StepFinished)] == ["one", "two", "three"]


async def test_a_result_that_json_cannot_hold_is_the_steps_error_and_the_stages() -> None:
    async def hook(self: Any) -> Any:
        await self.step("s", lambda: {1, 2})

    world = World(task(hook))
    async with world.up() as instance:
        ended = (await run(instance, "t")).run
    assert ended.error_type == "result.unserialisable"
    assert "what the step 's' returned is of type set" in str(ended.reason)
    assert [e.error_type for e in world.events(StepFailed)] == ["result.unserialisable"]


async def test_a_step_that_raises_is_recorded_and_done_again_with_the_stage() -> None:
    async def hook(self: Any) -> Any:
        return await self.step("s", self.flaky)

    def flaky(self: Any) -> int:
        self.calls.append(1)
        if len(self.calls) == 1:
            raise ValueError("not for alice")
        return 7

    t = task(hook, flaky=flaky, retries=Retry(initial_s=0))
    world = World(t)
    async with world.up() as instance:
        assert (await run(instance, "t")).run.result == 7
    [failed] = world.events(StepFailed)
    assert (failed.place, failed.name, failed.error_type) == ("1", "s", "ValueError")
    assert failed.reason == f"not for {PSEUDONYMS.user('alice')}"
    assert [type(e) for e in world.events() if isinstance(e, StepFailed | StepFinished)] == [StepFailed, StepFinished]


async def test_a_stage_may_go_on_after_a_step_that_raised() -> None:
    async def hook(self: Any) -> Any:
        try:
            await self.step("s", [].pop)
        except IndexError:
            return await self.step("other", lambda: "made up for it")

    async with World(task(hook)).up() as instance:
        assert (await run(instance, "t")).run.result == "made up for it"


async def test_steps_of_each_stage_have_their_own_places() -> None:
    async def hook(self: Any) -> Any:
        return await self.step("s", lambda: "run")

    async def plan(self: Any) -> Any:
        return await self.step("s", lambda: "plan")

    world = World(task(hook, plan=plan))
    async with world.up() as instance:
        assert (await run(instance, "t")).run.result == "run"
    assert [(e.stage, e.place) for e in world.events(StepFinished)] == [("plan", "1"), ("run", "1")]


async def test_steps_of_runs_at_once_do_not_get_in_each_others_way() -> None:
    async def hook(self: Any) -> Any:
        return [await self.step(f"s{n}", lambda n=n: [self.user_id, n]) for n in range(3)]

    async with World(task(hook)).up() as instance:
        alice, bob = await asyncio.gather(run(instance, "t", ALICE), run(instance, "t", BOB))
    assert alice.run.result == [["alice", n] for n in range(3)]
    assert bob.run.result == [["bob", n] for n in range(3)]


async def test_a_workflow_may_work_in_steps_and_wait_as_well() -> None:
    calls: list[str] = []

    @subscribe("order.placed")
    async def place(payload: dict[str, Any], step: Any, sleep: Any, wait_for: Any) -> Any:
        receipt = await step("charge", lambda: calls.append("charge") or 7)
        await sleep(HOUR_S)
        return [receipt, await wait_for("order.shipped", where={"n": payload["n"]})]

    world = World(place)
    async with world.up() as instance:
        run_id = (await ask(instance, "workflow.order.placed", args={"n": 1})).run_id
        await asleep(instance)
        await world.clock.advance(HOUR_S)
        await asleep(instance)
        await dispatch(instance, "order.shipped", n=1, by="ship")
        assert (await instance.runs.ended(run_id)).run.result == [7, {"n": 1, "by": "ship"}]
    assert calls == ["charge"]


# ── at the same time ─────────────────────────────────────────────────────────────────────────────────────────────────


async def test_steps_may_be_gathered_and_each_is_recorded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def hook(self: Any) -> Any:
        return await asyncio.gather(*(self.step(f"s{n}", self.later, n) for n in range(5)))

    async def later(self: Any, n: int) -> int:
        self.calls.append(n)
        await asyncio.sleep(0)
        return n

    t = task(hook, later=later)
    world = World(t)
    run_id = await crash_in(world, monkeypatch, "step.after_effect", nth=3)
    async with world.up() as instance:
        assert (await instance.runs.ended(run_id)).run.result == [0, 1, 2, 3, 4]
    finished = world.events(StepFinished)
    assert sorted(e.place for e in finished) == list("12345")
    assert {e.place: e.output for e in finished} == {str(n + 1): n for n in range(5)}


async def test_many_steps_at_once_cost_one_append_each() -> None:
    """They share a version: written side by side, each would make all others decide again."""

    async def hook(self: Any) -> Any:
        return len(await asyncio.gather(*(self.step(f"s{n}", self.later) for n in range(300))))

    async def later(self: Any) -> None:
        await asyncio.sleep(0)

    world = World(task(hook, later=later))
    async with world.up() as instance:
        n_appends = 0
        append = instance.log.append

        def counted(*args: Any, **kwargs: Any) -> Any:
            nonlocal n_appends
            n_appends += 1
            return append(*args, **kwargs)

        instance.log.append = counted  # type: ignore[method-assign]
        assert (await run(instance, "t")).run.result == 300
    assert n_appends < 320


async def test_a_stage_that_waits_lets_steps_that_are_under_way_be_recorded_first() -> None:
    """Else they would be done again, though nothing has crashed."""
    going = asyncio.Event()

    async def hook(self: Any) -> Any:
        return await asyncio.gather(self.step("s", self.later), self.nap())

    async def later(self: Any) -> int:
        self.calls.append("s")
        await going.wait()
        return 1

    async def nap(self: Any) -> int:
        await self.sleep(1)
        return 2

    t = task(hook, later=later, nap=nap, delivery="at_most_once")
    world = World(t)
    async with world.up() as instance:
        run_id = (await ask(instance, "t")).run_id
        await until(lambda: t.calls)
        await idle()
        going.set()
        await asleep(instance)
        await world.clock.advance(1)
        assert (await instance.runs.ended(run_id)).run.result == [1, 2]
    assert t.calls == ["s"]


async def test_a_wait_within_a_task_group_is_a_wait() -> None:
    async def hook(self: Any) -> Any:
        async with asyncio.TaskGroup() as group:
            slept = group.create_task(self.nap())
        return slept.result()

    async def nap(self: Any) -> str:
        await self.sleep(HOUR_S)
        return "slept"

    world = World(task(hook, nap=nap))
    async with world.up() as instance:
        run_id = (await ask(instance, "t")).run_id
        await asleep(instance)
        await world.clock.advance(HOUR_S)
        assert (await instance.runs.ended(run_id)).run.result == "slept"


# ── code that does something else than before ────────────────────────────────────────────────────────────────────────


async def one_two_sleep(self: Any) -> Any:
    await self.step("one", lambda: 1)
    await self.step("two", lambda: 2)
    await self.sleep(10)
    return "done"


async def other_order(self: Any) -> None:
    await self.step("two", lambda: 2)
    await self.step("one", lambda: 1)


async def other_kind(self: Any) -> None:
    await self.step("one", lambda: 1)
    await self.sleep(10)


async def other_event(self: Any) -> None:
    await self.step("one", lambda: 1)
    await self.wait_for("two")


async def ends_early(self: Any) -> str:
    await self.step("one", lambda: 1)
    return "early"


async def swallows_it(self: Any) -> str:
    with contextlib.suppress(Exception):
        await self.step("three", lambda: 1)
    await self.step("two", lambda: 2)
    await self.sleep(10)
    return "went on"


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (other_order, "place 1 was the step 'one', and now the stage asks for the step 'two'"),
        (other_kind, "place 2 was the step 'two', and now the stage asks for a sleep"),
        (other_event, "place 2 was the step 'two', and now the stage asks for a wait for the event 'two'"),
        (ends_early, "place 3 was a sleep, and now the stage ends before it"),
        (swallows_it, "place 1 was the step 'one', and now the stage asks for the step 'three'"),
    ],
)
async def test_code_that_asks_for_something_else_than_before_is_stopped_and_not_tried_again(
    now: Any, said: str
) -> None:
    world = World(task(one_two_sleep))
    instance = await world.start()
    run_id = (await ask(instance, "t")).run_id
    await asleep(instance)
    world.crash(instance)
    await world.clock.advance(10)
    async with world.up(task(now, retries=Retry(max_attempts=5, initial_s=0))) as instance:
        ended = await instance.runs.ended(run_id)
    assert (ended.run.status, ended.run.error_type) == ("error", "step.mismatch")
    assert said in str(ended.run.reason)
    assert "to have the stage done from its start, fork the run from it" in str(ended.run.reason)
    assert [e.retry_at_us for e in world.events(StageFailed)] == [None]


async def test_code_may_do_more_at_the_end_than_before() -> None:
    async def hook(self: Any) -> Any:
        await one_two_sleep(self)
        return await self.step("four", lambda: 4)

    world = World(task(one_two_sleep))
    instance = await world.start()
    run_id = (await ask(instance, "t")).run_id
    await asleep(instance)
    world.crash(instance)
    await world.clock.advance(10)
    async with world.up(task(hook)) as instance:
        assert (await instance.runs.ended(run_id)).run.result == 4


async def test_a_step_within_a_step_is_refused_at_once() -> None:
    """Its place would be gone when the outer one is handed its recorded result."""

    async def hook(self: Any) -> Any:
        return await self.step("outer", self.outer)

    async def outer(self: Any) -> Any:
        return await self.step("inner", lambda: 1)

    async with World(task(hook, outer=outer)).up() as instance:
        ended = await run(instance, "t")
    assert ended.run.status == "error"
    assert "the step 'inner' cannot be taken within another one" in str(ended.run.reason)


async def test_a_step_within_a_step_of_a_plain_hook_is_refused_as_well(threads: ThreadSpawner) -> None:
    def hook(self: Any) -> Any:
        return self.step("outer", lambda: self.step("inner", lambda: 1))

    async with World(task(hook), spawner=threads, clock=SystemClock()).up() as instance:
        ended = await run(instance, "t")
    assert "cannot be taken within another one" in str(ended.run.reason)


@pytest.mark.parametrize("name", ["", 7, None, "x" * 201, "line\nbreak", b"bytes"])
async def test_a_name_that_is_none_is_refused(name: Any) -> None:
    async def hook(self: Any) -> Any:
        await self.step(name, lambda: 1)

    async with World(task(hook)).up() as instance:
        ended = await run(instance, "t")
    assert "the name of a step is 1 to 200 printable characters" in str(ended.run.reason)


async def test_a_stage_has_so_many_steps_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps_module, "MAX_PLACES", 10)

    async def hook(self: Any) -> Any:
        for n in range(11):
            await self.step(f"s{n}", lambda: 1)

    world = World(task(hook))
    async with world.up() as instance:
        ended = await run(instance, "t")
    assert "a stage has at most 10 steps and waits" in str(ended.run.reason)
    assert len(world.events(StepFinished)) == 10


async def test_a_log_that_fails_during_a_step_is_not_the_tasks_error() -> None:
    async def hook(self: Any) -> Any:
        await self.step("s", self.break_the_log)

    async def break_the_log(self: Any) -> None:
        instance.log.fail_next = DiskError("the disk is gone")

    world = World(task(hook, break_the_log=break_the_log))
    instance = await world.start()
    run_id = (await ask(instance, "t")).run_id
    await until(lambda: not instance.runs._drives)
    assert world.events(RunFailed) == world.events(StageFailed) == []
    await instance.log.close()
    async with world.up(task(one_two_sleep)) as instance:
        await asleep(instance)
    assert len(world.events(StageStarted, run_id=run_id)) == 2


# ── sleeping ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def sleepy(self: Any) -> str:
    self.calls.append("before")
    await self.sleep(HOUR_S)
    self.calls.append("after")
    return "slept"


@pytest.mark.parametrize("is_async", [True, False])
async def test_a_sleeping_run_holds_nothing_and_goes_on_when_its_time_has_come(is_async: bool) -> None:
    def plainly(self: Any) -> str:
        self.calls.append("before")
        self.sleep(HOUR_S)
        self.calls.append("after")
        return "slept"

    t = task(sleepy if is_async else plainly)
    world = World(t)
    async with world.up() as instance:
        run_id = (await ask(instance, "t")).run_id
        await asleep(instance)
        assert (await instance.answers.run(run_id)).status == "waiting"
        assert (instance.runs._live, instance.runs._drives) == ({}, set())
        await world.clock.advance(HOUR_S - 1)
        await idle()
        assert t.calls == ["before"]
        await world.clock.advance(1)
        assert (await instance.runs.ended(run_id)).run.result == "slept"
    assert t.calls == ["before", "before", "after"]
    [started], [ended] = world.events(WaitStarted), world.events(WaitEnded)
    assert (started.kind, started.place, ended.outcome) == ("sleep", "1", "elapsed")
    assert len(world.events(StageStarted)) == 1


async def test_a_sleep_goes_on_over_restarts() -> None:
    world = World(task(sleepy))
    instance = await world.start()
    run_id = (await ask(instance, "t")).run_id
    await asleep(instance)
    for _ in range(3):
        await world.clock.advance(HOUR_S / 4)
        world.crash(instance)
        instance = await world.start()
        await asleep(instance)
    await world.clock.advance(HOUR_S / 4 - 1)
    await idle()
    assert world.events(WaitEnded) == []
    await world.clock.advance(1)
    assert (await instance.runs.ended(run_id)).run.result == "slept"
    await instance.log.close()


async def test_a_sleep_that_ended_while_the_daemon_was_down_is_over_at_the_start() -> None:
    world = World(task(sleepy))
    instance = await world.start()
    run_id = (await ask(instance, "t")).run_id
    await asleep(instance)
    world.crash(instance)
    await world.clock.advance(10 * HOUR_S)
    async with world.up() as instance:
        assert (await instance.runs.ended(run_id)).run.result == "slept"


async def test_a_clock_that_is_set_back_makes_a_sleep_no_shorter() -> None:
    world = World(task(sleepy))
    async with world.up() as instance:
        run_id = (await ask(instance, "t")).run_id
        await asleep(instance)
        world.clock.jump(-HOUR_S)
        await world.clock.advance(HOUR_S)
        await idle()
        assert world.events(WaitEnded) == []
        await asleep(instance)
        await world.clock.advance(HOUR_S)
        assert (await instance.runs.ended(run_id)).run.result == "slept"


async def test_a_clock_that_is_set_forward_makes_a_sleep_no_longer() -> None:
    world = World(task(sleepy))
    async with world.up() as instance:
        run_id = (await ask(instance, "t")).run_id
        await asleep(instance)
        world.clock.jump(HOUR_S)
        await world.clock.advance(HOUR_S)
        assert (await instance.runs.ended(run_id)).run.result == "slept"


async def test_a_sleep_of_no_time_is_over_at_once() -> None:
    async def hook(self: Any) -> str:
        await self.sleep(0)
        return "slept"

    async with World(task(hook)).up() as instance:
        assert (await run(instance, "t")).run.result == "slept"


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf"), "1", None, True, 1e12])
async def test_a_time_that_is_none_is_refused(seconds: Any) -> None:
    async def hook(self: Any) -> None:
        await self.sleep(seconds)

    world = World(task(hook))
    async with world.up() as instance:
        assert "sleep() takes a number of seconds from 0 to" in str((await run(instance, "t")).run.reason)
    assert world.events(WaitStarted) == []


@pytest.mark.parametrize("is_async", [True, False])
async def test_a_hook_that_catches_what_unwinds_it_fails_saying_so(is_async: bool, threads: ThreadSpawner) -> None:
    async def later(self: Any) -> str:
        with contextlib.suppress(BaseException):
            await self.sleep(1)
        return "went on"

    def plainly(self: Any) -> str:
        with contextlib.suppress(BaseException):
            self.sleep(1)
        return "went on"

    t = task(later if is_async else plainly, retries=Retry(max_attempts=3, initial_s=0))
    world = World(t, spawner=threads)
    async with world.up() as instance:
        ended = await run(instance, "t")
    assert ended.run.error_type == "suspension.swallowed"
    assert "caught what unwinds it" in str(ended.run.reason)
    assert len(world.events(StageStarted)) == 1


async def test_what_a_hook_catches_as_exceptions_does_not_catch_a_wait() -> None:
    async def hook(self: Any) -> str:
        try:
            await self.sleep(1)
        except Exception:
            return "swallowed"
        return "slept"

    world = World(task(hook))
    async with world.up() as instance:
        run_id = (await ask(instance, "t")).run_id
        await asleep(instance)
        await world.clock.advance(1)
        assert (await instance.runs.ended(run_id)).run.result == "slept"


async def test_a_thousand_sleeping_runs_cost_little_memory_and_no_thread_or_task_each() -> None:
    world = World(task(sleepy), max_queued_runs=10_000)
    async with world.up() as instance:
        await ask(instance, "t")
        await asleep(instance)
        n_threads, n_tasks = threading.active_count(), len(asyncio.all_tasks())
        log_bytes = _bytes_of_the_log(world)
        tracemalloc.start()
        try:
            for _ in range(1_000):
                await ask(instance, "t")
            await asleep(instance, 1_001)
            grown = tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
        # The double keeps the log in memory as well; what a file would hold is none of the runs' cost.
        assert grown - (_bytes_of_the_log(world) - log_bytes) < 10 * 1024 * 1024
        assert threading.active_count() == n_threads
        assert len(asyncio.all_tasks()) - n_tasks < 10


def _bytes_of_the_log(world: World) -> int:
    """At least: two copies of the data, in the list and in SQL."""
    return sum(2 * (len(recorded.data) + 600) for recorded in world.file.events)


# ── waiting for an event ─────────────────────────────────────────────────────────────────────────────────────────────


async def waits(self: Any) -> Any:
    return await self.wait_for("paid", timeout_s=60, where={"n": 7})


async def listening(instance: Instance) -> str:
    """A run of `t` that waits."""
    run_id = (await ask(instance, "t")).run_id
    await asleep(instance)
    return run_id


async def test_a_run_goes_on_with_the_event_it_waits_for() -> None:
    world = World(task(waits))
    async with world.up() as instance:
        run_id = await listening(instance)
        await dispatch(instance, "paid", n=7, by="card")
        assert (await instance.runs.ended(run_id)).run.result == {"n": 7, "by": "card"}
    [ended] = world.events(WaitEnded)
    [dispatched] = world.recorded(EventDispatched)
    assert (ended.outcome, ended.position) == ("event", dispatched.position)


async def test_events_of_other_names_values_and_groups_are_not_for_it() -> None:
    world = World(task(waits))
    async with world.up() as instance:
        run_id = await listening(instance)
        await dispatch(instance, "payed", n=7)
        await dispatch(instance, "paid", n=8)
        await dispatch(instance, "paid", m=7)
        await dispatch(instance, "paid", n="7")
        await dispatch(instance, "paid", n=[7])
        await dispatch(instance, "paid", BOB, n=7)
        await idle()
        assert (await instance.answers.run(run_id)).status == "waiting"
        await dispatch(instance, "paid", Identity("carol", ALICE.group_id), n=7)  # of the same group
        assert (await instance.runs.ended(run_id)).run.result == {"n": 7}


@pytest.mark.parametrize(("wanted", "others"), [(1, [True, "1", 2]), (False, [0, None]), ({"a": [1]}, [{"a": [True]}])])
async def test_what_an_event_must_hold_is_compared_as_json_has_it(wanted: Any, others: list[Any]) -> None:
    async def hook(self: Any) -> Any:
        return (await self.wait_for("paid", where={"n": wanted}))["by"]

    async with World(task(hook)).up() as instance:
        run_id = await listening(instance)
        for other in others:
            await dispatch(instance, "paid", n=other, by="another")
        await idle()
        explained = await instance.answers.explain(
            run_id, limit=1, policy=lambda _: None, is_up=True, now_us=instance.clock.now_us()
        )
        assert not explained.reasons[0].is_over
        await dispatch(instance, "paid", n=wanted, by="the one")
        assert (await instance.runs.ended(run_id)).run.result == "the one"


async def test_a_number_is_the_same_however_it_is_written() -> None:
    async with World(task(waits)).up() as instance:
        run_id = await listening(instance)
        await dispatch(instance, "paid", n=7.0)
        assert (await instance.runs.ended(run_id)).run.result == {"n": 7.0}


async def test_an_event_that_came_before_the_wait_began_but_after_the_run_did_is_found() -> None:
    going = asyncio.Event()

    async def hook(self: Any) -> Any:
        await going.wait()
        return await self.wait_for("paid")

    async with World(task(hook)).up() as instance:
        run_id = (await ask(instance, "t")).run_id
        await dispatch(instance, "paid", n=7)
        going.set()
        assert (await instance.runs.ended(run_id)).run.result == {"n": 7}


async def test_an_event_that_came_before_the_run_did_is_not_for_it() -> None:
    async with World(task(waits)).up() as instance:
        await dispatch(instance, "paid", n=7)
        run_id = await listening(instance)
        await idle()
        assert (await instance.answers.run(run_id)).status == "waiting"


async def test_an_event_that_came_while_the_daemon_was_down_is_found_at_the_start() -> None:
    world = World(task(waits))
    instance = await world.start()
    run_id = await listening(instance)
    await instance.runs.stop(0)
    await dispatch(instance, "paid", n=7)  # recorded, and nobody goes on
    world.crash(instance)
    async with world.up() as instance:
        assert (await instance.runs.ended(run_id)).run.result == {"n": 7}


async def test_an_event_that_is_committed_while_the_run_falls_asleep_is_not_missed() -> None:
    """At every turn of the loop between its start and its sleep."""
    for turns in range(24):
        async with World(task(waits)).up() as instance:
            run_id = (await ask(instance, "t")).run_id
            await idle(turns)
            await dispatch(instance, "paid", n=7)
            assert (await asyncio.wait_for(instance.runs.ended(run_id), 5)).run.result == {"n": 7}, turns


async def test_an_event_in_the_same_commit_as_the_wait_is_not_missed() -> None:
    world = World(task(waits))
    async with world.up() as instance:
        append = instance.log.append
        sent: list[asyncio.Task[None]] = []

        def with_an_event(changes: Any, **options: Any) -> Any:
            if any(isinstance(event, WaitStarted) for change in changes for event in change.events) and not sent:
                sent.append(asyncio.create_task(dispatch(instance, "paid", n=7)))
            return append(changes, **options)

        instance.log.append = with_an_event  # type: ignore[method-assign]
        run_id = (await ask(instance, "t")).run_id
        assert (await asyncio.wait_for(instance.runs.ended(run_id), 5)).run.result == {"n": 7}


async def test_two_waits_for_the_same_name_are_handed_successive_events() -> None:
    async def hook(self: Any) -> Any:
        return [(await self.wait_for("paid"))["n"], (await self.wait_for("paid"))["n"]]

    async def verify(self: Any, result: Any) -> Any:
        return [*result, (await self.wait_for("paid"))["n"]]

    async with World(task(hook, verify=verify)).up() as instance:
        run_id = await listening(instance)
        for n in (1, 2, 3, 4):
            await dispatch(instance, "paid", n=n)
        assert (await instance.runs.ended(run_id)).run.result == [1, 2, 3]


async def test_an_event_that_another_wait_passed_over_is_found_by_the_one_it_is_for() -> None:
    async def hook(self: Any) -> Any:
        wheres: list[dict[str, Any]] = [{"n": 3}, {"n": 1}, {}, {"n": 4}, {}]
        return [(await self.wait_for("paid", where=where))["n"] for where in wheres]

    async with World(task(hook)).up() as instance:
        run_id = await listening(instance)
        for n in (1, 2, 3, 4, 5):
            await dispatch(instance, "paid", n=n)
        assert (await asyncio.wait_for(instance.runs.ended(run_id), 5)).run.result == [3, 1, 2, 4, 5]


async def test_an_event_that_a_wait_passed_over_is_known_to_have_come() -> None:
    going = asyncio.Event()

    async def hook(self: Any) -> Any:
        await self.wait_for("paid", where={"n": 2})
        await self.step("go on", going.wait)
        return await self.wait_for("paid", where={"n": 1})

    async with World(task(hook)).up() as instance:
        run_id = await listening(instance)
        await dispatch(instance, "paid", n=1)
        await dispatch(instance, "paid", n=2)
        await idle()
        await instance.controls.pause(run_id, by=None)
        going.set()
        await idle()
        explained = await instance.answers.explain(
            run_id, limit=1, policy=lambda _: None, is_up=True, now_us=instance.clock.now_us()
        )
        assert [reason.is_over for reason in explained.reasons] == [False, True]
        await instance.controls.resume(run_id, by=None)
        assert (await instance.runs.ended(run_id)).run.result == {"n": 1}


async def test_one_event_wakes_every_run_that_waits_for_it() -> None:
    async with World(task(waits)).up() as instance:
        run_ids = [(await ask(instance, "t")).run_id for _ in range(20)]
        await asleep(instance, 20)
        await dispatch(instance, "paid", n=7)
        for run_id in run_ids:
            assert (await instance.runs.ended(run_id)).run.result == {"n": 7}


async def test_a_wait_that_took_too_long_raises_a_timeout_error() -> None:
    async def hook(self: Any) -> str:
        try:
            await self.wait_for("paid", timeout_s=60)
        except TimeoutError as error:
            return str(error)
        return "paid"

    world = World(task(hook))
    async with world.up() as instance:
        run_id = await listening(instance)
        await world.clock.advance(59)
        await idle()
        assert world.events(WaitEnded) == []
        await world.clock.advance(1)
        assert (await instance.runs.ended(run_id)).run.result == "no event 'paid' came within 60 s"
    assert [e.outcome for e in world.events(WaitEnded)] == ["timeout"]


async def test_a_timeout_that_nobody_catches_is_the_stages_error() -> None:
    world = World(task(waits))
    async with world.up() as instance:
        run_id = await listening(instance)
        await world.clock.advance(60)
        assert (await instance.runs.ended(run_id)).run.error_type == "TimeoutError"


async def test_a_time_limit_is_kept_over_restarts() -> None:
    world = World(task(waits))
    instance = await world.start()
    run_id = await listening(instance)
    await world.clock.advance(40)
    world.crash(instance)
    async with world.up() as instance:
        await asleep(instance)
        await world.clock.advance(20)
        assert (await instance.runs.ended(run_id)).run.error_type == "TimeoutError"


async def test_events_that_are_not_the_right_one_do_not_prolong_the_wait() -> None:
    world = World(task(waits))
    async with world.up() as instance:
        run_id = await listening(instance)
        for n in range(3):
            await world.clock.advance(20)
            await dispatch(instance, "paid", n=n)
            await idle()
        assert (await instance.runs.ended(run_id)).run.error_type == "TimeoutError"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("",), "event"),
        (("two words",), "event"),
        ((7,), ""),
        (("paid", -1), "timeout_s must be a number of seconds"),
        (("paid", "soon"), "timeout_s must be a number of seconds"),
        (("paid", None, [1]), "where must be a dict"),
        (("paid", None, {"n": {1}}), "JSON"),
    ],
    ids=str,
)
async def test_a_wait_that_makes_no_sense_is_the_stages_error(arguments: Any, said: str) -> None:
    async def hook(self: Any) -> None:
        await self.wait_for(*arguments)

    world = World(task(hook))
    async with world.up() as instance:
        ended = await run(instance, "t")
    assert ended.run.status == "error"
    assert said in str(ended.run.reason)
    assert world.events(WaitStarted) == []


async def test_a_paused_run_whose_event_has_come_sleeps_on_until_it_is_resumed() -> None:
    async with World(task(waits)).up() as instance:
        run_id = await listening(instance)
        await instance.controls.pause(run_id, by=None)
        await dispatch(instance, "paid", n=7)
        await idle()
        n_woken = 0
        wake = instance.runs._sleepers._wake

        def counted(*args: Any) -> None:
            nonlocal n_woken
            n_woken += 1
            wake(*args)

        instance.runs._sleepers._wake = counted
        await idle(200)
        assert n_woken == 0
        await instance.controls.resume(run_id, by=None)
        assert (await instance.runs.ended(run_id)).run.result == {"n": 7}
