"""What a run may be told."""

from __future__ import annotations

from typing import Any

import pytest

from cascadenced.errors import IllShaped, Invalid
from cascadenced.pipeline.contexts import checked_context, checked_kind, checked_message


@pytest.mark.parametrize(
    "value", [{"note": "hello"}, {"url": "https://x"}, {"note": "a", "url": "b"}, {"note": "x" * 2048}]
)
def test_a_message_is_a_note_a_url_or_both(value: dict[str, str]) -> None:
    assert checked_message(value) == value


def test_what_is_null_is_not_there() -> None:
    assert checked_message({"note": "hello", "url": None}) == {"note": "hello"}


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({}, "note or url is required"),
        ({"note": ""}, "note or url is required"),
        ({"note": " ", "url": None}, "note or url is required"),
        ({"note": 7}, "note must be a string"),
        ({"url": ["x"]}, "url must be a string"),
        ({"note": "x" * 2049}, "note exceeds maximum length"),
        ({"url": "x" * 2049}, "url exceeds maximum length"),
        ({"note": "x" * 2000, "url": "y" * 2000}, "context payload too large"),
    ],
)
def test_a_message_that_cannot_be_one_is_refused_in_the_predecessors_words(value: Any, said: str) -> None:
    with pytest.raises(Invalid, match=f"^{said}$") as caught:
        checked_message(value)
    assert not isinstance(caught.value, IllShaped)


@pytest.mark.parametrize("value", [None, [], "text", 7, {"note": "x", "more": 1}, {"": "x"}])
def test_what_is_not_such_an_object_has_the_wrong_shape(value: Any) -> None:
    with pytest.raises(IllShaped):
        checked_message(value)


@pytest.mark.parametrize("value", [{"amount": 7}, [1, 2], "text", None, {"note": "x", "more": 1}])
def test_code_and_operators_may_tell_a_run_anything(value: Any) -> None:
    assert checked_context(value) == value


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"note": 7}, "note must be a string"),
        ({"url": "x" * 2049}, "url exceeds maximum length"),
        ({"amount": "x" * 3072}, "context payload too large"),
        ("x" * 3071, "context payload too large"),
    ],
)
def test_they_may_not_tell_it_too_much(value: Any, said: str) -> None:
    with pytest.raises(Invalid, match=f"^{said}$"):
        checked_context(value)


def test_there_is_one_kind_of_signal() -> None:
    checked_kind("context")
    with pytest.raises(Invalid, match="^unsupported signal kind$"):
        checked_kind("unknown")
