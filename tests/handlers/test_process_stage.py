"""A few whole runs of tasks that have processes of their own."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from cascadenced.clock import SystemClock
from cascadenced.events.run import RunDoubted
from cascadenced.events.stage import StageFailed, StageFinished, StageStarted
from cascadenced.events.step import StepFailed, StepFinished
from cascadenced.events.wait import WaitStarted
from cascadenced.handlers.run_requests import Origin
from cascadenced.instance import Instance
from cascadenced.pipeline.resume import CRASHES_TO_GIVE_UP
from cascadenced.runtime.spawn import ThreadSpawner
from tests.doubles import ALICE, PSEUDONYMS, World, ask, run
from tests.handlers import isolated_tasks as tasks
from tests.runtime.worker_world import children, is_alive

pytestmark = pytest.mark.slow
ALICES = PSEUDONYMS.user("alice")


@asynccontextmanager
async def up(world: World) -> AsyncIterator[Instance]:
    """One life. Fails if a process is left."""
    before = set(children())
    async with asyncio.timeout(40), world.up() as instance:
        try:
            yield instance
        finally:
            await instance.stages.close()
    assert set(children()) <= before


async def until(condition: Any) -> None:
    """For what processes do in their own time."""
    while not condition():
        await asyncio.sleep(0.01)


async def asleep(instance: Instance) -> None:
    await until(lambda: instance.runs.n_asleep == 1 and instance.runs.n_running == 0)
    await asyncio.sleep(0.02)


async def test_a_run_keeps_its_process_through_its_stages_and_has_none_while_it_waits(tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    world = World(tasks.Journey)
    async with up(world) as instance:
        run_id = (await ask(instance, "journey", args={"calls": str(calls)})).run_id
        await asleep(instance)
        assert instance.stages._processes._at_work == {}
        assert [(e.stage, e.printed) for e in world.events(StageFinished)] == [
            ("intake", f"hello {ALICES}\n"),
            ("plan", None),
        ]
        assert [e.printed for e in world.events(WaitStarted)] == ["tired\n"]
    async with up(world) as instance:  # another life
        await asleep(instance)
        await world.clock.advance(60)  # type: ignore[attr-defined]
        await until(lambda: calls.read_text() == "one\ntwo\n")
        await asleep(instance)
        await instance.controls.signal(run_id, "told", via="cli", by=None, redact=None)
        await instance.requests.dispatch("paid", {"n": 7, "by": "card"}, ALICE, Origin(via="http"))
        ended = await instance.runs.ended(run_id)
    assert ended.run.result == [{"same": True}, "one", "two", "card", "three", ["told"]]
    assert calls.read_text() == "one\ntwo\nthree\n"
    assert [e.name for e in world.events(StepFinished)] == [f"one for {ALICES}", "two", "three"]


async def test_branches_find_their_own_steps_again_and_none_is_done_twice(tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    world = World(tasks.Branching)
    async with up(world) as instance:
        run_id = (await ask(instance, "branching", args={"calls": str(calls)})).run_id
        for n in (1, 2, 3):
            await until(lambda n=n: len(world.events(WaitStarted)) == n)
            await asleep(instance)
            await world.clock.advance(60)  # type: ignore[attr-defined]
        ended = await instance.runs.ended(run_id)
    assert ended.run.result == [["a1", "a2"], ["b1", "b2"], ["c1", "c2"]]
    assert sorted(calls.read_text().split()) == ["a1", "a2", "b1", "b2", "c1", "c2"]


async def test_a_wait_that_took_too_long_raises_a_timeout_error_there_too() -> None:
    world = World(tasks.TimesOut)
    async with up(world) as instance:
        run_id = (await ask(instance, "times-out")).run_id
        await asleep(instance)
        await world.clock.advance(5)  # type: ignore[attr-defined]
        assert (await instance.runs.ended(run_id)).run.result == "timed out: no event 'paid' came within 5 s"


async def test_a_stage_that_took_its_process_with_it_is_tried_again_in_another(tmp_path: Path) -> None:
    world = World(tasks.Aborts, clock=SystemClock())
    async with up(world) as instance:
        assert (await run(instance, "aborts", args={"calls": str(tmp_path / "c")})).run.result == "survived"
    [failed] = world.events(StageFailed)
    assert (failed.error_type, failed.fatal) == ("worker.signal", False)


@pytest.mark.parametrize("task", [tasks.PaysAndDies, tasks.PaysInAStepAndDies])
async def test_an_effect_that_must_not_happen_twice_is_in_doubt_when_its_process_died(
    tmp_path: Path, task: type[tasks.PaysAndDies]
) -> None:
    """Whatever the retries: they are for errors, and this may have been none."""
    calls = tmp_path / "calls"
    world = World(task, clock=SystemClock())
    async with up(world) as instance:
        run_id = (await ask(instance, task.name, args={"calls": str(calls)})).run_id
        await asleep(instance)
        assert [row.run_id for row in (await instance.answers.runs(status="in_doubt")).items] == [run_id]
        [doubted] = world.events(RunDoubted)
        assert doubted.step == ("pay" if task.in_step else None)
        assert "SIGKILL" in doubted.reason
        await instance.controls.resolve(run_id, "done", by=None, output="receipt")
        assert (await instance.runs.ended(run_id)).run.result == "receipt"
    assert calls.read_text() == "paid\n"


async def test_an_effect_that_may_happen_again_is_tried_so_often_when_its_process_dies_each_time(
    tmp_path: Path,
) -> None:
    calls = tmp_path / "calls"
    world = World(tasks.PaysAgainAndDies, clock=SystemClock())
    async with up(world) as instance:
        ended = await run(instance, "pays-again-and-dies", args={"calls": str(calls)})
    assert (ended.run.status, ended.run.error_type) == ("error", "worker.signal")
    assert len(calls.read_text().splitlines()) == CRASHES_TO_GIVE_UP


async def test_the_time_of_a_stage_is_its_own_and_not_what_it_waits_for_a_process(tmp_path: Path) -> None:
    world = World(tasks.Waits, tasks.Holds, clock=SystemClock(), max_processes=1)
    async with up(world) as instance:
        holding = await ask(instance, "holds", args={"go": str(tmp_path / "go")})
        waiting = await ask(instance, "waits", args={"go": str(tmp_path / "go")})
        await until(lambda: len(world.events(StageStarted)) == 2)
        await asyncio.sleep(2 * tasks.Waits.timeout_s["run"])  # what is not to happen cannot be awaited
        assert world.events(RunDoubted) == []
        (tmp_path / "go").touch()
        for accepted in (holding, waiting):
            assert (await instance.runs.ended(accepted.run_id)).run.result == "done"


async def test_a_stage_that_takes_too_long_is_killed(tmp_path: Path) -> None:
    world = World(tasks.Loops, clock=SystemClock())
    async with up(world) as instance:
        ended = await run(instance, "loops", args={"calls": str(tmp_path / "c")})
        assert ended.run.error_type == "timeout"
        assert [e.printed for e in world.events(StageFailed)] == [f"round and round for {ALICES}\n"]
        pid = int((tmp_path / "c").read_text())
        await until(lambda: not is_alive(pid))


async def test_a_run_that_is_cancelled_has_its_process_killed(tmp_path: Path) -> None:
    world = World(tasks.Loops)
    async with up(world) as instance:
        run_id = (await ask(instance, "loops", args={"calls": str(tmp_path / "c")})).run_id
        await until(lambda: (tmp_path / "c").exists() and (tmp_path / "c").read_text())
        pid = int((tmp_path / "c").read_text())
        assert pid != os.getpid()
        await instance.controls.cancel(run_id, via="cli", by=None)
        assert (await instance.runs.ended(run_id)).run.status == "cancelled"
        await until(lambda: not is_alive(pid))


@pytest.mark.parametrize(
    ("task", "args", "error_type", "n_attempts"),
    [
        (tasks.Unserialisable, {}, "result.unserialisable", 1),
        (tasks.Raises, {"what": "missing"}, "FileNotFoundError", 3),
        (tasks.Raises, {"what": "reset"}, "ConnectionResetError", 1),
        (tasks.Raises, {"what": "value"}, "ValueError", 1),
        (tasks.Hungry, {}, "worker.out_of_memory", 1),
        (tasks.Nested, {}, "Invalid", 1),
    ],
)
async def test_errors_are_told_and_tried_again_as_those_of_other_tasks(
    task: Any, args: Any, error_type: str, n_attempts: int
) -> None:
    world = World(task, clock=SystemClock())
    async with up(world) as instance:
        ended = await run(instance, task.name, args=args)
    assert (ended.run.status, ended.run.error_type) == ("error", error_type)
    assert len(world.events(StageStarted)) == n_attempts
    assert "alice" not in str(ended.run.reason)


async def test_code_that_asks_for_something_else_than_before_is_stopped_there_too(tmp_path: Path) -> None:
    world = World(tasks.Mismatched)
    async with up(world) as instance:
        run_id = (await ask(instance, "mismatched", args={"calls": str(tmp_path / "c")})).run_id
        await asleep(instance)
        await world.clock.advance(60)  # type: ignore[attr-defined]
        ended = await instance.runs.ended(run_id)
    assert ended.run.error_type == "step.mismatch"
    assert "place 1 was the step 'first', and now the stage asks for the step 'second'" in str(ended.run.reason)
    assert [e.retry_at_us for e in world.events(StageFailed)] == [None]


async def test_a_tasks_own_attach_context_is_called_there_too() -> None:
    world = World(tasks.Hears)
    async with up(world) as instance:
        await instance.runs.stop(0)
        run_id = (await ask(instance, "hears")).run_id
        for n in (1, 2):
            await instance.controls.signal(run_id, n, via="cli", by=None, redact=None)
        await instance.log.close()
    async with up(world) as instance:
        assert (await instance.runs.ended(run_id)).run.result == [[1, 2], []]


async def test_what_makes_no_sense_is_told_to_the_task_and_takes_no_place_in_a_process_as_in_a_thread() -> None:
    world = World(tasks.Confused, tasks.ConfusedInAThread, spawner=ThreadSpawner(2))
    async with up(world) as instance:
        there, here = await run(instance, "confused"), await run(instance, "confused-in-a-thread")
    assert there.run.status == "success", there.run.reason
    assert there.run.result == here.run.result
    *said, last = there.run.result
    assert (len(said), last) == (12, "went on")
    places = [(e.name, e.place) for e in world.events() if isinstance(e, StepFinished | StepFailed)]
    assert places == [("outer", "1"), ("last", "2")] * 2
