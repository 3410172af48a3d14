"""How each life of the daemon ends, and what the weather is meanwhile. All of it follows from the seed."""

from __future__ import annotations

import asyncio
import random
from functools import partial
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from tests.sim.daemon import DaemonLife
    from tests.sim.world import World

CRASH_POINTS = {
    "append.before_commit": 40,
    "append.after_commit": 40,
    "ingest.before_append": 12,
    "ingest.after_append": 12,
    "stage.before_effect": 20,
    "stage.after_effect": 20,
    "step.before_effect": 30,
    "step.after_effect": 30,
    "outbox.before_publish": 20,
    "outbox.after_publish": 20,
    "vault.after_write": 4,
    "repair.broken": 1,
    "repair.half": 2,
    "repair.done": 1,
}
"""The crash points that a daemon without files passes, and how many passes each lets by at most."""
UNREACHED_AFTER_S = 15.0
"""A life whose crash point is not passed often enough is killed then."""
STOPPED_WITHIN_S = 120.0
"""A stop that takes longer hangs: the grace period, and what the daemon gives itself beyond that, are far less."""


class Fate(msgspec.Struct, frozen=True):
    """at: a crash point, and passes: at which pass.  steps: callbacks until it happens.  after_s: of life.
    paused: what is under way by then is paused just before."""

    how: str
    at: str | None = None
    passes: int = 0
    steps: int = 0
    after_s: float = 0.0
    paused: bool = False

    def __str__(self) -> str:
        what = (
            f"{self.at}:{self.passes}" if self.at else f"{self.steps} steps" if self.steps else f"{self.after_s:.2f} s"
        )
        return f"{self.how} at {what}{', when all was paused' if self.paused else ''}"


def drawn(chance: random.Random) -> Fate:
    """How one life ends."""
    kind = chance.random()
    if kind < 0.45:
        at = chance.choice(list(CRASH_POINTS))
        return Fate("crash", at=at, passes=round(CRASH_POINTS[at] ** chance.random()))
    how = "kill" if kind < 0.75 else chance.choice(["stop", "stop", "stop in a hurry"])
    if chance.random() < 0.6:
        return Fate(how, steps=round(10 ** (1 + chance.random() * 2.5)))
    return Fate(how, after_s=chance.random() * 12, paused=chance.random() < 0.5)


async def lead(life: DaemonLife, fate: Fate) -> None:
    """Let it live and end so."""
    end = partial(life.ask_to_stop, hurry=fate.how == "stop in a hurry")
    if not fate.how.startswith("stop"):
        end = partial(life.die, f"killed, after {fate}")
    life.crash_point, life.passes_left = fate.at, fate.passes
    life.at_step, life.on_step = fate.steps or None, end
    life.begin()
    if not await _ended(life, fate.after_s or UNREACHED_AFTER_S) and not life.stop_asked:
        if fate.paused:
            await asyncio.wait_for(life.world.operators.pause_what_is_under_way(), STOPPED_WITHIN_S)
        end()
    if not await _ended(life, STOPPED_WITHIN_S):
        life.world.faults.append(f"life {life.number} did not stop within {STOPPED_WITHIN_S:g} s")
        life.die("hung")


async def _ended(life: DaemonLife, within_s: float) -> bool:
    await asyncio.wait([life.ended], timeout=within_s)
    return life.ended.done()


async def weather(world: World, chance: random.Random, until_s: float) -> None:
    """The broker and the clocks have their moods until then. Some worlds have no weather at all."""
    loop = asyncio.get_running_loop()
    pause_s = chance.choice([5.0, 20.0, 1e9])
    loses = chance.choice([(), ("tails",), ("some",), ("all",), ("tails", "some", "all")])
    jumps = chance.random() < 0.5
    while loop.time() < until_s:
        await asyncio.sleep(min(chance.random() * 2 * pause_s, until_s))
        if loop.time() >= until_s:
            break
        if jumps and chance.random() < 0.5:
            seconds = chance.choice([-1, 1]) * chance.choice([0.01, 5.0, 4000.0]) * chance.random()
            world.say(f"the clock jumps by {seconds:.3f} s")
            world.clock.jump(seconds)
            continue
        broker = world.broker
        broker.go_down()
        for what in loses:
            if chance.random() < 0.5:
                {"tails": broker.lose_tails, "some": broker.lose_some, "all": broker.lose_all}[what]()
        await asyncio.sleep(chance.choice([0.0, 1.0, 10.0]) * chance.random())
        broker.come_up(restarted=bool(loses) or chance.random() < 0.5)
