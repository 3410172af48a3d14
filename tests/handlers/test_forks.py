"""A run forked from another one, on an instance."""

from __future__ import annotations

from typing import Any

import pytest

from cascadenced.errors import Conflict, Invalid, NotAllowed, Unknown
from cascadenced.events.base import Context
from cascadenced.events.run import RunFinished, RunRequested, RunStarted
from cascadenced.events.stage import StageFinished, StageStarted
from cascadenced.handlers.replay import replay
from cascadenced.identity import Identity
from cascadenced.instance import Instance
from cascadenced.pipeline.model import fold
from cascadenced.plugins.base import BaseTask
from cascadenced.plugins.describe import describe
from cascadenced.runtime.spawn import InlineSpawner
from tests.doubles import ALICE, BOB, World, ask, idle, run, until


class Bill(BaseTask):
    name = "bill"
    performed: list[str] = []

    async def plan(self) -> int:
        self.performed.append("plan")
        return sum(self.args["prices"])

    async def run(self, plan: int) -> dict[str, Any]:
        self.performed.append("run")
        if self.args.get("fails"):
            raise ValueError("as asked")
        return {"total": plan, "note": self.args.get("note"), "for": self.user_id}


@pytest.fixture(autouse=True)
def nothing_is_performed_yet():
    Bill.performed.clear()


async def a_run(instance: Instance, **args: Any) -> str:
    accepted = await ask(instance, "bill", args={"prices": [1, 2], **args})
    await instance.runs.ended(accepted.run_id)
    return accepted.run_id


async def forked(instance: Instance, run_id: str, stage: str = "run", who: Identity = ALICE, **changes: Any) -> Any:
    accepted = await instance.forks.fork(run_id, stage, who, changes, via="cli")
    return accepted, (await instance.runs.ended(accepted.run_id)).run


async def test_a_fork_performs_only_the_stage_it_begins_with_and_those_after_it():
    world = World(Bill)
    async with world.up() as instance:
        run_id = await a_run(instance, fails=True)
        accepted, ended = await forked(instance, run_id, fails=False, note="again")
    assert ended.result == {"total": 3, "note": "again", "for": "alice"}
    assert Bill.performed == ["plan", "run", "run"]
    requested = world.events(RunRequested, run_id=accepted.run_id)[0]
    assert (requested.forked_from, requested.args) == (run_id, {"prices": [1, 2], "fails": False, "note": "again"})


async def test_the_log_says_all_there_is_to_know_about_a_fork():
    world = World(Bill)
    async with world.up() as instance:
        accepted, ended = await forked(instance, await a_run(instance))
    events = world.recorded(run_id=accepted.run_id)
    assert [event.type for event in events] == [
        *("run.requested", "stage.finished", "run.started", "stage.started"),
        *("stage.finished", "run.finished"),
    ]
    assert len({event.at_us for event in events[:4]}) == 1
    assert fold(event.event for event in events) == ended
    [original] = [event for event in world.recorded(StageFinished) if event.run_id != accepted.run_id][:1]
    assert events[1].event.output == original.event.output == 3


async def test_a_fork_that_has_to_wait_for_a_slot_is_queued_and_starts_with_its_stage():
    class Blocks:
        name = "blocks"

        async def run(self) -> None:
            await world.clock.sleep(1000)

    world = World(Bill, Blocks, max_concurrent_runs=1)
    async with world.up() as instance:
        run_id = await a_run(instance)
        await ask(instance, "blocks")
        accepted = await instance.forks.fork(run_id, "run", ALICE, {}, via="cli")
        await idle()
        assert (await instance.answers.run(accepted.run_id)).status == "queued"
        await world.clock.advance(1001)
        await instance.runs.ended(accepted.run_id)
    assert [event.stage for event in world.events(StageStarted, run_id=accepted.run_id)] == ["run"]
    assert Bill.performed == ["plan", "run", "run"]


