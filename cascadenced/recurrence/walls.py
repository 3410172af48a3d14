"""Wall times: what local clocks show, counted in seconds since 1970-01-01T00:00 as if there were no offsets."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Protocol

DAY_S = 86_400
SECOND_US = 1_000_000

_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 -- a wall time has no zone
_LAST_YEAR = 9998


class Walls(Protocol):
    """A recurrence that means wall times, such as 09:00 every day.

    Values: equal ones mean the same, and are hashed alike.
    """

    def __hash__(self) -> int: ...

    @property
    def is_continuous(self) -> bool:
        """Whether it goes by elapsed time: what clocks show twice counts twice, what they never show does not count."""
        ...

    @property
    def last_us(self) -> int | None:
        """No instant after this one is meant; None: there is no such end."""
        ...

    def at_or_after(self, wall_s: int) -> int | None:
        """The first wall time meant that is not before `wall_s`; None if there is none any more."""
        ...


def shown(wall_s: int) -> str:
    """ISO 8601 without an offset; seconds only where there are some."""
    text = (_EPOCH + timedelta(seconds=wall_s)).isoformat()
    return text.removesuffix(":00")


def wall_of(local: datetime) -> int:
    """The wall time of a datetime without a zone; fractions of seconds are dropped."""
    passed = local - _EPOCH
    return passed.days * DAY_S + passed.seconds


def local_of(wall_s: int) -> datetime:
    """The datetime, without a zone, that a wall time is."""
    return _EPOCH + timedelta(seconds=wall_s)


def instant_us(at: datetime) -> int:
    """The instant of a datetime with a zone or an offset."""
    passed = at - datetime(1970, 1, 1, tzinfo=UTC)
    return (passed.days * DAY_S + passed.seconds) * SECOND_US + passed.microseconds


FIRST_S = wall_of(datetime(1, 1, 3))  # noqa: DTZ001
LAST_S = wall_of(datetime(_LAST_YEAR, 12, 31))  # noqa: DTZ001
"""No answer lies outside of these: a day further and datetimes would overflow in some zone."""
