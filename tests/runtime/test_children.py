"""Plans of tasks: asked for, performed, brought back; over crashes, pauses, failures and cancellations."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from cascadenced import ParallelPlan, TaskPipeline
from cascadenced.clock import SystemClock
from cascadenced.errors import Conflict
from cascadenced.eventlog.base import Change, Receipt
from cascadenced.events.child import ChildEnded, ChildRequested
from cascadenced.events.run import (
    RunCancelled,
    RunFailed,
    RunFinished,
    RunPaused,
    RunRequested,
    RunResumed,
    RunStarted,
)
from cascadenced.events.stage import StageFailed, StageFinished, StageStarted
from cascadenced.events.wait import WaitStarted
from cascadenced.pipeline.nesting import MAX_ABOVE_ITSELF, MAX_NESTING
from cascadenced.pipeline.policy import Retry
from cascadenced.plugins.base import BaseTask
from cascadenced.runtime.spawn import ThreadSpawner
from tests.doubles import ALICE, PSEUDONYMS, World, ask, idle, run, until

WHO = {"user_id": "alice", "group_id": "eng"}


class Kid:
    """Returns its number."""

    def __init__(self, n: Any = 0) -> None:
        self.n = n

    def run(self) -> Any:
        return self.n


class LateKid(Kid):
    async def run(self) -> Any:
        await asyncio.sleep(0)
        return self.n


class BadKid(Kid):
    def run(self) -> Any:
        raise ValueError(f"no {self.n} for alice")


class Gate:
    """A kid that waits at a gate. begun: their numbers, in every life."""

    gates: dict[int, asyncio.Event]
    begun: list[int]

    def __init__(self, n: int) -> None:
        self.n = n

    async def run(self) -> int:
        self.begun.append(self.n)
        await self.gates[self.n].wait()
        return self.n


@pytest.fixture
def gate() -> type[Gate]:
    gates = {n: asyncio.Event() for n in range(5)}
    return type("Gate", (Gate,), {"gates": gates, "begun": [], "__qualname__": "Gate"})


def parent(plan: Callable[[], Any], name: str = "parent", **attributes: Any) -> type:
    """A task that plans, and returns what its children returned."""
    return type(
        "Parent", (), {"name": name, "plan": lambda self: plan(), "run": lambda _, results: results, **attributes}
    )


def plan_only(plan: Callable[[], Any], **attributes: Any) -> type:
    cls = parent(plan, **attributes)
    del cls.run
    return cls


def of_kids(world: World) -> list[Any]:
    return [r for r in world.recorded(RunRequested) if r.event.parent_run_id is not None]  # type: ignore[attr-defined]


# ── what they return ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("cls", [Kid, LateKid])
async def test_a_list_of_tasks_is_run_first_and_run_receives_what_they_returned_in_order(cls: Any) -> None:
    """TC 28: Given a plan list and parent `run(results)`, then it receives the ordered list."""
    async with World(parent(lambda: [cls(1), cls(2), cls(3)])).up() as instance:
        assert (await run(instance, "parent")).run.result == [1, 2, 3]


async def test_without_a_run_hook_verify_receives_the_results_in_order() -> None:
    """TC 27: Given a plan list of two children and no parent `run`, then verify receives both results in order."""
    world = World(plan_only(lambda: [Kid(1), Kid(2)], verify=lambda self, results: ["verified", *results]))
    async with world.up() as instance:
        assert (await run(instance, "parent")).run.result == ["verified", 1, 2]


async def test_a_parent_that_only_plans_returns_what_its_children_returned() -> None:
    """TC 56: Given a plan-only parent, when run by the scheduler, then subtasks execute."""
    async with World(plan_only(lambda: [Kid(1), Kid(2)])).up() as instance:
        ended = await run(instance, "parent")
    assert (ended.run.status, ended.run.result) == ("success", [1, 2])


@pytest.mark.parametrize(
    "plan",
    [
        lambda: ParallelPlan([LateKid(1), Kid(2), LateKid(3)]),
        lambda: {"execution": "parallel", "tasks": [LateKid(1), Kid(2), LateKid(3)]},
    ],
    ids=["ParallelPlan", "dict"],
)
async def test_a_parallel_plan_gives_its_results_in_the_order_of_its_tasks(plan: Any) -> None:
    """TC 31, 33: Given a parallel dict or `ParallelPlan`, then results match input order; run receives a list."""
    async with World(parent(plan)).up() as instance:
        assert (await run(instance, "parent")).run.result == [1, 2, 3]


def test_plain_and_async_children_may_be_mixed_in_sync_and_async_callers_alike() -> None:
    """TC 29: Given a list mixing sync and async children, then all results are values."""

    async def in_a_loop() -> Any:
        return await TaskPipeline(parent(lambda: [Kid(1), LateKid(2), Kid(3)])).run(**WHO)

    assert TaskPipeline(parent(lambda: [Kid(1), LateKid(2), Kid(3)])).run(**WHO) == [1, 2, 3]
    assert asyncio.run(in_a_loop()) == [1, 2, 3]


def test_a_ready_pipeline_in_a_plan_is_executed_like_a_task() -> None:
    """TC 30: Given a plan list containing a ready pipeline object, then it is executed like a task."""
    assert TaskPipeline(parent(lambda: [TaskPipeline(Kid(1)), Kid(2), TaskPipeline(Kid)])).run(**WHO) == [1, 2, 0]


async def test_classes_objects_and_plans_within_plans_may_be_mixed() -> None:
    plan = [Kid, Kid(1), [Kid(2), LateKid(3)], ParallelPlan([Kid(4), [Kid(5)]]), Kid(6)]
    async with World(parent(lambda: plan)).up() as instance:
        assert (await run(instance, "parent")).run.result == [0, 1, [2, 3], [4, [5]], 6]


def test_plain_children_of_a_parallel_plan_really_overlap() -> None:
    """TC 32: Given two sync children in parallel, then both are in `run` at once: each waits there for the other."""
    both = threading.Barrier(2, timeout=30)

    class Meets(Kid):
        def run(self) -> int:
            both.wait()
            return 1

    assert TaskPipeline(parent(lambda: ParallelPlan([Meets(), Meets()]))).run(**WHO) == [1, 1]


async def test_children_of_a_list_never_overlap(gate: type[Gate]) -> None:
    async with World(parent(lambda: [gate(1), gate(2)])).up() as instance:
        run_id = (await ask(instance, "parent")).run_id
        await until(lambda: gate.begun == [1])
        await idle()
        assert gate.begun == [1]
        gate.gates[1].set()
        await until(lambda: gate.begun == [1, 2])
        gate.gates[2].set()
        assert (await instance.runs.ended(run_id)).run.result == [1, 2]


EMPTY = pytest.mark.parametrize(
    "plan",
    [list, lambda: ParallelPlan([]), lambda: {"execution": "parallel", "tasks": []}],
    ids=["list", "parallel", "dict"],
)


@EMPTY
async def test_an_empty_plan_hands_run_an_empty_list(plan: Any) -> None:
    async with World(parent(plan)).up() as instance:
        assert (await run(instance, "parent")).run.result == []


@EMPTY
async def test_a_parent_that_only_plans_and_finds_nothing_to_do_returns_an_empty_list(plan: Any) -> None:
    world = World(plan_only(plan))
    async with world.up() as instance:
        ended = await run(instance, "parent")
    assert (ended.run.status, ended.run.result) == ("success", [])
    assert of_kids(world) == world.events(WaitStarted) == []


@EMPTY
async def test_verify_receives_what_an_empty_plan_returned(plan: Any) -> None:
    async with World(plan_only(plan, verify=lambda self, results: ["verified", *results])).up() as instance:
        assert (await run(instance, "parent")).run.result == ["verified"]


async def test_a_crash_after_an_empty_plan_leaves_nothing_to_plan_again() -> None:
    planned: list[int] = []
    world = World(plan_only(lambda: planned.append(1) or []))
    instance = await world.start()
    run_id = (await ask(instance, "parent")).run_id
    await until(lambda: any(event.stage == "plan" for event in world.events(StageFinished)))  # type: ignore[attr-defined]
    world.crash(instance)
    async with world.up() as instance:
        assert (await instance.runs.ended(run_id)).run.result == []
    assert planned == [1]


@pytest.mark.parametrize("data", [["a"], [[]], {}, None, 0, ""])
async def test_data_that_nobody_is_handed_is_an_error_and_no_empty_plan(data: Any) -> None:
    async with World(plan_only(lambda: data)).up() as instance:
        ended = await run(instance, "parent")
    assert ended.run.error_type == "hook.missing"


@pytest.mark.parametrize("data", [["a", "b"], [{"n": 1}], {"execution": "parallel"}, ("a",), 7, "text", None])
async def test_what_holds_no_tasks_is_data(data: Any) -> None:
    """TC 34: Given a plan that is a list of strings, then it is passed to `run` as data, not executed as tasks."""
    world = World(parent(lambda: data))
    async with world.up() as instance:
        result = (await run(instance, "parent")).run.result
    assert result == (list(data) if isinstance(data, tuple) else data)
    assert of_kids(world) == []


async def test_an_optional_planner_module_plans_for_tasks_that_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    """TC 36: Given the optional planner module and no `plan` hook, then its result becomes the plan."""
    planner = ModuleType("ai_plan")
    planner.__spec__ = SimpleNamespace(name="ai_plan")  # type: ignore[assignment]
    planner.plan = lambda task: [Kid(task.n), Kid(2)]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ai_plan", planner)
    unplanned = type("Unplanned", (), {"name": "unplanned", "n": 1, "run": lambda self, results: results})
    async with World(unplanned, parent(lambda: "own")).up() as instance:
        assert (await run(instance, "parent")).run.result == "own"
        monkeypatch.setattr(planner, "plan", lambda task: "data")
        assert (await run(instance, "unplanned")).run.result == "data"


@pytest.mark.parametrize("make", [threading.Lock, threading.Event, asyncio.Event, lambda: (n for n in range(3))])
async def test_an_object_in_a_plan_is_used_as_it_is_and_need_not_be_copied(make: Any) -> None:
    """A lock, a connection, a generator: whatever it holds is its own."""
    kid = Kid(1)
    kid.held = make()  # type: ignore[attr-defined]
    assert await TaskPipeline(parent(lambda: [kid])).run(**WHO) == [1]
    assert await TaskPipeline(kid).run(**WHO) == 1


@pytest.mark.parametrize("cls", [list, ParallelPlan])
def test_a_child_does_not_cost_more_the_more_there_are(cls: Any, tmp_path: Path) -> None:
    """Neither its class nor its parent's or its siblings' streams are read for each of them."""

    def took_s(n: int) -> float:
        plan = parent(lambda: cls([LateKid(k) for k in range(n)]), run=lambda self, results: len(results))
        began = time.process_time()
        assert TaskPipeline(plan, data_dir=tmp_path).run(**WHO) == n
        return time.process_time() - began

    took_s(10)
    assert took_s(240) < 12 * took_s(60) + 1


# ── whose they are ───────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_child_is_a_run_of_its_own_with_its_parents_identity_and_story() -> None:
    seen: list[Any] = []

    class Sees:
        user_id: str
        group_id: str
        run_id: str
        args: dict[str, Any]

        def run(self) -> None:
            seen.append((self.user_id, self.group_id, self.run_id, self.args))

    world = World(parent(lambda: [Sees()]))
    async with world.up() as instance:
        run_id = (await ask(instance, "parent", args={"n": 1})).run_id
        await instance.runs.ended(run_id)
        *_, kid = of_kids(world)
        view = await instance.answers.run(kid.run_id)
    assert seen == [("alice", "eng", kid.run_id, {})]
    assert (kid.event.task, kid.event.via, kid.event.parent_run_id, kid.event.nesting) == ("Sees", "plan", run_id, 1)
    assert (kid.correlation, kid.user_hash, kid.group_hash) == (
        run_id, PSEUDONYMS.user("alice"), PSEUDONYMS.group("eng")
    )  # fmt: skip
    assert (view.parent_run_id, view.status) == (run_id, "success")
    requested = next(r for r in world.recorded(ChildRequested))
    assert (requested.event.child_run_id, requested.event.index) == (kid.run_id, 0)
    assert requested.position + 2 >= kid.position  # one append


async def test_the_task_of_a_child_need_not_be_registered_and_is_not_by_that() -> None:
    async with World(parent(lambda: [Kid(1)])).up() as instance:
        await run(instance, "parent")
        assert instance.tasks.names() == ["parent"]


async def test_a_parent_that_waits_for_its_children_holds_no_place() -> None:
    async with World(parent(lambda: [[Kid(1)], Kid(2)]), max_concurrent_runs=1).up() as instance:
        assert (await run(instance, "parent")).run.result == [[1], 2]
        await until(lambda: instance.runs.n_running == 0)


async def test_what_the_parent_is_told_while_its_children_run_its_run_hook_sees(gate: type[Gate]) -> None:
    cls = parent(lambda: [gate(1)], run=lambda self, results: [results, self.context])
    async with World(cls).up() as instance:
        run_id = (await ask(instance, "parent")).run_id
        await until(lambda: gate.begun)
        assert await instance.controls.signal(run_id, {"note": "n"}, via="cli", by=None, redact=None)
        gate.gates[1].set()
        assert (await instance.runs.ended(run_id)).run.result == [[1], [{"note": "n"}]]


# ── plans that are none ──────────────────────────────────────────────────────────────────────────────────────────────


class Needs:
    def run(self, a: Any, b: Any) -> None: ...


class NoStages:
    run = 7
    plan = None


ENDLESS: list[Any] = []
ENDLESS.append(ENDLESS)


@pytest.mark.parametrize(
    ("plan", "error_type", "said"),
    [
        (lambda: [Kid(1), "data"], "plan.mixed", "item 1 is a str, others are tasks"),
        (lambda: ["data", Kid(1)], "plan.mixed", "item 0 is a str, others are tasks"),
        (lambda: Kid(1), "plan.mixed", "to have it run, return it in a list"),
        (lambda: {"execution": "parallel", "tasks": [1]}, "plan.mixed", "must hold tasks"),
        (lambda: [Needs()], "Invalid", "item 0 of the plan cannot be run: Task 'Needs': run() takes 2 parameters"),
        (lambda: [Kid(1)] * 1_001, "plan.too_long", "a plan has at most 1000 tasks, not 1001"),
        (lambda: [NoStages()], "result.unserialisable", "NoStages"),
        (lambda: [[Kid(1), [Kid(2), 7]]], "plan.mixed", "item 1 is a int"),
        (lambda: ENDLESS, "result.unserialisable", "what plan() returned, at [0][0]"),
        (lambda: {1, 2}, "result.unserialisable", "what plan() returned is of type set"),
    ],
)
async def test_a_plan_that_makes_no_sense_ends_the_run_saying_why(plan: Any, error_type: str, said: str) -> None:
    async with World(parent(plan)).up() as instance:
        ended = await run(instance, "parent")
    assert ended.run.status == "error"
    assert said in str(ended.run.reason)
    assert ended.run.error_type in (error_type, "Invalid", "plan.invalid")


async def test_a_task_that_plans_itself_by_way_of_another_is_stopped_and_named() -> None:
    class Hen:
        name = "hen"

        def plan(self) -> Any:
            return [Egg()]

    class Egg:
        name = "egg"

        def plan(self) -> Any:
            return [Hen()]

    world = World(Hen)
    async with world.up() as instance:
        ended = await run(instance, "hen")
    assert (ended.run.status, ended.run.error_type) == ("error", "plan.cyclic")
    assert "the task hen stands 5 times above itself (… → egg → hen → egg → hen → egg → hen)" in str(ended.run.reason)
    assert len(of_kids(world)) == 2 * (MAX_ABOVE_ITSELF + 1)


@pytest.mark.parametrize("listed", [False, True], ids=["itself", "in a list"])
async def test_a_task_that_plans_itself_twice_is_stopped_before_there_are_many(listed: bool) -> None:
    class Cell:
        name = "cell"
        retries = Retry(initial_s=0)

        def plan(self) -> Any:
            return ParallelPlan([[Cell()], [Cell()]] if listed else [Cell(), Cell()])

    world = World(Cell)
    async with world.up() as instance:
        ended = await run(instance, "cell")
        await until(lambda: not world.file.unfinished)
    assert (ended.run.status, ended.run.error_type) == ("error", "plan.cyclic")
    of_cells = [each for each in world.recorded(RunRequested) if each.event.task == "cell"]  # type: ignore[attr-defined]
    assert len(of_cells) <= 2 ** (MAX_ABOVE_ITSELF + 2) - 1


async def test_a_task_may_plan_itself_a_few_times() -> None:
    class Halves:
        name = "halves"

        def __init__(self, n: int = 2**MAX_ABOVE_ITSELF) -> None:
            self.n = n

        def plan(self) -> Any:
            return [Halves(self.n // 2)] * 2 if self.n > 1 else self.n

        def run(self, results: Any) -> Any:
            return sum(results) if isinstance(results, list) else results

    async with World(Halves).up() as instance:
        assert (await run(instance, "halves")).run.result == 2**MAX_ABOVE_ITSELF


def nested(n: int, inner: Any) -> Any:
    """Different tasks that each plan the next one, n in all."""
    for k in reversed(range(n)):
        inner = parent(lambda inner=inner: [inner], name=f"level-{k}")
    return inner


@pytest.mark.parametrize("n", [MAX_NESTING, MAX_NESTING + 1])
async def test_a_line_of_different_tasks_may_be_longer_and_has_an_end_as_well(n: int) -> None:
    world = World(nested(n, Kid))
    async with world.up() as instance:
        ended = await run(instance, "level-0")
    if n == MAX_NESTING:
        assert (ended.run.status, len(of_kids(world))) == ("success", n)
    else:
        assert (ended.run.error_type, len(of_kids(world))) == ("plan.too_deep", MAX_NESTING)
        assert "(… → level-11 → level-12 → level-13 → level-14 → level-15 → level-16)" in str(ended.run.reason)


async def test_lists_within_lists_plan_nothing_twice() -> None:
    plan: Any = [Kid(1)]
    for _ in range(MAX_NESTING - 1):
        plan = [plan]
    async with World(parent(lambda: plan)).up() as instance:
        assert (await run(instance, "parent")).run.result == plan_of(1, MAX_NESTING)


def plan_of(value: Any, depth: int) -> Any:
    return value if depth == 0 else [plan_of(value, depth - 1)]


async def test_how_a_plan_shows_itself_names_nobody_however_long_it_is() -> None:
    class Named(Kid):
        def __repr__(self) -> str:
            return "x" * self.n + "alice"

    for n in range(2030, 2050):
        world = World(parent(lambda n=n: [Named(n)]))
        async with world.up() as instance:
            await run(instance, "parent")
        shown = world.events(StageFinished)[0].shown  # type: ignore[attr-defined]
        assert not any(part in shown for part in ("alice", "alic", "ali", "al.", "xa")), (n, shown[-20:])


# ── failures ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_failing_child_fails_its_parent_and_later_ones_do_not_start() -> None:
    """TC 35: the parent fails with the child's error and later sequential children do not start."""
    world = World(parent(lambda: [Kid(1), BadKid(2), Kid(3)]))
    async with world.up() as instance:
        ended = await run(instance, "parent")
    assert (ended.run.status, ended.run.error_type) == ("error", "ValueError")
    assert ended.run.reason == f"no 2 for {PSEUDONYMS.user('alice')}"
    assert len(of_kids(world)) == 2
    assert [(e.index, e.status) for e in world.events(ChildEnded)] == [(0, "success"), (1, "error")]
    failed = next(e for e in world.events(StageFailed) if e.task == "parent")
    assert (failed.stage, failed.fatal) == ("run", True)


