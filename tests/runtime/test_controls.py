"""Pause, resume, cancel and signal: whatever a run is about when it is asked, and over restarts."""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from cascadenced.clock import SystemClock
from cascadenced.errors import Conflict, DiskFull, Invalid, Unavailable, Unknown
from cascadenced.events.audit import audit_rows, stage_rows
from cascadenced.events.run import RunCancelled, RunFinished, RunHeld, RunPaused, RunResumed
from cascadenced.events.signal import ContextAttached, ContextConsumed
from cascadenced.events.stage import StageFailed, StageLate, StageStarted
from cascadenced.handlers.run_requests import Origin
from cascadenced.identity import Redactor
from cascadenced.instance import Instance
from cascadenced.pipeline.policy import Retry
from cascadenced.plugins.base import BaseTask
from cascadenced.runtime import runs as runs_module
from cascadenced.runtime.controls import preview
from cascadenced.runtime.spawn import ThreadSpawner
from cascadenced.verbs import VERBS, perform
from tests.doubles import ALICE, BOB, PSEUDONYMS, World, ask, idle, run, until

ALICES = PSEUDONYMS.user("alice")
BOBS = PSEUDONYMS.user("bob")
WHO = {"user_id": "bob", "group_id": "ops"}


class Journey(BaseTask):
    """Three stages, each behind a gate of its name. seen: what each saw of its context."""

    name = "journey"
    gates: dict[str, asyncio.Event]
    begun: list[str]
    seen: dict[str, Any]

    async def _pass(self, stage: str) -> str:
        self.begun.append(stage)
        self.seen[stage] = list(self.context)
        await self.gates[stage].wait()
        return stage

    async def research(self) -> str:
        return await self._pass("research")

    async def plan(self) -> str:
        return await self._pass("plan")

    async def run(self) -> str:
        return await self._pass("run")

    async def verify(self) -> str:
        return await self._pass("verify")


def journey(*open_gates: str, **attributes: Any) -> type[Journey]:
    gates = {stage: asyncio.Event() for stage in ("research", "plan", "run", "verify")}
    for stage in open_gates:
        gates[stage].set()
    return type("Journey", (Journey,), {"gates": gates, "begun": [], "seen": {}, **attributes})


def open_all(cls: type[Journey]) -> None:
    for gate in cls.gates.values():
        gate.set()


async def at(instance: Instance, cls: type[Journey], stage: str) -> str:
    """A run whose `stage` is under way."""
    run_id = (await ask(instance, "journey")).run_id
    for before in ("research", "plan", "run", "verify"):
        if before == stage:
            break
        cls.gates[before].set()
    await until(lambda: cls.begun and cls.begun[-1] == stage)
    return run_id


async def signal(instance: Instance, run_id: str, payload: Any, who: str | None = None) -> bool:
    redact = Redactor(ALICE, PSEUDONYMS)
    return (await instance.controls.signal(run_id, payload, via="cli", by=who, redact=redact)).at_once


async def status(instance: Instance, run_id: str) -> str:
    return str((await instance.answers.run(run_id)).status)


# ── a run in every state ─────────────────────────────────────────────────────────────────────────────────────────────


class Anything(BaseTask):
    """Does what its args say."""

    name = "anything"
    max_concurrent = 1
    gate: asyncio.Event

    async def run(self) -> Any:
        match self.args.get("do"):
            case "sleep":
                await self.sleep(1e6)
            case "listen":
                await self.wait_for("never")
            case "fail":
                raise ValueError("not yet")
            case "hang":
                await self.gate.wait()
        return self.context


STATES = ["queued", "running", "paused", "asleep", "listening", "retrying", "in doubt", "held"]


def anything(**attributes: Any) -> type[Anything]:
    retries = Retry(max_attempts=9, initial_s=1e6, max_s=1e6)
    return type("Anything", (Anything,), {"gate": asyncio.Event(), "retries": retries, **attributes})


