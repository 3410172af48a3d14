"""The tasks of an instance: registered when they are new or changed, switched on and off by events."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from msgspec.structs import replace

from cascadenced.clock import FakeClock
from cascadenced.errors import DiskFull, Unknown
from cascadenced.eventlog.base import Change
from cascadenced.eventlog.memory import MemoryEventLog
from cascadenced.events.base import Context
from cascadenced.events.run import ForeignRunReported
from cascadenced.events.streams import task_stream
from cascadenced.events.task import TaskDisabled, TaskEnabled, TaskPaused, TaskRegistered, TaskResumed
from cascadenced.ids import SeededIds
from cascadenced.runtime.tasks import Hook, TaskEntry, Tasks
from tests.examples import example

ENTRY = TaskEntry(
    name="example",
    kind="task",
    mode="sync",
    hooks={"verify": Hook(is_async=False, takes=True), "run": Hook(is_async=False, takes=False)},
    code="c0de",
    description="Does things.",
    make=object,
)
WORKFLOW = replace(ENTRY, name="workflow.order.placed", kind="workflow", listens_to="order.placed")
NOBODY = Context()


async def opened() -> tuple[MemoryEventLog, Tasks]:
    log = await MemoryEventLog.open(clock=FakeClock(), ids=SeededIds())
    return log, Tasks(log)


def types(log: MemoryEventLog) -> list[type]:
    return [type(recorded.event) for recorded in log.file.events]


async def test_a_new_task_is_recorded_with_its_stages_in_pipeline_order() -> None:
    log, tasks = await opened()
    await tasks.register(ENTRY)
    assert log.file.events[0].event == TaskRegistered(
        task="example", kind="task", mode="sync", stages=("run", "verify"), code="c0de", description="Does things."
    )
    assert log.file.events[0].stream == "task-example"


@pytest.mark.parametrize(
    "change",
    [{}, {"code": "c0de2"}, {"description": "Else."}, {"mode": "async"}, {"kind": "cron"}, {"hooks": {}}],
    ids=lambda change: next(iter(change), "nothing"),
)
async def test_it_is_recorded_again_only_if_something_changed(change: dict[str, Any]) -> None:
    log, tasks = await opened()
    await tasks.register(ENTRY)
    await Tasks(log).register(replace(ENTRY, **change))
    assert len(log.file.events) == (2 if change else 1)


async def test_names_are_in_order_of_registration_and_entries_found_by_name_or_event() -> None:
    _, tasks = await opened()
    await tasks.register(WORKFLOW)
    await tasks.register(ENTRY)
    assert tasks.names() == ["workflow.order.placed", "example"]
    assert tasks.get("example") is ENTRY
    assert tasks.listener("order.placed") is WORKFLOW
    assert tasks.get("nothing") is tasks.listener("nothing") is tasks.listener("example") is None


@pytest.mark.parametrize(
    ("there", "back", "events", "refusal"),
    [
        ("disable", "enable", [TaskDisabled, TaskEnabled], ("disabled", "Task 'example' is disabled")),
        ("pause", "resume", [TaskPaused, TaskResumed], ("paused", "Task 'example' is paused")),
    ],
)
async def test_a_switch_refuses_runs_until_it_is_switched_back(
    there: Any, back: Any, events: list[type], refusal: tuple[str, str]
) -> None:
    log, tasks = await opened()
    await tasks.register(ENTRY)
    assert tasks.refusal("example") is None
    assert await tasks.switch("example", there, Context(user_hash="u", group_hash="g"))
    assert not await tasks.switch("example", there, NOBODY)
    assert tasks.refusal("example") == refusal
    assert await tasks.switch("example", back, NOBODY)
    assert not await tasks.switch("example", back, NOBODY)
    assert tasks.refusal("example") is None
    assert types(log)[1:] == events
    assert (log.file.events[1].user_hash, log.file.events[1].group_hash) == ("u", "g")


async def test_disabled_is_said_before_paused() -> None:
    _, tasks = await opened()
    await tasks.register(ENTRY)
    await tasks.switch("example", "pause", NOBODY)
    await tasks.switch("example", "disable", NOBODY)
    assert tasks.refusal("example") == ("disabled", "Task 'example' is disabled")


async def test_an_unknown_task_is_refused_and_cannot_be_switched() -> None:
    _, tasks = await opened()
    assert tasks.refusal("nothing") == ("unknown_task", "Unknown task: nothing")
    with pytest.raises(Unknown, match="^Unknown task: nothing$"):
        await tasks.switch("nothing", "disable", NOBODY)


async def test_a_task_that_is_no_longer_installed_is_unknown_though_the_log_has_it() -> None:
    log, tasks = await opened()
    await tasks.register(ENTRY)
    assert Tasks(log).refusal("example") == ("unknown_task", "Unknown task: example")


async def test_switches_survive_a_restart_and_new_code() -> None:
    log, tasks = await opened()
    await tasks.register(ENTRY)
    await tasks.switch("example", "disable", NOBODY)
    later = Tasks(log)
    await later.register(replace(ENTRY, code="c0de2"))
    assert later.refusal("example") == ("disabled", "Task 'example' is disabled")


async def test_other_writers_on_a_tasks_stream_cost_a_switch_nothing() -> None:
    log, tasks = await opened()
    await tasks.register(ENTRY)
    await log.append([Change(task_stream("example"), [example(ForeignRunReported)])])
    assert await tasks.switch("example", "disable", NOBODY)
    await log.append([Change(task_stream("example"), [example(ForeignRunReported)])])
    assert await tasks.switch("example", "enable", NOBODY)
    assert types(log)[1:] == [ForeignRunReported, TaskDisabled, ForeignRunReported, TaskEnabled]


async def test_who_switches_at_once_with_others_is_told_whether_it_was_them() -> None:
    log, tasks = await opened()
    await tasks.register(ENTRY)
    changed = await asyncio.gather(*(tasks.switch("example", "pause", NOBODY) for _ in range(5)))
    assert sorted(changed) == [False] * 4 + [True]
    assert types(log) == [TaskRegistered, TaskPaused]
    assert await tasks.switch("example", "resume", NOBODY)


async def test_a_switch_that_cannot_be_recorded_has_not_moved() -> None:
    log, tasks = await opened()
    await tasks.register(ENTRY)
    log.fail_next = DiskFull("no space")
    with pytest.raises(DiskFull):
        await tasks.switch("example", "disable", NOBODY)
    assert tasks.refusal("example") is None