def test_the_childs_exception_itself_reaches_the_caller() -> None:
    with pytest.raises(ValueError, match="^no 2 for alice$"):
        TaskPipeline(parent(lambda: [Kid(1), BadKid(2)])).run(**WHO)


async def test_when_one_of_a_parallel_plan_fails_the_others_are_cancelled(gate: type[Gate]) -> None:
    world = World(parent(lambda: ParallelPlan([gate(1), BadKid(2), gate(3)])))
    async with world.up() as instance:
        ended = await run(instance, "parent")
        assert ended.run.error_type == "ValueError"
        await until(lambda: len(world.events(RunCancelled)) == 2)
        await until(lambda: instance.runs.n_running == 0)
    assert {e.reason for e in world.events(RunCancelled)} == {"the run whose plan asked for it has ended"}
    assert all(e.via == "plan" and e.by is None for e in world.events(RunCancelled))


async def test_a_child_that_is_cancelled_fails_its_parent(gate: type[Gate]) -> None:
    world = World(parent(lambda: [gate(1)]))
    async with world.up() as instance:
        run_id = (await ask(instance, "parent")).run_id
        await until(lambda: gate.begun)
        await instance.controls.cancel(of_kids(world)[0].run_id, via="cli", by=None, reason="not needed")
        ended = await instance.runs.ended(run_id)
    assert (ended.run.status, ended.run.error_type, ended.run.reason) == ("error", "cancelled", "not needed")


