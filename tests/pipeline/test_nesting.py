"""How deep plans may lie within plans."""

from __future__ import annotations

from cascadenced.pipeline.nesting import MAX_ABOVE_ITSELF, MAX_NESTING, may_be_too_deep, refusal

LINE = [f"t{n}" for n in range(MAX_NESTING + 1)]


def test_a_line_of_different_tasks_may_be_as_long_as_the_limit_and_no_longer():
    assert refusal(LINE[:-1]) is None
    assert refusal(LINE) == (
        "plan.too_deep",
        "plans are nested more than 16 deep (… → t11 → t12 → t13 → t14 → t15 → t16): does a task plan itself? Let its "
        "plan() return data, or nothing, where that is to end",
    )


def test_a_task_may_stand_above_itself_a_few_times_and_no_more():
    assert refusal(["a"] * (MAX_ABOVE_ITSELF + 1)) is None
    assert refusal(["a"] * (MAX_ABOVE_ITSELF + 2)) == (
        "plan.cyclic",
        "the task a stands 5 times above itself (a → a → a → a → a → a): it plans itself. Let its plan() return data, "
        "or nothing, where that is to end",
    )


def test_a_task_is_cyclic_that_others_stand_between():
    assert refusal(["a", "b"] * (MAX_ABOVE_ITSELF + 1)) is None
    assert refusal(["a", "b"] * (MAX_ABOVE_ITSELF + 1) + ["a"])[0] == "plan.cyclic"
    assert refusal(["a"] * (MAX_ABOVE_ITSELF + 1) + ["b"]) is None


def test_lists_within_a_plan_have_the_same_name_and_are_no_task():
    assert refusal(["plan"] * MAX_NESTING, is_task=False) is None
    assert refusal(["plan"] * (MAX_NESTING + 1), is_task=False)[0] == "plan.too_deep"


def test_a_line_is_looked_at_as_soon_as_it_may_be_refused():
    refused = [n for n in range(30) if refusal(["a"] * (n + 1)) is not None]
    assert refused == [n for n in range(30) if may_be_too_deep(n)]
