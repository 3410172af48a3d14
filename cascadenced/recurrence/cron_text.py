"""Reading a cron expression, and refusing one in a sentence that says which field and what is allowed there.

Five fields: minute, hour, day of month, month, day of week. In each: `*`, a number, a name, a range `a-b` (it may
wrap: `FRI-MON`, `22-2`), a step `*/n`, `a/n`, `a-b/n`, or a list of these. `L` is the last day of a month; `L5` its
last Friday, `FRI#2` its second one. `H` is a number drawn by the task's name, so that tasks spread over the time they
may run at; `H(a-b)` is one of these, `H/n` a start for a step. `?` is another spelling of `*` for days.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple, NoReturn
from zlib import crc32

from cascadenced.errors import Invalid
from cascadenced.recurrence.cron import Cron, Fields, never

MAX_CHARS = 256

MACROS = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}


class _Field(NamedTuple):
    """place: in the expression; draws depend on it, as croniter's do.  high: the highest number that may be written.

    size: how many different values there are, so that ranges can wrap and Sunday be 7.  drawn_high: the highest that
    `H` draws.
    """

    name: str
    place: int
    low: int
    high: int
    size: int
    drawn_high: int
    names: dict[str, int]
    allowed: str


# fmt: off
_MONTHS = {"JAN": 1, "FEB": 2, "MAR": 3, "APR": 4, "MAY": 5, "JUN": 6,
           "JUL": 7, "AUG": 8, "SEP": 9, "OCT": 10, "NOV": 11, "DEC": 12}
_WEEKDAYS = {"SUN": 0, "MON": 1, "TUE": 2, "WED": 3, "THU": 4, "FRI": 5, "SAT": 6}
# fmt: on

_MINUTE = _Field("minute", 0, 0, 59, 60, 59, {}, "0 to 59")
_HOUR = _Field("hour", 1, 0, 23, 24, 23, {}, "0 to 23")
# `H` alone draws a day that every month has: a task that is drawn the 31st would miss five months of the year.
_DAY = _Field("day of month", 2, 1, 31, 31, 28, {}, "1 to 31 and L")
_MONTH = _Field("month", 3, 1, 12, 12, 12, _MONTHS, "1 to 12 and JAN to DEC")
_WEEKDAY = _Field("day of week", 4, 0, 7, 7, 6, _WEEKDAYS, "0 to 7 (both are Sunday) and SUN to SAT")

_BLANKS = re.compile(r"[ \t]+")
_UNSHOWABLE = re.compile(r"[^ -~\t]")
_TELLING = re.compile(r"[0-9*/,?#()LHWR-]{1,24}")
_ITEM = re.compile(r"(?:(\*)|([0-9A-Z]+)(?:-([0-9A-Z]+))?)(?:/([0-9]+))?")
_DRAWN = re.compile(r"H(?:\(([0-9]{1,3})-([0-9]{1,3})\))?(?:/([0-9]+))?")
_RANDOM = re.compile(r"R(\(.*\))?(/.*)?")
_NTH = re.compile(r"([0-9A-Z]+(?:-[0-9A-Z]+)?)#([0-9]+)")
_LAST = re.compile(r"L([0-9]+)")


def parse_cron(text: object, *, task: str = "") -> Cron:
    """The expression in `text`; `H` is drawn by the name of `task`.

    Raises Invalid: expr.empty, expr.characters, expr.length, expr.fields, expr.macro, expr.value, expr.range,
    expr.step, expr.random, expr.never.
    """
    if not isinstance(text, str) or not text.strip():
        raise Invalid("'expr' must be a non-empty string", code="expr.empty")
    if len(text) > MAX_CHARS:
        raise Invalid(f"'expr' has {len(text)} characters; {MAX_CHARS} are allowed", code="expr.length")
    if _UNSHOWABLE.search(text):
        raise Invalid("'expr' must be one line of printable ASCII characters", code="expr.characters")
    # Most expressions are the same for all tasks: they are read once.
    return _read(text, task if "H" in text.upper() else "")


@lru_cache(maxsize=4096)
def _read(text: str, task: str) -> Cron:
    written = " ".join(_BLANKS.split(text.strip(" \t")))
    upper = written.upper()
    if upper.startswith("@"):
        if upper.lower() not in MACROS:
            raise Invalid(f"'expr' may be one of {', '.join(MACROS)} or have five fields", code="expr.macro")
        upper = MACROS[upper.lower()]
    parts = upper.split(" ")
    if len(parts) != 5:
        raise Invalid(f"Wrong number of fields; got {len(parts)}, expected 5", code="expr.fields")
    minute, hour, day, month, weekday = parts
    days, last = _days(day, task)
    weekdays, nth = _weekdays(weekday, task)
    fields = Fields(
        minutes=_bits(_MINUTE, minute, task),
        hours=_bits(_HOUR, hour, task),
        days=days,
        months=_bits(_MONTH, month, task),
        weekdays=weekdays,
        last=last,
        nth=nth,
        either=day[0] not in "*?" and weekday[0] not in "*?",
        is_continuous=minute[0] == "*" or hour[0] == "*",
    )
    if never(fields):
        raise Invalid("'expr' never comes: none of its months has such a day of month", code="expr.never")
    return _shared(written, fields)


@lru_cache(maxsize=4096)
def _shared(written: str, fields: Fields) -> Cron:
    """Tasks that were drawn the same share one object."""
    return Cron(written, fields)


def _days(part: str, task: str) -> tuple[int, bool]:
    if part == "?":
        part = "*"
    items = part.split(",")
    plain = [item for item in items if item != "L"]
    return _bits(_DAY, ",".join(plain), task) if plain else 0, len(plain) < len(items)


def _weekdays(part: str, task: str) -> tuple[int, tuple[int, ...]]:
    """Every such weekday, and for each weekday which ones of a month."""
    if part == "?":
        part = "*"
    plain, nth = [], [0] * 7
    for item in part.split(","):
        if match := _NTH.fullmatch(item):
            n = int(match[2]) if len(match[2]) == 1 else 0
            if not 1 <= n <= 5:
                _refuse(_WEEKDAY, item, "the number after # must be 1 to 5")
            for weekday in _values(_WEEKDAY, match[1]):
                nth[weekday] |= 1 << n
        elif match := _LAST.fullmatch(item):
            nth[_number(_WEEKDAY, match[1], item) % 7] |= 1
        else:
            plain.append(item)
    return _bits(_WEEKDAY, ",".join(plain), task) if plain else 0, tuple(nth) if any(nth) else ()


def _bits(field: _Field, part: str, task: str) -> int:
    if part == "*":
        return ((1 << field.size) - 1) << field.low
    if part[:1] == "H":
        return _drawn(field, part, task)
    if part.isdigit():
        return 1 << _number(field, part, part) % (7 if field is _WEEKDAY else 60)
    bits = 0
    for item in part.split(","):
        for value in _values(field, item):
            bits |= 1 << value
    return bits


def _values(field: _Field, item: str) -> Iterator[int]:
    match = _ITEM.fullmatch(item)
    if match is None:
        _refuse_item(field, item)
    star, low_text, high_text, step_text = match.groups()
    step = _step(field, item, step_text)
    top = field.low + field.size - 1
    if star:
        low, high = field.low, top
    else:
        low = _number(field, low_text, item)
        high = top if step_text else low
        if high_text:
            high = _number(field, high_text, item)
            if high < low:
                high += field.size
        elif low > top:
            low = high = field.low  # 7 is Sunday, with whatever step
    return (field.low + (value - field.low) % field.size for value in range(low, high + 1, step))


def _step(field: _Field, item: str, text: str | None) -> int:
    if text is None:
        return 1
    step = int(text) if len(text) <= 4 else 0
    if step == 0:
        _refuse(field, item, "a step must be 1 to 9999", code="expr.step")
    return step


def _number(field: _Field, text: str, item: str) -> int:
    if not text.isdigit():
        value = field.names.get(text)
        if value is None:
            _refuse_item(field, item)
        return value
    value = int(text) if len(text) <= 4 else -1
    if not field.low <= value <= field.high:
        _refuse(field, item, f"allowed are {field.allowed}", code="expr.range")
    return value


def _drawn(field: _Field, part: str, task: str) -> int:
    """`H` as croniter draws it, but for the day of month (see there)."""
    match = _DRAWN.fullmatch(part)
    if match is None:
        _refuse(field, part, "H is written H, H(a-b), H/n or H(a-b)/n, and stands alone in its field")
    low, high = field.low, field.drawn_high
    if match[1] is not None:
        low, high = _number(field, match[1], part), _number(field, match[2], part)
        if low >= high or high >= field.low + field.size:
            _refuse(field, part, "the range after H must be rising, and within the field", code="expr.range")
    step = _step(field, part, match[3])
    draw = crc32(task.encode(errors="surrogatepass")) >> field.place
    if match[3] is None:
        return 1 << low + draw % (high - low + 1)
    top = high if match[1] is not None else field.low + field.size - 1
    start = low + draw % (min(low + step - 1, top) - low + 1)
    return sum(1 << value for value in range(start, top + 1, step))


def _refuse_item(field: _Field, item: str) -> NoReturn:
    if _RANDOM.fullmatch(item):
        _refuse(field, item, "R (random) is not supported; H spreads tasks, and stays the same", code="expr.random")
    _refuse(field, item, f"allowed are {field.allowed}, *, ranges a-b, steps */n and lists of these")


def _refuse(field: _Field, item: str, why: str, *, code: str = "expr.value") -> NoReturn:
    # Shown only where it cannot name anybody: the reason of a refusal is read by others than the sender.
    shown = f" ({item})" if _TELLING.fullmatch(item) else ""
    raise Invalid(f"'expr': the {field.name}{shown} is not valid: {why}", code=code)
