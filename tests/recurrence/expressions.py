"""Cron expressions for the oracles, most of them about the hours in which clocks change; and their meaning, said again.

Nothing here is shared with `cascadenced.recurrence`: a mistake there must not be made here too.
"""

from __future__ import annotations

import random
from calendar import monthrange
from collections.abc import Callable
from datetime import date

_MONTHS = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"]
_WEEKDAYS = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"]

KNOWN = (
    "* * * * *",
    "*/5 * * * *",
    "*/7 * * * *",
    "30 * * * *",
    "0 */2 * * *",
    "15 */3 * * *",
    "*/20 2 * * *",
    "*/30 1-3 * * *",
    "* 0 * * *",
    "45 * * * SUN",
    "*/15 0-1 * * 0",
    "*/30 0 * * *",
    "0 * 1 * *",
    "*/10 23 L * *",
    "0 0 * * *",
    "30 0 * * *",
    "59 23 * * *",
    "0 1 * * *",
    "30 1 * * *",
    "0 2 * * *",
    "30 2 * * *",
    "0 3 * * *",
    "15,45 2 * * *",
    "0,30 2-3 * * *",
    "10-50/20 1-2 * * *",
    "0 9 * * *",
    "30 2 * * SUN",
    "30 1 * * SUN#1",
    "30 2 * MAR SUN#2",
    "30 1 * NOV L0",
    "0 0 L * *",
    "30 2 1-7 * SUN",
    "0 2 */2 * 0",
    "30 1 29 2 *",
    "30 2 * * FRI-MON",
    "0-59 0-23 * * *",
)


def generated(seed: int, n: int) -> list[str]:
    """`KNOWN` first, then n - len(KNOWN) more."""
    chance = random.Random(seed)
    found = dict.fromkeys(KNOWN[:n])
    while len(found) < n:
        found[_one(chance)] = None
    return list(found)


def _one(chance: random.Random) -> str:
    minute = chance.choice(
        [
            str(chance.randrange(60)),
            str(chance.choice((0, 15, 30, 45))),
            f"*/{chance.choice((2, 5, 7, 10, 15, 20, 25, 30, 40))}",
            ",".join(str(m) for m in sorted(chance.sample(range(60), chance.randint(2, 4)))),
            f"{chance.randrange(30)}-{chance.randrange(30, 60)}/{chance.randint(3, 20)}",
            f"{chance.randrange(40)}/{chance.randint(7, 30)}",
            "*" if chance.random() < 0.2 else "0",
        ]
    )
    hour = chance.choice(
        [
            str(chance.randrange(5)),
            str(chance.randrange(24)),
            "*",
            f"*/{chance.choice((2, 3, 4, 5, 6))}",
            f"{chance.randrange(3)}-{chance.randrange(3, 6)}",
            f"{chance.choice((0, 1))}-{chance.choice((12, 23))}/{chance.choice((2, 3))}",
            ",".join(str(h) for h in sorted(chance.sample((0, 1, 2, 3, 4, 22, 23), 3))),
        ]
    )
    day = month = weekday = "*"
    if chance.random() < 0.2:
        day = chance.choice(["L", "1-7", "8-14", "25-31", "*/2", "1,15", f"{chance.randint(1, 31)}", "15,L"])
    if chance.random() < 0.2:
        month = chance.choice(["MAR-NOV", "3,4,9,10", "*/3", "OCT", "mar", "1-12"])
    if chance.random() < 0.3:
        weekday = chance.choice(
            ["SUN", "0", "7", "5-7", "MON-FRI", "FRI-MON", "SUN#1", "0#2", "L0", "L6", "SAT,SUN", "*/2", "sat#3,sun#4"]
        )
    return f"{minute} {hour} {day} {month} {weekday}"


def as_cronsim_writes(expression: str) -> str:
    """`L0` is `0L` there, and ranges of weekdays do not wrap."""
    minute, hour, day, month, weekday = expression.split()
    items = [f"{item[1:]}L" if item.upper().startswith("L") else item for item in weekday.split(",")]
    weekday = ",".join("5,6,0,1" if item == "FRI-MON" else item for item in items)
    return f"{minute} {hour} {day} {month} {weekday}"


class Meaning:
    """What an expression means, as crontab(5) says it.

    times: minutes of the day, rising.  on: whether a date is meant.  is_continuous: it goes by elapsed time.
    """

    def __init__(self, expression: str) -> None:
        minute, hour, day, month, weekday = expression.upper().split()
        minutes, hours = (
            [v for v in range(size) if _is_in(part, v, size - 1)] for part, size in ((minute, 60), (hour, 24))
        )
        self.times = [60 * h + m for h in hours for m in minutes]
        self.is_continuous = minute.startswith("*") or hour.startswith("*")
        either = not day.startswith("*") and not weekday.startswith("*")
        self._days: dict[date, bool] = {}
        months = {v for v in range(1, 13) if _is_in(month, v, 12, 1, _MONTHS)}

        def is_meant(at: date) -> bool:
            if at.month not in months:
                return False
            sides = (
                any(_is_day(item, at) for item in day.split(",")),
                any(_is_weekday(item, at) for item in weekday.split(",")),
            )
            return any(sides) if either else all(sides)

        self._is_meant: Callable[[date], bool] = is_meant

    def on(self, at: date) -> bool:
        known = self._days.get(at)
        if known is None:
            known = self._days[at] = self._is_meant(at)
        return known


def _is_in(part: str, value: int, high: int, low: int = 0, names: list[str] | None = None) -> bool:
    return any(_is_item(item, value, high, low, names or []) for item in part.split(","))


def _is_item(item: str, value: int, high: int, low: int, names: list[str]) -> bool:
    span, _, step = item.partition("/")
    first, _, last = span.partition("-")
    begin = low if first == "*" else _number(first, low, names)
    if last:
        end = _number(last, low, names)
    elif first == "*" or step:
        end = high
    else:
        end = begin
    return begin <= value <= end and (value - begin) % int(step or 1) == 0


def _number(text: str, low: int, names: list[str]) -> int:
    return names.index(text) + low if text in names else int(text)


def _is_day(item: str, at: date) -> bool:
    return at.day == monthrange(at.year, at.month)[1] if item == "L" else _is_item(item, at.day, 31, 1, [])


def _is_weekday(item: str, at: date) -> bool:
    sunday_0 = at.isoweekday() % 7
    if item.startswith("L"):
        return sunday_0 == int(item[1:]) % 7 and at.day + 7 > monthrange(at.year, at.month)[1]
    plain, _, nth = item.partition("#")
    if plain == "FRI-MON":
        return sunday_0 in (5, 6, 0, 1)
    if nth and (at.day - 1) // 7 + 1 != int(nth):
        return False
    return any(
        _is_item(plain, number, 7 if "*" not in plain else 6, 0, _WEEKDAYS) for number in {sunday_0, sunday_0 or 7}
    )
