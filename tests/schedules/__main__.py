"""`make ledger`: as many months under fire as one likes. Ends with 1 if anything is wrong."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

from tests.schedules.fire import Outcome, month
from tests.schedules.months import outcomes

_SHOWN_FAULTS = 5


def main() -> int:
    options = argparse.ArgumentParser(prog="make ledger")
    options.add_argument("--seeds", type=int, default=1_000, help="months")
    options.add_argument("--first", type=int, default=0, help="seed of the first one")
    options.add_argument("--seed", type=int, help="this month only, with its trace")
    asked = options.parse_args()
    return _one(asked.seed) if asked.seed is not None else _many(asked.first, asked.seeds)


def _one(seed: int) -> int:
    outcome = month(seed, traced=True)
    print(*outcome.trace, sep="\n")
    print(f"seed {seed}: {_told(outcome.figures)}; digest {outcome.digest[:16]}")
    print(*outcome.faults or ["nothing is wrong"], sep="\n")
    return 1 if outcome.faults else 0


def _many(first: int, n: int) -> int:
    began, n_bad, total = time.monotonic(), 0, Counter[str]()
    for outcome in outcomes(range(first, first + n)):
        total.update(outcome.figures)
        if outcome.faults:
            n_bad += 1
            _complain(outcome)
    took_s = time.monotonic() - began
    print(f"{n} months, {n_bad} with faults; {_told(total)}; {took_s:.0f} s, {n / took_s:.1f} months/s")
    return 1 if n_bad else 0


def _complain(outcome: Outcome) -> None:
    print(f"seed {outcome.seed}: {len(outcome.faults)} faults; again: make ledger SEED={outcome.seed}")
    for fault in outcome.faults[:_SHOWN_FAULTS]:
        print(f"  {fault}")
    sys.stdout.flush()


def _told(figures: dict[str, int]) -> str:
    return ", ".join(f"{n} {name}" for name, n in figures.items())


if __name__ == "__main__":
    sys.exit(main())
