"""Months under fire: whatever happens, each due instant has one record; and planted bugs are found."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.schedules import planted
from tests.schedules.fire import month

N_MONTHS = 40
_FOUND_WITHIN = 40


def test_the_same_seed_is_the_same_month_to_the_last_byte() -> None:
    first, again = month(7, traced=True), month(7, traced=True)
    assert first.trace == again.trace
    assert first.digest == again.digest
    assert month(8).digest != first.digest


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_in_forty_months_each_due_instant_has_one_record() -> None:
    found, total = list[str](), Counter[str]()
    for seed in range(N_MONTHS):
        outcome = month(seed)
        total.update(outcome.figures)
        found += [f"{fault} (make ledger SEED={seed})" for fault in outcome.faults]
    assert found == []
    assert total["lives"] > 3 * N_MONTHS, "they are too quiet to find anything"
    assert total["fired"] > 20 * N_MONTHS
    assert total["passed"] > 20 * N_MONTHS


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", planted.BUGS)
def test_a_planted_bug_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    planted.BUGS[name](monkeypatch.setattr)
    assert any(month(seed).faults for seed in range(_FOUND_WITHIN)), f"{_FOUND_WITHIN} months did not find it"