async def in_state(world: World, state: str) -> tuple[Instance, str]:
    """A life with a run in that state."""
    instance = await world.start()
    match state:
        case "queued":
            await ask(instance, "anything", args={"do": "hang"})
            run_id = (await ask(instance, "anything")).run_id
        case "running":
            run_id = (await ask(instance, "anything", args={"do": "hang"})).run_id
        case "paused":
            blocker = (await ask(instance, "anything", args={"do": "hang"})).run_id
            run_id = (await ask(instance, "anything")).run_id
            await instance.controls.pause(run_id, by=None)
            await instance.controls.cancel(blocker, via="cli", by=None)
        case "asleep" | "listening" | "retrying":
            do = {"asleep": "sleep", "listening": "listen", "retrying": "fail"}[state]
            run_id = (await ask(instance, "anything", args={"do": do})).run_id
            await until(lambda: instance.runs.n_asleep == 1)
        case _:
            run_id = (await ask(instance, "anything", args={"do": "hang"})).run_id
            await idle()
            world.crash(instance)
            gone = type("Else", (), {"name": "else", "run": lambda self: None})
            instance = await (world.start(gone) if state == "held" else world.start())
    await idle()
    expected = {"asleep": "waiting", "listening": "waiting", "retrying": "waiting", "held": "waiting"}
    assert await status(instance, run_id) == expected.get(state, state.replace(" ", "_"))
    return instance, run_id


def world_for(state: str) -> World:
    return World(anything(delivery="at_most_once" if state == "in doubt" else "at_least_once"))


@pytest.mark.parametrize("state", STATES)
async def test_a_run_in_any_state_is_cancelled_at_once_and_whoever_waits_is_told(state: str) -> None:
    world = world_for(state)
    instance, run_id = await in_state(world, state)
    if state != "held":  # nobody can wait for that
        waiting = asyncio.ensure_future(instance.runs.ended(run_id))
        await idle()
    cancelled = await instance.controls.cancel(run_id, via="http", by=BOBS, reason="not needed")
    assert cancelled.run.status == "cancelled"
    if state != "held":
        ended = await asyncio.wait_for(waiting, 5)
        assert (ended.run.status, ended.run.reason) == ("cancelled", "not needed")
    assert (await instance.runs.ended(run_id)).run.status == "cancelled"
    assert await status(instance, run_id) == "cancelled"
    assert run_id not in world.file.unfinished
    assert run_id not in instance.runs._sleepers
    event = world.events(RunCancelled, run_id=run_id)[-1]
    assert (event.by, event.via) == (BOBS, "http")  # type: ignore[attr-defined]
    await instance.runs.stop(0)
    await instance.log.close()


@pytest.mark.parametrize("state", STATES)
async def test_a_cancelled_run_gives_back_its_place(state: str) -> None:
    world = world_for(state)
    instance, run_id = await in_state(world, state)
    await instance.controls.cancel(run_id, via="http", by=None)
    world.tasks[0].gate.set()  # type: ignore[attr-defined]
    await until(lambda: instance.runs.n_running == 0)
    assert (instance.runs.n_queued, instance.runs.n_asleep, instance.runs._live) == (0, 0, {})
    if state != "held":
        assert (await run(instance, "anything")).run.status == "success"
    await instance.log.close()


@pytest.mark.parametrize("state", [state for state in STATES if state != "held"])
async def test_a_cancelled_run_stays_so_over_a_restart(state: str) -> None:
    world = world_for(state)
    instance, run_id = await in_state(world, state)
    await instance.controls.cancel(run_id, via="http", by=None)
    world.crash(instance)
    n_starts = len(world.events(StageStarted, run_id=run_id))
    async with world.up() as instance:
        await idle()
        assert await status(instance, run_id) == "cancelled"
    assert len(world.events(StageStarted, run_id=run_id)) == n_starts


@pytest.mark.parametrize("state", [state for state in STATES if state not in ("paused", "held", "in doubt")])
async def test_a_run_in_any_state_can_be_paused_over_a_restart_and_goes_on_when_it_is_resumed(state: str) -> None:
    world = world_for(state)
    instance, run_id = await in_state(world, state)
    assert (await instance.controls.pause(run_id, by=BOBS)).run.shown_status == "paused"
    world.crash(instance)
    world.tasks[0].gate.set()  # type: ignore[attr-defined]
    instance = await world.start()
    await until(lambda: instance.runs.n_running == instance.runs.n_queued == 0)
    n_starts = len(world.events(StageStarted, run_id=run_id))
    await world.clock.advance(2e6)
    await idle()
    assert await status(instance, run_id) == "paused"
    assert len(world.events(StageStarted, run_id=run_id)) == n_starts
    await instance.controls.resume(run_id, by=BOBS)
    if state == "listening":
        await until(lambda: instance.runs.n_asleep == 1 and instance.runs.n_running == 0)
        assert await status(instance, run_id) == "waiting"
    elif state == "retrying":
        await until(lambda: len(world.events(StageStarted, run_id=run_id)) == n_starts + 1)
    else:
        assert (await instance.runs.ended(run_id)).run.status == "success"
    assert [e.by for e in world.events() if isinstance(e, RunPaused | RunResumed)] == [BOBS, BOBS]
    await instance.runs.stop(0)
    await instance.log.close()


