"""Tasks: listed, switched on and off, and what happened to them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from cascadenced.errors import Unknown
from cascadenced.instance import Instance
from cascadenced.pipeline.admission import Switch
from cascadenced.pipeline.graph import Graph
from cascadenced.projections.audit_trail import Category
from cascadenced.verbs.base import ListArguments, Nothing, Readable, Someone, by, reading, verb


class SwitchArguments(Someone, kw_only=True, forbid_unknown_fields=True):
    """Who asks is optional: a switch belongs to the task, and the audit row shows whoever is named."""

    task: str


class PauseArguments(SwitchArguments, kw_only=True, forbid_unknown_fields=True):
    """job_id: a run of the task. Without it the newest run of the task under way is meant (of those that whoever asks
    may control), and the task itself if there is none."""

    job_id: str | None = None


class TaskArguments(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    task: str | None = None


class TrailArguments(ListArguments, kw_only=True, forbid_unknown_fields=True):
    task: str
    category: Category = "all"


class Listed(msgspec.Struct):
    name: str
    disabled: bool


class Switched(msgspec.Struct):
    """run_id: the run that was paused or resumed, null if it was the task itself.  duplicate: whether the same was
    asked before."""

    task: str
    changed: bool
    run_id: str | None = None
    duplicate: bool = False


async def _list(instance: Readable, _: Nothing) -> list[Listed]:
    rows = {row.name: row for row in instance.board.rows()}
    return [Listed(name, rows[name].disabled) for name in instance.tasks.names()]


def _switch(switch: Switch) -> Callable[[Instance, SwitchArguments], Awaitable[Switched]]:
    async def do(instance: Instance, asked: SwitchArguments) -> Switched:
        asker = asked.asker(instance.pseudonyms)
        done = await instance.control_requests.switch(asked.task, switch, asker, by(asker))
        return Switched(asked.task, done.changed, duplicate=done.duplicate)

    return do


async def _pause(instance: Instance, asked: PauseArguments) -> Switched:
    asker = asked.asker(instance.pseudonyms)
    done = await instance.control_requests.pause_by_name(asked.task, asker, by(asker), asked.job_id)
    return Switched(asked.task, done.changed, done.run_id, done.duplicate)


async def _resume(instance: Instance, asked: PauseArguments) -> Switched:
    asker = asked.asker(instance.pseudonyms)
    done = await instance.control_requests.resume_by_name(asked.task, asker, by(asker), asked.job_id)
    return Switched(asked.task, done.changed, done.run_id, done.duplicate)


async def _status(instance: Readable, asked: TaskArguments) -> Any:
    if asked.task is None:
        return await instance.status()
    return await instance.answers.task(asked.task, instance.board.row(asked.task))


class GraphArguments(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    task: str


async def _graph(instance: Instance, asked: GraphArguments) -> Graph:
    if instance.tasks.get(asked.task) is None:
        raise Unknown(f"Unknown task: {asked.task}", code="unknown_task")
    return instance.prerequisites.graph(asked.task)


async def _trail(instance: Readable, asked: TrailArguments) -> Any:
    return await instance.answers.trail(asked.task, asked.category, limit=asked.limit, after=asked.after)


VERBS = (
    reading("list", Nothing, _list, "all registered tasks"),
    verb("enable", SwitchArguments, _switch("enable"), "accept runs again", is_wish=True),
    verb("disable", SwitchArguments, _switch("disable"), "refuse new runs", is_wish=True),
    verb(
        "pause",
        PauseArguments,
        _pause,
        "pause the newest run of a task that is not paused yet, or the task if none is under way",
        is_wish=True,
    ),
    verb(
        "resume", PauseArguments, _resume, "let the newest paused run of a task go on, or the task itself", is_wish=True
    ),
    reading("status", TaskArguments, _status, "the instance and its tasks, or one task"),
    verb("graph", GraphArguments, _graph, "the tasks that one must run after"),
    reading("trail", TrailArguments, _trail, "stage and audit rows of a task"),
)
