"""Effects that may have happened, and what might conceal it: a pause, a missing task, other code, a crash loop."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from cascadenced import ParallelPlan
from cascadenced.events.base import Event
from cascadenced.events.child import ChildRequested
from cascadenced.events.run import RunCancelled, RunDoubted, RunHeld, RunRequested, RunResolved
from cascadenced.events.stage import StageStarted
from cascadenced.events.wait import WaitEnded
from cascadenced.instance import Instance
from cascadenced.pipeline.policy import Retry
from cascadenced.plugins.base import BaseTask
from cascadenced.vault import MemoryVault
from cascadenced.verbs import VERBS, perform
from tests.doubles import World, ask, idle, until


class Pays(BaseTask):
    """Pays behind a gate, as a whole stage or in a step."""

    name, delivery = "pays", "at_most_once"
    in_step = False
    gate: asyncio.Event
    paid: list[str]

    async def run(self) -> Any:
        return await self.step("pay", self.pay) if self.in_step else await self.pay()

    async def pay(self) -> str:
        self.paid.append("paid")
        await self.gate.wait()
        return "receipt"


class Household(BaseTask):
    name = "household"
    children: list[Any]

    def plan(self) -> list[Any]:
        return [cls() for cls in self.children]


def pays(**attributes: Any) -> Any:
    return type("Pays", (Pays,), {"gate": asyncio.Event(), "paid": [], **attributes})


def else_() -> type:
    return type("Else", (BaseTask,), {"name": "else", "run": lambda self: None})


async def cut_off(world: World, task: Any, asked: str = "pays", *, pause: bool = False) -> str:
    """The run that pays, when the process has died with that under way."""
    instance = await world.start()
    asked_id = (await ask(instance, asked)).run_id
    await until(lambda: task.paid)
    [start] = [
        each for each in world.file.events if isinstance(each.event, StageStarted) and each.event.stage == "run"
    ][-1:]
    run_id = start.run_id or asked_id
    if pause:
        await instance.controls.pause(run_id, by=None)
    world.crash(instance)
    task.gate.set()
    return run_id


async def listed(instance: Instance) -> list[str]:
    return [row.run_id for row in (await instance.answers.runs(status="in_doubt")).items]


# ── a pause ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("in_step", [False, True], ids=["stage", "step"])
async def test_what_may_have_happened_is_listed_also_of_a_run_that_was_paused_when_the_process_died(
    in_step: bool,
) -> None:
    task = pays(in_step=in_step)
    world = World(task)
    run_id = await cut_off(world, task, pause=True)
    async with world.up() as instance:
        await until(lambda: instance.runs.n_asleep == 1)
        assert await listed(instance) == [run_id]
        assert (await instance.answers.run(run_id)).status == "paused"
        codes = [reason.code for reason in (await perform(VERBS["explain"], instance, {"run": run_id})).reasons]
        assert codes == ["paused", "in_doubt"]
    assert [doubted.step for doubted in world.events(RunDoubted)] == ["pay" if in_step else None]
    assert task.paid == ["paid"]


@pytest.mark.parametrize("resumed_first", [False, True])
async def test_such_a_doubt_is_settled_during_the_pause_or_after_it_and_then_the_run_goes_on(
    resumed_first: bool,
) -> None:
    task = pays()
    world = World(task)
    run_id = await cut_off(world, task, pause=True)
    async with world.up() as instance:
        await until(lambda: instance.runs.n_asleep == 1)
        if resumed_first:
            await instance.controls.resume(run_id, by=None)
            assert (await instance.answers.run(run_id)).status == "in_doubt"
        await instance.controls.resolve(run_id, "retry", by=None, output=None)
        if not resumed_first:
            await idle(300)
            assert ((await instance.answers.run(run_id)).status, await listed(instance)) == ("paused", [])
            assert task.paid == ["paid"]
            await instance.controls.resume(run_id, by=None)
        assert (await asyncio.wait_for(instance.runs.ended(run_id), 5)).run.result == "receipt"
    assert task.paid == ["paid", "paid"]


async def test_a_paused_run_in_doubt_is_listed_once_over_several_restarts() -> None:
    task = pays()
    world = World(task)
    run_id = await cut_off(world, task, pause=True)
    for _ in range(3):
        async with world.up() as instance:
            await until(lambda: instance.runs.n_asleep == 1)
            assert await listed(instance) == [run_id]
    assert len(world.events(RunDoubted)) == 1


@pytest.mark.parametrize("in_step", [False, True], ids=["stage", "step"])
async def test_a_paused_run_of_a_plan_is_listed_as_well(in_step: bool) -> None:
    task = pays(in_step=in_step)
    world = World(type("Household", (Household,), {"children": [task]}))
    run_id = await cut_off(world, task, "household", pause=True)
    async with world.up() as instance:
        await until(lambda: instance.runs.n_asleep == 2)
        assert await listed(instance) == [run_id]
        await instance.controls.resume(run_id, by=None)
        await instance.controls.resolve(run_id, "done", by=None, output="receipt")
        parent_id = (await instance.answers.run(run_id)).parent_run_id
        assert (await asyncio.wait_for(instance.runs.ended(parent_id), 5)).run.status == "success"
    assert task.paid == ["paid"]


@pytest.mark.parametrize("on_doubt", ["retry", "fail"])
async def test_what_its_policy_answers_is_answered_when_the_pause_is_over(on_doubt: str) -> None:
    task = pays(on_doubt=on_doubt)
    world = World(task)
    run_id = await cut_off(world, task, pause=True)
    async with world.up() as instance:
        await until(lambda: instance.runs.n_asleep == 1)
        assert (world.events(RunDoubted), task.paid) == ([], ["paid"])
        await instance.controls.resume(run_id, by=None)
        ended = await asyncio.wait_for(instance.runs.ended(run_id), 5)
    assert ended.run.status == {"retry": "success", "fail": "error"}[on_doubt]


@pytest.mark.parametrize(("resolution", "status"), [("fail", "error"), ("done", "success")])
async def test_a_paused_run_that_its_resolution_ends_is_listed_as_ended(resolution: str, status: str) -> None:
    task = pays()
    world = World(task)
    run_id = await cut_off(world, task, pause=True)
    async with world.up() as instance:
        await until(lambda: instance.runs.n_asleep == 1)
        await instance.controls.resolve(run_id, resolution, by=None, output=None)
        assert [row.status for row in (await instance.answers.runs()).items] == [status]
        assert [row.run_id for row in (await instance.answers.runs(status=status)).items] == [run_id]
        assert (await instance.answers.runs(status="paused")).items == []


async def test_what_may_have_happened_is_listed_though_long_runs_have_taken_all_slots() -> None:
    task, long = pays(), pays(name="long", delivery="at_least_once")
    world = World(long, task, max_concurrent_runs=2)
    instance = await world.start()
    await ask(instance, "long")
    run_id = (await ask(instance, "pays")).run_id
    await until(lambda: task.paid and long.paid)
    world.crash(instance)
    world.config = world.config._replace(max_concurrent_runs=1)
    async with world.up() as instance:
        await until(lambda: len(long.paid) == 2)
        assert (await listed(instance), instance.runs.n_queued) == ([run_id], 1)


# ── what a run is held for ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("gone", ["task", "identity"])
async def test_a_run_in_doubt_stays_listed_when_a_restart_could_not_go_on_with_it(gone: str) -> None:
    task = pays()
    world = World(task)
    run_id = await cut_off(world, task)
    async with world.up() as instance:
        await until(lambda: instance.runs.n_asleep == 1)
    vault = world.vault
    if gone == "identity":
        world.vault = MemoryVault()
    async with world.up(*([else_()] if gone == "task" else [])) as instance:
        await until(lambda: instance.runs.n_asleep == 1)
        assert await listed(instance) == [run_id]
        await instance.controls.resolve(run_id, "retry", by=None, output=None)
        await until(lambda: world.events(RunHeld))
    world.vault = vault
    async with world.up() as instance:
        assert (await asyncio.wait_for(instance.runs.ended(run_id), 5)).run.result == "receipt"
    assert task.paid == ["paid", "paid"]


@pytest.mark.parametrize("gone", ["task", "identity"])
async def test_what_may_have_happened_is_listed_also_when_no_restart_can_go_on_with_it(gone: str) -> None:
    task = pays()
    world = World(task)
    run_id = await cut_off(world, task)
    if gone == "identity":
        world.vault = MemoryVault()
    async with world.up(*([else_()] if gone == "task" else [])) as instance:
        await until(lambda: instance.runs.n_asleep == 1)
        assert await listed(instance) == [run_id]
    assert world.events(RunHeld) == []


async def test_a_task_whose_code_has_changed_is_held_when_the_doubt_is_settled_and_not_before() -> None:
    task = pays(on_code_change="stop")
    world = World(task)
    run_id = await cut_off(world, task)

    class Newer(Pays):
        on_code_change = "stop"
        paid: list[str] = []

        async def pay(self) -> str:
            return "newer"

    async with world.up(Newer) as instance:
        await until(lambda: instance.runs.n_asleep == 1)
        assert await listed(instance) == [run_id]
        await instance.controls.resolve(run_id, "retry", by=None, output=None)
        await until(lambda: world.events(RunHeld))
        assert (await instance.answers.run(run_id)).waits_for.name == "code_changed"
    assert [event.code for event in world.events(RunHeld)] == ["code_changed"]


async def test_a_doubt_that_an_older_version_held_back_is_listed_again() -> None:
    task = pays()
    world = World(task)
    run_id = await cut_off(world, task)
    async with world.up() as instance:
        await until(lambda: instance.runs.n_asleep == 1)
        live = await instance.runs.find(run_id)
        await instance.log.append([live.change([RunHeld(task="pays", code="task_missing", reason="it was not there")])])
    async with world.up(else_()) as instance:
        await until(lambda: instance.runs.n_asleep == 1)
        assert await listed(instance) == [run_id]
        await instance.controls.resolve(run_id, "fail", by=None, output=None)
        assert (await instance.answers.run(run_id)).status == "error"


# ── what is no effect ────────────────────────────────────────────────────────────────────────────────────────────────


class Plans(Household):
    """Works at most once itself; all that it does are the runs of its plan."""

    name, delivery = "plans", "at_most_once"


def plans() -> Any:
    return type("Plans", (Plans,), {"children": [else_()]})


@pytest.mark.parametrize("reached", [StageStarted, ChildRequested, WaitEnded])
async def test_a_stage_that_has_no_code_but_the_runs_of_its_plan_is_never_in_doubt(reached: type[Event]) -> None:
    world = World(plans())
    instance = await world.start()
    run_id = (await ask(instance, "plans")).run_id
    await until(lambda: [e for e in world.events(reached, run_id=run_id) if getattr(e, "stage", "run") == "run"])
    world.crash(instance)
    async with world.up() as instance:
        assert (await asyncio.wait_for(instance.runs.ended(run_id), 5)).run.status == "success"
    assert world.events(RunDoubted) == []


@pytest.mark.parametrize("turns", range(8))
async def test_a_pause_without_a_crash_puts_nothing_in_doubt(turns: int) -> None:
    async with (world := World(plans())).up() as instance:
        run_id = (await ask(instance, "plans")).run_id
        for _ in range(turns):
            await asyncio.sleep(0)
        await instance.controls.pause(run_id, by=None)
        await idle(200)
        await instance.controls.resume(run_id, by=None)
        assert (await asyncio.wait_for(instance.runs.ended(run_id), 5)).run.status == "success"
    assert world.events(RunDoubted) == []


# ── a stage that was left ────────────────────────────────────────────────────────────────────────────────────────────


class Grouped(BaseTask):
    """Pays, and fails beside it, which cancels the payment."""

    name, delivery = "grouped", "at_most_once"
    retries = Retry(max_attempts=3, initial_s=60, jitter=0)
    n_failed = 0
    gate: asyncio.Event
    paid: list[str]

    async def run(self) -> Any:
        async with asyncio.TaskGroup() as group:
            payment = group.create_task(self.step("pay", self.pay))
            group.create_task(self.fail())
        return payment.result()

    async def fail(self) -> None:
        await until(lambda: self.paid)
        Grouped.n_failed += 1
        if Grouped.n_failed == 1:
            raise ValueError("not yet")

    async def pay(self) -> str:
        self.paid.append("paid")
        await self.gate.wait()
        return "receipt"


@pytest.mark.parametrize("crash", [False, True])
async def test_a_step_that_a_stage_left_is_listed_while_that_waits_for_its_next_attempt(crash: bool) -> None:
    Grouped.n_failed = 0
    task = type("Grouped", (Grouped,), {"gate": asyncio.Event(), "paid": []})
    world = World(task)
    instance = await world.start()
    run_id = (await ask(instance, "grouped")).run_id
    await until(lambda: instance.runs.n_asleep == 1)
    if crash:
        world.crash(instance)
        instance = await world.start()
        await until(lambda: instance.runs.n_asleep == 1)
    assert await listed(instance) == [run_id]
    task.gate.set()
    await instance.controls.resolve(run_id, "done", by=None, output="receipt")
    await idle(300)
    view = await instance.answers.run(run_id)
    assert (view.status, view.waits_for.kind) == ("waiting", "retry")
    [row] = (await instance.answers.runs(status="waiting")).items
    assert row.waits_for == view.waits_for
    await world.clock.advance(61)
    assert (await asyncio.wait_for(instance.runs.ended(run_id), 5)).run.result == "receipt"
    assert task.paid == ["paid"]
    await instance.log.close()


async def test_a_step_that_was_left_is_asked_about_before_its_stage_fails_for_good() -> None:
    Grouped.n_failed = 0
    task = type("Grouped", (Grouped,), {"gate": asyncio.Event(), "paid": [], "retries": None})
    world = World(task)
    async with world.up() as instance:
        run_id = (await ask(instance, "grouped")).run_id
        await until(lambda: instance.runs.n_asleep == 1)
        assert await listed(instance) == [run_id]
        assert world.events(RunDoubted)[0].reason.startswith("the stage failed while it was under way: ")
        await instance.controls.resolve(run_id, "done", by=None, output="receipt")
        assert (await asyncio.wait_for(instance.runs.ended(run_id), 5)).run.result == "receipt"
    assert task.paid == ["paid"]


# ── a crash loop ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("in_step", [False, True], ids=["stage", "step"])
async def test_an_effect_that_is_always_tried_again_does_not_kill_the_process_for_ever(in_step: bool) -> None:
    task = pays(in_step=in_step, on_doubt="retry")
    world = World(task)
    instance = await world.start()
    run_id = (await ask(instance, "pays")).run_id
    for n in range(1, 6):
        async with asyncio.timeout(5):
            while len(task.paid) < n:
                await world.clock.advance(1)  # suspects are not in a hurry
                await idle()
        world.crash(instance)
        instance = await world.start()
    ended = await asyncio.wait_for(instance.runs.ended(run_id), 5)
    assert (ended.run.status, ended.run.error_type, len(task.paid)) == ("error", "crash_loop", 5)
    assert len(world.events(RunResolved)) == 4
    await instance.log.close()


async def test_somebody_may_have_it_tried_again_as_often_as_they_like() -> None:
    """Also when they do not say who they are, as whoever only names a group."""
    task = pays()
    world = World(task)
    instance = await world.start()
    run_id = (await ask(instance, "pays")).run_id
    for n in range(1, 8):
        await until(lambda: len(task.paid) == n)  # noqa: B023 -- called in this turn only
        world.crash(instance)
        instance = await world.start()
        await until(lambda: instance.runs.n_asleep == 1)  # noqa: B023
        await perform(VERBS["resolve"], instance, {"run": run_id, "resolution": "retry"})
    task.gate.set()
    assert (await asyncio.wait_for(instance.runs.ended(run_id), 5)).run.status == "success"
    said = [moment.text for moment in (await perform(VERBS["explain"], instance, {"run": run_id})).timeline]
    assert not [text for text in said if "policy" in text]
    await instance.log.close()


# ── the retries of a parent ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("on_doubt", ["ask", "fail"])
async def test_an_effect_that_is_taken_for_failed_is_not_done_again_by_a_parent_that_is_tried_again(
    on_doubt: str, nested: bool
) -> None:
    task = pays(on_doubt=on_doubt)
    retries = {"retries": Retry(initial_s=0)}
    inner = type("Inner", (Household,), {"name": "inner", "children": [task], **retries})
    world = World(type("Household", (Household,), {"children": [inner if nested else task], **retries}))
    run_id = await cut_off(world, task, "household")
    async with world.up() as instance:
        if on_doubt == "ask":
            await until(lambda: world.events(RunDoubted))
            await instance.controls.resolve(run_id, "fail", by=None, output=None)
        ended = await asyncio.wait_for(instance.runs.ended(world.recorded(RunRequested)[0].run_id or ""), 5)
    assert (ended.run.status, ended.run.error_type) == ("error", "in_doubt")
    assert task.paid == ["paid"]


# ── runs of a plan that has ended ────────────────────────────────────────────────────────────────────────────────────


class Failing(BaseTask):
    """Fails when its gate is open."""

    name = "failing"
    gate: asyncio.Event

    async def run(self) -> None:
        await self.gate.wait()
        raise ValueError("bad kid")


class Side(Household):
    """All at once."""

    name = "side"

    def plan(self) -> Any:
        return ParallelPlan([cls() for cls in self.children])


def side(task: Any, *, nested: bool = False) -> tuple[World, asyncio.Event]:
    """A payment beside what fails when that event is set."""
    gate = asyncio.Event()
    failing = type("Failing", (Failing,), {"gate": gate})
    inner = type("Inner", (Household,), {"name": "inner", "children": [task]})
    return World(type("Side", (Side,), {"children": [inner if nested else task, failing]})), gate


def asked_for(world: World, task: str) -> str:
    [run_id] = [each.run_id for each in world.recorded(RunRequested) if each.event.task == task]  # type: ignore[attr-defined]
    assert run_id is not None
    return run_id


async def one_asleep(instance: Instance) -> None:
    await until(lambda: instance.runs.n_asleep == 1)


async def all_quiet(instance: Instance) -> None:
    await until(lambda: instance.runs.n_running == instance.runs.n_queued == instance.runs.n_asleep == 0)


@pytest.mark.parametrize("resolution", ["retry", "done", "fail"])
@pytest.mark.parametrize("in_step", [False, True], ids=["stage", "step"])
@pytest.mark.parametrize("how", ["failure", "cancel", "nested"])
async def test_what_may_have_happened_stays_listed_when_the_parent_ends_and_ends_with_its_resolution(
    how: str, in_step: bool, resolution: str
) -> None:
    task = pays(in_step=in_step)
    world, fails = side(task, nested=how == "nested")
    await cut_off(world, task, "side")
    parent_id, run_id = asked_for(world, "side"), asked_for(world, "pays")
    async with world.up() as instance:
        await until(lambda: world.events(RunDoubted))
        if how == "failure":
            fails.set()
        else:
            await instance.controls.cancel(parent_id, via="cli", by=None)
        await instance.runs.ended(parent_id)
        await idle(300)
        assert await listed(instance) == [run_id]
    for _ in range(2):
        instance = await world.start()
        await one_asleep(instance)
        await idle()
        assert await listed(instance) == [run_id]
        world.crash(instance)
    async with world.up() as instance:
        await until(lambda: instance.runs.n_asleep == 1)
        await instance.controls.resolve(run_id, resolution, by=None, output=None)
        view = await instance.answers.run(run_id)
        assert (view.status, await listed(instance)) == ("cancelled", [])
        await all_quiet(instance)
    [cancelled] = world.events(RunCancelled, run_id=run_id)
    parent = asked_for(world, "inner") if how == "nested" else parent_id
    assert cancelled.reason == (  # type: ignore[attr-defined]
        f"the run that asked for it, {parent}, has ended: what was in doubt is settled ({resolution}), and nothing is "
        "done again"
    )
    assert (task.paid, world.file.unfinished) == (["paid"], {})


@pytest.mark.parametrize("in_step", [False, True], ids=["stage", "step"])
async def test_it_stays_listed_though_it_is_paused(in_step: bool) -> None:
    task = pays(in_step=in_step)
    world, fails = side(task)
    await cut_off(world, task, "side")
    parent_id, run_id = asked_for(world, "side"), asked_for(world, "pays")
    async with world.up() as instance:
        await until(lambda: world.events(RunDoubted))
        await instance.controls.pause(run_id, by=None)
        fails.set()
        await instance.runs.ended(parent_id)
        await idle(300)
        assert await listed(instance) == [run_id]
    async with world.up() as instance:
        await until(lambda: instance.runs.n_asleep == 1)
        await instance.controls.resolve(run_id, "retry", by=None, output=None)
        assert (await instance.answers.run(run_id)).status == "cancelled"
        await all_quiet(instance)
    assert (task.paid, world.file.unfinished) == (["paid"], {})


async def test_what_may_have_happened_is_listed_also_when_its_parent_had_ended_before_the_crash() -> None:
    """Nobody was told of the parent's end, or of the doubt."""
    task = pays()
    world, fails = side(task)
    instance = await world.start()
    parent_id = (await ask(instance, "side")).run_id
    await until(lambda: task.paid)
    instance.runs.on_orphan = lambda run_id: None
    fails.set()
    await instance.runs.ended(parent_id)
    world.crash(instance)
    run_id = asked_for(world, "pays")
    async with world.up() as instance:
        await until(lambda: instance.runs.n_asleep == 1)
        assert await listed(instance) == [run_id]
        await instance.controls.resolve(run_id, "done", by=None, output=None)
        await all_quiet(instance)
    assert world.file.unfinished == {}


