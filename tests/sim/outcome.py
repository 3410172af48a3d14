"""What comes of a world, or of anything else that a seed makes happen; and how it is told in a terminal."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import msgspec

_SHOWN_FAULTS = 5


class Outcome(msgspec.Struct, frozen=True):
    """faults: what is wrong, each a sentence.  digest: of all that survived.  trace: lines, if they were asked for."""

    seed: int
    faults: Sequence[str]
    digest: str
    figures: dict[str, int]
    trace: Sequence[str] = ()


def tell_one(outcome: Outcome) -> int:
    """With its trace. Returns the exit code."""
    print(*outcome.trace, sep="\n")
    print(f"seed {outcome.seed}: {_told(outcome.figures)}; digest {outcome.digest[:16]}")
    print(*outcome.faults or ["nothing is wrong"], sep="\n")
    return 1 if outcome.faults else 0


def tell_many(outcomes: Iterable[Outcome], what: str, again: Callable[[int], str]) -> int:
    """what: they are called, in the plural.  again: a seed → the command that shows it. Returns the exit code."""
    began, n, n_bad, total = time.monotonic(), 0, 0, Counter[str]()
    for outcome in outcomes:
        n += 1
        total.update(outcome.figures)
        if outcome.faults:
            n_bad += 1
            _complain(outcome, again(outcome.seed))
    took_s = time.monotonic() - began
    print(f"{n} {what}, {n_bad} with faults; {_told(total)}; {took_s:.0f} s, {n / took_s:.1f} {what}/s")
    return 1 if n_bad else 0


def _complain(outcome: Outcome, again: str) -> None:
    print(f"seed {outcome.seed}: {len(outcome.faults)} faults; again, with all that happened: {again}")
    for fault in outcome.faults[:_SHOWN_FAULTS]:
        print(f"  {fault}")
    sys.stdout.flush()


def _told(figures: dict[str, int]) -> str:
    return ", ".join(f"{n} {name}" for name, n in figures.items())
