"""Rounds → what to report: medians, spread, and ratios taken within each round."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable

import msgspec

from bench.sides import Benchmark, Figures, Ratio, Side, Size

Round = dict[str, Figures]
"""By side."""


class Figure(msgspec.Struct, frozen=True):
    """One figure over all rounds."""

    median: float
    min: float
    max: float
    rounds: list[float]


class RatioFound(msgspec.Struct, frozen=True, omit_defaults=True):
    """goal, met: None where there is no goal.  absolute: a figure, not a ratio."""

    name: str
    median: float
    rounds: list[float]
    goal: str | None = None
    met: bool | None = None
    absolute: bool = False


class Result(msgspec.Struct, frozen=True):
    """One benchmark. sides: figures by side and name."""

    about: str
    sides: dict[str, dict[str, Figure]]
    ratios: list[RatioFound]


Take = Callable[[Side, Size], Figures]


def interleaved(benchmark: Benchmark, size: Size, n_rounds: int, take: Take) -> list[Round]:
    """Measure every side once a round, in turn; every second round backwards, so that no side is always the first."""
    taken = []
    for n in range(n_rounds):
        order = benchmark.sides if n % 2 == 0 else benchmark.sides[::-1]
        found = {side.name: take(side, size) for side in order}
        taken.append({side.name: found[side.name] for side in benchmark.sides})
    return taken


def summary(benchmark: Benchmark, rounds: list[Round]) -> Result:
    """A ratio whose sides were not measured is left out."""
    sides = {
        side: {name: _figure([found[side][name] for found in rounds]) for name in figures}
        for side, figures in rounds[0].items()
    }
    return Result(benchmark.about, sides, [_ratio(ratio, rounds) for ratio in _possible(benchmark.ratios, sides)])


def _possible(ratios: Iterable[Ratio], sides: dict[str, dict[str, Figure]]) -> list[Ratio]:
    return [
        ratio for ratio in ratios if all(figure in sides.get(side, {}) for side, figure in map(_split, ratio.figures))
    ]


def _ratio(ratio: Ratio, rounds: list[Round]) -> RatioFound:
    (side, name), *beside = map(_split, ratio.figures)
    values = [found[side][name] / (found[beside[0][0]][beside[0][1]] if beside else 1.0) for found in rounds]
    median = statistics.median(values)
    found = RatioFound(ratio.name, median, values, absolute=not beside)
    if ratio.goal is None:
        return found
    return msgspec.structs.replace(found, goal=str(ratio.goal), met=ratio.goal.met(median))


def _figure(values: list[float]) -> Figure:
    return Figure(statistics.median(values), min(values), max(values), values)


def _split(path: str) -> tuple[str, str]:
    side, _, name = path.partition(".")
    return side, name
