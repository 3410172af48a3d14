"""The ground truth of what tasks did: it survives whoever did it, and nobody but the checks reads it."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from tests.sim.loop import OF, Mortal


class Effect(msgspec.Struct, frozen=True):
    """The code of a stage has run.

    position: of the log's last event at that moment.  life: which life of the daemon did it.
    key: of the wish, if the run was wished for.
    """

    run_id: str
    stage: str
    key: str
    position: int
    life: int
    at_s: float


class Sink:
    """position: of the log now.  now_s: virtual."""

    def __init__(self, position: Callable[[], int], now_s: Callable[[], float]) -> None:
        self._position, self._now_s = position, now_s
        self.effects: list[Effect] = []

    def take(self, run_id: str, stage: str, key: str, by: Life) -> None:
        if by.alive:  # what the dead do while their code unwinds does not happen
            self.effects.append(Effect(run_id, stage, key, self._position(), by.number, self._now_s()))


class Life(Mortal):
    """One life of the daemon, as task code sees it. number: from 1."""

    def __init__(self, number: int, sink: Sink) -> None:
        super().__init__()
        self.number, self.sink = number, sink


def did(run_id: str, stage: str, key: object) -> None:
    """Task code says that it has done its work."""
    by = OF.get()
    assert isinstance(by, Life), "task code runs in no life of the daemon"
    by.sink.take(run_id, stage, str(key), by)
