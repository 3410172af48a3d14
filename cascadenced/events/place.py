"""Where in a stage's code a step or a wait stands.

"3" is the third one that the stage's own task has come to. Tasks which that has started, to work beside it, are its
branches 1, 2, …, and may have some themselves: "2.1:3" is the third one of the first branch of branch 2.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

MAX_PLACE_CHARS = 200

Place = Annotated[
    str, msgspec.Meta(pattern=r"^(([1-9][0-9]*(\.[1-9][0-9]*)*:)?[1-9][0-9]*)?$", max_length=MAX_PLACE_CHARS)
]
"""Empty where there is none: at the wait for the runs of a plan."""


def place_in(branch: str, n: int) -> Place:
    """branch: "" for the stage's own task."""
    return f"{branch}:{n}" if branch else str(n)


def in_order(place: Place) -> tuple[tuple[int, ...], int]:
    """A key to sort places by: each branch after what it was started from, and in it the first one first."""
    branch, _, n = place.rpartition(":")
    return tuple(map(int, branch.split("."))) if branch else (), int(n)


def in_words(place: Place) -> str:
    branch, _, n = place.rpartition(":")
    return f"place {n} of branch {branch}" if branch else f"place {n}"
