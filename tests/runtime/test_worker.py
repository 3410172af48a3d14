"""Tasks in processes of their own: what a stage there is given, what it may ask, and how it is told of."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import sys
import textwrap
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from cascadenced.errors import Invalid, Unavailable
from cascadenced.runtime.worker import Died
from cascadenced.runtime.worker_output import MAX_PRINTED_BYTES
from cascadenced.runtime.worker_protocol import (
    Ask,
    Raised,
    Recorded,
    Refusal,
    Returned,
    StageCall,
    Suspend,
    Suspended,
    TaskSource,
)
from tests.runtime import worker_tasks as tasks
from tests.runtime.worker_world import GIVEN, Asked, Bench, bench, call, children, is_alive, until


@pytest_asyncio.fixture
async def b() -> AsyncIterator[Bench]:
    async with bench() as b:
        yield b


# ── stages ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_stage_gives_its_result(b: Bench) -> None:
    performed = await b.do(tasks.Plain, n=1)
    assert performed.outcome == Returned(value={"user": "alice", "args": {"n": 1}, "cwd": os.getcwd()})


async def test_one_process_performs_all_stages_of_a_run_with_one_task(b: Bench) -> None:
    worker = await b.start(tasks.Stages)
    nobody = Asked()
    assert await done(worker, call("intake"), nobody) == worker.pid
    assert await done(worker, StageCall(stage="plan", argument={"a": 1}), nobody) == [{"a": 1}, "planned"]
    ended = await done(worker, StageCall(stage="run", argument=[2]), nobody)
    assert ended == {"pid": worker.pid, "same": True, "n_stages": 3, "plan": [2]}
    assert await done(worker, StageCall(stage="verify", argument=ended), nobody) == ended


async def test_a_hook_is_handed_nothing_where_there_is_nothing_to_hand(b: Bench) -> None:
    worker = await b.start(tasks.Stages)
    assert await done(worker, call("verify"), Asked()) == "nothing"
    assert await done(worker, StageCall(stage="verify", argument=None), Asked()) is None


async def test_a_plain_hook_may_hand_back_something_to_await(b: Bench) -> None:
    assert (await b.do(tasks.Hands)).outcome == Returned(value="later")


async def test_an_object_is_copied_for_each_run(b: Bench) -> None:
    for name in ("copied", "again"):
        worker = await b.workers.start(TaskSource(tasks.__name__, name))
        assert await done(worker, call(), Asked()) == ["hello", "again"]


async def test_runs_are_performed_side_by_side(b: Bench) -> None:
    performed = await asyncio.gather(*(b.do(tasks.Plain, n=n) for n in range(10)))
    assert [p.outcome.value["args"]["n"] for p in performed] == list(range(10))


async def test_beyond_the_bound_a_run_waits_for_another_one_to_end() -> None:
    async with bench(max_workers=1) as b:
        first = await b.start(tasks.Plain)
        second = asyncio.ensure_future(b.start(tasks.Plain))
        await asyncio.sleep(0)
        assert not second.done()
        await first.close()
        await done(await second, call(), Asked())


async def test_what_is_attached_to_a_run_reaches_the_stage_under_way(b: Bench) -> None:
    worker, asked = await b.start(tasks.Reads), Asked()
    await worker.attach("left to the attributes of the first stage")
    performing = asyncio.ensure_future(worker.perform(call(), asked))
    await asked.begun.wait()
    await worker.attach({"n": 1})
    await worker.attach("two")
    assert (await performing).outcome == Returned(value=[{"n": 1}, "two"])


@pytest.mark.parametrize(
    ("says", "told"), [(True, True), (False, False), ("no", "no"), ("", False), (1, False), ("object", False)]
)
async def test_precheck_says_yes_or_why_not(b: Bench, says: Any, told: Any) -> None:
    assert (await b.do(tasks.Prechecks, "precheck", says=says)).outcome == Returned(value=told)


async def test_a_worker_performs_one_stage_at_a_time(b: Bench) -> None:
    worker, asked = await b.start(tasks.Reads), Asked()
    performing = asyncio.ensure_future(worker.perform(call(), asked))
    await asked.begun.wait()
    with pytest.raises(RuntimeError, match="one stage at a time"):
        await worker.perform(call(), asked)
    worker.kill()
    await performing


async def done(worker: Any, stage: StageCall, asked: Asked) -> Any:
    outcome = (await worker.perform(stage, asked)).outcome
    assert isinstance(outcome, Returned), outcome
    return outcome.value


# ── what surrounds it ────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_task_sees_what_the_daemon_sees_but_not_what_is_for_the_daemon_alone() -> None:
    environ = {"CASCADENCE_HASH_SECRET": "s", "NOTIFY_SOCKET": "/n", "FOR_TASKS": "x", "PYTHONPATH": "/p"}
    async with bench(**environ) as b:
        seen = (await b.do(tasks.Sees)).outcome.value
    assert {name: seen["environ"].get(name) for name in environ} == {
        "CASCADENCE_HASH_SECRET": None, "NOTIFY_SOCKET": None, "FOR_TASKS": "x", "PYTHONPATH": "/p"
    }  # fmt: skip
    assert seen["path"] == [entry or os.getcwd() for entry in sys.path]
    assert (seen["argv"], seen["stdin"]) == ([tasks.__name__], "")
    assert seen["session"] != os.getsid(0)


async def test_processes_that_a_task_starts_hold_nothing_of_ours(b: Bench) -> None:
    seen = (await b.do(tasks.Sees)).outcome.value
    assert len(seen["child"]) == 4  # the standard ones, and the folder that is listed
    assert len(seen["descriptors"]) == 6


async def test_a_module_beside_the_working_folder_shadows_none_of_pythons(
    b: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "struct.py").write_text("raise SystemExit('shadowed')")
    monkeypatch.chdir(tmp_path)
    assert (await b.do(tasks.Plain)).outcome.value["cwd"] == str(tmp_path)


async def test_code_is_found_where_the_daemon_finds_it(
    b: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "beside.py").write_text("class Outer:\n    class Inner:\n        def run(self): return __file__\n")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    worker = await b.workers.start(TaskSource("beside", "Outer.Inner"))
    assert await done(worker, call(), Asked()) == str(tmp_path / "beside.py")


@pytest.mark.parametrize(
    ("text", "error_type", "reason"),
    [
        ("1/0", "ZeroDivisionError", "division by zero"),
        ("raise SystemExit(3)", "TaskExit", "SystemExit: 3"),
        ("x = 1", "AttributeError", "has no attribute 'Task'"),
        ("class Task:\n    def other(self): ...", "hook.missing", "no longer has a run"),
    ],
)
async def test_code_that_cannot_be_used_fails_its_first_stage(
    b: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, error_type: str, reason: str
) -> None:
    (tmp_path / "unusable.py").write_text(text)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    worker = await b.workers.start(TaskSource("unusable", "Task"))
    outcome = (await worker.perform(call(), Asked())).outcome
    assert isinstance(outcome, Raised)
    assert outcome.error_type == error_type
    assert reason in outcome.text


async def test_a_module_that_is_gone_fails_its_first_stage(b: Bench) -> None:
    worker = await b.workers.start(TaskSource("nowhere.to_be_found", "Task"))
    outcome = (await worker.perform(call(), Asked())).outcome
    assert isinstance(outcome, Raised)
    assert outcome.error_type == "ModuleNotFoundError"


async def test_a_limit_on_files_holds(b: Bench) -> None:
    worker = await b.start(tasks.ThreeFiles, n_files=30)
    outcome = (await worker.perform(call(), Asked())).outcome
    assert isinstance(outcome, Raised)
    assert (outcome.error_type, "Too many open files" in outcome.text) == ("OSError", True)


async def test_what_a_worker_has_computed_is_known_when_it_has_ended(b: Bench) -> None:
    worker = await b.start(tasks.Plain)
    await done(worker, call(), Asked())
    await worker.close()
    assert 0 < worker.cpu_s < 5


# ── what it prints ───────────────────────────────────────────────────────────────────────────────────────────────


async def test_what_a_stage_prints_comes_with_its_outcome(b: Bench) -> None:
    worker = await b.start(tasks.Prints)
    performed = await worker.perform(call(n_lines=2), Asked())
    assert performed.printed.text == "imported\nout\nerr\nraw \ufffd\n\\udc80 no newline"
    performed = await worker.perform(StageCall(stage="verify"), Asked())
    assert (performed.printed.text, performed.printed.n_dropped_bytes) == ("line 0\nline 1\n", 0)


async def test_of_much_output_the_first_whole_lines_are_kept_and_the_rest_is_counted(b: Bench) -> None:
    worker = await b.start(tasks.Prints)
    n_bytes = sum(len(f"line {n}\n") for n in range(100_000))
    await worker.perform(call(n_lines=100_000), Asked())
    printed = (await worker.perform(StageCall(stage="verify"), Asked())).printed
    lines = printed.text.splitlines(keepends=True)
    assert lines == [f"line {n}\n" for n in range(len(lines))]
    assert MAX_PRINTED_BYTES - 20 < len(printed.text) <= MAX_PRINTED_BYTES
    assert len(printed.text) + printed.n_dropped_bytes == n_bytes


# ── what it asks ─────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_step_is_done_and_its_result_recorded_as_it_will_be_read(b: Bench) -> None:
    asked = Asked()
    assert (await b.do(tasks.Steps, asked=asked)).outcome == Returned(value=[[1, 2], "B"])
    assert asked.plainly() == [
        {"ask": "StepWanted", "place": "1", "name": "first"},
        {"ask": "StepDone", "place": "1", "name": "first", "value": [1, 2]},
        {"ask": "StepWanted", "place": "2", "name": "second"},
        {"ask": "StepDone", "place": "2", "name": "second", "value": "B"},
    ]


async def test_a_recorded_step_is_not_done_again(b: Bench) -> None:
    asked = Asked(first=Recorded({"was": 1}))
    assert (await b.do(tasks.Steps, asked=asked)).outcome == Returned(value=[{"was": 1}, "B"])
    assert [ask["ask"] for ask in asked.plainly()] == ["StepWanted", "StepWanted", "StepDone"]


async def test_steps_of_coroutines_go_on_at_the_same_time_each_in_its_place(b: Bench) -> None:
    asked = Asked()
    assert (await b.do(tasks.Steps, "verify", asked)).outcome == Returned(value=["x", 0, 2, 4])
    assert [(ask["name"], ask["place"]) for ask in asked.plainly() if ask["ask"] == "StepWanted"] == [
        ("plain", "1"), ("doubled", "2"), ("doubled", "3"), ("doubled", "4")
    ]  # fmt: skip


async def test_each_stage_counts_its_steps_from_one(b: Bench) -> None:
    worker, asked = await b.start(tasks.Steps), Asked()
    await done(worker, call(), asked)
    await done(worker, StageCall(stage="verify"), asked)
    assert [ask["place"] for ask in asked.plainly() if ask["ask"] == "StepWanted"] == ["1", "2", "1", "2", "3", "4"]


@pytest.mark.parametrize("slow", ["a1", "b1"])
async def test_each_coroutine_that_takes_steps_counts_its_own(b: Bench, slow: str) -> None:
    asked = Asked()
    performed = await b.do(tasks.Branches, asked=asked, **{slow: 0.05})
    assert performed.outcome == Returned(value=[["a1", "a2"], ["b1", "b2"], "c"])
    done = {ask["place"]: ask["value"] for ask in asked.plainly() if ask["ask"] == "StepDone"}
    assert done == {"1": "c", "1:1": "a1", "1:2": "a2", "2:1": "b1", "2:2": "b2"}


async def test_a_step_beside_one_that_waits_comes_to_its_end(b: Bench) -> None:
    """A task group cancels the others when one of them waits."""
    asked = Asked(SleepWanted=Suspend())
    performed = await b.do(tasks.Branches, "verify", asked, a1=0.05)
    assert performed.outcome == Suspended()
    assert [(ask["ask"], ask["place"]) for ask in asked.plainly()] == [
        ("StepWanted", "1:1"), ("SleepWanted", "2:1"), ("StepDone", "1:1")
    ]  # fmt: skip


@pytest.mark.parametrize(("stage", "text"), [("run", "no such thing"), ("verify", "no such thing later")])
async def test_a_step_that_raises_is_told_and_raises_in_the_hook(b: Bench, stage: str, text: str) -> None:
    asked = Asked()
    outcome = (await b.do(tasks.StepFails, stage, asked)).outcome
    assert asked.plainly()[1] == {
        "ask": "StepRaised", "place": "1", "name": "fails", "error_type": "LookupError", "text": text
    }  # fmt: skip
    if stage == "run":
        assert outcome == Returned(value="went on after no such thing")
    else:
        assert isinstance(outcome, Raised)
        assert (outcome.error_type, outcome.text) == ("LookupError", text)


async def test_a_step_whose_result_cannot_be_recorded_has_failed(b: Bench) -> None:
    asked = Asked()
    outcome = (await b.do(tasks.StepOddResult, asked=asked)).outcome
    assert isinstance(outcome, Raised)
    assert outcome.error_type == "result.unserialisable"
    assert outcome.text.startswith("what the step 'odd' returned is of type ")
    assert [ask["ask"] for ask in asked.plainly()] == ["StepWanted", "StepRaised"]


async def test_thousands_of_steps_at_once_are_answered_so_many_at_a_time(b: Bench) -> None:
    asked = Asked()
    assert (await b.do(tasks.ManySteps, asked=asked)).outcome == Returned(value=sum(2 * n for n in range(2_000)))
    assert len(asked.asks) == 4_000


async def test_any_thread_of_a_task_may_ask(b: Bench) -> None:
    assert (await b.do(tasks.StepsInThreads)).outcome == Returned(value=list(range(20)))


async def test_a_task_that_is_told_to_wait_leaves_its_hook(b: Bench) -> None:
    asked = Asked(SleepWanted=Suspend())
    performed = await b.do(tasks.Sleeps, asked=asked)
    assert performed.outcome == Suspended()
    assert performed.printed.text == "imported\ncleaned up\n"
    assert asked.plainly() == [{"ask": "SleepWanted", "place": "1", "seconds": 3600.0}]


async def test_a_task_goes_on_behind_what_it_has_waited_for(b: Bench) -> None:
    asked = Asked(EventWanted=Recorded({"order": 7, "paid": True}))
    assert (await b.do(tasks.Sleeps, asked=asked)).outcome == Returned(value="slept")
    asked.asks.clear()
    assert (await b.do(tasks.Sleeps, "verify", asked)).outcome == Returned(value={"order": 7, "paid": True})
    assert asked.plainly() == [
        {"ask": "SleepWanted", "place": "1", "seconds": 60.0},
        {"ask": "EventWanted", "place": "2", "name": "paid", "where": {"order": 7}, "timeout_s": 5},
    ]


@pytest.mark.parametrize("named", ["SleepWanted", "EventWanted"])
async def test_a_coroutine_that_is_told_to_wait_leaves_its_hook_as_well(b: Bench, named: str) -> None:
    performed = await b.do(tasks.Sleeps, "verify", Asked(**{named: Suspend()}))
    assert performed.outcome == Suspended()


async def test_a_task_that_does_not_want_to_be_left_is_left_all_the_same(b: Bench) -> None:
    performed = await b.do(tasks.ClingsOn, asked=Asked(SleepWanted=Suspend()))
    assert performed.outcome == Suspended()
    assert performed.printed.text == "imported\ncaught Suspended\ncaught Suspended again\n"


async def test_notes_pointers_and_events_are_asked_for_and_refusals_are_the_errors_they_are(b: Bench) -> None:
    class Wished(Asked):
        async def __call__(self, ask: Ask) -> Any:
            await super().__call__(ask)
            match ask.verb:
                case "add_pointer":
                    raise Invalid("user_id is required", code="invalid_pointer")
                case "dispatch":
                    return Recorded({"run": "r-2"})
            return Recorded()

    asked = Wished()
    outcome = (await b.do(tasks.Wishes, asked=asked)).outcome
    assert outcome == Returned(value=["user_id is required", "invalid_pointer", {"run": "r-2"}])
    assert [(ask["verb"], list(ask["arguments"])) for ask in asked.plainly()] == [
        ("add_note", ["a note"]),
        ("add_pointer", ["t", "", "r", None]),
        ("dispatch", ["paid", {"n": 1}]),
    ]


async def test_a_refusal_of_an_unknown_kind_is_a_refusal(b: Bench) -> None:
    outcome = (await b.do(tasks.Sleeps, asked=Asked(SleepWanted=Refusal("SystemExit", "no", "not now")))).outcome
    assert isinstance(outcome, Raised)
    assert (outcome.error_type, outcome.text) == ("Refused", "not now")


async def test_when_nothing_can_be_recorded_the_process_ends_and_the_caller_is_told(b: Bench) -> None:
    async def answer(_: Ask) -> Any:
        raise Unavailable("the log is held by somebody else")

    worker = await b.start(tasks.Steps)
    with pytest.raises(Unavailable, match="held by somebody else"):
        await worker.perform(call(), answer)
    assert (await worker.wait()).code == "worker.killed"


# ── how it can go wrong ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("stage", ["run", "verify"])
@pytest.mark.parametrize(
    ("what", "error_type", "text", "partial"),
    [
        ("odd", "Odd", "an odd thing", {"done": [1, 2]}),
        ("odd partial", "OddPartial", "an odder thing", None),
        ("key", "KeyError", "KeyError: 'k'", None),
        ("exit", "TaskExit", "SystemExit: 3", None),
        ("interrupt", "TaskExit", "KeyboardInterrupt: KeyboardInterrupt", None),
        ("group", "ExceptionGroup", "several (1 sub-exception)", None),
    ],
)
async def test_what_a_task_raises_is_told(
    b: Bench, stage: str, what: str, error_type: str, text: str, partial: Any
) -> None:
    outcome = (await b.do(tasks.Raises, stage, what=what)).outcome
    assert isinstance(outcome, Raised)
    assert (outcome.error_type, outcome.text, outcome.partial) == (error_type, text, partial)
    assert (outcome.partial_text is not None) == what.startswith("odd")
    assert [line.rpartition(" ")[2] for line in outcome.where.splitlines() if "File" in line] == [stage, "deeper"]


async def test_the_classes_of_what_was_raised_are_named_for_whoever_decides_about_another_attempt(b: Bench) -> None:
    outcome = (await b.do(tasks.Raises, what="key")).outcome
    assert isinstance(outcome, Raised)
    assert outcome.lineage == (
        "builtins:KeyError", "builtins:LookupError", "builtins:Exception", "builtins:BaseException", "builtins:object"
    )  # fmt: skip


async def test_a_plain_hook_that_raises_stop_iteration_has_failed(b: Bench) -> None:
    outcome = (await b.do(tasks.Raises, what="stop")).outcome
    assert isinstance(outcome, Raised)
    assert outcome.error_type == "StopIteration"


async def test_a_coroutine_that_cancels_itself_has_failed(b: Bench) -> None:
    outcome = (await b.do(tasks.CancelsItself)).outcome
    assert isinstance(outcome, Raised)
    assert outcome.error_type == "CancelledError"


@pytest.mark.parametrize("what", ["object", "set", "nan", "big", "keys", "deep", "bytes"])
async def test_a_result_that_json_would_change_is_refused(b: Bench, what: str) -> None:
    outcome = (await b.do(tasks.Returns, what=what)).outcome
    assert isinstance(outcome, Raised)
    assert outcome.error_type == "result.unserialisable"


async def test_a_result_that_is_too_large_is_refused(b: Bench) -> None:
    outcome = (await b.do(tasks.Returns, what="large")).outcome
    assert isinstance(outcome, Raised)
    assert outcome.error_type == "result.too_large"


async def test_a_plan_of_task_objects_is_refused(b: Bench) -> None:
    outcome = (await b.do(tasks.PlansTasks, "plan")).outcome
    assert isinstance(outcome, Raised)
    assert outcome.error_type == "plan.unsupported"


async def test_a_task_that_cannot_be_made_fails_its_first_stage(b: Bench) -> None:
    outcome = (await b.do(tasks.MadeWrong)).outcome
    assert isinstance(outcome, Raised)
    assert (outcome.error_type, outcome.text) == ("ValueError", "cannot be made")


# ── how it ends ──────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_worker_that_is_let_go_ends_by_itself(b: Bench) -> None:
    worker = await b.start(tasks.Plain)
    await done(worker, call(), Asked())
    await worker.close()
    assert worker.died == Died(
        "worker.exit", "the worker process ended with exit code 0 before its stage did", exit_code=0
    )
    await worker.close()


@pytest.mark.parametrize("task", [tasks.LeavesAThread, tasks.LeavesACoroutine])
async def test_a_worker_that_something_keeps_is_killed(b: Bench, task: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cascadenced.runtime.worker.CLOSE_WITHIN_S", 0.05)
    worker = await b.start(task)
    assert await done(worker, call(), Asked()) == "done"
    await worker.close()
    assert worker.died is not None
    assert worker.died.reason == "the worker process was killed: it took too long to end"


async def test_a_stage_of_a_worker_that_has_ended_says_how_that_was(b: Bench) -> None:
    worker = await b.start(tasks.Plain)
    worker.kill("somebody cancelled the run")
    worker.kill("and once more")
    await worker.wait()
    performed = await worker.perform(call(), Asked())
    assert performed.outcome == Died(
        "worker.killed", "the worker process was killed: somebody cancelled the run", signal=signal.SIGKILL
    )


async def test_a_worker_that_is_killed_between_its_stages_is_noticed(b: Bench) -> None:
    worker = await b.start(tasks.Plain)
    await done(worker, call(), Asked())
    os.kill(worker.pid, signal.SIGKILL)
    outcome = (await worker.perform(StageCall(stage="run"), Asked())).outcome
    assert isinstance(outcome, Died)
    assert (outcome.code, outcome.signal) == ("worker.signal", 9)
    assert "not by the daemon" in outcome.reason


async def test_a_start_that_nobody_waits_for_any_more_leaves_its_place_to_others() -> None:
    async with bench(max_workers=1) as b:
        first = await b.start(tasks.Plain)
        second = asyncio.ensure_future(b.start(tasks.Plain))
        await asyncio.sleep(0)
        second.cancel()
        await first.close()
        await done(await b.start(tasks.Plain), call(), Asked())


async def test_after_the_end_of_all_workers_none_is_started(b: Bench) -> None:
    worker, asked = await b.start(tasks.Reads), Asked()
    performing = asyncio.ensure_future(worker.perform(call(), asked))
    await asked.begun.wait()
    await b.workers.close()
    outcome = (await performing).outcome
    assert isinstance(outcome, Died)
    assert outcome.reason.endswith("the daemon is stopping")
    with pytest.raises(Unavailable, match="stopping"):
        await b.start(tasks.Plain)


async def test_where_no_process_can_be_started_that_is_what_the_caller_is_told(
    b: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    for _ in range(10):  # more than there are places
        with pytest.raises(Unavailable, match="/nowhere/python"):
            await b.start(tasks.Plain)


async def test_a_process_that_cannot_be_watched_is_not_left_behind(b: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(_: int) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "pidfd_open", none_left)
    with pytest.raises(Unavailable, match="Too many open files"):
        await b.start(tasks.Plain)
    assert children() == []


async def test_a_start_for_which_there_are_too_few_descriptors_leaves_none_behind(b: Bench) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(map(int, os.listdir("/proc/self/fd")))
    fillers = [os.dup(0)]
    while fillers[-1] <= highest:  # so that there are no free numbers below
        fillers.append(os.dup(0))
    refusals: list[str] = []
    while True:
        resource.setrlimit(resource.RLIMIT_NOFILE, (fillers[-1] + 1 + len(refusals), hard))
        try:
            worker = await b.start(tasks.Plain)
            break
        except Unavailable as error:
            refusals.append(str(error))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    for filler in fillers:
        os.close(filler)
    worker.kill()
    await worker.wait()
    assert 6 <= len(refusals) <= 16
    assert all("Too many open files" in refusal for refusal in refusals)


async def test_where_the_kernel_has_no_descriptors_for_processes_a_thread_waits(
    b: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "pidfd_open")
    worker = await b.start(tasks.Plain)
    await done(worker, call(), Asked())
    worker.kill()
    assert (await worker.wait()).code == "worker.killed"
    assert children() == []


# ── spares ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_once_workers_are_in_use_one_is_started_ahead() -> None:
    async with bench(n_spares=1) as b:
        first = await b.start(tasks.Plain)
        await done(first, call(), Asked())
        await first.close()
        await until(lambda: len(children()) == 1)
        [spare] = children()
        second = await b.start(tasks.Plain, n_files=50)
        assert second.pid == spare
        assert b.workers.n_workers == 1
        await done(second, call(), Asked())


async def test_a_spare_that_somebody_has_killed_is_not_used() -> None:
    async with bench(n_spares=1) as b:
        await (await b.start(tasks.Plain)).close()
        await until(lambda: len(children()) == 1)
        os.kill(children()[0], signal.SIGKILL)
        await until(lambda: not children())
        await done(await b.start(tasks.Plain), call(), Asked())


# ── the daemon's end ─────────────────────────────────────────────────────────────────────────────────────────────

DAEMON = """
    import asyncio, os, sys
    from cascadenced.runtime.worker import Workers
    from tests.runtime import hostile_tasks, worker_tasks
    from tests.runtime.worker_world import Asked, call, source

    pids = []

    class Tells(Asked):
        async def __call__(self, ask):
            if getattr(ask, "name", "") == "children" and hasattr(ask, "value"):
                pids.extend(ask.value)
            return await super().__call__(ask)

    async def main():
        workers = Workers(environ=os.environ, max_workers=9, n_spares=1)
        cling = hostile_tasks.LoopsForEver, hostile_tasks.LoopsInC, hostile_tasks.IgnoresSignals
        for task in (*cling, worker_tasks.Plain):
            worker, asked = await workers.start(source(task)), Asked()
            performing = asyncio.ensure_future(worker.perform(call(), asked))
            if task is worker_tasks.Plain:
                await performing
            else:
                await asked.begun.wait()
            pids.append(worker.pid)
        worker = await workers.start(source(hostile_tasks.ForksChildren))
        await worker.perform(call(), Tells())
        print("pids", *pids, worker.pid, flush=True)
        await asyncio.Event().wait()

    asyncio.run(main())
