"""A log whose commits take as long as those of a disk: meanwhile others go on, and what they append joins in."""

from __future__ import annotations

import random

from cascadenced.eventlog.memory import MemoryEventLog


class Disk:
    """How long each commit takes, in seconds: at most `slowest_s`, and now and then much longer."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._slowest_s = chance.choice([0.0, 0.01, 0.2])

    def takes_s(self) -> float:
        if not self._slowest_s:
            return 0.0
        return self._chance.random() * self._slowest_s * (20 if self._chance.random() < 0.01 else 1)


class SimLog(MemoryEventLog):
    """The double on such a disk."""

    disk: Disk

    def _commit_soon(self) -> None:
        takes_s = self.disk.takes_s()
        if takes_s:
            self._loop.call_later(takes_s, self._commit)
        else:
            super()._commit_soon()