@pytest.mark.parametrize("in_step", [False, True], ids=["stage", "step"])
async def test_an_effect_that_is_under_way_when_the_parent_ends_is_cancelled_and_in_doubt(in_step: bool) -> None:
    task = pays(in_step=in_step)
    world, fails = side(task)
    async with world.up() as instance:
        parent_id = (await ask(instance, "side")).run_id
        await until(lambda: task.paid)
        fails.set()
        await instance.runs.ended(parent_id)
        run_id = asked_for(world, "pays")
        await until(lambda: instance.runs.n_running == 0)
        await idle()
        assert (await listed(instance), instance.runs.n_asleep) == ([run_id], 1)
        [doubted] = world.events(RunDoubted)
        assert doubted.reason == "the run whose plan asked for it has ended while it was under way"  # type: ignore[attr-defined]
        task.gate.set()
        await idle()
        await instance.controls.resolve(run_id, "retry", by=None, output=None)
        assert (await instance.answers.run(run_id)).status == "cancelled"
        await all_quiet(instance)
    assert (task.paid, world.file.unfinished) == (["paid"], {})


async def test_of_several_steps_in_doubt_each_is_settled_before_the_run_ends_with_its_parent() -> None:
    class PaysTwice(Pays):
        async def run(self) -> Any:
            return await asyncio.gather(self.step("one", self.pay), self.step("two", self.pay))

    task = type("PaysTwice", (PaysTwice,), {"gate": asyncio.Event(), "paid": []})
    world, fails = side(task)
    instance = await world.start()
    parent_id = (await ask(instance, "side")).run_id
    await until(lambda: len(task.paid) == 2)
    fails.set()
    await instance.runs.ended(parent_id)
    run_id = asked_for(world, "pays")
    await until(lambda: world.events(RunDoubted))
    world.crash(instance)
    async with world.up() as instance:
        await until(lambda: instance.runs.n_asleep == 1)
        await instance.controls.resolve(run_id, "retry", by=None, output=None)
        await idle()
        assert await listed(instance) == [run_id]
        await instance.controls.resolve(run_id, "done", by=None, output=None)
        assert (await instance.answers.run(run_id)).status == "cancelled"
    assert [each.step for each in world.events(RunDoubted)] == ["one", "two"]
    assert (len(task.paid), world.file.unfinished) == (2, {})