async def test_a_parent_that_is_tried_again_asks_again_only_for_children_that_failed() -> None:
    class Flaky(Kid):
        calls: list[int] = []

        def run(self) -> int:
            self.calls.append(self.n)
            if self.calls.count(self.n) == 1 and self.n == 2:
                raise ValueError("not yet")
            return self.n

    world = World(
        parent(lambda: [Flaky(1), Flaky(2), Flaky(3)], retries={"run": Retry(max_attempts=2, initial_s=10, jitter=0)})
    )
    async with world.up() as instance:
        run_id = (await ask(instance, "parent")).run_id
        await until(lambda: any(e.task == "parent" for e in world.events(StageFailed)))
        await idle()
        assert Flaky.calls == [1, 2]
        await world.clock.advance(10)
        assert (await instance.runs.ended(run_id)).run.result == [1, 2, 3]
    assert Flaky.calls == [1, 2, 2, 3]
    assert [(e.index, e.attempt) for e in world.events(ChildRequested)] == [(0, 1), (1, 1), (1, 2), (2, 1)]


async def test_a_parents_retries_are_used_up_by_its_children_as_well() -> None:
    world = World(parent(lambda: [BadKid(1)], retries={"run": Retry(max_attempts=3, initial_s=0)}))
    async with world.up() as instance:
        ended = await run(instance, "parent")
    assert ended.run.error_type == "ValueError"
    assert [e.attempt for e in world.events(ChildRequested)] == [1, 2, 3]


