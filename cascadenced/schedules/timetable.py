"""A rule as it was set → its due instants."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from functools import lru_cache
from zoneinfo import ZoneInfo

from cascadenced.errors import Invalid
from cascadenced.events.schedule import ScheduleSet
from cascadenced.recurrence.cron_text import parse_cron
from cascadenced.recurrence.dst import Dst, parse_dst
from cascadenced.recurrence.due import Due as Occurrence
from cascadenced.recurrence.due import Recurrence, following, next_due, next_occurrence
from cascadenced.recurrence.exclusions import ExcludedSpans, Exclusions, parse_dates
from cascadenced.recurrence.explain import Answer, at
from cascadenced.recurrence.interval import parse_interval
from cascadenced.recurrence.one_off import parse_one_off
from cascadenced.recurrence.zones import Zone, zone
from cascadenced.schedules.decide import Due

_REMEMBERED = 4_096


class Timetable:
    """When a rule is due. Made by `timetable`, shared by all schedules with the same rule; knows no clock.

    Those who share it ask the same one after the other, so the last answer of `due` is remembered.
    """

    __slots__ = ("_answer", "_dst", "_exclusions", "_recurrence", "_zone")

    def __init__(self, recurrence: Recurrence, zone: Zone, dst: Dst, exclusions: Exclusions) -> None:
        self._recurrence, self._zone, self._dst, self._exclusions = recurrence, zone, dst, exclusions
        self._answer: tuple[int, Due, int] | None = None  # (after, the one that is due, the one that comes next)

    def without(self, spans: ExcludedSpans) -> Timetable:
        """The same, and nothing fires during these."""
        return Timetable(self._recurrence, self._zone, self._dst, Exclusions(self._exclusions.dates, spans))

    def why(self, when: str | int) -> Answer:
        """Why a local time, or an instant (ISO 8601 with an offset, or µs since 1970), is due or not. Raises Invalid
        for what is neither. Exclusions are told of by `due`."""
        return at(self._recurrence, self._zone, self._dst, when=when)

    def due(self, after_us: int, until_us: int, at_most: int) -> list[Due]:
        """The instants after one and up to another, those that the rule leaves out among them; the first `at_most`."""
        if self._answer is not None:
            asked_us, only, next_us = self._answer
            if asked_us == after_us and only.at_us <= until_us < next_us:
                return [only]
        found: list[Due] = []
        for occurrence in following(self._recurrence, self._zone, self._dst, after_us=after_us):
            if occurrence.at_us > until_us or len(found) == at_most:
                if len(found) == 1 and occurrence.at_us > until_us:
                    self._answer = after_us, found[0], occurrence.at_us
                break
            found.append(self._due(occurrence))
        return found

    def following(self, after_us: int) -> Iterator[Due]:
        """All of them after an instant, without end."""
        return map(self._due, following(self._recurrence, self._zone, self._dst, after_us=after_us))

    def next_us(self, after_us: int) -> int | None:
        """The next instant that has to be settled, whether it fires or not; None if there is none any more."""
        if self._answer is not None and self._answer[1].at_us == after_us:
            return self._answer[2]
        found = next_occurrence(self._recurrence, self._zone, self._dst, after_us=after_us)
        return None if found is None else found.at_us

    def next_fire_us(self, after_us: int) -> int | None:
        """The next instant that fires."""
        found = next_due(self._recurrence, self._zone, self._dst, after_us=after_us)
        while found is not None and self._exclusions.reason(found) is not None:
            after_us = max(found.at_us, self._exclusions.spans.end(found.at_us) - 1)
            found = next_due(self._recurrence, self._zone, self._dst, after_us=after_us)
        return None if found is None else found.at_us

    def shown(self, at_us: int) -> str:
        """ISO 8601 with the zone's offset at that instant."""
        return shown(at_us, self._zone.name)

    def _due(self, occurrence: Occurrence) -> Due:
        code: str | None = occurrence.note
        fires = occurrence.fires
        if fires and (excluded := self._exclusions.reason(occurrence)) is not None:
            code, fires = excluded.code, False
        return Due(occurrence.at_us, occurrence.local, code, fires, occurrence.missing_local)


def shown(at_us: int, zone: str) -> str:
    """ISO 8601 with the offset that the zone has at that instant."""
    return datetime.fromtimestamp(at_us // 1_000_000, ZoneInfo(zone)).isoformat()


def timetable(rule: ScheduleSet) -> Timetable | None:
    """None for one whose calendar node was not read yet. Raises Invalid for a rule that was never checked."""
    if rule.expr is None and rule.rrule is None and rule.every_s is None and rule.at is None:
        return None
    anchor_us = rule.from_us if rule.expr is None and rule.at is None else 0
    name = rule.task if rule.expr is not None and "H" in rule.expr else ""
    return _timetable(
        rule.expr, rule.rrule, rule.every_s, rule.at, anchor_us, name, rule.zone, rule.gap, rule.fold, rule.exclude
    )


def timetable_now(rule: ScheduleSet) -> Timetable | None:
    """As `timetable`, and None as well for a rule that was good and is none now: the data of zones change."""
    try:
        return timetable(rule)
    except Invalid:
        return None


@lru_cache(maxsize=_REMEMBERED)
def _timetable(
    expr: str | None,
    rrule: str | None,
    every_s: float | None,
    at: str | None,
    anchor_us: int,
    name: str,
    timezone: str,
    gap: str,
    fold: str,
    exclude: tuple[str, ...],
) -> Timetable:
    where = zone(timezone)
    recurrence: Recurrence
    if expr is not None:
        recurrence = parse_cron(expr, task=name)
    elif rrule is not None:
        from cascadenced.recurrence.rrule_text import parse_rrule  # few use it, and it brings dateutil

        recurrence = parse_rrule(rrule, zone=where, anchor_us=anchor_us)
    elif every_s is not None:
        recurrence = parse_interval(every_s, anchor_us=anchor_us)
    else:
        recurrence = parse_one_off(at)
    return Timetable(recurrence, where, parse_dst(gap=gap, overlap=fold), Exclusions(parse_dates(exclude)))
