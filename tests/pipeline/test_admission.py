"""May a task run now, and what changes that."""

from __future__ import annotations

from functools import reduce

import pytest

from cascadenced.events.task import TaskDisabled, TaskEnabled, TaskPaused, TaskRegistered, TaskResumed
from cascadenced.pipeline.admission import TaskState, decide_switch, evolve_task, refusal
from tests.examples import every_event, example


def after(*switches: str) -> TaskState:
    """The state of a task whose switches were used in this order."""
    state = TaskState()
    for switch in switches:
        state = reduce(evolve_task, decide_switch("demo", state, switch), state)
    return state


@pytest.mark.parametrize(
    ("before", "switch", "event"),
    [
        ([], "disable", TaskDisabled),
        (["disable"], "enable", TaskEnabled),
        ([], "pause", TaskPaused),
        (["pause"], "resume", TaskResumed),
    ],
)
def test_a_switch_that_changes_something_is_recorded(before, switch, event):
    assert decide_switch("demo", after(*before), switch) == [event(task="demo")]


@pytest.mark.parametrize(
    ("before", "switch"), [([], "enable"), (["disable"], "disable"), (["pause"], "pause"), ([], "resume")]
)
def test_a_switch_that_changes_nothing_records_nothing(before, switch):
    assert decide_switch("demo", after(*before), switch) == []


def test_enabling_does_not_resume():
    assert after("disable", "pause", "enable") == TaskState(paused=True)


def test_resuming_does_not_enable():
    assert after("disable", "pause", "resume") == TaskState(disabled=True)


def test_registering_again_changes_no_switch():
    state = evolve_task(after("disable", "pause"), example(TaskRegistered))
    assert (state.disabled, state.paused) == (True, True)


def test_what_was_registered_last_is_remembered():
    events = [example(TaskRegistered, code="1"), example(TaskRegistered, code="2")]
    assert reduce(evolve_task, events, TaskState()).registered == events[1]


def test_other_events_change_no_task():
    own = (TaskRegistered, TaskEnabled, TaskDisabled, TaskPaused, TaskResumed)
    state = after("disable")
    assert all(evolve_task(state, event) is state for event in every_event() if not isinstance(event, own))


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (None, ("unknown_task", "Unknown task: demo")),
        (after("disable"), ("disabled", "Task 'demo' is disabled")),
        (after("pause"), ("paused", "Task 'demo' is paused")),
        (after(), None),
        (after("disable", "enable", "pause", "resume"), None),
    ],
)
def test_a_task_that_may_not_run_is_refused_in_these_words(state, expected):
    assert refusal("demo", state) == expected


def test_a_task_both_disabled_and_paused_is_refused_as_disabled():
    assert refusal("demo", after("pause", "disable"))[0] == "disabled"