@pytest.mark.parametrize(
    "retry", [Retry(initial_s=0, give_up_on=(ValueError,)), Retry(initial_s=0, retry_on=("KeyError",))], ids=str
)
async def test_a_parent_gives_up_on_a_childs_error_as_on_its_own(retry: Retry) -> None:
    world = World(parent(lambda: [BadKid(1)], retries={"run": retry}))
    async with world.up() as instance:
        assert (await run(instance, "parent")).run.status == "error"
    assert len(of_kids(world)) == 1


async def test_a_childs_own_retries_are_its_own() -> None:
    class Flaky(Kid):
        retries = Retry(initial_s=0)
        calls: list[int] = []

        def run(self) -> int:
            self.calls.append(1)
            if len(self.calls) < 3:
                raise ValueError("not yet")
            return self.n

    world = World(parent(lambda: [Flaky(7)]))
    async with world.up() as instance:
        assert (await run(instance, "parent")).run.result == [7]
    assert len(of_kids(world)) == 1


# ── what a parent's retries do not repeat ────────────────────────────────────────────────────────────────────────────

AGAIN = {"run": Retry(max_attempts=3, initial_s=0)}


class Unspeakable(Kid):
    def run(self) -> Any:
        return object()


class Changing(BaseTask):
    """Does something else at each attempt."""

    retries = Retry(initial_s=0)
    n_attempts = 0

    async def run(self) -> None:
        Changing.n_attempts += 1
        await self.step(f"attempt {Changing.n_attempts}", lambda: None)
        raise ValueError("again")


class Enduring(BaseTask):
    """Catches what unwinds it."""

    def run(self) -> None:
        with suppress(BaseException):
            self.sleep(1)


class Stray(Kid):
    def plan(self) -> Any:
        return [Kid(1), "data"]


@pytest.mark.parametrize(
    ("kid", "error_type"),
    [
        (Unspeakable, "result.unserialisable"),
        (Changing, "step.mismatch"),
        (Enduring, "suspension.swallowed"),
        (Stray, "plan.mixed"),
    ],
)
@pytest.mark.parametrize("nested", [False, True])
async def test_an_error_that_a_stage_is_not_tried_again_after_is_not_tried_again_by_the_parent_either(
    kid: Any, error_type: str, nested: bool
) -> None:
    world = World(parent(lambda: [[kid()]] if nested else [kid()], retries=AGAIN))
    async with world.up() as instance:
        ended = await run(instance, "parent")
    assert (ended.run.status, ended.run.error_type) == ("error", error_type)
    assert len(of_kids(world)) == 1 + nested


@pytest.mark.parametrize("nested", [False, True])
async def test_a_child_that_somebody_cancels_is_not_asked_for_again(gate: type[Gate], nested: bool) -> None:
    world = World(parent(lambda: [[gate(1)]] if nested else [gate(1)], retries=AGAIN))
    async with world.up() as instance:
        run_id = (await ask(instance, "parent")).run_id
        await until(lambda: gate.begun)
        await instance.controls.cancel(of_kids(world)[-1].run_id, via="cli", by=None, reason="not needed")
        ended = await instance.runs.ended(run_id)
    assert (ended.run.status, ended.run.error_type, ended.run.reason) == ("error", "cancelled", "not needed")
    assert gate.begun == [1]


@pytest.mark.parametrize("nested", [False, True])
async def test_a_child_that_has_killed_the_process_five_times_is_not_started_again(
    gate: type[Gate], nested: bool
) -> None:
    world = World(parent(lambda: [[gate(1)]] if nested else [gate(1)], retries=AGAIN))
    instance = await world.start()
    run_id = (await ask(instance, "parent")).run_id
    for n in range(1, 6):
        async with asyncio.timeout(5):
            while len(gate.begun) < n:
                await world.clock.advance(1)  # suspects are not in a hurry
                await idle()
        world.crash(instance)
        instance = await world.start()
    ended = await asyncio.wait_for(instance.runs.ended(run_id), 5)
    assert (ended.run.status, ended.run.error_type, len(gate.begun)) == ("error", "crash_loop", 5)
    await instance.log.close()


