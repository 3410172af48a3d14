"""What a task may inherit; any class with a `run` method is a task as well.

During a run an instance has `user_id`, `group_id`, `run_id`, `args` (dict) and `context` (list: what the run was told
while it was under way). Hooks, each plain or `async`; one of `run` and `plan` must be there:

    intake()             prepare; what it returns is only shown in the audit trail
    research()           return a query; its answer is recorded, and handed to `plan` if that takes a parameter
    plan([research])     return what `run` needs; or tasks, to be run first: `run` is then handed what they returned
    precheck()           return True to go on; False, or a string with the reason, stops the run
    run([plan])          do the work; return JSON
    verify([result])     check it; what it returns is the run's result

Class attributes say how it is run:

    retries = Retry(max_attempts=3)          for every stage, or {stage: Retry(...)}
    timeout_s = 30                           for every stage, or {stage: seconds}
    delivery = "at_most_once"                what was under way at a crash is not simply done again ...
    on_doubt = "ask"                         ... but asked about; or "retry", "fail"
    on_code_change = "stop"                  a run under way does not go on with other code; or "go_on"
    isolation = "process"                    plain and async hooks alike run in a process of the run's own
    max_concurrent = 4                       runs of this task at once
    dependencies = ["load"]                  tasks that must have run before, each time
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol

from cascadenced.events.base import Json


class Host(Protocol):
    """What a running task may ask of the daemon; all of it is recorded, once per run and place."""

    async def add_note(self, note: str) -> None: ...

    async def add_pointer(self, task: str, user_id: str, run_id: str, group_id: str | None) -> bool: ...


class Steps(Protocol):
    """What a stage may ask on its way (handlers/steps.py)."""

    def step(self, name: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any: ...

    def sleep(self, seconds: float) -> Any: ...

    def wait_for(self, event: str, timeout_s: float | None, where: dict[str, Json] | None) -> Any: ...


class ParallelPlan:
    """A plan whose tasks run at the same time. What they return comes in their order."""

    def __init__(self, tasks: Sequence[Any]) -> None:
        self.tasks = list(tasks)

    def __repr__(self) -> str:
        return f"ParallelPlan({self.tasks!r})"


class BaseTask:
    """name: what the task is registered as; without it, the class's name."""

    name: ClassVar[str]
    user_id: str
    group_id: str
    run_id: str
    args: dict[str, Json]
    context: list[Any]
    _host: Host
    _steps: Steps

    def step(self, name: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Do `function(*args, **kwargs)` once: what it returned is recorded, and returned when the stage runs again.

        In an `async` hook, and for a coroutine function anywhere, this is awaited. Steps and waits must come in the
        same order each time the stage runs. Each asyncio task that the stage starts (`gather` of coroutines, a task
        group) counts its own, so it does not matter which one is faster; but what tells those tasks apart is the order
        in which they come to their first step or wait. What they do before it must not change that order: no
        `asyncio.sleep`, no request to a server. Code in threads counts with the task that has started the thread.
        """
        return self._steps.step(name, function, *args, **kwargs)

    def sleep(self, seconds: float) -> Any:
        """Let time pass, without holding anything; the stage then runs again from its start. `await` it in `async`
        hooks. Of several tasks that wait, one does so after the other."""
        return self._steps.sleep(seconds)

    def wait_for(self, event: str, timeout_s: float | None = None, where: dict[str, Json] | None = None) -> Any:
        """The payload of the next event of that name that the run's group dispatches, or has since the run began; as
        `sleep` does it. where: what it must hold, key by key. Raises TimeoutError."""
        return self._steps.wait_for(event, timeout_s, where)

    async def add_note(self, note: str) -> None:
        """Record a note about this run."""
        await self._host.add_note(note)


class CronTask(BaseTask):
    """A task meant to be scheduled."""


class WebhookTask(BaseTask):
    """A task meant to answer webhooks."""


class ManualTrigger(BaseTask):
    """A task that `task trigger` may start."""


class PointerTask(BaseTask):
    """A task with pointers: marks that connect it to a run for a user."""

    async def add_pointer(self, user_id: str, run_id: str, group_id: str | None = None) -> bool:
        """Record a pointer from within an `async` hook of a run; False if it was there already."""
        return await self._host.add_pointer(self.name, user_id, run_id, group_id)
