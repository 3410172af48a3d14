"""What may be asked of a run in which state, and what is recorded of it."""

from __future__ import annotations

import pytest

from cascadenced.errors import Conflict, Invalid
from cascadenced.events.base import Event
from cascadenced.events.child import Planned
from cascadenced.events.run import (
    RunCancelled,
    RunDoubted,
    RunFailed,
    RunFinished,
    RunHeld,
    RunPaused,
    RunRefused,
    RunRequested,
    RunResolved,
    RunResumed,
    RunStarted,
)
from cascadenced.events.signal import ContextAttached, ContextConsumed
from cascadenced.events.stage import StageFailed, StageFinished, StageStarted
from cascadenced.events.step import StepFinished, StepStarted
from cascadenced.events.wait import WaitStarted
from cascadenced.pipeline.control import (
    MAX_CONTEXTS,
    abandon,
    attach,
    cancel,
    decide_resolution,
    is_consumed_at_once,
    is_unwanted,
    pause,
    unpause,
)
from cascadenced.pipeline.model import Child, Run, fold
from cascadenced.pipeline.policy import Policy
from cascadenced.pipeline.resume import resume
from tests.examples import example

QUEUED = (example(RunRequested),)
STARTED = (*QUEUED, example(RunStarted, stages=("plan", "run", "verify")))
PLANNING = (*STARTED, example(StageStarted, stage="plan"))
BETWEEN = (*PLANNING, example(RunPaused), example(StageFinished, stage="plan"))
RUNNING = (*PLANNING, example(StageFinished, stage="plan"), example(StageStarted, stage="run"))
STATES: dict[str, tuple[Event, ...]] = {
    "queued": QUEUED,
    "running": RUNNING,
    "paused while a stage is under way": (*RUNNING, example(RunPaused)),
    "paused between stages": BETWEEN,
    "asleep": (*RUNNING, example(WaitStarted, stage="run", kind="sleep", name="")),
    "waiting for an event": (*RUNNING, example(WaitStarted, stage="run", kind="event")),
    "waiting for its children": (*RUNNING, example(WaitStarted, stage="run", kind="children", place="")),
    "waiting for another attempt": (*RUNNING, example(StageFailed, stage="run", fatal=False, retry_at_us=1)),
    "held": (*RUNNING, example(RunHeld)),
    "in doubt": (*RUNNING, example(RunDoubted, stage="run")),
}
ENDS: dict[str, tuple[Event, ...]] = {
    "success": (*RUNNING, example(StageFinished), example(RunFinished)),
    "error": (*RUNNING, example(RunFailed)),
    "cancelled": (*RUNNING, example(RunCancelled)),
    "refused": (*QUEUED, example(RunRefused)),
}

in_any_state = pytest.mark.parametrize("events", STATES.values(), ids=STATES)
at_its_end = pytest.mark.parametrize(("status", "events"), ENDS.items(), ids=ENDS)


def told(run: Run, payload: object = "x") -> list[Event]:
    return attach(run, payload, via="cli", by=None, shown=None)  # type: ignore[arg-type]


# ── at the end ───────────────────────────────────────────────────────────────────────────────────────────────────────


@at_its_end
@pytest.mark.parametrize(
    ("ask", "word"),
    [
        (lambda run: pause(run, by=None), "paused"),
        (lambda run: unpause(run, by=None), "resumed"),
        (lambda run: cancel(run, via="cli", by=None, reason="", elapsed_s=0), "cancelled"),
        (told, "signalled"),
    ],
    ids=["pause", "resume", "cancel", "signal"],
)
def test_a_run_that_has_ended_cannot_be_asked_for_anything_any_more(status, events, ask, word):
    with pytest.raises(
        Conflict, match=rf"^the run has ended \({status}\): it cannot be {word} any more; to do it"
    ) as caught:
        ask(fold(events))
    assert caught.value.code == "run_ended"


