"""One stage: the task's code is called, and how it went is told. Nothing that it raises gets past here."""

from __future__ import annotations

import copy
import importlib
import os
import resource
import sys
import threading
from collections.abc import Awaitable
from contextlib import suppress
from operator import attrgetter
from typing import Any

from cascadenced.events.base import Json
from cascadenced.events.content import (
    TooLarge,
    Unserialisable,
    lineage_of,
    partial_of,
    plain,
    recordable,
    text_of,
    type_name,
)
from cascadenced.pipeline.policy import Limits
from cascadenced.runtime.worker_protocol import (
    Outcome,
    OutOfMemory,
    Raised,
    Returned,
    StageCall,
    Suspended,
    TaskSource,
)
from cascadenced.worker import host as hosts

_MAX_FRAMES = 64
_MAX_WHERE_CHARS = 16 * 1024
_RESERVE_BYTES = 32 * 1024 * 1024
"""Of address space, for telling that a task needed too much of it."""
_OURS = f"{os.path.dirname(__file__)}{os.sep}"


def limit(limits: Limits) -> None:
    """Let the kernel hold this process to `limits`. What is asked beyond our own limits is cut down to them."""
    _limit(resource.RLIMIT_CORE, 0, 0)  # a dump has in it whom the run is for
    if limits.memory_bytes is not None:
        _limit(resource.RLIMIT_AS, limits.memory_bytes, limits.memory_bytes + _RESERVE_BYTES)
    if limits.cpu_s is not None:
        _limit(resource.RLIMIT_CPU, limits.cpu_s, limits.cpu_s + 1)
    if limits.n_files is not None:
        _limit(resource.RLIMIT_NOFILE, limits.n_files, limits.n_files)


def _limit(kind: int, soft: int, hard: int) -> None:
    _, highest = resource.getrlimit(kind)
    if highest != resource.RLIM_INFINITY:
        soft, hard = min(soft, highest), min(hard, highest)
    resource.setrlimit(kind, (soft, hard))


