"""Crashes, orderly stops and what the next start makes of them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from cascadenced.clock import SystemClock
from cascadenced.errors import DiskFull, Unavailable
from cascadenced.events.audit import audit_rows
from cascadenced.events.idea import NoteRecorded
from cascadenced.events.pointer import PointerAdded
from cascadenced.events.run import RunFailed, RunFinished, RunHeld, RunRequested, RunStarted
from cascadenced.events.stage import StageFinished, StageInterrupted, StageLate, StageStarted
from cascadenced.events.workflow import EventDispatched
from cascadenced.instance import Instance
from cascadenced.plugins.base import BaseTask, PointerTask
from cascadenced.runtime.journey import PROBATION_S
from cascadenced.runtime.spawn import ThreadSpawner
from cascadenced.vault import MemoryVault
from cascadenced.verbs import VERBS, perform
from cascadenced.workflows import subscribe
from tests.doubles import ALICE, World, ask, idle, run, until


class Journey:
    """Three stages, each behind a gate of its name. performed: stages as their code is entered, in every life."""

    name = "journey"
    performed: list[Any]
    gates: dict[str, asyncio.Event]
    user_id: str

    async def _pass(self, stage: str, *handed: Any) -> None:
        self.performed.append((stage, *handed))
        await self.gates[stage].wait()

    async def intake(self) -> str:
        await self._pass("intake")
        return "taken"

    async def plan(self) -> list[str]:
        await self._pass("plan")
        return ["a", "b"]

    async def run(self, plan: list[str]) -> str:
        await self._pass("run", plan)
        return f"{self.user_id}: {'+'.join(plan)}"


@pytest.fixture
def journey() -> type[Journey]:
    gates = {stage: asyncio.Event() for stage in ("intake", "plan", "run")}
    return type("Journey", (Journey,), {"performed": [], "gates": gates})


async def up_to(world: World, journey: type[Journey], stage: str) -> tuple[Instance, str]:
    """A first life, with a run whose `stage` is under way."""
    instance = await world.start()
    run_id = (await ask(instance, "journey")).run_id
    for before in ("intake", "plan", "run"):
        if before == stage:
            break
        journey.gates[before].set()
    await until(lambda: journey.performed and journey.performed[-1][0] == stage)
    return instance, run_id


def open_all(journey: type[Journey]) -> None:
    for gate in journey.gates.values():
        gate.set()


def starts(world: World) -> list[tuple[str, int]]:
    return [(event.stage, event.attempt) for event in world.events(StageStarted)]


async def crash_repeatedly(world: World, run_id: str, times: int) -> None:
    """Lives that die while the run's stage is under way; suspects are given the time they wait for."""
    for _ in range(times):
        n_starts = len(world.events(StageStarted))
        instance = await world.start()
        await idle()
        await world.clock.advance(60.0)
        await until(lambda n=n_starts: len(world.events(StageStarted)) > n)
        world.crash(instance)
        await idle()


# ── after a crash ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("stage", ["intake", "plan", "run"])
async def test_a_run_goes_on_with_the_first_stage_that_has_no_end(journey: type[Journey], stage: str) -> None:
    world = World(journey)
    instance, run_id = await up_to(world, journey, stage)
    world.crash(instance)
    done = [entry[0] for entry in journey.performed[:-1]]
    open_all(journey)
    async with world.up() as instance:
        ended = await instance.runs.ended(run_id)
    assert ended.run.result == "alice: a+b"
    assert [entry[0] for entry in journey.performed] == [
        *done, stage, *[s for s in ("intake", "plan", "run") if s not in done]
    ]  # fmt: skip


async def test_a_finished_stage_is_not_performed_again_and_hands_over_what_was_recorded(journey: type[Journey]) -> None:
    world = World(journey)
    instance, run_id = await up_to(world, journey, "run")
    world.crash(instance)
    open_all(journey)
    async with world.up() as instance:
        await instance.runs.ended(run_id)
    assert [entry[0] for entry in journey.performed].count("plan") == 1
    assert journey.performed[-1] == ("run", ["a", "b"])


