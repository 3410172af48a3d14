"""Percentiles. Needs nothing that is not in Python: the peers import it as well."""

from __future__ import annotations


def percentile(values: list[float], percent: float) -> float:
    """The smallest value that at least `percent` of `values` do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]
