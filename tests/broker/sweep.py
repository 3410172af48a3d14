"""Breaks one after the other on one daemon, under load, and after each: noticed, nothing lost, the bus whole again."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from cascadenced.events.system import BusLost, BusRestored, EpochRepaired
from tests.broker.breaks import BREAKS
from tests.broker.scene import Scene, scene

N_BEFORE = 12
"""Wishes between two breaks, at least."""
NOTICED_WITHIN_S = 20.0


async def suffer(stage: Scene, name: str, chance: random.Random, *, busy: bool = True) -> str:
    """One break, and everything that must be true afterwards; returns what happened.

    busy: wishes are published all the while. Else all is settled when it breaks.
    """
    broken, load = BREAKS[name], stage.load
    for _ in range(N_BEFORE):
        await load.one()
    load.start()
    await asyncio.sleep(0.1)
    if not busy:
        await load.stop()
        await stage.settled()
    stage.read()
    before, n_excused = len(stage.recorded), len(stage.excused)
    told = await broken.do(stage, chance)
    stage.lossy = broken.lossy
    took_s = await stage.progress()
    await load.stop()
    await noticed(stage, name, before)
    await stage.whole()
    stage.lossy = False
    stage.once()
    told += f"; {n_lost} wishes lost by the broker" if (n_lost := len(stage.excused) - n_excused) else ""
    for repaired in stage.of(EpochRepaired, before):
        assert repaired.n_missing == 0
        told += f"; {repaired.n_republished} of {repaired.n_scanned + repaired.n_republished} published again"
    return f"{name}: {told}; progress after {took_s:.1f} s; {sorted(stage.reasons(before)) or 'nothing forgotten'}"


async def noticed(stage: Scene, name: str, before: int) -> None:
    """What must be in the log of it is there, and nothing that has no place there."""
    broken, deadline = BREAKS[name], time.monotonic() + NOTICED_WITHIN_S
    while True:
        stage.read()
        reasons, n_lost = stage.reasons(before), len(stage.of(BusLost, before))
        # A line that broke a moment ago is recorded within the minute; it is in the log all the same.
        line = not broken.line or n_lost or stage.of(BusRestored)
        if line and (not broken.reasons or reasons & broken.reasons):
            break
        assert time.monotonic() < deadline, f"{name} was not noticed: {reasons or 'nothing'}, {n_lost} outages"
        await asyncio.sleep(0.05)
    assert not (wrong := reasons - broken.reasons - broken.may), f"{name} was taken for {wrong}"


async def sweep(
    folder: Path,
    names: Sequence[str],
    seed: int,
    say: Callable[[str], None],
    *,
    own: bool,
    binary: Path | None = None,
    key: str | None = None,
    **env: str,
) -> None:
    """All of `names`, in order, on one daemon; then the log is verified. Raises AssertionError."""
    async with scene(folder, own=own, binary=binary, key=key, **env) as stage:
        for number, name in enumerate(names):
            chance = random.Random(f"{seed}:{number}:{name}")
            await stage.load.fill(chance.choice([0, 0, 3_000_000]))
            say(await suffer(stage, name, chance, busy=chance.random() < 0.5))
        await stage.verified()
        complaints = [line for line in stage.daemon.output if "Traceback" in line or '"exception":' in line]
        assert not complaints, complaints[:3]
        assert await stage.daemon.stop() == 0