async def test_a_paused_run_whose_stage_a_crash_cut_off_is_not_said_to_be_under_way() -> None:
    world = world_for("running")
    instance, run_id = await in_state(world, "running")
    await instance.controls.pause(run_id, by=BOBS)
    codes = [reason.code for reason in (await perform(VERBS["explain"], instance, {"run": run_id})).reasons]
    assert codes == ["paused", "running"]
    world.crash(instance)
    async with world.up() as instance:
        await idle()
        codes = [reason.code for reason in (await perform(VERBS["explain"], instance, {"run": run_id})).reasons]
        assert codes == ["paused", "interrupted"]


async def test_a_paused_run_whose_stage_is_under_way_is_said_to_have_its_place() -> None:
    world = world_for("running")
    instance, first = await in_state(world, "running")
    await instance.controls.pause(first, by=BOBS)
    second = (await ask(instance, "anything")).run_id
    [reason] = (await perform(VERBS["explain"], instance, {"run": second})).reasons
    assert (reason.queue.n_running, reason.queue.n_of_task, reason.queue.place) == (1, 1, 1)
    assert "of anything, 1 run and 1 may (max_concurrent)" in reason.text
    await instance.runs.stop(0)
    await instance.log.close()


async def test_a_queued_run_is_told_its_place_among_priorities() -> None:
    instance, _ = await in_state(world_for("running"), "running")
    runs = [
        await instance.requests.run("anything", ALICE, {}, Origin(via="http"), priority=priority)
        for priority in (0, 5, 1)
    ]
    explained = [await perform(VERBS["explain"], instance, {"run": asked.run_id}) for asked in runs]
    assert [explanation.reasons[0].queue.place for explanation in explained] == [3, 1, 2]
    await instance.runs.stop(0)
    await instance.log.close()


async def test_a_held_run_that_is_paused_over_the_restart_that_could_go_on_with_it_does_so_when_it_is_resumed() -> None:
    world = world_for("held")
    instance, run_id = await in_state(world, "held")
    await instance.controls.pause(run_id, by=BOBS)
    world.crash(instance)
    world.tasks[0].gate.set()  # type: ignore[attr-defined]
    async with world.up() as instance:
        await idle()
        assert await status(instance, run_id) == "paused"
        await instance.controls.resume(run_id, by=BOBS)
        assert (await instance.runs.ended(run_id)).run.status == "success"


async def test_a_held_run_that_is_paused_and_resumed_while_its_task_is_gone_stays_held() -> None:
    world = world_for("held")
    instance, run_id = await in_state(world, "held")
    for _ in range(2):
        await instance.controls.pause(run_id, by=BOBS)
        world.crash(instance)
        instance = await world.start(type("Else", (), {"name": "else", "run": lambda self: None}))
        await idle()
        await instance.controls.resume(run_id, by=BOBS)
        await idle()
        assert (await status(instance, run_id), instance.runs.n_asleep, instance.runs.n_running) == ("waiting", 0, 0)
        with pytest.raises(Unavailable):
            await instance.runs.ended(run_id)
    assert len(world.events(RunHeld, run_id=run_id)) == 1
    await instance.runs.stop(0)
    await instance.log.close()


@pytest.mark.parametrize("state", STATES)
async def test_a_run_in_any_state_can_be_told_something(state: str) -> None:
    world = world_for(state)
    instance, run_id = await in_state(world, state)
    assert await signal(instance, run_id, {"note": "n"}) is (state != "running")
    assert len(world.events(ContextAttached, run_id=run_id)) == 1
    await instance.runs.stop(0)
    await instance.log.close()


