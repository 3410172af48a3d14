"""The ground truth of what tasks did: it survives whoever did it, and nobody but the checks reads it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import msgspec

from tests.sim.loop import OF, Mortal


class Effect(msgspec.Struct, frozen=True):
    """Something was done that cannot be undone.

    step: what a step of the stage did; empty: the stage itself did it; BEGUN: nothing but that its code has begun.
    position: of the log's last event at that moment.  life: which life of the daemon did it.
    key: of the wish, if the run was wished for.
    """

    run_id: str
    stage: str
    key: str
    position: int
    life: int
    at_s: float
    step: str = ""


BEGUN = ">"


class Sink:
    """position: of the log now.  now_s: virtual.  chance: how long what tasks do takes."""

    def __init__(self, position: Callable[[], int], now_s: Callable[[], float], chance: random.Random) -> None:
        self._position, self._now_s, self.chance = position, now_s, chance
        self.effects: list[Effect] = []

    def take(self, run_id: str, stage: str, key: str, by: Life, step: str) -> str:
        """Returns a name of the effect."""
        if by.alive:  # what the dead do while their code unwinds does not happen
            self.effects.append(Effect(run_id, stage, key, self._position(), by.number, self._now_s(), step))
        return named(run_id, stage, step, len(self.effects))


def named(run_id: str, stage: str, step: str, number: int) -> str:
    """number: which effect of the world it is, from 1."""
    return f"{run_id}/{stage}/{step}/{number}"


class Life(Mortal):
    """One life of the daemon, as task code sees it. number: from 1."""

    def __init__(self, number: int, sink: Sink) -> None:
        super().__init__()
        self.number, self.sink = number, sink


def did(run_id: str, stage: str, key: object, step: str = "") -> str:
    """Task code says that it has done its work. Returns a name of the effect."""
    by = _by()
    return by.sink.take(run_id, stage, str(key), by, step)


async def moment() -> float:
    """Let a moment pass, or a turn, or nothing. Returns a number from 0 to 1 by chance."""
    chance = _by().sink.chance
    kind, seconds = chance.random(), chance.random()
    if kind < 0.6:
        await asyncio.sleep(0.0 if kind < 0.3 else seconds * 0.2)
    return chance.random()


def _by() -> Life:
    by = OF.get()
    assert isinstance(by, Life), "task code runs in no life of the daemon"
    return by
