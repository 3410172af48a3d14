"""One run in full."""

from __future__ import annotations

import pytest

from cascadenced.errors import Invalid, Unknown
from cascadenced.eventlog.base import Change
from cascadenced.events.base import Context
from cascadenced.events.child import ChildEnded, ChildRequested, Planned
from cascadenced.events.run import (
    RunCancelled,
    RunDoubted,
    RunFailed,
    RunHeld,
    RunPaused,
    RunRefused,
    RunReleased,
    RunRequested,
    RunResolved,
    RunStarted,
)
from cascadenced.events.stage import StageFailed, StageFinished, StageInterrupted, StageStarted
from cascadenced.events.step import StepFailed, StepFinished, StepStarted
from cascadenced.events.wait import WaitEnded, WaitStarted
from cascadenced.events.workflow import EventDispatched
from cascadenced.pipeline.policy import Policy
from cascadenced.projections.run_view import MAX_PRINTED_CHARS, MAX_STEP_OUTPUT_BYTES, run_view
from tests.examples import AT, AT_US, GROUP_HASH, OTHER_HASH, RUN_ID, USER_HASH, example, recorded, run_of


def view(*events, seconds_apart=1):
    return run_view(
        [
            recorded(event, position=n + 1, version=n + 1, at_us=AT_US + n * seconds_apart * 1_000_000)
            for n, event in enumerate(events)
        ]
    )


def stages_of(shown):
    return {stage.stage: stage.status for stage in shown.stages}


def test_a_run_shows_all_six_stages_in_pipeline_order():
    shown = view(*run_of("run"))
    assert [stage.stage for stage in shown.stages] == ["intake", "research", "plan", "precheck", "run", "verify"]


def test_a_queued_run_has_not_started():
    shown = view(example(RunRequested))
    assert (shown.status, shown.started_at, shown.finished_at, shown.stage) == ("queued", None, None, None)
    assert set(stages_of(shown).values()) == {"pending"}


def test_a_run_says_what_was_asked_by_whom_and_when():
    shown = view(example(RunRequested, args={"n": 5}, parent_run_id="p"))
    assert (shown.run_id, shown.task, shown.args, shown.parent_run_id) == (RUN_ID, "example", {"n": 5}, "p")
    assert (shown.user_hash, shown.group_hash, shown.requested_at) == (USER_HASH, GROUP_HASH, AT)


def test_a_running_run_shows_what_ended_what_goes_on_and_what_is_to_come():
    shown = view(*run_of("intake", "plan", "run")[:5])
    assert (shown.status, shown.stage, shown.attempt) == ("running", "plan", 1)
    assert stages_of(shown) == {
        "intake": "success",
        "research": "skipped",
        "plan": "started",
        "precheck": "skipped",
        "run": "pending",
        "verify": "skipped",
    }


def test_a_finished_run_has_a_result_and_no_error():
    shown = view(*run_of("plan", "run"))
    assert (shown.status, shown.result, shown.error) == ("success", "run output", None)


def test_a_finished_run_shows_outputs_durations_and_instants():
    shown = view(*run_of("run"))
    run = shown.stages[4]
    assert (run.output, run.took_s, run.attempt, run.started_at[17:19]) == ("run output", 0.25, 1, "22")
    assert (shown.started_at[17:19], shown.finished_at[17:19]) == ("21", "24")


def test_a_failed_run_has_an_error_and_no_result():
    shown = view(*run_of("plan", "run", fails="run"))
    assert (shown.status, shown.result) == ("error", None)
    assert (shown.error.type, shown.error.message, shown.stage) == ("ValueError", "boom", "run")


def test_a_failed_stage_shows_what_it_left():
    shown = view(
        example(RunRequested),
        example(RunStarted),
        example(StageStarted),
        example(StageFailed, partial=[1, 2]),
        example(RunFailed),
    )
    assert (shown.stages[4].status, shown.stages[4].output) == ("error", [1, 2])


def test_a_refused_run_started_nothing_and_says_why():
    shown = view(example(RunRequested), example(RunRefused, code="paused", reason="Task 'x' is paused"))
    assert (shown.status, shown.error.type, shown.error.message) == ("refused", "paused", "Task 'x' is paused")
    assert set(stages_of(shown).values()) == {"skipped"}
    assert shown.finished_at is not None


def test_a_run_that_was_resumed_shows_its_last_attempt():
    shown = view(*run_of("run")[:3], example(StageInterrupted), example(StageStarted, attempt=2))
    assert (shown.status, shown.attempt, shown.stages[4].attempt, shown.stages[4].status) == (
        "running",
        2,
        2,
        "started",
    )
    assert shown.stages[4].started_at[17:19] == "24"


