"""What task code can do to its process: each way it ends is told precisely, and the next run is served."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from cascadenced.runtime.worker import MAX_ASKS, Died, Worker
from cascadenced.runtime.worker_output import MAX_PRINTED_BYTES
from cascadenced.runtime.worker_protocol import (
    Answer,
    Ask,
    OutOfMemory,
    Raised,
    Recorded,
    Returned,
    SleepWanted,
    StageCall,
    StepDone,
)
from tests.runtime import hostile_tasks as hostile
from tests.runtime.worker_tasks import Plain
from tests.runtime.worker_world import Asked, Bench, bench, call, is_alive, until

pytestmark = pytest.mark.slow


@pytest_asyncio.fixture
async def b() -> AsyncIterator[Bench]:
    """Afterwards the next run is served, and no process and no descriptor is left."""
    async with bench() as b:
        yield b
        assert isinstance((await b.do(Plain)).outcome, Returned)


async def death(b: Bench, task: type, **args: Any) -> Died:
    outcome = (await b.do(task, **args)).outcome
    assert isinstance(outcome, Died), outcome
    return outcome


# ── it ends by itself ────────────────────────────────────────────────────────────────────────────────────────────


async def test_an_abort_is_told_with_what_was_printed_and_the_stack(b: Bench) -> None:
    performed = await b.do(hostile.Aborts)
    assert performed.outcome == Died(
        "worker.signal", "the worker process was ended by signal 6 (SIGABRT)", signal=signal.SIGABRT
    )
    assert "about to abort" in performed.printed.text
    assert "hostile_tasks.py" in performed.printed.text


async def test_a_crash_in_c_is_told_with_the_stack(b: Bench) -> None:
    performed = await b.do(hostile.Segfaults)
    assert performed.outcome == Died(
        "worker.signal", "the worker process was ended by signal 11 (SIGSEGV)", signal=signal.SIGSEGV
    )
    assert "in run" in performed.printed.text


@pytest.mark.parametrize("code", [0, 1, 255])
async def test_an_exit_is_told_with_its_code(b: Bench, code: int) -> None:
    performed = await b.do(hostile.Exits, code=code)
    assert performed.outcome == Died(
        "worker.exit", f"the worker process ended with exit code {code} before its stage did", exit_code=code
    )
    assert performed.printed.text.endswith("leaving\n")


@pytest.mark.parametrize("task", [hostile.KillsItself, hostile.KillsItsGroup])
async def test_a_kill_that_is_not_ours_is_not_told_as_ours(b: Bench, task: type) -> None:
    died = await death(b, task)
    assert (died.code, died.signal) == ("worker.signal", signal.SIGKILL)
    assert "not by the daemon" in died.reason


async def test_a_signal_without_a_name_has_a_number(b: Bench) -> None:
    died = await death(b, hostile.RealTimeSignal)
    assert died.reason == f"the worker process was ended by signal {signal.SIGRTMIN + 1} (SIGRTMIN+1)"


# ── it does not end ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "task",
    [
        hostile.LoopsForEver,
        hostile.LoopsInC,
        hostile.IgnoresSignals,
        hostile.SwallowsCancellation,
        hostile.BlocksItsLoop,
        hostile.StopsItself,
        hostile.PrintsForEver,
        hostile.ClosesEverythingAndGoesOn,
        hostile.FloodsWithQuestions,
    ],
)
@pytest.mark.parametrize("how", ["killed", "given up", "let go"])
async def test_what_does_not_end_is_ended(b: Bench, task: type, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cascadenced.runtime.worker.CLOSE_WITHIN_S", 0.05)
    worker, asked = await b.start(task), Asked()
    performing = asyncio.ensure_future(worker.perform(call(), asked))
    await asked.begun.wait()
    match how:
        case "killed":
            worker.kill("its time was up")
            assert (await performing).outcome == await worker.wait()
        case "given up":
            performing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await performing
        case "let go":
            await worker.close()
            assert (await performing).outcome == worker.died
    died = await worker.wait()
    # Where all descriptors were closed, the thread that reads may notice it first.
    assert died.code == "worker.killed" or (died.code, task) == ("worker.channel", hostile.ClosesEverythingAndGoesOn)
    assert not is_alive(worker.pid)


# ── processes of its own ─────────────────────────────────────────────────────────────────────────────────────────


class Children(Asked):
    pids: list[int]

    async def __call__(self, ask: Ask) -> Answer:
        if isinstance(ask, StepDone) and ask.name in ("children", "child"):
            self.pids = ask.value if isinstance(ask.value, list) else [ask.value]
        return await super().__call__(ask)


@pytest.mark.parametrize("how", ["let go", "killed", "died"])
async def test_children_end_with_their_worker(b: Bench, how: str) -> None:
    worker, asked = await b.start(hostile.ForksChildren), Children()
    assert isinstance((await worker.perform(call(), asked)).outcome, Returned)
    assert len(asked.pids) == 8
    assert all(map(is_alive, asked.pids))
    match how:
        case "let go":
            await worker.close()
        case "killed":
            worker.kill()
            await worker.wait()
        case "died":
            assert isinstance((await worker.perform(StageCall(stage="verify"), asked)).outcome, Died)
    await until(lambda: not any(map(is_alive, asked.pids)))


async def test_a_fork_that_comes_back_says_nothing_in_its_parents_name(b: Bench) -> None:
    worker = await b.start(hostile.ForksAndReturnsTwice)
    assert (await worker.perform(call(), Asked())).outcome == Returned(value="the parent's")
    assert (await worker.perform(StageCall(stage="verify"), Asked())).outcome == Returned(value="once")


async def test_a_fork_that_holds_all_that_is_open_does_not_hide_the_end_of_its_parent(b: Bench) -> None:
    asked = Children()
    died = (await b.do(hostile.ForkedChildRunsOn, asked=asked)).outcome
    assert isinstance(died, Died)
    assert died.exit_code == 5
    await until(lambda: not any(map(is_alive, asked.pids)))


# ── too much ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_output_without_end_is_cut_and_counted(b: Bench) -> None:
    await much_output(b, n_mib=16)


async def test_gigabytes_of_output_are_cut_and_counted_and_the_loop_is_free_meanwhile(b: Bench) -> None:
    loop, turns = asyncio.get_running_loop(), [0.0]
    printing = asyncio.ensure_future(much_output(b, n_mib=512))
    while not printing.done():
        await asyncio.sleep(0.001)
        turns.append(loop.time())
    gaps = sorted(later - sooner for sooner, later in pairwise(turns[1:]))
    assert len(gaps) > 20
    assert gaps[len(gaps) * 95 // 100] < 0.2  # not the longest: another process may have had the core just then
    await printing


async def much_output(b: Bench, n_mib: int) -> None:
    performed = await b.do(hostile.Prints, n_mib=n_mib)
    assert performed.outcome == Returned(value="printed")
    kept = len(performed.printed.text)
    assert MAX_PRINTED_BYTES - 1024 < kept <= MAX_PRINTED_BYTES
    assert kept + performed.printed.n_dropped_bytes == n_mib * 1024 * 1024 + len("imported\n")


@pytest.mark.parametrize("what", ["block", "shared", "objects"])
async def test_more_memory_than_allowed_is_told_as_that(b: Bench, what: str) -> None:
    worker = await b.start(hostile.EatsMemory, memory_bytes=400_000_000)
    outcome = (await worker.perform(call(what=what), Asked())).outcome
    if what == "shared":  # the system says no in its own words
        assert isinstance(outcome, Raised)
        assert "Cannot allocate memory" in outcome.text
        return
    assert isinstance(outcome, OutOfMemory)
    assert "hostile_tasks.py" in outcome.where
    assert (await worker.perform(StageCall(stage="verify"), Asked())).outcome == Returned(value="still there")


async def test_a_result_that_needs_too_much_memory_to_be_written_is_told_as_that(b: Bench) -> None:
    worker = await b.start(hostile.EatsMemoryAsAResult, memory_bytes=400_000_000)
    outcome = (await worker.perform(call(), Asked())).outcome
    # msgspec may crash where the system refuses it memory (0.20); then the limit is named as what may be behind it.
    assert isinstance(outcome, OutOfMemory) or (
        isinstance(outcome, Died) and outcome.reason.endswith("; its memory is limited to 400000000 bytes")
    )


async def test_a_limit_of_memory_cannot_be_lifted_by_the_task(b: Bench) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may lift any limit")
    worker = await b.start(hostile.RaisesLimits, memory_bytes=400_000_000)
    assert isinstance((await worker.perform(call(), Asked())).outcome, Raised)


@pytest.mark.parametrize("ignores", [False, True])
async def test_more_computing_than_allowed_is_told_as_that(b: Bench, ignores: bool) -> None:
    worker = await b.start(hostile.EatsTime, cpu_s=1)
    died = (await worker.perform(call(ignores=ignores), Asked())).outcome
    assert isinstance(died, Died)
    assert (died.code, died.signal) == ("worker.cpu_limit", signal.SIGKILL if ignores else signal.SIGXCPU)
    assert died.reason.endswith("s of computing; its limit is 1 s")


async def test_questions_without_end_are_read_only_as_fast_as_they_are_answered(b: Bench) -> None:
    let_go, n_asked, full = asyncio.Event(), 0, asyncio.Event()

    class Slow(Asked):
        async def __call__(self, ask: Ask) -> Answer:
            nonlocal n_asked
            if isinstance(ask, SleepWanted):
                n_asked += 1
                if n_asked >= MAX_ASKS:
                    full.set()
                await let_go.wait()
            return Recorded()

    worker = await b.start(hostile.FloodsWithQuestions)
    performing = asyncio.ensure_future(worker.perform(call(), Slow()))
    await full.wait()
    n_read = n_asked
    for _ in range(100):
        await asyncio.sleep(0)
    assert n_asked == n_read
    worker.kill()
    assert isinstance((await performing).outcome, Died)


# ── between it and the daemon ────────────────────────────────────────────────────────────────────────────────────


async def test_closing_what_is_not_ones_own_is_told_as_that(b: Bench) -> None:
    died = await death(b, hostile.ClosesEverything)
    assert died.code == "worker.channel"
    assert died.reason == "the worker process was ended because the task closed file descriptors that are not its own"


async def test_what_is_told_to_the_daemon_gets_into_no_file_of_the_tasks(b: Bench, tmp_path: Path) -> None:
    died = await death(b, hostile.ClosesEverythingAndOpensMore, folder=str(tmp_path))
    assert died.code == "worker.channel"
    assert len(list(tmp_path.iterdir())) == 32
    # The crash handler writes its stack to 2; nothing else is there.
    assert all(b"a result" not in path.read_bytes() for path in tmp_path.iterdir())


@pytest.mark.parametrize("task", [hostile.ShutsTheSocket, hostile.ShutsHalfTheSocket])
async def test_a_task_that_cuts_itself_off_is_ended(b: Bench, task: type) -> None:
    assert (await death(b, task)).code == "worker.channel"


@pytest.mark.parametrize("what", hostile.FORGED)
async def test_what_is_no_message_ends_the_worker(b: Bench, what: str) -> None:
    died = await death(b, hostile.Forges, hex=hostile.FORGED[what].hex())
    assert died.code == "worker.channel"
    assert died.reason.startswith("the worker process sent the daemon what it cannot read")
    assert len(died.reason) < 500


# ── what it raises and returns ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("what", "error_type", "text"),
    [
        ("text", "HostileText", "HostileText (its text cannot be shown)"),
        ("name", "HostileName", "x"),
        ("cause", "ValueError", "x"),
        ("argument", "ValueError", "ValueError (its text cannot be shown)"),
        ("surrogate", "ValueError", "\\ud800"),
    ],
)
async def test_an_exception_with_hostile_methods_is_told(b: Bench, what: str, error_type: str, text: str) -> None:
    outcome = (await b.do(hostile.RaisesHostile, what=what)).outcome
    assert isinstance(outcome, Raised)
    assert (outcome.error_type, outcome.text) == (error_type, text)
    assert "in run" in outcome.where


async def test_a_result_that_can_be_looked_at_in_no_way_is_an_error(b: Bench) -> None:
    outcome = (await b.do(hostile.RaisesHostile, what="result")).outcome
    assert isinstance(outcome, Raised)
    assert outcome.error_type in ("result.unserialisable", "TaskExit")


async def test_an_endless_text_is_cut(b: Bench) -> None:
    outcome = (await b.do(hostile.RaisesHostile, what="long")).outcome
    assert isinstance(outcome, Raised)
    assert len(outcome.text) < 70_000


async def test_a_task_that_takes_away_what_python_stands_on_spoils_only_its_own_run(b: Bench) -> None:
    before = os.getcwd()
    worker: Worker = await b.start(hostile.BreaksPython)
    for stage in (call(), StageCall(stage="verify")):
        outcome = (await worker.perform(stage, Asked())).outcome
        assert outcome in (Returned(value="broken"), Returned(value="still there")) or isinstance(
            outcome, Raised | Died
        )
    assert os.getcwd() == before


async def test_a_task_that_breaks_our_own_code_gets_no_answer_any_more_and_is_ended_by_its_time_limit(
    b: Bench,
) -> None:
    worker, asked = await b.start(hostile.RaisesInTheReader), Asked()
    performing = asyncio.ensure_future(worker.perform(call(), asked))
    await until(lambda: asked.asks)
    worker.kill("its time was up")
    died = (await performing).outcome
    assert isinstance(died, Died)
    assert died.reason == "the worker process was killed: its time was up"
