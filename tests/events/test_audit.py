"""The rows of whole runs, as people knew them from the predecessor."""

from __future__ import annotations

import pytest

from cascadenced.events.audit import audit_rows, stage_rows
from cascadenced.events.base import Event
from cascadenced.events.content import MAX_SHOWN_CHARS
from cascadenced.events.pointer import PointerAdded
from cascadenced.events.run import RunFailed, RunFinished, RunRefused, RunRequested
from cascadenced.events.schedule import (
    CalendarUnread,
    SchedulePaused,
    ScheduleRemoved,
    ScheduleResumed,
    ScheduleSet,
    TicksPassed,
)
from cascadenced.events.stage import StageFailed, StageFinished, StageInterrupted, StageStarted
from cascadenced.events.task import TaskDisabled, TaskEnabled, TaskPaused, TaskResumed
from tests.examples import STAGES, every_event, example, run_of


def audit(events: list[Event]) -> list[tuple[str, str]]:
    return [(row.stage, row.status) for event in events for row in audit_rows(event)]


def stages(events: list[Event]) -> list[str]:
    return [row.stage for event in events for row in stage_rows(event)]


PASSED = {
    stage: [(stage, "started"), (stage, "success")] for stage in ("intake", "research", "plan", "precheck", "verify")
}
EXECUTED = [("execute", "started"), ("execute", "success")]
NO_RESEARCH = [("research", "started"), ("research", "skipped")]


# ---- a run that ends well


def test_a_task_with_all_hooks_is_audited_stage_by_stage():
    assert audit(run_of(*STAGES)) == [
        *PASSED["intake"],
        *PASSED["research"],
        *PASSED["plan"],
        ("execute", "started"),
        *PASSED["precheck"],
        ("execute", "success"),
        *PASSED["verify"],
    ]


def test_a_task_with_all_hooks_passes_all_stages_in_order():
    assert stages(run_of(*STAGES)) == ["intake", "research", "plan", "precheck", "run", "verify"]


def test_a_task_with_only_run_is_audited_at_every_stage_but_precheck():
    assert audit(run_of("run")) == [*PASSED["intake"], *NO_RESEARCH, *PASSED["plan"], *EXECUTED, *PASSED["verify"]]


def test_a_task_with_only_run_passes_intake_research_plan_run_verify():
    assert stages(run_of("run")) == ["intake", "research", "plan", "run", "verify"]


def test_a_task_with_precheck_and_run_leaves_twelve_audit_rows():
    assert audit(run_of("precheck", "run")) == [
        *PASSED["intake"],
        *NO_RESEARCH,
        *PASSED["plan"],
        ("execute", "started"),
        *PASSED["precheck"],
        ("execute", "success"),
        *PASSED["verify"],
    ]
    assert len(audit(run_of("precheck", "run"))) == 12


def test_a_precheck_sits_between_plan_and_run():
    assert stages(run_of("precheck", "run")) == ["intake", "research", "plan", "precheck", "run", "verify"]


def test_a_missing_verify_is_passed_all_the_same():
    assert audit(run_of("intake", "research", "plan", "run"))[-2:] == PASSED["verify"]


def test_research_without_a_hook_is_skipped_and_never_a_success():
    assert [row for row in audit(run_of("intake", "run")) if row[0] == "research"] == NO_RESEARCH


@pytest.mark.parametrize("hooks", [("run",), ("precheck", "run"), ("intake", "run", "verify"), STAGES])
def test_execute_opens_and_closes_exactly_once(hooks: tuple[str, ...]):
    assert [row for row in audit(run_of(*hooks)) if row[0] == "execute"] == EXECUTED


def test_a_task_whose_plan_does_the_work_does_not_pass_a_precheck():
    finished = example(RunFinished, skipped=("precheck", "verify"))
    assert stages([finished]) == ["verify"]
    assert audit([finished]) == PASSED["verify"]


