"""`make sim`: as many worlds as one likes. Ends with 1 if anything is wrong and says how to have it again."""

from __future__ import annotations

import argparse
import sys

from tests.sim import planted
from tests.sim.outcome import tell_many, tell_one
from tests.sim.runner import outcomes, replay
from tests.sim.world import simulate


def main() -> int:
    options = argparse.ArgumentParser(prog="make sim")
    options.add_argument("--seeds", type=int, default=1_000, help="worlds")
    options.add_argument("--first", type=int, default=0, help="seed of the first one")
    options.add_argument("--seed", type=int, help="this world only, with its trace")
    options.add_argument("--bug", choices=sorted(planted.BUGS), help="plant it, to see whether it is found")
    asked = options.parse_args()
    if asked.seed is None:
        found = outcomes(range(asked.first, asked.first + asked.seeds), bug=asked.bug)
        return tell_many(found, "worlds", lambda seed: replay(seed, asked.bug))
    if asked.bug is not None:
        planted.plant(asked.bug)
    return tell_one(simulate(asked.seed, traced=True))


if __name__ == "__main__":
    sys.exit(main())