async def test_a_fork_survives_a_crash_like_any_other_run():
    class Hangs(Bill):
        async def run(self, plan: int) -> dict[str, Any]:
            if len(self.performed) == 2:
                self.performed.append("hung")
                await world.clock.sleep(10**6)
            return await super().run(plan)

    world = World(Hangs)
    instance = await world.start()
    run_id = await a_run(instance)
    accepted = await instance.forks.fork(run_id, "run", ALICE, {}, via="cli")
    await until(lambda: world.clock.n_sleeping)
    world.crash(instance)
    async with world.up() as instance:
        ended = await instance.runs.ended(accepted.run_id)
    assert ended.run.result["total"] == 3
    assert Hangs.performed == ["plan", "run", "hung", "run"]


async def test_the_runs_of_a_plan_are_performed_again():
    class Part(BaseTask):
        name = "part"
        n_performed: list[int] = []

        async def run(self) -> int:
            self.n_performed.append(1)
            return 1

    class Whole(BaseTask):
        name = "whole"

        async def plan(self) -> Any:
            return [Part(), Part()]

        async def run(self, parts: list[int]) -> Any:
            return [*parts, self.args.get("more")]

    world = World(Whole)
    async with world.up() as instance:
        await run(instance, "whole")
        run_id = world.recorded(RunFinished)[-1].run_id
        accepted = await instance.forks.fork(run_id, "run", ALICE, {"more": 2}, via="cli")
        ended = await instance.runs.ended(accepted.run_id)
    assert ended.run.result == [1, 1, 2]
    assert len(Part.n_performed) == 4


async def test_a_fork_is_replayed_without_what_it_took_over():
    world = World(Bill)
    async with world.up() as instance:
        accepted, _ = await forked(instance, await a_run(instance), prices=[5])
    done = await replay(
        world.recorded(run_id=accepted.run_id), describe(Unnamed), clock=world.clock, spawner=InlineSpawner()
    )
    assert [(each.stage, each.verdict) for each in done.stages] == [("plan", "taken"), ("run", "different")]
    assert done.divergence.path == ".for"  # the pseudonym, where the name was


class Unnamed(Bill):
    """The same code."""


@pytest.mark.parametrize("who", [BOB, Identity("bob", "eng"), Identity("alice", "ops")])
async def test_nobody_but_the_runs_own_user_in_its_own_group_may_fork_it(who: Identity):
    world = World(Bill)
    async with world.up() as instance:
        run_id = await a_run(instance)
        n_events = len(world.file.events)
        with pytest.raises(NotAllowed, match="only its own user may fork it"):
            await instance.forks.fork(run_id, "run", who, {}, via="cli")
        assert len(world.file.events) == n_events


async def test_what_cannot_be_forked_is_refused_and_nothing_is_recorded():
    world = World(Bill)
    async with world.up() as instance:
        run_id = await a_run(instance)
    async with world.up(type("Other", (Bill,), {"name": "other"})) as instance:
        n_events = len(world.file.events)
        with pytest.raises(Unknown, match="Unknown task: bill: the run cannot be forked until"):
            await instance.forks.fork(run_id, "run", ALICE, {}, via="cli")
        with pytest.raises(Unknown, match="no run"):
            await instance.forks.fork("f" * 32, "run", ALICE, {}, via="cli")
        assert len(world.file.events) == n_events
    async with world.up() as instance:
        with pytest.raises(Invalid, match="there is no stage"):
            await instance.forks.fork(run_id, "start", ALICE, {}, via="cli")
        with pytest.raises(Conflict, match="never came to the stage verify"):
            await instance.forks.fork(run_id, "verify", ALICE, {}, via="cli")


async def test_a_fork_of_a_disabled_task_is_a_refused_run():
    world = World(Bill)
    async with world.up() as instance:
        run_id = await a_run(instance)
        await instance.tasks.switch("bill", "disable", Context())
        accepted = await instance.forks.fork(run_id, "run", ALICE, {}, via="cli")
    assert accepted.refused == ("disabled", "Task 'bill' is disabled")
    assert world.events(RunStarted, run_id=accepted.run_id) == []
