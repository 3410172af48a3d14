"""Breaks one after the other on one daemon, under load, and after each: noticed, nothing lost, the bus whole again."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from cascadenced.events.system import BusLost, BusRestored, EpochRepaired
from tests import servers
from tests.broker.breaks import BREAKS, LOST
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
    stage.damaged |= broken.may >= LOST
    stage.lossy = broken.lossy or stage.damaged
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
    # What is of a kind that was recorded within the minute is not recorded again before it is repaired.
    broken, deadline = BREAKS[name], time.monotonic() + NOTICED_WITHIN_S + stage.whole_within_s
    while True:
        stage.read()
        reasons, n_lost = stage.reasons(before), len(stage.of(BusLost, before))
        # A line that broke a moment ago is recorded within the minute; it is in the log all the same.
        line = not broken.line or n_lost or stage.of(BusRestored)
        if line and (not broken.reasons or reasons & (broken.reasons | (LOST if stage.damaged else frozenset()))):
            break
        assert time.monotonic() < deadline, f"{name} was not noticed: {reasons or 'nothing'}, {n_lost} outages"
        await asyncio.sleep(0.05)
    # Damage that was done before may come to light at any later start.
    may = broken.may | (LOST if stage.damaged else frozenset())
    assert not (wrong := reasons - broken.reasons - may), f"{name} was taken for {wrong}"


class Stage(NamedTuple):
    """Where it happens. own: on the daemon's own server, else on another.  encrypted: what that other one stores.

    server: a name of `tests.servers`, None for the one that comes with us.
    """

    own: bool
    encrypted: bool = False
    server: str | None = None

    def __str__(self) -> str:
        whose = "its own server" if self.own else "another server, encrypted" if self.encrypted else "another server"
        return f"{whose} {self.server or ''}".strip()


async def sweep(folder: Path, stage: Stage, names: Sequence[str], seed: int, say: Callable[[str], None]) -> None:
    """All of `names`, in order, on one daemon; then the log is verified. Raises AssertionError, saying where it was."""
    binary = None if stage.server is None else servers.binary(stage.server)
    key = "0123456789abcdef" * 2 if stage.encrypted else None
    folder.mkdir(exist_ok=True)
    where, on = f"{stage}, at the start", None
    try:
        async with scene(folder, own=stage.own, binary=binary, key=key) as on:
            if stage.server == servers.DEBIAN:
                # What it stores behind a damaged record, nats-server 2.9 never reads; it takes us a while to see that.
                on.progress_within_s, on.whole_within_s = 4 * on.progress_within_s, 4 * on.whole_within_s
            for number, name in enumerate(names):
                where = f"{stage}, break {number + 1} of {len(names)} ({name})"
                chance = random.Random(f"{seed}:{number}:{name}")
                await on.load.fill(chance.choice([0, 0, 3_000_000]))
                say(f"{stage}: {await suffer(on, name, chance, busy=chance.random() < 0.5)}")
            where = f"{stage}, at the end"
            await on.verified()
            complaints = [line for line in on.daemon.output if "Traceback" in line or '"exception":' in line]
            assert not complaints, complaints[:3]
            assert await on.daemon.stop() == 0
    except Exception as error:
        if on is not None:
            (folder / "daemon.output").write_text("\n".join(on.daemon.output))
        what = error if isinstance(error, AssertionError) else repr(error)
        raise AssertionError(f"{where}: {what}") from error


def deal(seed: int, n: int) -> list[tuple[Stage, list[str]]]:
    """The first `n` breaks of this seed, up to eight on one stage. Only servers that were fetched are dealt."""
    chance = random.Random(f"{seed}:breaks")
    there: list[str | None] = [None, None, *(name for name in servers.NAMES if servers.binary(name))]
    dealt = []
    while n > 0:
        own, server = chance.random() < 0.4, chance.choice(there)
        stage = Stage(own, not own and chance.random() < 0.3, server)
        names = [name for name in BREAKS if name != "hung" and (name != "key_flipped" or own or stage.encrypted)]
        if server == servers.DEBIAN:
            names = [name for name in names if name not in ("half_purged", "key_flipped")]
        taken = [chance.choice(names) if chance.random() < 0.95 else "hung" for _ in range(min(n, 8))]
        dealt.append((stage, taken))
        n -= len(taken)
    return dealt


def replay(seed: int, n: int) -> str:
    """The command that deals the same breaks."""
    return f"make broker SEED={seed} N={n}"