"""


@pytest.mark.slow
async def test_when_the_daemon_is_killed_its_workers_and_their_children_end_whatever_they_do() -> None:
    daemon = await asyncio.create_subprocess_exec(
        sys.executable, "-c", textwrap.dedent(DAEMON), stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    assert daemon.stdout is not None
    try:
        while not (line := (await daemon.stdout.readline()).decode()).startswith("pids "):
            assert line
        pids = [int(pid) for pid in line.split()[1:]]
        assert len(pids) == 4 + 8 + 1
        assert all(map(is_alive, pids))
        daemon.kill()
        began = time.monotonic()
        await until(lambda: not any(map(is_alive, pids)))
        assert time.monotonic() - began < 10
    finally:
        with suppress(ProcessLookupError):
            daemon.kill()
        await daemon.wait()


async def test_nobody_is_named_by_what_surrounds_a_worker(b: Bench) -> None:
    """Other users of the machine can read command lines."""
    worker, asked = await b.start(tasks.Reads), Asked()
    performing = asyncio.ensure_future(worker.perform(call(), asked))
    await asked.begun.wait()
    line = Path(f"/proc/{worker.pid}/cmdline").read_bytes()
    assert b"alice" not in line
    assert GIVEN["run_id"].encode() not in line
    worker.kill()
    await performing


async def test_a_caller_that_gives_up_ends_the_process(b: Bench) -> None:
    worker, asked = await b.start(tasks.Reads), Asked()
    performing = asyncio.ensure_future(worker.perform(call(), asked))
    await asked.begun.wait()
    performing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await performing
    assert (await worker.wait()).reason == "the worker process was killed: nobody waits for its stage any more"
