"""`make cron-truth`: the engine against two oracles, around every change of clocks in many zones over 38 years.

The scanner (scanner.py) must agree always. cronsim does not; each difference must be of a kind that
docs/schedules-dst.md explains. A difference that is of none ends the command with 1.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from typing import NamedTuple
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim

from cascadenced.recurrence.cron_text import parse_cron
from cascadenced.recurrence.dst import Dst
from cascadenced.recurrence.due import following
from cascadenced.recurrence.zones import zone as zone_of
from tests.recurrence.expressions import Meaning, as_cronsim_writes, generated
from tests.recurrence.scanner import Walk, changes

FIRST_YEAR, LAST_YEAR = 2000, 2037
_SHOWN = 20
_SHOWN_INSTANTS = 4
_HOUR_S = 3600
_MAX_TICKS = 1_500
"""Of cronsim from one answer to the next; what ends takes less than 200."""
_RULES = [Dst(gap, overlap) for gap in ("shift", "skip") for overlap in ("first", "last", "both")]

KNOWN_ZONES = (
    "America/New_York",
    "Europe/Berlin",
    "Europe/London",
    "Europe/Dublin",
    "Australia/Lord_Howe",
    "Pacific/Apia",
    "America/Havana",
    "America/Sao_Paulo",
    "America/Santiago",
    "America/St_Johns",
    "America/Caracas",
    "Africa/Casablanca",
    "Africa/Cairo",
    "Asia/Beirut",
    "Asia/Tehran",
    "Asia/Pyongyang",
    "Asia/Gaza",
    "Asia/Kathmandu",
    "Pacific/Chatham",
    "Pacific/Norfolk",
    "Antarctica/Troll",
    "Antarctica/Casey",
    "Asia/Colombo",
    "America/Nuuk",
    "Europe/Volgograd",
)


KINDS = {
    "midnight": "the clocks skip midnight, and cronsim fires for the 00:00 that there was not",
    "after midnight": "the clocks skip midnight, and cronsim, which counts hours from there, misses the first one",
    "odd": "the clocks change by half an hour, or not at a full hour, and cronsim misses what is due in the hour after",
    "backwards": "the clocks go back within an hour, and cronsim takes its beginning, which was before, for ever",
    "circles": "the clocks go back over midnight, and cronsim jumps back to the first midnight for ever",
}
"""How cronsim differs, and why we do not follow it; docs/schedules-dst.md counts them."""


class Difference(NamedTuple):
    """zone, expression, at_s: the change of clocks.  ours, theirs: what only one of the two has, in local time."""

    zone: str
    expression: str
    at_s: int
    kind: str | None
    ours: tuple[str, ...]
    theirs: tuple[str, ...]


class Outcome(NamedTuple):
    """n_compared: windows of one expression around one change.  wrong: where the scanner disagrees."""

    n_changes: int
    n_compared: int
    wrong: list[str]
    differences: list[Difference]


def distinct_zones(n: int, seed: int) -> list[str]:
    """`KNOWN_ZONES` first, then others, whose clocks all change in different ways, and at all."""
    others = sorted(available_timezones() - set(KNOWN_ZONES))
    random.Random(seed).shuffle(others)
    found: dict[object, str] = {}
    for name in (*KNOWN_ZONES, *others):
        if len(found) == n:
            break
        rule = changes(name, FIRST_YEAR, LAST_YEAR)
        if rule:
            found.setdefault((datetime(FIRST_YEAR, 1, 1, tzinfo=ZoneInfo(name)).utcoffset(), *rule), name)
    return list(found.values())


def compared(zone: str, expressions: list[str], seed: int, last_year: int = LAST_YEAR) -> Outcome:
    """One zone, all its changes up to the last year."""
    chance = random.Random(f"{seed} {zone}")
    meanings = [(text, Meaning(text)) for text in expressions]
    wrong: list[str] = []
    differences: list[Difference] = []
    found = changes(zone, FIRST_YEAR, last_year)
    for at_s, by_s in found:
        reach_s = abs(by_s) + 4 * _HOUR_S
        start_s, end_s = (at_s - reach_s) // 60 * 60, (at_s + reach_s) // 60 * 60
        walk = Walk(zone, start_s - _HOUR_S, end_s + _HOUR_S)
        for text, meaning in meanings:
            ours = _ours(text, zone, start_s, end_s, Dst())
            wrong += _faults(walk, text, meaning, zone, start_s, end_s, Dst(), ours)
            rule = chance.choice(_RULES)
            wrong += _faults(walk, text, meaning, zone, start_s, end_s, rule, _ours(text, zone, start_s, end_s, rule))
            theirs = _theirs(text, zone, start_s, end_s)
            if ours != theirs:
                kind = _kind(meaning, zone, at_s, by_s, ours, theirs)
                only_ours, only_theirs = set(ours) - set(theirs or ()), set(theirs or ()) - set(ours)
                shown = _local(zone, only_ours), _local(zone, only_theirs)
                differences.append(Difference(zone, text, at_s, kind, *shown))
    return Outcome(len(found), len(found) * len(expressions), wrong, differences)


def _ours(text: str, zone: str, start_s: int, end_s: int, rule: Dst) -> list[int]:
    rising = following(parse_cron(text), zone_of(zone), rule, after_us=start_s * 1_000_000 - 1)
    return [due.at_us // 1_000_000 for due in takewhile(lambda due: due.at_us < end_s * 1_000_000, rising) if due.fires]


class _InCircles(Exception):
    """cronsim would never answer."""


class _Cronsim(CronSim):
    """Where midnight comes twice, the original may jump back to the first one for ever."""

    n_ticks = 0

    def tick(self, seconds: int = 1) -> None:
        self.n_ticks += 1
        if self.n_ticks > _MAX_TICKS:
            raise _InCircles
        super().tick(seconds)


def _theirs(text: str, zone: str, start_s: int, end_s: int) -> list[int] | None:
    """None: it never answers, or with the same instant for ever."""
    found: list[int] = []
    before = datetime.fromtimestamp(start_s, ZoneInfo(zone)) - timedelta(seconds=1)
    try:
        steps = _Cronsim(as_cronsim_writes(text), before)
        for at in steps:
            at_s = int(at.timestamp())
            if at_s >= end_s:
                break
            if found and at_s <= found[-1]:
                return None
            found.append(at_s)
            steps.n_ticks = 0
    except _InCircles:
        return None
    return found


def _faults(
    walk: Walk, text: str, meaning: Meaning, zone: str, start_s: int, end_s: int, rule: Dst, ours: list[int]
) -> Iterator[str]:
    truth = [at_s for at_s in walk.due(meaning, gap=rule.gap, overlap=rule.overlap) if start_s <= at_s < end_s]
    if truth != ours:
        missing, extra = (_local(zone, set(a) - set(b)) for a, b in ((truth, ours), (ours, truth)))
        yield f"{zone} {text!r} {rule.gap} {rule.overlap}: missing {missing}, extra {extra}"


def _kind(meaning: Meaning, zone: str, at_s: int, by_s: int, ours: list[int], theirs: list[int] | None) -> str | None:
    """Which of `KINDS`; None: none of them. All are about expressions that go by elapsed time."""
    if not meaning.is_continuous:
        return None
    after = datetime.fromtimestamp(at_s, ZoneInfo(zone))
    before = after.replace(tzinfo=None) - timedelta(seconds=by_s)
    is_odd = by_s % _HOUR_S != 0 or after.minute != 0
    if theirs is None:
        if by_s < 0 and before.date() != after.date():
            return "circles"
        return "backwards" if by_s < 0 and is_odd else None
    only_ours, only_theirs = set(ours) - set(theirs), set(theirs) - set(ours)
    if by_s > 0 and (before.hour, before.minute) == (0, 0) and only_theirs <= {at_s}:
        if not only_ours:
            return "midnight"
        if max(only_ours) < at_s + _HOUR_S and min(only_ours) >= at_s:
            return "after midnight"
    if is_odd and not only_theirs and min(only_ours) >= at_s:
        return "odd"
    return None


def _local(zone: str, instants: set[int]) -> tuple[str, ...]:
    shown = [f"{datetime.fromtimestamp(at_s, ZoneInfo(zone)):%Y-%m-%dT%H:%M%z}" for at_s in sorted(instants)]
    return tuple(shown if len(shown) <= _SHOWN_INSTANTS else [*shown[:_SHOWN_INSTANTS], f"and {len(shown)} in all"])


def main() -> int:
    options = argparse.ArgumentParser(prog="make cron-truth")
    options.add_argument("--zones", type=int, default=60)
    options.add_argument("--expressions", type=int, default=200)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--list", action="store_true", help="every difference to cronsim, one a line")
    asked = options.parse_args()
    began = time.monotonic()
    zones, expressions = distinct_zones(asked.zones, asked.seed), generated(asked.seed, asked.expressions)
    n = len(zones)
    with ProcessPoolExecutor(max_workers=min(os.cpu_count() or 1, 4)) as pool:
        outcomes = list(pool.map(compared, zones, [expressions] * n, [asked.seed] * n))
    return _report(n, len(expressions), outcomes, time.monotonic() - began, listed=asked.list)


def _report(n_zones: int, n_expressions: int, outcomes: list[Outcome], took_s: float, *, listed: bool) -> int:
    wrong = [line for outcome in outcomes for line in outcome.wrong]
    differences = [each for outcome in outcomes for each in outcome.differences]
    unexplained = [each for each in differences if each.kind is None]
    print(
        f"{n_zones} zones, {n_expressions} expressions, {sum(o.n_changes for o in outcomes)} changes of clocks from "
        f"{FIRST_YEAR} to {LAST_YEAR}: {sum(o.n_compared for o in outcomes)} windows in {took_s:.0f} s"
    )
    print(f"scanner: {len(wrong)} differences")
    print(*wrong[:_SHOWN], sep="\n", end="\n" if wrong else "")
    print(f"cronsim: {len(differences)} windows differ, {len(unexplained)} of them unexplained")
    for kind, count in Counter(each.kind for each in differences if each.kind).most_common():
        print(f"  {count:6} {kind}: {KINDS[kind or '']}")
    for each in differences if listed else unexplained[:_SHOWN]:
        at = datetime.fromtimestamp(each.at_s, UTC)
        print(f"  {each.zone} {each.expression!r} at {at:%Y-%m-%dT%H:%MZ}: {each.kind or 'UNEXPLAINED'}")
        print(f"    only ours {' '.join(each.ours)}; only cronsim {' '.join(each.theirs)}")
    return 1 if wrong or unexplained else 0


if __name__ == "__main__":
    sys.exit(main())
