"""Many worlds, in as many processes as there are processors; or one again, with its trace."""

from __future__ import annotations

import gc
import multiprocessing
import os
from collections.abc import Iterable, Iterator

from tests.sim import planted
from tests.sim.outcome import Outcome
from tests.sim.world import simulate

_WORLDS_A_PROCESS = 200
"""Then another process takes over: whatever a world may leave in memory goes with it."""


def replay(seed: int, bug: str | None = None) -> str:
    """The command that lets one world happen again, and prints its trace."""
    return f"make sim SEED={seed}" + (f" BUG={bug}" if bug else "")


def outcomes(seeds: Iterable[int], *, bug: str | None = None, n_processes: int | None = None) -> Iterator[Outcome]:
    """What came of each world, in the order of the seeds.

    bug: a name of `planted.BUGS`, planted in all of them.
    """
    n_processes = n_processes or os.cpu_count() or 1
    # Not forked: a child would inherit what the parent has begun, and it may be anything.
    with multiprocessing.get_context("spawn").Pool(
        n_processes, initializer=_begin, initargs=(bug,), maxtasksperchild=_WORLDS_A_PROCESS
    ) as pool:
        yield from pool.imap(simulate, seeds)


def _begin(bug: str | None) -> None:
    if bug is not None:
        planted.plant(bug)
    simulate(0)  # imports what is imported late
    gc.collect()
    gc.freeze()
