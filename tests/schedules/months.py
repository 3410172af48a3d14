"""Many months, in as many processes as there are processors."""

from __future__ import annotations

import gc
import multiprocessing
import os
from collections.abc import Iterable, Iterator

from tests.schedules.fire import month
from tests.sim.outcome import Outcome

_MONTHS_A_PROCESS = 200
"""Then another process takes over: whatever a month may leave in memory goes with it."""


def outcomes(seeds: Iterable[int]) -> Iterator[Outcome]:
    """What came of each month, in the order of the seeds."""
    # Not forked: a child would inherit what the parent has begun, and it may be anything.
    with multiprocessing.get_context("spawn").Pool(
        os.cpu_count(), initializer=_begin, maxtasksperchild=_MONTHS_A_PROCESS
    ) as pool:
        yield from pool.imap(month, seeds)


def _begin() -> None:
    month(0)  # imports what is imported late
    gc.collect()
    gc.freeze()
