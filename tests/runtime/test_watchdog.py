"""A loop that does not turn is noticed, with whoever keeps it; a busy one and an idle one are left alone."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextvars import Context, ContextVar
from functools import partial
from typing import Any

import pytest
import pytest_asyncio
import structlog

from cascadenced.runtime.watchdog import MAX_FRAMES, Blockage, LoopWatchdog

AFTER_S = 0.05
LENIENT_S = 0.5
"""Where nothing is to be noticed: a machine that is busy with other things must not be taken for a blockage."""
RUN: ContextVar[str] = ContextVar("run")


class Watched:
    """A watchdog, and what it told."""

    def __init__(self, after_s: float = AFTER_S, **options: Any) -> None:
        self.noticed, self.over = threading.Event(), asyncio.Event()
        self.blocked: list[Blockage] = []
        self.free: list[Blockage] = []
        self.threads: list[threading.Thread] = []
        self.dog = LoopWatchdog(after_s=after_s, on_blocked=self._on_blocked, on_free=self._on_free, **options)

    def _on_blocked(self, blockage: Blockage) -> None:
        self.blocked.append(blockage)
        self.threads.append(threading.current_thread())
        self.noticed.set()

    def _on_free(self, blockage: Blockage) -> None:
        self.free.append(blockage)
        self.threads.append(threading.current_thread())
        self.over.set()

    async def block(self, with_: Callable[[], object] | None = None) -> None:
        """Until it is noticed, unless it is said otherwise."""
        (with_ or self.wait_until_noticed)()
        async with asyncio.timeout(10):
            await self.over.wait()
        self.over.clear()
        self.noticed.clear()

    def wait_until_noticed(self) -> None:
        assert self.noticed.wait(10)


@pytest_asyncio.fixture
async def watched() -> AsyncIterator[Watched]:
    watched = Watched(who=lambda context: {"run_id": context[RUN], "task": "blocks"} if RUN in context else {})
    watched.dog.start()
    yield watched
    watched.dog.stop()


async def test_a_run_that_blocks_the_loop_is_named_with_where_it_does(watched: Watched) -> None:
    async def hook() -> None:
        RUN.set("7")
        watched.wait_until_noticed()

    with structlog.testing.capture_logs() as lines:
        await asyncio.create_task(hook(), name="run-7")
        async with asyncio.timeout(10):
            await watched.over.wait()
    [blockage] = watched.blocked
    assert blockage.task == "run-7"
    assert blockage.about == {"run_id": "7", "task": "blocks"}
    assert "in hook\n    watched.wait_until_noticed()" in blockage.stack
    assert blockage.stack.rstrip().splitlines()[-1] == "    waiter.acquire()" or "in wait" in blockage.stack
    blocked, free = [line for line in lines if line["event"].startswith("loop_")]
    assert (blocked["event"], blocked["log_level"], blocked["run_id"]) == ("loop_blocked", "warning", "7")
    assert blocked["stack"] == blockage.stack
    assert (free["event"], free["run_id"]) == ("loop_free_again", "7")


async def test_a_blockage_is_told_once_however_long_it_lasts(watched: Watched) -> None:
    await watched.block(lambda: time.sleep(8 * AFTER_S))
    assert len(watched.blocked) == len(watched.free) == watched.dog.n_blockages == 1
    assert watched.blocked[0].for_s >= 0.75 * AFTER_S
    assert watched.free[0].for_s >= 8 * AFTER_S
    assert watched.dog.blocked_s == watched.free[0].for_s


async def test_its_end_is_told_on_the_loop(watched: Watched) -> None:
    await watched.block()
    first, second = watched.threads
    assert first.name == "loop-watchdog"
    assert second is threading.current_thread()


async def test_each_blockage_is_told(watched: Watched) -> None:
    for _ in range(3):
        await watched.block()
    assert len(watched.blocked) == len(watched.free) == 3


async def test_a_callback_is_known_by_its_context(watched: Watched) -> None:
    def callback() -> None:
        watched.wait_until_noticed()

    RUN.set("7")
    asyncio.get_running_loop().call_soon(callback)
    await watched.over.wait()
    assert (watched.blocked[0].task, watched.blocked[0].about) == (None, {"run_id": "7", "task": "blocks"})
    assert "in callback" in watched.blocked[0].stack


async def test_of_a_callback_that_nobody_has_made_there_is_only_the_stack(watched: Watched) -> None:
    def callback() -> None:
        watched.wait_until_noticed()

    RUN.set("7")
    asyncio.get_running_loop().call_soon(callback, context=Context())
    await watched.over.wait()
    assert (watched.blocked[0].task, watched.blocked[0].about) == (None, {})
    assert "in callback" in watched.blocked[0].stack


@pytest.mark.parametrize("called", [time.sleep, partial(time.sleep)], ids=["as it is", "in a partial"])
async def test_a_callback_in_c_has_its_name_in_the_stack(watched: Watched, called: Callable[[float], None]) -> None:
    asyncio.get_running_loop().call_soon(called, 4 * AFTER_S)
    await watched.over.wait()
    assert watched.blocked[0].stack.endswith("  calls time.sleep\n")


async def test_of_one_deep_in_its_calls_it_is_known_who_it_is(watched: Watched) -> None:
    def deeper(n: int) -> None:
        if n:
            deeper(n - 1)
        else:
            watched.wait_until_noticed()

    RUN.set("7")
    asyncio.get_running_loop().call_soon(deeper, 2 * MAX_FRAMES)
    await watched.over.wait()
    assert watched.blocked[0].about["run_id"] == "7"


async def test_a_deep_stack_is_cut_at_its_beginning(watched: Watched) -> None:
    def deeper(n: int) -> None:
        if n:
            deeper(n - 1)
        else:
            watched.wait_until_noticed()

    await watched.block(lambda: deeper(200))
    assert watched.blocked[0].stack.count("File ") <= MAX_FRAMES
    assert "in wait_until_noticed" in watched.blocked[0].stack


@pytest.mark.slow
async def test_a_loop_that_is_busy_but_turns_is_left_alone() -> None:
    watched = Watched(LENIENT_S)
    watched.dog.start()
    began = time.monotonic()
    while time.monotonic() - began < 2.5 * LENIENT_S:
        await asyncio.sleep(0)
    watched.dog.stop()
    assert watched.blocked == []


@pytest.mark.slow
async def test_an_idle_loop_is_left_alone_and_hardly_woken() -> None:
    loop, n_marks = asyncio.get_running_loop(), 0
    watched = Watched(LENIENT_S)
    mark = watched.dog._mark

    def counted() -> None:
        nonlocal n_marks
        n_marks += 1
        mark()

    watched.dog._mark = counted  # type: ignore[method-assign]
    watched.dog.start()
    began = loop.time()
    await asyncio.sleep(2.5 * LENIENT_S)
    watched.dog.stop()
    assert watched.blocked == []
    assert n_marks <= 4 * (loop.time() - began) / LENIENT_S + 1


async def test_a_fault_of_whoever_is_told_does_not_end_the_watch() -> None:
    noticed = threading.Event()

    def fails(_: Blockage) -> None:
        noticed.set()
        raise RuntimeError("a fault of ours")

    dog = LoopWatchdog(after_s=AFTER_S, on_blocked=fails).start()
    with structlog.testing.capture_logs() as lines:
        for _ in range(2):
            assert noticed.wait(10)
            noticed.clear()
            marked_at = dog._marked_at
            while dog._marked_at == marked_at:
                await asyncio.sleep(0.001)
    dog.stop()
    assert "loop_watchdog_failed" in [line["event"] for line in lines]


async def test_after_its_end_there_is_no_thread_and_nothing_more_is_told(watched: Watched) -> None:
    threads = [thread for thread in threading.enumerate() if thread.name == "loop-watchdog"]
    assert threads  # ours, and those of earlier tests that are just ending
    watched.dog.stop()
    watched.dog.stop()
    for thread in threads:
        thread.join(10)
    assert not any(thread.is_alive() for thread in threads)


@pytest.mark.slow
async def test_code_that_holds_the_interpreters_lock_is_told_of_when_it_lets_go(watched: Watched) -> None:
    def hook() -> None:
        n, took_s = 16, 0.0
        while took_s < 6 * AFTER_S:
            n, began = n + 1, time.monotonic()
            re.match(r"(a+)+$", "a" * n + "b")
            took_s = time.monotonic() - began

    await watched.block(hook)
    assert watched.blocked
    assert "in hook" in watched.blocked[-1].stack


STOPPED = f"""
    import asyncio, sys, threading
    from cascadenced.runtime.watchdog import LoopWatchdog

    async def main():
        dog = LoopWatchdog(after_s={LENIENT_S}).start()
        await asyncio.sleep(1.2 * {LENIENT_S})
        print("up", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        await asyncio.sleep(1.5 * {LENIENT_S})
        print(dog.n_blockages, flush=True)

    asyncio.run(main())
"""


@pytest.mark.slow
def test_a_process_that_was_stopped_as_a_whole_was_not_blocked() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(STOPPED)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        os.kill(process.pid, signal.SIGSTOP)
        time.sleep(3 * LENIENT_S)
        os.kill(process.pid, signal.SIGCONT)
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "0\n"