@pytest.mark.parametrize("first", [0, 1], ids=["failed first", "cancelled first"])
async def test_one_child_that_must_not_be_asked_for_again_keeps_the_parent_from_another_attempt(
    gate: type[Gate], first: int
) -> None:
    """Also where another one of the same plan has failed at the same time, and would be worth it."""

    class Fails(Kid):
        async def run(self) -> None:
            await gate.gates[2].wait()
            raise ValueError("not yet")

    plan = [lambda: ParallelPlan([Fails(), gate(1)]), lambda: ParallelPlan([gate(1), Fails()])][first]
    world = World(parent(plan, retries=AGAIN))
    instance = await world.start()
    run_id = (await ask(instance, "parent")).run_id
    await until(lambda: gate.begun and instance.runs.n_asleep == 1)
    instance.runs._sleepers.discard(run_id)  # it does not look before both have ended
    gate.gates[2].set()
    await until(lambda: world.events(RunFailed))
    await instance.controls.cancel(of_kids(world)[1 - first].run_id, via="cli", by=None)
    world.crash(instance)
    async with world.up() as instance:
        assert (await asyncio.wait_for(instance.runs.ended(run_id), 5)).run.error_type == "cancelled"
    assert gate.begun == [1]


# ── pause, resume, cancel ────────────────────────────────────────────────────────────────────────────────────────────


async def test_cancelling_a_parent_cancels_its_children_and_theirs(gate: type[Gate]) -> None:
    world = World(parent(lambda: ParallelPlan([gate(1), [gate(2)]])))
    async with world.up() as instance:
        run_id = (await ask(instance, "parent")).run_id
        await until(lambda: len(gate.begun) == 2)
        await instance.controls.cancel(run_id, via="cli", by=None)
        assert (await instance.runs.ended(run_id)).run.status == "cancelled"
        await until(lambda: len(world.events(RunCancelled)) == 4)
        await until(lambda: instance.runs.n_running == instance.runs.n_queued == instance.runs.n_asleep == 0)
    assert world.file.unfinished == {}


async def test_pausing_a_parent_pauses_its_children_and_resuming_it_resumes_them(gate: type[Gate]) -> None:
    world = World(parent(lambda: [[gate(1), gate(2)], gate(3)]))
    async with world.up() as instance:
        run_id = (await ask(instance, "parent")).run_id
        await until(lambda: gate.begun == [1])
        await instance.controls.pause(run_id, by=None)
        for each in gate.gates.values():
            each.set()
        await idle(300)
        assert gate.begun == [1]
        await instance.controls.resume(run_id, by=None)
        assert (await instance.runs.ended(run_id)).run.result == [[1, 2], 3]


@pytest.mark.parametrize("parallel", [False, True])
async def test_pausing_and_resuming_a_parent_at_any_turn_of_the_loop_loses_no_end_of_a_child(parallel: bool) -> None:
    def plan() -> Any:
        return ParallelPlan([LateKid(1), LateKid(2)]) if parallel else [LateKid(1), LateKid(2)]

    for turns in range(60):
        async with World(parent(plan)).up() as instance:
            run_id = (await ask(instance, "parent")).run_id
            await idle(turns)
            with suppress(Conflict):  # it was over already
                await instance.controls.pause(run_id, by=None)
                await idle(turns % 7)
                await instance.controls.resume(run_id, by=None)
            assert (await asyncio.wait_for(instance.runs.ended(run_id), 5)).run.result == [1, 2], turns


@pytest.mark.parametrize("asked", ["pause", "resume"])
async def test_a_crash_while_a_parent_is_paused_or_resumed_leaves_none_of_its_children_behind(
    gate: type[Gate], asked: str
) -> None:
    world = World(parent(lambda: ParallelPlan([gate(1), [gate(2), gate(3)], gate(4)])))
    instance = await world.start()
    run_id = (await ask(instance, "parent")).run_id
    await until(lambda: len(gate.begun) == 3)
    if asked == "resume":
        await instance.controls.pause(run_id, by=None)
    asking = asyncio.ensure_future(getattr(instance.controls, asked)(run_id, by=None))
    await until(lambda: world.events(RunPaused if asked == "pause" else RunResumed))
    world.crash(instance)
    asking.cancel()
    async with world.up() as instance:
        await idle(300)
        runs = [r.run_id for r in world.recorded(RunRequested)]
        statuses = [(await instance.answers.run(each or "")).status for each in runs]
        assert len(runs) == 5
        assert [status == "paused" for status in statuses] == [asked == "pause"] * 5, statuses


