"""A sample of `make cron-truth`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.recurrence.expressions import KNOWN, generated
from tests.recurrence.truth import KINDS, KNOWN_ZONES, compared, distinct_zones

_SOME = [*KNOWN[1:18], *generated(11, 60)[-7:]]


@pytest.mark.parametrize("name", ["America/New_York", "Australia/Lord_Howe", "Africa/Casablanca", "America/St_Johns"])
def test_the_engine_agrees_with_the_scanner_and_with_cronsim_but_for_what_is_explained(name):
    outcome = compared(name, _SOME, seed=3, last_year=2009)
    assert outcome.n_compared > 80
    assert outcome.wrong == []
    assert {each.kind for each in outcome.differences} <= set(KINDS)


def test_the_zones_compared_all_change_their_clocks_differently():
    assert distinct_zones(3, seed=0) == list(KNOWN_ZONES[:3])


def test_each_kind_of_difference_is_explained_in_the_documentation():
    text = (Path(__file__).parents[2] / "docs" / "schedules-dst.md").read_text()
    rows = {line.split("|")[1].strip() for line in text.splitlines() if line.startswith("|")}
    assert set(KINDS) <= rows
