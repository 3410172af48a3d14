"""What is owed is struck out when it is seen, and only then."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from cascadenced.runtime.owed import Owed

KEYS = ("stage", "stage1", "audit", "audit1", "audit2", "task_run")


def name(position: int, key: str = "audit", *, timeline: int = 0) -> str:
    return f"{position:024x}{(position * 2_654_435_761 + timeline) % 2**32:08x}.{key}"


def owing(*positions: int) -> Owed:
    owed = Owed()
    for position in positions:
        owed.add(position, name(position))
    return owed


def test_nothing_is_owed_at_first() -> None:
    assert (Owed().n, list(Owed().positions())) == (0, [])


def test_each_message_of_an_event_is_owed_by_itself() -> None:
    owed = Owed()
    for key in KEYS:
        owed.add(7, name(7, key))
        owed.add(7, name(7, key))
    assert owed.n == len(KEYS)
    assert owed.strike(7, name(7, "audit1"))
    assert owed.strike(7, name(7, "audit1"))
    assert owed.n == len(KEYS) - 1
    assert not owed.holds(7, name(7, "audit1"))
    assert owed.holds(7, name(7, "audit"))


def test_another_event_at_the_same_position_strikes_nothing_out() -> None:
    owed = owing(7)
    assert not owed.strike(7, name(7, timeline=1))
    assert owed.n == 1


def test_what_is_no_id_strikes_nothing_out() -> None:
    owed = owing(7)
    for nonsense in ("", "x", "z" * 40, "audit", "é" * 32):
        assert not owed.strike(7, nonsense)
    assert not owed.strike(10**17, name(7))
    assert owed.n == 1


def test_what_lies_below_can_be_forgiven() -> None:
    owed = owing(1, 4_095, 4_096, 4_097, 9_000)
    owed.forgive(4_097)
    assert (owed.n, list(owed.positions())) == (2, [4_097, 9_000])
    owed.forgive(10**9)
    assert (owed.n, list(owed.positions())) == (0, [])


@given(st.sets(st.tuples(st.integers(1, 20_000), st.sampled_from(KEYS))), st.randoms(use_true_random=False))
def test_what_is_left_is_what_was_added_and_not_seen(added: set[tuple[int, str]], chance: random.Random) -> None:
    owed = Owed()
    for position, key in added:
        owed.add(position, name(position, key))
    seen = {message for message in added if chance.random() < 0.5}
    for position, key in seen:
        owed.strike(position, name(position, key))
    left = added - seen
    assert owed.n == len(left)
    assert list(owed.positions()) == sorted({position for position, _ in left})
    assert all(owed.holds(position, name(position, key)) == ((position, key) in left) for position, key in added)