async def test_pausing_a_parent_does_not_wait_for_children_that_record_something_all_the_time(
    gate: type[Gate], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(parent(lambda: ParallelPlan([gate(1), [gate(2)]])))
    async with world.up() as instance:
        run_id = (await ask(instance, "parent")).run_id
        await until(lambda: len(gate.begun) == 2)
        append = instance.log.append

        def another_was_first(changes: Sequence[Change], *, source: str | None = None) -> asyncio.Future[Receipt]:
            return append([Change(c.stream, c.events, 0) for c in changes] if len(changes) > 1 else changes)

        monkeypatch.setattr(instance.log, "append", another_was_first)
        await instance.controls.pause(run_id, by=None)
        assert len(world.events(RunPaused)) == 4
        await instance.controls.resume(run_id, by=None)
        assert len(world.events(RunResumed)) == 4
        monkeypatch.undo()
        for each in gate.gates.values():
            each.set()
        assert (await instance.runs.ended(run_id)).run.result == [1, [2]]


# ── restarts ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def counted(plan: Callable[[], Any], **attributes: Any) -> type:
    """A parent that notes when its plan is made."""
    made: list[int] = []

    def noted() -> Any:
        made.append(1)
        return plan()

    return parent(noted, made=made, **attributes)


async def test_after_a_restart_finished_children_are_not_run_again_and_the_others_are(gate: type[Gate]) -> None:
    cls = counted(lambda: [gate(1), gate(2), gate(3)])
    world = World(cls)
    instance = await world.start()
    run_id = (await ask(instance, "parent")).run_id
    gate.gates[1].set()
    await until(lambda: gate.begun == [1, 2])
    world.crash(instance)
    for each in gate.gates.values():
        each.set()
    async with world.up() as instance:
        assert (await instance.runs.ended(run_id)).run.result == [1, 2, 3]
    assert gate.begun == [1, 2, 2, 3]
    assert len(cls.made) == 2  # type: ignore[attr-defined]
    assert len(of_kids(world)) == 3


async def test_after_a_restart_the_plan_of_a_parallel_parent_is_made_once_more_and_only_once(gate: type[Gate]) -> None:
    cls = counted(lambda: ParallelPlan([gate(n) for n in range(5)]))
    world = World(cls)
    instance = await world.start()
    run_id = (await ask(instance, "parent")).run_id
    await until(lambda: len(gate.begun) == 5)
    world.crash(instance)
    for each in gate.gates.values():
        each.set()
    async with world.up() as instance:
        assert (await instance.runs.ended(run_id)).run.result == list(range(5))
    assert len(cls.made) == 2  # type: ignore[attr-defined]


async def test_after_a_restart_plans_within_plans_are_found_again(gate: type[Gate]) -> None:
    world = World(parent(lambda: [[gate(1), ParallelPlan([gate(2), gate(3)])], gate(4)]))
    instance = await world.start()
    run_id = (await ask(instance, "parent")).run_id
    gate.gates[1].set()
    await until(lambda: sorted(gate.begun) == [1, 2, 3])
    world.crash(instance)
    for each in gate.gates.values():
        each.set()
    async with world.up() as instance:
        assert (await instance.runs.ended(run_id)).run.result == [[1, [2, 3]], 4]
    assert sorted(gate.begun) == [1, 2, 2, 3, 3, 4]


async def test_the_plan_is_made_again_from_what_it_was_made_from_before(gate: type[Gate]) -> None:
    """Its args, what research found, its steps, its identity and what it was told are as they were."""
    done: list[str] = []

    class Careful(BaseTask):
        name = "parent"

        def attach_context(self, item: Any) -> None:
            self.heard = [*getattr(self, "heard", []), item]

        async def plan(self) -> Any:
            n = await self.step("fetch", lambda: done.append("fetched") or len(done))
            await self.sleep(5)
            assert self.args == {"n": 2}
            assert self.heard == ["early"]
            assert self.user_id == "alice"
            return [gate(n), gate(self.args["n"])]

        def run(self, results: Any) -> Any:
            return results

    world = World(Careful)
    instance = await world.start()
    run_id = (await ask(instance, "parent", args={"n": 2})).run_id
    await instance.controls.signal(run_id, "early", via="cli", by=None, redact=None)
    await until(lambda: instance.runs.n_asleep == 1)
    await world.clock.advance(5)
    await until(lambda: gate.begun == [1])
    await instance.controls.signal(run_id, "late", via="cli", by=None, redact=None)
    world.crash(instance)
    for each in gate.gates.values():
        each.set()
    async with world.up() as instance:
        ended = await instance.runs.ended(run_id)
    assert (ended.run.reason, ended.run.result) == (None, [1, 2])
    assert done == ["fetched"]


class Other(Kid):
    pass


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (lambda gate: [gate(1), Other(2)], "item 1 was Gate, and is Other now"),
        (lambda gate: [gate(1)], "item 1 was Gate, and is nothing now"),
        (lambda gate: [gate(1), gate(2), Other(3)], "item 2 was nothing, and is Other now"),
        (lambda gate: [Other(2), gate(1)], "item 0 was Gate, and is Other now"),
        (lambda _: "data", "item 0 was Gate, and is nothing now"),
    ],
    ids=["another class", "fewer", "more", "another order", "no plan of tasks"],
)
async def test_a_plan_that_is_another_one_now_is_a_clear_error(gate: type[Gate], changed: Any, said: str) -> None:
    world = World(parent(lambda: [gate(1), gate(2)]))
    instance = await world.start()
    run_id = (await ask(instance, "parent")).run_id
    await until(lambda: gate.begun)
    world.crash(instance)
    async with world.up(parent(lambda: changed(gate))) as instance:
        ended = await instance.runs.ended(run_id)
    assert (ended.run.status, ended.run.error_type) == ("error", "plan.changed")
    assert "plan() of parent gave other tasks when it was called again after a restart" in str(ended.run.reason)
    assert said in str(ended.run.reason)


class Catalogue:
    """What a plan is made from. fails: what the next calls raise.  asked: how often it was."""

    def __init__(self, gate: type[Gate], **attributes: Any) -> None:
        self.fails: list[BaseException] = []
        self.asked = 0
        self.task = parent(lambda: self.plan(gate), **attributes)

    def plan(self, gate: type[Gate]) -> Any:
        self.asked += 1
        if self.fails:
            raise self.fails.pop(0)
        return ParallelPlan([gate(1), gate(2)])


async def cut_off_amid(world: World, gate: type[Gate]) -> str:
    """The parent, when the process has died with its children under way."""
    instance = await world.start()
    run_id = (await ask(instance, "parent")).run_id
    await until(lambda: len(gate.begun) == 2)
    world.crash(instance)
    for each in gate.gates.values():
        each.set()
    return run_id


DOWN = ConnectionError("the catalogue is down for a moment, alice")
PATIENT = {"plan": Retry(max_attempts=5, initial_s=7, factor=1, jitter=0)}


@pytest.mark.parametrize(("retries", "delays"), [(None, [1, 2]), (PATIENT, [7, 7, 7, 7])], ids=["none", "its own"])
async def test_a_plan_that_raises_for_a_passing_reason_when_it_is_called_again_is_called_once_more(
    gate: type[Gate], retries: Any, delays: list[int]
) -> None:
    catalogue = Catalogue(gate, retries=retries)
    world = World(catalogue.task)
    run_id = await cut_off_amid(world, gate)
    catalogue.fails = [DOWN] * len(delays)
    async with world.up() as instance:
        for n, delay_s in enumerate(delays):
            await until(lambda n=n: catalogue.asked == 2 + n)  # type: ignore[misc]
            await idle()
            await world.clock.advance(delay_s - 0.1)
            await idle()
            assert catalogue.asked == 2 + n
            await world.clock.advance(0.1)
        assert (await asyncio.wait_for(instance.runs.ended(run_id), 5)).run.result == [1, 2]
    assert catalogue.asked == 2 + len(delays)


@pytest.mark.parametrize(
    ("retries", "n_calls"),
    [(None, 3), ({"plan": Retry(max_attempts=1)}, 1), (Retry(give_up_on=(OSError,)), 1), (Retry(max_attempts=4), 4)],
    ids=["none", "once", "given up on", "four"],
)
async def test_a_plan_that_goes_on_raising_is_told_without_naming_anybody(
    gate: type[Gate], retries: Any, n_calls: int
) -> None:
    catalogue = Catalogue(gate, retries=retries)
    world = World(catalogue.task)
    run_id = await cut_off_amid(world, gate)
    catalogue.fails = [DOWN] * 100
    async with world.up() as instance:
        ending = asyncio.ensure_future(instance.runs.ended(run_id))
        while not ending.done():
            await idle()
            if not world.events(RunFailed):
                await world.clock.advance(1)
        ended = await ending
        await until(lambda: not world.file.unfinished)
        await until(lambda: instance.runs.n_running == 0)
        assert vars(instance.runs._children)["_lost"] == {}
    assert (ended.run.status, ended.run.error_type) == ("error", "plan.failed")
    assert catalogue.asked == 1 + n_calls
    assert f"the catalogue is down for a moment, {PSEUDONYMS.user('alice')}" in str(ended.run.reason)
    assert "alice" not in world.text()
    assert len(of_kids(world)) == 2


