"""What a task may ask for beside its stages: retries above all. Pure, and the same at every restart."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st

from cascadenced.errors import Invalid, TimeUp
from cascadenced.pipeline.model import STAGES
from cascadenced.pipeline.policy import LONGEST_S, MAX_ATTEMPTS, Limits, Policy, Retry
from cascadenced.plugins.options import MAX_CONCURRENT, policy_of

# ── what makes sense ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_without_a_word_a_stage_that_raises_is_tried_three_times():
    assert Retry().max_attempts == 3


@pytest.mark.parametrize(
    "fields",
    [
        {"max_attempts": 1},
        {"max_attempts": MAX_ATTEMPTS},
        {"initial_s": 0},
        {"initial_s": LONGEST_S, "max_s": LONGEST_S},
        {"factor": 1, "jitter": 0},
        {"factor": 100, "jitter": 1},
        {"retry_on": ()},
        {"retry_on": (ValueError, "TimeoutError"), "give_up_on": (KeyboardInterrupt,)},
    ],
    ids=str,
)
def test_what_lies_within_the_bounds_is_accepted(fields):
    Retry(**fields)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_attempts", 0),
        ("max_attempts", -1),
        ("max_attempts", MAX_ATTEMPTS + 1),
        ("max_attempts", True),
        ("max_attempts", "3"),
        ("max_attempts", None),
        ("max_attempts", 2.5),
        ("max_attempts", 3.0),
        ("initial_s", -0.1),
        ("initial_s", LONGEST_S + 1),
        ("initial_s", math.nan),
        ("initial_s", math.inf),
        ("factor", 0.5),
        ("factor", 101),
        ("factor", math.nan),
        ("max_s", -1),
        ("max_s", math.inf),
        ("jitter", -0.1),
        ("jitter", 1.1),
        ("jitter", False),
        ("retry_on", ValueError),
        ("retry_on", [ValueError]),
        ("retry_on", (ValueError(),)),
        ("retry_on", (int,)),
        ("retry_on", (7,)),
        ("give_up_on", "ValueError"),
        ("give_up_on", None),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused_naming_field_and_value(field: str, value: Any):
    with pytest.raises(Invalid, match=f"^Retry: {field} must be ") as caught:
        Retry(**{field: value})
    assert repr(value) in str(caught.value)


def test_a_misspelt_field_is_refused():
    with pytest.raises(TypeError, match="max_attemps"):
        Retry(max_attemps=3)  # type: ignore[call-arg]


# ── which errors ─────────────────────────────────────────────────────────────────────────────────────────────────────


class Teapot(ValueError):
    pass


@pytest.mark.parametrize(
    ("retry", "error", "wanted"),
    [
        (Retry(), ValueError(), True),
        (Retry(), KeyboardInterrupt(), False),
        (Retry(), TimeUp("late"), True),
        (Retry(retry_on=(ValueError,)), Teapot(), True),
        (Retry(retry_on=(ValueError,)), KeyError(), False),
        (Retry(retry_on=("ValueError",)), Teapot(), True),
        (Retry(retry_on=("Teapot",)), Teapot(), True),
        (Retry(retry_on=("Teapot",)), ValueError(), False),
        (Retry(retry_on=(f"{__name__}:Teapot",)), Teapot(), True),
        (Retry(retry_on=("TimeoutError",)), TimeUp("late"), True),
        (Retry(retry_on=()), ValueError(), False),
        (Retry(give_up_on=(Teapot,)), Teapot(), False),
        (Retry(give_up_on=("Teapot",)), Teapot(), False),
        (Retry(give_up_on=("ValueError",)), Teapot(), False),
        (Retry(give_up_on=(Teapot,)), ValueError(), True),
        (Retry(retry_on=(Teapot,), give_up_on=(ValueError,)), Teapot(), False),
    ],
    ids=lambda value: str(value)[:80],
)
def test_an_error_is_tried_again_for_its_class_or_one_above_it_unless_one_says_to_give_up(retry, error, wanted):
    assert retry.wants(error) is wanted


@pytest.mark.parametrize(
    ("retry", "wanted"),
    [
        (Retry(), True),
        (Retry(retry_on=("ValueError",)), True),
        (Retry(retry_on=("Teapot",)), True),
        (Retry(retry_on=(Teapot,)), True),
        (Retry(retry_on=("shop:Teapot",)), True),
        (Retry(retry_on=(KeyError, "KeyError")), False),
        (Retry(give_up_on=(ValueError,)), False),
        (Retry(give_up_on=("Teapot",)), False),
    ],
    ids=str,
)
def test_of_an_error_in_another_process_the_names_decide(retry, wanted):
    lineage = (
        f"{__name__}:Teapot", "shop:Teapot", "builtins:ValueError", "builtins:Exception", "builtins:BaseException"
    )  # fmt: skip
    assert retry.wants_named(lineage) is wanted


class NameExits(type):
    @property
    def __name__(cls) -> str:  # type: ignore[override]
        raise SystemExit(3)


class Hostile(Exception, metaclass=NameExits):
    pass


def test_a_class_with_code_of_its_own_for_its_name_is_not_asked():
    assert Retry(retry_on=("Hostile",)).wants(Hostile())


# ── how long apart ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_delays_grow_by_the_factor_up_to_the_longest():
    retry = Retry(initial_s=1, factor=3, max_s=20, jitter=0)
    assert [retry.delay_s(n, "seed") for n in range(1, 6)] == [1, 3, 9, 20, 20]


def test_jitter_is_the_same_whenever_it_is_asked_for():
    retry = Retry(initial_s=10, jitter=0.5)
    assert retry.delay_s(1, "a") == retry.delay_s(1, "a")


def test_jitter_sets_apart_runs_that_failed_together():
    retry = Retry(initial_s=10, jitter=0.5)
    assert len({retry.delay_s(1, f"run-{n}") for n in range(100)}) == 100


@for_all(
    st.builds(
        Retry,
        initial_s=st.floats(0, LONGEST_S),
        factor=st.floats(1, 100),
        max_s=st.floats(0, LONGEST_S),
        jitter=st.floats(0, 1),
    ),
    st.integers(1, MAX_ATTEMPTS),
    st.text(max_size=20),
)
def test_no_delay_is_negative_or_beyond_the_longest_and_its_jitter(retry, n_failed, seed):
    assert 0 <= retry.delay_s(n_failed, seed) <= retry.max_s * (1 + retry.jitter)


# ── from a task's attributes ─────────────────────────────────────────────────────────────────────────────────────────


def options(**attributes: Any) -> Policy:
    return policy_of(type("T", (), attributes), "t")


def test_a_task_that_asks_for_nothing_has_the_defaults():
    assert options() == Policy()


def test_one_value_holds_for_every_stage():
    policy = options(retries=Retry(max_attempts=2), timeout_s=30)
    assert policy.retries == dict.fromkeys(STAGES, Retry(max_attempts=2))
    assert policy.timeout_s == dict.fromkeys(STAGES, 30.0)


def test_a_mapping_holds_for_the_stages_it_names():
    policy = options(retries={"run": Retry()}, timeout_s={"plan": 5, "run": 0.5})
    assert (set(policy.retries), policy.timeout_s) == ({"run"}, {"plan": 5.0, "run": 0.5})


@pytest.mark.parametrize(
    ("attributes", "said"),
    [
        ({"retries": 3}, "retries must be a Retry, or a mapping of stages to them, not 3"),
        ({"retries": Retry}, "retries must be a Retry"),
        ({"retries": {"run": 3}}, r"retries\['run'\] must be a Retry"),
        ({"retries": {"runs": Retry()}}, "retries names the stage 'runs'; there are intake, research"),
        ({"timeout_s": 0}, "timeout_s must be a number of seconds above 0"),
        ({"timeout_s": -1}, "timeout_s must be"),
        ({"timeout_s": math.nan}, "timeout_s must be"),
        ({"timeout_s": math.inf}, "timeout_s must be"),
        ({"timeout_s": True}, "timeout_s must be"),
        ({"timeout_s": "30"}, "timeout_s must be"),
        ({"timeout_s": {"execute": 3}}, "timeout_s names the stage 'execute'"),
        ({"timeout_s": {"run": None}}, r"timeout_s\['run'\] must be"),
        ({"delivery": "exactly_once"}, "delivery must be 'at_least_once' or 'at_most_once', not 'exactly_once'"),
        ({"on_doubt": "shrug"}, "on_doubt must be 'ask' or 'retry' or 'fail'"),
        ({"on_code_change": True}, "on_code_change must be"),
        ({"isolation": "vm"}, "isolation must be 'thread' or 'process', not 'vm'"),
        ({"limits": Limits(cpu_s=1)}, "limits need isolation = 'process'"),
        ({"limits": {"cpu_s": 1}, "isolation": "process"}, "limits must be a Limits, not a dict"),
        ({"max_concurrent": 0}, "max_concurrent must be a whole number from 1"),
        ({"max_concurrent": 1.0}, "max_concurrent must be"),
        ({"max_concurrent": True}, "max_concurrent must be"),
        ({"max_concurrent": MAX_CONCURRENT + 1}, "max_concurrent must be"),
    ],
    ids=str,
)
def test_what_a_task_cannot_ask_for_is_refused_naming_task_and_attribute(attributes, said):
    with pytest.raises(Invalid, match=f"^Task 't'.*{said}"):
        options(**attributes)
