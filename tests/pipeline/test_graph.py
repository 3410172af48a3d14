"""Tasks that must run before others: their order, and how they are drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st

from cascadenced.errors import Invalid
from cascadenced.pipeline.graph import Graph, as_dot, as_mermaid, as_text, graph


def of(needs: Mapping[str, Sequence[str]], task: str = "a") -> Graph:
    return graph(task, lambda name: needs.get(name, ()))


def test_what_is_needed_comes_first_and_once() -> None:
    """TC 86: A → {B, C}, B → C: C, B, A."""
    found = of({"a": ["b", "c"], "b": ["c"]})
    assert list(found.order) == ["c", "b", "a"]
    assert found.edges == {"a": ("b", "c"), "b": ("c",), "c": ()}


def test_a_task_without_needs_is_alone() -> None:
    assert list(of({}).order) == ["a"]


@pytest.mark.parametrize(
    ("needs", "cycle"),
    [
        ({"a": ["a"]}, "a -> a"),
        ({"a": ["b"], "b": ["a"]}, "a -> b -> a"),
        ({"a": ["b"], "b": ["c"], "c": ["b"]}, "b -> c -> b"),
        ({"a": ["x", "b"], "b": ["c"], "c": ["a"]}, "a -> b -> c -> a"),
    ],
)
def test_a_cycle_is_named(needs: Mapping[str, Sequence[str]], cycle: str) -> None:
    """TC 87"""
    with pytest.raises(Invalid, match=f"^Cyclic dependency detected: {cycle}$"):
        of(needs)


def test_a_chain_may_be_long_and_is_bounded() -> None:
    assert len(of({str(n): [str(n + 1)] for n in range(998)}, "0").order) == 999
    with pytest.raises(Invalid, match="^0 needs more than 1000 tasks$"):
        of({str(n): [str(n + 1)] for n in range(2_000)}, "0")


@for_all(st.dictionaries(st.integers(0, 8), st.lists(st.integers(0, 8), max_size=4), max_size=9))
def test_every_order_has_each_task_after_all_it_needs(numbers: dict[int, list[int]]) -> None:
    needs = {str(name): [str(each) for each in those if each > name] for name, those in numbers.items()}
    found = of(needs, "0")
    assert len(set(found.order)) == len(found.order)
    for name in found.order:
        assert all(found.order.index(needed) < found.order.index(name) for needed in found.edges[name])


DIAMOND = {"a": ["b", "c"], "b": ["d"], "c": ["d"], "d": ["e"]}


def test_a_tree_names_again_what_it_has_shown() -> None:
    assert as_text(of(DIAMOND)) == "\n".join(["a", "├─ b", "│  └─ d", "│     └─ e", "└─ c", "   └─ d (see above)"])


def test_arrows_point_from_what_runs_first() -> None:
    assert as_mermaid(of({"a": ["b"]})) == 'graph TD\n    t0["b"]\n    t1["a"]\n    t0 --> t1'
    assert as_dot(of({"a": ["b"]})) == 'digraph tasks {\n    "b";\n    "a";\n    "b" -> "a";\n}'


def test_names_cannot_break_out_of_the_drawing() -> None:
    assert '"x&quot;]&lt;b&gt;"' in as_mermaid(of({}, 'x"]<b>'))
    assert '"x\\"; y"' in as_dot(of({}, 'x"; y'))