def test_rows_tell_whether_the_task_has_code_for_the_stage():
    rows = [row for event in run_of("plan", "run") for row in audit_rows(event)]
    assert {row.stage for row in rows if row.own} == {"plan", "execute"}
    rows_ = [row for event in run_of("plan", "run") for row in stage_rows(event)]
    assert {row.stage for row in rows_ if row.own} == {"plan", "run"}


def test_every_row_names_the_task():
    events = run_of(*STAGES, task="shop", via="cli")
    assert {row.task for event in events for row in [*audit_rows(event), *stage_rows(event)]} == {"shop"}


# ---- a run that fails


@pytest.mark.parametrize("stage", ["intake", "plan", "verify"])
def test_a_failing_stage_is_passed_and_audited_as_error(stage: str):
    events = run_of(*STAGES, fails=stage)
    assert audit(events)[-2:] == [(stage, "started"), (stage, "error")]
    assert stages(events)[-1] == stage


def test_a_failing_precheck_leaves_one_error_of_its_own_and_one_of_execute():
    assert audit(run_of("precheck", "run", fails="precheck"))[-4:] == [
        ("execute", "started"),
        ("precheck", "started"),
        ("precheck", "error"),
        ("execute", "error"),
    ]


def test_a_failing_precheck_is_a_stage_row_and_run_is_not():
    assert stages(run_of("precheck", "run", fails="precheck")) == ["intake", "research", "plan", "precheck"]


def test_a_failing_run_is_execute_error_without_a_stage_row():
    events = run_of("run", fails="run")
    assert audit(events)[-2:] == [("execute", "started"), ("execute", "error")]
    assert stages(events) == ["intake", "research", "plan"]


def test_failing_research_does_not_end_the_run():
    events = run_of("research", "run", fails="research")
    assert audit(events) == [
        *PASSED["intake"],
        ("research", "started"),
        ("research", "error"),
        *PASSED["plan"],
        *EXECUTED,
        *PASSED["verify"],
    ]
    assert stages(events) == ["intake", "research", "plan", "run", "verify"]


def test_stages_after_the_failing_one_leave_no_rows():
    assert stages(run_of("plan", "run", "verify", fails="plan")) == ["intake", "research", "plan"]


def test_an_error_row_has_the_reason():
    assert [row.reason for row in audit_rows(example(StageFailed, stage="run", reason="boom"))] == ["boom"]


def test_a_failing_prechecks_reason_is_that_of_execute_too():
    rows = audit_rows(example(StageFailed, stage="precheck", reason="not today"))
    assert [(row.stage, row.reason) for row in rows] == [("precheck", "not today"), ("execute", "not today")]


def test_what_failing_code_left_is_shown_and_kept():
    (row,) = audit_rows(example(StageFailed, stage="plan", partial={"done": [1]}))
    assert (row.output, row.partial) == ("{'done': [1]}", {"done": [1]})


def test_without_anything_left_there_is_no_output():
    (row,) = audit_rows(example(StageFailed, stage="plan", partial=None))
    assert (row.output, row.partial) == (None, None)


def test_a_run_that_fails_between_stages_is_an_error_of_its_own():
    assert audit([example(RunFailed, stage=None)]) == [("run", "error")]


def test_a_run_that_fails_in_a_stage_adds_nothing_to_the_stages_rows():
    assert audit([example(RunFailed, stage="run")]) == []


def test_a_run_that_kills_the_process_again_and_again_ends_the_stage_it_died_in():
    assert audit([example(RunFailed, stage="run", error_type="crash_loop")]) == [("execute", "error")]


def test_a_refused_run_is_an_error_with_its_reason():
    (row,) = audit_rows(example(RunRefused, reason="example is disabled"))
    assert (row.stage, row.status, row.reason) == ("run", "error", "example is disabled")


# ---- a run that goes on after a restart


def test_a_stage_that_starts_again_does_not_skip_its_predecessors_again():
    again = example(StageStarted, stage="plan", attempt=2, skipped=("intake", "research"))
    assert audit([again]) == [("plan", "started")]
    assert stages([again]) == []


def test_an_interruption_leaves_no_row():
    assert audit([example(StageInterrupted)]) == []


# ---- outputs


