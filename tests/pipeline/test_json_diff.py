"""Where two JSON values differ."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from cascadenced.pipeline.json_diff import differences, same


@pytest.mark.parametrize(
    ("left", "right", "found"),
    [
        ({"a": 1}, {"a": 2}, [(".a", 1, 2)]),
        ({"a": [1, {"b": 2}]}, {"a": [1, {"b": 3}]}, [(".a[1].b", 2, 3)]),
        ([1, 2], [1], [("[1]", 2, UNSET)]),
        ({}, {"new": None}, [(".new", UNSET, None)]),
        ({"a b": 1}, {"a b": 2}, [('["a b"]', 1, 2)]),
        (1, "1", [("", 1, "1")]),
        (1, 1.0, [("", 1, 1.0)]),
        (True, 1, [("", True, 1)]),
        ({"a": {}}, {"a": []}, [(".a", {}, [])]),
        ({"b": 1, "a": 1}, {"a": 1, "b": 1}, []),
        (None, None, []),
    ],
)
def test_the_smallest_parts_that_differ_are_named_by_their_paths(left: Any, right: Any, found: list[Any]):
    assert [(d.path, d.left, d.right) for d in differences(left, right)] == found


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=8,
)


@given(_JSON, _JSON)
def test_a_value_is_the_same_as_itself_and_differences_are_mutual(left: Any, right: Any):
    assert same(left, left)
    assert {(d.path, repr(d.left), repr(d.right)) for d in differences(left, right)} == {
        (d.path, repr(d.right), repr(d.left)) for d in differences(right, left)
    }
