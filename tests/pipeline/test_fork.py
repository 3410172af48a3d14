"""What a fork takes over of another run."""

from __future__ import annotations

from typing import Any

import pytest

from cascadenced.errors import Conflict, Invalid
from cascadenced.events.child import Planned
from cascadenced.events.run import RunFailed, RunRequested, RunStarted
from cascadenced.events.signal import ContextAttached, ContextConsumed
from cascadenced.events.stage import StageFailed, StageFinished, StageStarted
from cascadenced.events.step import StepFinished
from cascadenced.pipeline.decide import go_on
from cascadenced.pipeline.fork import inherited
from cascadenced.pipeline.model import fold
from tests.examples import AT_US, OTHER_RUN_ID, example, run_of

ALL = ("intake", "research", "plan", "precheck", "run", "verify")


def stages(events: list[Any]) -> list[str]:
    return [event.stage for event in events]


def test_it_takes_over_the_ends_of_the_stages_before_the_one_it_begins_with():
    taken = inherited(run_of("intake", "plan", "run", "verify"), "run", ALL)
    assert stages(taken) == ["intake", "plan"]
    assert [event.output for event in taken] == ["intake output", "plan output"]
    assert [(event.attempt, event.took_s) for event in taken] == [(0, 0.0), (0, 0.0)]


def test_what_it_takes_over_is_folded_like_any_other_event_and_leads_on_to_the_stage():
    events = run_of("intake", "plan", "run", "verify")
    run = fold([events[0], *inherited(events, "run", ALL), events[1]])
    assert (run.done, run.outputs) == (("intake", "plan"), {"intake": "intake output", "plan": "plan output"})
    [started] = go_on(run, elapsed_s=0)
    assert (started.stage, started.attempt, started.skipped) == ("run", 1, ("precheck",))


def test_from_the_first_stage_on_it_takes_over_nothing():
    assert inherited(run_of("intake", "run"), "intake", ALL) == []


def test_of_a_stage_that_was_tried_several_times_it_takes_over_the_end():
    events = [
        example(RunRequested),
        example(RunStarted, stages=("plan", "run")),
        example(StageStarted, stage="plan"),
        example(StageFailed, stage="plan", fatal=False, retry_at_us=AT_US),
        example(StageStarted, stage="plan", attempt=2),
        example(StepFinished, stage="plan"),
        example(StageFinished, stage="plan", attempt=2),
        example(StageStarted),
        example(StageFailed),
        example(RunFailed),
    ]
    assert [type(event) for event in inherited(events, "run", ALL)] == [StageFinished]


def test_research_that_failed_stays_failed():
    [taken] = inherited(run_of("research", "run", fails="research"), "run", ALL)
    assert (type(taken), taken.stage, taken.fatal) == (StageFailed, "research", False)


def test_it_is_told_what_the_run_was_told_by_then():
    early, late = example(ContextAttached, payload="early"), example(ContextAttached, payload="late")
    plan = [example(StageStarted, stage="plan"), early, example(StageFinished, stage="plan")]
    consumed = example(ContextConsumed, stage="run", shown=(None,))
    begun = [example(RunRequested), example(RunStarted, stages=("plan", "run"))]
    taken = inherited([*begun, *plan, consumed, example(StageStarted), late, example(StageFailed)], "run", ALL)
    assert [type(event) for event in taken] == [ContextAttached, StageFinished]
    [told, started] = go_on(fold([*begun, *taken]), elapsed_s=0)
    assert (type(told), told.stage, started.stage) == (ContextConsumed, "run", "run")


def test_a_fork_can_be_forked():
    events = run_of("intake", "plan", "run", "verify")
    fork = [
        example(RunRequested, forked_from=OTHER_RUN_ID),
        *inherited(events, "verify", ALL),
        example(RunStarted, stages=("intake", "plan", "run", "verify")),
        example(StageStarted, stage="verify"),
    ]
    assert stages(inherited(fork, "run", ALL)) == ["intake", "plan"]
    assert stages(inherited(fork, "verify", ALL)) == ["intake", "plan", "run"]


def test_there_are_no_other_stages_than_the_six():
    with pytest.raises(Invalid, match="there is no stage 'runn': the stages are intake, research, plan, precheck, run"):
        inherited(run_of("run"), "runn", ALL)


def test_a_stage_that_the_run_never_came_to_is_refused_with_those_it_did():
    with pytest.raises(Conflict, match="the run never came to the stage verify: it came to plan, run"):
        inherited(run_of("plan", "run", "verify", fails="run"), "verify", ALL)
    with pytest.raises(Conflict, match="it came to no stage at all"):
        inherited([example(RunRequested)], "run", ALL)


def test_a_stage_that_the_task_has_no_more_is_refused():
    with pytest.raises(Conflict, match=r"the task has no verify\(\) any more: fork from one of plan, run"):
        inherited(run_of("plan", "run", "verify"), "verify", ("plan", "run"))


def test_the_runs_of_a_plan_are_performed_where_the_task_has_no_run_of_its_own():
    events = run_of("plan", "run")
    events[3] = example(StageFinished, stage="plan", output=None, children=(Planned("a", "A"),))
    [taken] = inherited(events, "run", ("plan",))
    assert taken.children == (Planned("a", "A"),)


def test_a_run_of_a_plan_is_not_forked_by_itself():
    with pytest.raises(Conflict, match="the run was asked for by the plan of p1: fork that one"):
        inherited([example(RunRequested, parent_run_id="p1"), *run_of("run")[1:]], "run", ALL)
