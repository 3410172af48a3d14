"""The tasks of this instance: their code, and their switches as the log has them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property, reduce
from typing import Any

import msgspec

from cascadenced.errors import Unknown, WrongVersion
from cascadenced.eventlog.base import Change, EventLog, Receipt
from cascadenced.events.base import Context
from cascadenced.events.streams import task_stream
from cascadenced.events.task import TaskRegistered
from cascadenced.pipeline.admission import Switch, TaskState, decide_switch, evolve_task, refusal
from cascadenced.pipeline.model import STAGES
from cascadenced.pipeline.policy import Policy

WORKFLOW_PREFIX = "workflow."
"""The task name of a workflow is this and its event's name; a task's own name has no dot, so they never meet."""


class Hook(msgspec.Struct, frozen=True):
    """takes: whether the hook accepts what the stage before it put out."""

    is_async: bool
    takes: bool


class TaskEntry(msgspec.Struct, frozen=True, dict=True):
    """make: a fresh instance for one run.  inert: making one and giving it its attributes runs none of its code.
    code: digest of the source.  listens_to: a workflow's event name.  class_name: qualified name of its class.
    source: `module:qualname`, by which another process finds it; None: it cannot be found so."""

    name: str
    kind: str
    mode: str
    hooks: Mapping[str, Hook]
    code: str
    description: str
    make: Callable[[], Any]
    inert: bool = False
    listens_to: str | None = None
    class_name: str = ""
    source: str | None = None
    policy: Policy = Policy()

    @cached_property
    def stages(self) -> tuple[str, ...]:
        return tuple(stage for stage in STAGES if stage in self.hooks)


def resolve(key: str, entries: Mapping[str, TaskEntry]) -> str | None:
    """The name of the task that is there under `key`, or whose class is called so, if only one is."""
    if key in entries:
        return key
    named = [name for name, entry in entries.items() if entry.class_name == key]
    return named[0] if len(named) == 1 else None


class Tasks:
    """Entries by name with their folded state; the only place that changes a switch."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._entries: dict[str, TaskEntry] = {}
        self._states: dict[str, TaskState] = {}
        self._versions: dict[str, int] = {}

    async def register(self, entry: TaskEntry) -> None:
        """Know the task; record it when it is new or its code changed. Switches stay as they were."""
        await self._read(entry.name)
        self._entries[entry.name] = entry
        event = TaskRegistered(
            task=entry.name,
            kind=entry.kind,
            mode=entry.mode,
            stages=entry.stages,
            code=entry.code,
            description=entry.description,
            listens_to=entry.listens_to,
        )
        if self._states[entry.name].registered != event:
            await self._append(entry.name, [event], Context())

    def get(self, name: str) -> TaskEntry | None:
        return self._entries.get(name)

    def resolve(self, key: str) -> str | None:
        """See the function of that name."""
        return resolve(key, self._entries)

    def names(self) -> list[str]:
        """In order of registration."""
        return list(self._entries)

    def listener(self, event: str) -> TaskEntry | None:
        """The workflow registered for an event."""
        return self._entries.get(WORKFLOW_PREFIX + event)

    def refusal(self, name: str) -> tuple[str, str] | None:
        """(code, reason) why the task may not run now, or None."""
        return refusal(name, self._states.get(name) if name in self._entries else None)

    async def switch(self, name: str, switch: Switch, context: Context, source: str | None = None) -> bool:
        """Enable, disable, pause or resume; False if the task already was so, or if something was recorded under
        `source` before. Raises Unknown."""
        if name not in self._entries:
            raise Unknown(f"Unknown task: {name}")
        while True:
            events = decide_switch(name, self._states[name], switch)
            if not events:
                return False
            try:
                return not (await self._append(name, events, context, source)).duplicate
            except WrongVersion:
                await self._read(name)

    async def _read(self, name: str) -> None:
        events = await self._log.read_stream(task_stream(name))
        self._states[name] = reduce(evolve_task, (recorded.event for recorded in events), TaskState())
        self._versions[name] = len(events)

    async def _append(self, name: str, events: list[Any], context: Context, source: str | None = None) -> Receipt:
        change = Change(task_stream(name), events, self._versions[name], context)
        receipt: Receipt = await self._log.append([change], source=source)
        self._states[name] = reduce(evolve_task, (r.event for r in receipt.recorded), self._states[name])
        self._versions[name] += len(receipt.recorded)
        return receipt
