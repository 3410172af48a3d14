"""Once: at an instant, or at a local time of the zone the schedule is in."""

from __future__ import annotations

import re
from datetime import datetime

import msgspec

from cascadenced.errors import Invalid
from cascadenced.recurrence.walls import FIRST_S, LAST_S, SECOND_US, instant_us, wall_of

_SHAPE = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,6})?)?(Z|[+-][0-9]{2}:[0-9]{2})?"
)


class OneOff(msgspec.Struct, frozen=True, gc=False, cache_hash=True):
    """An instant."""

    at_us: int

    def after(self, after_us: int) -> int | None:
        return self.at_us if after_us < self.at_us else None


class LocalOneOff(msgspec.Struct, frozen=True, gc=False, cache_hash=True):
    """A local time. Implements Walls."""

    wall_s: int

    @property
    def is_continuous(self) -> bool:
        return False

    @property
    def last_us(self) -> None:
        return None

    def at_or_after(self, wall_s: int) -> int | None:
        return self.wall_s if wall_s <= self.wall_s else None


def parse_one_off(text: object) -> OneOff | LocalOneOff:
    """ISO 8601: with `Z` or an offset an instant, without a local time, in whole seconds.

    Raises Invalid (at.value, at.fraction, at.range).
    """
    if isinstance(text, str) and _SHAPE.fullmatch(text):
        try:
            at = datetime.fromisoformat(text)
        except ValueError:
            pass
        else:
            return _checked(at)
    raise Invalid(
        "'at' must be a date and a time, such as 2025-03-09T02:30 (local) or 2025-03-09T02:30:00Z", code="at.value"
    )


def one_off_at(at_us: int) -> OneOff:
    """Raises Invalid (at.range) for what no calendar shows."""
    if not FIRST_S <= at_us // SECOND_US <= LAST_S:
        raise Invalid("'at' must lie in the years 1 to 9998", code="at.range")
    return OneOff(at_us)


def _checked(at: datetime) -> OneOff | LocalOneOff:
    if at.tzinfo is not None:
        return one_off_at(instant_us(at))
    wall_s = wall_of(at)
    if not FIRST_S <= wall_s <= LAST_S:
        raise Invalid("'at' must lie in the years 1 to 9998", code="at.range")
    if at.microsecond:
        raise Invalid("'at' as a local time must be in whole seconds", code="at.fraction")
    return LocalOneOff(wall_s)
