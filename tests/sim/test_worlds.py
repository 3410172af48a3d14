"""Worlds: the same seed is the same world, what happens in them is in order, and planted bugs are found."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter

import pytest

from tests.sim import planted
from tests.sim.runner import outcomes, replay
from tests.sim.world import simulate

N_WORLDS = 60


def test_the_same_seed_is_the_same_world_to_the_last_byte() -> None:
    first, again = simulate(7, traced=True), simulate(7, traced=True)
    assert first.trace == again.trace
    assert first.digest == again.digest


def test_another_seed_is_another_world() -> None:
    assert len({simulate(seed).digest for seed in range(5)}) == 5


@pytest.mark.slow
def test_a_world_is_the_same_in_another_process_that_hashes_differently() -> None:
    code = "from tests.sim.world import simulate\nfor seed in range(12): print(simulate(seed).digest)"
    told = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": hashes}, capture_output=True, check=True
        ).stdout
        for hashes in ("1", "2")
    }
    assert len(told) == 1


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_sixty_worlds_are_in_order() -> None:
    faults: list[str] = []
    total = Counter[str]()
    for outcome in outcomes(range(N_WORLDS)):
        total.update(outcome.figures)
        faults += [f"{fault} ({replay(outcome.seed)})" for fault in outcome.faults]
    assert faults == []
    assert total["lives"] > 3 * N_WORLDS, "they are too quiet to find anything"
    assert total["effects"] > 10 * N_WORLDS


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", planted.BUGS)
def test_a_planted_bug_is_found(name: str) -> None:
    with planted.planted(name):
        within = planted.BUGS[name].within
        assert any(simulate(seed).faults for seed in range(within)), f"{within} worlds did not find it"


def test_what_is_planted_is_pulled_out_again() -> None:
    with planted.planted("projections_skip_an_event"):
        assert simulate(0).faults
    assert not simulate(0).faults


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_other_processes_have_the_bug_that_was_asked_for() -> None:
    assert all(outcome.faults for outcome in outcomes(range(3), bug="the_next_start_is_an_append_of_its_own"))
