"""A run performed again against its record: what is answered, what runs, and what the first divergence is."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec import structs

from cascadenced import TaskPipeline, recover_partial
from cascadenced.clock import SystemClock
from cascadenced.commands.door import call
from cascadenced.config import load
from cascadenced.errors import Invalid, NotAllowed
from cascadenced.events.base import Context
from cascadenced.events.idea import NoteRecorded
from cascadenced.events.run import RunFinished
from cascadenced.events.stage import StageFinished, StageStarted
from cascadenced.events.wait import WaitStarted
from cascadenced.handlers.replay import Divergence, Replay, replay
from cascadenced.handlers.run_requests import Origin
from cascadenced.pipeline.policy import Retry
from cascadenced.plugins.base import BaseTask
from cascadenced.plugins.describe import describe
from cascadenced.runtime.spawn import InlineSpawner, ThreadSpawner
from cascadenced.workflows import dispatch, subscribe
from tests.doubles import ALICE, World, ask, idle, run, until


class Declined(Exception):
    """A step's error with a class of the task's own."""


class Order(BaseTask):
    """Three stages; effects go to `charged`."""

    name = "order"
    charged: list[Any] = []
    errors: list[Exception] = []

    def intake(self) -> dict[str, Any]:
        return {"items": [1, 2]}

    async def plan(self) -> dict[str, Any]:
        return {"total": sum(self.args["prices"]), "rate": 1.5}

    async def run(self, plan: dict[str, Any]) -> dict[str, Any]:
        receipt = await self.step("charge", self.charge, plan["total"])
        await self.step("mail", self.mail)
        return {"paid": plan["total"], "receipt": receipt}

    def charge(self, total: int) -> str:
        self.charged.append(total)
        if self.errors:
            raise self.errors.pop()
        return f"receipt {len(self.charged)}"

    async def mail(self) -> None: ...


ARGS = {"prices": [3, 4]}


@pytest.fixture(autouse=True)
def nothing_is_charged_yet():
    Order.charged.clear()
    Order.errors.clear()


async def performed(task: type, args: Any = ARGS) -> World:
    world = World(task)
    async with world.up() as instance:
        await run(instance, task.name, args=args)
    return world


async def again(world: World, task: object, run_id: str | None = None) -> Replay:
    events = [event for event in world.recorded() if event.stream.startswith("run-")]
    stream = f"run-{run_id}" if run_id else events[0].stream
    spawner = ThreadSpawner(2)
    try:
        return await replay(
            [event for event in events if event.stream == stream], describe(task), clock=SystemClock(), spawner=spawner
        )
    finally:
        spawner.close()


async def divergence(world: World, task: object) -> Divergence:
    found = (await again(world, task)).divergence
    assert found is not None
    return found


def verdicts(done: Replay) -> list[tuple[str, int, str]]:
    return [(each.stage, each.attempt, each.verdict) for each in done.stages]


# ── the same ─────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_same_code_does_the_same_and_no_effect_happens_again():
    world = await performed(Order)
    n_events = len(world.file.events)
    done = await again(world, Order)
    assert done.divergence is None
    assert verdicts(done) == [("intake", 1, "same"), ("plan", 1, "same"), ("run", 1, "same")]
    assert [each.n_places for each in done.stages] == [0, 0, 2]
    assert Order.charged == [7]
    assert len(world.file.events) == n_events
    assert done.code_recorded == done.code_now


async def test_user_and_group_are_the_pseudonyms():
    class Names(BaseTask):
        name = "names"
        seen: list[Any] = []

        def run(self) -> None:
            self.seen.append((self.user_id, self.group_id, self.run_id))

    world = await performed(Names)
    await again(world, Names)
    [event] = world.recorded(RunFinished)
    assert Names.seen == [
        (ALICE.user_id, ALICE.group_id, event.run_id),
        (event.user_hash, event.group_hash, event.run_id),
    ]


async def test_a_step_that_is_named_after_the_user_is_the_same_step():
    class Named(BaseTask):
        name = "named"

        async def run(self) -> Any:
            return await self.step(f"write to {self.user_id}", lambda: 1)

    assert (await again(await performed(Named), Named)).divergence is None


async def test_a_step_that_failed_fails_again_and_the_attempt_after_it_is_performed_too():
    class Retried(Order):
        retries = Retry(max_attempts=3, initial_s=1, jitter=0)
        caught: list[str] = []

        async def run(self, plan: Any) -> Any:
            try:
                return await super().run(plan)
            except Declined as error:
                self.caught.append(str(error))
                raise

    Order.errors.append(Declined("no funds"))
    world = World(Retried)
    async with world.up() as instance:
        run_id = (await ask(instance, "order", args=ARGS)).run_id
        await until(lambda: world.clock.n_sleeping)
        await idle()
        await world.clock.advance(2)
        await instance.runs.ended(run_id)
    done = await again(world, Retried)
    assert done.divergence is None
    assert verdicts(done)[2:] == [("run", 1, "same"), ("run", 2, "same")]
    assert Retried.caught == ["no funds", "no funds"]
    assert Order.charged == [7, 7]


async def test_sleeps_and_events_are_answered_and_nothing_waits():
    class Waits(BaseTask):
        name = "order"

        async def run(self) -> Any:
            await self.sleep(3600)
            paid = await self.wait_for("invoice.paid", where={"number": 7})
            try:
                await self.wait_for("never", timeout_s=10)
            except TimeoutError:
                return {"paid": paid, "late": True}

    world = World(Waits)
    async with world.up() as instance:
        run_id = (await ask(instance, "order")).run_id
        for _ in range(3):
            await idle()
            await instance.requests.dispatch("invoice.paid", {"number": 7, "sum": 3}, ALICE, Origin(via="cli"))
            await world.clock.advance(4000)
        assert (await instance.runs.ended(run_id)).run.status == "success"
    done = await again(world, Waits)
    assert (done.divergence, done.stages[0].n_places) == (None, 3)


async def test_what_the_task_was_refused_takes_no_place_either():
    class Confused(BaseTask):
        name = "order"

        async def run(self) -> list[str]:
            said = []
            for ask_for in (
                lambda: self.wait_for("two words"),
                lambda: self.wait_for("paid", timeout_s=-1),
                lambda: self.sleep(-1),
                lambda: self.step("", dict),
                lambda: self.step("bad", lambda: {1}),
            ):
                try:
                    await ask_for()
                except Exception as error:
                    said.append(str(error))
            return [*said, await self.step("last", lambda: "went on")]

    world = await performed(Confused)
    done = await again(world, Confused)
    assert (done.divergence, done.stages[0].n_places) == (None, 2)


async def test_a_run_that_still_waits_is_performed_up_to_there():
    class Waits(Order):
        async def run(self, plan: Any) -> None:
            await self.step("charge", self.charge, 1)
            await self.wait_for("invoice.paid")
            raise AssertionError("never reached")

    class Sleeps(Waits):
        async def run(self, plan: Any) -> None:
            await self.step("charge", self.charge, 1)
            await self.sleep(1)

    class Ends(Waits):
        async def run(self, plan: Any) -> None:
            await self.step("charge", self.charge, 1)

    world = World(Waits)
    async with world.up() as instance:
        await ask(instance, "order", args=ARGS)
        await until(lambda: world.events(WaitStarted))
    done = await again(world, Waits)
    assert (done.divergence, done.stages[-1].outcome) == (None, "waiting")
    assert (await divergence(world, Sleeps)).text == (
        "the stage run, attempt 1, place 2: expected a wait for the event 'invoice.paid', got a sleep"
    )
    assert (await divergence(world, Ends)).got == "the end of the stage"


async def test_what_the_run_was_told_is_told_again():
    class Told(BaseTask):
        name = "told"

        async def plan(self) -> list[Any]:
            await self.wait_for("go")
            return list(self.context)

        def run(self, plan: list[Any]) -> list[Any]:
            return list(self.context)

    world = World(Told)
    async with world.up() as instance:
        run_id = (await ask(instance, "told")).run_id
        await until(lambda: world.events(WaitStarted))
        await instance.controls.signal(run_id, {"note": "by Friday"}, via="cli", by=None, redact=None)
        await instance.requests.dispatch("go", {}, ALICE, Origin(via="cli"))
        ended = await instance.runs.ended(run_id)
    assert ended.run.result == [{"note": "by Friday"}]
    assert (await again(world, Told)).divergence is None


async def test_an_attempt_that_a_crash_cut_off_is_left_out_and_its_steps_are_answered():
    class Dies(Order):
        async def run(self, plan: Any) -> Any:
            receipt = await self.step("charge", self.charge, plan["total"])
            await self.step("mail", self.hang)
            return receipt

        async def hang(self) -> None:
            if len(hanging) == 1:
                await world.clock.sleep(10**6)

    hanging = [1]
    world = World(Dies)
    instance = await world.start()
    run_id = (await ask(instance, "order", args=ARGS)).run_id
    await until(lambda: world.clock.n_sleeping)
    world.crash(instance)
    hanging.clear()
    async with world.up() as instance:
        await instance.runs.ended(run_id)
    done = await again(world, Dies)
    assert done.divergence is None
    assert verdicts(done)[2:] == [("run", 2, "same")]
    assert Order.charged == [7]


async def test_an_outcome_that_somebody_said_is_taken_as_it_is():
    class Once(BaseTask):
        name = "once"
        delivery = "at_most_once"

        async def run(self) -> str:
            await world.clock.sleep(10**6)
            return "done"

    world = World(Once)
    instance = await world.start()
    run_id = (await ask(instance, "once")).run_id
    await until(lambda: world.clock.n_sleeping)
    world.crash(instance)
    async with world.up() as instance:
        await idle()
        await instance.controls.resolve(run_id, "done", by=None, output="said")
        await instance.runs.ended(run_id)
    done = await again(world, Once)
    assert done.divergence is None
    assert [(each.verdict, each.reason) for each in done.stages] == [("taken", "somebody said what became of it")]


class Part(BaseTask):
    name = "part"
    performed: list[int] = []

    def __init__(self, n: int = 0) -> None:
        self.n = n

    def run(self) -> int:
        self.performed.append(self.n)
        return self.n


async def test_the_runs_of_a_plan_are_answered_and_the_plan_is_compared():
    class Whole(BaseTask):
        name = "whole"

        def plan(self) -> Any:
            return [Part(1), Part(2)]

        def run(self, parts: list[int]) -> int:
            return sum(parts)

    class Shorter(Whole):
        def plan(self) -> Any:
            return [Part(1)]

    world = await performed(Whole)
    assert Part.performed == [1, 2]
    assert (await again(world, Whole)).divergence is None
    assert Part.performed == [1, 2]
    found = await divergence(world, Shorter)
    assert (found.stage, found.what, found.expected, found.got) == (
        "plan",
        "plan",
        "part (Part), part (Part) (in order)",
        "part (Part) (in order)",
    )


@pytest.mark.parametrize("installed", [True, False])
async def test_research_is_answered_from_the_record(monkeypatch: pytest.MonkeyPatch, installed: bool):
    searched: list[str] = []

    class Curious(BaseTask):
        name = "curious"

        def research(self) -> str:
            return "who?"

        def run(self) -> str:
            return "x"

    def search(query: str) -> dict[str, str]:
        searched.append(query)
        return {"answer": query}

    monkeypatch.setitem(sys.modules, "tino_storm", SimpleNamespace(search=search) if installed else None)
    world = await performed(Curious)
    done = await again(world, Curious)
    assert done.divergence is None
    assert [each.outcome for each in done.stages] == ["success" if installed else "error", "success"]
    assert searched == ["who?"] * installed


async def test_notes_and_events_are_counted_and_not_carried_out():
    class Notes(BaseTask):
        name = "notes"

        async def run(self) -> None:
            await self.add_note("a")

    @subscribe("replay.this")
    async def passes_on(payload: Any, dispatch: Any) -> None:
        await dispatch("replay.that")

    world = await performed(Notes)
    assert (await again(world, Notes)).n_wishes == 1
    assert len(world.events(NoteRecorded)) == 1
    world = World(passes_on)
    async with world.up() as instance:
        dispatched = await instance.requests.dispatch("replay.this", {}, ALICE, Origin(via="cli"))
        await instance.runs.ended(dispatched.run_id)
    done = await again(world, passes_on)
    assert (done.divergence, done.n_wishes) == (None, 1)


class Asks(BaseTask):
    """Asks by what a script would use as well."""

    name = "asks"

    def ask(self) -> Any:
        return dispatch("replay.side_effect", {"n": 1}, user_id="ada", group_id="eng")


class AsksPlainly(Asks):
    def run(self) -> None:
        self.ask()


class AsksApart(AsksPlainly):
    isolation = "process"


class AsksOnTheLoop(Asks):
    async def run(self) -> None:
        await self.ask()


class AsksInAThread(Asks):
    async def run(self) -> None:
        await asyncio.to_thread(self.ask)


class AsksInAThreadOfItsOwn(Asks):
    def run(self) -> None:
        thread = threading.Thread(target=self.ask)
        thread.start()
        thread.join()


class AsksForWhatWasDone(Asks):
    def run(self) -> None:
        assert recover_partial("asks", "run") is None


class RunsAPipeline(Asks):
    def run(self) -> None:
        assert TaskPipeline(Part(7), data_dir="data").run(user_id="ada") is None


class RunsAPipelineOnTheLoop(Asks):
    async def run(self) -> None:
        assert await TaskPipeline(Part(7), data_dir="data").run(user_id="ada") is None


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The configured data folder, which is not there yet."""
    monkeypatch.delenv("CASCADENCE_CONFIG", raising=False)
    monkeypatch.setenv("CASCADENCE_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "data"


@pytest.mark.parametrize(
    "task",
    [
        AsksPlainly,
        AsksApart,
        AsksOnTheLoop,
        AsksInAThread,
        AsksInAThreadOfItsOwn,
        AsksForWhatWasDone,
        RunsAPipeline,
        RunsAPipelineOnTheLoop,
    ],
)
async def test_what_is_asked_of_a_daemon_or_a_folder_is_counted_and_not_carried_out(task: Any, folder: Path):
    class Silent(Asks):
        def run(self) -> None: ...

    Part.performed.clear()
    done = await again(await performed(Silent), task)
    assert (done.divergence, done.n_wishes) == (None, 1)
    assert not folder.exists()
    assert Part.performed == []


async def test_a_thread_that_the_code_leaves_behind_is_not_heard_afterwards_either(folder: Path):
    class LeavesOneBehind(Asks):
        may_ask = threading.Event()
        threads: list[threading.Thread] = []

        async def run(self) -> None:
            def late() -> None:
                self.may_ask.wait(10)
                self.ask()

            self.threads.append(threading.Thread(target=late))
            self.threads[0].start()

    class Silent(Asks):
        def run(self) -> None: ...

    await again(await performed(Silent), LeavesOneBehind)
    LeavesOneBehind.may_ask.set()
    await asyncio.to_thread(LeavesOneBehind.threads[0].join)
    assert not folder.exists()


async def test_no_command_is_given_from_within(folder: Path):
    class Commands(Asks):
        def run(self) -> str:
            with pytest.raises(NotAllowed, match="a run is performed again in this process"):
                call(load(None, os.environ), "disable", {"task": "asks"})
            return "refused"

    class Refused(Asks):
        def run(self) -> str:
            return "refused"

    done = await again(await performed(Refused), Commands)
    assert (done.divergence, done.n_wishes) == (None, 1)
    assert not folder.exists()


async def test_after_a_replay_the_process_is_heard_again(folder: Path):
    class Silent(Asks):
        def run(self) -> None: ...

    await again(await performed(Silent), Silent)
    await dispatch("nobody.listens", user_id="ada")
    assert (folder / "log.db").exists()


async def test_steps_of_plain_functions_are_answered_too():
    class Plain(Order):
        def run(self, plan: Any) -> Any:  # type: ignore[override]
            return self.step("charge", self.charge, plan["total"])

    world = World(Plain, spawner=ThreadSpawner(2), clock=SystemClock())
    async with world.up() as instance:
        await run(instance, "order", args=ARGS)
    assert (await again(world, Plain)).divergence is None
    assert Order.charged == [7]


async def test_what_an_instance_keeps_is_kept_and_lost_as_it_was_then():
    class Remembers(BaseTask):
        name = "remembers"

        async def intake(self) -> None:
            self.n = 1

        async def plan(self) -> list[Any]:
            before = getattr(self, "n", None)
            await self.sleep(1)
            return [before, getattr(self, "n", None)]

        async def run(self, plan: Any) -> Any:
            self.n = 5
            return plan

        async def verify(self) -> Any:
            return self.n

    world = World(Remembers)
    async with world.up() as instance:
        run_id = (await ask(instance, "remembers")).run_id
        await until(lambda: world.clock.n_sleeping)
        await world.clock.advance(2)
        ended = await instance.runs.ended(run_id)
    assert (ended.run.outputs["plan"], ended.run.result) == ([None, None], 5)
    assert (await again(world, Remembers)).divergence is None


async def test_between_two_lives_of_the_process_nothing_is_kept():
    class Remembers(BaseTask):
        name = "remembers"
        slept: list[bool] = []

        async def plan(self) -> int:
            self.n = 1
            if not self.slept:
                self.slept.append(True)
                await world.clock.sleep(1)
            return 1

        async def run(self) -> Any:
            return getattr(self, "n", None)

    world = World(Remembers)
    instance = await world.start()
    run_id = (await ask(instance, "remembers")).run_id
    await until(lambda: world.clock.n_sleeping)
    stopping = asyncio.ensure_future(instance.runs.stop(10))  # the stage may end, the next one does not start
    await idle()
    await world.clock.advance(2)
    await stopping
    await instance.log.close()
    async with world.up() as instance:
        ended = await instance.runs.ended(run_id)
    assert (ended.run.result, starts_of(world)) == (None, [("plan", 1), ("run", 1)])
    assert (await again(world, Remembers)).divergence is None


def starts_of(world: World) -> list[tuple[str, int]]:
    return [(event.stage, event.attempt) for event in world.events(StageStarted)]


async def test_a_stage_that_there_is_not_is_refused():
    world = await performed(Order)
    strange = [
        structs.replace(each, event=structs.replace(each.event, stage="zzz"))
        if isinstance(each.event, StageStarted | StageFinished)
        else each
        for each in world.recorded()
        if each.stream.startswith("run-")
    ]
    with pytest.raises(Invalid, match="recorded with a stage 'zzz'"):
        await replay(strange, describe(Order), clock=world.clock, spawner=InlineSpawner())


# ── not the same ─────────────────────────────────────────────────────────────────────────────────────────────


async def test_another_output_is_named_by_its_path():
    class Dearer(Order):
        async def plan(self) -> dict[str, Any]:
            return {"total": 8, "rate": 1.5}

    found = await divergence(await performed(Order), Dearer)
    assert found.text == "the stage plan, attempt 1, output .total: expected 7, got 8"


async def test_what_comes_after_the_first_divergence_is_not_performed():
    class Other(Order):
        def intake(self) -> dict[str, Any]:
            return {"items": [1]}

        async def plan(self) -> dict[str, Any]:
            raise AssertionError("not performed")

    done = await again(await performed(Order), Other)
    assert verdicts(done) == [("intake", 1, "different")]
    assert done.divergence.text == "the stage intake, attempt 1, output .items[1]: expected 2, got nothing"


async def test_an_integer_is_not_the_float_of_the_same_value():
    class Floats(Order):
        async def plan(self) -> dict[str, Any]:
            return {"total": 7.0, "rate": 1.5}

    assert (await divergence(await performed(Order), Floats)).got == "7.0"


async def test_another_step_is_named_by_its_place():
    class Renamed(Order):
        async def run(self, plan: Any) -> Any:
            receipt = await self.step("charge", self.charge, plan["total"])
            await self.step("send", self.mail)
            return {"paid": plan["total"], "receipt": receipt}

    found = await divergence(await performed(Order), Renamed)
    assert (found.place, found.text) == (
        "2",
        "the stage run, attempt 1, place 2: expected the step 'mail', got the step 'send'",
    )


async def test_a_step_more_and_a_step_less_are_divergences_and_none_is_executed():
    class More(Order):
        async def run(self, plan: Any) -> Any:
            output = await super().run(plan)
            await self.step("again", self.charge, 1)
            return output

    class Less(Order):
        async def run(self, plan: Any) -> Any:
            receipt = await self.step("charge", self.charge, plan["total"])
            return {"paid": plan["total"], "receipt": receipt}

    world = await performed(Order)
    more, less = await divergence(world, More), await divergence(world, Less)
    assert (more.place, more.expected, more.got) == ("3", "nothing more before the end", "the step 'again'")
    assert (less.place, less.expected, less.got) == ("2", "the step 'mail'", "the end of the stage")
    assert Order.charged == [7]


async def test_code_that_swallows_everything_hides_no_divergence():
    class Swallows(Order):
        async def run(self, plan: Any) -> Any:
            try:
                await self.step("other", self.charge, 1)
            except Exception:
                return {"paid": 7, "receipt": "receipt 1"}

    assert (await divergence(await performed(Order), Swallows)).place == "1"


async def test_an_error_where_there_was_an_output_and_the_other_way_round():
    class Breaks(Order):
        async def plan(self) -> dict[str, Any]:
            raise KeyError("prices")

    class BreaksElsewhere(Order):
        async def plan(self) -> dict[str, Any]:
            raise ValueError("another text")

    well, badly = await performed(Order), await performed(Breaks)
    assert (await divergence(well, Breaks)).text == (
        'the stage plan, attempt 1, outcome: expected the output {"total":7,"rate":1.5}, got the error KeyError: '
        "KeyError: 'prices'"
    )
    assert (await divergence(badly, Order)).what == "outcome"
    assert (await divergence(badly, BreaksElsewhere)).what == "error"
    assert (await again(badly, Breaks)).divergence is None


async def test_a_wait_for_something_else_is_a_divergence():
    def waits(where: Any, timeout_s: float | None) -> type:
        class Waits(BaseTask):
            name = "order"

            async def run(self) -> Any:
                return await self.wait_for("invoice.paid", timeout_s, where)

        return Waits

    world = World(waits({"number": 7}, 60))
    async with world.up() as instance:
        run_id = (await ask(instance, "order")).run_id
        await until(lambda: world.events(WaitStarted))
        await instance.requests.dispatch("invoice.paid", {"number": 7}, ALICE, Origin(via="cli"))
        await instance.runs.ended(run_id)
    found = await divergence(world, waits({"number": 8}, 60))
    assert (found.what, found.place, found.expected, found.got) == ("where", "1", '{"number":7}', '{"number":8}')
    assert (await divergence(world, waits({"number": 7}, None))).got == "a wait without a time limit"
    assert (await again(world, waits({"number": 7}, 3600))).divergence is None


async def test_a_hook_more_and_a_hook_less_are_divergences():
    class Verified(Order):
        def verify(self) -> bool:
            return True

    class Unplanned(BaseTask):
        name = "order"

        def intake(self) -> dict[str, Any]:
            return {"items": [1, 2]}

        def run(self) -> None: ...

    world = await performed(Order)
    more, less = await divergence(world, Verified), await divergence(world, Unplanned)
    assert (more.stage, more.expected, more.got) == ("verify", "no verify()", "a verify() of the task")
    assert (less.stage, less.expected, less.got) == ("plan", "a plan() of the task", "no plan()")


async def test_a_run_that_never_began_has_nothing_to_compare():
    world = World(Order)
    async with world.up() as instance:
        await instance.tasks.switch("order", "disable", Context())
        await ask(instance, "order", args=ARGS)
    done = await again(world, Order)
    assert (done.stages, done.divergence) == ([], None)