def test_a_run_that_waits_has_no_error():
    shown = view(*run_of("run")[:3], example(RunHeld))
    assert (shown.status, shown.error, shown.finished_at) == ("waiting", None, None)


def test_a_run_given_up_after_crashes_names_the_stage_that_was_under_way():
    shown = view(
        *run_of("plan", "run")[:5],
        example(StageStarted, stage="run", attempt=5),
        example(RunFailed, error_type="crash_loop", stage="run"),
    )
    assert (shown.stage, shown.attempt, stages_of(shown)["run"]) == ("run", 5, "error")


def test_a_run_between_stages_shows_the_last_that_ended():
    shown = view(*run_of("plan", "run")[:4])
    assert (shown.stage, shown.status) == ("plan", "running")


def test_a_run_whose_research_failed_still_succeeds():
    shown = view(*run_of("research", "run", fails="research"))
    assert (shown.status, stages_of(shown)["research"]) == ("success", "error")


def test_a_result_of_nothing_is_null():
    shown = view(example(RunRequested), example(RunStarted), example(StageStarted), example(StageFinished, output=None))
    assert shown.result is None


# ── finding it ───────────────────────────────────────────────────────────────────────────────────────────────────

NEIGHBOUR = RUN_ID[:10] + "0" * 22


@pytest.fixture
async def two_runs(happened):
    for run_id in (RUN_ID, NEIGHBOUR):
        await happened(*run_of("run"), run_id=run_id)


async def test_a_run_is_found_by_its_id(answers, two_runs):
    assert (await answers.run(RUN_ID)).run_id == RUN_ID


async def test_a_run_is_found_by_the_beginning_of_its_id(answers, two_runs):
    assert (await answers.run(RUN_ID[:20])).run_id == RUN_ID


async def test_a_beginning_that_several_runs_share_is_refused(answers, two_runs):
    with pytest.raises(Invalid, match="several runs begin with"):
        await answers.run(RUN_ID[:10])


async def test_a_run_that_nobody_asked_for_is_unknown(answers, two_runs):
    with pytest.raises(Unknown, match="no run"):
        await answers.run("ff" * 16)


@pytest.mark.parametrize("given", ["", "019f", "019f0000%", "019f_0000000", "'; DROP TABLE runs", "~" * 32])
async def test_what_cannot_be_an_id_is_unknown(answers, two_runs, given):
    with pytest.raises(Unknown):
        await answers.run(given)


async def test_the_events_of_a_run_come_in_pages(answers, two_runs):
    first = await answers.run_events(RUN_ID, limit=3)
    rest = await answers.run_events(RUN_ID, after=first.next)
    assert [event.version for event in first.items + rest.items] == [1, 2, 3, 4, 5]
    assert rest.next is None


async def test_the_events_of_a_run_carry_their_own_json(answers, two_runs):
    event = (await answers.run_events(RUN_ID, limit=1)).items[0]
    assert (event.type, bytes(event.data)[:24]) == ("run.requested", b'{"type":"run.requested",')


async def test_the_events_of_an_unknown_run_are_unknown(answers):
    with pytest.raises(Unknown):
        await answers.run_events("ff" * 16)


async def test_a_queued_run_is_explained_by_who_is_ahead_of_it(happened, answers):
    ids = [f"{n:032x}" for n in range(1, 5)]
    await happened(example(RunRequested), example(RunStarted), run_id=ids[0])
    for run_id in ids[1:]:
        await happened(example(RunRequested), run_id=run_id)
    explanation = await answers.explain(
        ids[3], limit=1, policy=lambda task: Policy(max_concurrent=1), is_up=True, now_us=AT_US
    )
    queue = explanation.reasons[0].queue
    assert (queue.place, queue.n_running, queue.limit, queue.n_of_task, queue.task_limit) == (3, 1, 1, 1, 1)


async def test_a_waiting_run_is_explained_with_how_its_children_stand(happened, answers):
    parent, child = "1" * 32, "2" * 32
    await happened(
        example(RunRequested),
        example(RunStarted, stages=("plan",)),
        example(StageStarted, stage="plan"),
        example(StageFinished, stage="plan", output=None, children=(Planned("part", "Part"),)),
        example(StageStarted),
        example(ChildRequested, child_run_id=child),
        WaitStarted(task="example", stage="run", place="", kind="children"),
        run_id=parent,
    )
    await happened(example(RunRequested), example(RunStarted), example(RunPaused), run_id=child)
    explanation = await answers.explain(parent[:8], limit=1, policy=lambda task: None, is_up=True, now_us=AT_US)
    [state] = explanation.reasons[0].children
    assert (state.run_id, state.status) == (child, "paused")


