"""What follows from an event of a run."""

from __future__ import annotations

import itertools

import pytest

from cascadenced.events.base import Event
from cascadenced.events.run import RunFailed, RunFinished, RunHeld, RunRefused, RunRequested, RunResumed, RunStarted
from cascadenced.events.stage import StageFailed, StageFinished, StageInterrupted, StageStarted
from cascadenced.pipeline.decide import decide, verdict
from cascadenced.pipeline.model import STAGES, Run, evolve, fold
from tests.examples import every_event, example, run_of
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
    run = fold([*started("run"), example(StageStarted), example(RunHeld), example(RunResumed)])
    assert (run.status, run.reason, run.current) == ("running", None, "run")


def test_events_of_other_families_change_nothing():
    run = fold(started("run"))
    own = (RunRequested, RunStarted, RunHeld, RunResumed, RunFinished, RunFailed, RunRefused)
    others = [e for e in every_event() if not isinstance(e, (*own, StageStarted, StageFinished, StageFailed))]
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


def test_being_held_is_not_a_crash():
    """Each start without the vault's key begins the stage and then waits; nothing has died."""
    held = [
        event
        for n in range(9)
        for event in (example(StageStarted, attempt=n + 1), example(RunHeld, code="identity_missing"))
    ]
    assert verdict(fold([*started("run"), *held])) == "resume"


def test_a_held_run_goes_on_where_it_was():
    given(*started("run"), example(StageStarted), example(RunHeld)).when_the_daemon_starts_again().then(
        RunResumed(task="example"), StageStarted(task="example", stage="run", attempt=2, code="c0de", skipped=SKIPPED)
    )


def test_a_run_held_between_stages_goes_on_with_the_next():
    given(
        *started("plan", "run"),
        example(StageStarted, stage="plan"),
        example(StageFinished, stage="plan"),
        example(RunHeld),
    ).when_the_daemon_starts_again().then(RunResumed, StageStarted)


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