async def test_each_start_of_a_stage_counts_as_an_attempt(journey: type[Journey]) -> None:
    world = World(journey)
    instance, run_id = await up_to(world, journey, "plan")
    world.crash(instance)
    open_all(journey)
    async with world.up() as instance:
        await instance.runs.ended(run_id)
    assert starts(world) == [("intake", 1), ("plan", 1), ("plan", 2), ("run", 1)]
    assert [event.attempt for event in world.events(StageFinished)] == [1, 2, 1]


async def test_a_stage_that_starts_again_names_the_code_it_starts_with(journey: type[Journey]) -> None:
    class Rewritten(journey):  # type: ignore[valid-type, misc]
        async def run(self, plan: list[str]) -> str:
            return "rewritten"

    world = World(journey)
    instance, run_id = await up_to(world, journey, "run")
    world.crash(instance)
    async with world.up(Rewritten) as instance:
        assert (await instance.runs.ended(run_id)).run.result == "rewritten"
        code = instance.tasks.get("journey").code
    first, *_, last = world.events(StageStarted)
    assert last.code == code != first.code


async def test_a_crash_between_the_effect_and_its_record_performs_the_stage_again(journey: type[Journey]) -> None:
    world = World(journey)
    instance, run_id = await up_to(world, journey, "plan")
    instance.log.die()  # the last thing that did not reach the disk is the end of the stage
    journey.gates["plan"].set()
    await idle()
    world.crash(instance)
    open_all(journey)
    async with world.up() as instance:
        await instance.runs.ended(run_id)
    assert [entry[0] for entry in journey.performed] == ["intake", "plan", "plan", "run"]


async def test_a_queued_run_is_started_by_the_next_life_in_its_turn(journey: type[Journey]) -> None:
    world = World(journey, max_concurrent_runs=1)
    instance, first = await up_to(world, journey, "intake")
    second = (await ask(instance, "journey")).run_id
    world.crash(instance)
    open_all(journey)
    async with world.up() as instance:
        for run_id in (first, second):
            assert (await instance.runs.ended(run_id)).run.status == "success"
    assert [recorded.run_id for recorded in world.recorded(RunFinished)] == [first, second]


async def test_what_is_asked_for_after_a_restart_lines_up_behind_what_was_there(journey: type[Journey]) -> None:
    world = World(journey, max_concurrent_runs=1)
    instance, first = await up_to(world, journey, "intake")
    second = (await ask(instance, "journey")).run_id
    world.crash(instance)
    async with world.up() as instance:
        third = (await ask(instance, "journey")).run_id
        open_all(journey)
        await instance.runs.ended(third)
    assert [recorded.run_id for recorded in world.recorded(RunFinished)] == [first, second, third]


async def test_what_is_asked_for_before_recovery_is_not_recovered_as_well(journey: type[Journey]) -> None:
    world = World(journey)
    async with world.up(recover=False) as instance:
        run_id = (await ask(instance, "journey")).run_id
        await instance.runs.recover()
        open_all(journey)
        await instance.runs.ended(run_id)
        await idle()
    assert starts(world) == [("intake", 1), ("plan", 1), ("run", 1)]


async def test_a_run_whose_commit_is_seen_by_recovery_first_is_driven_once(journey: type[Journey]) -> None:
    world = World(journey)
    async with world.up(recover=False) as instance:
        asking = asyncio.ensure_future(ask(instance, "journey"))
        await until(lambda: instance.log.waiting)
        run_id = instance.log.waiting[0].changes[0].context.run_id
        world.file.unfinished[f"run-{run_id}"] = 99  # as the reader's thread may see it before the loop is told
        await instance.runs.recover()
        open_all(journey)
        await instance.runs.ended((await asking).run_id)
        await until(lambda: instance.runs.n_running == 0)
    assert starts(world) == [("intake", 1), ("plan", 1), ("run", 1)]


async def test_a_finished_run_is_left_alone(journey: type[Journey]) -> None:
    world = World(journey)
    open_all(journey)
    async with world.up() as instance:
        await run(instance, "journey")
    async with world.up() as instance:
        assert await instance.runs.recover() == 0
        await idle()
    assert len(starts(world)) == 3


async def test_after_a_restart_the_same_run_reads_as_one_story(journey: type[Journey]) -> None:
    world = World(journey)
    instance, run_id = await up_to(world, journey, "run")
    world.crash(instance)
    open_all(journey)
    async with world.up() as instance:
        await instance.runs.ended(run_id)
    events = world.recorded(run_id=run_id)
    assert [event.version for event in events] == list(range(1, len(events) + 1))
    assert {event.correlation for event in events} == {run_id}
    assert [event.cause for event in events[1:]] == [event.id for event in events[:-1]]
    assert len({event.user_hash for event in events}) == 1


