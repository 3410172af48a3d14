"""`TaskPipeline`: what a task's author may rely on, in a script and inside a running loop alike."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from cascadenced import BaseTask, ParallelPlan, PrecheckError, Retry, TaskPipeline
from cascadenced.errors import Conflict, Invalid, RunFailedError
from cascadenced.eventlog.reader import Reader
from cascadenced.events.content import MAX_CONTENT_BYTES, TooLarge, Unserialisable
from cascadenced.events.outbound import messages
from cascadenced.runtime.spawn import TaskExit
from cascadenced.workflows import subscribe
from tests.doubles import ALICE, World
from tests.doubles import run as run_in

WHO = {"user_id": "alice", "group_id": "eng"}
HOOKS = ("intake", "research", "plan", "precheck", "run", "verify")
Run = Callable[..., Any]


def in_a_script(pipeline: TaskPipeline, **arguments: Any) -> Any:
    return pipeline.run(**(arguments or WHO))


def in_a_loop(pipeline: TaskPipeline, **arguments: Any) -> Any:
    async def main() -> Any:
        return await pipeline.run(**(arguments or WHO))

    return asyncio.run(main())


@pytest.fixture(params=[in_a_script, in_a_loop], ids=["script", "loop"])
def run(request: pytest.FixtureRequest) -> Run:
    return request.param


@pytest.fixture(autouse=True)
def no_tino_storm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tino_storm", None)


def search_with(monkeypatch: pytest.MonkeyPatch, search: Any) -> None:
    module = ModuleType("tino_storm")
    module.search = search  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tino_storm", module)


def audit(pipeline: TaskPipeline) -> list[tuple[str, str]]:
    return [(row.stage, row.status) for row in pipeline.audit_rows()]


def row(pipeline: TaskPipeline, stage: str, status: str) -> Any:
    [found] = [row for row in pipeline.audit_rows() if (row.stage, row.status) == (stage, status)]
    return found


def stages(pipeline: TaskPipeline) -> list[str]:
    return [row.stage for row in pipeline.stage_rows()]


def task_runs(pipeline: TaskPipeline) -> list[dict[str, Any]]:
    published = [m for recorded in pipeline.events for m in messages(recorded, "ume", broadcast_pointers=False)]
    return [json.loads(m.body) for m in published if m.subject.startswith("ume.task_run.")]


def written(pipeline: TaskPipeline) -> str:
    return b"\n".join(recorded.data for recorded in pipeline.events).decode()


def plain(calls: list[str]) -> object:
    """A task with every hook as a plain function, which notes when each is called."""

    class Plain:
        def intake(self) -> None:
            calls.append("intake")

        def research(self) -> str:
            calls.append("research")
            return "query"

        def plan(self) -> str:
            calls.append("plan")
            return "planned"

        def precheck(self) -> bool:
            calls.append("precheck")
            return True

        def run(self, plan: str) -> str:
            calls.append("run")
            return f"ran {plan}"

        def verify(self, result: str) -> str:
            calls.append("verify")
            return f"verified {result}"

    return Plain()


def coroutines(calls: list[str]) -> object:
    """The same with coroutine functions."""

    class Coroutines:
        async def intake(self) -> None:
            await asyncio.sleep(0)
            calls.append("intake")

        async def research(self) -> str:
            await asyncio.sleep(0)
            calls.append("research")
            return "query"

        async def plan(self) -> str:
            await asyncio.sleep(0)
            calls.append("plan")
            return "planned"

        async def precheck(self) -> bool:
            await asyncio.sleep(0)
            calls.append("precheck")
            return True

        async def run(self, plan: str) -> str:
            await asyncio.sleep(0)
            calls.append("run")
            return f"ran {plan}"

        async def verify(self, result: str) -> str:
            await asyncio.sleep(0)
            calls.append("verify")
            return f"verified {result}"

    return Coroutines()


BOTH = pytest.mark.parametrize("make", [plain, coroutines])


class Small:
    def run(self) -> str:
        return "done"


class Failing:
    def run(self) -> None:
        raise ValueError("boom")


def raising(error: BaseException) -> object:
    """A task whose plain `run` raises `error`."""

    class Raises:
        def run(self) -> None:
            raise error

    return Raises()


def raising_in_a_coroutine(error: BaseException) -> object:
    class Raises:
        async def run(self) -> None:
            await asyncio.sleep(0)
            raise error

    return Raises()


def returning(value: Any) -> object:
    class Returns:
        def run(self) -> Any:
            return value

    return Returns()


# ── the stages and their order ───────────────────────────────────────────────────────────────────────────────


@BOTH
def test_hooks_fire_in_order_whether_plain_or_coroutines(run: Run, make: Callable[[list[str]], object]) -> None:
    calls: list[str] = []
    assert run(TaskPipeline(make(calls))) == "verified ran planned"
    assert tuple(calls) == HOOKS


@BOTH
def test_a_precheck_that_passes_leaves_its_stage_row_between_plan_and_run(run: Run, make: Any) -> None:
    pipeline = TaskPipeline(make([]))
    run(pipeline)
    assert stages(pipeline) == list(HOOKS)


@BOTH
def test_a_run_of_all_hooks_leaves_twelve_audit_rows(run: Run, make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    search_with(monkeypatch, lambda query: "answer")
    pipeline = TaskPipeline(make([]))
    run(pipeline)
    assert audit(pipeline) == [
        ("intake", "started"),
        ("intake", "success"),
        ("research", "started"),
        ("research", "success"),
        ("plan", "started"),
        ("plan", "success"),
        ("execute", "started"),
        ("precheck", "started"),
        ("precheck", "success"),
        ("execute", "success"),
        ("verify", "started"),
        ("verify", "success"),
    ]


def test_with_only_run_the_stage_rows_are_intake_research_plan_run_verify(run: Run) -> None:
    pipeline = TaskPipeline(Small())
    assert run(pipeline) == "done"
    assert stages(pipeline) == ["intake", "research", "plan", "run", "verify"]


def test_without_a_verify_hook_the_value_is_runs_result_and_verify_has_a_stage_row_still(run: Run) -> None:
    pipeline = TaskPipeline(Small())
    assert run(pipeline) == "done"
    assert "verify" in stages(pipeline)


def test_verify_receives_runs_result_and_what_it_returns_is_the_runs_value(run: Run) -> None:
    class Verified:
        def run(self) -> dict[str, int]:
            return {"sum": 3}

        def verify(self, result: dict[str, int]) -> int:
            return result["sum"] * 2

    assert run(TaskPipeline(Verified())) == 6


def test_a_verify_that_returns_nothing_makes_the_value_none(run: Run) -> None:
    class Verified(Small):
        def verify(self) -> None:
            return None

    assert run(TaskPipeline(Verified())) is None


def test_run_with_a_parameter_receives_the_plan(run: Run) -> None:
    class Planned:
        def plan(self) -> list[int]:
            return [1, 2]

        def run(self, plan: list[int]) -> int:
            return sum(plan)

    assert run(TaskPipeline(Planned())) == 3


def test_run_without_a_parameter_is_called_without_arguments(run: Run) -> None:
    class Planned(Small):
        def plan(self) -> list[int]:
            return [1, 2]

    assert run(TaskPipeline(Planned())) == "done"


def test_run_with_a_default_and_no_plan_hook_is_handed_none(run: Run) -> None:
    class Defaulted:
        def run(self, plan: Any = "default") -> Any:
            return plan

    assert run(TaskPipeline(Defaulted())) is None


def test_a_plan_of_strings_is_data(run: Run) -> None:
    class Planned:
        def plan(self) -> list[str]:
            return ["a", "b"]

        def run(self, plan: list[str]) -> str:
            return "".join(plan)

    assert run(TaskPipeline(Planned())) == "ab"


def test_what_run_does_to_its_plan_does_not_change_what_is_recorded_of_it(run: Run) -> None:
    class Planned:
        def plan(self) -> list[str]:
            return ["a"]

        def run(self, plan: list[str]) -> list[str]:
            plan.append("b")
            return plan

        def verify(self, result: list[str]) -> list[str]:
            result.append("c")
            return ["verified"]

    pipeline = TaskPipeline(Planned())
    run(pipeline)
    assert row(pipeline, "plan", "success").output == "['a']"
    assert row(pipeline, "execute", "success").output == "['a', 'b']"


def test_what_a_task_does_to_its_args_does_not_change_the_request(run: Run) -> None:
    class Greedy:
        args: dict[str, Any]

        def run(self) -> None:
            self.args["n"].append(2)
            self.args["more"] = True

    given = {"n": [1]}
    pipeline = TaskPipeline(Greedy())
    run(pipeline, **WHO, args=given)
    assert given == {"n": [1]}
    assert pipeline.events[0].event.args == {"n": [1]}  # type: ignore[attr-defined]


# ── callers ──────────────────────────────────────────────────────────────────────────────────────────────────


@BOTH
def test_without_a_running_loop_run_returns_the_plain_value(make: Any) -> None:
    assert TaskPipeline(make([])).run(**WHO) == "verified ran planned"


@BOTH
async def test_in_a_running_loop_run_returns_an_awaitable_of_the_value(make: Any) -> None:
    awaitable = TaskPipeline(make([])).run(**WHO)
    assert asyncio.iscoroutine(awaitable)
    assert await awaitable == "verified ran planned"


def test_run_async_is_always_a_coroutine() -> None:
    awaitable = TaskPipeline(Small()).run_async(**WHO)
    assert asyncio.iscoroutine(awaitable)
    assert asyncio.run(awaitable) == "done"


def test_in_a_script_plain_hooks_run_in_the_callers_thread() -> None:
    class Where:
        def run(self) -> str:
            return threading.current_thread().name

    assert TaskPipeline(Where()).run(**WHO) == threading.current_thread().name


async def test_in_a_loop_plain_hooks_leave_the_loop_free() -> None:
    go = threading.Event()

    class Waits:
        def run(self) -> str:
            go.wait(10)
            return "went"

    running = asyncio.ensure_future(TaskPipeline(Waits()).run(**WHO))
    await asyncio.sleep(0)  # the loop turns while the hook waits
    go.set()
    assert await running == "went"


async def test_cancelling_the_caller_cancels_the_task() -> None:
    entered, cancelled = asyncio.Event(), asyncio.Event()

    class Endless:
        async def run(self) -> None:
            entered.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.set()
                raise

    pipeline = TaskPipeline(Endless())
    running = asyncio.ensure_future(pipeline.run(**WHO))
    await entered.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert cancelled.is_set()
    assert pipeline.events[-1].type == "stage.started"


def test_an_object_is_used_as_it_is(run: Run) -> None:
    task = SimpleNamespace(run=lambda: "done")
    run(TaskPipeline(task))
    assert (task.user_id, task.group_id) == ("alice", "eng")


def test_a_class_is_called_for_each_run(run: Run) -> None:
    seen: list[object] = []

    class Fresh:
        def run(self) -> None:
            seen.append(self)

    pipeline = TaskPipeline(Fresh)
    run(pipeline)
    run(pipeline)
    assert seen[0] is not seen[1]


def test_a_workflow_function_can_be_run_as_well(run: Run) -> None:
    @subscribe("invoice.received")
    def file_invoice(payload: dict[str, Any], user_id: str) -> str:
        return f"{user_id} filed {payload['number']}"

    assert run(TaskPipeline(file_invoice), **WHO, args={"number": 7}) == "alice filed 7"


def test_what_cannot_be_a_task_is_refused_when_the_pipeline_is_made() -> None:
    with pytest.raises(Invalid, match="Task 'Nothing' has no run"):
        TaskPipeline(type("Nothing", (), {}))


# ── identity, ids, arguments ─────────────────────────────────────────────────────────────────────────────────


class Sees:
    """Returns what a task may know of its run."""

    user_id: str
    group_id: str
    run_id: str
    args: dict[str, Any]
    context: list[Any]

    def run(self) -> list[Any]:
        return [self.user_id, self.group_id, self.run_id, self.args, self.context]


def test_during_the_run_the_task_has_the_callers_ids_its_run_id_args_and_an_empty_context(run: Run) -> None:
    pipeline = TaskPipeline(Sees())
    seen = run(pipeline, **WHO, args={"n": 1})
    assert seen == ["alice", "eng", pipeline.run_id, {"n": 1}, []]


def test_without_a_group_the_user_is_their_own(run: Run) -> None:
    assert run(TaskPipeline(Sees()), user_id="alice")[:2] == ["alice", "alice"]


@pytest.mark.parametrize("user_id", [None, ""])
def test_without_a_user_the_run_is_refused(run: Run, user_id: Any) -> None:
    with pytest.raises(Invalid, match="^user_id is required$"):
        run(TaskPipeline(Small()), user_id=user_id)


@pytest.mark.parametrize("args", [{"at": datetime(2026, 1, 1, tzinfo=UTC)}, {"n": 2**70}, {1: 2}, {"s": {1}}, ["list"]])
def test_arguments_that_json_cannot_hold_are_refused_and_nothing_runs(run: Run, args: Any) -> None:
    calls: list[str] = []
    with pytest.raises(Invalid, match="args"):
        run(TaskPipeline(plain(calls)), **WHO, args=args)
    assert calls == []


def test_all_rows_share_one_run_id_that_is_the_pipelines(run: Run) -> None:
    pipeline = TaskPipeline(plain([]))
    run(pipeline)
    assert pipeline.run_id
    assert {recorded.run_id for recorded in pipeline.events} == {pipeline.run_id}
    assert {published["run_id"] for published in task_runs(pipeline)} == {pipeline.run_id}


def test_a_second_run_of_the_same_object_has_another_id_and_its_own_rows(run: Run) -> None:
    pipeline = TaskPipeline(Small())
    run(pipeline)
    first = pipeline.run_id
    run(pipeline)
    assert pipeline.run_id != first
    assert stages(pipeline) == ["intake", "research", "plan", "run", "verify"]


async def test_two_runs_of_one_pipeline_at_once_do_not_disturb_each_other() -> None:
    both = asyncio.Barrier(2)

    class Meets:
        user_id: str

        async def run(self) -> str:
            await both.wait()
            return self.user_id

    pipeline = TaskPipeline(Meets)
    assert await asyncio.gather(pipeline.run(user_id="alice"), pipeline.run(user_id="bob")) == ["alice", "bob"]


async def test_two_runs_of_one_registered_object_at_once_each_see_their_own_identity() -> None:
    both = asyncio.Barrier(2)

    class Meets:
        name = "meets"
        user_id: str
        group_id: str

        async def run(self) -> list[str]:
            await both.wait()
            return [self.user_id, self.group_id]

    async with World(Meets()).up() as instance:
        alice, bob = await asyncio.gather(
            run_in(instance, "meets"), run_in(instance, "meets", ALICE.__class__("bob", "ops"))
        )
    assert alice.run.result == ["alice", "eng"]
    assert bob.run.result == ["bob", "ops"]


# ── failures ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_run_that_raises_is_audited_and_the_exception_itself_reaches_the_caller(run: Run) -> None:
    error = ValueError("boom")
    pipeline = TaskPipeline(raising(error))
    with pytest.raises(ValueError, match="^boom$") as caught:
        run(pipeline)
    assert caught.value is error
    assert row(pipeline, "execute", "error").reason == "boom"


def test_a_coroutine_that_raises_is_an_error_and_never_a_success(run: Run) -> None:
    pipeline = TaskPipeline(raising_in_a_coroutine(ValueError("boom")))
    with pytest.raises(ValueError, match="boom"):
        run(pipeline)
    assert ("execute", "error") in audit(pipeline)
    assert ("execute", "success") not in audit(pipeline)


def test_a_failed_run_publishes_one_task_run_with_status_error(run: Run) -> None:
    pipeline = TaskPipeline(Failing())
    with pytest.raises(ValueError, match="boom"):
        run(pipeline)
    assert [published["status"] for published in task_runs(pipeline)] == ["error"]


def test_a_success_is_audited_with_the_repr_of_its_result(run: Run) -> None:
    pipeline = TaskPipeline(returning({"a": [1, None, "x"]}))
    run(pipeline)
    assert row(pipeline, "execute", "success").output == repr({"a": [1, None, "x"]})
    assert [published["status"] for published in task_runs(pipeline)] == ["success"]


@pytest.mark.parametrize("stage", ["intake", "plan", "run", "verify"])
def test_an_exceptions_partial_output_is_in_the_error_row_of_its_stage(run: Run, stage: str) -> None:
    def fail(*_: Any) -> None:
        error = ValueError("half way")
        error.partial = {"rows": [1, 2]}  # type: ignore[attr-defined]
        raise error

    pipeline = TaskPipeline(SimpleNamespace(**{"run": lambda: None, stage: fail}))
    with pytest.raises(ValueError, match="half way"):
        run(pipeline)
    failed = row(pipeline, "execute" if stage == "run" else stage, "error")
    assert failed.output == repr({"rows": [1, 2]})
    assert failed.partial == {"rows": [1, 2]}


def test_a_partial_output_that_json_cannot_hold_is_shown_as_text_only(run: Run) -> None:
    error = ValueError("half way")
    error.partial = {1, 2}  # type: ignore[attr-defined]
    pipeline = TaskPipeline(raising(error))
    with pytest.raises(ValueError, match="half way"):
        run(pipeline)
    failed = row(pipeline, "execute", "error")
    assert (failed.output, failed.partial) == ("{1, 2}", None)


@pytest.mark.parametrize(
    ("verdict", "reason"),
    [(False, "precheck failed"), (None, "precheck failed"), (1, "precheck failed"), ("no budget", "no budget")],
)
def test_a_precheck_that_returns_anything_but_true_stops_the_run(run: Run, verdict: Any, reason: str) -> None:
    calls: list[str] = []
    task = SimpleNamespace(precheck=lambda: verdict, run=lambda: calls.append("run"))
    pipeline = TaskPipeline(task)
    with pytest.raises(PrecheckError, match=f"^{reason}$"):
        run(pipeline)
    assert calls == []
    assert audit(pipeline).count(("precheck", "error")) == 1
    assert audit(pipeline).count(("execute", "error")) == 1
    assert [published["status"] for published in task_runs(pipeline)] == ["error"]


def test_a_precheck_that_raises_is_audited_once_too(run: Run) -> None:
    def precheck() -> None:
        raise LookupError("no such account")

    pipeline = TaskPipeline(SimpleNamespace(precheck=precheck, run=lambda: None))
    with pytest.raises(LookupError, match="no such account"):
        run(pipeline)
    assert row(pipeline, "precheck", "error").reason == "no such account"


def test_an_async_precheck_that_returns_true_lets_the_run_proceed(run: Run) -> None:
    class Checked(Small):
        async def precheck(self) -> bool:
            await asyncio.sleep(0)
            return True

    assert run(TaskPipeline(Checked())) == "done"


# ── research ─────────────────────────────────────────────────────────────────────────────────────────────────


class Curious:
    """Returns what its plan was handed: the answer to its query."""

    def research(self) -> str:
        return "the weather"

    def plan(self, answer: Any) -> Any:
        return answer

    def run(self, plan: Any) -> Any:
        return plan


def test_without_a_research_hook_research_is_started_and_skipped(run: Run) -> None:
    pipeline = TaskPipeline(Small())
    run(pipeline)
    assert [status for stage, status in audit(pipeline) if stage == "research"] == ["started", "skipped"]


def test_without_the_research_package_research_is_an_error_and_the_run_succeeds(run: Run) -> None:
    pipeline = TaskPipeline(Curious())
    assert run(pipeline) is None
    failed = row(pipeline, "research", "error")
    assert failed.reason.startswith("tino_storm is not installed for user ")
    assert "alice" not in failed.reason


def test_a_research_hook_that_raises_ends_the_run_and_is_audited(run: Run) -> None:
    def research() -> None:
        raise ValueError("no idea")

    pipeline = TaskPipeline(SimpleNamespace(research=research, run=lambda: None))
    with pytest.raises(ValueError, match="no idea"):
        run(pipeline)
    assert [status for stage, status in audit(pipeline) if stage == "research"] == ["started", "error"]


async def _answer(query: str) -> str:
    await asyncio.sleep(0)
    return f"about {query}"


async def _twice(query: str) -> Any:
    return _answer(query)


@pytest.mark.parametrize("search", [lambda query: f"about {query}", _answer, _twice], ids=["plain", "async", "twice"])
def test_the_answer_to_the_query_is_handed_to_plan(run: Run, search: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    search_with(monkeypatch, search)
    assert run(TaskPipeline(Curious())) == "about the weather"


def test_a_search_is_told_who_asks_if_its_signature_names_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    search_with(monkeypatch, lambda query, user_id, group_id: [query, user_id, group_id])
    assert run(TaskPipeline(Curious())) == ["the weather", "alice", "eng"]


def test_a_callable_module_is_a_search_itself(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    class Callable_(ModuleType):
        def __call__(self, query: str) -> str:
            return f"called with {query}"

    monkeypatch.setitem(sys.modules, "tino_storm", Callable_("tino_storm"))
    assert run(TaskPipeline(Curious())) == "called with the weather"


def test_a_module_without_a_search_is_a_research_error(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tino_storm", ModuleType("tino_storm"))
    pipeline = TaskPipeline(Curious())
    assert run(pipeline) is None
    assert row(pipeline, "research", "error").reason.startswith("Unsupported tino_storm interface for user ")


def test_a_search_that_fails_leaves_its_reason_and_partial_and_the_run_goes_on(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def search(query: str) -> None:
        error = TimeoutError("too slow for alice")
        error.partial = ["one answer"]  # type: ignore[attr-defined]
        raise error

    search_with(monkeypatch, search)
    pipeline = TaskPipeline(Curious())
    assert run(pipeline) is None
    failed = row(pipeline, "research", "error")
    assert re.fullmatch("too slow for [0-9a-f]{64}", failed.reason)
    assert failed.output == "['one answer']"


class Unspeakable(Exception):
    """Its text and its partial output cannot be had."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    @property
    def partial(self) -> object:
        raise RuntimeError("no partial")


