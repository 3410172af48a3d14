"""Attempts of a stage: retries, time limits, and effects that must not happen twice."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from cascadenced import TaskPipeline
from cascadenced.clock import SystemClock
from cascadenced.errors import Conflict, Invalid, TimeUp
from cascadenced.events.audit import audit_rows
from cascadenced.events.run import RunDoubted, RunFailed, RunFinished, RunResolved
from cascadenced.events.stage import StageFailed, StageFinished, StageInterrupted, StageLate, StageStarted
from cascadenced.events.step import StepFinished, StepStarted
from cascadenced.handlers import run_stage
from cascadenced.instance import Instance
from cascadenced.pipeline.policy import Retry
from cascadenced.plugins.base import BaseTask
from cascadenced.runtime.spawn import ThreadSpawner
from tests.doubles import PSEUDONYMS, World, ask, idle, run, until

WHO = {"user_id": "alice", "group_id": "eng"}
EVERY_10_S = Retry(max_attempts=3, initial_s=10, factor=2, jitter=0)


def flaky(n_bad: int, error: BaseException | None = None, stage: str = "run", **attributes: Any) -> type:
    """A task whose `stage` raises so many times. calls: how often it was called."""
    calls: list[int] = []

    async def hook(self: Any) -> Any:
        calls.append(1)
        if len(calls) <= n_bad:
            raise error or ValueError("not for alice")
        return len(calls)

    fields = {"name": "flaky", "calls": calls, "run": lambda self: "ran", **attributes}
    return type("Flaky", (BaseTask,), {**fields, stage: hook})


async def waits(instance: Instance) -> None:
    await idle(10)
    await until(lambda: instance.runs.n_asleep == 1 and instance.runs.n_running == 0)
    await idle(10)


def attempts(world: World, stage: str = "run") -> list[int]:
    return [e.attempt for e in world.events(StageStarted) if e.stage == stage]


# ── retries ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_stage_that_raises_is_tried_again_after_a_while_and_then_after_longer() -> None:
    cls = flaky(2, retries=EVERY_10_S)
    world = World(cls)
    async with world.up() as instance:
        run_id = (await ask(instance, "flaky")).run_id
        for delay_s in (10, 20):
            await waits(instance)
            assert (await instance.answers.run(run_id)).status == "waiting"
            n = len(cls.calls)
            await world.clock.advance(delay_s - 0.1)
            await idle()
            assert len(cls.calls) == n
            await world.clock.advance(0.1)
        assert (await instance.runs.ended(run_id)).run.result == 3
    assert attempts(world) == [1, 2, 3]
    failures = world.events(StageFailed)
    assert [(e.attempt, e.fatal, e.retry_at_us is None) for e in failures] == [(1, False, False), (2, False, False)]
    assert {e.reason for e in failures} == {f"not for {PSEUDONYMS.user('alice')}"}
    assert [e.attempt for e in world.events(StageFinished)] == [3]


async def test_when_the_attempts_are_used_up_the_run_fails_with_the_last_error() -> None:
    world = World(flaky(9, retries=Retry(max_attempts=3, initial_s=0)))
    async with world.up() as instance:
        ended = await run(instance, "flaky")
    assert (ended.run.status, ended.run.error_type) == ("error", "ValueError")
    assert [e.fatal for e in world.events(StageFailed)] == [False, False, True]
    assert len(world.events(RunFailed)) == 1


async def test_without_retries_one_attempt_is_all() -> None:
    world = World(flaky(9))
    async with world.up() as instance:
        assert (await run(instance, "flaky")).run.status == "error"
    assert attempts(world) == [1]


@pytest.mark.parametrize(
    ("error", "n_attempts"),
    [(ConnectionError("x"), 3), (ConnectionResetError("x"), 3), (ValueError("x"), 1), (TimeoutError("x"), 1)],
    ids=repr,
)
async def test_only_errors_that_the_policy_names_are_tried_again(error: Exception, n_attempts: int) -> None:
    retry = Retry(max_attempts=3, initial_s=0, retry_on=(OSError,), give_up_on=("TimeoutError",))
    world = World(flaky(9, error, retries=retry))
    async with world.up() as instance:
        assert (await run(instance, "flaky")).run.error_type == type(error).__name__
    assert len(attempts(world)) == n_attempts


@pytest.mark.parametrize("value", [{1, 2}, "x" * 600_000], ids=["no JSON", "too large"])
async def test_a_result_that_cannot_be_recorded_is_not_tried_again(value: Any) -> None:
    cls = type("Bad", (), {"name": "bad", "run": lambda self: value, "retries": Retry(initial_s=0)})
    world = World(cls)
    async with world.up() as instance:
        assert (await run(instance, "bad")).run.status == "error"
    assert attempts(world) == [1]


async def test_a_crash_does_not_use_up_an_attempt() -> None:
    gate = asyncio.Event()
    calls: list[int] = []

    class Slow(BaseTask):
        name = "slow"
        retries = Retry(max_attempts=2, initial_s=0)

        async def run(self) -> str:
            calls.append(1)
            await gate.wait()
            if len(calls) < 4:
                raise ValueError("not yet")
            return "done"

    world = World(Slow)
    instance = await world.start()
    run_id = (await ask(instance, "slow")).run_id
    for n in (1, 2):
        await until(lambda n=n: len(calls) == n)
        world.crash(instance)
        instance = await world.start()
    await until(lambda: len(calls) == 3)
    gate.set()
    assert (await instance.runs.ended(run_id)).run.result == "done"
    assert [e.attempt for e in world.events(StageFailed)] == [3]
    assert attempts(world) == [1, 2, 3, 4]
    await instance.log.close()


async def test_a_retry_is_due_when_it_was_though_the_daemon_was_down() -> None:
    cls = flaky(1, retries=EVERY_10_S)
    world = World(cls)
    instance = await world.start()
    run_id = (await ask(instance, "flaky")).run_id
    await waits(instance)
    world.crash(instance)
    await world.clock.advance(4)
    async with world.up() as instance:
        await waits(instance)
        await world.clock.advance(5.9)
        await idle()
        assert len(cls.calls) == 1
        await world.clock.advance(0.1)
        assert (await instance.runs.ended(run_id)).run.result == 2


async def test_each_attempt_is_made_by_a_fresh_instance() -> None:
    class Counts(BaseTask):
        name = "counts"
        retries = Retry(initial_s=0)
        made: list[int] = []

        def __init__(self) -> None:
            self.made.append(1)
            self.n = 0

        def run(self) -> int:
            self.n += 1
            if len(self.made) < 3:
                raise ValueError
            return self.n

    async with World(Counts).up() as instance:
        assert (await run(instance, "counts")).run.result == 1


async def test_a_failed_precheck_may_be_tried_again() -> None:
    world = World(flaky(1, stage="plan", retries={"precheck": Retry(initial_s=0)}, plan=lambda self: None))
    calls: list[int] = []

    def precheck(self: Any) -> Any:
        calls.append(1)
        return True if len(calls) == 2 else "no budget"

    cls = type("Checked", (), {"name": "c", "precheck": precheck, "run": lambda s: 1, "retries": Retry(initial_s=0)})
    world = World(cls)
    async with world.up() as instance:
        assert (await run(instance, "c")).run.status == "success"
    assert [e.reason for e in world.events(StageFailed)] == ["no budget"]


async def test_research_that_raises_is_tried_again_and_then_ends_the_run() -> None:
    world = World(flaky(9, stage="research", retries={"research": Retry(max_attempts=2, initial_s=0)}))
    async with world.up() as instance:
        assert (await run(instance, "flaky")).run.status == "error"
    assert [(e.attempt, e.fatal) for e in world.events(StageFailed)] == [(1, False), (2, True)]


async def test_research_that_finds_nothing_is_tried_again_and_then_the_run_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "tino_storm", None)
    cls = type("R", (), {"name": "r", "research": lambda s: "query", "run": lambda s: "ran"})
    cls.retries = {"research": Retry(max_attempts=2, initial_s=0)}  # type: ignore[attr-defined]
    world = World(cls)
    async with world.up() as instance:
        assert (await run(instance, "r")).run.result == "ran"
    assert [(e.attempt, e.fatal, e.retry_at_us is None) for e in world.events(StageFailed)] == [
        (1, False, False), (2, False, True)
    ]  # fmt: skip


def test_a_pipeline_in_a_script_retries_as_well() -> None:
    cls = flaky(2, retries=Retry(max_attempts=3, initial_s=0.001))
    pipeline = TaskPipeline(cls)
    assert pipeline.run(**WHO) == 3
    rows = [(row.stage, row.status) for row in pipeline.audit_rows()]
    assert rows.count(("execute", "error")) == 2
    assert rows.count(("execute", "success")) == 1


async def test_every_attempt_has_its_audit_rows() -> None:
    world = World(flaky(1, stage="plan", retries=Retry(initial_s=0)))
    async with world.up() as instance:
        await run(instance, "flaky")
    rows = [(row.stage, row.status) for event in world.events() for row in audit_rows(event) if row.stage == "plan"]
    assert rows == [("plan", "started"), ("plan", "error"), ("plan", "started"), ("plan", "success")]


class NameExits(type):
    @property
    def __name__(cls) -> str:  # type: ignore[override]
        raise SystemExit(3)


class Hostile(Exception, metaclass=NameExits):
    def __str__(self) -> str:
        raise SystemExit(4)


async def test_an_error_with_code_of_its_own_everywhere_is_tried_again_like_any_other() -> None:
    world = World(flaky(1, Hostile(), retries=Retry(initial_s=0)))
    async with world.up() as instance:
        assert (await run(instance, "flaky")).run.result == 2
    assert [e.error_type for e in world.events(StageFailed)] == ["Hostile"]


# ── time limits ──────────────────────────────────────────────────────────────────────────────────────────────────────


class Slow(BaseTask):
    """Takes as long as its gate is shut."""

    name = "slow"
    timeout_s: Any = 5
    gate: asyncio.Event
    ends: list[str]

    async def run(self) -> str:
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.ends.append("cancelled")
            raise
        return "done"


def slow(**attributes: Any) -> type[Slow]:
    return type("Slow", (Slow,), {"gate": asyncio.Event(), "ends": [], **attributes})


async def test_a_coroutine_that_takes_too_long_is_cancelled_and_its_run_fails() -> None:
    cls = slow()
    world = World(cls)
    async with world.up() as instance:
        run_id = (await ask(instance, "slow")).run_id
        await idle()
        await world.clock.advance(4.9)
        assert cls.ends == []
        await world.clock.advance(0.1)
        ended = await instance.runs.ended(run_id)
        assert cls.ends == ["cancelled"]
        await idle()
        assert instance.runs.n_running == 0
    assert (ended.run.error_type, ended.run.reason) == ("timeout", "the stage run took longer than 5 s")
    assert world.events(StageLate) == []


async def test_a_stage_in_time_is_left_alone() -> None:
    cls = slow()
    world = World(cls)
    async with world.up() as instance:
        run_id = (await ask(instance, "slow")).run_id
        await idle()
        await world.clock.advance(4.9)
        cls.gate.set()
        assert (await instance.runs.ended(run_id)).run.result == "done"
        await world.clock.advance(10)
    assert cls.ends == []
    assert world.clock.n_sleeping == 0  # type: ignore[attr-defined]


async def test_a_timeout_is_an_error_like_others_and_may_be_tried_again() -> None:
    cls = slow(retries=Retry(max_attempts=2, initial_s=0, retry_on=(TimeoutError,)))
    world = World(cls)
    async with world.up() as instance:
        run_id = (await ask(instance, "slow")).run_id
        for _ in range(2):
            await idle()
            await world.clock.advance(5)
        assert (await instance.runs.ended(run_id)).run.error_type == "timeout"
    assert attempts(world) == [1, 2]


async def test_a_time_limit_by_stage_is_that_stages_only() -> None:
    cls = slow(timeout_s={"plan": 1}, plan=lambda self: None)
    world = World(cls)
    async with world.up() as instance:
        run_id = (await ask(instance, "slow")).run_id
        await idle()
        await world.clock.advance(100)
        cls.gate.set()
        assert (await instance.runs.ended(run_id)).run.result == "done"


async def test_the_time_that_a_stage_sleeps_is_not_counted() -> None:
    class Sleeps(BaseTask):
        name = "sleeps"
        timeout_s = 5

        async def run(self) -> str:
            await self.sleep(100)
            return "done"

    world = World(Sleeps)
    async with world.up() as instance:
        run_id = (await ask(instance, "sleeps")).run_id
        await waits(instance)
        await world.clock.advance(100)
        assert (await instance.runs.ended(run_id)).run.result == "done"


@pytest.mark.parametrize(("late", "outcome"), [("done", "success"), (ValueError("alice"), "error")])
async def test_a_coroutine_that_swallows_its_cancellation_is_late_and_counts_for_nothing(
    late: Any, outcome: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_stage, "CANCEL_PATIENCE_S", 0.01)
    gate = asyncio.Event()

    class Stubborn(BaseTask):
        name = "stubborn"
        timeout_s = 5

        async def run(self) -> Any:
            while not gate.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await gate.wait()
            if isinstance(late, Exception):
                raise late
            return late

    world = World(Stubborn)
    async with world.up() as instance:
        run_id = (await ask(instance, "stubborn")).run_id
        await idle()
        await world.clock.advance(5)
        ended = await instance.runs.ended(run_id)
        gate.set()
        await until(lambda: world.events(StageLate))
        assert (await instance.runs.ended(run_id)).run == ended.run
    assert ended.run.error_type == "timeout"
    [event] = world.events(StageLate)
    assert (event.stage, event.attempt, event.outcome) == ("run", 1, outcome)
    assert "alice" not in event.reason


async def test_a_late_attempt_can_do_nothing_to_the_one_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_stage, "CANCEL_PATIENCE_S", 0.01)
    gate, tried = asyncio.Event(), []

    class Stubborn(BaseTask):
        name = "stubborn"
        timeout_s = 5
        retries = Retry(max_attempts=2, initial_s=0)
        n = 0

        async def run(self) -> Any:
            type(self).n += 1
            if self.n == 2:
                return await self.step("s", lambda: "second")
            while not gate.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await gate.wait()
            try:
                await self.step("s", lambda: "first")
            except Exception as error:
                tried.append(type(error).__name__)

    world = World(Stubborn)
    async with world.up() as instance:
        run_id = (await ask(instance, "stubborn")).run_id
        await idle()
        await world.clock.advance(5)
        await until(lambda: Stubborn.n == 2)
        assert (await instance.runs.ended(run_id)).run.result == "second"
        gate.set()
        await until(lambda: world.events(StageLate))
    assert tried == ["Superseded"]
    assert [e.output for e in world.events(StepFinished)] == ["second"]


@pytest.fixture
def threads() -> Iterator[ThreadSpawner]:
    spawner = ThreadSpawner(3)
    yield spawner
    spawner.close()


async def test_a_thread_that_takes_too_long_is_abandoned_and_its_end_is_noted(threads: ThreadSpawner) -> None:
    go = threading.Event()

    class Hung:
        name = "hung"
        timeout_s = 0.05

        def run(self) -> str:
            go.wait(30)
            return "late"

    world = World(Hung, spawner=threads, clock=SystemClock())
    async with world.up() as instance:
        ended = await run(instance, "hung")
        assert (ended.run.error_type, instance.spawner.n_abandoned) == ("timeout", 1)
        go.set()
        while not world.events(StageLate):
            await asyncio.sleep(0.001)
        assert instance.spawner.n_abandoned == 0
    assert [(e.outcome, e.attempt) for e in world.events(StageLate)] == [("success", 1)]
    assert world.events(RunFinished) == world.events(StageFinished) == []


async def test_the_time_of_a_stage_is_its_own_and_not_what_it_waits_for_a_thread() -> None:
    go, begun, performed = threading.Event(), threading.Event(), list[str]()

    class Holds(BaseTask):
        name, delivery = "holds", "at_most_once"

        def run(self) -> str:
            performed.append(self.name)
            begun.set()
            go.wait(30)
            return "done"

    limited = type("Limited", (Holds,), {"name": "limited", "timeout_s": 5})
    spawner = ThreadSpawner(1)
    world = World(Holds, limited, spawner=spawner)
    async with world.up() as instance:
        first = (await ask(instance, "holds")).run_id
        assert await asyncio.to_thread(begun.wait, 30)
        second = (await ask(instance, "limited")).run_id
        await idle(50)
        await world.clock.advance(6)
        await idle(50)
        assert (world.events(RunDoubted), performed) == ([], ["holds"])
        go.set()
        for run_id in (first, second):
            assert (await asyncio.wait_for(instance.runs.ended(run_id), 5)).run.result == "done"
    spawner.close()


def test_a_timeout_reaches_the_caller_of_a_pipeline_as_one() -> None:
    with pytest.raises(TimeUp, match="^the stage run took longer than 0.01 s$"):
        TaskPipeline(slow(timeout_s=0.01)).run(**WHO)


# ── effects that must not happen twice ───────────────────────────────────────────────────────────────────────────────


class Charges(BaseTask):
    """Charges once, behind a gate."""

    name = "charges"
    delivery = "at_most_once"
    gate: asyncio.Event
    charged: list[str]

    async def run(self) -> str:
        self.charged.append("c")
        await self.gate.wait()
        return "receipt"

    def verify(self, result: Any) -> Any:
        return [result]


class ChargesInSteps(Charges):
    async def run(self) -> Any:
        first = await self.step("look up", lambda: "alice's")
        return [first, await self.step("charge", self.charge)]

    async def charge(self) -> str:
        return await Charges.run(self)


def charges(cls: type = Charges, **attributes: Any) -> Any:
    return type(cls.__name__, (cls,), {"gate": asyncio.Event(), "charged": [], **attributes})


async def in_doubt(world: World, *, orderly: bool = False) -> tuple[Instance, str]:
    """The second life of a run that was under way when the first one ended."""
    instance = await world.start()
    run_id = (await ask(instance, "charges")).run_id
    await until(lambda: world.tasks[0].charged)  # type: ignore[attr-defined]
    if orderly:
        await instance.runs.stop(0)
        await instance.log.close()
    else:
        world.crash(instance)
    instance = await world.start()
    await idle()
    return instance, run_id


@pytest.mark.parametrize("orderly", [False, True])
@pytest.mark.parametrize("cls", [Charges, ChargesInSteps])
async def test_what_was_under_way_when_the_process_ended_is_in_doubt_and_not_done_again(
    cls: type, orderly: bool
) -> None:
    task = charges(cls)
    world = World(task)
    instance, run_id = await in_doubt(world, orderly=orderly)
    assert (await instance.answers.run(run_id)).status == "in_doubt"
    assert (task.charged, instance.runs.n_running) == (["c"], 0)
    [doubted] = world.events(RunDoubted)
    assert (doubted.stage, doubted.step) == ("run", "charge" if cls is ChargesInSteps else None)
    assert len(world.events(StageInterrupted)) == orderly
    await instance.log.close()


async def test_a_crash_after_the_effect_and_before_its_record_is_in_doubt_too() -> None:
    task = charges(ChargesInSteps)
    world = World(task)
    instance = await world.start()
    run_id = (await ask(instance, "charges")).run_id
    await until(lambda: task.charged)
    instance.log.die()
    task.gate.set()
    await idle()
    world.crash(instance)
    async with world.up() as instance:
        await idle()
        assert (await instance.answers.run(run_id)).status == "in_doubt"
    assert task.charged == ["c"]


async def test_before_its_first_effect_a_stage_that_works_in_steps_has_done_nothing() -> None:
    """Only its own start is recorded. Whether it would work in steps nobody knows by then, so that is in doubt."""
    task = charges(ChargesInSteps)
    world = World(task)
    instance, _run_id = await in_doubt(world)
    assert [e.name for e in world.events(StepStarted)] == ["look up", "charge"]
    await instance.log.close()


async def test_a_run_in_doubt_stays_so_over_restarts_until_somebody_says_what_it_was() -> None:
    task = charges()
    world = World(task)
    instance, run_id = await in_doubt(world)
    for _ in range(3):
        world.crash(instance)
        instance = await world.start()
        await idle()
        assert (await instance.answers.run(run_id)).status == "in_doubt"
    waiting = asyncio.ensure_future(instance.runs.ended(run_id))
    await idle()
    await instance.controls.resolve(run_id, "done", by=None, output="their receipt")
    assert (await waiting).run.result == ["their receipt"]
    assert task.charged == ["c"]
    assert len(world.events(RunDoubted)) == 1
    await instance.log.close()


@pytest.mark.parametrize("cls", [Charges, ChargesInSteps])
async def test_retry_does_it_once_more(cls: type) -> None:
    task = charges(cls)
    world = World(task)
    instance, run_id = await in_doubt(world)
    task.gate.set()
    await instance.controls.resolve(run_id, "retry", by=PSEUDONYMS.user("bob"))
    ended = await asyncio.wait_for(instance.runs.ended(run_id), 5)
    assert ended.run.result == [["alice's", "receipt"] if cls is ChargesInSteps else "receipt"]
    assert task.charged == ["c", "c"]
    assert len(world.events(RunDoubted)) == 1
    assert [e.by for e in world.events(RunResolved)] == [PSEUDONYMS.user("bob")]
    await instance.log.close()


async def test_a_retry_that_the_process_does_not_survive_is_in_doubt_once_more() -> None:
    task = charges()
    world = World(task)
    instance, run_id = await in_doubt(world)
    await instance.controls.resolve(run_id, "retry", by=None)
    await until(lambda: len(task.charged) == 2)
    world.crash(instance)
    async with world.up() as instance:
        await idle()
        assert (await instance.answers.run(run_id)).status == "in_doubt"
    assert len(task.charged) == 2


async def test_a_retry_that_was_asked_for_and_not_begun_before_a_crash_is_begun_or_in_doubt_but_not_lost() -> None:
    task = charges()
    world = World(task)
    instance, run_id = await in_doubt(world)
    instance.runs.look_at = lambda live: None  # type: ignore[method-assign]  # the power is cut before anybody looks
    await instance.controls.resolve(run_id, "retry", by=None)
    world.crash(instance)
    async with world.up() as instance:
        await idle()
        assert (await instance.answers.run(run_id)).status in ("running", "in_doubt")


async def test_done_with_a_step_is_handed_to_the_stage_and_the_step_is_not_done_again() -> None:
    task = charges(ChargesInSteps)
    world = World(task)
    instance, run_id = await in_doubt(world)
    await instance.controls.resolve(run_id, "done", by=None, output="their receipt")
    assert (await instance.runs.ended(run_id)).run.result == [["alice's", "their receipt"]]
    assert task.charged == ["c"]
    await instance.log.close()


@pytest.mark.parametrize("cls", [Charges, ChargesInSteps])
async def test_fail_ends_the_run(cls: type) -> None:
    world = World(charges(cls))
    instance, run_id = await in_doubt(world)
    waiting = asyncio.ensure_future(instance.runs.ended(run_id))
    await idle()
    assert (await instance.controls.resolve(run_id, "fail", by=None)).run.status == "error"
    assert (await asyncio.wait_for(waiting, 5)).run.error_type == "in_doubt"
    await idle()
    assert instance.runs.n_asleep == 0
    await instance.log.close()


async def test_a_doubt_is_settled_once() -> None:
    task = charges()
    world = World(task)
    instance, run_id = await in_doubt(world)
    with pytest.raises(Invalid, match="a doubt is resolved by retry, done, fail"):
        await instance.controls.resolve(run_id, "maybe", by=None)
    task.gate.set()
    answers = await asyncio.gather(
        *(instance.controls.resolve(run_id, "done", by=None, output=n) for n in range(3)), return_exceptions=True
    )
    assert sorted(type(answer).__name__ for answer in answers) == ["Conflict", "Conflict", "Controlled"]
    assert (await instance.runs.ended(run_id)).run.status == "success"
    with pytest.raises(Conflict):
        await instance.controls.resolve(run_id, "done", by=None)
    await instance.log.close()


@pytest.mark.parametrize(("on_doubt", "status"), [("retry", "success"), ("fail", "error")])
@pytest.mark.parametrize("cls", [Charges, ChargesInSteps])
async def test_a_task_may_say_beforehand_what_is_to_be_made_of_it(cls: type, on_doubt: str, status: str) -> None:
    task = charges(cls, on_doubt=on_doubt)
    world = World(task)
    instance, run_id = await in_doubt(world)
    task.gate.set()
    assert (await instance.runs.ended(run_id)).run.status == status
    assert len(task.charged) == (2 if on_doubt == "retry" else 1)
    assert [(e.verdict, e.by) for e in world.events(RunResolved)] == [(on_doubt, None)]
    await instance.log.close()


async def test_a_time_that_is_up_is_a_doubt_as_well() -> None:
    task = charges(timeout_s=5)
    world = World(task)
    async with world.up() as instance:
        run_id = (await ask(instance, "charges")).run_id
        await idle()
        await world.clock.advance(5)
        await waits(instance)
        assert (await instance.answers.run(run_id)).status == "in_doubt"
        assert world.events(RunDoubted)[0].reason == "the stage run took longer than 5 s"
        await instance.controls.resolve(run_id, "done", by=None, output="receipt")
        assert (await instance.runs.ended(run_id)).run.result == ["receipt"]


async def test_a_time_that_is_up_between_steps_is_an_error_and_no_doubt() -> None:
    """As with a crash there: whatever may have happened is in the steps, and those have ended."""

    async def hook(self: Any) -> None:
        await self.step("charge", lambda: "receipt")
        await asyncio.sleep(3600)

    world = World(type("T", (BaseTask,), {"name": "t", "run": hook, "delivery": "at_most_once", "timeout_s": 5}))
    async with world.up() as instance:
        run_id = (await ask(instance, "t")).run_id
        await until(lambda: world.events(StepFinished))
        await idle()
        await world.clock.advance(5)
        ended = await asyncio.wait_for(instance.runs.ended(run_id), 5)
    assert (ended.run.error_type, ended.run.reason) == ("timeout", "the stage run took longer than 5 s")
    assert world.events(RunDoubted) == []


async def test_where_the_policy_is_to_fail_a_time_that_is_up_ends_the_run() -> None:
    world = World(charges(timeout_s=5, on_doubt="fail"))
    async with world.up() as instance:
        run_id = (await ask(instance, "charges")).run_id
        await idle()
        await world.clock.advance(5)
        ended = await asyncio.wait_for(instance.runs.ended(run_id), 5)
    assert (ended.run.status, ended.run.error_type) == ("error", "in_doubt")


async def test_where_the_policy_is_to_retry_a_time_that_is_up_is_an_error_with_so_many_attempts() -> None:
    """Else a stage that always hangs would be started for ever."""
    task = charges(timeout_s=5, on_doubt="retry", retries=Retry(max_attempts=3, initial_s=0))
    world = World(task)
    async with world.up() as instance:
        run_id = (await ask(instance, "charges")).run_id
        for _ in range(3):
            await idle()
            await world.clock.advance(5)
        ended = await asyncio.wait_for(instance.runs.ended(run_id), 5)
    assert (ended.run.status, ended.run.error_type) == ("error", "timeout")
    assert len(task.charged) == 3


async def test_without_retries_a_time_that_is_up_is_tried_again_at_once_and_not_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(run_stage, "MAX_ATTEMPTS", 4)
    task = charges(timeout_s=5, on_doubt="retry")
    world = World(task)
    async with world.up() as instance:
        run_id = (await ask(instance, "charges")).run_id
        for _ in range(4):
            await idle()
            await world.clock.advance(5)
        ended = await asyncio.wait_for(instance.runs.ended(run_id), 5)
    assert (ended.run.error_type, len(task.charged)) == ("timeout", 4)


async def test_an_effect_that_raised_is_no_doubt_and_may_be_tried_again() -> None:
    cls = flaky(1, delivery="at_most_once", retries=Retry(initial_s=0))
    world = World(cls)
    async with world.up() as instance:
        assert (await run(instance, "flaky")).run.result == 2
    assert world.events(RunDoubted) == []


async def test_in_doubt_a_run_leaves_audit_rows() -> None:
    world = World(charges())
    instance, run_id = await in_doubt(world)
    await instance.controls.resolve(run_id, "fail", by=None)
    rows = [(row.stage, row.status) for event in world.events(run_id=run_id) for row in audit_rows(event)]
    assert ("execute", "in_doubt") in rows
    assert ("run", "resolved") in rows
    await instance.log.close()
