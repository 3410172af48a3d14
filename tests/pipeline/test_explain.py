"""Why a run is as it is: from its events to a sentence, the facts behind it, and what can be done."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from cascadenced.events.base import Event
from cascadenced.events.child import ChildEnded, ChildRequested, Planned
from cascadenced.events.run import (
    RunCancelled,
    RunDoubted,
    RunFailed,
    RunHeld,
    RunPaused,
    RunRefused,
    RunRequested,
    RunResolved,
    RunResumed,
    RunStarted,
)
from cascadenced.events.signal import ContextAttached, ContextConsumed
from cascadenced.events.stage import StageFailed, StageFinished, StageInterrupted, StageLate, StageStarted
from cascadenced.events.step import StepStarted
from cascadenced.events.wait import WaitEnded, WaitStarted
from cascadenced.pipeline.explain import Around, Explanation, Queue, Reason, Required, explain
from cascadenced.pipeline.timeline import timeline
from tests.examples import AT_US, OTHER_HASH, OTHER_RUN_ID, RUN_ID, USER_HASH, every_event, example, recorded, run_of

BEGUN: tuple[Event, ...] = (example(RunRequested), example(RunStarted), example(StageStarted))
UNTIL_US = AT_US + 60_000_000
OTHER = OTHER_HASH[:12]


def story(events: Sequence[Event]) -> list[Any]:
    """One second apart."""
    return [
        recorded(event, position=n + 1, version=n + 1, at_us=AT_US + n * 1_000_000) for n, event in enumerate(events)
    ]


def explained(*events: Event, **around: Any) -> Explanation:
    return explain(story(events), Around(**around))


def why(*events: Event, **around: Any) -> Reason:
    [reason] = explained(*events, **around).reasons
    return reason


# ── it goes on ───────────────────────────────────────────────────────────────────────────────────────────────


def test_a_queued_run_says_how_many_are_ahead_of_it_and_what_the_limit_is():
    reason = why(example(RunRequested), queue=Queue(place=3, n_running=4, limit=4))
    assert reason.code == "queued"
    assert reason.text == (
        "it waits for a free slot: 2 queued runs come before it (place 3), "
        "and 4 of 4 slots (max_concurrent_runs) are taken"
    )
    assert (reason.queue.place, reason.queue.n_running, reason.queue.limit) == (3, 4, 4)


def test_the_first_in_the_queue_has_nobody_before_it():
    text = why(example(RunRequested), queue=Queue(place=1, n_running=1, limit=1)).text
    assert text == (
        "it waits for a free slot: none of those queued comes before it (place 1), "
        "and 1 of 1 slot (max_concurrent_runs) is taken"
    )


def test_a_queued_run_names_its_tasks_own_limit():
    queue = Queue(place=1, n_running=2, limit=100, n_of_task=2, task_limit=2)
    assert "of example, 2 run and 2 may (max_concurrent)" in why(example(RunRequested), queue=queue).text


def test_a_queued_run_without_a_daemon_says_that_one_is_needed():
    reason = why(example(RunRequested), queue=Queue(place=1, n_running=0, limit=100), is_up=False)
    assert "no daemon is up" in reason.text
    assert reason.remedies == ["cascadenced up"]


HELD_BACK = example(RunRequested, requires=("run-of-a", "run-of-b"))


def required(a: str, b: str) -> list[Required]:
    """How these stand."""
    return [Required(run_id="run-of-a", task="a", status=a), Required(run_id="run-of-b", task="b", status=b)]


def test_a_run_that_must_not_start_before_others_names_these_and_how_they_stand():
    reason = why(HELD_BACK, required=required("success", "paused"), queue=Queue(place=1, n_running=1, limit=100))
    assert (reason.code, reason.since, reason.queue) == ("prerequisites", "2026-09-21T14:13:20.123456Z", None)
    assert reason.text == (
        "it starts after the runs that it requires have succeeded, 1 of 2 have: b is paused (run-of-b)"
    )
    assert [(run.task, run.status, run.run_id) for run in reason.required] == [
        ("a", "success", "run-of-a"),
        ("b", "paused", "run-of-b"),
    ]
    assert reason.remedies == ["cascadenced explain run-of-b"]


def test_without_a_daemon_it_waits_for_them_all_the_same():
    reason = why(HELD_BACK, required=required("running", "queued"), is_up=False)
    assert reason.text.endswith("a is running (run-of-a), b is queued (run-of-b); no daemon is up to notice")
    assert reason.remedies == ["cascadenced explain run-of-a", "cascadenced explain run-of-b", "cascadenced up"]


def test_one_of_them_that_has_not_succeeded_and_never_will_is_the_end_of_it():
    reason = why(HELD_BACK, required=required("error", "running"))
    assert reason.text.endswith(
        "a is error (run-of-a), b is running (run-of-b); it is refused, since one has ended otherwise"
    )


def test_one_of_them_that_nobody_knows_of_has_not_succeeded():
    [reason] = explained(HELD_BACK).reasons
    assert (reason.code, reason.required) == ("prerequisites", [])
    assert reason.text == "it starts after the runs that it requires have succeeded, 0 of 2 have"


def test_what_has_them_behind_it_waits_for_a_slot():
    queue = Queue(place=1, n_running=1, limit=1)
    assert why(HELD_BACK, required=required("success", "success"), queue=queue).code == "queued"
    assert why(HELD_BACK, example(RunStarted), required=required("success", "success")).code == "between_stages"


def test_a_paused_run_that_must_not_start_before_others_says_both():
    paused, waiting = explained(HELD_BACK, example(RunPaused), required=required("running", "success")).reasons
    assert (paused.code, waiting.code) == ("paused", "prerequisites")


def test_a_running_run_names_the_stage_and_the_attempt():
    reason = why(*BEGUN)
    assert (reason.code, reason.text) == ("running", "the stage run is under way (attempt 1)")
    assert reason.since == "2026-09-21T14:13:22.123456Z"


def test_a_running_run_says_how_often_the_process_died_meanwhile():
    reason = why(*BEGUN, example(StageStarted, attempt=2), example(StageStarted, attempt=3))
    assert "the process died 2 times in a row while it was: after 5 it is given up" in reason.text


def test_an_interrupted_run_goes_on_with_the_next_start():
    reason = why(*BEGUN, example(StageInterrupted), is_up=False)
    assert reason.code == "interrupted"
    assert "the daemon stopped in good order while the stage run was under way" in reason.text
    assert reason.remedies == ["cascadenced up"]
    assert "stopped or died" in why(*BEGUN, is_up=False).text


def test_a_stage_of_an_earlier_life_waits_for_a_slot_after_the_start():
    reason = why(*BEGUN, epoch=2)
    assert (reason.code, reason.remedies) == ("interrupted", [])
    assert reason.text.startswith("the daemon stopped or died while the stage run was under way")
    assert reason.text.endswith("it goes on with it as soon as there is a free slot")


@pytest.mark.parametrize("around", [{"epoch": 2}, {"is_up": False}])
@pytest.mark.parametrize("how", ["died", "stopped", "stopped and was paused then"])
def test_a_paused_run_whose_stage_a_crash_or_a_stop_cut_off_goes_on_with_it_when_it_is_resumed(
    around: dict[str, Any], how: str
):
    pause, stop = example(RunPaused), example(StageInterrupted)
    after = {"died": [pause], "stopped": [pause, stop], "stopped and was paused then": [stop, pause]}[how]
    paused, interrupted = explained(*BEGUN, *after, **around).reasons
    assert "may end" not in paused.text
    assert interrupted.code == "interrupted"
    assert ("in good order" in interrupted.text) is (how != "died")
    assert interrupted.text.endswith("it goes on with it when it is resumed")


def of_once(*events: Event, on_doubt: str) -> tuple[Event, ...]:
    """The same of a task whose effects must not happen twice."""
    return tuple(replace(event, on_doubt=on_doubt) if type(event) is RunStarted else event for event in events)


@pytest.mark.parametrize("paused", [(), (example(RunPaused),)], ids=["", "paused"])
def test_an_effect_that_was_cut_off_is_asked_about_by_the_next_start(paused):
    charging = of_once(*BEGUN, example(StepStarted, stage="run", place="2", name="charge"), *paused, on_doubt="ask")
    reason = explained(*charging, is_up=False).reasons[-1]
    assert reason.code == "interrupted"
    assert reason.text.endswith(
        "it may have taken effect and must not do so twice: at the next start somebody is asked what became of it"
    )
    assert (reason.effect.stage, reason.effect.step, reason.effect.place) == ("run", "charge", "2")


@pytest.mark.parametrize(
    ("on_doubt", "follows"), [("fail", "it is taken for failed "), ("retry", "it goes on with it ")]
)
def test_of_an_effect_that_was_cut_off_it_is_said_what_its_policy_makes_of_it(on_doubt, follows):
    reason = why(*of_once(*BEGUN, on_doubt=on_doubt), is_up=False)
    assert reason.text.endswith(f"{follows}at the next start")
    paused, reason = explained(*of_once(*BEGUN, example(RunPaused), on_doubt=on_doubt), epoch=2).reasons
    assert reason.text.endswith(f"{follows}when it is resumed")
    assert (paused.code, reason.effect) == ("paused", None)


def test_a_stage_that_goes_on_in_this_life_after_a_wait_is_under_way():
    events = story([*BEGUN, example(WaitStarted), example(WaitEnded)])
    [reason] = explain([*events[:-1], replace(events[-1], epoch=2)], Around(epoch=2)).reasons
    assert reason.code == "running"


def test_a_held_run_that_is_paused_over_a_start_is_looked_at_when_it_is_resumed():
    held = (*BEGUN, example(RunHeld, code="task_missing", reason="Unknown task: example"))
    _, reason = explained(*held, example(RunPaused), epoch=2).reasons
    assert "seen when it is resumed: Unknown task: example" in reason.text
    assert reason.remedies == [f"cascadenced cancel {RUN_ID} --user-id ID --group-id ID"]
    assert "until a restart" in why(*held, epoch=2).text  # of one that is not paused that start has looked


def test_a_run_between_two_stages_says_so():
    reason = why(*BEGUN, example(StageFinished), is_up=False)
    assert (reason.code, reason.text) == (
        "between_stages",
        "the stage run has ended and the next one has not begun: the next start of the daemon goes on with it",
    )


# ── it waits ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_sleeping_run_says_until_when():
    reason = why(*BEGUN, WaitStarted(task="example", stage="run", place="2", kind="sleep", until_us=UNTIL_US))
    assert (reason.code, reason.text) == ("sleep", "the stage run sleeps until 2026-09-21 14:14:20Z (place 2)")
    assert reason.until == "2026-09-21T14:14:20.123456Z"


def test_a_run_that_waits_for_an_event_names_it_with_what_it_must_hold_and_how_to_send_it():
    reason = why(*BEGUN, example(WaitStarted, until_us=UNTIL_US))
    assert reason.text == (
        'the stage run waits for the event invoice.paid with {"number":7} of its group, '
        "until 2026-09-21 14:14:20Z at most (place 3)"
    )
    assert (reason.event, reason.where) == ("invoice.paid", {"number": 7})
    assert reason.remedies == ["cascadenced dispatch invoice.paid '{\"number\":7}' --user-id ID --group-id ID"]


def test_a_run_that_waits_without_a_limit_says_so():
    assert "as long as it takes" in why(*BEGUN, example(WaitStarted, until_us=None)).text


def test_what_is_over_waits_for_a_free_slot():
    sleep = WaitStarted(task="example", stage="run", place="2", kind="sleep", until_us=UNTIL_US)
    failed = example(StageFailed, fatal=False, retry_at_us=UNTIL_US)
    for wait in (sleep, failed, example(WaitStarted, until_us=UNTIL_US)):
        assert not why(*BEGUN, wait, now_us=UNTIL_US - 1).is_over
        reason = why(*BEGUN, wait, now_us=UNTIL_US)
        assert reason.is_over
        assert reason.text.endswith("; that is over, and it goes on as soon as there is a free slot")
    reason = why(*BEGUN, example(WaitStarted, until_us=None), came_at=12)
    assert (reason.is_over, reason.remedies) == (True, [])
    assert "it came (position 12)" in reason.text


def test_a_waiting_run_without_a_daemon_says_that_nobody_notices():
    reason = why(*BEGUN, example(WaitStarted), is_up=False)
    assert "no daemon is up to notice" in reason.text
    assert reason.remedies[-1] == "cascadenced up"


PLANNED: tuple[Event, ...] = (
    example(RunRequested),
    example(RunStarted, stages=("plan",)),
    example(StageStarted, stage="plan"),
    example(
        StageFinished, stage="plan", output=None, children=(Planned("a", "A"), Planned("b", "B"), Planned("c", "C"))
    ),
    example(StageStarted),
    example(ChildRequested, index=0, child_task="a", child_run_id="run-of-a"),
    WaitStarted(task="example", stage="run", place="", kind="children"),
)


def test_a_run_that_waits_for_its_children_tells_how_each_stands():
    events = (
        *PLANNED,
        example(ChildEnded, index=0, child_run_id="run-of-a"),
        example(ChildRequested, index=1, child_task="b", child_run_id="run-of-b"),
    )
    reason = why(*events, statuses={"run-of-b": "in_doubt"})
    assert [(child.task, child.status, child.run_id) for child in reason.children] == [
        ("a", "success", "run-of-a"),
        ("b", "in_doubt", "run-of-b"),
        ("c", "not asked", None),
    ]
    assert "1 of 3 have ended well: b is in_doubt (run-of-b), c is not asked" in reason.text
    assert reason.remedies == ["cascadenced explain run-of-b"]


def test_a_run_that_is_tried_again_names_the_failure_the_attempt_and_the_time():
    reason = why(*BEGUN, example(StageFailed, fatal=False, retry_at_us=UNTIL_US), max_attempts={"run": 5})
    assert reason.text == (
        "the stage run failed (ValueError: boom) and is tried again at 2026-09-21 14:14:20Z: attempt 2 of 5"
    )
    assert (reason.code, reason.attempt, reason.max_attempts) == ("retry", 2, 5)
    assert (reason.failure.type, reason.failure.message, reason.failure.attempt) == ("ValueError", "boom", 1)


def test_a_retry_of_a_task_that_is_not_here_leaves_out_how_many_there_may_be():
    reason = why(*BEGUN, example(StageFailed, fatal=False, retry_at_us=UNTIL_US))
    assert reason.text.endswith("attempt 2")


def test_a_paused_run_says_by_whom_and_since_when_and_what_it_waits_for_besides():
    paused, waiting = explained(*BEGUN, example(WaitStarted), example(RunPaused)).reasons
    assert (paused.code, paused.by, paused.since) == ("paused", OTHER_HASH, "2026-09-21T14:13:24.123456Z")
    assert paused.text.startswith(f"user {OTHER} paused it at 2026-09-21 14:13:24Z")
    assert paused.remedies == [f"cascadenced resume example --job-id {RUN_ID} --user-id ID --group-id ID"]
    assert waiting.code == "event"


def test_a_pause_lets_the_stage_under_way_end():
    paused, running = explained(*BEGUN, example(RunPaused)).reasons
    assert "the stage run, which was under way, may end" in paused.text
    assert running.code == "running"
    [alone] = explained(*BEGUN[:2], example(RunPaused)).reasons
    assert alone.code == "paused"


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        ("task_missing", "install the plugin that has example"),
        ("identity_missing", "put vault.db and vault.key back"),
        ("code_changed", "put the old code of example back"),
    ],
)
def test_a_held_run_says_because_of_what_and_the_remedy(code: str, remedy: str):
    reason = why(*BEGUN, example(RunHeld, code=code, reason="of that"))
    assert (reason.code, reason.detail) == ("held", code)
    assert "of that" in reason.text
    assert reason.remedies[0].startswith(remedy)
    assert f"cascadenced cancel {RUN_ID} --user-id ID --group-id ID" in reason.remedies


def test_a_run_in_doubt_names_the_effect_and_the_commands_that_resolve_it():
    reason = why(*BEGUN, example(RunDoubted))
    assert (reason.code, reason.effect.step, reason.effect.place) == ("in_doubt", "charge", "2")
    assert "whether the step charge (place 2 of the stage run, attempt 1) took effect" in reason.text
    assert [remedy.split()[1:4] for remedy in reason.remedies] == [
        ["resolve", RUN_ID, verdict] for verdict in ("done", "retry", "fail")
    ]


# ── it has ended ─────────────────────────────────────────────────────────────────────────────────────────────


def test_a_plan_in_doubt_that_nothing_else_is_done_with_is_not_said_to_be_settled_by_done():
    planning = (example(RunRequested), example(RunStarted, stages=("plan",)), example(StageStarted, stage="plan"))
    reason = why(*planning, example(RunDoubted, stage="plan", step=None, place=""))
    assert [remedy.split()[3] for remedy in reason.remedies] == ["retry", "fail"]


def test_a_finished_run_has_nothing_to_explain():
    assert why(*run_of("run")).code == "finished"


def test_a_refused_run_says_because_of_what_and_how_to_allow_it():
    reason = why(example(RunRequested), example(RunRefused))
    assert (reason.code, reason.detail) == ("refused", "disabled")
    assert reason.text == "it was refused, and nothing was started: example is disabled"
    assert reason.remedies == ["cascadenced enable example --group-id ID"]


def test_a_failed_run_names_the_stage_the_error_and_how_to_start_from_there():
    reason = why(*run_of("plan", "run", fails="run"))
    assert (reason.code, reason.detail) == ("failed", "ValueError")
    assert reason.text == "the stage run failed: ValueError: boom"
    assert reason.failure.stage == "run"
    assert reason.remedies == [f"cascadenced fork {RUN_ID} --from run --user-id ID --group-id ID"]


def test_a_run_that_failed_after_several_attempts_says_how_many():
    events = (*BEGUN, example(StageFailed, fatal=False, retry_at_us=UNTIL_US), example(StageStarted, attempt=2))
    reason = why(*events, example(StageFailed, attempt=2), example(RunFailed))
    assert reason.text.endswith("(attempt 2, no other follows)")


def test_a_run_that_failed_with_a_child_points_to_it():
    ended = example(ChildEnded, child_run_id="run-of-a", status="error", error_type="ValueError", reason="boom")
    reason = why(*PLANNED, ended, example(StageFailed), example(RunFailed))
    assert [(child.run_id, child.status, child.reason) for child in reason.children] == [("run-of-a", "error", "boom")]
    assert reason.remedies[0] == "cascadenced explain run-of-a"


def test_a_run_whose_plan_is_another_one_now_can_only_be_started_from_its_plan():
    reason = why(
        *PLANNED,
        example(StageFailed, stage="run", error_type="plan.changed"),
        example(RunFailed, stage="run", error_type="plan.changed"),
    )
    assert reason.remedies == [f"cascadenced fork {RUN_ID} --from plan --user-id ID --group-id ID"]


def test_a_cancelled_run_says_by_whom_and_why():
    reason = why(*BEGUN, example(RunCancelled))
    assert (reason.code, reason.by) == ("cancelled", OTHER_HASH)
    assert reason.text.startswith(f"user {OTHER} cancelled it: not needed any more (the stage run was under way")
    assert "its own parent" in why(*BEGUN, example(RunCancelled, by=None)).text


# ── the decisions in its life ────────────────────────────────────────────────────────────────────────────────


def told(*events: Event) -> list[str]:
    return [moment.text for moment in explained(*events).timeline]


def test_who_or_what_asked_for_it_is_told_by_name():
    failed = {"failed_task": "load", "failed_run_id": OTHER_RUN_ID, "reason": "boom"}
    [follow_up, *_] = told(example(RunRequested, via="followup", args=failed))
    assert follow_up.startswith(f"asked for as the follow-up of {OTHER_RUN_ID}, which failed, for user")
    [needed, *_] = told(example(RunRequested, via="dependency"))
    assert needed.startswith("asked for because a task that was asked for must run after it, for user")
    [needy, *_] = told(example(RunRequested, requires=(OTHER_RUN_ID,)))
    assert needy.startswith(f"asked for via bus, to start after {OTHER_RUN_ID}, for user")


def test_stages_that_begin_and_end_as_they_should_are_no_decisions():
    assert told(*run_of("plan", "run")) == [
        f"asked for via bus, for user {USER_HASH[:12]}",
        "started, with the stages plan, run of the code c0de",
        "all its stages ended well",
    ]


def test_retries_and_resumes_after_crashes_and_stops_are_told_apart():
    events = (
        *BEGUN,
        example(StageFailed, fatal=False, retry_at_us=UNTIL_US),
        example(StageStarted, attempt=2),
        example(StageStarted, attempt=3, code="c1"),
        example(StageInterrupted, attempt=3),
        example(StageStarted, attempt=4, code="c1"),
    )
    assert told(*events)[2:] == [
        "the stage run failed (attempt 1): ValueError: boom; it is tried again at 2026-09-21 14:14:20Z",
        "the stage run is tried again (attempt 2)",
        "the stage run starts again after a crash (attempt 3), with other code (c0de before, c1 now)",
        "the stage run was interrupted (attempt 3): the daemon stopped",
        "the stage run starts again where it was left (attempt 4)",
    ]


def test_late_results_contexts_waits_and_resolutions_are_told():
    events = (
        *BEGUN,
        example(StageLate, reason=""),
        example(ContextAttached),
        example(WaitStarted, until_us=None),
        example(WaitEnded),
        example(RunDoubted),
        example(RunResolved),
        example(StageFinished),
        example(ContextConsumed),
        example(RunPaused),
        example(RunResumed, by=None),
    )
    assert told(*events)[2:] == [
        "attempt 1 of the stage run ended (error) when nobody waited any more: no effect",
        f"user {OTHER} told it something via cli: {{'note': 'by Friday'}}",
        "the stage run waits for the event invoice.paid",
        "the event invoice.paid came (position 12)",
        "the step charge is in doubt (attempt 1): it died",
        f"user {OTHER} resolved the doubt: it has happened",
        "the stage verify begins with 1 thing that it was told",
        f"paused by user {OTHER}",
        "resumed by somebody",
    ]


def test_a_fork_and_a_child_say_where_they_come_from():
    fork = told(example(RunRequested, forked_from=OTHER_RUN_ID), example(StageFinished, stage="plan", attempt=0))
    assert fork[0].startswith(f"asked for via bus, as a fork of {OTHER_RUN_ID}")
    assert fork[1] == "what the stage plan put out was taken over"
    assert told(example(RunRequested, parent_run_id="p"))[0].startswith("asked for by the plan of p")


def test_a_long_life_is_told_from_both_ends():
    moments, n_left_out = timeline(story([example(RunRequested), *[example(RunPaused)] * 50]), 20)
    assert (len(moments), n_left_out) == (20, 31)
    assert moments[0].code == "run.requested"


def test_whatever_events_a_run_has_it_is_explained():
    for event in every_event():
        explanation = explained(*BEGUN, event)
        assert explanation.reasons
        assert explanation.run_id == RUN_ID