@pytest.mark.parametrize(
    "other", [lambda gate: [gate(1), "data"], lambda gate: [gate(1), object()]], ids=["data among tasks", "no task"]
)
async def test_a_plan_that_is_none_any_more_has_changed_and_is_not_called_once_more(
    gate: type[Gate], other: Any
) -> None:
    world = World(Catalogue(gate).task)
    run_id = await cut_off_amid(world, gate)
    async with world.up(changed := counted(lambda: other(gate))) as instance:
        ended = await asyncio.wait_for(instance.runs.ended(run_id), 5)
    assert (ended.run.error_type, len(changed.made)) == ("plan.changed", 1)  # type: ignore[attr-defined]


async def test_a_stop_does_not_wait_until_the_plan_is_called_once_more(gate: type[Gate]) -> None:
    catalogue = Catalogue(gate)
    world = World(catalogue.task)
    run_id = await cut_off_amid(world, gate)
    catalogue.fails = [DOWN]
    async with world.up() as instance:
        await until(lambda: catalogue.asked == 2)
        await idle()
        await asyncio.wait_for(instance.runs.stop(60), 5)
    assert world.events(RunFailed) == []
    async with world.up() as instance:
        assert (await asyncio.wait_for(instance.runs.ended(run_id), 5)).run.result == [1, 2]


@pytest.mark.parametrize("cancelled", ["parent", "child"])
async def test_whoever_cancels_a_run_does_not_wait_until_the_plan_is_called_once_more(
    gate: type[Gate], cancelled: str
) -> None:
    catalogue = Catalogue(gate)
    world = World(catalogue.task)
    run_id = await cut_off_amid(world, gate)
    catalogue.fails = [DOWN] * 3
    async with world.up() as instance:
        await until(lambda: catalogue.asked == 2)
        await idle()
        to_cancel = run_id if cancelled == "parent" else of_kids(world)[0].run_id
        await instance.controls.cancel(to_cancel, via="cli", by=None)
        await until(lambda: not world.file.unfinished)
        await until(lambda: instance.runs.n_running == instance.runs.n_asleep == 0)
    assert catalogue.asked <= 3
    assert world.clock.n_sleeping == 0


async def test_a_plan_that_waits_to_be_called_once_more_keeps_no_other_plan_waiting(gate: type[Gate]) -> None:
    catalogue = Catalogue(gate)
    other = parent(lambda: [gate(3)], name="other")
    world = World(catalogue.task, other)
    instance = await world.start()
    run_id, other_id = [(await ask(instance, task)).run_id for task in ("parent", "other")]
    await until(lambda: len(gate.begun) == 3)
    world.crash(instance)
    for each in gate.gates.values():
        each.set()
    catalogue.fails = [DOWN]
    async with world.up() as instance:
        assert (await asyncio.wait_for(instance.runs.ended(other_id), 5)).run.result == [3]
        assert catalogue.asked == 2
        await world.clock.advance(1)
        assert (await asyncio.wait_for(instance.runs.ended(run_id), 5)).run.result == [1, 2]


async def test_a_child_whose_parent_ended_before_the_crash_is_cancelled_at_the_start(gate: type[Gate]) -> None:
    world = World(parent(lambda: ParallelPlan([gate(1), gate(2)])))
    instance = await world.start()
    run_id = (await ask(instance, "parent")).run_id
    await until(lambda: len(gate.begun) == 2)
    instance.runs.on_orphan = lambda run_id: None  # the power is cut before anybody is told
    await instance.controls.cancel(run_id, via="cli", by=None)
    world.crash(instance)
    async with world.up() as instance:
        await until(lambda: len(world.events(RunCancelled)) == 3)
        await until(lambda: instance.runs.n_running == 0)
    assert world.file.unfinished == {}
    assert gate.begun == [1, 2] or gate.begun == [2, 1]


async def test_a_paused_child_whose_parent_ended_before_the_crash_is_cancelled_too(gate: type[Gate]) -> None:
    world = World(parent(lambda: [gate(1)]))
    instance = await world.start()
    run_id = (await ask(instance, "parent")).run_id
    await until(lambda: gate.begun)
    await instance.controls.pause(run_id, by=None)
    instance.runs.on_orphan = lambda run_id: None
    await instance.controls.cancel(run_id, via="cli", by=None)
    world.crash(instance)
    async with world.up():
        await until(lambda: len(world.events(RunCancelled)) == 2)
    assert world.file.unfinished == {}


@pytest.mark.parametrize("nested", [False, True])
async def test_a_parents_policy_knows_the_classes_of_an_error_also_in_another_life(
    gate: type[Gate], nested: bool
) -> None:
    """The exception itself is gone by then: what is recorded has the names of its classes."""

    class Refused(gate):  # type: ignore[misc, valid-type]
        async def run(self) -> int:
            number: int = await super().run()
            if len(gate.begun) == 1:
                raise ConnectionRefusedError("not yet")
            return number

    retries = {"run": Retry(max_attempts=2, initial_s=0, retry_on=(OSError,))}
    world = World(parent(lambda: [[Refused(1)]] if nested else [Refused(1)], retries=retries))
    instance = await world.start()
    run_id = (await ask(instance, "parent")).run_id
    await until(lambda: gate.begun)
    await instance.controls.pause(run_id, by=None)
    gate.gates[1].set()
    await until(lambda: world.events(RunFailed))
    world.crash(instance)
    async with world.up() as instance:
        await idle(300)
        await instance.controls.resume(run_id, by=None)
        ended = await asyncio.wait_for(instance.runs.ended(run_id), 5)
    assert (ended.run.status, gate.begun) == ("success", [1, 1])


@pytest.mark.parametrize("turns", range(12))
async def test_a_plan_that_is_resumed_goes_on_with_all_its_runs_whenever_it_was_paused(
    gate: type[Gate], turns: int
) -> None:
    """Also in the instant between a child's request and its place in the queue."""
    for event in gate.gates.values():
        event.set()
    async with World(parent(lambda: [gate(1), gate(2)])).up() as instance:
        run_id = (await ask(instance, "parent")).run_id
        for _ in range(turns):
            await asyncio.sleep(0)
        await instance.controls.pause(run_id, by=None)
        await instance.controls.resume(run_id, by=None)
        assert (await asyncio.wait_for(instance.runs.ended(run_id), 5)).run.status == "success"


