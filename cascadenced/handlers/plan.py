"""What `plan()` returned: data for `run`, or tasks to be run first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from cascadenced.errors import Invalid
from cascadenced.events.base import Json
from cascadenced.events.child import Planned
from cascadenced.events.content import MAX_CONTENT_DEPTH, Unserialisable, plain, recordable, type_name
from cascadenced.plugins.base import ParallelPlan
from cascadenced.plugins.describe import describe_once
from cascadenced.runtime.children import MAX_CHILDREN
from cascadenced.runtime.tasks import TaskEntry


class TaskPlan(msgspec.Struct, frozen=True):
    """entries: in order.  text: how the plan shows itself, neither redacted nor cut."""

    entries: Sequence[TaskEntry]
    parallel: bool
    text: str

    @property
    def planned(self) -> tuple[Planned, ...]:
        return tuple(Planned(entry.name, entry.class_name) for entry in self.entries)


NOTHING_TO_DO = TaskPlan((), parallel=False, text="[]")
"""What an empty list is where no `run` could be handed it: which of both was meant, it does not say itself."""


def read_plan(value: Any) -> Json | TaskPlan:
    """A plan of tasks is a list of tasks, a `ParallelPlan`, or `{"execution": "parallel", "tasks": [...]}`; a list in
    it is a plan of its own. Everything else is data, of an empty one of these `[]`. Raises Unserialisable for what is
    neither, Invalid for a task that cannot be one.
    """
    items, parallel = _items(value)
    if items is None or not any(map(_is_task, items)):
        if parallel and items:
            raise Unserialisable("a parallel plan must hold tasks, and this one holds data", code="plan.mixed")
        if not isinstance(value, dict) and _is_task(value):
            raise Unserialisable("plan() returned a task: to have it run, return it in a list", code="plan.mixed")
        if _holds_tasks(value):
            raise Unserialisable(
                f"plan() returned a {type_name(value)} that holds tasks: to have them run, return a list of them, or "
                "ParallelPlan([...]) for at the same time",
                code="plan.mixed",
            )
        return [] if parallel else recordable(value, "what plan() returned")
    strays = [index for index, item in enumerate(items) if not _is_task(item)]
    if strays:
        stray = strays[0]
        raise Unserialisable(
            f"a plan must hold either tasks or data: item {stray} is a {type_name(items[stray])}, others are tasks",
            code="plan.mixed",
        )
    if len(items) > MAX_CHILDREN:
        raise Unserialisable(f"a plan has at most {MAX_CHILDREN} tasks, not {len(items)}", code="plan.too_long")
    return TaskPlan([_entry(item, index) for index, item in enumerate(items)], parallel, plain(repr(items)))


def _items(value: Any) -> tuple[list[Any] | None, bool]:
    """The items of a list or of a parallel plan, and whether it is one."""
    if isinstance(value, ParallelPlan):
        return list(value.tasks), True
    if isinstance(value, dict) and value.get("execution") == "parallel" and isinstance(value.get("tasks"), list):
        return value["tasks"], True
    return (value, False) if isinstance(value, list) else (None, False)


def _holds_tasks(value: Any) -> bool:
    """Whether it looks like a plan of tasks, and has not the form of one."""
    values = value.values() if type(value) is dict else value if type(value) in (tuple, set, frozenset) else ()
    return any(_is_task(each) or (type(each) is list and any(map(_is_task, each))) for each in values)


def _is_task(item: Any, depth: int = 0) -> bool:
    """A list that holds itself holds no tasks: what is data in it is refused as data."""
    if isinstance(item, ParallelPlan | list | dict):
        items, _ = _items(item)
        if items is None or depth > MAX_CONTENT_DEPTH:
            return False
        return any(_is_task(each, depth + 1) for each in items)
    return callable(getattr(item, "run", None)) or callable(getattr(item, "plan", None))


def _entry(item: Any, index: int) -> TaskEntry:
    if isinstance(item, ParallelPlan | list | dict):
        return describe_once(_PlanWithinAPlan(item))
    ready: Callable[[], TaskEntry] | None = getattr(item, "_cascade_entry", None)
    try:
        return ready() if ready is not None else describe_once(item)
    except Invalid as error:
        raise Invalid(f"item {index} of the plan cannot be run: {error}", code="plan.invalid") from None


def is_within_a_plan(entry: TaskEntry) -> bool:
    """Whether it is a list in a plan, and no task of anybody's."""
    return entry.class_name == _PlanWithinAPlan.__qualname__ and entry.name == _PlanWithinAPlan.name


class _PlanWithinAPlan:
    """A list in a plan, as a task with nothing but that plan."""

    name = "plan"

    def __init__(self, value: Any) -> None:
        self._value = value

    def plan(self) -> Any:
        return self._value
