"""What a task may inherit; any class with a `run` method is a task as well.

During a run an instance has `user_id`, `group_id`, `run_id`, `args` (dict) and `context` (list). Hooks, all optional
save `run`, each plain or `async`:

    intake()             prepare; what it returns is only shown in the audit trail
    research()           return a query; its answer is recorded, and handed to `plan` if that takes a parameter
    plan([research])     return what `run` needs
    precheck()           return True to go on; False, or a string with the reason, stops the run
    run([plan])          do the work; return JSON
    verify([result])     check it; what it returns is the run's result
"""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

from cascadenced.events.base import Json


class Host(Protocol):
    """What a running task may ask of the daemon; all of it is recorded, once per run and place."""

    async def add_note(self, note: str) -> None: ...

    async def add_pointer(self, task: str, user_id: str, run_id: str, group_id: str | None) -> bool: ...


class BaseTask:
    """name: what the task is registered as; without it, the class's name."""

    name: ClassVar[str]
    user_id: str
    group_id: str
    run_id: str
    args: dict[str, Json]
    context: list[Any]
    _host: Host

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