@pytest.mark.parametrize("error", [Unspeakable(), SystemExit(3), StopIteration(), ValueError("\ud800")])
@pytest.mark.parametrize("is_async", [False, True])
def test_a_search_that_fails_in_a_hostile_way_does_not_end_the_run_either(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: BaseException, is_async: bool
) -> None:
    def search(query: str) -> None:
        raise error

    async def search_later(query: str) -> None:
        raise error

    async def search_even_later(query: str) -> Any:
        return search_later(query)

    search_with(monkeypatch, search_even_later if is_async else search)
    pipeline = TaskPipeline(Curious())
    assert run(pipeline) is None
    assert ("research", "error") in audit(pipeline)


# ── results ──────────────────────────────────────────────────────────────────────────────────────────────────


CYCLE: list[Any] = []
CYCLE.append(CYCLE)


@pytest.mark.parametrize(
    "value",
    [
        {1, 2},
        datetime(2026, 1, 1, tzinfo=UTC),
        float("nan"),
        float("inf"),
        CYCLE,
        2**70,
        {1: "x"},
        b"bytes",
        Decimal("1.5"),
        object(),
        "half a \ud800 pair",
        {"deep": [{"er": {3}}]},
        (n for n in range(3)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_result_that_json_cannot_hold_is_the_error_result_unserialisable(run: Run, value: Any) -> None:
    pipeline = TaskPipeline(returning(value))
    with pytest.raises(Unserialisable):
        run(pipeline)
    assert pipeline.events[-1].event.error_type == "result.unserialisable"  # type: ignore[attr-defined]
    assert ("execute", "error") in audit(pipeline)


def test_a_result_of_more_than_the_bound_is_the_error_result_too_large(run: Run) -> None:
    assert len(run(TaskPipeline(returning("x" * (MAX_CONTENT_BYTES - 2))))) == MAX_CONTENT_BYTES - 2
    pipeline = TaskPipeline(returning("x" * MAX_CONTENT_BYTES))
    with pytest.raises(TooLarge, match=f"{MAX_CONTENT_BYTES + 2} bytes as JSON; {MAX_CONTENT_BYTES} are allowed"):
        run(pipeline)
    assert pipeline.events[-1].event.error_type == "result.too_large"  # type: ignore[attr-defined]


def test_a_tuple_comes_back_as_a_list(run: Run) -> None:
    assert run(TaskPipeline(returning((1, (2,))))) == [1, [2]]


RETURN_A_LIST = "to have them run, return a list of them, or ParallelPlan([...]) for at the same time"


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        ([Small(), "data"], "a plan must hold either tasks or data: item 1 is a str, others are tasks"),
        (Small(), "plan() returned a task: to have it run, return it in a list"),
        ({"execution": "parallel", "tasks": [1]}, "a parallel plan must hold tasks, and this one holds data"),
        ((Small(), Small()), f"plan() returned a tuple that holds tasks: {RETURN_A_LIST}"),
        ({"tasks": [Small()]}, f"plan() returned a dict that holds tasks: {RETURN_A_LIST}"),
    ],
    ids=["mixed", "bare", "parallel data", "tuple", "dict"],
)
def test_a_plan_that_is_neither_data_nor_tasks_is_refused_saying_so(run: Run, plan: Any, said: str) -> None:
    pipeline = TaskPipeline(SimpleNamespace(plan=lambda: plan, run=lambda: None))
    with pytest.raises(Unserialisable, match=re.escape(said)):
        run(pipeline)
    assert row(pipeline, "plan", "error").reason == said
    assert pipeline.events[-1].event.error_type == "plan.mixed"  # type: ignore[attr-defined]


# ── hostile code ─────────────────────────────────────────────────────────────────────────────────────────────


class SilentExit(BaseException):
    pass


class TextExits(Exception):
    def __str__(self) -> str:
        raise SystemExit(9)


class PartialExits(Exception):
    @property
    def partial(self) -> object:
        raise SystemExit(9)


class SilentTextExits(BaseException):
    def __str__(self) -> str:
        raise SystemExit(9)


HOSTILE = [
    SilentTextExits(),
    Unspeakable(),
    TextExits(),
    PartialExits("x"),
    SilentExit("out"),
    SystemExit(3),
    GeneratorExit(),
    StopIteration(1),
    StopAsyncIteration(),
    asyncio.CancelledError("by myself"),
    ValueError("half a \ud800 pair"),
    ExceptionGroup("several", [ValueError("one"), OSError("two")]),
]


@pytest.mark.parametrize("make", [raising, raising_in_a_coroutine])
@pytest.mark.parametrize("error", HOSTILE, ids=lambda error: type(error).__name__)
def test_whatever_a_task_raises_is_an_error_of_its_run_and_nothing_more(run: Run, make: Any, error: Any) -> None:
    pipeline = TaskPipeline(make(error))
    with pytest.raises(Exception):  # noqa: B017, PT011 -- which one is not promised for these
        run(pipeline)
    assert pipeline.events[-1].type == "run.failed"
    assert audit(pipeline).count(("execute", "error")) == 1
    assert row(pipeline, "execute", "error").reason


def test_an_exit_is_told_by_its_name(run: Run) -> None:
    pipeline = TaskPipeline(raising(SystemExit(3)))
    with pytest.raises(TaskExit, match="^SystemExit: 3$"):
        run(pipeline)


@pytest.mark.parametrize(
    ("run", "make"),
    [(in_a_script, raising_in_a_coroutine), (in_a_loop, raising_in_a_coroutine), (in_a_loop, raising)],
)
def test_an_interrupt_in_another_thread_than_the_callers_is_an_error_of_its_run(run: Run, make: Any) -> None:
    pipeline = TaskPipeline(make(KeyboardInterrupt()))
    with pytest.raises(TaskExit, match="^KeyboardInterrupt"):
        run(pipeline)
    assert pipeline.events[-1].type == "run.failed"


@pytest.mark.parametrize("make", [raising, raising_in_a_coroutine])
def test_an_exit_is_not_tried_again(run: Run, make: Any) -> None:
    task = make(SystemExit(3))
    task.retries = Retry(max_attempts=3, initial_s=0)
    pipeline = TaskPipeline(task)
    with pytest.raises(TaskExit, match="^SystemExit: 3$"):
        run(pipeline)
    assert audit(pipeline).count(("execute", "started")) == 1


class Presses:
    """Ctrl-C, in each of its plain places, while its code sleeps."""

    retries = Retry(max_attempts=3, initial_s=0)

    def __init__(self, place: str) -> None:
        self.place, self.n_begun = place, 0

    def _pass(self, place: str) -> bool:
        if place == self.place:
            self.n_begun += 1
            signal.raise_signal(signal.SIGINT)
            raise AssertionError("it is the main thread's")
        return True

    def intake(self) -> None:
        self._pass("intake")

    def precheck(self) -> bool:
        return self._pass("precheck")

    def run(self) -> None:
        self._pass("run")


class PressesInAStep(BaseTask):
    retries = Retry(max_attempts=3, initial_s=0)
    n_begun = 0

    def run(self) -> None:
        self.step("press", self.press)

    def press(self) -> None:
        self.n_begun += 1
        signal.raise_signal(signal.SIGINT)


class PlansToPress:
    def __init__(self, *, parallel: bool) -> None:
        self.child, self.parallel = Presses("run"), parallel

    def plan(self) -> Any:
        return ParallelPlan([self.child]) if self.parallel else [self.child]

    @property
    def n_begun(self) -> int:
        return self.child.n_begun


@pytest.mark.parametrize(
    "make",
    [
        lambda: Presses("intake"),
        lambda: Presses("precheck"),
        lambda: Presses("run"),
        PressesInAStep,
        lambda: PlansToPress(parallel=False),
        lambda: PlansToPress(parallel=True),
    ],
    ids=["intake", "precheck", "run", "step", "child", "parallel child"],
)
def test_ctrl_c_in_a_plain_hook_of_a_script_is_the_callers_and_leaves_the_stage_interrupted(
    make: Any, tmp_path: Path
) -> None:
    task = make()
    with pytest.raises(KeyboardInterrupt):
        TaskPipeline(task, data_dir=tmp_path).run(**WHO)
    assert task.n_begun == 1
    assert asyncio.run(events_in(tmp_path))[-1].type == "stage.interrupted"


def test_after_ctrl_c_the_pipeline_can_be_run_again() -> None:
    task = Presses("run")
    pipeline = TaskPipeline(task)
    with pytest.raises(KeyboardInterrupt):
        pipeline.run(**WHO)
    task.place = "nowhere"
    assert pipeline.run(**WHO) is None


def test_a_task_that_cancels_itself_does_not_look_like_a_cancelled_caller(run: Run) -> None:
    with pytest.raises(RunFailedError) as caught:
        run(TaskPipeline(raising_in_a_coroutine(asyncio.CancelledError())))
    assert caught.value.error_type == "CancelledError"


def test_a_constructor_that_raises_is_the_first_stages_error(run: Run) -> None:
    class Broken(Small):
        def __init__(self) -> None:
            raise ValueError("no database")

    pipeline = TaskPipeline(Broken)
    with pytest.raises(ValueError, match="no database"):
        run(pipeline)
    assert row(pipeline, "execute", "error").reason == "no database"


def test_a_text_of_any_length_is_cut(run: Run) -> None:
    pipeline = TaskPipeline(raising(ValueError("x" * 100_000)))
    with pytest.raises(ValueError, match="xxx"):
        run(pipeline)
    reason = row(pipeline, "execute", "error").reason
    assert len(reason) == 2048
    assert reason.endswith("...")


# ── privacy ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_texts_show_pseudonyms_while_contents_stay_exact(run: Run) -> None:
    class Talks:
        def plan(self) -> dict[str, str]:
            return {"for": "alice of eng"}

        def run(self, plan: dict[str, str]) -> None:
            error = ValueError(f"nothing found for {plan['for']}")
            error.partial = ["alice"]  # type: ignore[attr-defined]
            raise error

    pipeline = TaskPipeline(Talks())
    with pytest.raises(ValueError, match="alice of eng"):
        run(pipeline)
    planned, failed = row(pipeline, "plan", "success"), row(pipeline, "execute", "error")
    for text in (planned.output, failed.output, failed.reason):
        assert "alice" not in text
        assert re.search("[0-9a-f]{64}", text)
    assert failed.partial == ["alice"]
    assert '"output":{"for":"alice of eng"}' in written(pipeline)


def test_nothing_but_content_names_the_user(run: Run) -> None:
    pipeline = TaskPipeline(plain([]))
    run(pipeline, user_id="alice@example.com", group_id="the-engineers")
    headers = repr([(r.stream, r.source, r.user_hash, r.group_hash, r.correlation, r.cause) for r in pipeline.events])
    for raw in ("alice@example.com", "the-engineers"):
        assert raw not in written(pipeline)
        assert raw not in headers


# ── a data folder ────────────────────────────────────────────────────────────────────────────────────────────


async def events_in(folder: Path) -> list[Any]:
    reader = await Reader.open(folder / "log.db")
    try:
        return await reader.read(0, 1_000)
    finally:
        await reader.close()


def test_with_a_data_dir_the_events_are_in_that_folders_log(run: Run, tmp_path: Path) -> None:
    pipeline = TaskPipeline(Small(), data_dir=tmp_path)
    assert run(pipeline) == "done"
    recorded = [event for event in asyncio.run(events_in(tmp_path)) if event.run_id == pipeline.run_id]
    assert [event.type for event in recorded] == [event.type for event in pipeline.events]
    assert recorded[-1].type == "run.finished"


def test_with_a_data_dir_runs_follow_each_other_in_one_log(run: Run, tmp_path: Path) -> None:
    pipeline = TaskPipeline(Small(), data_dir=tmp_path)
    run(pipeline)
    run(pipeline)
    ended = [event.run_id for event in asyncio.run(events_in(tmp_path)) if event.type == "run.finished"]
    assert len(set(ended)) == 2


def test_with_a_data_dir_raw_ids_are_in_no_file_but_the_vault(run: Run, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="boom"):
        run(TaskPipeline(Failing(), data_dir=tmp_path), user_id="alice@example.com", group_id="the-engineers")
    for file in tmp_path.iterdir():
        assert b"alice@example.com" not in file.read_bytes(), file
        assert b"the-engineers" not in file.read_bytes(), file


async def test_with_a_data_dir_a_caller_that_gives_up_leaves_the_stage_interrupted(tmp_path: Path) -> None:
    entered = asyncio.Event()

    class Endless:
        async def run(self) -> None:
            entered.set()
            await asyncio.Event().wait()

    running = asyncio.ensure_future(TaskPipeline(Endless(), data_dir=tmp_path).run(**WHO))
    await entered.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert (await events_in(tmp_path))[-1].type == "stage.interrupted"


async def test_a_disabled_task_is_refused_with_the_reason(tmp_path: Path) -> None:
    from cascadenced.commands import offline
    from cascadenced.config import load

    await TaskPipeline(Small(), data_dir=tmp_path).run(**WHO)
    config = load(None, {}, {"data_dir": str(tmp_path), "plugin_paths": (f"{__name__}:Small",)})
    await offline.write(config, "disable", {"task": "Small"})
    with pytest.raises((RunFailedError, Conflict), match="^Task 'Small' is disabled$"):
        await TaskPipeline(Small(), data_dir=tmp_path).run(**WHO)