@pytest.mark.parametrize("nested", [False, True])
async def test_the_plan_of_a_parent_that_has_just_ended_is_not_made_again(
    gate: type[Gate], monkeypatch: pytest.MonkeyPatch, nested: bool
) -> None:
    cls = counted(lambda: [[gate(1)]] if nested else [gate(1)])
    world = World(cls)
    instance = await world.start()
    run_id = (await ask(instance, "parent")).run_id
    await until(lambda: gate.begun == [1])
    *_, kid = of_kids(world)
    world.crash(instance)
    async with world.up(recover=False) as instance:
        reveal, is_to_end = world.vault.reveal, [True]

        async def and_end_the_parent(*who: str) -> Any:
            task = asyncio.current_task()
            if task is not None and task.get_name() == f"run-{kid.run_id}" and is_to_end and is_to_end.pop():
                await instance.controls.cancel(run_id, via="cli", by=None)
            return await reveal(*who)

        monkeypatch.setattr(world.vault, "reveal", and_end_the_parent)
        await instance.runs.recover()
        await until(lambda: not world.file.unfinished)
        await until(lambda: instance.runs.n_running == instance.runs.n_asleep == 0)
        kept = vars(instance.runs._children)
        assert [name for name in ("_entries", "_planning", "_places") if kept[name]] == []
    assert (len(cls.made), len(world.events(RunCancelled))) == (2 if nested else 1, 3 if nested else 2)  # type: ignore[attr-defined]


async def test_children_whose_parents_task_is_gone_are_held_with_it_and_go_on_when_it_is_back(gate: type[Gate]) -> None:
    cls = parent(lambda: [gate(1), gate(2)])
    world = World(cls)
    instance = await world.start()
    run_id = (await ask(instance, "parent")).run_id
    await until(lambda: gate.begun)
    world.crash(instance)
    async with world.up(type("Else", (), {"name": "else", "run": lambda self: None})) as instance:
        await until(lambda: instance.runs.n_running == instance.runs.n_queued == 0)
        await idle()
    for each in gate.gates.values():
        each.set()
    async with world.up() as instance:
        assert (await instance.runs.ended(run_id)).run.result == [1, 2]


async def test_a_child_that_ended_while_its_parent_was_not_looking_is_found_at_the_start(gate: type[Gate]) -> None:
    """The child's end is committed, the parent has not taken it in."""
    world = World(parent(lambda: [gate(1), gate(2)]))
    instance = await world.start()
    run_id = (await ask(instance, "parent")).run_id
    await until(lambda: gate.begun == [1])
    instance.runs._sleepers.discard(run_id)  # nobody is there to be roused
    gate.gates[1].set()
    await until(lambda: len([r for r in world.events() if type(r).__name__ == "RunFinished"]) == 1)
    world.crash(instance)
    gate.gates[2].set()
    async with world.up() as instance:
        assert (await instance.runs.ended(run_id)).run.result == [1, 2]
    assert gate.begun == [1, 2]


async def test_a_parent_that_is_resumed_while_a_restart_reads_it_goes_on(gate: type[Gate]) -> None:
    world = World(parent(lambda: [gate(0)]))
    instance = await world.start()
    run_id = (await ask(instance, "parent")).run_id
    await until(lambda: gate.begun)
    await instance.controls.pause(run_id, by=None)
    gate.gates[0].set()
    await until(lambda: world.events(RunFinished))
    await idle()
    world.crash(instance)

    instance = await world.start(recover=False)
    read_stream, reading, going = instance.log.read_stream, asyncio.Event(), asyncio.Event()

    async def slowly(stream: str, *more: Any) -> Any:
        events = await read_stream(stream, *more)
        if not reading.is_set():
            reading.set()
            await going.wait()
        return events

    instance.log.read_stream = slowly  # type: ignore[method-assign]
    await instance.runs.recover()
    await reading.wait()
    await instance.controls.resume(run_id, by=None)
    going.set()
    assert (await asyncio.wait_for(instance.runs.ended(run_id), 5)).run.result == [0]
    await instance.log.close()


async def test_of_a_parent_that_has_ended_nothing_is_kept(gate: type[Gate]) -> None:
    world = World(parent(lambda: ParallelPlan([gate(1), gate(2)])))
    instance = await world.start()
    run_id = (await ask(instance, "parent")).run_id
    await until(lambda: len(gate.begun) == 2)
    world.crash(instance)
    async with world.up(recover=False) as instance:
        await instance.controls.cancel(str(of_kids(world)[0].run_id), via="cli", by=None)
        await instance.runs.recover()  # the plan is made again for the other one, before the parent fails
        assert (await instance.runs.ended(run_id)).run.error_type == "cancelled"
        await until(lambda: instance.runs.n_running == instance.runs.n_queued == 0)
        kept, names = (
            vars(instance.runs._children),
            ("_entries", "_errors", "_lost", "_planning", "_places", "_watched", "_ended"),
        )
        assert [name for name in names if kept[name]] == []


async def test_an_orderly_stop_leaves_children_and_parent_to_the_next_start(gate: type[Gate]) -> None:
    world = World(parent(lambda: ParallelPlan([gate(1), gate(2)])))
    async with world.up() as instance:
        run_id = (await ask(instance, "parent")).run_id
        await until(lambda: len(gate.begun) == 2)
    for each in gate.gates.values():
        each.set()
    async with world.up() as instance:
        assert (await instance.runs.ended(run_id)).run.result == [1, 2]
    assert world.events(RunFailed) == world.events(RunCancelled) == []


async def test_the_events_of_a_parent_and_its_children_are_committed_together() -> None:
    world = World(parent(lambda: [Kid(1)]))
    async with world.up() as instance:
        await run(instance, "parent")
    kinds = [type(r.event) for r in world.file.events if r.run_id is not None]
    at = kinds.index(ChildRequested)
    assert kinds[at : at + 3] == [ChildRequested, WaitStarted, RunRequested]
    assert [e.task for e in world.events(RunStarted)] == ["parent", "Kid"]
    assert [e.stage for e in world.events(StageStarted)] == ["plan", "run", "run"]


@pytest.fixture
def threads() -> Iterator[ThreadSpawner]:
    spawner = ThreadSpawner(4)
    yield spawner
    spawner.close()


async def test_plain_children_run_in_threads_and_leave_the_loop_free(threads: ThreadSpawner) -> None:
    both = threading.Barrier(2, timeout=5)

    class Meets(Kid):
        def run(self) -> int:
            both.wait()
            return threading.get_ident()

    world = World(parent(lambda: ParallelPlan([Meets(), Meets()])), spawner=threads, clock=SystemClock())
    async with world.up() as instance:
        idents = (await run(instance, "parent", ALICE)).run.result
    assert len({*idents, threading.get_ident()}) == 3