class Performer:
    """The task of one run, from its first stage to the last."""

    def __init__(self, source: TaskSource, host: hosts.Host, limits: Limits) -> None:
        self._source, self._host, self._limits = source, host, limits
        self._target: Any = None
        self._unusable: BaseException | None = None
        self._task: Any = None
        self._runner: Any = None
        self._attaching = threading.Lock()
        self._early: list[object] = []
        self._has_own_way = False

    def load(self) -> None:
        """Import the task's code. If that fails the first stage does."""
        try:
            self._target = attrgetter(self._source.qualname)(importlib.import_module(self._source.module))
        except BaseException as error:  # noqa: BLE001 -- it is the task's own code
            self._unusable = error

    def perform(self, call: StageCall) -> Outcome:
        self._host.begin()
        try:
            value = self._value(call)
        except BaseException as error:  # noqa: BLE001 -- whatever a task raises is how its stage went
            return Suspended() if self._host.suspended else self._told(error)
        # Where a hook caught that it was to be left, what it did then is none of its results.
        return Suspended() if self._host.suspended else Returned(value=value)

    def attach(self, item: object) -> None:
        """From the thread that reads. What comes while the task is being made is added when it is; where the task has a
        way of its own to be told things, when its next stage begins."""
        with self._attaching:
            if self._task is None or self._has_own_way:
                self._early.append(item)
            else:
                self._task.context.append(item)

    def close(self) -> None:
        """Cancel what a coroutine has left behind."""
        if self._runner is not None:
            self._runner.close()

    def _value(self, call: StageCall) -> Json:
        if self._unusable is not None:
            raise self._unusable
        if self._task is None:
            task = self._target() if isinstance(self._target, type) else copy.deepcopy(self._target)
            self._equip(task, call)
            own_way = callable(getattr(task, "attach_context", None))
            with self._attaching:
                if own_way:
                    self._early, task.context = [*task.context, *self._early], []
                else:
                    task.context.extend(self._early)
                self._has_own_way, self._task = own_way, task
        else:
            self._equip(self._task, call)
        if self._has_own_way:
            with self._attaching:
                items, self._early = self._early, []
            for item in items:
                self._task.attach_context(item)
        hook = getattr(self._task, call.stage, None)
        if hook is None:
            raise Unserialisable(f"the task's code no longer has a {call.stage}() hook", code="hook.missing")
        arguments = () if call.argument is _UNSET else (call.argument,)
        value = hook(*arguments)
        if _is_awaitable(value):
            value = self._awaited(value)
        return _kept(call.stage, value)

    def _equip(self, task: Any, call: StageCall) -> None:
        for name, value in call.attributes.items():
            setattr(task, name, value)
        base = sys.modules.get("cascadenced.plugins.base")
        if base is not None and isinstance(task, base.BaseTask):
            task._host = task._steps = self._host

    def _awaited(self, value: Awaitable[Any]) -> Any:
        """One loop for all stages, so that what a task keeps goes on working; it stands still between them."""
        if self._runner is None:
            import asyncio

            self._runner = asyncio.Runner()
        return self._runner.run(self._in_steps(value))

    async def _in_steps(self, value: Awaitable[Any]) -> Any:
        self._host.enter()
        try:
            return await value
        finally:
            await self._host.settled()

    def _told(self, error: BaseException) -> Outcome:
        if self._limits.memory_bytes is not None and _is_memory_error(error):
            return self._out_of_memory(error)
        ours = type(error) is Unserialisable or type(error) is TooLarge
        exits = not issubclass(type(error), Exception) and type_name(error) != "CancelledError"
        name = plain(error.code) if ours else "TaskExit" if exits else type_name(error)  # type: ignore[attr-defined]
        text = text_of(error)
        if exits or issubclass(type(error), KeyError):  # whose text is only the key
            text = f"{type_name(error)}: {text}"
        partial, partial_text = partial_of(error)
        return Raised(
            error_type=name,
            text=plain(text),
            partial=partial,
            partial_text=partial_text,
            where=_where(error),
            lineage=lineage_of(error),
        )

    def _out_of_memory(self, error: BaseException) -> OutOfMemory:
        with suppress(BaseException):
            _, hard = resource.getrlimit(resource.RLIMIT_AS)
            resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
        where = _where(error)
        with suppress(BaseException):
            import traceback

            traceback.clear_frames(error.__traceback__)  # what the hook held goes with its variables
        return OutOfMemory(where=where)


_UNSET = StageCall(stage="").argument


def _is_awaitable(value: object) -> bool:
    return hasattr(type(value), "__await__")


def _kept(stage: str, value: Any) -> Json:
    """What is told of it: content; of `precheck` whether it lets the run go on, or the reason why not."""
    if stage == "precheck":
        return True if value is True else plain(value) if isinstance(value, str) and value else False
    if stage == "plan" and _is_plan_of_tasks(value):
        raise Unserialisable("a plan of task objects cannot leave a process of its own", code="plan.unsupported")
    return recordable(value, f"what {stage}() returned")


def _is_plan_of_tasks(value: object) -> bool:
    if isinstance(value, dict) and value.get("execution") == "parallel":
        value = value.get("tasks")
    items = value if isinstance(value, list) else [value]
    return any(callable(getattr(item, "run", None)) for item in items)


def _is_memory_error(error: BaseException) -> bool:
    # What looks at a result says that it cannot be JSON, whatever the reason.
    return issubclass(type(error), MemoryError) or (
        type(error) is Unserialisable and issubclass(type(error.__context__), MemoryError)
    )


def _where(error: BaseException) -> str:
    """Where it was raised, without our own frames."""
    try:
        import traceback

        frames = traceback.extract_tb(error.__traceback__, limit=-_MAX_FRAMES)
        below = max((n for n, frame in enumerate(frames, 1) if frame.filename == __file__), default=0)
        own = [frame for frame in frames[below:] if not frame.filename.startswith(_OURS)]
        return plain("".join(traceback.format_list(own or frames)))[-_MAX_WHERE_CHARS:]
    except BaseException:  # noqa: BLE001 -- a hostile __traceback__, or no memory
        return ""
