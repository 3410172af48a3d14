"""The ground truth: what clients asked for, and what they were told.

A key names one wish, however often and through whichever door it was uttered. It is noted before the first byte is
sent, so that nothing can be in the log which is not noted here.
"""

from __future__ import annotations

from collections import Counter
from typing import Literal

import msgspec

Kind = Literal["run", "pointer"]
Outcome = Literal["refused", "unknown", "acknowledged"]
"""unknown: no answer came. What was asked for may or may not have happened, and must not have happened twice."""


class Attempt(msgspec.Struct):
    """n_uttered: times it was sent; those that are neither refused nor acknowledged were not answered.

    run_ids: those that answers named.  results: what runs were said to have returned.
    """

    key: str
    kind: Kind
    n_uttered: int = 0
    n_refused: int = 0
    n_acknowledged: int = 0
    run_ids: set[str] = set()
    results: list[object] = []

    @property
    def outcome(self) -> Outcome:
        """Of the wish as a whole: one acknowledgement is a promise, whatever else was answered."""
        if self.n_acknowledged:
            return "acknowledged"
        return "refused" if self.n_refused == self.n_uttered else "unknown"


class Attempts:
    """All wishes of one chaos, by key."""

    def __init__(self) -> None:
        self.by_key: dict[str, Attempt] = {}

    def uttered(self, key: str, kind: Kind) -> Attempt:
        """About to be sent, for the first time or again."""
        attempt = self.by_key.setdefault(key, Attempt(key, kind))
        attempt.n_uttered += 1
        return attempt

    def with_outcome(self, *outcomes: Outcome) -> list[Attempt]:
        return [attempt for attempt in self.by_key.values() if attempt.outcome in outcomes]

    def told(self) -> str:
        """One line for people."""
        counts = Counter(attempt.outcome for attempt in self.by_key.values())
        return ", ".join(f"{counts[outcome]} {outcome}" for outcome in ("acknowledged", "refused", "unknown"))
