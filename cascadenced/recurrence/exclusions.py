"""When a schedule is not to fire although it is due: on some days, and during some stretches of time."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from datetime import date
from typing import NamedTuple

from cascadenced.errors import Invalid
from cascadenced.recurrence.due import Due
from cascadenced.recurrence.walls import local_of

MAX_DATES = 1000


class Excluded(NamedTuple):
    """Why. code: excluded.date or excluded.span.  what: the date, or the summary of the span."""

    code: str
    what: str


class ExcludedSpans:
    """Stretches of time, from an instant (inclusive) to another (exclusive), each with a summary such as "Easter".

    They may overlap; then the one that began first gives the summary. Immutable.
    """

    def __init__(self, spans: Iterable[tuple[int, int, str]] = ()) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._summaries: list[str] = []
        for start_us, end_us, summary in sorted(spans):
            start_us = max(start_us, self._ends[-1]) if self._ends else start_us
            if start_us < end_us:
                self._starts.append(start_us)
                self._ends.append(end_us)
                self._summaries.append(summary)

    def __len__(self) -> int:
        return len(self._starts)

    def at(self, at_us: int) -> str | None:
        """The summary of the span that the instant lies in."""
        found = self._find(at_us)
        return None if found is None else self._summaries[found]

    def end(self, at_us: int) -> int:
        """The end of the span that the instant lies in; the instant itself if it lies in none."""
        found = self._find(at_us)
        return at_us if found is None else self._ends[found]

    def _find(self, at_us: int) -> int | None:
        found = bisect_right(self._starts, at_us) - 1
        return found if found >= 0 and at_us < self._ends[found] else None


_NO_SPANS = ExcludedSpans()


class Exclusions(NamedTuple):
    """dates: of local times as they were asked for, whatever instant the rule of changing clocks made of them."""

    dates: frozenset[date] = frozenset()
    spans: ExcludedSpans = _NO_SPANS

    def reason(self, due: Due) -> Excluded | None:
        """Why `due` is not to fire; None if it is."""
        if self.dates:
            day = local_of(due.wall_s).date()
            if day in self.dates:
                return Excluded("excluded.date", day.isoformat())
        summary = self.spans.at(due.at_us)
        return None if summary is None else Excluded("excluded.span", summary)


def parse_dates(texts: object) -> frozenset[date]:
    """Dates as YYYY-MM-DD, or as YAML has read them already. Raises Invalid (exclude.dates)."""
    if not isinstance(texts, list | tuple) or len(texts) > MAX_DATES:
        raise Invalid(f"'exclude' must be a list of at most {MAX_DATES} dates", code="exclude.dates")
    return frozenset(_date(text) for text in texts)


def _date(text: object) -> date:
    if type(text) is date:
        return text
    if isinstance(text, str) and len(text) == len("2025-12-24"):
        try:
            return date.fromisoformat(text)
        except ValueError:
            pass
    raise Invalid("'exclude' must list dates that there are, such as 2025-12-24", code="exclude.dates")
