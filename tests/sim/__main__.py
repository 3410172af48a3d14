"""`make sim`: as many worlds as one likes. Ends with 1 if anything is wrong and says how to have it again."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

from tests.sim import planted
from tests.sim.runner import outcomes, replay
from tests.sim.world import Outcome, simulate

_SHOWN_FAULTS = 5


def main() -> int:
    options = argparse.ArgumentParser(prog="make sim")
    options.add_argument("--seeds", type=int, default=1_000, help="worlds")
    options.add_argument("--first", type=int, default=0, help="seed of the first one")
    options.add_argument("--seed", type=int, help="this world only, with its trace")
    options.add_argument("--bug", choices=sorted(planted.BUGS), help="plant it, to see whether it is found")
    asked = options.parse_args()
    return _one(asked.seed, asked.bug) if asked.seed is not None else _many(asked.first, asked.seeds, asked.bug)


def _one(seed: int, bug: str | None) -> int:
    if bug is not None:
        planted.plant(bug)
    outcome = simulate(seed, traced=True)
    print(*outcome.trace, sep="\n")
    print(f"seed {seed}: {_told(outcome.figures)}; digest {outcome.digest[:16]}")
    print(*outcome.faults or ["nothing is wrong"], sep="\n")
    return 1 if outcome.faults else 0


def _many(first: int, n: int, bug: str | None) -> int:
    began, n_bad, total = time.monotonic(), 0, Counter[str]()
    for outcome in outcomes(range(first, first + n), bug=bug):
        total.update(outcome.figures)
        if outcome.faults:
            n_bad += 1
            _complain(outcome, bug)
    took_s = time.monotonic() - began
    print(f"{n} worlds, {n_bad} with faults; {_told(total)}; {took_s:.0f} s, {n / took_s:.1f} worlds/s")
    return 1 if n_bad else 0


def _complain(outcome: Outcome, bug: str | None) -> None:
    print(f"seed {outcome.seed}: {len(outcome.faults)} faults; again, with all that happened: ", end="")
    print(replay(outcome.seed, bug))
    for fault in outcome.faults[:_SHOWN_FAULTS]:
        print(f"  {fault}")
    sys.stdout.flush()


def _told(figures: dict[str, int]) -> str:
    return ", ".join(f"{n} {name}" for name, n in figures.items())


if __name__ == "__main__":
    sys.exit(main())
