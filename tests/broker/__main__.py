"""`make broker`: as many breaks as one likes. Ends with 1 if anything is wrong and says how to repeat it."""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.broker.sweep import deal, replay, sweep


def main() -> int:
    options = argparse.ArgumentParser(prog="make broker")
    options.add_argument("--seed", type=int, default=random.randrange(10**6))
    options.add_argument("--breaks", type=int, default=60)
    asked = options.parse_args()
    again, began, n_faults = replay(asked.seed, asked.breaks), time.monotonic(), 0
    print(f"{again} (the same breaks again; timing is the machine's)", flush=True)
    for number, (stage, names) in enumerate(deal(asked.seed, asked.breaks)):
        folder = Path(tempfile.mkdtemp(prefix="broker-"))
        try:
            asyncio.run(sweep(folder, stage, names, asked.seed + number, lambda line: print(line, flush=True)))
        except AssertionError as error:
            n_faults += 1
            print(f"error: {error}; the folder is {folder}", flush=True)
        else:
            shutil.rmtree(folder)
    print(f"{asked.breaks} breaks, {n_faults} faults; {time.monotonic() - began:.0f} s")
    if n_faults:
        print(f"error: {n_faults} faults; again: {again}")
    return 1 if n_faults else 0


if __name__ == "__main__":
    sys.exit(main())
