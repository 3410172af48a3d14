"""Names in a class that are nearly those which mean something."""

from __future__ import annotations

from typing import Any

import pytest

from cascadenced.plugins.base import BaseTask
from cascadenced.plugins.misspelt import misspelt


def do(self: Any) -> None: ...


@pytest.mark.parametrize(
    ("name", "value", "near"),
    [
        ("prechek", do, "precheck"),
        ("verfy", do, "verify"),
        ("delivry", "at_most_once", "delivery"),
        ("timeout", 5, "timeout_s"),
        ("max_concurent", 5, "max_concurrent"),
        ("dependancies", ["a"], "dependencies"),
    ],
)
def test_what_is_nearly_a_hook_or_an_option_is_told_with_what_it_is_nearly(name: str, value: Any, near: str) -> None:
    assert misspelt(type("Task", (BaseTask,), {name: value, "run": do})) == {name: near}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("plans", do),
        ("run_all", do),
        ("draw", do),
        ("send", do),
        ("limit", 5),
        ("retries", 5),
        ("names", []),
        ("_rn", do),
    ],
)
def test_words_of_their_own_are_left_alone(name: str, value: Any) -> None:
    assert misspelt(type("Task", (BaseTask,), {name: value, "run": do})) == {}
