"""Calendar files that schedules name in `exclude_ics`: read, kept, and read again when they change.

Whoever needs the timetable of a rule asks here, so that each file is read in one place. The last good content of a file
counts as long as the process lives, whatever becomes of the file.
"""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path
from weakref import WeakValueDictionary

import msgspec

from cascadenced.clock import Clock
from cascadenced.errors import Invalid, Unavailable
from cascadenced.events.schedule import ScheduleSet
from cascadenced.recurrence.exclusions import ExcludedSpans
from cascadenced.recurrence.ics import spans_of
from cascadenced.schedules.timetable import Timetable, timetable, timetable_now

MAX_BYTES = 4 * 1024 * 1024
_DAY_US = 86_400_000_000
BACK_US, FORTH_US = 366 * _DAY_US, 731 * _DAY_US
"""How far from now events are looked for."""
_STALE_US = 30 * _DAY_US
"""After so much time it is another now."""


_MISSING = "there is no such file"


class ExclusionsUnknown(Unavailable):
    """The calendar that a schedule is not to fire during was never read, and cannot be."""


class _Known(msgspec.Struct):
    """seen: what changes when the file does.  spans: the last good ones.  problem: why these are not the file's."""

    seen: object
    now_us: int
    spans: ExcludedSpans | None
    problem: str | None


class CalendarFiles:
    """folder: where relative paths begin."""

    def __init__(self, clock: Clock, folder: Path) -> None:
        self._clock, self._folder = clock, folder
        self._known: dict[tuple[str, str], _Known] = {}
        self._reading: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()

    async def check(self, rule: ScheduleSet) -> None:
        """Raises Invalid for a rule whose calendar cannot be read as it is now."""
        if rule.exclude_ics is not None and (problem := (await self._read(rule, rule.exclude_ics)).problem) is not None:
            if problem == _MISSING and not Path(rule.exclude_ics).is_absolute():
                problem += " (its path begins in the folder of schedules.yml)"
            raise Invalid(f"exclude_ics: {rule.exclude_ics}: {problem}", code="exclude_ics")

    async def timetable(self, rule: ScheduleSet) -> Timetable | None:
        """When a rule is due. Raises ExclusionsUnknown."""
        table = timetable(rule)
        if table is None or rule.exclude_ics is None:
            return table
        known = await self._read(rule, rule.exclude_ics)
        if known.spans is None:
            raise ExclusionsUnknown(f"exclude_ics: {rule.exclude_ics}: {known.problem}", code="exclude_ics")
        return table.without(known.spans)

    async def shown(self, rule: ScheduleSet) -> Timetable | None:
        """As `timetable`; where its calendar was never read, without it, and None for a rule that is none any more."""
        try:
            return await self.timetable(rule)
        except (ExclusionsUnknown, Invalid):
            return timetable_now(rule)

    async def problem(self, rule: ScheduleSet) -> str | None:
        """Why the file that a rule names cannot be read, if it cannot."""
        return None if rule.exclude_ics is None else (await self._read(rule, rule.exclude_ics)).problem

    def since_us(self, rule: ScheduleSet) -> int | None:
        """From when on it is known what a rule's calendar excludes; None if it names none."""
        return None if rule.exclude_ics is None else self._clock.now_us() - BACK_US + _STALE_US

    async def _read(self, rule: ScheduleSet, path: str) -> _Known:
        key = (path, rule.zone)
        async with self._reading.setdefault(key, asyncio.Lock()):
            where, now_us, old = self._folder / path, self._clock.now_us(), self._known.get(key)
            seen = _seen(where)
            if old is not None and old.seen == seen and abs(now_us - old.now_us) < _STALE_US:
                return old
            spans, problem = None if old is None else old.spans, None
            try:
                spans = await asyncio.to_thread(_spans, where, rule.zone, now_us)
            except Invalid as error:
                problem = str(error)
            known = self._known[key] = _Known(seen, now_us, spans, problem)
            return known


def _spans(path: Path, zone: str, now_us: int) -> ExcludedSpans:
    return spans_of(_content(path), zone=zone, from_us=now_us - BACK_US, until_us=now_us + FORTH_US)


def _content(path: Path) -> bytes:
    try:
        is_file = stat.S_ISREG(path.stat().st_mode)
        data = b""
        if is_file:  # of others, opening or reading may never end
            with path.open("rb") as file:
                data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise Invalid(_MISSING) from None
    except (OSError, ValueError) as error:
        raise Invalid(f"it cannot be read ({type(error).__name__})") from None
    if not is_file:
        raise Invalid("it is not a file")
    if len(data) > MAX_BYTES:
        raise Invalid(f"it has more than {MAX_BYTES} bytes")
    return data


def _seen(path: Path) -> object:
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
