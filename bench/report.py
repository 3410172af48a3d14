"""Results → text: an aligned table for each benchmark."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from bench.rounds import RatioFound, Result

_WIDTH = 118


def text(name: str, result: Result) -> str:
    """The benchmark's workload, a line for each side, a line for each ratio."""
    about = textwrap.wrap(f"{name}: {result.about}", _WIDTH, subsequent_indent="  ")
    return "\n".join([*about, *_sides(result), *_ratios(result.ratios), ""])


def _sides(result: Result) -> list[str]:
    names = list(dict.fromkeys(name for figures in result.sides.values() for name in figures))
    several = any(len(figure.rounds) > 1 for figures in result.sides.values() for figure in figures.values())
    rows = [["", *names, *(["±"] if several else [])]]
    for side, figures in result.sides.items():
        row = [side, *(number(figures[name].median) if name in figures else "" for name in names)]
        if several:
            first = next(iter(figures.values()))
            row.append(f"{(first.max - first.min) / 2 / first.median:.0%}")
        rows.append(row)
    # One line for each figure reads better than a line of a dozen columns.
    return [line.rstrip() for line in _aligned([list(column) for column in zip(*rows, strict=True)])]


def _ratios(ratios: Sequence[RatioFound]) -> list[str]:
    rows = []
    for ratio in ratios:
        value = number(ratio.median) + ("" if ratio.absolute else "x")
        rows.append([ratio.name, value, f"goal {ratio.goal}" if ratio.goal else "", _verdict(ratio)])
    return [line.rstrip() for line in _aligned(rows, left=(0, 2, 3))]


def _verdict(ratio: RatioFound) -> str:
    return "" if ratio.met is None else "met" if ratio.met else "not met"


def _aligned(rows: list[list[str]], left: Sequence[int] = (0,)) -> list[str]:
    if not rows:
        return []
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  " + "  ".join(f"{cell:<{width}}" if n in left else f"{cell:>{width}}" for n, (cell, width) in
                         enumerate(zip(row, widths, strict=True)))
        for row in rows
    ]  # fmt: skip


def number(value: float) -> str:
    """Three significant digits, and all before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
