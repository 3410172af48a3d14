"""`TaskPipeline` while it runs: pause, resume, cancel and contexts, from other threads and from coroutines."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cascadenced import TaskPipeline
from cascadenced.errors import Conflict, Invalid, RunFailedError

WHO = {"user_id": "alice", "group_id": "eng"}


class Journey:
    """Each stage says what it was told, and waits for its gate."""

    def __init__(self) -> None:
        self.gates = {stage: asyncio.Event() for stage in ("intake", "plan", "run")}
        self.begun: dict[str, asyncio.Event] = {stage: asyncio.Event() for stage in self.gates}
        self.seen: dict[str, list[Any]] = {}

    async def _pass(self, stage: str) -> str:
        self.seen[stage] = list(self.context)  # type: ignore[attr-defined]
        self.begun[stage].set()
        await self.gates[stage].wait()
        return stage

    async def intake(self) -> str:
        return await self._pass("intake")

    async def plan(self) -> str:
        return await self._pass("plan")

    async def run(self) -> str:
        return await self._pass("run")


Act = Callable[[Callable[[], Any]], Awaitable[Any]]


async def in_the_loop(do: Callable[[], Any]) -> Any:
    return await do()


async def in_a_thread(do: Callable[[], Any]) -> Any:
    return await asyncio.to_thread(do)


async def in_another_loop(do: Callable[[], Any]) -> Any:
    async def main() -> Any:
        return await do()

    return await asyncio.to_thread(lambda: asyncio.run(main()))


@pytest.fixture(params=[in_the_loop, in_a_thread, in_another_loop], ids=["its loop", "a thread", "another loop"])
def act(request: pytest.FixtureRequest) -> Act:
    return request.param


@pytest.fixture(params=[None, "folder"], ids=["in memory", "in a folder"])
def data_dir(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    return tmp_path / "data" if request.param else None


def stages(pipeline: TaskPipeline) -> list[str]:
    return [row.stage for row in pipeline.stage_rows()]


async def test_a_paused_pipeline_leaves_other_coroutines_running_and_resume_completes_it(
    act: Act, data_dir: Path | None
) -> None:
    """TC 37, 38, 39: the next stage does not start until resume; rows `paused` and `resumed` exist."""
    task = Journey()
    pipeline = TaskPipeline(task, data_dir=data_dir)
    running = asyncio.create_task(pipeline.run_async(**WHO))
    await task.begun["intake"].wait()
    await act(pipeline.pause)
    for gate in task.gates.values():
        gate.set()
    while "stage.finished" not in await _types(pipeline):
        await asyncio.sleep(0)
    for _ in range(100):
        await asyncio.sleep(0)
    assert not task.begun["plan"].is_set()
    assert not running.done()
    await act(pipeline.resume)
    assert await running == "run"
    assert stages(pipeline) == ["paused", "intake", "resumed", "research", "plan", "run", "verify"]


async def _types(pipeline: TaskPipeline) -> list[str]:
    """Of what the run under way has recorded."""
    under_way = pipeline._under_way
    assert under_way is not None
    return [each.type for each in await under_way.instance.log.read_stream(f"run-{pipeline.run_id}")]


async def test_a_context_is_told_to_the_next_stage(act: Act, data_dir: Path | None) -> None:
    """TC 40: attached during a stage: false, and the following ones see it."""
    task = Journey()
    pipeline = TaskPipeline(task, data_dir=data_dir)
    running = asyncio.create_task(pipeline.run_async(**WHO))
    await task.begun["intake"].wait()
    assert await act(lambda: pipeline.attach_context({"note": "n"}, user_id="bob")) is False
    for gate in task.gates.values():
        gate.set()
    await running
    assert task.seen == {"intake": [], "plan": [{"note": "n"}], "run": [{"note": "n"}]}
    rows = [(row.stage, row.status, row.output) for row in pipeline.audit_rows()]
    assert ("context_attached", "received", "{'note': 'n'}") in rows
    assert "bob" not in str(pipeline.events)


async def test_a_context_for_a_run_that_is_parked_is_told_at_once(act: Act) -> None:
    """TC 42"""
    task = Journey()
    pipeline = TaskPipeline(task)
    running = asyncio.create_task(pipeline.run_async(**WHO))
    await task.begun["intake"].wait()
    await act(pipeline.pause)
    task.gates["intake"].set()
    while (await _types(pipeline))[-1] != "stage.finished":
        await asyncio.sleep(0)
    assert await act(lambda: pipeline.attach_context("n")) is True
    for gate in task.gates.values():
        gate.set()
    await act(pipeline.resume)
    await running
    assert task.seen == {"intake": [], "plan": ["n"], "run": ["n"]}


async def test_what_an_idle_pipeline_is_told_is_for_its_next_run_alone(act: Act, data_dir: Path | None) -> None:
    """TC 41, 43: true, and intake already sees it."""

    class Sees:
        def intake(self) -> None:
            self.saw = list(self.context)  # type: ignore[attr-defined]

        def run(self) -> Any:
            return [self.saw, self.context]  # type: ignore[attr-defined]

    pipeline = TaskPipeline(Sees, data_dir=data_dir)
    assert await act(lambda: pipeline.attach_context(1)) is True
    assert await act(lambda: pipeline.attach_context(2)) is True
    assert await pipeline.run(**WHO) == [[1, 2], [1, 2]]
    assert await pipeline.run(**WHO) == [[], []]


async def test_a_pipeline_that_is_paused_before_its_run_begins_no_stage_until_it_is_resumed(act: Act) -> None:
    task = Journey()
    pipeline = TaskPipeline(task)
    await act(pipeline.pause)
    running = asyncio.create_task(pipeline.run_async(**WHO))
    while pipeline.run_id is None or "run.paused" not in await _types(pipeline):
        await asyncio.sleep(0)
    for gate in task.gates.values():
        gate.set()
    for _ in range(100):
        await asyncio.sleep(0)
    assert not task.begun["intake"].is_set()
    await act(pipeline.resume)
    assert await running == "run"


async def test_a_pause_before_the_run_can_be_taken_back(act: Act) -> None:
    task = Journey()
    for gate in task.gates.values():
        gate.set()
    pipeline = TaskPipeline(task)
    await act(pipeline.pause)
    await act(pipeline.resume)
    assert await pipeline.run(**WHO) == "run"
    assert stages(pipeline) == ["intake", "research", "plan", "run", "verify"]


async def test_a_cancelled_run_ends_and_says_why(act: Act, data_dir: Path | None) -> None:
    task = Journey()
    pipeline = TaskPipeline(task, data_dir=data_dir)
    running = asyncio.create_task(pipeline.run_async(**WHO))
    task.gates["intake"].set()
    await task.begun["plan"].wait()
    await act(lambda: pipeline.cancel("no longer needed, says alice"))
    with pytest.raises(RunFailedError, match="^no longer needed, says ") as caught:
        await running
    assert caught.value.run_id == pipeline.run_id
    assert "alice" not in str(caught.value)
    assert not task.begun["run"].is_set()


async def test_what_is_asked_of_no_run_is_a_conflict_and_of_the_ended_one_too(act: Act) -> None:
    task = Journey()
    for gate in task.gates.values():
        gate.set()
    pipeline = TaskPipeline(task)
    for _ in range(2):
        with pytest.raises(Conflict, match="^no run of this pipeline is paused$"):
            await act(pipeline.resume)
        with pytest.raises(Conflict, match="^no run of this pipeline is under way$"):
            await act(pipeline.cancel)
        await pipeline.run(**WHO)


async def test_resuming_what_is_not_paused_is_a_conflict(act: Act) -> None:
    task = Journey()
    pipeline = TaskPipeline(task)
    running = asyncio.create_task(pipeline.run_async(**WHO))
    await task.begun["intake"].wait()
    with pytest.raises(Conflict, match="not paused"):
        await act(pipeline.resume)
    for gate in task.gates.values():
        gate.set()
    assert await running == "run"


def planning(*items: Any) -> TaskPipeline:
    class Plans:
        def plan(self) -> list[Any]:
            return list(items)

    return TaskPipeline(Plans())


ASKED = pytest.mark.parametrize(
    "ask",
    [
        TaskPipeline.pause,
        TaskPipeline.resume,
        TaskPipeline.cancel,
        lambda pipeline: pipeline.attach_context({"note": "n"}),
    ],
    ids=["pause", "resume", "cancel", "attach_context"],
)


@ASKED
async def test_what_is_asked_of_a_pipeline_that_runs_as_part_of_another_run_is_a_conflict(act: Act, ask: Any) -> None:
    task = Journey()
    child = TaskPipeline(task)
    running = asyncio.create_task(planning(child).run(**WHO))
    await task.begun["intake"].wait()
    with pytest.raises(
        Conflict, match="^this pipeline runs as part of another run, .*: pause, resume or cancel that run"
    ):
        await act(lambda: ask(child))
    for gate in task.gates.values():
        gate.set()
    assert await running == ["run"]
    assert task.seen["run"] == []


async def test_pausing_the_run_of_a_plan_pauses_the_pipelines_in_it() -> None:
    task = Journey()
    parent = planning(TaskPipeline(task))
    running = asyncio.create_task(parent.run(**WHO))
    await task.begun["intake"].wait()
    await parent.pause()
    for gate in task.gates.values():
        gate.set()
    for _ in range(100):
        await asyncio.sleep(0)
    assert not task.begun["plan"].is_set()
    await parent.resume()
    assert await running == ["run"]


@pytest.mark.parametrize("tell", [TaskPipeline.pause, lambda pipeline: pipeline.attach_context({"note": "n"})])
async def test_a_plan_does_not_lose_what_a_pipeline_in_it_was_told_before(act: Act, tell: Any) -> None:
    child = TaskPipeline(Journey())
    await act(lambda: tell(child))
    with pytest.raises(Conflict, match="^a pipeline in a plan was told of its next run, .* hand to its constructor"):
        await planning(child).run(**WHO)


async def test_a_pipeline_that_is_in_a_plan_as_well_controls_the_run_of_its_own() -> None:
    task = Journey()
    pipeline = TaskPipeline(task)
    task.gates["intake"].set()
    task.gates["plan"].set()
    task.gates["run"].set()
    await planning(pipeline).run(**WHO)
    task.gates["intake"].clear()
    task.begun["intake"].clear()
    running = asyncio.create_task(pipeline.run(**WHO))
    await task.begun["intake"].wait()
    assert await pipeline.attach_context("n") is False
    task.gates["intake"].set()
    assert await running == "run"
    assert task.seen["plan"] == ["n"]


async def test_the_code_of_a_run_may_pause_it_from_a_plain_hook() -> None:
    """A hook in a thread of its own: the run is parked when that hook ends."""
    paused = threading.Event()

    class PausesItself:
        def intake(self) -> None:
            pipeline.pause()
            paused.set()

        def run(self) -> str:
            return "went on"

    pipeline = TaskPipeline(PausesItself())
    running = asyncio.create_task(pipeline.run_async(**WHO))
    await asyncio.to_thread(paused.wait, 30)
    await pipeline.resume()
    assert await running == "went on"
    assert stages(pipeline)[:2] == ["paused", "intake"] or stages(pipeline)[:2] == ["paused", "resumed"]


def test_a_script_that_blocks_is_controlled_from_another_thread() -> None:
    begun, go = threading.Event(), threading.Event()
    seen: list[Any] = []

    class Blocks:
        def intake(self) -> None:
            begun.set()
            go.wait(30)

        def run(self) -> str:
            seen.extend(self.context)  # type: ignore[attr-defined]
            return "done"

    def control() -> None:
        begun.wait(30)
        pipeline.pause()
        pipeline.attach_context({"url": "https://example.org"})
        go.set()
        pipeline.resume()

    pipeline = TaskPipeline(Blocks())
    other = threading.Thread(target=control)
    other.start()
    assert pipeline.run(**WHO) == "done"
    other.join()
    assert seen == [{"url": "https://example.org"}]


class Model:
    def __init__(self, **fields: Any) -> None:
        self._fields = fields

    def model_dump(self) -> dict[str, Any]:
        return self._fields


class OldModel(Model):
    model_dump = None  # type: ignore[assignment]

    def dict(self) -> dict[str, Any]:
        return self._fields


@pytest.mark.parametrize("model", [Model, OldModel])
def test_a_model_is_told_as_what_it_exports(model: type) -> None:
    class Sees:
        def run(self) -> Any:
            return self.context  # type: ignore[attr-defined]

    pipeline = TaskPipeline(Sees())
    assert pipeline.attach_context(model(note="n", more=1)) is True
    assert pipeline.run(**WHO) == [{"note": "n", "more": 1}]


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        ({"note": 7}, "note must be a string"),
        ({"url": "x" * 2_049}, "url exceeds maximum length"),
        ("x" * 3_071, "context payload too large"),
        ({1: 2}, "context has a key of type int; JSON keys are strings"),
        (object(), "context is of type object: JSON holds .*"),
        (Model(note=7), "note must be a string"),
    ],
    ids=["note of a wrong type", "long url", "too large", "keys", "object", "model"],
)
def test_what_cannot_be_told_is_a_value_error_and_not_told(payload: Any, says: str) -> None:
    """TC 47"""

    class Sees:
        def run(self) -> Any:
            return self.context  # type: ignore[attr-defined]

    pipeline = TaskPipeline(Sees())
    with pytest.raises(ValueError, match=f"^{says}$") as caught:
        pipeline.attach_context(payload)
    assert isinstance(caught.value, Invalid)
    assert pipeline.run(**WHO) == []


@pytest.mark.parametrize("user_id", ["", "x" * 257, "a\0b"])
def test_who_controls_must_be_somebody(user_id: str) -> None:
    pipeline = TaskPipeline(Journey())
    for do in (pipeline.pause, pipeline.resume, pipeline.cancel):
        with pytest.raises(Invalid, match="user_id"):
            do(user_id=user_id)
    with pytest.raises(Invalid, match="user_id"):
        pipeline.attach_context(1, user_id=user_id)


@pytest.fixture(autouse=True)
def nothing_is_left_running() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    for thread in threading.enumerate():
        if thread.name == "loop" and thread not in before:
            thread.join(30)  # it may just be ending
            assert not thread.is_alive()


async def test_a_run_that_ends_while_it_is_asked_for_something_answers_all_the_same() -> None:
    """Each answer is a result or a Conflict; none is left waiting."""
    for _ in range(20):
        begun = threading.Event()

        class Quick:
            async def run(self) -> str:
                begun.set()  # noqa: B023
                return "done"

        pipeline = TaskPipeline(Quick())

        def ask_away() -> list[str]:
            begun.wait(30)  # noqa: B023
            answers = []
            for _ in range(5):
                try:
                    pipeline.attach_context(1)  # noqa: B023
                    answers.append("told")
                except Conflict:
                    answers.append("ended")
            return answers

        asking = asyncio.create_task(asyncio.to_thread(ask_away))
        assert await pipeline.run(**WHO) == "done"
        assert len(await asyncio.wait_for(asking, 30)) == 5