async def test_a_run_that_has_ended_or_was_never_there_cannot_be_asked_for_anything() -> None:
    async with World(anything()).up() as instance:
        run_id = (await ask(instance, "anything")).run_id
        await instance.runs.ended(run_id)
        controls = instance.controls
        for gone, error in ((run_id, Conflict), ("no-such-run", Unknown), ("anything", Unknown)):
            for asking in (
                controls.pause(gone, by=None),
                controls.resume(gone, by=None),
                controls.cancel(gone, via="cli", by=None),
                signal(instance, gone, "x"),
                controls.resolve(gone, "retry", by=None),
            ):
                with pytest.raises(error):
                    await asking


async def test_a_full_disk_refuses_a_control_and_the_run_goes_on() -> None:
    cls = journey()
    async with World(cls).up() as instance:
        run_id = await at(instance, cls, "run")
        instance.log.fail_next = DiskFull("no space")  # type: ignore[attr-defined]
        with pytest.raises(DiskFull):
            await instance.controls.cancel(run_id, via="cli", by=None)
        open_all(cls)
        assert (await instance.runs.ended(run_id)).run.status == "success"


# ── cancelling what is under way ─────────────────────────────────────────────────────────────────────────────────────


async def test_a_coroutine_that_is_cancelled_may_clean_up() -> None:
    cleaned: list[str] = []

    class Cleans(BaseTask):
        name = "cleans"

        async def run(self) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                cleaned.append("up")

    world = World(Cleans)
    async with world.up() as instance:
        run_id = (await ask(instance, "cleans")).run_id
        await idle()
        await instance.controls.cancel(run_id, via="cli", by=None)
        await until(lambda: instance.runs.n_running == 0)
    assert cleaned == ["up"]
    assert world.events(StageFailed) == []
    [cancelled] = world.events(RunCancelled)
    assert (cancelled.stage, cancelled.started) == ("run", True)


@pytest.mark.parametrize("timeout_s", [None, 1e6])
async def test_what_a_cancelled_coroutine_raises_last_is_told_to_nobody(
    timeout_s: float | None, caplog: pytest.LogCaptureFixture
) -> None:
    class Rude(BaseTask):
        name = "rude"

        async def run(self) -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                raise ValueError("alice is rude") from None

    Rude.timeout_s = timeout_s  # type: ignore[attr-defined]
    world = World(Rude)
    async with world.up() as instance:
        run_id = (await ask(instance, "rude")).run_id
        await idle()
        await instance.controls.cancel(run_id, via="cli", by=None)
        await until(lambda: instance.runs.n_running == 0)
        await idle()
        assert (await instance.runs.ended(run_id)).run.status == "cancelled"
    import gc

    gc.collect()
    assert "alice" not in caplog.text
    assert "alice" not in world.text()


async def test_a_coroutine_that_swallows_its_cancellation_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs_module, "CANCEL_PATIENCE_S", 0.01)
    gate = asyncio.Event()

    class Stubborn:
        name = "stubborn"
        max_concurrent = 1

        async def run(self) -> str:
            while not gate.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await gate.wait()
            return "after all"

    world = World(Stubborn)
    async with world.up() as instance:
        run_id = (await ask(instance, "stubborn")).run_id
        await idle()
        await instance.controls.cancel(run_id, via="cli", by=None)
        assert (instance.runs.n_running, instance.runs._live) == (0, {})
        gate.set()
        assert (await run(instance, "stubborn")).run.result == "after all"
        assert (await instance.runs.ended(run_id)).run.status == "cancelled"
        await until(lambda: instance.runs.n_running == 0)
    assert len(world.events(RunFinished)) == 1


async def test_a_thread_whose_run_is_cancelled_is_left_alone_and_its_end_is_noted() -> None:
    begun, go = threading.Event(), threading.Event()

    class Hung:
        name = "hung"

        def run(self) -> str:
            begun.set()
            go.wait(30)
            return "late"

    threads = ThreadSpawner(2)
    world = World(Hung, spawner=threads, clock=SystemClock())
    async with world.up() as instance:
        run_id = (await ask(instance, "hung")).run_id
        await asyncio.to_thread(begun.wait, 5)
        await instance.controls.cancel(run_id, via="cli", by=None)
        assert (await instance.runs.ended(run_id)).run.status == "cancelled"
        assert instance.spawner.n_abandoned == 1
        go.set()
        while not world.events(StageLate):
            await asyncio.sleep(0.001)
        assert instance.spawner.n_abandoned == 0
    threads.close()
    [late] = world.events(StageLate)
    assert (late.stage, late.attempt, late.outcome) == ("run", 1, "success")
    assert world.events(RunFinished) == []


