"""What follows from an event of a run."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from msgspec.structs import replace

from cascadenced.events.base import Event
from cascadenced.events.child import ChildEnded, ChildRequested, Planned
from cascadenced.events.run import (
    RunCancelled,
    RunDoubted,
    RunFailed,
    RunFinished,
    RunHeld,
    RunPaused,
    RunRefused,
    RunReleased,
    RunRequested,
    RunResolved,
    RunResumed,
    RunStarted,
)
from cascadenced.events.signal import ContextAttached, ContextConsumed
from cascadenced.events.stage import StageFailed, StageFinished, StageInterrupted, StageStarted
from cascadenced.events.step import StepFailed, StepFinished, StepStarted
from cascadenced.events.wait import WaitEnded, WaitStarted
from cascadenced.pipeline.control import decide_resolution
from cascadenced.pipeline.decide import decide
from cascadenced.pipeline.doubts import leave, question
from cascadenced.pipeline.model import STAGES, Run, evolve, fold
from cascadenced.pipeline.policy import Policy
from cascadenced.pipeline.resume import code_changed, verdict
from tests.examples import AT_US, every_event, example, run_of
from tests.spec import given

COMBINATIONS = [hooks for n in range(len(STAGES) + 1) for hooks in itertools.combinations(STAGES, n)]
SKIPPED = ("intake", "research")
DECISIVE = (RunStarted, StageFinished, StageFailed)


def started(*hooks: str) -> tuple[Event, ...]:
    return example(RunRequested), example(RunStarted, stages=hooks)


def play(*hooks: str, fails: str | None = None, fatal: bool = True) -> list[Event]:
    """All events of a run whose every stage ends well, save `fails`."""
    events = list(started(*hooks))
    run = fold(events)
    follows = decide(run, events[-1], elapsed_s=0.0)
    while follows:
        events += follows
        for event in follows:
            run = evolve(run, event)
        if run.current is None:
            break
        stage = run.current
        end: Event
        if stage == fails:
            end = example(StageFailed, stage=stage, fatal=fatal)
        else:
            end = example(StageFinished, stage=stage, output=f"{stage} output")
        events.append(end)
        run = evolve(run, end)
        follows = decide(run, end, elapsed_s=0.0)
    return events


# ── going on ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("hooks", COMBINATIONS, ids="+".join)
def test_a_run_passes_exactly_the_stages_its_task_has_in_pipeline_order(hooks):
    starts = [event.stage for event in play(*hooks) if isinstance(event, StageStarted)]
    assert starts == list(hooks)


@pytest.mark.parametrize("hooks", COMBINATIONS, ids="+".join)
def test_every_stage_without_a_hook_is_named_as_skipped_exactly_once(hooks):
    skipped = [
        stage for event in play(*hooks) if isinstance(event, StageStarted | RunFinished) for stage in event.skipped
    ]
    assert skipped == [stage for stage in STAGES if stage not in hooks]


@pytest.mark.parametrize("hooks", COMBINATIONS, ids="+".join)
def test_a_run_without_failures_ends_in_success(hooks):
    events = play(*hooks)
    assert isinstance(events[-1], RunFinished)
    assert fold(events).status == "success"


def test_a_started_run_starts_its_first_stage():
    given(example(RunRequested)).when(example(RunStarted, stages=("plan", "run"), code="abc")).then(
        StageStarted, stage="plan", attempt=1, code="abc", skipped=("intake", "research")
    )


def test_a_finished_stage_starts_the_next():
    given(*started("plan", "run"), example(StageStarted, stage="plan")).when(example(StageFinished, stage="plan")).then(
        StageStarted, stage="run", attempt=1, skipped=("precheck",)
    )


def test_the_last_finished_stage_ends_the_run():
    given(*started("run"), example(StageStarted, stage="run")).when(
        example(StageFinished, stage="run"), elapsed_s=2.5
    ).then(RunFinished, skipped=("verify",), took_s=2.5, via="bus", task="example")


def test_a_task_without_any_hook_ends_at_once():
    given(example(RunRequested)).when(example(RunStarted, stages=())).then(RunFinished, skipped=STAGES)


# ── failing ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("stage", STAGES)
def test_a_fatal_failure_of_any_stage_ends_the_run_and_starts_nothing(stage):
    given(*started(*STAGES), example(StageStarted, stage=stage)).when(
        example(StageFailed, stage=stage, error_type="KeyError", reason="'x'", fatal=True), elapsed_s=3.0
    ).then(RunFailed, stage=stage, error_type="KeyError", reason="'x'", took_s=3.0, via="bus", task="example")


def test_a_failed_precheck_keeps_the_run_stage_from_starting():
    assert "run" not in [e.stage for e in play("precheck", "run", fails="precheck") if isinstance(e, StageStarted)]


def test_a_failure_of_research_that_is_not_fatal_goes_on_to_the_plan():
    given(*started("research", "plan", "run"), example(StageStarted, stage="research")).when(
        example(StageFailed, stage="research", fatal=False)
    ).then(StageStarted, stage="plan", skipped=())


def test_a_run_whose_only_stage_was_a_failed_research_ends_in_success():
    assert fold(play("research", fails="research", fatal=False)).status == "success"


def test_what_research_failed_to_find_is_no_output():
    assert "research" not in fold(play("research", "run", fails="research", fatal=False)).outputs


@pytest.mark.parametrize(
    "event", [e for e in every_event() if not isinstance(e, DECISIVE)], ids=lambda e: type(e).__name__
)
def test_nothing_follows_from_other_events(event):
    given(*started("run")).when(event).then_nothing()


@pytest.mark.parametrize("hooks", [("run",), ("intake", "research", "plan", "run", "verify")], ids="+".join)
def test_the_example_runs_of_other_tests_are_what_the_rule_says(hooks):
    kinds = [(type(event), getattr(event, "stage", None)) for event in run_of(*hooks)]
    assert kinds == [(type(event), getattr(event, "stage", None)) for event in play(*hooks)]


# ── the fold ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_requested_run_is_queued_and_knows_what_was_asked():
    run = fold([example(RunRequested, args={"n": 5}, depth=2)])
    assert (run.status, run.task, run.via, run.args, run.depth) == ("queued", "example", "bus", {"n": 5}, 2)


def test_a_started_stage_is_current():
    run = fold([*started("run"), example(StageStarted, stage="run", attempt=1)])
    assert (run.status, run.current, run.attempt) == ("running", "run", 1)


def test_a_finished_stage_is_done_and_its_output_kept():
    run = fold([*started("run"), example(StageStarted), example(StageFinished, output={"sum": 3})])
    assert (run.current, run.done, run.outputs) == (None, ("run",), {"run": {"sum": 3}})


def test_no_output_is_not_kept():
    assert fold([*started("run"), example(StageStarted), example(StageFinished, output=None)]).outputs == {}


@pytest.mark.parametrize("output", [False, 0, "", [], {}])
def test_an_empty_output_is_an_output(output):
    assert fold([*started("run"), example(StageStarted), example(StageFinished, output=output)]).result == output


def test_the_result_is_what_verify_put_out_if_the_task_verifies():
    assert fold(play("run", "verify")).result == "verify output"


def test_the_result_is_what_run_put_out_if_the_task_does_not_verify():
    assert fold(play("plan", "run")).result == "run output"


def test_a_failed_run_says_why():
    run = fold(play("run", fails="run"))
    assert (run.status, run.error_type, run.reason, run.current) == ("error", "ValueError", "boom", None)


def test_a_refused_run_says_why():
    run = fold([example(RunRequested), example(RunRefused, code="paused", reason="Task 'example' is paused")])
    assert (run.status, run.error_type, run.reason) == ("refused", "paused", "Task 'example' is paused")


def test_a_held_run_waits_and_says_why():
    run = fold([*started("run"), example(StageStarted), example(RunHeld, reason="no such task")])
    assert (run.status, run.reason, run.current) == ("waiting", "no such task", "run")


def test_a_held_run_that_goes_on_is_running():
    run = fold([*started("run"), example(StageStarted), example(RunHeld), example(RunReleased)])
    assert (run.status, run.reason, run.current) == ("running", None, "run")


def test_events_of_other_families_change_nothing():
    run = fold(started("run"))
    families = ("run.", "stage.", "step.", "wait.", "child.", "context.")
    others = [e for e in every_event() if not str(e.__struct_config__.tag).startswith(families)]
    assert all(evolve(run, event) == run for event in others)


# ── after a crash ────────────────────────────────────────────────────────────────────────────────────────────────


def crashed(times: int, *hooks: str) -> tuple[Event, ...]:
    """A run whose first stage was under way at `times` crashes in a row."""
    starts = [example(StageStarted, stage=hooks[0], attempt=n + 1, skipped=()) for n in range(times)]
    return (*started(*hooks), *starts)


@pytest.mark.parametrize(
    ("crashes", "expected"), [(1, "resume"), (2, "resume"), (3, "alone"), (4, "alone"), (5, "give_up"), (6, "give_up")]
)
def test_a_run_is_resumed_then_resumed_alone_then_given_up(crashes, expected):
    assert verdict(fold(crashed(crashes, "run"))) == expected


@pytest.mark.parametrize("crashes", [1, 2, 3, 4])
def test_after_a_crash_the_same_stage_starts_again_as_the_next_attempt(crashes):
    given(*crashed(crashes, "plan", "run")).when_the_daemon_starts_again(code="new").then(
        StageStarted, stage="plan", attempt=crashes + 1, code="new"
    )


def test_after_the_fifth_crash_in_a_row_the_run_ends_in_error():
    given(*crashed(5, "run")).when_the_daemon_starts_again(elapsed_s=9.0).then(
        RunFailed,
        error_type="crash_loop",
        reason="the process died 5 times in a row while the stage run was under way",
        stage="run",
        took_s=9.0,
    )


def test_a_stage_that_ends_forgives_the_crashes_before_it():
    run = fold(
        [
            *crashed(4, "plan", "run"),
            example(StageFinished, stage="plan", attempt=4),
            example(StageStarted, stage="run"),
        ]
    )
    assert verdict(run) == "resume"


def test_the_next_stage_counts_its_attempts_from_one():
    given(*crashed(3, "plan", "run")).when(example(StageFinished, stage="plan", attempt=3)).then(
        StageStarted, stage="run", attempt=1
    )


def test_an_interruption_is_not_a_crash():
    interrupted = [
        event
        for n in range(9)
        for event in (example(StageStarted, attempt=n + 1), example(StageInterrupted, attempt=n + 1))
    ]
    assert verdict(fold([*started("run"), *interrupted])) == "resume"


def test_an_interrupted_stage_starts_again_as_the_next_attempt():
    given(*started("run"), example(StageStarted), example(StageInterrupted)).when_the_daemon_starts_again().then(
        StageStarted, stage="run", attempt=2
    )


def test_being_held_is_not_a_crash_and_does_not_make_one_undone():
    begun = (*started("run"), example(StageStarted))
    held = (example(RunHeld, code="identity_missing"), example(RunReleased))
    assert verdict(fold([*begun, *held * 9])) == "resume"
    again = [event for n in range(2, 6) for event in (*held, example(StageStarted, attempt=n))]
    assert verdict(fold([*begun, *again])) == "give_up"


def test_a_held_run_goes_on_where_it_was():
    given(*started("run"), example(StageStarted), example(RunHeld)).when_the_daemon_starts_again().then(
        RunReleased(task="example"), StageStarted(task="example", stage="run", attempt=2, code="c0de", skipped=SKIPPED)
    )


def test_a_run_held_between_stages_goes_on_with_the_next():
    given(
        *started("plan", "run"),
        example(StageStarted, stage="plan"),
        example(StageFinished, stage="plan"),
        example(RunHeld),
    ).when_the_daemon_starts_again().then(RunReleased, StageStarted)


def test_a_run_that_was_between_stages_goes_on_with_the_next():
    given(
        *started("plan", "run"), example(StageStarted, stage="plan"), example(StageFinished, stage="plan")
    ).when_the_daemon_starts_again().then(StageStarted, stage="run", attempt=1, skipped=("precheck",))


def test_a_run_whose_last_stage_had_ended_is_finished():
    given(*started("run"), example(StageStarted), example(StageFinished)).when_the_daemon_starts_again(
        elapsed_s=4.0
    ).then(RunFinished, took_s=4.0)


def test_a_repeated_start_names_the_same_skipped_stages():
    given(*started("run"), example(StageStarted, skipped=("intake", "research"))).when_the_daemon_starts_again().then(
        StageStarted, skipped=("intake", "research")
    )


def test_an_empty_history_is_an_empty_run():
    assert fold([]) == Run()


# ── waits, retries, pauses ───────────────────────────────────────────────────────────────────────────────────────────

RUN = (*started("run", "verify"), example(StageStarted, stage="run"))
LATER_US = AT_US + 5_000_000
ASLEEP = (*RUN, example(WaitStarted, stage="run", place="1", kind="sleep", name="", where={}, until_us=LATER_US))
LISTENING = (*RUN, example(WaitStarted, stage="run", place="1", kind="event", name="paid", until_us=LATER_US))
TRIED = (*RUN, example(StageFailed, stage="run", fatal=False, retry_at_us=LATER_US))
WOKEN = example(WaitEnded, stage="run", place="1", kind="event", name="paid", position=12)
QUEUED = started("run")[:1]
ONCE = Policy(delivery="at_most_once")


def test_a_failure_that_is_tried_again_later_starts_nothing_and_ends_nothing():
    given(*RUN).when(example(StageFailed, stage="run", fatal=False, retry_at_us=LATER_US)).then_nothing()


def test_a_run_that_waits_for_another_attempt_is_waiting_and_still_in_its_stage():
    run = fold(TRIED)
    assert (run.status, run.current, run.n_failed, run.wait.kind, run.wait.until_us) == (
        "waiting", "run", 1, "retry", LATER_US
    )  # fmt: skip


@pytest.mark.parametrize("events", [ASLEEP, LISTENING, TRIED], ids=["sleep", "event", "retry"])
def test_before_its_time_a_waiting_run_waits_on(events):
    given(*events).when_the_daemon_starts_again(now_us=LATER_US - 1).then_nothing()


def test_when_its_time_has_come_the_next_attempt_starts():
    given(*TRIED).when_the_daemon_starts_again(now_us=LATER_US).then(StageStarted, stage="run", attempt=2)


def test_when_its_time_has_come_a_sleep_is_over():
    given(*ASLEEP).when_the_daemon_starts_again(now_us=LATER_US).then(
        WaitEnded(task="example", stage="run", place="1", kind="sleep", outcome="elapsed")
    )


def test_when_its_time_has_come_a_wait_for_an_event_has_timed_out():
    given(*LISTENING).when_the_daemon_starts_again(now_us=LATER_US).then(
        WaitEnded(task="example", stage="run", place="1", kind="event", name="paid", outcome="timeout")
    )


def test_an_event_that_came_wins_over_the_time_that_is_up():
    given(*LISTENING).when_the_daemon_starts_again(now_us=LATER_US, woken=WOKEN).then(WOKEN)


def test_a_wait_without_a_time_limit_is_as_long_as_it_takes():
    events = (*RUN, example(WaitStarted, stage="run", place="1", kind="event", until_us=None))
    given(*events).when_the_daemon_starts_again(now_us=2**62).then_nothing()


def test_a_wait_for_children_is_not_over_by_the_passing_of_time():
    events = (*RUN, example(WaitStarted, stage="run", place="", kind="children", name="", until_us=None))
    given(*events).when_the_daemon_starts_again(now_us=2**62).then_nothing()


def test_a_wait_that_has_ended_is_behind_the_stage_when_it_runs_again():
    run = fold([*LISTENING, WOKEN])
    assert (run.status, run.wait, run.current) == ("running", None, "run")
    assert (run.marks["1"].kind, run.marks["1"].name, run.marks["1"].output) == ("event", "paid", {"number": 7})
    assert list(run.handed) == ["paid"]
    assert [position in run.handed["paid"] for position in (11, 12, 13)] == [False, True, False]


def test_a_wait_that_would_have_taken_any_event_has_none_before_it():
    run = fold([*RUN, example(WaitStarted, stage="run", place="1", kind="event", name="paid", where={}), WOKEN])
    assert [position in run.handed["paid"] for position in (11, 12, 13)] == [True, True, False]


def test_a_wait_is_no_crash_however_often_the_process_dies_meanwhile():
    """Each life finds it waiting; the stage is not under way."""
    assert verdict(fold(ASLEEP)) == "resume"
    assert fold(ASLEEP).open_starts == 0


def test_crashes_after_a_wait_are_counted_from_there():
    run = fold([*ASLEEP, WOKEN, *[example(StageStarted, stage="run", attempt=n) for n in (2, 3)]])
    assert (run.open_starts, verdict(run)) == (3, "alone")


def test_a_step_that_ends_forgives_the_crashes_before_it():
    run = fold([*crashed(4, "run"), example(StepFinished, stage="run", place="1")])
    assert verdict(run) == "resume"


def test_a_crash_does_not_use_up_an_attempt_of_the_retries():
    run = fold([*TRIED, *[example(StageStarted, stage="run", attempt=n) for n in (2, 3, 4)]])
    assert (run.n_failed, run.attempt) == (1, 4)


def test_failures_are_counted_for_one_stage_only():
    run = fold(
        [*TRIED, example(StageStarted, attempt=2), example(StageFinished), example(StageStarted, stage="verify")]
    )
    assert run.n_failed == 0


def test_steps_belong_to_their_stage():
    run = fold([*RUN, example(StepFinished, place="1"), example(StageFinished), example(StageStarted, stage="verify")])
    assert run.marks == {}


def test_steps_outlast_the_attempt():
    run = fold([*RUN, example(StepFinished, place="1"), example(StageFailed, fatal=False, retry_at_us=1)])
    assert set(run.marks) == {"1"}


def test_a_paused_run_starts_nothing_new():
    given(*RUN, example(RunPaused)).when(example(StageFinished, stage="run")).then_nothing()


def test_a_paused_run_ends_all_the_same_when_nothing_is_left_to_do():
    given(*started("run"), example(StageStarted, stage="run"), example(RunPaused)).when(
        example(StageFinished, stage="run")
    ).then(RunFinished)


@pytest.mark.parametrize("events", [RUN, ASLEEP, LISTENING, TRIED, started("run")[:1]])
def test_a_paused_run_is_left_alone_by_a_restart(events):
    given(*events, example(RunPaused)).when_the_daemon_starts_again(now_us=2**62, woken=WOKEN).then_nothing()


def test_a_run_goes_on_after_its_pause_with_the_next_stage():
    given(
        *RUN, example(RunPaused), example(StageFinished, stage="run"), example(RunResumed)
    ).when_the_daemon_starts_again().then(StageStarted, stage="verify", attempt=1)


@pytest.mark.parametrize(
    "end", [example(RunFinished), example(RunFailed), example(RunCancelled)], ids=lambda e: type(e).__name__
)
def test_nothing_follows_after_the_end(end):
    given(*RUN, end).when_the_daemon_starts_again(now_us=2**62).then_nothing()


# ── being held keeps what there was ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("events", [ASLEEP, LISTENING, TRIED], ids=["sleep", "event", "retry"])
def test_a_waiting_run_that_was_held_waits_on_for_the_same(events):
    given(*events, example(RunHeld)).when_the_daemon_starts_again(now_us=LATER_US - 1).then(RunReleased)
    assert fold([*events, example(RunHeld), example(RunReleased)]) == fold(events)


def test_a_sleep_that_was_over_while_the_run_was_held_is_over():
    given(*ASLEEP, example(RunHeld)).when_the_daemon_starts_again(now_us=LATER_US).then(RunReleased, WaitEnded)


def test_a_run_in_doubt_that_was_held_is_in_doubt():
    events = (*RUN, example(RunDoubted, stage="run"))
    given(*events, example(RunHeld)).when_the_daemon_starts_again(policy=ONCE).then(RunReleased)
    assert fold([*events, example(RunHeld), example(RunReleased)]).status == "in_doubt"


def test_a_sleeping_run_that_was_held_is_not_in_doubt():
    given(*ASLEEP, example(RunHeld)).when_the_daemon_starts_again(now_us=LATER_US - 1, policy=ONCE).then(RunReleased)


def test_being_held_twice_is_being_held_once():
    assert fold([*ASLEEP, example(RunHeld), example(RunHeld), example(RunReleased)]) == fold(ASLEEP)


# ── what a run is told ───────────────────────────────────────────────────────────────────────────────────────────────

TOLD = example(ContextAttached, shown="one")


@pytest.mark.parametrize("stage", ["research", "plan", "run", "verify"])
def test_research_plan_run_and_verify_begin_with_what_was_told_meanwhile(stage):
    before = STAGES[STAGES.index(stage) - 1]
    given(*started(before, stage), example(StageStarted, stage=before), TOLD).when(
        example(StageFinished, stage=before)
    ).then(ContextConsumed(task="example", stage=stage, shown=("one",)), StageStarted)


def test_a_precheck_is_told_nothing_and_run_is_told_it_after():
    given(*started("plan", "precheck", "run"), example(StageStarted, stage="plan"), TOLD).when(
        example(StageFinished, stage="plan")
    ).then(StageStarted, stage="precheck")
    given(
        *started("plan", "precheck", "run"),
        example(StageStarted, stage="plan"),
        TOLD,
        example(StageFinished, stage="plan"),
        example(StageStarted, stage="precheck"),
    ).when(example(StageFinished, stage="precheck")).then(ContextConsumed, StageStarted, stage="run")


def test_what_one_stage_was_told_the_next_is_not_told_again():
    given(
        *started("plan", "run"),
        TOLD,
        example(ContextConsumed, stage="plan", shown=("one",)),
        example(StageStarted, stage="plan"),
        example(ContextAttached, shown="two"),
    ).when(example(StageFinished, stage="plan")).then(
        ContextConsumed(task="example", stage="run", shown=("two",)), StageStarted
    )


@pytest.mark.parametrize(("events", "kind"), [(RUN, StageStarted), (TRIED, StageStarted), (ASLEEP, WaitEnded)])
def test_a_stage_that_runs_again_is_told_what_came_meanwhile(events, kind):
    followed = given(*events, TOLD).when_the_daemon_starts_again(now_us=LATER_US).events
    assert {type(event) for event in followed} == {ContextConsumed, kind}


# ── a doubt ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_effect_that_must_not_happen_twice_is_in_doubt_after_a_crash():
    given(*RUN).when_the_daemon_starts_again(policy=ONCE).then(
        RunDoubted, stage="run", attempt=1, step=None, reason="the process ended while it was under way"
    )


def test_after_an_orderly_stop_it_is_in_doubt_as_well():
    given(*RUN, example(StageInterrupted)).when_the_daemon_starts_again(policy=ONCE).then(RunDoubted)


def test_a_stage_that_had_not_begun_is_not_in_doubt():
    planned = (*started("plan", "run"), example(StageStarted, stage="plan"), example(StageFinished, stage="plan"))
    given(*planned).when_the_daemon_starts_again(policy=ONCE).then(StageStarted)


def test_a_stage_that_raised_is_not_in_doubt():
    given(*TRIED).when_the_daemon_starts_again(policy=ONCE, now_us=LATER_US).then(StageStarted)


def test_between_its_steps_a_stage_is_not_in_doubt():
    given(*RUN, example(StepFinished, place="1")).when_the_daemon_starts_again(policy=ONCE).then(StageStarted)


def test_only_the_step_that_was_under_way_is_in_doubt():
    given(
        *RUN, example(StepFinished, place="1"), example(StepStarted, place="2", name="charge")
    ).when_the_daemon_starts_again(policy=ONCE).then(RunDoubted, step="charge", place="2")


@pytest.mark.parametrize("before", [(), (example(StepFinished, place="1"),)], ids=["the first", "a later one"])
def test_a_step_that_raised_is_not_in_doubt(before):
    given(*RUN, *before, example(StepStarted), example(StepFailed)).when_the_daemon_starts_again(policy=ONCE).then(
        StageStarted
    )


def test_a_stage_is_known_to_work_in_steps_also_when_its_only_one_is_to_be_done_again():
    """So what comes before that step, at the next attempt, has no effect that could be in doubt."""
    doubted = (*RUN, example(StepStarted, place="1"), example(RunDoubted, stage="run", step="charge", place="1"))
    settled = decide_resolution(fold(doubted), "retry", by="b0b", output=None, elapsed_s=0.0)
    again = example(StageStarted, stage="run", attempt=2)
    given(*doubted, *settled, again).when_the_daemon_starts_again(policy=ONCE).then(StageStarted, attempt=3)


@pytest.mark.parametrize("kind", ["sleep", "event"])
def test_a_stage_that_has_only_waited_so_far_may_have_had_effects_after_that(kind):
    waited = (example(WaitStarted, stage="run", place="1", kind=kind), example(WaitEnded, stage="run", kind=kind))
    given(*RUN, *waited).when_the_daemon_starts_again(policy=ONCE).then(RunDoubted, step=None)


def test_the_next_stage_may_have_effects_of_its_own():
    first = (*RUN, example(StepFinished, place="1"), example(StageFinished, stage="run"))
    given(*first, example(StageStarted, stage="verify")).when_the_daemon_starts_again(policy=ONCE).then(RunDoubted)


def test_a_run_in_doubt_waits_for_somebody_over_restarts():
    given(*RUN, example(RunDoubted)).when_the_daemon_starts_again(policy=ONCE, now_us=2**62).then_nothing()


def test_the_policy_may_settle_the_doubt_by_another_attempt():
    given(*RUN).when_the_daemon_starts_again(policy=Policy(delivery="at_most_once", on_doubt="retry")).then(
        RunDoubted, RunResolved, StageStarted
    )


def test_the_policy_may_settle_the_doubt_by_failing():
    followed = given(*RUN).when_the_daemon_starts_again(policy=Policy(delivery="at_most_once", on_doubt="fail"))
    followed.then(RunDoubted, RunResolved, RunFailed)
    assert (followed.events[1].by, followed.events[2].error_type) == (None, "in_doubt")


def test_what_may_be_done_again_is_never_in_doubt():
    given(*RUN).when_the_daemon_starts_again(policy=Policy(on_doubt="fail")).then(StageStarted)


def test_somebody_is_asked_before_a_crash_loop_ends():
    """Nobody would hear of what may have happened if the run failed, and it is not started by itself either way."""
    given(*crashed(5, "run")).when_the_daemon_starts_again(policy=ONCE).then(RunDoubted)


AGAIN = Policy(delivery="at_most_once", on_doubt="retry")


def crashes(events: tuple[Event, ...], policy: Policy, *, at_most: int) -> Iterator[tuple[Event, ...]]:
    """What is recorded at each restart of a run whose stage kills the process each time, until it is not started."""
    for _ in range(at_most):
        followed = given(*events).when_the_daemon_starts_again(policy=policy).events
        yield tuple(followed)
        events += tuple(followed)
        if type(followed[-1]) is not StageStarted:
            return


@pytest.mark.parametrize("begun", [(), (example(StepStarted, place="1", name="charge"),)], ids=["stage", "step"])
def test_a_stage_that_its_policy_has_tried_again_does_not_kill_the_daemon_for_ever(begun):
    lives = list(crashes((*started("run"), example(StageStarted, stage="run"), *begun), AGAIN, at_most=10))
    assert [type(life[-1]) for life in lives] == [StageStarted] * 4 + [RunFailed]
    assert lives[-1][-1].error_type == "crash_loop"


def test_a_stage_that_its_policy_has_tried_again_is_a_suspect_after_three_crashes():
    lives = list(crashes(RUN, AGAIN, at_most=2))
    assert verdict(fold([*RUN, *lives[0]])) == "resume"
    assert verdict(fold([*RUN, *lives[0], *lives[1]])) == "alone"


def test_whoever_has_an_attempt_made_again_has_its_crashes_counted_from_then_on():
    doubted = (*crashed(4, "run"), *given(*crashed(4, "run")).when_the_daemon_starts_again(policy=ONCE).events)
    settled = decide_resolution(fold(doubted), "retry", by=None, output=None, elapsed_s=0.0)
    again = given(*doubted, *settled).when_the_daemon_starts_again(policy=ONCE).events
    assert fold([*doubted, *settled, *again]).open_starts == 1


def test_a_time_that_is_up_is_no_crash():
    run = fold([*RUN, example(RunDoubted, stage="run", step=None, crashes=0), example(RunResolved, by=None)])
    assert run.open_starts == 0


def test_a_step_that_somebody_says_is_done_is_no_crash_of_its_stage():
    doubted = (*RUN, example(StepStarted, place="1"), example(RunDoubted, stage="run", step="charge", place="1"))
    settled = decide_resolution(fold(doubted), "done", by="b0b", output=1, elapsed_s=0.0)
    again = given(*doubted, *settled).when_the_daemon_starts_again(policy=ONCE).events
    assert fold([*doubted, *settled, *again]).open_starts == 1


def test_an_attempt_that_the_policy_has_made_again_is_made_with_the_code_that_is_there():
    followed = given(*RUN).when_the_daemon_starts_again(policy=AGAIN, code="newer")
    assert followed.events[-1].code == "newer"


# ── a doubt, and what conceals it ────────────────────────────────────────────────────────────────────────────────────


def asking(*events: Event, on_doubt: str | None = "ask") -> tuple[Event, ...]:
    """The same of a task that says so of its effects."""
    return tuple(replace(event, on_doubt=on_doubt) if type(event) is RunStarted else event for event in events)


CHARGING = (*RUN, example(StepStarted, place="1", name="charge"))


@pytest.mark.parametrize("concealed", [(), (example(RunPaused),), (example(RunHeld),)], ids=["", "paused", "held"])
@pytest.mark.parametrize("events", [RUN, CHARGING, (*RUN, example(StageInterrupted))], ids=["stage", "step", "stopped"])
def test_what_may_have_happened_is_asked_whether_or_not_the_run_may_go_on(events, concealed):
    doubted = question(fold(asking(*events, *concealed)))
    assert (doubted.stage, doubted.step) == ("run", "charge" if events is CHARGING else None)
    assert question(fold([*asking(*events, *concealed), doubted])) is None


@pytest.mark.parametrize("events", [RUN, CHARGING])
@pytest.mark.parametrize("on_doubt", ["retry", "fail", None])
def test_nobody_is_asked_what_the_policy_answers(events, on_doubt):
    assert question(fold(asking(*events, on_doubt=on_doubt))) is None


@pytest.mark.parametrize(
    "events",
    [
        (*RUN, example(StepFinished, place="1")),
        ASLEEP,
        LISTENING,
        TRIED,
        (*RUN, example(StageFinished, stage="run")),
        (*RUN, example(RunFinished)),
        (*ASLEEP, example(RunHeld)),
    ],
    ids=["between steps", "asleep", "listening", "to be tried again", "between stages", "ended", "held asleep"],
)
def test_nobody_is_asked_about_a_run_of_which_nothing_was_under_way(events):
    assert question(fold(asking(*events))) is None


@pytest.mark.parametrize("resolution", ["retry", "done"])
def test_a_doubt_that_is_settled_during_a_pause_starts_nothing_before_its_end(resolution):
    events = (*RUN, example(RunPaused), example(RunDoubted, stage="run", step=None))
    settled = decide_resolution(fold(events), resolution, by="b0b", output=None, elapsed_s=0.0)
    given(*events, *settled).when_the_daemon_starts_again(policy=ONCE).then_nothing()
    given(*events, *settled, example(RunResumed)).when_the_daemon_starts_again(policy=ONCE).then(StageStarted)


def test_a_run_that_was_held_when_its_doubt_came_up_is_held_on_when_that_is_settled():
    events = (*RUN, example(RunHeld), example(RunPaused), example(RunDoubted, stage="run", step=None))
    settled = decide_resolution(fold(events), "retry", by="b0b", output=None, elapsed_s=0.0)
    assert (settled[0].status, fold([*events, *settled]).wait.kind) == ("waiting", "held")
    given(*events, *settled, example(RunResumed)).when_the_daemon_starts_again(policy=ONCE).then(
        RunReleased, StageStarted
    )


def test_a_retry_that_somebody_asked_for_is_performed():
    """Resolved and not yet begun, in this life or the next: it is not in doubt once more for having been started."""
    doubted = (*RUN, example(RunDoubted, stage="run", step=None))
    settled = decide_resolution(fold(doubted), "retry", by=None, output=None, elapsed_s=0.0)
    given(*doubted, *settled).when_the_daemon_starts_again(policy=ONCE).then(StageStarted, stage="run", attempt=2)


def test_a_retry_that_was_begun_is_in_doubt_like_any_attempt():
    doubted = (*RUN, example(RunDoubted, stage="run", step=None))
    settled = decide_resolution(fold(doubted), "retry", by=None, output=None, elapsed_s=0.0)
    begun = example(StageStarted, stage="run", attempt=2)
    given(*doubted, *settled, begun).when_the_daemon_starts_again(policy=ONCE).then(RunDoubted, stage="run")


# ── other code than before ───────────────────────────────────────────────────────────────────────────────────────────

STOP = Policy(on_code_change="stop")


def test_a_task_may_ask_to_be_held_when_its_code_has_changed():
    held = code_changed(fold(RUN), STOP, "new")
    assert held is not None
    assert (held.code, held.task) == ("code_changed", "example")
    assert "(from c0de to new)" in held.reason


@pytest.mark.parametrize(
    ("events", "policy", "code"),
    [
        (RUN, STOP, "c0de"),
        (RUN, Policy(), "new"),
        (QUEUED, STOP, "new"),
        ((*RUN, example(RunFinished)), STOP, "new"),
    ],
    ids=["same code", "does not mind", "not started", "ended"],
)
def test_otherwise_nobody_is_held(events, policy, code):
    assert code_changed(fold(events), policy, code) is None


def test_the_code_of_the_newest_start_counts():
    run = fold([*RUN, example(StageFinished), example(StageStarted, stage="verify", code="newer")])
    assert code_changed(run, STOP, "newer") is None
    assert code_changed(run, STOP, "c0de") is not None


# ── children ─────────────────────────────────────────────────────────────────────────────────────────────────────────

PLAN = example(StageFinished, stage="plan", children=(Planned("part", "Part"), Planned("part", "Part")), output=None)


def test_a_plan_of_tasks_has_a_run_stage_also_where_the_task_has_none():
    given(*started("plan", "verify"), example(StageStarted, stage="plan")).when(PLAN).then(
        StageStarted, stage="run", skipped=("precheck",)
    )


def test_a_plan_without_tasks_and_without_run_skips_it():
    given(*started("plan", "verify"), example(StageStarted, stage="plan")).when(
        example(StageFinished, stage="plan", children=None)
    ).then(StageStarted, stage="verify")


def test_children_are_known_by_their_place():
    run = fold(
        [
            *started("plan", "run"),
            example(StageStarted, stage="plan"),
            PLAN,
            example(StageStarted, stage="run"),
            example(ChildRequested, index=1, child_run_id="r-1"),
            example(ChildEnded, index=1, child_run_id="r-1", output=5),
        ]
    )
    assert [(child.run_id, child.is_done) for child in run.children] == [(None, False), ("r-1", True)]
    assert run.child_results == [None, 5]


def test_a_child_that_failed_is_not_done():
    run = fold([*started("plan", "run"), PLAN, example(ChildEnded, index=0, status="error")])
    assert not run.children[0].is_done


@pytest.mark.parametrize("index", [-1, 2, 10**9])
def test_a_place_that_the_plan_does_not_have_changes_nothing(index):
    run = fold([*started("plan", "run"), PLAN])
    assert evolve(run, example(ChildEnded, index=index)) == run


# ── several steps that must not happen twice ─────────────────────────────────────────────────────────────────────────

GATHERED = (*RUN, example(StepStarted, place="1", name="charge"), example(StepStarted, place="2", name="ship"))


def test_steps_that_were_under_way_together_are_in_doubt_one_after_the_other():
    [first] = given(*GATHERED).when_the_daemon_starts_again(policy=ONCE).events
    resolved, second = decide_resolution(fold([*GATHERED, first]), "retry", by=None, output=None, elapsed_s=0.0)
    assert (first.step, second.step) == ("charge", "ship")
    events = (*GATHERED, first, resolved, second)
    settled = decide_resolution(fold(events), "done", by=None, output=7, elapsed_s=0.0)
    assert [type(event) for event in settled] == [RunResolved, StepFinished]
    run = fold([*events, *settled])
    assert (run.open_steps, {place: mark.output for place, mark in run.marks.items()}) == ({}, {"2": 7})


def test_a_step_that_ends_leaves_the_other_one_open():
    events = (*GATHERED, example(StepFinished, place="2", name="ship"))
    given(*events).when_the_daemon_starts_again(policy=ONCE).then(RunDoubted, step="charge", place="1")


def test_the_policy_settles_all_of_them():
    followed = given(*GATHERED).when_the_daemon_starts_again(policy=Policy(delivery="at_most_once", on_doubt="retry"))
    followed.then(RunDoubted, RunResolved, RunDoubted, RunResolved, StageStarted)


@pytest.mark.parametrize(
    "left",
    [
        (example(StageFailed, fatal=False, retry_at_us=LATER_US),),
        (example(WaitStarted, stage="run", place="3", kind="sleep", until_us=LATER_US),),
    ],
    ids=["by an error", "to wait"],
)
@pytest.mark.parametrize("paused", [(), (example(RunPaused),)], ids=["", "paused"])
def test_a_step_that_was_cancelled_when_its_stage_was_left_is_in_doubt_from_then_on(left, paused):
    doubted = RunDoubted(
        task="example",
        stage="run",
        attempt=1,
        step="charge",
        place="2",
        reason="the stage was left while it was under way",
    )
    events = (*RUN, example(StepStarted, place="2"), *left, *paused)
    assert leave(fold(events), ONCE, elapsed_s=0.0) == [doubted]
    assert question(fold(asking(*events))) == doubted


def test_only_what_must_not_happen_twice_is_in_doubt_when_its_stage_is_left():
    assert leave(fold(LEFT), Policy(), elapsed_s=0.0) == []
    assert leave(fold(ASLEEP), ONCE, elapsed_s=0.0) == leave(fold(RUN), ONCE, elapsed_s=0.0) == []


LEFT = (*RUN, example(StepStarted, place="2"), ASLEEP[-1])


@pytest.mark.parametrize("resolution", ["retry", "done"])
def test_a_stage_that_waits_waits_on_when_the_doubt_about_its_step_is_settled(resolution):
    doubted = (*LEFT, *leave(fold(LEFT), ONCE, elapsed_s=0.0))
    given(*doubted).when_the_daemon_starts_again(policy=ONCE, now_us=LATER_US).then_nothing()
    settled = decide_resolution(fold(doubted), resolution, by="b0b", output=None, elapsed_s=0.0)
    run = fold([*doubted, *settled])
    assert (run.status, run.wait, settled[0].status) == ("waiting", fold(ASLEEP).wait, "waiting")
    given(*doubted, *settled).when_the_daemon_starts_again(policy=ONCE, now_us=LATER_US - 1).then_nothing()
    given(*doubted, *settled).when_the_daemon_starts_again(policy=ONCE, now_us=LATER_US).then(WaitEnded)


def test_what_goes_on_after_such_a_wait_can_be_in_doubt_again():
    doubted = (*LEFT, *leave(fold(LEFT), ONCE, elapsed_s=0.0))
    settled = decide_resolution(fold(doubted), "retry", by="b0b", output=None, elapsed_s=0.0)
    events = (*doubted, *settled, example(WaitEnded, place="1"), example(StepStarted, place="2"))
    given(*events).when_the_daemon_starts_again(policy=ONCE).then(RunDoubted)


def test_the_policy_settles_what_a_stage_left_and_the_stage_waits_on():
    settled = leave(fold(LEFT), AGAIN, elapsed_s=0.0)
    assert [type(event) for event in settled] == [RunDoubted, RunResolved]
    given(*LEFT).when_the_daemon_starts_again(policy=AGAIN).then(RunDoubted, RunResolved)  # of an older log
    given(*LEFT).when_the_daemon_starts_again(policy=AGAIN, now_us=LATER_US).then(RunDoubted, RunResolved, WaitEnded)


def test_the_policy_to_fail_ends_the_run_when_a_step_was_left():
    fails = Policy(delivery="at_most_once", on_doubt="fail")
    assert [type(event) for event in leave(fold(LEFT), fails, elapsed_s=0.0)] == [RunDoubted, RunResolved, RunFailed]
