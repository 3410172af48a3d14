"""Runs that wait for a slot, in the daemon's own words: limits, priorities, groups, restarts, and very many."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from cascadenced.clock import FakeClock
from cascadenced.errors import Overloaded
from cascadenced.eventlog.base import Change
from cascadenced.eventlog.sqlite import SqliteEventLog
from cascadenced.events.base import Context
from cascadenced.events.run import RunFinished, RunRequested, RunStarted
from cascadenced.handlers.run_requests import Origin
from cascadenced.identity import Identity
from cascadenced.ids import SeededIds
from cascadenced.instance import Instance
from cascadenced.plugins.base import BaseTask
from cascadenced.runtime.runs import MAX_QUEUED_IN_MEMORY, Request
from tests.doubles import ALICE, BOB, PSEUDONYMS, World, ask, idle, until


def gated(name: str = "gated", **attributes: Any) -> Any:
    """A task that notes whose run begins, and how many are under way then, and waits at its gate."""
    under_way: list[int] = []

    async def hook(self: Any) -> None:
        under_way.append(1)
        self.begun.append(self.args.get("n"))
        self.at_once.append(len(under_way))
        try:
            await self.gate.wait()
        finally:
            under_way.pop()

    fields = {"name": name, "run": hook, "begun": [], "at_once": [], "gate": asyncio.Event()}
    return type("Gated", (), {**fields, **attributes})


async def numbered(instance: Instance, task: str, n: int, who: Identity = ALICE, priority: int = 0) -> str:
    accepted = await instance.requests.run(task, who, {"n": n}, Origin(via="http"), priority=priority)
    return str(accepted.run_id)


# ── limits ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_of_a_task_no_more_runs_are_under_way_than_it_says() -> None:
    limited, other = gated(max_concurrent=2), gated("other")
    async with World(limited, other).up() as instance:
        run_ids = [await numbered(instance, "gated", n) for n in range(6)]
        await numbered(instance, "other", 0)
        await idle()
        assert (limited.begun, other.begun) == ([0, 1], [0])
        assert (instance.runs.n_running, instance.runs.n_queued) == (3, 4)
        limited.gate.set()
        for run_id in run_ids:
            await instance.runs.ended(run_id)
        other.gate.set()
        await until(lambda: instance.runs.n_running == 0)
    assert limited.begun == list(range(6))
    assert max(limited.at_once) == 2


async def test_a_run_that_sleeps_makes_room_for_others_of_its_task() -> None:
    async def hook(self: Any) -> None:
        await self.sleep(60)

    sleepy = type("Sleepy", (BaseTask,), {"name": "sleepy", "run": hook, "max_concurrent": 1})
    world = World(sleepy, max_concurrent_runs=1)
    async with world.up() as instance:
        for _ in range(5):
            await ask(instance, "sleepy")
        await until(lambda: instance.runs.n_asleep == 5)
        await idle()
        await world.clock.advance(60)  # type: ignore[attr-defined]
        await until(lambda: len(world.events(RunFinished)) == 5)


async def test_a_limit_that_is_raised_lets_more_start() -> None:
    task = gated(max_concurrent=1)
    async with World(task).up() as instance:
        for n in range(4):
            await numbered(instance, "gated", n)
        await idle()
        assert task.begun == [0]
        instance.runs.limit_task("gated", 3)
        await idle()
        assert task.begun == [0, 1, 2]
        instance.runs.limit_task("gated", None)
        await idle()
        assert task.begun == [0, 1, 2, 3]


async def test_when_the_queue_is_full_requests_are_refused_and_nothing_is_recorded() -> None:
    task = gated()
    world = World(task, max_concurrent_runs=1, max_queued_runs=2)
    async with world.up() as instance:
        for n in range(3):
            await numbered(instance, "gated", n)
        with pytest.raises(Overloaded, match="2 runs are queued already") as caught:
            await numbered(instance, "gated", 3)
        assert caught.value.retry_after_s > 0
        assert len(world.events(RunRequested)) == 3
        task.gate.set()
        await until(lambda: instance.runs.n_running == 0)
        await numbered(instance, "gated", 4)


# ── whose turn it is ─────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_higher_priority_goes_first_and_among_equals_who_came_first() -> None:
    task = gated()
    async with World(task, max_concurrent_runs=1).up() as instance:
        for n, priority in enumerate((0, 0, 5, -5, 5)):
            await numbered(instance, "gated", n, priority=priority)
        task.gate.set()
        await until(lambda: len(task.begun) == 5)
    assert task.begun == [0, 2, 4, 1, 3]


async def test_groups_take_turns_however_many_runs_one_of_them_asked_for() -> None:
    task = gated()
    async with World(task, max_concurrent_runs=1).up() as instance:
        for n in range(5):
            await numbered(instance, "gated", n, ALICE)
        for n in (10, 11):
            await numbered(instance, "gated", n, BOB)
        task.gate.set()
        await until(lambda: len(task.begun) == 7)
    assert task.begun.index(10) <= 2
    assert task.begun.index(11) <= 4


async def test_after_a_restart_queued_runs_start_in_the_order_that_they_had() -> None:
    task = gated()
    world = World(task, max_concurrent_runs=1)
    instance = await world.start()
    for n, priority in enumerate((0, 0, 5, -5, 5)):
        await numbered(instance, "gated", n, priority=priority)
    await idle()
    world.crash(instance)
    task.begun.clear()
    task.gate.set()
    async with world.up() as instance:
        await until(lambda: len(world.events(RunFinished)) == 5)
    assert task.begun[0] in (2, 0)
    assert [n for n in task.begun if n != 0] == [2, 4, 1, 3]


async def test_after_a_restart_the_limit_of_a_task_holds_for_what_was_queued() -> None:
    task = gated(max_concurrent=2)
    world = World(task)
    instance = await world.start()
    for n in range(6):
        await numbered(instance, "gated", n)
    await idle()
    world.crash(instance)
    async with world.up() as instance:
        await idle()
        assert instance.runs.n_running == 2
        task.gate.set()
        await until(lambda: len(world.events(RunFinished)) == 6)
    assert max(task.at_once) == 2


async def test_queued_runs_beyond_those_in_memory_are_read_when_their_turn_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cascadenced.runtime.runs.MAX_QUEUED_IN_MEMORY", 2)
    task = gated()
    world = World(task, max_concurrent_runs=1)
    async with world.up() as instance:
        for n in range(8):
            await numbered(instance, "gated", n)
        assert len(instance.runs._fresh) == 2
        task.gate.set()
        await until(lambda: len(world.events(RunFinished)) == 8)
        await until(lambda: instance.runs.n_running == 0)
        assert instance.runs._fresh == {}
    assert task.begun == list(range(8))
    assert len(world.events(RunStarted)) == 8


@pytest.mark.slow
async def test_a_hundred_thousand_queued_runs_are_recovered_in_little_time_and_memory(tmp_path: Path) -> None:
    """Of each there is its place; its state is in the log."""
    n = 100_000
    clock = FakeClock()
    world = World(gated(), clock=clock, max_concurrent_runs=1, max_queued_runs=2 * n)
    log = await SqliteEventLog.open(tmp_path / "log.db", clock=clock, ids=SeededIds(0), instance_id="i-test")
    user, group = PSEUDONYMS.user(ALICE.user_id), PSEUDONYMS.group(ALICE.group_id)
    await world.vault.remember([ALICE], PSEUDONYMS)
    for start in range(0, n, 5_000):
        changes = []
        for k in range(start, start + 5_000):
            run_id = f"{k:032x}"
            context = Context(user_hash=user, group_hash=group, run_id=run_id, correlation=run_id)
            changes.append(Change(f"run-{run_id}", [RunRequested(task="gated", via="bus", args={"n": k})], 0, context))
        await log.append(changes)
    await log.close()

    instance = await world.start(recover=False)
    own_log = instance.log
    instance.runs._log = instance.runs._children._log = instance.runs._journey._log = log = await SqliteEventLog.open(
        tmp_path / "log.db", clock=clock, ids=SeededIds(1), instance_id="i-test"
    )
    before, began = _resident_bytes(), time.monotonic()
    assert await instance.runs.recover() == n
    took_s, grown = time.monotonic() - began, _resident_bytes() - before
    assert (instance.runs.n_queued, instance.runs.n_running) == (n - 1, 1)
    assert grown < n * 1_500  # what was read of them on the way is in it
    assert len(instance.runs._fresh) <= MAX_QUEUED_IN_MEMORY
    assert took_s < 15
    while world.tasks[0].begun != [0]:  # type: ignore[attr-defined]
        await asyncio.sleep(0.001)
    instance.runs.limit(1, n - 1)
    with pytest.raises(Overloaded):
        await instance.runs.request(Request(task="gated", identity=ALICE, via="bus"))
    await instance.runs.stop(0)
    await log.close()
    await own_log.close()


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