async def test_a_queued_run_may_be_cancelled_at_any_turn_of_the_loop_and_is_over_for_everybody() -> None:
    """Also when its drive is made and has not begun, and when nothing of it is in memory yet."""
    for restarted in (False, True):
        for turns in range(16):
            cls = anything()
            world = World(cls)
            instance = await world.start()
            await ask(instance, "anything", args={"do": "hang"})
            second = (await ask(instance, "anything")).run_id
            if restarted:
                world.crash(instance)
                instance = await world.start()
            await idle()
            waiting = asyncio.ensure_future(instance.runs.ended(second))
            await idle(5)
            cls.gate.set()
            await idle(turns)
            with contextlib.suppress(Conflict):
                await instance.controls.cancel(second, via="cli", by=None)
            assert (await asyncio.wait_for(waiting, 5)).run.status in ("cancelled", "success"), turns
            await until(lambda i=instance: i.runs.n_running == 0)
            assert (instance.runs._live, instance.runs.n_queued) == ({}, 0)
            await instance.log.close()


# ── pausing ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_run_that_is_paused_during_a_stage_does_not_start_the_next_one_until_it_is_resumed() -> None:
    """TC 38; TC 37: other coroutines keep running, and resume completes it."""
    cls = journey("research", "run", "verify")
    world = World(cls)
    async with world.up() as instance:
        run_id = await at(instance, cls, "plan")
        await instance.controls.pause(run_id, by=None)
        open_all(cls)
        await until(lambda: instance.runs.n_running == 0)
        await idle()
        assert cls.begun == ["research", "plan"]
        assert (await run(instance, "journey")).run.status == "success"  # others are not held up
        await instance.controls.resume(run_id, by=None)
        assert (await instance.runs.ended(run_id)).run.result == "verify"
    assert cls.begun.count("plan") == 2


async def test_pause_and_resume_leave_stage_rows() -> None:
    """TC 39: Given pause/resume, then stage rows `paused` and `resumed` exist."""
    cls = journey()
    world = World(cls)
    async with world.up() as instance:
        run_id = await at(instance, cls, "plan")
        await instance.controls.pause(run_id, by=None)
        await instance.controls.resume(run_id, by=None)
        open_all(cls)
        await instance.runs.ended(run_id)
    rows = [row.stage for event in world.events(run_id=run_id) for row in stage_rows(event)]
    assert rows == ["intake", "research", "paused", "resumed", "plan", "run", "verify"]


async def test_a_run_that_is_resumed_before_its_stage_ends_never_stops() -> None:
    cls = journey()
    world = World(cls)
    async with world.up() as instance:
        run_id = await at(instance, cls, "plan")
        await instance.controls.pause(run_id, by=None)
        await instance.controls.resume(run_id, by=None)
        open_all(cls)
        assert (await instance.runs.ended(run_id)).run.status == "success"
    assert cls.begun == ["research", "plan", "run", "verify"]


async def test_whoever_waits_for_a_paused_run_waits_on_and_is_told() -> None:
    cls = journey()
    async with World(cls).up() as instance:
        run_id = await at(instance, cls, "plan")
        waiting = asyncio.ensure_future(instance.runs.ended(run_id))
        await instance.controls.pause(run_id, by=None)
        open_all(cls)
        await idle()
        assert not waiting.done()
        await instance.controls.resume(run_id, by=None)
        assert (await waiting).run.status == "success"


async def test_pausing_and_resuming_at_any_turn_of_the_loop_loses_nothing() -> None:
    for turns in range(30):
        cls = journey("research", "plan", "run", "verify")
        async with World(cls).up() as instance:
            run_id = (await ask(instance, "journey")).run_id
            await idle(turns)
            try:
                await instance.controls.pause(run_id, by=None)
                await idle(turns % 7)
                await instance.controls.resume(run_id, by=None)
            except Conflict:
                pass  # it was over already
            assert (await asyncio.wait_for(instance.runs.ended(run_id), 5)).run.status == "success", turns
        assert cls.begun == ["research", "plan", "run", "verify"], turns


