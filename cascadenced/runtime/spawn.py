"""Where task code runs: coroutine functions on the loop, anything else in a daemon thread of our own bounded pool.

The pools of asyncio and anyio wait for their threads at exit, so one hung task would keep the process alive for ever;
ours are daemon threads that nobody joins. What is abandoned is counted.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import inspect
import queue
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from types import FunctionType, MethodType
from typing import Any, Protocol, TypeVar

from cascadenced.errors import Superseded, Unavailable
from cascadenced.events.content import text_of, type_name

T = TypeVar("T")


class SpawnerClosed(Unavailable):
    """No task code is started any more: the daemon is stopping. It says nothing of the task."""

    def __init__(self) -> None:
        super().__init__("no task code is started any more: the daemon is stopping")


OnLate = Callable[[BaseException | None], None]


def ignore_late(_error: BaseException | None) -> None:
    """Nobody wants to know."""


class Spawner(Protocol):
    """Starts task code."""

    async def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """What `function(*args)` returns, awaited if it is awaitable. Raises what it raises; TaskExit for SystemExit
        and its like; SpawnerClosed after `close`.

        Cancelling the caller cancels a coroutine; a thread cannot be stopped and is abandoned.
        """
        ...

    on_late: OnLate
    """Called on the loop, in the context of the call, when code has ended that nobody waited for any more."""

    @property
    def n_abandoned(self) -> int:
        """Threads that still run code nobody waits for."""
        ...

    def close(self) -> None:
        """Start nothing more, also of what waits for its turn. Threads under way are left alone."""
        ...


class _Call:
    """One function call in a thread. state: waiting → started → ended; or abandoned, from either of the first two."""

    def __init__(self, function: Callable[[], Any], loop: asyncio.AbstractEventLoop) -> None:
        self.function = function
        self.loop = loop
        self.future: asyncio.Future[Any] = loop.create_future()
        self.context = contextvars.copy_context()
        self.state = "waiting"
        self.result: Any = None
        self.error: BaseException | None = None


class ThreadSpawner:
    """The real one, for one loop. max_threads: as many plain functions at once; more wait their turn."""

    def __init__(self, max_threads: int) -> None:
        self._max_threads = max_threads
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._n_threads = 0  # those that come back for more work
        self._n_calls = 0  # submitted and not ended
        self._n_abandoned = 0
        self._closed = False
        self._lock = threading.Lock()
        self._lender: int | None = None  # of the thread that `lend` was called in
        self._ended: deque[_Call] = deque()
        self._told = False  # whether the loop is about to look at what has ended
        self.on_late: OnLate = ignore_late

    @property
    def n_abandoned(self) -> int:
        return self._n_abandoned

    def call(self, function: Callable[..., Any], *args: Any) -> Coroutine[Any, Any, Any]:
        if self._closed:
            raise SpawnerClosed()
        return _contained(function(*args)) if _is_async(function) else self._called(function, *args)

    async def _called(self, function: Callable[..., Any], *args: Any) -> Any:
        call = _Call(lambda: _looked_at(function(*args)), asyncio.get_running_loop())
        with self._lock:
            self._n_calls += 1
            self._grow()
        self._calls.put(call)
        try:
            result, is_awaitable = await call.future
        except asyncio.CancelledError:
            self._abandon(call)
            raise
        # A plain function may hand back an awaitable (a partial, a wrapped coroutine function).
        return await _contained(result) if is_awaitable else result

    def lend(self, main: Coroutine[Any, Any, T]) -> T:
        """Run a loop for `main` in a thread of its own, and be one of those that do the calls meanwhile: the only one,
        as long as there is one call at a time. Returns what `main` returns.

        KeyboardInterrupt in this thread, also in the middle of a call, is not how that call ended: it cancels `main`,
        and is raised when that has ended.
        """
        context, ended = contextvars.copy_context(), concurrent.futures.Future[T]()
        loop = asyncio.new_event_loop()
        task = loop.create_task(main, context=context)

        def run() -> None:
            try:
                with asyncio.Runner(loop_factory=lambda: loop) as runner:
                    ended.set_result(runner.get_loop().run_until_complete(task))
            except BaseException as error:  # noqa: BLE001 -- raised again where it is waited for
                ended.set_exception(error)
            finally:
                # The lender may have taken what was meant for the others, and they would take what is meant for it.
                for _ in range(self._n_threads + 1):
                    self._calls.put(None)

        self._n_threads += 1
        self._lender = threading.get_ident()
        thread = threading.Thread(target=run, name="loop", daemon=True)
        thread.start()
        try:
            while not ended.done():
                self._work()
        except BaseException:  # Ctrl-C
            with self._lock:
                self._n_threads -= 1
                self._grow()  # what `main` still has to call would wait for this thread
            with suppress(RuntimeError):  # it has just ended
                loop.call_soon_threadsafe(task.cancel)
            thread.join()
            raise
        return ended.result()

    def close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
            for _ in range(self._n_threads):
                self._calls.put(None)

    def _grow(self) -> None:
        """One more thread if there is more work than threads. The lock is held."""
        if self._n_calls > self._n_threads and self._n_threads < self._max_threads and not self._closed:
            threading.Thread(target=self._work, name="task", daemon=True).start()
            self._n_threads += 1

    def _abandon(self, call: _Call) -> None:
        with self._lock:
            if call.state == "ended":
                return
            if call.state == "started":
                # Its place goes to another thread, or a few hung tasks would stop all others.
                self._n_abandoned += 1
                self._n_threads -= 1
            call.state = "abandoned"
            self._n_calls -= 1
            self._grow()

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            if not self._comes_back(call):
                return
            del call  # while nothing else is to be done, nothing of it is kept

    def _comes_back(self, call: _Call) -> bool:
        """Do it; whether this thread does more after it, or was given up meanwhile."""
        with self._lock:
            if call.state == "abandoned":
                return True
            refused = self._closed
            call.state = "started"
        try:
            if refused:
                raise SpawnerClosed()
            call.result = call.context.run(call.function)
        except BaseException as raised:  # SystemExit of a task ends the task, not the daemon
            if issubclass(type(raised), KeyboardInterrupt) and threading.get_ident() == self._lender:
                with self._lock:
                    call.state = "ended"
                    self._n_calls -= 1
                raise
            call.error = raised
        with self._lock:
            is_late = call.state == "abandoned"
            if is_late:
                self._n_abandoned -= 1
            else:
                call.state = "ended"
                self._n_calls -= 1
        if is_late:
            with suppress(RuntimeError):  # the loop is gone
                call.loop.call_soon_threadsafe(call.context.run, self.on_late, call.error)
            return False
        self._settle(call)
        return True

    def _settle(self, call: _Call) -> None:
        """Let the loop know. What ends before it has looked is told with the same wake-up: each is a system call."""
        self._ended.append(call)
        with self._lock:
            if self._told:
                return
            self._told = True
        try:
            call.loop.call_soon_threadsafe(self._tell)
        except RuntimeError:
            return  # the loop is gone: the process is ending

    def _tell(self) -> None:
        with self._lock:
            self._told = False
        while self._ended:
            call = self._ended.popleft()
            if call.future.done():
                continue
            if call.error is None:
                call.future.set_result(call.result)
            else:
                call.future.set_exception(_carried(call.error))


class Suspended(BaseException):
    """Unwinds the code of a stage that waits. No Exception, so that code which catches those lets it pass."""


class TaskExit(Exception):
    """A BaseException of task code that must not travel through the event loop (SystemExit, KeyboardInterrupt)."""


def as_raised(error: BaseException) -> BaseException:
    """What task code raised itself, where `error` only carries it."""
    return error.__cause__ if type(error) is TaskExit and error.__cause__ is not None else error


def _carried(error: BaseException) -> Exception | Suspended:
    """`error`, or an ordinary exception naming it: asyncio lets SystemExit and StopIteration end the loop or hang."""
    if type(error) is Suspended:
        return error
    if type(error) is BaseExceptionGroup:
        failures = error.split((Suspended, Superseded))[1]
        if failures is None:
            return Suspended("a task group was left with what waits in it")
        if isinstance(failures, Exception):
            return failures
    # Not isinstance, which asks the object itself what class it is of.
    if issubclass(type(error), Exception) and not issubclass(type(error), StopIteration):
        assert isinstance(error, Exception)
        return error
    carried = TaskExit(f"{type_name(error)}: {text_of(error)}")
    carried.__cause__ = error
    return carried


def _is_async(function: Callable[..., Any]) -> bool:
    """Whether it is a coroutine function. Of functions and methods it is asked at once: every stage comes by here."""
    plain = function.__func__ if type(function) is MethodType else function
    if type(plain) is FunctionType:
        return bool(plain.__code__.co_flags & inspect.CO_COROUTINE)
    return inspect.iscoroutinefunction(function)


def _looked_at(result: Any) -> tuple[Any, bool]:
    """`result`, and whether it is to be awaited. Asking for that runs the object's own code."""
    return result, inspect.isawaitable(result)


async def _contained(awaitable: Awaitable[Any]) -> Any:
    """What a coroutine of task code returns or raises, on the loop. Cancellation passes as it is."""
    this = asyncio.current_task()
    try:
        return await awaitable
    except asyncio.CancelledError:
        raise
    except BaseException as error:
        if issubclass(type(error), GeneratorExit) and _current_task() is not this:
            raise  # not the task's: this very coroutine is being closed
        carried = _carried(error)
        if carried is error:
            raise
        raise carried from error


def _current_task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:  # no loop is running
        return None


class InlineSpawner:
    """The double: everything runs on the loop, in the order it is called, so that a seed repeats it."""

    n_abandoned = 0

    def __init__(self) -> None:
        self._closed = False
        self.on_late: OnLate = ignore_late

    async def call(self, function: Callable[..., Any], *args: Any) -> Any:
        if self._closed:
            raise SpawnerClosed()
        try:
            result, is_awaitable = _looked_at(function(*args))
        except BaseException as error:
            carried = _carried(error)
            if carried is error:
                raise
            raise carried from error
        return await _contained(result) if is_awaitable else result

    def close(self) -> None:
        self._closed = True
