"""The benchmarks still run, and report what they found. No speed is asserted."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from bench import report
from bench.apart import ROOT, Failed, from_process, measured
from bench.catalogue import BENCHMARKS
from bench.rounds import interleaved, summary
from bench.sides import Benchmark, Figures, Goal, Ratio, Side, Size


def one_of_each_measure() -> list[Side]:
    sides = {side.measure: side for benchmark in BENCHMARKS for side in benchmark.sides}
    return list(sides.values())


@pytest.mark.slow
@pytest.mark.parametrize("side", one_of_each_measure(), ids=lambda side: f"{side.measure.__module__}.{side.name}")
def test_every_measurement_runs_in_its_smallest_size(side: Side) -> None:
    figures = measured(side, Size.TINY)

    assert figures
    assert all(isinstance(value, int | float) and value >= 0 for value in figures.values())


@pytest.mark.slow
def test_the_command_prints_a_table_and_writes_the_same_figures_as_json(tmp_path) -> None:
    out = tmp_path / "figures.json"
    command = [sys.executable, "-m", "bench", "--size", "tiny", "--rounds", "1", "--only", "idle", "--json", str(out)]

    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout

    found = json.loads(out.read_text())
    assert found["machine"]["python"] in printed
    (ratio,) = found["benchmarks"]["idle"]["ratios"]
    assert f"{ratio['name']}  {report.number(ratio['median'])}x" in printed


def nothing(n: int) -> Figures:
    raise AssertionError("measured elsewhere")


A = Side("a", nothing, (30, 20, 10))
B = Side("b", nothing, (30, 20, 10))
BOTH = Benchmark("both", "two sides", (A, B), (Ratio("a to b", "a.per_s", "b.per_s", Goal(2)),))


def test_sides_take_turns_and_every_second_round_goes_backwards() -> None:
    order = []

    def take(side: Side, size: Size) -> Figures:
        order.append((side.name, side.n(size)))
        return {"per_s": 1.0}

    interleaved(BOTH, Size.QUICK, 2, take)

    assert order == [("a", 20), ("b", 20), ("b", 20), ("a", 20)]


def test_a_ratio_is_taken_within_each_round_and_its_median_is_compared_with_the_goal() -> None:
    rounds = [
        {"a": {"per_s": 10.0}, "b": {"per_s": 10.0}},
        {"a": {"per_s": 90.0}, "b": {"per_s": 30.0}},
        {"a": {"per_s": 50.0}, "b": {"per_s": 20.0}},
    ]

    found = summary(BOTH, rounds)

    assert found.sides["a"]["per_s"].median == 50
    assert (found.ratios[0].median, found.ratios[0].rounds, found.ratios[0].met) == (2.5, [1, 3, 2.5], True)


def test_a_ratio_with_a_side_that_was_not_measured_is_left_out() -> None:
    assert summary(BOTH, [{"a": {"per_s": 1.0}}]).ratios == []


def test_a_goal_that_is_a_ceiling_is_met_below_it() -> None:
    assert Goal(3, at_most=True).met(2.9)
    assert not Goal(3, at_most=True).met(3.1)


def test_a_measurement_that_fails_says_what_it_wrote_last() -> None:
    with pytest.raises(Failed, match="the disk is made of cheese"):
        from_process([sys.executable, "-c", "raise SystemExit('the disk is made of cheese')"], "a")