# ── pause and resume ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "events", [e for name, e in STATES.items() if "paused" not in name], ids=[n for n in STATES if "paused" not in n]
)
def test_a_run_in_any_state_can_be_paused_and_shows_it(events):
    paused = pause(fold(events), by="b0b")
    assert paused == [RunPaused(task="example", by="b0b")]
    assert fold([*events, *paused]).shown_status == "paused"


def test_pausing_twice_is_one_pause():
    assert pause(fold(BETWEEN), by=None) == []


@in_any_state
def test_a_pause_that_is_over_leaves_the_run_as_it_was(events):
    before = fold(events)
    if not before.paused:
        assert fold([*events, example(RunPaused), example(RunResumed)]) == before


@pytest.mark.parametrize("name", [name for name in STATES if "paused" not in name])
def test_a_run_that_is_not_paused_cannot_be_resumed(name):
    run = fold(STATES[name])
    with pytest.raises(Conflict, match=f"^the run is {run.status}, not paused: there is nothing to resume$") as caught:
        unpause(run, by=None)
    assert caught.value.code == "not_paused"


def test_a_paused_run_can_be_resumed():
    assert unpause(fold(BETWEEN), by="b0b") == [RunResumed(task="example", by="b0b")]


# ── cancel ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@in_any_state
def test_a_run_in_any_state_can_be_cancelled_and_that_ends_it(events):
    [cancelled] = cancel(fold(events), via="http", by="b0b", reason="not needed", elapsed_s=2.0)
    run = fold([*events, cancelled])
    assert (run.status, run.shown_status, run.reason, run.current, run.wait, run.in_doubt) == (
        "cancelled", "cancelled", "not needed", None, None, None
    )  # fmt: skip


def test_a_cancellation_names_the_stage_under_way_and_who_asked():
    [cancelled] = cancel(fold(RUNNING), via="http", by="b0b", reason="x", elapsed_s=2.0)
    assert cancelled == RunCancelled(
        task="example", via="http", reason="x", stage="run", by="b0b", took_s=2.0, started=True
    )


def test_a_queued_run_that_is_cancelled_was_never_started():
    [cancelled] = cancel(fold(QUEUED), via="http", by=None, reason="x", elapsed_s=0.0)
    assert isinstance(cancelled, RunCancelled)
    assert (cancelled.started, cancelled.stage) == (False, None)


# ── signal ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@in_any_state
def test_a_run_in_any_state_can_be_told_something(events):
    [attached] = attach(fold(events), {"note": "n"}, via="cli", by="b0b", shown="{'note': 'n'}")
    assert attached == ContextAttached(
        task="example", via="cli", payload={"note": "n"}, shown="{'note': 'n'}", by="b0b"
    )


@pytest.mark.parametrize(
    ("name", "at_once"),
    [
        ("queued", True),
        ("running", False),
        ("paused while a stage is under way", False),
        ("paused between stages", True),
        ("asleep", True),
        ("waiting for an event", True),
        ("waiting for its children", True),
        ("waiting for another attempt", True),
        ("held", True),
        ("in doubt", True),
    ],
)
def test_whoever_tells_it_hears_whether_the_next_stage_is_told_at_once(name, at_once):
    """TC 40–42: false while a stage is executing, true while none is."""
    assert is_consumed_at_once(fold(STATES[name])) is at_once


def test_a_run_is_told_so_many_things_and_no_more():
    run = fold([*RUNNING, *[example(ContextAttached)] * MAX_CONTEXTS])
    with pytest.raises(Conflict, match="told 1000 things already; no more are taken") as caught:
        told(run)
    assert caught.value.code == "too_many_contexts"


# ── a doubt is settled ───────────────────────────────────────────────────────────────────────────────────────────────

DOUBT = (*RUNNING, example(RunDoubted, stage="run", attempt=1, step=None, place=""))
STEP_DOUBT = (*RUNNING, example(StepStarted), example(RunDoubted, stage="run", attempt=1, step="charge", place="2"))


