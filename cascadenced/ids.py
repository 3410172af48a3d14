"""Names of things and how each is made. Ids and randomness come from the `Ids` port, so that a seed repeats a run."""

from __future__ import annotations

import hashlib
import os
import random
from typing import NewType, Protocol

RunId = NewType("RunId", str)
TaskName = NewType("TaskName", str)
EventId = NewType("EventId", str)
UserHash = NewType("UserHash", str)
GroupHash = NewType("GroupHash", str)

_TIME_BITS_SHIFT = 80
_VERSION = 0x7 << 12
_VARIANT = 0b10 << 62
_LOW_BITS = 62
_PAIRS = tuple(f"{n:02x}" for n in range(256))
"""The last two digits of an id; the lower half is kept without them."""
_LOW_BEGIN = _VARIANT // len(_PAIRS)
_LOW_END = (_VARIANT + (1 << _LOW_BITS)) // len(_PAIRS)
_TAIL_BITS = 70  # 4 of the 74 bits stay clear, so that counting up from the seed never overflows


class Ids(Protocol):
    """Makes ids; the real one is seeded from the system once, the double from a number."""

    def event_id(self, at_us: int) -> EventId:
        """32 hex digits laid out as UUIDv7, each greater than the one before, whatever the clock does."""
        ...

    def not_before(self, last: EventId) -> None:
        """From now on every event id is greater than `last` (the newest in the log just opened)."""
        ...

    def token(self) -> str:
        """32 hex digits nobody can guess; for passwords, nonces and instance names."""
        ...


class _CountingIds:
    """Counts up from a random number within a millisecond. The halves of an id are kept apart: the first one stays the
    same for all ids of a millisecond, and halves need no large integers. All but the last two digits are kept spelled,
    because spelling a number costs most of what an id does."""

    def __init__(self, seed: random.Random) -> None:
        self._random = seed
        base = seed.getrandbits(_TAIL_BITS)
        self._high_base = _VERSION | (base >> _LOW_BITS)
        self._low_base = _VARIANT | (base & ((1 << _LOW_BITS) - 1))
        self._ms, self._high, self._low, self._counted, self._spelled = 0, "", 0, 0, ""
        self._begin(0)

    def event_id(self, at_us: int) -> EventId:
        ms = at_us // 1000
        if ms > self._ms:
            self._begin(ms)
        else:
            self._counted += 1
            if self._counted == len(_PAIRS):
                self._carry()
        return EventId(self._spelled + _PAIRS[self._counted])

    def not_before(self, last: EventId) -> None:
        self._begin(max(self._ms, (int(last, 16) >> _TIME_BITS_SHIFT) + 1))

    def _begin(self, ms: int) -> None:
        self._ms = ms
        self._high = f"{(ms << 16) | self._high_base:016x}"
        self._low, self._counted = divmod(self._low_base, len(_PAIRS))
        self._spell()

    def _carry(self) -> None:
        self._low, self._counted = self._low + 1, 0
        if self._low == _LOW_END:
            self._high, self._low = f"{int(self._high, 16) + 1:016x}", _LOW_BEGIN
        self._spell()

    def _spell(self) -> None:
        self._spelled = f"{self._high}{self._low:014x}"


class SystemIds(_CountingIds):
    """The random part is drawn once per process: `os.urandom` for each id would drop the interpreter lock each time."""

    def __init__(self) -> None:
        super().__init__(random.Random(os.urandom(32)))  # noqa: S311 -- uniqueness, not secrecy; `token` is the secret one

    def token(self) -> str:
        return os.urandom(16).hex()


class SeededIds(_CountingIds):
    """The double: the same seed gives the same ids in the same order."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(random.Random(seed))  # noqa: S311

    def token(self) -> str:
        return f"{self._random.getrandbits(128):032x}"


def run_id_for(source: str, at_us: int) -> RunId:
    """48 bits of time, then 80 bits of SHA-256(source): a second delivery, also elsewhere, names the same run.

    at_us: the message's broker time, a tick's due instant, else now.
    """
    return RunId(f"{(at_us // 1000) & 0xFFFF_FFFF_FFFF:012x}{hashlib.sha256(source.encode()).hexdigest()[:20]}")
