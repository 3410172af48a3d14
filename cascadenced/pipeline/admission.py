"""May a task run now, and what changes that."""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec.structs import replace

from cascadenced.events.base import Event
from cascadenced.events.task import TaskDisabled, TaskEnabled, TaskPaused, TaskRegistered, TaskResumed

Switch = Literal["enable", "disable", "pause", "resume"]


class TaskState(msgspec.Struct, frozen=True):
    """A task's switches, and what was last recorded of its code."""

    disabled: bool = False
    paused: bool = False
    registered: TaskRegistered | None = None


def evolve_task(state: TaskState, event: Event) -> TaskState:
    """`state` after `event`. Registering again changes no switch."""
    match event:
        case TaskRegistered():
            return replace(state, registered=event)
        case TaskEnabled():
            return replace(state, disabled=False)
        case TaskDisabled():
            return replace(state, disabled=True)
        case TaskPaused():
            return replace(state, paused=True)
        case TaskResumed():
            return replace(state, paused=False)
    return state


def decide_switch(name: str, state: TaskState, switch: Switch) -> list[Event]:
    """The event that `switch` records; none if the task is already so."""
    match switch:
        case "enable":
            return [TaskEnabled(task=name)] if state.disabled else []
        case "disable":
            return [] if state.disabled else [TaskDisabled(task=name)]
        case "pause":
            return [] if state.paused else [TaskPaused(task=name)]
        case "resume":
            return [TaskResumed(task=name)] if state.paused else []


def refusal(name: str, state: TaskState | None) -> tuple[str, str] | None:
    """(code, reason) why `name` may not run now, or None. state: None if no such task is registered."""
    if state is None:
        return "unknown_task", f"Unknown task: {name}"
    if state.disabled:
        return "disabled", f"Task '{name}' is disabled"
    if state.paused:
        return "paused", f"Task '{name}' is paused"
    return None