async def test_whoever_cancels_the_run_in_doubt_itself_has_answered() -> None:
    task = pays()
    world, fails = side(task)
    await cut_off(world, task, "side")
    async with world.up() as instance:
        await until(lambda: world.events(RunDoubted))
        fails.set()
        await instance.runs.ended(asked_for(world, "side"))
        await instance.controls.cancel(asked_for(world, "pays"), via="cli", by=None)
        assert await listed(instance) == []
        await all_quiet(instance)
    assert world.file.unfinished == {}


@pytest.mark.parametrize("turns", range(0, 40, 3))
async def test_a_doubt_that_is_resolved_while_the_parent_ends_is_the_end_of_the_run(turns: int) -> None:
    task = pays()
    world, fails = side(task)
    await cut_off(world, task, "side")
    task.gate.clear()
    parent_id, run_id = asked_for(world, "side"), asked_for(world, "pays")
    async with world.up() as instance:
        await until(lambda: world.events(RunDoubted))
        fails.set()
        await idle(turns)
        await instance.controls.resolve(run_id, "retry", by=None, output=None)
        await instance.runs.ended(parent_id)
        await until(lambda: instance.runs.n_running == instance.runs.n_queued == 0)
        await idle(300)
        if await listed(instance):  # it had begun once more
            assert len(task.paid) == 2
            await instance.controls.resolve(run_id, "done", by=None, output=None)
        await all_quiet(instance)
    assert world.file.unfinished == {}