# ── crash after crash ────────────────────────────────────────────────────────────────────────────────────────


async def test_after_the_first_and_second_crash_a_run_goes_on_at_once(journey: type[Journey]) -> None:
    world = World(journey)
    instance, _ = await up_to(world, journey, "run")
    world.crash(instance)
    for attempt in (2, 3):
        instance = await world.start()
        await until(lambda a=attempt: starts(world)[-1] == ("run", a))
        world.crash(instance)


async def test_after_the_third_crash_a_run_goes_on_alone_and_later(journey: type[Journey]) -> None:
    world = World(journey, max_concurrent_runs=1)
    instance, run_id = await up_to(world, journey, "run")
    world.crash(instance)
    await crash_repeatedly(world, run_id, 2)
    async with world.up() as instance:
        await idle()
        assert starts(world)[-1] == ("run", 3)
        open_all(journey)
        other = await run(instance, "journey")  # nobody has to wait for a suspect
        assert other.run.status == "success"
        await world.clock.advance(1.0)
        assert (await instance.runs.ended(run_id)).run.status == "success"
        assert instance.runs.n_running == 0
    assert ("run", 4) in starts(world)


async def test_suspects_go_on_one_at_a_time(journey: type[Journey]) -> None:
    world = World(journey)
    instance, first = await up_to(world, journey, "run")
    second = (await ask(instance, "journey")).run_id
    await until(lambda: [entry[0] for entry in journey.performed].count("run") == 2)
    world.crash(instance)
    for _ in range(2):
        n_starts = len(starts(world))
        instance = await world.start()
        await until(lambda n=n_starts: len(starts(world)) == n + 2)
        world.crash(instance)
        await idle()
    async with world.up() as instance:
        await idle()
        await world.clock.advance(120.0)
        await idle()
        assert [attempt for stage, attempt in starts(world) if stage == "run"].count(4) == 1
        open_all(journey)
        await instance.runs.ended(first)
        await idle()
        await world.clock.advance(120.0)
        await instance.runs.ended(second)


@asynccontextmanager
async def two_suspects(journey: type[Journey]) -> AsyncIterator[tuple[World, Instance]]:
    """A life after three crashes of two runs in their stage plan, of which one goes on with it."""
    world = World(journey)
    instance, _ = await up_to(world, journey, "plan")
    await ask(instance, "journey")
    await until(lambda: [entry[0] for entry in journey.performed].count("plan") == 2)
    world.crash(instance)
    for _ in range(2):
        n_starts = len(starts(world))
        instance = await world.start()
        await until(lambda n=n_starts: len(starts(world)) == n + 2)
        world.crash(instance)
        await idle()
    async with world.up() as instance:
        await idle()
        await world.clock.advance(2.0)
        await until(lambda: starts(world).count(("plan", 4)) == 1)
        yield world, instance


async def test_a_suspect_is_cleared_when_its_stage_has_ended_however_long_its_run_goes_on(
    journey: type[Journey],
) -> None:
    async with two_suspects(journey) as (world, instance):
        journey.gates["plan"].set()  # and the stage run waits at its gate
        await until(lambda: ("run", 1) in starts(world))
        await idle()
        await world.clock.advance(2.0)
        await until(lambda: starts(world).count(("plan", 4)) == 2)
        open_all(journey)
        await until(lambda: len(world.events(RunFinished)) == 2)
        assert instance.runs.n_running == 0


async def test_a_suspect_that_goes_on_for_long_enough_holds_the_others_up_no_longer(journey: type[Journey]) -> None:
    async with two_suspects(journey) as (world, _):
        await idle()
        await world.clock.advance(PROBATION_S)
        await idle()
        await world.clock.advance(2.0)
        await until(lambda: starts(world).count(("plan", 4)) == 2)


async def test_whoever_asks_about_a_suspect_is_told_that_it_waits_its_turn(journey: type[Journey]) -> None:
    async with two_suspects(journey) as (_, instance):
        ids = [row.run_id for row in (await instance.answers.runs()).items]
        texts = [(await perform(VERBS["explain"], instance, {"run": each})).reasons[0].text for each in ids]
        assert sorted("do so one at a time" in text for text in texts) == [False, True]