# ── contexts ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_context_attached_during_research_is_seen_by_plan_run_and_verify() -> None:
    """TC 40: Given context attached during research, then attach returns false and plan, run and verify see it."""
    cls = journey()
    async with World(cls).up() as instance:
        run_id = await at(instance, cls, "research")
        assert not await signal(instance, run_id, {"note": "n"})
        open_all(cls)
        await instance.runs.ended(run_id)
    assert cls.seen == {"research": [], "plan": [{"note": "n"}], "run": [{"note": "n"}], "verify": [{"note": "n"}]}


async def test_a_context_attached_to_a_queued_run_is_seen_by_its_first_stage() -> None:
    """TC 41, 43: an idle run: true, and it is in `task.context`; intake already sees it."""

    class Intakes(BaseTask):
        name = "intakes"
        max_concurrent = 1
        gate = asyncio.Event()
        seen: list[Any] = []

        async def intake(self) -> None:
            self.seen.append(list(self.context))
            await self.gate.wait()

        def run(self) -> Any:
            return self.context

    async with World(Intakes).up() as instance:
        await ask(instance, "intakes")
        run_id = (await ask(instance, "intakes")).run_id
        assert await signal(instance, run_id, "early")
        Intakes.gate.set()
        assert (await instance.runs.ended(run_id)).run.result == ["early"]
    assert Intakes.seen == [[], ["early"]]


async def test_a_context_attached_to_a_run_that_is_parked_by_a_pause_is_seen_by_the_next_stage() -> None:
    """TC 42: Given a run parked at a boundary by pause, then it returns true and the next stage sees it."""
    cls = journey()
    async with World(cls).up() as instance:
        run_id = await at(instance, cls, "plan")
        await instance.controls.pause(run_id, by=None)
        open_all(cls)
        await until(lambda: instance.runs.n_running == 0)
        assert await signal(instance, run_id, {"note": "n"})
        await instance.controls.resume(run_id, by=None)
        await instance.runs.ended(run_id)
    assert cls.seen["plan"] == []
    assert cls.seen["run"] == [{"note": "n"}]


async def test_a_tasks_own_attach_context_gets_each_payload_once_and_in_order() -> None:
    """TC 44"""
    cls = journey(heard=[], attach_context=lambda self, item: self.heard.append(item))
    async with World(cls).up() as instance:
        run_id = await at(instance, cls, "research")
        for n in (1, 2):
            await signal(instance, run_id, {"n": n})
        cls.gates["research"].set()
        await until(lambda: cls.begun[-1] == "plan")
        await signal(instance, run_id, {"n": 3})
        open_all(cls)
        await instance.runs.ended(run_id)
    assert cls.heard == [{"n": 1}, {"n": 2}, {"n": 3}]  # type: ignore[attr-defined]
    assert cls.seen["verify"] == []


async def test_after_a_restart_a_fresh_instance_is_told_all_that_was_told_before() -> None:
    cls = journey()
    world = World(cls)
    instance = await world.start()
    run_id = await at(instance, cls, "research")
    await signal(instance, run_id, "one")
    cls.gates["research"].set()
    await until(lambda: cls.begun[-1] == "plan")
    await signal(instance, run_id, "two")
    world.crash(instance)
    open_all(cls)
    async with world.up() as instance:
        await instance.runs.ended(run_id)
    assert cls.seen["plan"] == ["one", "two"]  # it began once more, and what had come was there
    assert cls.seen["verify"] == ["one", "two"]
    assert [e.stage for e in world.events(ContextConsumed)] == ["plan", "plan"]


async def test_a_task_that_replaced_its_context_finds_what_it_is_told_beside_it() -> None:
    class Replaces(BaseTask):
        name = "replaces"
        gate = asyncio.Event()

        async def plan(self) -> None:
            self.context = self.args["context"]
            await self.gate.wait()

        def run(self) -> Any:
            return self.context

    for replaced, expected in (("own", ["own", "told"]), (["own"], ["own", "told"])):
        Replaces.gate = asyncio.Event()
        async with World(Replaces).up() as instance:
            run_id = (await ask(instance, "replaces", args={"context": replaced})).run_id
            await idle()
            await signal(instance, run_id, "told")
            Replaces.gate.set()
            assert (await instance.runs.ended(run_id)).run.result == expected


