"""Facts about tasks. Stream `task-<name>`."""

from __future__ import annotations

from cascadenced.events.base import Event


class TaskRegistered(Event, tag="task.registered", frozen=True, kw_only=True):
    """The task is known to this instance; recorded when it is new or its code or hooks changed.

    kind: cron, webhook, manual, pointer, workflow or task.  mode: sync or async, by its `run`.
    code: digest of its source.  listens_to: the event name a workflow is registered for.
    """

    task: str
    kind: str
    mode: str
    stages: tuple[str, ...]
    code: str
    description: str = ""
    listens_to: str | None = None


class TaskRejected(Event, tag="task.rejected", frozen=True, kw_only=True):
    """A plugin could not become a task. plugin: entry point or `module:Class`.  reason: a sentence. Stream `system`."""

    plugin: str
    reason: str


class TaskEnabled(Event, tag="task.enabled", frozen=True, kw_only=True):
    """Runs are accepted again after `disable`."""

    task: str


class TaskDisabled(Event, tag="task.disabled", frozen=True, kw_only=True):
    """New runs are refused until it is enabled."""

    task: str


class TaskPaused(Event, tag="task.paused", frozen=True, kw_only=True):
    """New runs are refused until it is resumed."""

    task: str


class TaskResumed(Event, tag="task.resumed", frozen=True, kw_only=True):
    """Runs are accepted again after `pause`."""

    task: str