async def test_after_the_fifth_crash_the_run_ends_in_error_crash_loop(journey: type[Journey]) -> None:
    world = World(journey)
    instance, run_id = await up_to(world, journey, "run")
    world.crash(instance)
    await crash_repeatedly(world, run_id, 4)
    async with world.up() as instance:
        ended = await instance.runs.ended(run_id)
    assert (ended.run.status, ended.run.error_type) == ("error", "crash_loop")
    assert ended.run.reason == "the process died 5 times in a row while the stage run was under way"
    [failed] = world.events(RunFailed)
    assert [(row.stage, row.status) for row in audit_rows(failed)] == [("execute", "error")]
    assert starts(world)[-1] == ("run", 5)


async def test_crashes_are_counted_for_a_stage_and_begin_anew_with_the_next(journey: type[Journey]) -> None:
    world = World(journey)
    instance, run_id = await up_to(world, journey, "plan")
    world.crash(instance)
    await crash_repeatedly(world, run_id, 1)
    journey.gates["plan"].set()
    instance = await world.start()
    await until(lambda: starts(world)[-1] == ("run", 1))
    world.crash(instance)
    await crash_repeatedly(world, run_id, 1)
    open_all(journey)
    async with world.up() as instance:
        assert (await instance.runs.ended(run_id)).run.status == "success"


# ── an orderly stop ──────────────────────────────────────────────────────────────────────────────────────────


async def test_a_stop_records_the_stage_as_interrupted_and_that_is_no_crash(journey: type[Journey]) -> None:
    world = World(journey)
    instance, run_id = await up_to(world, journey, "run")
    for _ in range(6):
        assert await instance.runs.stop(0) == 1
        await instance.log.close()
        instance = await world.start()
        await until(lambda: world.events()[-1].__class__ is StageStarted)
    open_all(journey)
    assert (await instance.runs.ended(run_id)).run.status == "success"
    assert len(world.events(StageInterrupted)) == 6
    assert starts(world)[-1] == ("run", 7)
    await instance.log.close()


async def test_within_the_grace_period_a_stage_ends_and_the_next_one_is_not_started(journey: type[Journey]) -> None:
    world = World(journey)
    instance, run_id = await up_to(world, journey, "plan")
    stopping = asyncio.ensure_future(instance.runs.stop(10.0))
    await idle()
    assert not stopping.done()
    open_all(journey)
    assert await stopping == 0
    assert [type(e) for e in world.events(run_id=run_id)][-1] is StageFinished
    await instance.log.close()
    async with world.up() as instance:
        assert (await instance.runs.ended(run_id)).run.status == "success"
    assert starts(world) == [("intake", 1), ("plan", 1), ("run", 1)]


async def test_the_last_stage_ends_the_run_also_while_stopping(journey: type[Journey]) -> None:
    world = World(journey)
    instance, run_id = await up_to(world, journey, "run")
    end = asyncio.ensure_future(instance.runs.ended(run_id))
    stopping = asyncio.ensure_future(instance.runs.stop(10.0))
    await idle()
    open_all(journey)
    assert await stopping == 0
    assert (await end).run.status == "success"
    await instance.log.close()


async def test_when_the_grace_period_is_over_stages_are_interrupted(journey: type[Journey]) -> None:
    world = World(journey)
    instance, _ = await up_to(world, journey, "run")
    stopping = asyncio.ensure_future(instance.runs.stop(10.0))
    await idle()
    await world.clock.advance(9.9)
    assert not stopping.done()
    await world.clock.advance(0.1)
    assert await stopping == 1
    assert isinstance(world.events()[-1], StageInterrupted)
    await instance.log.close()


async def test_hurry_ends_the_grace_period(journey: type[Journey]) -> None:
    world = World(journey)
    instance, _ = await up_to(world, journey, "run")
    hurry = asyncio.Event()
    stopping = asyncio.ensure_future(instance.runs.stop(3600.0, hurry))
    await idle()
    assert not stopping.done()
    hurry.set()
    assert await stopping == 1
    await instance.log.close()


