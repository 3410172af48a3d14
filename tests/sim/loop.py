"""An event loop whose time is virtual and whose order is a matter of the seed.

Time: when nothing is ready, it is at once as late as the next timer says. Nobody sleeps, no thread is there.
Order: of what is ready, any goes first, and some wait for a turn. This is more than asyncio does, which is first come
first served within a thread; but which came first hangs on the disk, the broker and other threads, so nothing of ours
may rely on it. The seed also says how disorderly a world is: some are as asyncio has it. In all of them, tasks that the
code of a stage starts begin in the order in which it has started them: on that, authors of tasks may rely.

Some of what runs belongs to a mortal, a process that is simulated. After its death none of its callbacks runs any more:
nothing is cancelled, no `finally` is executed, it is just not there. What it leaves is buried when the world is over.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import heapq
import random
import sys
import warnings
from collections.abc import Callable, Coroutine, Iterable
from typing import Any
from unittest import mock

from anyio._backends._asyncio import _task_states

from cascadenced.runtime.lanes import _started_from

MAX_STEPS = 1_000_000
"""Callbacks in one world. More mean that it turns in circles while time stands still."""
MAX_STEPS_AT_ONCE = 100_000
"""The same, between two jumps of time."""
OF: contextvars.ContextVar[Mortal | None] = contextvars.ContextVar("OF", default=None)
"""To whom the code that runs now belongs; nobody: to the world around."""


class Stuck(Exception):
    """The world does not go on."""


class Mortal:
    """n_steps: callbacks of its that ran.  at_step: before which `on_step` is called.  tasks: all it began."""

    def __init__(self) -> None:
        self.alive = True
        self.n_steps = 0
        self.at_step: int | None = None
        self.on_step: Callable[[], None] = lambda: None
        self.tasks: list[SimTask] = []

    def die(self, how: str) -> None:
        """From now on nothing of it happens."""
        self.alive = False

    def context(self) -> contextvars.Context:
        """In which what runs is its own."""
        context = contextvars.copy_context()
        context.run(OF.set, self)
        return context

    def takes_a_step(self) -> bool:
        """Whether it lives to do it."""
        if not self.alive:
            return False
        self.n_steps += 1
        if self.n_steps == self.at_step:
            self.on_step()
        return self.alive


class SimTask(asyncio.Task):  # type: ignore[type-arg]
    """Its hash is a number of its own, not its address, so that sets of tasks have the same order again."""

    def __init__(
        self, coroutine: Coroutine[Any, Any, Any], owner: Mortal | None, *, loop: SimLoop, **options: Any
    ) -> None:
        loop.n_tasks += 1
        self.number, self.owner = loop.n_tasks, owner
        super().__init__(coroutine, loop=loop, **options)

    def __hash__(self) -> int:
        return self.number


class SimLoop(asyncio.BaseEventLoop):
    """chance: where the order comes from.  disorder: from 0, as asyncio has it, to 1.

    troubles: what went wrong in the living without anybody catching it.
    """

    def __init__(self, chance: random.Random, disorder: float) -> None:
        super().__init__()
        self._chance, self._disorder = chance, disorder
        self._now_s = 0.0
        self._n_steps_at_once = 0
        self.n_steps = 0
        self.n_tasks = 0
        self.orphans: list[SimTask] = []
        """Tasks of the world around."""
        self.troubles: list[str] = []
        self._beginnings: set[asyncio.Handle] = set()
        self.set_task_factory(self._make_task)

    def time(self) -> float:
        return self._now_s

    def _make_task(self, _loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> SimTask:
        context = options.get("context")
        owner = OF.get() if context is None else context.get(OF)
        task = SimTask(coroutine, owner, loop=self, **options)
        (self.orphans if owner is None else owner.tasks).append(task)
        beginning: asyncio.Handle = self._ready[-1]  # type: ignore[attr-defined]
        if beginning._context.get(_started_from) is not None:
            self._beginnings.add(beginning)
        return task

    def _run_once(self) -> None:
        """What BaseEventLoop has under this name polls the system for events; here there are none."""
        ready: Any = self._ready  # type: ignore[attr-defined]
        if not ready and not self._stopping:  # type: ignore[attr-defined]
            self._let_time_pass()
        turn = list(ready)
        ready.clear()
        if len(turn) > 1 and self._chance.random() < self._disorder:
            self._shuffle(turn)
            if self._chance.random() < self._disorder / 4:
                n_late = self._chance.randrange(len(turn))
                ready.extend(turn[len(turn) - n_late :])
                del turn[len(turn) - n_late :]
        self._beginnings.difference_update(turn)
        for handle in turn:
            if handle._cancelled:
                continue
            owner = handle._context.get(OF)
            if owner is None or owner.takes_a_step():
                handle._run()
        self._count(len(turn))

    def _shuffle(self, turn: list[Any]) -> None:
        in_order = iter([handle for handle in turn if handle in self._beginnings])
        self._chance.shuffle(turn)
        turn[:] = [next(in_order) if handle in self._beginnings else handle for handle in turn]

    def _let_time_pass(self) -> None:
        timers: list[Any] = self._scheduled  # type: ignore[attr-defined]
        while timers and timers[0]._cancelled:
            heapq.heappop(timers)._scheduled = False
        if not timers:
            raise Stuck("nothing is left that could happen")
        self._now_s = max(self._now_s, timers[0]._when)
        self._n_steps_at_once = 0
        while timers and timers[0]._when <= self._now_s:
            timer = heapq.heappop(timers)
            timer._scheduled = False
            self._ready.append(timer)  # type: ignore[attr-defined]

    def _count(self, n: int) -> None:
        self.n_steps += n
        self._n_steps_at_once += n
        if self._n_steps_at_once > MAX_STEPS_AT_ONCE or self.n_steps > MAX_STEPS:
            raise Stuck(f"it turns in circles at {self._now_s:.3f} s, after {self.n_steps} steps")

    def _timer_handle_cancelled(self, _handle: Any) -> None:
        """They are dropped when their time comes."""

    def _write_to_self(self) -> None:
        """Nobody else is there who would have to wake us."""

    def _process_events(self, _events: Any) -> None:
        raise AssertionError("there are no events of the system here")

    def run_in_executor(self, *_: Any) -> Any:  # type: ignore[override]
        raise AssertionError("a simulation has no threads")

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """The dead have no troubles."""
        if "exception" not in context:
            return  # a task that nobody will end: they are buried later
        handle, task = context.get("handle"), context.get("task") or context.get("future")
        owner = handle._context.get(OF) if handle is not None else getattr(task, "owner", None)
        if owner is None or owner.alive:
            self.troubles.append(f"{context['message']}: {context['exception']!r}")


def bury(tasks: Iterable[SimTask]) -> None:
    """Close what never ended. To be called when the loop is closed and nothing that survives can be reached.

    Closing is not what their authors had in mind, so they may complain; nobody listens.
    """
    with warnings.catch_warnings(), mock.patch.object(sys, "unraisablehook"):
        warnings.simplefilter("ignore")  # coroutines that nobody came to await
        for task in tasks:
            # anyio forgets a task when it is done, and keeps it by its own state until then.
            _task_states.pop(task, None)
            if task.done():
                continue
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            coroutine: Any = task.get_coro()
            for _ in range(50):  # a `finally` that awaits takes another one
                try:
                    coroutine.close()
                except BaseException:
                    continue
                break
            del coroutine
        gc.collect()