async def test_what_a_task_does_to_what_it_was_told_changes_nothing_for_the_next_life() -> None:
    class Greedy(BaseTask):
        name = "greedy"
        seen: list[Any] = []

        async def run(self) -> None:
            self.seen.append([dict(item) for item in self.context])
            self.context[0]["more"] = True
            await self.sleep(1)

    world = World(Greedy)
    async with world.up() as instance:
        await instance.runs.stop(0)
        run_id = (await ask(instance, "greedy")).run_id
        await signal(instance, run_id, {"n": 1})
        await instance.log.close()
    async with world.up() as instance:
        await until(lambda: instance.runs.n_asleep == 1)
        await world.clock.advance(1)
        await instance.runs.ended(run_id)
    assert Greedy.seen == [[{"n": 1}], [{"n": 1}]]


async def test_contexts_of_two_runs_at_once_do_not_cross() -> None:
    """TC 49: Given two concurrent runs, when each is signalled by its id, then contexts do not cross."""
    cls = anything(max_concurrent=None)
    async with World(cls).up() as instance:
        run_ids = [(await ask(instance, "anything", args={"do": "hang"})).run_id for _ in range(2)]
        await instance.controls.pause(run_ids[0], by=None)
        for n, run_id in enumerate(run_ids):
            await signal(instance, run_id, n)
        cls.gate.set()
        await instance.controls.resume(run_ids[0], by=None)
        for run_id in run_ids:
            await instance.runs.ended(run_id)
        views = [await instance.log.read_stream(f"run-{run_id}") for run_id in run_ids]
    attached = [[r.event.payload for r in view if isinstance(r.event, ContextAttached)] for view in views]
    assert attached == [[0], [1]]


# ── how it shows ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_what_was_told_leaves_audit_rows_when_it_comes_and_when_it_is_read() -> None:
    """TC 45: audit has `context_attached`/`received` and `plan.context`/`consumed`."""
    cls = journey()
    world = World(cls)
    async with world.up() as instance:
        run_id = await at(instance, cls, "research")
        await signal(instance, run_id, {"note": "n", "secret": "s"}, BOBS)
        open_all(cls)
        await instance.runs.ended(run_id)
    rows = [(r.stage, r.status, r.output) for e in world.events(run_id=run_id) for r in audit_rows(e)]
    assert ("context_attached", "received", "{'note': 'n'}") in rows
    assert ("plan.context", "consumed", "{'note': 'n'}") in rows
    assert next(row for event in world.events(ContextAttached) for row in stage_rows(event)).stage == "context_attached"
    assert [e.by for e in world.events(ContextAttached)] == [BOBS]
    assert [e.payload for e in world.events(ContextAttached)] == [{"note": "n", "secret": "s"}]


@pytest.mark.parametrize(
    ("payload", "shown"),
    [
        ({"note": "n", "url": "u", "more": 1}, "{'note': 'n', 'url': 'u'}"),
        ({"note": 7}, "{'note': '7'}"),
        ({"a": 1}, "{'a': 1}"),
        ("text", "'text'"),
        ([1, "two"], "[1, 'two']"),
        (0, "0"),
        (False, "False"),
        (None, None),
        ("", None),
        ({}, None),
        ([], None),
    ],
    ids=str,
)
def test_of_what_a_run_is_told_note_and_url_are_shown_else_the_whole(payload: Any, shown: str | None) -> None:
    """TC 48: a small dict without note/url has a non-empty preview."""
    assert preview(payload) == shown


@pytest.mark.parametrize("payload", [{"note": "x" * 600}, {"url": "x" * 600}, "x" * 600, {"a": "x" * 600}, ["x"] * 600])
def test_a_long_one_is_cut(payload: Any) -> None:
    """TC 46: Given a 600-character note, then no audit output contains it all and the preview ends in `...`."""
    shown = preview(payload)
    assert shown is not None
    assert len(shown) < 300
    assert shown.rstrip("}'").endswith("...")


@pytest.mark.parametrize("n", range(245, 260))
async def test_where_a_preview_is_cut_no_part_of_a_name_is_left(n: int) -> None:
    cls = anything()
    world = World(cls)
    async with world.up() as instance:
        run_id = (await ask(instance, "anything", args={"do": "hang"})).run_id
        await signal(instance, run_id, {"note": "x" * n + "alice"})
        await signal(instance, run_id, "x" * n + "alice")
    for event in world.events(ContextAttached):
        assert not re.search("x?a(l|li|lic|lice)?[.'}]", event.shown or ""), event.shown