async def test_while_stopping_requests_are_recorded_and_wait_for_the_next_life(journey: type[Journey]) -> None:
    world = World(journey)
    instance = await world.start()
    await instance.runs.stop(0)
    accepted = await ask(instance, "journey")
    assert [type(e) for e in world.events(run_id=accepted.run_id)] == [RunRequested]
    with pytest.raises(Unavailable, match="goes on after the next start"):
        await instance.runs.ended(accepted.run_id)
    await instance.log.close()
    open_all(journey)
    async with world.up() as instance:
        assert (await instance.runs.ended(accepted.run_id)).run.status == "success"


async def test_who_waits_for_a_run_under_way_or_queued_hears_that_it_goes_on_later(journey: type[Journey]) -> None:
    world = World(journey, max_concurrent_runs=1)
    instance, run_id = await up_to(world, journey, "run")
    queued = (await ask(instance, "journey")).run_id
    ends = [asyncio.ensure_future(instance.runs.ended(r)) for r in (run_id, queued)]
    await idle()
    await instance.runs.stop(0)
    for end in ends:
        with pytest.raises(Unavailable, match="goes on after the next start"):
            await asyncio.wait_for(end, 5)
    await instance.log.close()


async def test_a_suspect_that_waits_does_not_hold_up_the_stop_and_stays_a_suspect(journey: type[Journey]) -> None:
    world = World(journey)
    instance, run_id = await up_to(world, journey, "run")
    world.crash(instance)
    await crash_repeatedly(world, run_id, 3)
    instance = await world.start()
    await idle()
    assert await asyncio.wait_for(instance.runs.stop(3600.0), 5) == 0
    await instance.log.close()
    assert world.events(StageInterrupted) == []
    assert starts(world)[-1] == ("run", 4)
    await crash_repeatedly(world, run_id, 1)
    async with world.up() as instance:
        assert (await instance.runs.ended(run_id)).run.error_type == "crash_loop"


async def test_a_full_disk_does_not_keep_the_daemon_from_stopping(journey: type[Journey]) -> None:
    world = World(journey)
    instance, _ = await up_to(world, journey, "run")
    instance.log.fail_next = DiskFull("no space")
    assert await asyncio.wait_for(instance.runs.stop(0), 5) == 1
    await instance.log.close()


async def test_many_interruptions_are_one_commit(journey: type[Journey]) -> None:
    world = World(journey)
    instance, _ = await up_to(world, journey, "intake")
    for _ in range(4):
        await ask(instance, "journey")
    await until(lambda: len(journey.performed) == 5)
    commits: list[int] = []
    instance.log.observe(lambda batch: commits.append(len(batch)))
    assert await instance.runs.stop(0) == 5
    assert commits == [5]
    await instance.log.close()


