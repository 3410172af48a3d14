"""Chaos, in its short form: `make crash` goes on for as long as one likes."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from cascadenced.crashpoint import CRASHPOINTS
from tests.crash.chaos import PASSES, Blow, blows, chaos, replay

N_ROUNDS = 12

ACKNOWLEDGES_FIRST = """
import threading
from cascadenced.eventlog.sqlite import SqliteEventLog

def commit(self, waiting):
    batch = self._tail.sequence(waiting, self._heads_of, self._positions_of)
    self._tell(lambda: self._committed(batch))
    threading.Event().wait(0.05)
    if batch.recorded:
        self._write_batch(batch)
    self._tail.advance(batch)

SqliteEventLog._commit = commit
"""


def test_the_same_seed_deals_the_same_blows() -> None:
    assert blows(3, 50) == blows(3, 50)
    assert blows(3, 50) != blows(4, 50)


def test_every_crash_point_comes_before_any_comes_again() -> None:
    hit = [blow.at.partition(":")[0] for blow in blows(1, 100) if blow.at]
    n = len(PASSES)
    assert set(hit[:n]) == set(hit[n : 2 * n]) == set(PASSES)


def test_every_crash_point_that_such_a_load_passes_is_hit_under_load() -> None:
    elsewhere = ("backup.", "restore.", "repair.", "step.")  # the last are in the sweep of durable runs
    assert {name for name in CRASHPOINTS if not name.startswith(elsewhere)} == set(PASSES)


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_nothing_is_lost_or_done_twice_however_often_the_daemon_is_killed(tmp_path: Path) -> None:
    seed = random.randrange(10**6)
    outcome = await chaos(tmp_path, seed, blows(seed, N_ROUNDS), print)
    assert outcome.faults == [], f"{outcome.told}\nAgain: {replay(seed, N_ROUNDS)}"


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_a_daemon_that_acknowledges_before_it_commits_is_found_out(tmp_path: Path) -> None:
    dealt = [Blow("crash at", at="append.before_commit:40"), Blow("kill", 1.0)]
    outcome = await chaos(tmp_path, 1, dealt, print, settle_within_s=4, defect=ACKNOWLEDGES_FIRST)
    assert any(fault.startswith("nothing_acknowledged_is_lost") for fault in outcome.faults)