def test_a_success_row_shows_the_outputs_repr():
    (row,) = audit_rows(example(StageFinished, output={"sum": 3}, shown=None))
    assert row.output == "{'sum': 3}"


@pytest.mark.parametrize("output", [0, False, "", []])
def test_an_output_that_is_nearly_nothing_is_shown(output: object):
    (row,) = audit_rows(example(StageFinished, output=output))
    assert row.output == repr(output)


def test_no_output_is_shown_for_none():
    (row,) = audit_rows(example(StageFinished, output=None))
    assert row.output is None


def test_redacted_display_text_wins_over_the_repr():
    (row,) = audit_rows(example(StageFinished, output="alice", shown="'2bd8…'"))
    assert row.output == "'2bd8…'"


def test_redacted_display_text_wins_over_the_partial_repr():
    (row,) = audit_rows(example(StageFailed, partial="alice", shown="'2bd8…'"))
    assert row.output == "'2bd8…'"


def test_a_long_output_is_cut():
    (row,) = audit_rows(example(StageFinished, output="x" * 10_000))
    assert len(row.output or "") == MAX_SHOWN_CHARS


# ---- the command line


def test_a_run_from_the_command_line_is_framed_by_start_and_finish():
    assert stages(run_of("run", via="cli")) == ["start", "intake", "research", "plan", "run", "verify", "finish"]


def test_a_failing_run_from_the_command_line_is_framed_by_start_and_error():
    assert stages(run_of("run", via="cli", fails="run")) == ["start", "intake", "research", "plan", "error"]


def test_a_refused_run_from_the_command_line_is_framed_by_start_and_error():
    assert stages([example(RunRequested, via="cli"), example(RunRefused, via="cli")]) == ["start", "error"]


@pytest.mark.parametrize("via", ["bus", "http", "python", "followup", "workflow"])
def test_other_runs_are_not_framed(via: str):
    assert not {"start", "finish", "error"} & set(stages(run_of("run", via=via)))


# ---- tasks and pointers


@pytest.mark.parametrize(
    ("kind", "status"),
    [(TaskEnabled, "enabled"), (TaskDisabled, "disabled"), (TaskPaused, "paused"), (TaskResumed, "resumed")],
)
def test_a_switch_of_a_task_is_audited_at_the_scheduler(kind: type[Event], status: str):
    assert audit([example(kind)]) == [("scheduler", status)]


def test_a_pointer_from_the_bus_is_audited():
    assert audit([example(PointerAdded, via="bus")]) == [("pointer_sync", "success")]


@pytest.mark.parametrize("via", ["cli", "http", "python"])
def test_a_pointer_from_elsewhere_is_not(via: str):
    assert audit([example(PointerAdded, via=via)]) == []


@pytest.mark.parametrize(
    ("kind", "row"),
    [
        (ScheduleSet, ("schedule", "success")),
        (SchedulePaused, ("schedule", "paused")),
        (ScheduleResumed, ("schedule", "resumed")),
        (ScheduleRemoved, ("unschedule", "success")),
        (TicksPassed, ("schedule", "skipped")),
        (CalendarUnread, ("schedule", "error")),
    ],
)
def test_what_becomes_of_a_schedule_is_audited(kind: type[Event], row: tuple[str, str]):
    assert audit([example(kind)]) == [row]


def test_the_row_of_instants_that_passed_says_why():
    (row,) = audit_rows(example(TicksPassed, verdict="suppressed", code="paused"))
    assert (row.status, row.reason) == ("suppressed", "paused")


def test_a_schedule_that_is_removed_leaves_a_stage_row():
    assert stages([example(ScheduleRemoved)]) == ["unschedule"]


def test_every_other_event_leaves_no_rows():
    with_rows = {"run", "stage", "task", "pointer", "context", "schedule"}
    with_rows |= {"tick.passed", "calendar.unread"}
    for event in every_event():
        tag = str(event.__struct_config__.tag)
        if tag not in with_rows and tag.split(".")[0] not in with_rows:
            assert (list(audit_rows(event)), list(stage_rows(event))) == ([], [])