async def test_the_runs_own_ids_are_replaced_whoever_tells_it_something() -> None:
    """Bob writes to alice's run, which may sleep, and of which nothing is in memory."""
    for state in ("running", "asleep"):
        world = World(anything())
        instance, run_id = await in_state(world, state)
        await perform(VERBS["signal"], instance, {**WHO, "run": run_id, "value": {"note": "bob asks alice"}}, via="cli")
        await perform(VERBS["cancel"], instance, {**WHO, "run": run_id, "reason": "bob is tired of alice"}, via="cli")
        [attached], [cancelled] = world.events(ContextAttached), world.events(RunCancelled)
        assert attached.shown == f"{{'note': '{BOBS} asks {ALICES}'}}"
        assert (attached.by, attached.payload) == (BOBS, {"note": "bob asks alice"})
        assert cancelled.reason == f"{BOBS} is tired of {ALICES}"
        await instance.runs.stop(0)
        await instance.log.close()


# ── through the verbs ────────────────────────────────────────────────────────────────────────────────────────────────


async def test_too_large_a_context_is_refused_and_not_queued() -> None:
    """TC 47: Given a payload whose JSON exceeds 3072, then it is rejected and not queued."""
    world = World(anything())
    instance, run_id = await in_state(world, "running")

    async def tell(n_chars: int) -> Any:
        value = "x" * (n_chars - 2)  # and two quotes
        return await perform(VERBS["signal"], instance, {**WHO, "run": run_id, "value": value}, via="cli")

    await tell(3_072)
    with pytest.raises(Invalid, match="^context payload too large$"):
        await tell(3_073)
    assert len(world.events(ContextAttached)) == 1
    await instance.runs.stop(0)
    await instance.log.close()


async def test_only_contexts_are_signals() -> None:
    world = World(anything())
    instance, run_id = await in_state(world, "running")
    with pytest.raises(Invalid, match="^unsupported signal kind$"):
        await perform(VERBS["signal"], instance, {**WHO, "run": run_id, "value": 1, "kind": "other"}, via="http")
    await instance.runs.stop(0)
    await instance.log.close()


async def test_a_run_is_known_by_the_beginning_of_its_id() -> None:
    world = World(anything())
    instance, run_id = await in_state(world, "running")
    told = await perform(VERBS["pause_run"], instance, {**WHO, "run": run_id[:12]}, via="cli")
    assert (told.run_id, told.task, told.status) == (run_id, "anything", "paused")
    told = await perform(VERBS["resume_run"], instance, {**WHO, "run": run_id}, via="cli")
    assert told.status == "running"
    for unknown in ("anything", "ffffffffffff", run_id[:7], "", "%"):
        with pytest.raises(Unknown):
            await perform(VERBS["pause_run"], instance, {**WHO, "run": unknown}, via="cli")
    await instance.runs.stop(0)
    await instance.log.close()


@pytest.fixture
def threads() -> Iterator[ThreadSpawner]:
    spawner = ThreadSpawner(2)
    yield spawner
    spawner.close()


async def test_who_signals_is_recorded_by_pseudonym_only() -> None:
    world = World(anything())
    instance, run_id = await in_state(world, "running")
    await instance.controls.pause(run_id, by=PSEUDONYMS.user(BOB.user_id))
    assert "bob" not in world.text()
    await instance.runs.stop(0)
    await instance.log.close()


async def test_a_branch_that_is_cut_off_by_a_cancellation_does_nothing_more() -> None:
    """One branch waits, another is within a step: the run is cancelled, and neither goes on."""
    gate, did = asyncio.Event(), list[str]()

    class Branches(BaseTask):
        name = "branches"

        async def run(self) -> None:
            async def working() -> None:
                await self.step("first", self.first)
                await self.step("second", self.second)

            async with asyncio.TaskGroup() as group:
                group.create_task(working())
                await asyncio.sleep(0)
                group.create_task(self.waiting())

        async def waiting(self) -> None:
            await self.sleep(3_600)

        async def first(self) -> None:
            did.append("first begins")
            await gate.wait()
            did.append("first ends")

        async def second(self) -> None:
            did.append("second")

    async with World(Branches).up() as instance:
        run_id = (await ask(instance, "branches")).run_id
        await until(lambda: did == ["first begins"])
        await idle()
        await instance.controls.cancel(run_id, via="cli", by=None)
        gate.set()
        await idle()
    assert did == ["first begins"]
