"""Why an instant, or a local time, is due or is not: in a word for machines and a sentence for people."""

from __future__ import annotations

from typing import Literal, NamedTuple

from cascadenced.recurrence.cron import Cron
from cascadenced.recurrence.dst import DEFAULT, Dst
from cascadenced.recurrence.due import Due, Recurrence, next_occurrence
from cascadenced.recurrence.interval import Interval
from cascadenced.recurrence.one_off import LocalOneOff, OneOff, one_off_at, parse_one_off
from cascadenced.recurrence.walls import SECOND_US, shown
from cascadenced.recurrence.zones import Stretch, Zone

Code = Literal[
    "due", "mismatch", "over", "gap.shifted", "gap.merged", "gap.skipped", "gap.passed", "overlap.other", "overlap.both"
]


class Answer(NamedTuple):
    """code: see the sentences below.  sentence: whole.  fires_us: when it fires on that account, rising.

    due                     it fires then (once, although clocks may show that time twice: the sentence says so)
    mismatch                the schedule does not mean it
    over                    the schedule means it, but has ended before
    gap.shifted, gap.merged clocks never show it; it fires at the end of the gap, alone or together with others
    gap.skipped             clocks never show it, and it is skipped
    gap.passed              clocks never show it, and the schedule goes by elapsed time
    overlap.other           clocks show it twice, and it fires at the other of the two
    overlap.both            clocks show it twice, and it fires both times
    """

    code: Code
    sentence: str
    fires_us: tuple[int, ...] = ()


def at(recurrence: Recurrence, zone: Zone, dst: Dst = DEFAULT, *, when: str | int) -> Answer:
    """when: a local time, or an instant with an offset, in ISO 8601; or an instant in µs. Raises Invalid as
    `parse_one_off`."""
    asked = one_off_at(when) if isinstance(when, int) else parse_one_off(when)
    if isinstance(asked, OneOff):
        return _at_instant(recurrence, zone, dst, asked.at_us)
    return _at_wall(recurrence, zone, dst, asked.wall_s)


def _at_instant(recurrence: Recurrence, zone: Zone, dst: Dst, at_us: int) -> Answer:
    wall_s = zone.wall(at_us // SECOND_US)
    due = _due(recurrence, zone, dst, at_us)
    if due is not None and due.fires:
        return Answer("due", _due_sentence(due, zone), (at_us,))
    if isinstance(recurrence, Interval | OneOff) or at_us % SECOND_US or recurrence.at_or_after(wall_s) != wall_s:
        if due is not None:
            return Answer("gap.skipped", _skipped(due.wall_s, zone))
        return Answer("mismatch", _mismatch(recurrence, wall_s, zone))
    if recurrence.last_us is not None and at_us > recurrence.last_us:
        return Answer("over", f"{shown(wall_s)} in {zone.name} is after the end of the schedule.")
    fires_us = _firing(recurrence, zone, dst, zone.instants(wall_s))
    which = "first" if dst.overlap == "first" else "second"
    sentence = f"{shown(wall_s)} is shown twice in {zone.name}; it fires at the {which} of the two, not at this one."
    return Answer("overlap.other", sentence, fires_us)


def _at_wall(recurrence: Recurrence, zone: Zone, dst: Dst, wall_s: int) -> Answer:
    instants = zone.instants(wall_s)
    if not instants:
        return _in_gap(recurrence, zone, dst, wall_s)
    if len(instants) == 1:
        return _at_instant(recurrence, zone, dst, instants[0] * SECOND_US)
    fires_us = _firing(recurrence, zone, dst, instants)
    if len(fires_us) == len(instants):
        return Answer("overlap.both", f"{shown(wall_s)} is shown twice in {zone.name}; it fires both times.", fires_us)
    return _at_instant(recurrence, zone, dst, fires_us[0] if fires_us else instants[0] * SECOND_US)


def _in_gap(recurrence: Recurrence, zone: Zone, dst: Dst, wall_s: int) -> Answer:
    gap = zone.gap(wall_s)
    if gap is None or isinstance(recurrence, Interval | OneOff) or recurrence.at_or_after(wall_s) != wall_s:
        return Answer("mismatch", f"{_no_such_time(wall_s, zone)}. {_mismatch(recurrence, wall_s, zone)}")
    if recurrence.is_continuous:
        why = "the schedule goes by elapsed time, which nothing is missing from"
        return Answer("gap.passed", f"{_no_such_time(wall_s, zone)}; {why}.")
    if dst.gap == "skip":
        return Answer("gap.skipped", _skipped(wall_s, zone))
    return _shifted(recurrence, zone, dst, wall_s, gap)


def _shifted(recurrence: Recurrence, zone: Zone, dst: Dst, wall_s: int, gap: Stretch) -> Answer:
    due = _due(recurrence, zone, dst, gap.start_s * SECOND_US)
    if due is None:
        return Answer("over", f"{_no_such_time(wall_s, zone)}, and the end of the gap is after that of the schedule.")
    end = shown(gap.start_s + gap.offset_s)
    sentence = f"{_no_such_time(wall_s, zone)}; it fires at the end of the gap, {end}"
    if due.note == "gap.merged" or due.missing:
        return Answer("gap.merged", f"{sentence}, once for all that is due there.", (due.at_us,))
    return Answer("gap.shifted", f"{sentence}.", (due.at_us,))


def _due(recurrence: Recurrence, zone: Zone, dst: Dst, at_us: int) -> Due | None:
    found = next_occurrence(recurrence, zone, dst, after_us=at_us - 1)
    return found if found is not None and found.at_us == at_us else None


def _firing(recurrence: Recurrence, zone: Zone, dst: Dst, instants: list[int]) -> tuple[int, ...]:
    dues = (_due(recurrence, zone, dst, at_s * SECOND_US) for at_s in instants)
    return tuple(due.at_us for due in dues if due is not None and due.fires)


def _due_sentence(due: Due, zone: Zone) -> str:
    match due.note:
        case "gap.shifted":
            return f"{_no_such_time(due.wall_s, zone)}; it fires at this instant, the end of the gap."
        case "gap.merged":
            return f"It fires, also for {_listed(due.missing_local)}, which did not exist in {zone.name}."
        case "gap.skipped":
            return f"It fires; {_listed(due.missing_local)} did not exist in {zone.name}, and is skipped."
        case "overlap.first" | "overlap.second":
            which = due.note.removeprefix("overlap.")
            return f"{due.local} is shown twice in {zone.name}; it fires at this instant, the {which} of the two."
    return f"It is due: {due.local} in {zone.name}."


def _listed(times: tuple[str, ...]) -> str:
    return times[0] if len(times) == 1 else f"{times[0]} and {len(times) - 1} more local times"


def _skipped(wall_s: int, zone: Zone) -> str:
    return f"{_no_such_time(wall_s, zone)}, and is skipped."


def _no_such_time(wall_s: int, zone: Zone) -> str:
    return f"The local time {shown(wall_s)} did not exist in {zone.name}"


def _mismatch(recurrence: Recurrence, wall_s: int, zone: Zone) -> str:
    local = f"{shown(wall_s)} in {zone.name}"
    match recurrence:
        case Cron():
            why = recurrence.mismatch(wall_s)
            return f"It does not fire at {local}" + (f": {why}." if why else ".")
        case Interval():
            return f"It does not fire at {local}, which is not a whole number of intervals away from the first instant."
        case LocalOneOff():
            return f"It does not fire at {local}, but once, at {shown(recurrence.wall_s)}."
    return f"It does not fire at {local}: the schedule does not mean that time."