async def test_a_queued_run_that_waits_for_others_is_explained_with_these(happened, answers):
    await happened(*run_of("run"), run_id="1" * 32)
    await happened(example(RunRequested, task="dep"), example(RunPaused, task="dep"), run_id="2" * 32)
    await happened(example(RunRequested, requires=("1" * 32, "2" * 32)), run_id="3" * 32)
    explanation = await answers.explain("3" * 32, limit=1, policy=lambda task: None, is_up=True, now_us=AT_US)
    [reason] = explanation.reasons
    assert [(each.run_id[0], each.task, each.status) for each in reason.required] == [
        ("1", "example", "success"),
        ("2", "dep", "paused"),
    ]


async def test_who_waits_for_others_or_is_paused_is_ahead_of_nobody(happened, answers):
    await happened(example(RunRequested), run_id="1" * 32)
    await happened(example(RunRequested, requires=("1" * 32,)), run_id="2" * 32)
    await happened(example(RunRequested), example(RunPaused), run_id="3" * 32)
    await happened(example(RunRequested), run_id="4" * 32)

    async def place():
        explanation = await answers.explain("4" * 32, limit=1, policy=lambda task: None, is_up=True, now_us=AT_US)
        return explanation.reasons[0].queue.place

    assert await place() == 2
    await happened(*run_of("run")[1:], run_id="1" * 32)
    assert await place() == 2  # now the other one waits for nothing but a slot


async def test_a_run_that_is_not_there_cannot_be_explained(answers):
    with pytest.raises(Unknown, match="no run"):
        await answers.explain("f" * 32, limit=1, policy=lambda task: None, is_up=True, now_us=AT_US)


async def test_an_event_that_has_come_is_told_with_its_position(happened, answers, log):
    run_id = "1" * 32
    begun = (example(RunRequested), example(RunStarted), example(StageStarted), example(WaitStarted, until_us=None))
    await happened(*begun, run_id=run_id)

    async def dispatched(group_hash: str, **payload: object) -> None:
        event = example(EventDispatched, name="invoice.paid", payload=payload, run_id=None)
        await log.append([Change("workflow-invoice.paid", [event], None, Context(group_hash=group_hash))])

    async def reason():
        explanation = await answers.explain(run_id, limit=1, policy=lambda task: None, is_up=True, now_us=AT_US)
        return explanation.reasons[0]

    await dispatched(OTHER_HASH, number=7)
    await dispatched(GROUP_HASH, number=8)
    assert not (await reason()).is_over
    await dispatched(GROUP_HASH, number=7, more=1)
    await dispatched(GROUP_HASH, number=7)
    assert (await reason()).is_over
    assert "it came (position 7); that is over, and it goes on as soon as" in (await reason()).text


# ── waiting, steps, children ─────────────────────────────────────────────────────────────────────────────────────

UNTIL = "2026-09-21 14:13:20Z"


@pytest.mark.parametrize(
    ("event", "status", "kind", "text"),
    [
        (example(WaitStarted, kind="event", name="go", until_us=None), "waiting", "event", "the event go"),
        (
            example(WaitStarted, kind="event", name="go", until_us=AT_US),
            "waiting",
            "event",
            f"the event go, until {UNTIL}",
        ),
        (
            example(WaitStarted, kind="sleep", name="", until_us=AT_US),
            "waiting",
            "sleep",
            f"a time to pass, until {UNTIL}",
        ),
        (example(WaitStarted, kind="children", name=""), "waiting", "children", "the runs of its plan"),
        (
            example(StageFailed, retry_at_us=AT_US, fatal=False),
            "waiting",
            "retry",
            f"its next attempt, at {UNTIL}",
        ),
        (example(RunHeld, reason="Unknown task: x"), "waiting", "held", "a restart: Unknown task: x"),
        (
            example(RunDoubted, stage="run", step="charge"),
            "in_doubt",
            "decision",
            "a decision about the step charge: retry, done or fail",
        ),
    ],
)
def test_a_run_says_what_it_waits_for(event, status, kind, text):
    shown = view(*run_of("run")[:3], event)
    assert (shown.status, shown.waits_for.kind, shown.waits_for.text) == (status, kind, text)
    paused = view(*run_of("run")[:3], event, example(RunPaused))
    assert (paused.status, paused.waits_for) == ("paused", shown.waits_for)


