"""Where two runs differ."""

from __future__ import annotations

from typing import Any

from msgspec import UNSET

from cascadenced.events.base import Event
from cascadenced.events.child import ChildEnded, ChildRequested, Planned
from cascadenced.events.run import RunCancelled, RunFinished, RunRequested, RunStarted
from cascadenced.events.signal import ContextAttached
from cascadenced.events.stage import StageFailed, StageFinished, StageStarted
from cascadenced.events.step import StepFailed, StepFinished
from cascadenced.events.wait import WaitEnded, WaitStarted
from cascadenced.pipeline.run_diff import MAX_DIFFERENCES, RunDiff, diff
from tests.examples import AT_US, OTHER_RUN_ID, RUN_ID, example, recorded, run_of

BEGUN = (example(RunRequested), example(RunStarted), example(StageStarted))


def stream(events: Any, run_id: str) -> list[Any]:
    return [recorded(event, position=n, version=n, run_id=run_id, at_us=AT_US + n) for n, event in enumerate(events, 1)]


def compared(left: Any, right: Any, **options: Any) -> RunDiff:
    return diff(stream(left, RUN_ID), stream(right, OTHER_RUN_ID), **options)


def found(left: Any, right: Any) -> list[Any]:
    return [
        (d.stage, d.what, d.path, d.left, d.right)
        if not d.place
        else (d.stage, f"{d.place} {d.what}", d.path, d.left, d.right)
        for d in compared(left, right).differences
    ]


def ended(*events: Event) -> list[Event]:
    return [*BEGUN, *events, example(StageFinished), example(RunFinished)]


def test_runs_that_did_the_same_are_the_same_whenever_and_however_long():
    right = run_of("plan", "run")
    right[3] = example(StageFinished, stage="plan", output="plan output", took_s=99.0)
    compared_ = compared(run_of("plan", "run"), right)
    assert (compared_.same, compared_.differences, compared_.times) == (True, [], [])
    assert (compared_.left.run_id, compared_.right.run_id, compared_.left.status) == (RUN_ID, OTHER_RUN_ID, "success")


def test_arguments_and_outputs_are_compared_by_their_paths():
    left = [example(RunRequested, args={"n": 1, "deep": [{"a": 1}]}), *ended()[1:]]
    right = [example(RunRequested, args={"n": 2, "deep": [{"a": 1}, 3]}), *ended()[1:-2]]
    right += [example(StageFinished, output={"sum": 4}), example(RunFinished)]
    assert found(left, right) == [
        (None, "args", ".n", 1, 2),
        (None, "args", ".deep[1]", UNSET, 3),
        ("run", "output", ".sum", 3, 4),
        (None, "result", ".sum", 3, 4),
    ]


def test_attempts_ends_and_errors_are_compared():
    failed = run_of("run", fails="run")
    assert found(ended(), failed) == [
        ("run", "status", "", "success", "error"),
        ("run", "output", "", {"sum": 3}, UNSET),
        ("run", "error", "", UNSET, "ValueError: boom"),
        (None, "status", "", "success", "error"),
        (None, "result", "", {"sum": 3}, UNSET),
        (None, "error", "", UNSET, {"type": "ValueError", "message": "boom"}),
    ]
    retried = ended(
        example(StageFailed, fatal=False, retry_at_us=AT_US, partial=None), example(StageStarted, attempt=2)
    )
    assert found(ended(), retried) == [("run", "attempts", "", 1, 2)]


def test_steps_and_waits_are_compared_by_their_places():
    left = ended(
        example(StepFinished, place="1", name="a", output=1),
        example(StepFinished, place="2", name="b"),
        example(WaitStarted, place="3"),
        example(WaitEnded, place="3"),
        example(StepFinished, place="4", name="d"),
    )
    right = ended(
        example(StepFinished, place="1", name="a", output=2),
        example(StepFailed, place="2", name="b"),
        example(WaitStarted, place="3", where={"number": 8}),
        example(WaitEnded, place="3", outcome="timeout", payload=None),
        example(StepFinished, place="4", name="e"),
        example(StepFinished, place="5", name="f"),
    )
    assert found(left, right) == [
        ("run", "1 output", "", 1, 2),
        ("run", "2 outcome", "", "success", "error"),
        ("run", "2 output", "", 7, "ValueError: boom"),
        ("run", "3 where", ".number", 7, 8),
        ("run", "3 outcome", "", "success", "timeout"),
        ("run", "3 output", "", {"number": 7}, UNSET),
        ("run", "4 asked", "", "step d", "step e"),
        ("run", "5 asked", "", UNSET, "step f"),
    ]


def test_plans_and_how_their_runs_went_are_compared():
    def planned(*names: str, status: str = "success") -> list[Event]:
        children = tuple(Planned(name, name.title()) for name in names)
        return [
            example(RunRequested),
            example(RunStarted, stages=("plan", "run")),
            example(StageStarted, stage="plan"),
            example(StageFinished, stage="plan", output=None, children=children),
            example(StageStarted),
            example(ChildRequested),
            example(ChildEnded, status=status),
        ]

    assert found(planned("a"), planned("a", "b")) == [
        ("plan", "plan", "[1]", UNSET, "b (B)"),
        ("run", "child", "[1]", UNSET, {"task": "b", "status": None}),
    ]
    assert found(planned("a"), planned("a", status="error")) == [("run", "child", "[0].status", "success", "error")]


def test_what_they_were_told_and_stages_that_were_not_reached_are_compared():
    assert found(BEGUN, [*BEGUN, example(ContextAttached)]) == [(None, "told", "[0]", UNSET, {"note": "by Friday"})]
    assert ("run", "status", "", "started", "not reached") in found(BEGUN, BEGUN[:1])
    assert ("run", "status", "", "started", "started") not in found(BEGUN, [*BEGUN, example(RunCancelled)])


def test_how_long_it_took_is_told_if_asked_and_is_no_difference():
    left = ended()
    right = [*BEGUN, example(StageFinished, took_s=9.0), example(RunFinished, took_s=10.0)]
    compared_ = compared(left, right, times=True)
    assert compared_.same
    assert [(each.stage, each.left_s, each.right_s) for each in compared_.times] == [
        ("run", 0.25, 9.0),
        (None, 1.5, 10.0),
    ]


def test_differences_beyond_the_bound_are_left_out_and_said_to_be():
    left = [example(RunRequested, args={"n": list(range(2 * MAX_DIFFERENCES))}), *BEGUN[1:]]
    compared_ = compared(left, [example(RunRequested, args={"n": []}), *BEGUN[1:]])
    assert (len(compared_.differences), compared_.has_more) == (MAX_DIFFERENCES, True)
