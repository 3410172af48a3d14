"""`make crash`: chaos, the sweep of durable runs and power cuts, as many as one likes. Ends with 1 if anything is wrong
and says how to replay."""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.crash.chaos import blows, chaos, replay
from tests.crash.disk import why_not
from tests.crash.power import judged, record
from tests.crash.sweep import replay as sweep_again
from tests.crash.sweep import sweep

IMAGES_A_RECORDING = 2_000


def main() -> int:
    options = argparse.ArgumentParser(prog="make crash")
    options.add_argument("--seed", type=int, default=random.randrange(10**6))
    options.add_argument("--rounds", type=int, default=50, help="lives of the daemon under load, each ended by a blow")
    options.add_argument("--kills", type=int, default=600, help="short lives of daemons with durable runs")
    options.add_argument("--worlds", type=int, default=3, help="side by side, for these")
    options.add_argument("--power", type=int, default=4_000, help="disks after a power cut")
    asked = options.parse_args()
    # All of them, also when the first has found something.
    results = [
        asyncio.run(_chaos(asked.seed, asked.rounds)) if asked.rounds else True,
        asyncio.run(_sweep(asked.seed, asked.kills, asked.worlds)) if asked.kills else True,
        asyncio.run(_power(asked.seed, asked.power)) if asked.power else True,
    ]
    return 0 if all(results) else 1


async def _chaos(seed: int, n_rounds: int) -> bool:
    folder, began = Path(tempfile.mkdtemp(prefix="crash-")), time.monotonic()
    print(f"chaos: {replay(seed, n_rounds)} (the same blows again; timing is the machine's)")
    outcome = await chaos(folder, seed, blows(seed, n_rounds), lambda line: print(line, flush=True))
    print(f"{outcome.told}; {time.monotonic() - began:.0f} s")
    if not outcome.faults:
        shutil.rmtree(folder)
        print("chaos: nothing lost, nothing done twice")
        return True
    print(*outcome.faults, sep="\n")
    print(f"error: {len(outcome.faults)} faults; the data folder is {folder}/data; again: {replay(seed, n_rounds)}")
    return False


async def _sweep(seed: int, n_kills: int, n_worlds: int) -> bool:
    folder = Path(tempfile.mkdtemp(prefix="sweep-"))
    again = sweep_again(seed, n_kills, n_worlds)
    print(f"sweep: {again} (the same blows again; timing is the machine's)")
    outcome = await sweep(folder, seed, n_kills, lambda line: print(line, flush=True), n_worlds=n_worlds)
    print(outcome.told)
    if not outcome.faults:
        shutil.rmtree(folder)
        print("sweep: no effect lost, none repeated whose end was recorded")
        return True
    print(*outcome.faults, sep="\n")
    print(f"error: {len(outcome.faults)} faults; the data folders are in {folder}; again: {again}")
    return False


async def _power(seed: int, n_images: int) -> bool:
    if why_not() is not None:
        print(f"power cuts: skipped, {why_not()}")
        return True
    began, n_calls, n_found = time.monotonic(), 0, 0
    for start in range(0, n_images, IMAGES_A_RECORDING):
        of_this, n = seed + start // IMAGES_A_RECORDING, min(IMAGES_A_RECORDING, n_images - start)
        with tempfile.TemporaryDirectory(prefix="power-") as folder:
            recording, events = await record(Path(folder), of_this)
        n_calls += len(recording.calls)
        found = await judged(recording, events, of_this, n)
        for one in found:
            print(one)
        n_found += len(found)
        print(f"power cuts: {start + n} of {n_images}, {n_found} faults", flush=True)
    print(f"power cuts: {n_images} disks of {n_calls} recorded calls; {time.monotonic() - began:.0f} s")
    if n_found:
        print(f"error: {n_found} faults; again: make crash SEED={seed} N=0 POWER={n_images}")
    return n_found == 0


if __name__ == "__main__":
    sys.exit(main())