@pytest.mark.parametrize(
    "between",
    [
        (example(RunHeld), example(RunReleased, status="waiting")),
        (example(RunDoubted, stage="run", step="charge"), example(RunResolved, status="waiting")),
        (
            example(RunHeld),
            example(RunReleased, status="waiting"),
            example(RunHeld),
            example(RunReleased, status="waiting"),
        ),
    ],
    ids=["held and released", "in doubt and settled", "held twice"],
)
async def test_what_came_between_is_over_and_the_run_waits_for_what_it_did_before(happened, answers, between):
    await happened(*run_of("run")[:3], example(WaitStarted, kind="event", name="go"), *between, run_id=RUN_ID)
    shown = await answers.run(RUN_ID)
    [row] = (await answers.runs(status="waiting")).items
    assert (shown.status, shown.waits_for.kind, shown.waits_for.name) == ("waiting", "event", "go")
    assert (row.waits_for, stages_of(shown)["run"]) == (shown.waits_for, "waiting")


async def test_a_run_that_is_held_once_more_says_what_it_is_held_for_now(happened, answers):
    held = example(RunHeld, reason="Unknown task: x")
    await happened(*run_of("run")[:3], held, example(RunReleased), held, run_id=RUN_ID)
    [row] = (await answers.runs(status="waiting")).items
    assert row.waits_for == (await answers.run(RUN_ID)).waits_for
    assert row.waits_for.kind == "held"


async def test_a_queued_run_waits_for_those_that_must_come_before_it_till_all_have_succeeded(happened, answers):
    one, other, waiting = "1" * 32, "2" * 32, "3" * 32

    async def waits_for():
        [row] = [row for row in (await answers.runs()).items if row.run_id == waiting]
        shown = await answers.run(waiting)
        assert (row.status, row.waits_for) == (shown.status, shown.waits_for)
        return row.waits_for and (row.waits_for.kind, row.waits_for.text)

    await happened(example(RunRequested), run_id=one)
    await happened(example(RunRequested, requires=(one, other)), run_id=waiting)
    before = ("prerequisites", "the runs that must come before it")
    assert await waits_for() == before  # also while one of them is not known yet
    await happened(*run_of("run")[1:], run_id=one)
    await happened(example(RunRequested), run_id=other)
    assert await waits_for() == before
    await happened(example(RunPaused), run_id=waiting)
    assert await waits_for() == before
    await happened(*run_of("run")[1:], run_id=other)
    assert await waits_for() is None


async def test_nor_does_one_that_has_ended_wait_for_them(happened, answers):
    await happened(example(RunRequested, requires=("1" * 32,)), example(RunCancelled), run_id=RUN_ID)
    [row] = (await answers.runs()).items
    assert (row.status, row.waits_for, (await answers.run(RUN_ID)).waits_for) == ("cancelled", None, None)


def test_a_run_that_goes_on_waits_for_nothing():
    wait = example(WaitStarted, kind="event", name="go")
    assert view(*run_of("run")[:3], wait, example(WaitEnded, kind="event")).waits_for is None
    assert view(*run_of("run")[:3], wait, example(RunCancelled)).waits_for is None
    retried = [example(StageFailed, retry_at_us=AT_US, fatal=False), example(StageStarted, attempt=2)]
    assert view(*run_of("run")[:3], *retried).waits_for is None


@pytest.mark.parametrize(
    ("event", "status"),
    [
        (example(WaitStarted), "waiting"),
        (example(StageFailed, retry_at_us=AT_US, fatal=False), "waiting"),
        (example(StageFailed), "error"),
        (example(RunDoubted, stage="run"), "in_doubt"),
        (example(RunCancelled, stage="run"), "cancelled"),
    ],
)
def test_the_stage_under_way_says_how_it_stands(event, status):
    assert stages_of(view(*run_of("run")[:3], event))["run"] == status


def test_the_steps_of_a_stage_are_shown_in_the_order_of_the_code():
    shown = view(
        *run_of("run")[:3],
        example(StepFinished, place="1", name="measure", took_s=0.5),
        example(StepFailed, place="2", name="charge"),
        example(StageFailed, retry_at_us=AT_US, fatal=False),
        example(StageStarted, attempt=2),
        example(StepStarted, place="2", name="charge"),
        example(StepFinished, place="2", name="charge", took_s=0.25),
        example(WaitStarted, place="3", kind="sleep", name=""),
        example(WaitEnded, place="3", kind="sleep", name="", outcome="elapsed"),
        example(WaitStarted, place="4", kind="event", name="go"),
        example(WaitEnded, place="4", kind="event", name="go", outcome="timeout"),
        example(StepStarted, place="5", name="send"),
    )
    [run] = [stage for stage in shown.stages if stage.stage == "run"]
    assert (run.attempt, run.n_steps) == (2, 5)
    assert [(step.place, step.kind, step.name, step.status, step.took_s) for step in run.steps] == [
        ("1", "step", "measure", "success", 0.5),
        ("2", "step", "charge", "success", 0.25),
        ("3", "sleep", "", "success", None),
        ("4", "event", "go", "timeout", None),
        ("5", "step", "send", "started", None),
    ]


