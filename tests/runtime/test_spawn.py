"""Where task code runs, and what it cannot do to the daemon."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import gc
import threading
import time

import pytest

from cascadenced.errors import Unavailable
from cascadenced.runtime.spawn import InlineSpawner, TaskExit, ThreadSpawner

name = contextvars.ContextVar("name", default="nobody")


@pytest.fixture
def threads():
    spawner = ThreadSpawner(max_threads=3)
    yield spawner
    spawner.close()


@pytest.fixture(params=["threads", "inline"])
def spawner(request, threads):
    return threads if request.param == "threads" else InlineSpawner()


async def until(condition):
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


class Hung:
    """A function that hangs until it is let go."""

    def __init__(self):
        self.begun, self.let_go = threading.Event(), threading.Event()

    def __call__(self):
        self.begun.set()
        self.let_go.wait(10)
        return "late"

    async def is_running(self):
        await until(self.begun.is_set)


@pytest.fixture
def hung():
    made = []

    def make():
        made.append(Hung())
        return made[-1]

    yield make
    for one in made:
        one.let_go.set()


# ── results and errors, in every spawner ─────────────────────────────────────────────────────────────────────────


async def test_a_plain_function_gives_its_result(spawner):
    assert await spawner.call(lambda a, b: a + b, 1, 2) == 3


async def test_a_coroutine_function_gives_its_result(spawner):
    async def add(a, b):
        await asyncio.sleep(0)
        return a + b

    assert await spawner.call(add, 1, 2) == 3


async def test_what_a_plain_function_hands_back_is_awaited_if_it_can_be(spawner):
    async def add(a, b):
        await asyncio.sleep(0)
        return a + b

    assert await spawner.call(lambda: add(1, 2)) == 3
    assert await spawner.call(functools.partial(add, 1), 2) == 3


async def test_a_coroutine_function_runs_on_the_loop(spawner):
    async def thread():
        return threading.current_thread()

    assert await spawner.call(thread) is threading.main_thread()


def plain(error):
    def raises():
        raise error

    return raises


def coroutine(error):
    async def raises():
        raise error

    return raises


def handed_back(error):
    return lambda: coroutine(error)()


KINDS = pytest.mark.parametrize("kind", [plain, coroutine, handed_back])


@KINDS
async def test_an_exception_reaches_the_caller_as_it_is(spawner, kind):
    error = ValueError("boom")
    with pytest.raises(ValueError, match="boom") as raised:
        await spawner.call(kind(error))
    assert raised.value is error


class Own(BaseException):
    pass


@KINDS
@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(3), GeneratorExit(3), Own(3)], ids=repr)
async def test_what_would_end_the_daemon_ends_only_the_call(spawner, kind, error):
    with pytest.raises(TaskExit, match=f"{type(error).__name__}: 3") as raised:
        await spawner.call(kind(error))
    assert raised.value.__cause__ is error


async def test_a_stop_iteration_ends_only_the_call(spawner):
    with pytest.raises(TaskExit, match="StopIteration: 3"):
        await spawner.call(plain(StopIteration(3)))


async def test_a_stop_iteration_of_a_coroutine_is_an_error_as_python_has_it(spawner):
    with pytest.raises(RuntimeError, match="raised StopIteration"):
        await spawner.call(coroutine(StopIteration(3)))


async def test_a_plain_function_that_raises_cancelled_error_cancels_nobody(spawner):
    with pytest.raises(TaskExit, match="CancelledError"):
        await spawner.call(plain(asyncio.CancelledError()))


async def test_after_an_exit_the_next_call_is_served(spawner):
    for _ in range(5):
        with pytest.raises(TaskExit):
            await spawner.call(plain(SystemExit()))
    assert await spawner.call(lambda: "served") == "served"


async def test_task_code_sees_the_context_of_its_caller(spawner):
    name.set("alice")
    assert await spawner.call(name.get) == "alice"


async def test_context_set_by_a_thread_stays_there(threads):
    await threads.call(lambda: name.set("bob"))
    assert name.get() == "nobody"


async def test_cancelling_the_caller_cancels_a_coroutine(spawner):
    cancelled = asyncio.Event()

    async def patient():
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    call = asyncio.ensure_future(spawner.call(patient))
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert cancelled.is_set()


def test_a_coroutine_left_behind_by_its_loop_is_closed_quietly(spawner, recwarn):
    """Its GeneratorExit is no exit of the task."""

    async def patient():
        await asyncio.Event().wait()

    call = spawner.call(patient)
    loop = asyncio.new_event_loop()

    async def begin():
        call.send(None)

    loop.run_until_complete(begin())
    loop.close()
    call.close()
    gc.collect()


async def test_nothing_is_started_after_close(spawner):
    spawner.close()
    with pytest.raises(Unavailable, match="stopping"):
        await asyncio.wait_for(spawner.call(lambda: 1), 5)


async def test_closing_twice_is_closing_once(spawner):
    spawner.close()
    spawner.close()


async def test_nothing_is_abandoned_at_first(spawner):
    assert spawner.n_abandoned == 0


# ── threads ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_plain_functions_do_not_hold_up_the_loop(threads, hung):
    one = hung()
    call = asyncio.ensure_future(threads.call(one))
    await one.is_running()
    one.let_go.set()
    assert await call == "late"


async def test_no_more_threads_run_at_once_than_allowed(threads):
    running, most, lock = 0, 0, threading.Lock()

    def work():
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.002)
        with lock:
            running -= 1

    await asyncio.gather(*(threads.call(work) for _ in range(30)))
    assert most <= 3


async def test_threads_are_used_again(threads):
    seen = {await threads.call(threading.get_ident) for _ in range(20)}
    assert len(seen) == 1


async def test_threads_are_daemons_so_that_a_hung_one_keeps_no_process(threads):
    assert (await threads.call(threading.current_thread)).daemon


async def test_a_hung_thread_does_not_stop_others(threads, hung):
    one = hung()
    call = asyncio.ensure_future(threads.call(one))
    await one.is_running()
    assert await asyncio.gather(*(threads.call(lambda n=n: n) for n in range(20))) == list(range(20))
    one.let_go.set()
    await call


async def test_a_thread_is_abandoned_when_its_caller_is_cancelled(threads, hung):
    one = hung()
    call = asyncio.ensure_future(threads.call(one))
    await one.is_running()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert threads.n_abandoned == 1


async def test_an_abandoned_thread_that_ends_late_is_no_longer_counted(threads, hung):
    one = hung()
    call = asyncio.ensure_future(threads.call(one))
    await one.is_running()
    call.cancel()
    await asyncio.wait([call])
    one.let_go.set()
    await until(lambda: threads.n_abandoned == 0)


async def test_hung_threads_that_were_abandoned_leave_room_for_others(threads, hung):
    for _ in range(5):
        one = hung()
        call = asyncio.ensure_future(threads.call(one))
        await one.is_running()
        call.cancel()
        await asyncio.wait([call])
    assert threads.n_abandoned == 5
    assert await asyncio.wait_for(threads.call(lambda: "served"), 5) == "served"


async def test_after_abandoned_threads_ended_the_bound_still_holds(threads, hung):
    for _ in range(4):
        one = hung()
        call = asyncio.ensure_future(threads.call(one))
        await one.is_running()
        call.cancel()
        await asyncio.wait([call])
        one.let_go.set()
    await until(lambda: threads.n_abandoned == 0)
    all_hung = [hung() for _ in range(5)]
    calls = [asyncio.ensure_future(threads.call(one)) for one in all_hung]
    await until(lambda: sum(one.begun.is_set() for one in all_hung) == 3)
    await asyncio.sleep(0.02)
    assert sum(one.begun.is_set() for one in all_hung) == 3
    for one in all_hung:
        one.let_go.set()
    await asyncio.gather(*calls)


async def test_a_call_cancelled_before_its_turn_never_runs(threads, hung):
    busy = [hung() for _ in range(3)]
    calls = [asyncio.ensure_future(threads.call(one)) for one in busy]
    for one in busy:
        await one.is_running()
    ran = []
    waiting = asyncio.ensure_future(threads.call(lambda: ran.append("!")))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    for one in busy:
        one.let_go.set()
    await asyncio.gather(*calls)
    await threads.call(lambda: None)
    assert (ran, threads.n_abandoned) == ([], 0)


async def test_calls_that_wait_for_their_turn_are_refused_at_close(threads, hung):
    busy = [hung() for _ in range(3)]
    calls = [asyncio.ensure_future(threads.call(one)) for one in busy]
    for one in busy:
        await one.is_running()
    ran = []
    waiting = asyncio.ensure_future(threads.call(lambda: ran.append("!")))
    await asyncio.sleep(0)
    threads.close()
    for one in busy:
        one.let_go.set()
    with pytest.raises(Unavailable):
        await asyncio.wait_for(waiting, 5)
    assert await asyncio.gather(*calls) == ["late"] * 3
    assert ran == []


async def test_threads_end_after_close(threads):
    thread = await threads.call(threading.current_thread)
    threads.close()
    await until(lambda: not thread.is_alive())


def test_a_thread_that_ends_after_its_loop_hurts_nobody(hung):
    spawner, one, failures = ThreadSpawner(1), hung(), []
    before = threading.excepthook
    threading.excepthook = failures.append

    async def main():
        call = asyncio.ensure_future(spawner.call(one))
        await one.is_running()
        return call

    try:
        loop = asyncio.new_event_loop()
        call = loop.run_until_complete(main())
        loop.close()
        thread = next(thread for thread in threading.enumerate() if thread.name == "task" and one.begun.is_set())
        one.let_go.set()
        spawner.close()
        thread.join(5)
    finally:
        threading.excepthook = before
    call._log_destroy_pending = False
    assert failures == []


async def test_inline_calls_run_on_the_loop_in_order():
    seen = []
    spawner = InlineSpawner()
    await asyncio.gather(*(spawner.call(seen.append, n) for n in range(10)))
    assert seen == list(range(10))


def test_whoever_lends_its_thread_has_it_back_however_many_threads_there_were_besides() -> None:
    """The word to leave must reach the lender, and not be taken by one of the others."""

    async def main(spawner: ThreadSpawner) -> int:
        results = await asyncio.gather(*(spawner.call(time.sleep, 0.001) for _ in range(8)))
        spawner.close()
        await asyncio.sleep(0.005)
        return len(results)

    for _ in range(20):
        spawner, done = ThreadSpawner(8), threading.Event()

        def lender(spawner: ThreadSpawner = spawner, done: threading.Event = done) -> None:
            assert spawner.lend(main(spawner)) == 8
            done.set()

        threading.Thread(target=lender, daemon=True).start()
        assert done.wait(5)
