"""Notices when the event loop does not turn, and says what keeps it: in whose context, and where in the code.

The loop leaves a mark four times in the time it is allowed; a thread of our own looks at it about once in that time.
What holds the interpreter's lock holds that thread as well: it is told of when it lets go, by the stack as it is then.
What never lets go is for whoever watches the process from outside.

Names of asyncio tasks do not say whose they are, and a callback is of none. But both run in the context that they were
made in, or that of their own which is a copy of it; and asyncio enters it in a frame that stands in the loop's stack.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from contextvars import Context
from functools import partial
from types import BuiltinFunctionType, FrameType
from typing import Any, Self

import msgspec
import structlog

from cascadenced.events.content import type_name

_log = structlog.get_logger(__name__)

BLOCKED_AFTER_S = 1.0
_MARKS = 4
"""In the time that the loop is allowed. So a blockage of ¾ of it may be noticed, and one that is longer always is."""
MAX_FRAMES = 24
_RUN = asyncio.Handle._run.__code__
_ASLEEP_SHARE = 0.25
"""Of a time that we overslept: with less computing than that, the whole process was stopped, not the loop."""


class Blockage(msgspec.Struct, frozen=True):
    """The loop does not turn. for_s: for how long; until it is noticed, or until it turned again.

    task: the name of the asyncio task that keeps it, None if it is none (a callback).  about: what `who` says of it.
    stack: of the loop's thread when it was noticed, the innermost call last. A callback in C has its name there.
    """

    for_s: float
    task: str | None
    about: Mapping[str, object]
    stack: str


class LoopWatchdog:
    """Watches the loop that it is started on, from its own thread, until `stop`.

    who: context of a task or callback → what is known of it (run id, task, stage), asked in the watchdog's thread.
    on_blocked: told of each blockage once, when it is noticed, in the watchdog's thread; besides it is logged.
    on_free: told of the same when the loop turns again, on the loop: with the whole time it took.
    """

    def __init__(
        self,
        *,
        after_s: float = BLOCKED_AFTER_S,
        who: Callable[[Context], Mapping[str, object]] = lambda _context: {},
        on_blocked: Callable[[Blockage], None] = lambda _blockage: None,
        on_free: Callable[[Blockage], None] = lambda _blockage: None,
    ) -> None:
        self._after_s, self._who, self._on_blocked, self._on_free = after_s, who, on_blocked, on_free
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._marked_at = 0.0
        self._blockage: Blockage | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.n_blockages = 0
        self.blocked_s = 0.0
        """Of all blockages that are over."""

    def start(self) -> Self:
        """Call it on the loop."""
        self._loop = asyncio.get_running_loop()
        self._thread_id = threading.get_ident()
        self._mark()
        threading.Thread(target=self._watch, name="loop-watchdog", daemon=True).start()
        return self

    def stop(self) -> None:
        """Idempotent. It reports nothing more."""
        self._stop.set()
        if self._timer is not None:
            self._timer.cancel()

    # ── on the loop ──────────────────────────────────────────────────────────────────────────────────────────

    def _mark(self) -> None:
        now = time.monotonic()
        with self._lock:
            before, self._marked_at = self._marked_at, now
            blockage, self._blockage = self._blockage, None
        self._timer = self._loop.call_later(self._after_s / _MARKS, self._mark)
        if blockage is not None:
            self._over(blockage, now - before)

    def _over(self, blockage: Blockage, took_s: float) -> None:
        if self._stop.is_set():
            return
        self.blocked_s += took_s
        _log.info("loop_free_again", asyncio_task=blockage.task, blocked_s=round(took_s, 3), **blockage.about)
        self._on_free(msgspec.structs.replace(blockage, for_s=took_s))

    # ── in the thread ────────────────────────────────────────────────────────────────────────────────────────

    def _watch(self) -> None:
        while not self._stop.is_set():
            looked_at, computed_s = time.monotonic(), time.process_time()
            seen = self._marked_at
            if self._stop.wait(max(0.0, seen + self._after_s - time.monotonic())):
                return
            overslept_s = time.monotonic() - looked_at - self._after_s
            if overslept_s > self._after_s:
                was_stopped = time.process_time() - computed_s < overslept_s * _ASLEEP_SHARE
                if was_stopped and self._stop.wait(self._after_s):  # now the loop has its time
                    return
            if self._marked_at == seen:
                self._blocked(seen)

    def _blocked(self, seen: float) -> None:
        """Tell of it, and wait until it is over."""
        # At once, and only then put into words: that opens files, and the loop may turn meanwhile.
        frame = sys._current_frames().get(self._thread_id)
        calls, handle, name = _calls(frame), _handle(frame), _name(self._loop)
        context = Context() if handle is None else handle._context.copy()  # it goes on changing
        if self._marked_at != seen:
            return
        try:
            blockage = self._told(time.monotonic() - seen, name, self._who(context), _stack(calls, handle))
        except Exception:  # noqa: BLE001 -- a fault of whoever is told must not end the watch
            _log.exception("loop_watchdog_failed")
            return
        with self._lock:
            after = self._marked_at
            if after == seen:
                self._blockage = blockage
        if after != seen:
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._over, blockage, after - seen)
        while self._marked_at == seen and not self._stop.wait(self._after_s):
            pass

    def _told(self, for_s: float, name: str | None, about: Mapping[str, object], stack: str) -> Blockage:
        blockage = Blockage(for_s, name, about, stack)
        self.n_blockages += 1
        _log.warning("loop_blocked", asyncio_task=name, blocked_s=round(for_s, 3), **about, stack=stack)
        self._on_blocked(blockage)
        return blockage


def _calls(frame: FrameType | None) -> list[tuple[FrameType, int]]:
    """(frame, line) of the innermost calls of a thread, which goes on running; the innermost last."""
    calls: list[tuple[FrameType, int]] = []
    while frame is not None and len(calls) < MAX_FRAMES:
        calls.append((frame, frame.f_lineno or 0))
        frame = frame.f_back
    return calls[::-1]


def _handle(frame: FrameType | None) -> Any:
    """asyncio's handle of what the loop is running in a thread with that innermost call: a callback, or a part of a
    task; None if it runs nothing."""
    while frame is not None and frame.f_code is not _RUN:
        frame = frame.f_back
    return None if frame is None else frame.f_locals.get("self")


def _stack(calls: list[tuple[FrameType, int]], handle: Any) -> str:
    """As a traceback has it. What is called by the loop itself, and is in C, has no frame to be told by."""
    stack = "".join(traceback.StackSummary.extract(iter(calls)).format())
    if handle is None or calls[-1][0].f_code is not _RUN:
        return stack
    return f"{stack}  calls {_spelled(handle._callback)}\n"


def _spelled(called: Any) -> str:
    while type(called) is partial:
        called = called.func
    if type(called) is not BuiltinFunctionType:
        return type_name(called)  # it may have code of its own for its name
    return called.__qualname__ if called.__module__ is None else f"{called.__module__}.{called.__qualname__}"


def _name(loop: asyncio.AbstractEventLoop) -> str | None:
    task: asyncio.Task[Any] | None = asyncio.current_task(loop)
    return None if task is None else task.get_name()