async def test_a_run_whose_request_is_just_being_recorded_is_interrupted_by_a_stop_like_any_other(
    journey: type[Journey], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(journey)
    instance = await world.start()
    with monkeypatch.context() as patch:
        patch.setattr(instance.log, "_commit_soon", lambda: None)  # the disk takes its time
        asking = asyncio.create_task(ask(instance, "journey"))
        await idle()
        stopping = asyncio.create_task(instance.runs.stop(0))
        await idle()
        assert not stopping.done()
    instance.log._commit()  # type: ignore[attr-defined]
    assert await stopping == 1
    assert isinstance(world.events(run_id=(await asking).run_id)[-1], StageInterrupted)
    await instance.log.close()


async def test_a_coroutine_that_swallows_its_cancellation_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cascadenced.runtime.runs.CANCEL_PATIENCE_S", 0.01)
    entered, never = asyncio.Event(), asyncio.Event()

    class Stubborn:
        name = "stubborn"

        async def run(self) -> None:
            while not never.is_set():
                try:
                    entered.set()
                    await never.wait()
                except asyncio.CancelledError:
                    pass

    world = World(Stubborn)
    instance = await world.start()
    await ask(instance, "stubborn")
    await entered.wait()
    assert await instance.runs.stop(0) == 1
    assert isinstance(world.events()[-1], StageInterrupted)
    never.set()
    await until(lambda: instance.runs.n_running == 0)
    assert isinstance(world.events()[-1], StageInterrupted), "what it did since then takes no effect"
    await instance.log.close()


@pytest.fixture
def hung() -> Iterator[tuple[type, threading.Event, threading.Event]]:
    """A plain task that hangs in its thread: (class, it has begun, let it go)."""
    begun, go = threading.Event(), threading.Event()

    class Hung:
        name = "hung"

        def run(self) -> str:
            begun.set()
            go.wait(30)
            return "late"

    yield Hung, begun, go
    go.set()


@pytest.fixture
def threads() -> Iterator[ThreadSpawner]:
    spawner = ThreadSpawner(2)
    yield spawner
    spawner.close()


async def test_a_hung_thread_is_abandoned_and_counted_and_its_late_result_has_no_effect(
    hung: Any, threads: ThreadSpawner
) -> None:
    task, begun, go = hung
    world = World(task, clock=SystemClock(), spawner=threads)
    instance = await world.start()
    await ask(instance, "hung")
    await asyncio.to_thread(begun.wait, 5)
    assert await instance.runs.stop(0) == 1
    assert (await instance.status()).n_abandoned_threads == 1
    go.set()
    while instance.spawner.n_abandoned:
        await asyncio.sleep(0.001)
    await idle()
    interrupted, late = world.events()[-2:]
    assert isinstance(interrupted, StageInterrupted)
    assert (type(late), late.outcome) == (StageLate, "success")
    await instance.log.close()


async def test_a_spawner_that_closes_early_does_not_make_runs_fail(journey: type[Journey]) -> None:
    world = World(journey)
    instance, run_id = await up_to(world, journey, "plan")
    instance.spawner.close()
    open_all(journey)
    with pytest.raises(Unavailable):
        await instance.runs.ended(run_id)
    assert world.events(RunFailed) == []
    await instance.log.close()


# ── what is missing after a restart ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("started", [False, True], ids=["queued", "under way"])
async def test_a_run_whose_task_is_gone_is_held_and_goes_on_when_it_is_back(
    journey: type[Journey], started: bool
) -> None:
    class Other:
        name = "other"

        def run(self) -> None:
            pass

    world = World(journey)
    if started:
        instance, run_id = await up_to(world, journey, "run")
    else:
        instance = await world.start()
        await instance.runs.stop(0)
        run_id = (await ask(instance, "journey")).run_id
    world.crash(instance)
    for _ in range(6):
        async with world.up(Other) as instance:
            await until(lambda: isinstance(world.events()[-1], RunHeld))
            assert (await instance.answers.run(run_id)).status == "waiting"
            await until(lambda i=instance: i.runs.n_running == 0)
    assert world.events(RunHeld)[0].code == "task_missing"
    open_all(journey)
    async with world.up() as instance:
        assert (await instance.runs.ended(run_id)).run.status == "success"


@pytest.mark.parametrize("started", [False, True], ids=["queued", "under way"])
async def test_a_run_whose_identity_is_missing_is_held_and_that_is_no_crash(
    journey: type[Journey], started: bool
) -> None:
    world = World(journey)
    if started:
        instance, run_id = await up_to(world, journey, "run")
    else:
        instance = await world.start()
        await instance.runs.stop(0)
        run_id = (await ask(instance, "journey")).run_id
    world.crash(instance)
    kept, world.vault = world.vault, MemoryVault()
    for _ in range(6):
        async with world.up():
            await until(lambda: isinstance(world.events()[-1], RunHeld))
    assert {event.code for event in world.events(RunHeld)} == {"identity_missing"}
    assert len(world.events(StageStarted)) == (3 if started else 0)
    world.vault = kept
    open_all(journey)
    async with world.up() as instance:
        assert (await instance.runs.ended(run_id)).run.result == "alice: a+b"


async def test_a_hook_that_the_new_code_lacks_is_an_error_that_says_so(journey: type[Journey]) -> None:
    class Smaller:
        name = "journey"

        def run(self) -> str:
            return "smaller"

    world = World(journey)
    instance, run_id = await up_to(world, journey, "plan")
    world.crash(instance)
    async with world.up(Smaller) as instance:
        ended = await instance.runs.ended(run_id)
    assert (ended.run.status, ended.run.error_type) == ("error", "hook.missing")
    assert ended.run.reason == "the task's code no longer has a plan() hook"


# ── what a stage asks for is recorded once ───────────────────────────────────────────────────────────────────


class Asks(PointerTask):
    """Leaves two notes, a pointer and an event, then waits; all of it again at each attempt."""

    name = "asks"
    gate: asyncio.Event
    n_asked = 0

    async def run(self) -> str:
        await self.add_note("first")
        await self.add_note("second")
        await self.add_pointer("bob", "some-run", "ops")
        type(self).n_asked += 1
        await self.gate.wait()
        return "asked"


async def test_notes_and_pointers_of_a_stage_that_runs_again_are_recorded_once() -> None:
    asks = type("Asks", (Asks,), {"gate": asyncio.Event(), "name": "asks"})
    world = World(asks)
    instance = await world.start()
    run_id = (await ask(instance, "asks")).run_id
    await until(lambda: asks.n_asked == 1)
    world.crash(instance)
    asks.gate.set()
    async with world.up() as instance:
        await instance.runs.ended(run_id)
    assert asks.n_asked == 2
    assert [event.note for event in world.events(NoteRecorded)] == ["first", "second"]
    assert {(event.task, event.about_run_id) for event in world.events(NoteRecorded)} == {("asks", run_id)}
    assert len(world.events(PointerAdded)) == 1


async def test_the_same_wish_in_another_stage_or_run_is_another_wish() -> None:
    class Notes(BaseTask):
        name = "notes"

        async def plan(self) -> None:
            await self.add_note("same")

        async def run(self) -> None:
            await self.add_note("same")

    world = World(Notes)
    async with world.up() as instance:
        await run(instance, "notes")
        await run(instance, "notes")
    assert len(world.events(NoteRecorded)) == 4


@pytest.mark.parametrize(
    ("wish", "error"),
    [
        (lambda task: task.add_note(7), "a note must be text"),
        (lambda task: task.add_note("x" * 600_000), "bytes as JSON"),
        (lambda task: task.add_pointer("", "r"), "user_id is required"),
        (lambda task: task.add_pointer("u", "r\n"), "run_id contains a control character"),
        (lambda task: task.add_pointer("u", 7), "'int'"),
    ],
)
async def test_a_wish_that_cannot_be_recorded_is_the_tasks_error(wish: Any, error: str) -> None:
    class Wishes(PointerTask):
        name = "wishes"

        async def run(self) -> None:
            await wish(self)

    world = World(Wishes)
    async with world.up() as instance:
        ended = await run(instance, "wishes")
        assert ended.run.status == "error"
        assert error in ended.run.reason
    assert world.events(NoteRecorded) == world.events(PointerAdded) == []


async def test_what_a_workflow_emits_is_recorded_once_though_its_stage_runs_again() -> None:
    gate, emitted = asyncio.Event(), []

    @subscribe("order.placed")
    async def place(payload: dict[str, Any], dispatch: Any) -> str:
        emitted.append(await dispatch("order.confirmed", {"n": payload["n"]}))
        emitted.append(await dispatch("order.shipped"))
        await gate.wait()
        return "placed"

    world = World(place)
    instance = await world.start()
    run_id = (await ask(instance, "workflow.order.placed", args={"n": 1})).run_id
    await until(lambda: len(emitted) == 2)
    world.crash(instance)
    gate.set()
    async with world.up() as instance:
        await instance.runs.ended(run_id)
    assert [(e.name, e.via, e.payload) for e in world.events(EventDispatched)] == [
        ("order.confirmed", "workflow", {"n": 1}),
        ("order.shipped", "workflow", {}),
    ]
    assert [d.duplicate for d in emitted] == [False, False, True, True]


async def test_an_emitted_event_is_caused_by_its_run_and_answered_by_its_own_workflow() -> None:
    @subscribe("first")
    async def first(dispatch: Any) -> None:
        await dispatch("second", {"from": "first"})

    @subscribe("second")
    def second(payload: dict[str, Any], user_id: str) -> list[Any]:
        return [payload, user_id]

    world = World(first, second)
    async with world.up() as instance:
        ended = await run(instance, "workflow.first")
        [requested] = [r for r in world.recorded(RunRequested) if r.event.task == "workflow.second"]
        assert (await instance.runs.ended(requested.run_id)).run.result == [{"from": "first"}, "alice"]
    assert ended.run.status == "success"
    [first_run, _] = world.recorded(RunRequested)
    assert requested.correlation == first_run.correlation
    emitted = world.recorded(EventDispatched)[0]
    assert emitted.cause in {r.id for r in world.recorded(run_id=first_run.run_id)}


@pytest.mark.parametrize("in_a_thread", [False, True])
async def test_a_plain_workflow_dispatches_with_a_plain_call(in_a_thread: bool, threads: ThreadSpawner) -> None:
    @subscribe("plain")
    def plain(dispatch: Any) -> str:
        dispatch("one", {"n": 1})
        dispatch("two")
        return "done"

    world = World(plain, clock=SystemClock(), spawner=threads if in_a_thread else None)
    async with world.up() as instance:
        assert (await run(instance, "workflow.plain")).run.result == "done"
    assert [(e.name, e.payload) for e in world.events(EventDispatched)] == [("one", {"n": 1}), ("two", {})]


async def test_a_workflow_that_emits_what_cannot_be_recorded_fails() -> None:
    @subscribe("bad")
    async def bad(dispatch: Any) -> None:
        await dispatch("result", {"set": {1}})

    world = World(bad)
    async with world.up() as instance:
        assert (await run(instance, "workflow.bad")).run.error_type == "result.unserialisable"


async def test_each_run_has_its_own_slot_and_gives_it_back_once(journey: type[Journey]) -> None:
    world = World(journey, max_concurrent_runs=3)
    open_all(journey)
    async with world.up() as instance:
        await asyncio.gather(*(run(instance, "journey", ALICE) for _ in range(20)))
        await until(lambda: instance.runs.n_running == 0)
        assert instance.runs.n_queued == 0
        assert not instance.runs._live
        assert not instance.runs._drives
    assert len(world.events(RunStarted)) == 20


# ── plans of tasks ───────────────────────────────────────────────────────────────────────────────────────────


async def test_after_a_restart_the_runs_of_a_plan_find_their_tasks_again():
    class Part(BaseTask):
        name = "part"
        gate = asyncio.Event()

        def __init__(self, n: int) -> None:
            self.n = n

        async def run(self) -> Any:
            await self.gate.wait()
            return [self.user_id, self.n]

    class Nested(BaseTask):
        name = "nested"

        async def plan(self) -> Any:
            return [Part(2)]

    class Whole(BaseTask):
        name = "whole"

        async def plan(self) -> Any:
            return [Part(1), Nested()]

    world = World(Whole)
    for nth in range(2):  # the first part is under way, then the one in the plan of the plan
        instance = await world.start()
        if nth == 0:
            run_id = (await ask(instance, "whole")).run_id
        await until(lambda n=nth: len([e for e in world.events(StageStarted) if e.task == "part"]) > n)
        world.crash(instance)
        await idle()
    Part.gate.set()
    async with world.up() as instance:
        ended = await instance.runs.ended(run_id)
    assert ended.run.result == [["alice", 1], [["alice", 2]]]


async def test_a_suspect_whose_code_does_not_heed_its_cancellation_leaves_its_place_to_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is given up: its slot, and its place among the runs of its task, are another's, once each."""
    monkeypatch.setattr("cascadenced.runtime.runs.CANCEL_PATIENCE_S", 0.0)
    gate = asyncio.Event()
    begun: list[str] = []

    class Stubborn(BaseTask):
        name = "stubborn"
        max_concurrent = 1

        async def run(self) -> str:
            begun.append(self.run_id)
            while not gate.is_set():
                with suppress(asyncio.CancelledError):
                    await gate.wait()
            return "late"

    world = World(Stubborn, max_concurrent_runs=2)
    instance = await world.start()
    run_id = (await ask(instance, "stubborn")).run_id
    await until(lambda: len(begun) == 1)
    for n in (2, 3):
        world.crash(instance)
        instance = await world.start()
        await until(lambda n=n: len(begun) == n)
    world.crash(instance)
    async with world.up() as instance:
        await idle()
        await world.clock.advance(1.0)
        await until(lambda: len(begun) == 4)
        await instance.controls.cancel(run_id, via="cli", by=None)
        assert instance.runs.n_running == 0
        others = [(await ask(instance, "stubborn")).run_id for _ in range(2)]
        await until(lambda: len(begun) == 5)
        await idle()
        assert (begun[4], instance.runs.n_running) == (others[0], 1)
        gate.set()
        for other in others:
            assert (await instance.runs.ended(other)).run.result == "late"
        await idle()
        assert instance.runs.n_running == 0
        assert (await run(instance, "stubborn")).run.result == "late"