def settled(events: tuple[Event, ...], resolution: str, output: object = None) -> list[Event]:
    return decide_resolution(fold(events), resolution, by="b0b", output=output, elapsed_s=3.0)  # type: ignore[arg-type]


def gone_on(events: tuple[Event, ...]) -> list[Event]:
    """What is recorded when the run is driven again: its effects must not happen twice."""
    return resume(fold(events), Policy(delivery="at_most_once"), code="c0de", elapsed_s=3.0, now_us=0)


@pytest.mark.parametrize("resolution", ["", "shrug", "RETRY", "done "])
def test_a_doubt_is_settled_in_one_of_three_ways(resolution):
    with pytest.raises(Invalid, match="^a doubt is resolved by retry, done, fail, not "):
        settled(DOUBT, resolution)


@pytest.mark.parametrize("events", [*(e for n, e in STATES.items() if n != "in doubt"), *ENDS.values()])
def test_there_is_nothing_to_settle_in_a_run_that_is_not_in_doubt(events):
    with pytest.raises(Conflict, match="not in doubt: there is nothing to resolve") as caught:
        settled(events, "retry")
    assert caught.value.code == "not_in_doubt"


def test_retry_leaves_it_to_whoever_drives_the_run_to_start_the_stage_once_more():
    assert settled(DOUBT, "retry") == [RunResolved(task="example", verdict="retry", by="b0b")]
    [started] = gone_on((*DOUBT, *settled(DOUBT, "retry")))
    assert isinstance(started, StageStarted)
    assert (started.stage, started.attempt) == ("run", 2)


def test_done_takes_the_output_for_the_stages_own_and_goes_on():
    resolved, finished = settled(DOUBT, "done", {"n": 1})
    assert resolved == RunResolved(task="example", verdict="done", by="b0b", output={"n": 1})
    assert finished == StageFinished(task="example", stage="run", attempt=1, output={"n": 1})
    [started] = gone_on((*DOUBT, resolved, finished))
    assert isinstance(started, StageStarted)
    assert (started.stage, started.attempt) == ("verify", 1)


def test_done_with_the_last_stage_ends_the_run():
    verifying = (*RUNNING, example(StageFinished, stage="run"), example(StageStarted, stage="verify"))
    events = settled((*verifying, example(RunDoubted, stage="verify", step=None)), "done", 7)
    assert [type(event) for event in events] == [RunResolved, StageFinished, RunFinished]
    assert fold([*verifying, *events]).result == 7


def test_fail_ends_the_run_saying_so():
    resolved, failed = settled(DOUBT, "fail")
    assert isinstance(failed, RunFailed)
    assert (failed.error_type, failed.stage, failed.took_s) == ("in_doubt", "run", 3.0)
    assert failed.reason == "the stage run was in doubt, and is taken for failed"
    assert fold([*DOUBT, resolved, failed]).status == "error"


def test_done_with_a_step_records_its_output_and_performs_the_stage_again():
    resolved, done = settled(STEP_DOUBT, "done", 7)
    [started] = gone_on((*STEP_DOUBT, resolved, done))
    assert done == StepFinished(task="example", stage="run", place="2", name="charge", output=7)
    assert isinstance(started, StageStarted)
    run = fold([*STEP_DOUBT, resolved, done, started])
    assert (run.marks["2"].output, run.open_steps, run.status, run.attempt) == (7, {}, "running", 2)


def test_retry_of_a_step_leaves_its_place_free():
    run = fold([*STEP_DOUBT, *settled(STEP_DOUBT, "retry")])
    assert (dict(run.marks), run.open_steps, run.status) == ({}, {}, "running")


def test_fail_names_the_step():
    _, failed = settled(STEP_DOUBT, "fail")
    assert isinstance(failed, RunFailed)
    assert failed.reason == "the step charge of the stage run was in doubt, and is taken for failed"


