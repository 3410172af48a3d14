"""The benchmarks still run, and report what they found. No speed is asserted."""

from __future__ import annotations

import json
import subprocess
import sys
from math import isfinite
from xml.etree import ElementTree

import msgspec
import pytest

from bench import publish, report
from bench.apart import ROOT, Failed, from_process, measured
from bench.catalogue import BENCHMARKS
from bench.chart import Bar, Group, svg
from bench.peers.catalogue import BENCHMARKS as AGAINST_PEERS
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
    # What one more stage costs is a difference, which in this size and in a noisy moment may be less than nothing.
    assert all(isinstance(value, int | float) and isfinite(value) for value in figures.values())


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


def test_a_figure_can_have_a_goal_of_its_own() -> None:
    alone = Benchmark("alone", "one side", (A,), (Ratio("a", "a.mib", goal=Goal(81, at_most=True)),))

    found = summary(alone, [{"a": {"mib": 60.0}}, {"a": {"mib": 90.0}}, {"a": {"mib": 70.0}}])

    assert (found.ratios[0].median, found.ratios[0].met, found.ratios[0].absolute) == (70, True, True)
    assert "  a  70  goal ≤ 81  met" in report.text("alone", found).splitlines()


def test_a_goal_that_is_a_ceiling_is_met_below_it() -> None:
    assert Goal(3, at_most=True).met(2.9)
    assert not Goal(3, at_most=True).met(3.1)


def test_a_measurement_that_fails_says_what_it_wrote_last() -> None:
    with pytest.raises(Failed, match="the disk is made of cheese"):
        from_process([sys.executable, "-c", "raise SystemExit('the disk is made of cheese')"], "a")


def test_every_ratio_and_every_bar_of_the_chart_names_a_side_that_is_measured() -> None:
    everything = (*BENCHMARKS, *AGAINST_PEERS)
    sides = {(benchmark.name, side.name) for benchmark in everything for side in benchmark.sides}

    named = {(b.name, path.partition(".")[0]) for b in everything for r in b.ratios for path in r.figures}
    drawn = {tuple(path.split(".")[:2]) for _, bars in publish.CHART_OF for _, path, _ in bars}

    assert named | drawn <= sides


def test_the_chart_is_an_image_with_a_bar_for_each_value_and_the_longest_ends_inside() -> None:
    text = svg([Group("Runs & more", [Bar("ours", 1234.5, True), Bar("theirs", 12.25, False)])], "a machine")

    image = ElementTree.fromstring(text)
    bars = image.findall("{http://www.w3.org/2000/svg}rect")
    width = float(image.attrib["viewBox"].split()[2])
    assert [bar.attrib["class"] for bar in bars] == ["ours", "other"]
    assert float(bars[0].attrib["x"]) + float(bars[0].attrib["width"]) < width
    assert "1,234" in text
    assert "12.2" in text


def test_new_tables_take_the_place_of_the_old_ones_and_of_nothing_else() -> None:
    page = "before\n<!-- tables -->\nold\n<!-- end of tables -->\nafter\n"

    assert publish.with_tables(page, "new") == "before\n<!-- tables -->\n\nnew\n<!-- end of tables -->\nafter\n"


def test_a_page_without_a_place_for_tables_is_left_alone() -> None:
    with pytest.raises(ValueError, match="must have"):
        publish.with_tables("no marks", "new")


def test_the_tables_of_a_written_report_read_as_they_were_printed() -> None:
    found = summary(BOTH, [{"a": {"per_s": 4.0}, "b": {"per_s": 2.0}}])
    machine = dict.fromkeys(("date", "cascadenced", "system", "python", "sqlite", "nats_server"), "x")
    written = msgspec.json.encode(
        {"machine": {**machine, "cpus": 2, "load": 0.1}, "size": "full", "n_rounds": 1, "benchmarks": {"both": found}}
    )

    read = msgspec.json.decode(written, type=publish.Report)

    assert report.text("both", found).rstrip() in publish.tables([read])
