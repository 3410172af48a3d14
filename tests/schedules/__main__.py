"""`make ledger`: as many months under fire as one likes. Ends with 1 if anything is wrong."""

from __future__ import annotations

import argparse
import sys

from tests.schedules.fire import month
from tests.schedules.months import outcomes
from tests.sim.outcome import tell_many, tell_one


def main() -> int:
    options = argparse.ArgumentParser(prog="make ledger")
    options.add_argument("--seeds", type=int, default=1_000, help="months")
    options.add_argument("--first", type=int, default=0, help="seed of the first one")
    options.add_argument("--seed", type=int, help="this month only, with its trace")
    asked = options.parse_args()
    if asked.seed is None:
        found = outcomes(range(asked.first, asked.first + asked.seeds))
        return tell_many(found, "months", lambda seed: f"make ledger SEED={seed}")
    return tell_one(month(asked.seed, traced=True))


if __name__ == "__main__":
    sys.exit(main())