def test_of_many_steps_the_newest_are_shown():
    steps = [example(StepFinished, place=str(n), name=f"step {n}") for n in range(1, 251)]
    shown = view(*run_of("run")[:3], *steps)
    [run] = [stage for stage in shown.stages if stage.stage == "run"]
    assert run.n_steps == 250
    assert [step.place for step in run.steps] == [str(n) for n in range(151, 251)]


def test_a_stage_shows_what_its_last_attempt_printed_before_and_after_its_waits():
    shown = view(
        *run_of("run")[:2],
        example(StageStarted, stage="run"),
        example(StageFailed, stage="run", retry_at_us=AT_US, printed="of the first attempt\n"),
        example(StageStarted, stage="run", attempt=2),
        example(WaitStarted, stage="run", place="1", kind="sleep", printed="before\n"),
        example(WaitEnded, stage="run", place="1", kind="sleep", outcome="elapsed"),
        example(StageFinished, stage="run", attempt=2, printed="after\n"),
    )
    assert {stage.stage: stage.printed for stage in shown.stages if stage.printed} == {"run": "before\nafter\n"}


def test_of_much_that_was_printed_the_end_is_shown():
    shown = view(*run_of("run")[:2], example(StageFinished, stage="run", printed=f"{'x' * 10_000}the end\n"))
    [stage] = [stage for stage in shown.stages if stage.stage == "run"]
    assert (len(str(stage.printed)), str(stage.printed)[-8:]) == (MAX_PRINTED_CHARS, "the end\n")


def test_the_runs_of_a_plan_are_shown_in_its_order():
    planned = tuple(Planned(name=f"part{n}", kind="x") for n in range(3))
    shown = view(
        *run_of("plan", "run")[:3],
        example(StageFinished, stage="plan", children=planned),
        example(StageStarted, stage="run"),
        example(ChildRequested, index=0, child_run_id="a" * 32, attempt=1),
        example(ChildEnded, index=0, child_run_id="a" * 32, status="error"),
        example(ChildRequested, index=0, child_run_id="b" * 32, attempt=2),
        example(ChildEnded, index=0, child_run_id="b" * 32, status="success"),
        example(ChildRequested, index=1, child_run_id="c" * 32, attempt=1),
    )
    assert [(c.index, c.task, c.run_id, c.status, c.attempt) for c in shown.children] == [
        (0, "part0", "b" * 32, "success", 2),
        (1, "part1", "c" * 32, "running", 1),
        (2, "part2", None, "planned", 0),
    ]


def test_a_run_of_a_plan_is_not_shown_as_running_when_the_plan_is_over():
    shown = view(
        *run_of("plan", "run")[:3],
        example(StageFinished, stage="plan", children=(Planned(name="part", kind="x"), Planned(name="part", kind="x"))),
        example(StageStarted, stage="run"),
        example(ChildRequested, index=0, child_run_id="a" * 32),
        example(RunCancelled, stage="run"),
    )
    assert [child.status for child in shown.children] == ["cancelled", "planned"]


def test_a_doubt_that_was_settled_is_over():
    shown = view(*run_of("run")[:3], example(RunDoubted, stage="run"), example(RunResolved, verdict="retry"))
    assert (shown.status, shown.waits_for, stages_of(shown)["run"]) == ("running", None, "started")


def test_a_step_shows_what_it_returned_unless_that_is_long_or_what_it_raised():
    long = "x" * MAX_STEP_OUTPUT_BYTES
    shown = view(
        *run_of("run")[:3],
        example(StepFinished, place="1", name="measure", output={"n": 7}),
        example(StepFinished, place="2", name="fetch", output=long),
        example(StepFailed, place="3", name="charge", error_type="OSError", reason="no route"),
    )
    [run] = [stage for stage in shown.stages if stage.stage == "run"]
    assert [(step.output, step.error) for step in run.steps] == [
        ({"n": 7}, None),
        (None, None),
        (None, "OSError: no route"),
    ]
