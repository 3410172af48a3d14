"""The words of a measurement."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any

import msgspec

Figures = dict[str, float]
"""What one measurement of one round found; the unit is in the name."""

Measure = Callable[..., Figures]
"""(n, **fixed) → Figures. n: how much work, in the unit that its docstring states."""


class Size(StrEnum):
    """How much work a round does. TINY only shows that everything still runs."""

    FULL = "full"
    QUICK = "quick"
    TINY = "tiny"


class Side(msgspec.Struct, frozen=True):
    """One thing that is measured once a round. sizes: `n` for each Size.  fixed: its other arguments, JSON."""

    name: str
    measure: Measure
    sizes: tuple[int, int, int]
    fixed: Mapping[str, Any] = {}

    def n(self, size: Size) -> int:
        return self.sizes[list(Size).index(size)]


class Goal(msgspec.Struct, frozen=True):
    """must, aim: bounds of a ratio. at_most: the ratio should stay below them, instead of reaching them."""

    must: float
    aim: float | None = None
    at_most: bool = False

    def met(self, value: float) -> bool:
        return value <= self.must if self.at_most else value >= self.must

    def __str__(self) -> str:
        sign = "≤" if self.at_most else "≥"
        return f"{sign} {self.must:g}" + (f", aim {self.aim:g}" if self.aim is not None else "")


class Ratio(msgspec.Struct, frozen=True):
    """`of` ÷ `to`, both `side.figure`, taken within each round. Without a `to` it is the figure itself that has a goal:
    one that is promised in absolute units."""

    name: str
    of: str
    to: str | None = None
    goal: Goal | None = None

    @property
    def figures(self) -> tuple[str, ...]:
        return (self.of,) if self.to is None else (self.of, self.to)


class Benchmark(msgspec.Struct, frozen=True):
    """Sides that are measured one after the other in every round. about: the workload."""

    name: str
    about: str
    sides: tuple[Side, ...]
    ratios: tuple[Ratio, ...] = ()