def test_what_a_run_was_told_meanwhile_is_told_when_it_goes_on():
    told_meanwhile = (*DOUBT, example(ContextAttached, shown="x"))
    for resolution in ("retry", "done"):
        events = gone_on((*told_meanwhile, *settled(told_meanwhile, resolution)))
        assert [type(event) for event in events] == [ContextConsumed, StageStarted]


def test_a_plan_of_tasks_that_was_in_doubt_is_not_made_up():
    """`done` with a plan records data: nobody can say which task objects it was."""
    planning = (*PLANNING, example(RunDoubted, stage="plan", step=None))
    run = fold([*planning, *settled(planning, "done", ["data"])])
    assert (run.children, run.outputs["plan"], run.done[-1]) == (None, ["data"], "plan")


def test_a_plan_that_nothing_else_is_done_with_cannot_be_taken_for_done():
    planning = (
        example(RunRequested),
        example(RunStarted, stages=("plan", "verify")),
        example(StageStarted, stage="plan"),
        example(RunDoubted, stage="plan", step=None, place=""),
    )
    with pytest.raises(Conflict, match="resolve it by retry or fail") as caught:
        settled(planning, "done", ["data"])
    assert caught.value.code == "plan.unknown"
    assert settled(planning, "retry")
    assert settled(planning, "fail")
    in_a_step = (*planning[:-1], example(StepStarted, stage="plan"), example(RunDoubted, stage="plan", step="charge"))
    assert settled(in_a_step, "done", 7)


def test_a_child_that_is_planned_is_not_asked_for_by_any_of_this():
    planned = example(StageFinished, stage="plan", children=(Planned("part", "Part"),))
    run = fold([*PLANNING, planned, example(StageStarted, stage="run")])
    assert run.children is not None
    assert run.children[0].run_id is None


# ── nobody wants it any more ─────────────────────────────────────────────────────────────────────────────────────────

WHY = "the run that asked for it has ended"


@pytest.mark.parametrize("events", [QUEUED, RUNNING, BETWEEN, STATES["asleep"], STATES["held"]])
def test_a_run_that_nobody_wants_is_cancelled(events):
    [cancelled] = abandon(fold(events), reason=WHY, elapsed_s=1.0)
    assert (type(cancelled), cancelled.via, cancelled.reason, cancelled.by) == (RunCancelled, "plan", WHY, None)


def test_one_that_is_in_doubt_stays_so():
    assert abandon(fold(STATES["in doubt"]), reason=WHY, elapsed_s=1.0) == []


def test_one_whose_effect_is_under_way_is_in_doubt():
    started = example(RunStarted, stages=("run",), on_doubt="ask")
    [doubted] = abandon(fold([*QUEUED, started, example(StageStarted, stage="run")]), reason=WHY, elapsed_s=1.0)
    assert (type(doubted), doubted.reason) == (RunDoubted, f"{WHY} while it was under way")


@pytest.mark.parametrize("resolution", ["retry", "done", "fail"])
def test_however_its_doubt_is_settled_that_is_its_end(resolution):
    events = decide_resolution(fold(DOUBT), resolution, by=None, output=None, elapsed_s=1.0, unwanted=WHY)
    assert [type(event) for event in events] == [
        RunResolved,
        *([StageFinished] if resolution == "done" else []),
        RunCancelled,
    ]
    assert events[-1].reason == f"{WHY}: what was in doubt is settled ({resolution}), and nothing is done again"


@pytest.mark.parametrize(
    ("status", "is_asked", "unwanted"),
    [("waiting", True, False), ("waiting", False, True), ("error", True, True)],
    ids=["its parent goes on", "its parent has asked for another", "its parent has ended"],
)
def test_a_run_is_wanted_as_long_as_its_parent_waits_for_it(status, is_asked, unwanted):
    parent = Run(status=status, children=(Child(Planned("kid", "Kid"), "r-kid" if is_asked else "r-other"),))
    assert is_unwanted("r-kid", parent) is unwanted
