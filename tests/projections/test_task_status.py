"""How each task is doing: the rows on disk, and the board in memory that says the same."""

from __future__ import annotations

import json

import pytest

from cascadenced.errors import Unknown
from cascadenced.events.pointer import PointerAdded
from cascadenced.events.run import (
    ForeignRunReported,
    RunFailed,
    RunFinished,
    RunRefused,
    RunRequested,
    RunStarted,
)
from cascadenced.events.stage import StageStarted
from cascadenced.events.task import TaskDisabled, TaskEnabled, TaskPaused, TaskRegistered, TaskResumed
from cascadenced.projections.board import Board
from tests.examples import RUN_ID, example
from tests.projections.stories import story

REQUESTED, STARTED, FINISHED = example(RunRequested), example(RunStarted), example(RunFinished)


@pytest.fixture
def row(answers, happened):
    """`await row(events…)`: the row of the task `example` after it was registered and these happened."""

    async def after(*events):
        await happened(example(TaskRegistered), *events, run_id=RUN_ID)
        return await answers.task("example")

    return after


async def test_a_registered_task_is_idle(row):
    shown = await row()
    assert (shown.kind, shown.mode, shown.disabled, shown.paused, shown.running, shown.queued, shown.last_status) == (
        "manual",
        "sync",
        False,
        False,
        0,
        0,
        None,
    )


@pytest.mark.parametrize(
    ("events", "switches"),
    [
        ([TaskDisabled], (True, False)),
        ([TaskDisabled, TaskEnabled], (False, False)),
        ([TaskPaused], (False, True)),
        ([TaskPaused, TaskResumed], (False, False)),
        ([TaskDisabled, TaskPaused, TaskRegistered], (True, True)),
    ],
)
async def test_switches_are_as_they_were_set_last(row, events, switches):
    shown = await row(*(example(event) for event in events))
    assert (shown.disabled, shown.paused) == switches


@pytest.mark.parametrize(
    ("events", "queued", "running", "last_status"),
    [
        ([REQUESTED], 1, 0, None),
        ([REQUESTED, STARTED], 0, 1, None),
        ([REQUESTED, STARTED, FINISHED], 0, 0, "success"),
        ([REQUESTED, STARTED, example(RunFailed)], 0, 0, "error"),
        ([REQUESTED, example(RunRefused)], 0, 0, "refused"),
        ([REQUESTED, REQUESTED, STARTED], 1, 1, None),
    ],
)
async def test_runs_are_counted_while_they_wait_and_run(row, events, queued, running, last_status):
    shown = await row(*events)
    assert (shown.queued, shown.running, shown.last_status) == (queued, running, last_status)


async def test_the_stage_that_started_last_is_shown(row):
    assert (await row(REQUESTED, STARTED, example(StageStarted, stage="plan"))).stage == "plan"


async def test_the_last_run_and_its_end_are_shown(row):
    shown = await row(REQUESTED, STARTED, FINISHED)
    assert (shown.last_run_id, shown.last_finished_at) == (RUN_ID, "2026-09-21T14:13:20.000000Z")


async def test_pointers_are_counted(row):
    assert (await row(example(PointerAdded), example(PointerAdded))).n_pointers == 2


async def test_a_task_view_lists_its_newest_runs(answers, row):
    shown = await row(REQUESTED)
    assert [run.run_id for run in shown.recent_runs] == [RUN_ID]


async def test_a_task_only_heard_of_is_foreign(answers, happened):
    await happened(example(ForeignRunReported, task="theirs", status="success"))
    shown = await answers.task("theirs")
    assert (shown.kind, shown.last_status, shown.last_run_id) == ("foreign", "success", "theirs-1")


async def test_a_foreign_run_that_only_started_has_no_outcome_yet(answers, happened):
    await happened(example(ForeignRunReported, task="theirs", status="running"))
    assert (await answers.task("theirs")).last_status is None


async def test_a_refused_run_of_an_unknown_task_makes_no_task(answers, happened):
    await happened(REQUESTED, example(RunRefused, code="unknown_task"), run_id=RUN_ID)
    assert await answers.tasks() == []


async def test_an_unknown_task_is_unknown(answers):
    with pytest.raises(Unknown, match="Unknown task: nobody"):
        await answers.task("nobody")


async def test_tasks_come_in_the_order_of_registration(answers, happened):
    for name in ("z", "a", "m"):
        await happened(example(TaskRegistered, task=name))
    assert [task.name for task in await answers.tasks()] == ["z", "a", "m"]


# ── the board ────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_board_says_what_the_table_says(log, answers):
    board = await Board.open(log)
    for change in story(3, 60):
        await log.append([change])
    assert board.rows() == await answers.tasks()


async def test_a_board_opened_later_says_the_same(log):
    early = await Board.open(log)
    for change in story(4, 60):
        await log.append([change])
    assert (await Board.open(log)).rows() == early.rows()


async def test_whoever_was_told_that_a_run_ended_sees_it_ended(log, happened):
    board = await Board.open(log)
    await happened(example(TaskRegistered), REQUESTED, STARTED, FINISHED, run_id=RUN_ID)
    assert board.row("example").last_status == "success"


async def test_the_board_makes_up_for_what_a_frozen_table_missed(store):
    from cascadenced.projections import all_projections

    projections = all_projections()
    table = next(projection for projection in projections if projection.name == "task_status")

    def apply(connection, batch):
        raise ValueError("broken")

    table.apply = apply
    log = await store.open(projections=projections)
    changes = story(5, 60)
    for change in changes:
        await log.append([change])
    late = await Board.open(log)
    del table.apply
    await log.rebuild()
    assert late.rows() == (await Board.open(log)).rows()
    assert len(late.rows()) >= 3


async def test_the_boards_json_is_encoded_once_per_change(log, happened):
    board = await Board.open(log)
    await happened(example(TaskRegistered))
    first = board.json()
    assert board.json() is first
    await happened(example(TaskPaused))
    assert json.loads(board.json())[0]["paused"] is True
