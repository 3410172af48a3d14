"""One world: everything that surrounds the daemon, its lives one after the other, and what is found at the end.

`simulate(seed)` is a function of its argument: the same seed gives the same trace.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import os
import random
import sys
from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import structlog
from anyio._backends._asyncio import CancelScope

from cascadenced import crashpoint
from cascadenced.bus.jetstream import JetStreamBus
from cascadenced.bus.memory_stream import Stored
from cascadenced.config import Config
from cascadenced.eventlog.memory import MemoryEventLog, MemoryFile
from cascadenced.events.base import Recorded
from cascadenced.vault import MemoryVault
from tests.sim import checks, durable_checks, fates
from tests.sim.broker import Broker, SimBus, Temper
from tests.sim.client import Clients
from tests.sim.clock import SimClock
from tests.sim.daemon import DaemonLife, told
from tests.sim.disk import Disk
from tests.sim.ledger import Ledger
from tests.sim.loop import OF, SimLoop, Stuck, bury
from tests.sim.operators import Operators
from tests.sim.outcome import Outcome
from tests.sim.sink import Sink
from tests.sim.tables import Tables
from tests.sim.tasks import STORM

SETTLED_WITHIN_S = 3_600.0
"""Or longer, where the clock was set back: what sleeps until then sleeps longer."""
_QUIET_FOR_S = 20.0
"""So long nothing must be left to do before a world counts as settled: the bus is checked every 5 s."""
_AT_REST_WITHIN_S = 60.0


class World:
    """seed: of all that happens.  traced: whether to keep lines for people."""

    def __init__(self, seed: int, loop: SimLoop, *, traced: bool) -> None:
        self.seed = seed
        self._traced = traced
        self.trace: list[str] = []
        self.faults: list[str] = []
        self._loop = loop
        self.clock, self._broker_clock = SimClock(loop), SimClock(loop)
        chance = self.chance("shape")
        self.trouble_s = chance.choice([10.0, 30.0, 60.0])
        self._downtimes_s = chance.choice([(0.0,), (0.0, 1.0, 8.0), (0.0, 0.0, 0.0, 0.0, 200.0)])
        self.config = Config(
            nats_url="nats://sim",
            data_dir="/sim",
            max_concurrent_runs=chance.choice([1, 2, 4, 100]),
            max_queued_runs=chance.choice([3, 20, 1_000]),
            stop_grace_s=chance.choice([0.0, 0.5, 5.0]),
            erase_inbound=chance.choice([False, True]),
            ume_broadcast_pointers=chance.choice([False, True]),
            follow_up_task=chance.choice(["capability_follow_up", "capability_follow_up", "failing", None]),
            follow_up_max_depth=chance.choice([1, 3]),
        )
        self.file = MemoryFile()
        self.disk = Disk(self.chance("disk"))
        self.vault = MemoryVault()
        self.ledger = Ledger(self.file)
        self.sink = Sink(lambda: len(self.file.events), loop.time, self.chance("tasks"))
        self.broker = Broker(
            clock=self._broker_clock, chance=self.chance("broker"), temper=Temper.drawn(chance), say=self.say
        )
        self.broker.on_ended = self._acknowledged
        self.clients = Clients(
            self.broker,
            self.chance("clients"),
            n_wishes=chance.randint(4, 20),
            until_s=self.trouble_s,
            is_recorded=self.ledger.has,
            say=self.say,
        )
        meddling = self.chance("operators")
        self.operators = Operators(
            self.file,
            self.ledger,
            meddling,
            ask=self.clients.ask,
            tell=self.clients.tell,
            about=self.clients.about,
            moments=[meddling.random() * self.trouble_s for _ in range(meddling.choice([0, 0, 5, 20]))],
        )
        self.lives: list[DaemonLife] = []
        self.early_acknowledged: list[str] = []

    def chance(self, whose: str) -> random.Random:
        return random.Random(f"{self.seed}:{whose}")

    def say(self, line: str) -> None:
        if self._traced:
            self.trace.append(f"{self._loop.time():10.3f}  {line}")

    # ── from beginning to end ────────────────────────────────────────────────────────────────────────────────────

    async def live(self) -> None:
        clients = asyncio.create_task(self.clients.run())
        meddling = asyncio.create_task(self.operators.meddle())
        weather = asyncio.create_task(fates.weather(self, self.chance("weather"), self.trouble_s))
        chance = self.chance("fates")
        while self._loop.time() < self.trouble_s:
            await self._lead(fates.drawn(chance))
            await asyncio.sleep(chance.choice(self._downtimes_s) * chance.random())
        await weather
        self.say("everything is mended")
        self.broker.heal()
        life = self._next_life()
        life.begin()
        await clients
        await meddling
        await self._is_at_rest(life)
        tidying = asyncio.create_task(self.operators.tidy())
        has_settled = await self._settles(life)
        tidying.cancel()
        if not has_settled:
            self.faults.append(f"it has not settled after {SETTLED_WITHIN_S:g} s: {', '.join(self._unsettled(life))}")
            return
        assert life.instance is not None
        assert life.log is not None
        self.faults += await checks.of_the_living(life.instance, life.log)
        life.ask_to_stop()
        await asyncio.wait([life.ended], timeout=fates.STOPPED_WITHIN_S)
        if not life.ended.done():
            self.faults.append("the last life did not stop")
        self.faults += checks.of_what_is_left(self)

    async def _lead(self, fate: fates.Fate) -> None:
        life = self._next_life()
        self.say(f"life {life.number} begins; its fate: {fate}")
        await fates.lead(life, fate)
        self.say(f"life {life.number} is over: {life.ended.result()}, after {life.n_steps} steps")

    def _next_life(self) -> DaemonLife:
        life = DaemonLife(self, len(self.lives) + 1)
        self.lives.append(life)
        return life

    async def _is_at_rest(self, life: DaemonLife) -> None:
        """As the crashes have left it, before anybody tidies up: what is paused is paused still."""
        until_s = self._loop.time() + _AT_REST_WITHIN_S
        while self._loop.time() < until_s and life.alive:
            faults = await durable_checks.of_what_is_in_doubt(self, life)
            if faults is not None:
                self.faults += faults
                return
            await asyncio.sleep(1.0)

    async def _settles(self, life: DaemonLife) -> bool:
        until_s = self._loop.time() + SETTLED_WITHIN_S + self.clock.set_back_s
        quiet_since, checked = self._loop.time(), 0
        while self._loop.time() < until_s and life.alive:
            if checked != len(self.file.events):
                faults = await durable_checks.of_what_is_in_doubt(self, life)
                if faults is not None:
                    self.faults += faults
                    checked = len(self.file.events)
            if self._unsettled(life):
                quiet_since = self._loop.time()
            elif self._loop.time() >= quiet_since + _QUIET_FOR_S:
                return True
            await asyncio.sleep(1.0)
        return False

    def _unsettled(self, life: DaemonLife) -> list[str]:
        """What is still to be done."""
        instance = life.instance
        if not life.alive or not life.is_ready or instance is None or instance.bus_status is None:
            return ["the daemon is not ready"]
        bus, runs = instance.bus_status(), instance.runs
        return [
            what
            for what, there in (
                (f"{len(self.file.unfinished)} runs unfinished", self.file.unfinished),
                (f"{runs.n_running} running, {runs.n_queued} queued", runs.n_running or runs.n_queued),
                (f"{bus.outbox_pending} events not published", bus.outbox_pending),
                (f"{bus.n_to_repair} breaks not repaired", bus.n_to_repair),
                ("messages not delivered or not acknowledged", not self.broker.is_idle),
            )
            if there
        ]

    # ── what is looked at meanwhile ──────────────────────────────────────────────────────────────────────────────

    def opened(self, life: DaemonLife, log: MemoryEventLog) -> None:
        """A life has opened the log, and folded the projections from nothing."""
        folded, kept = Tables.of(log), self.lives[-2].tables if len(self.lives) > 1 else None
        if folded is not None and kept is not None:
            self.faults += kept.differences(folded, f"life {life.number - 1}")
        log.observe(self._recorded)

    def _recorded(self, batch: Sequence[Recorded]) -> None:
        for recorded in batch if self._traced else ():
            about = recorded.run_id or recorded.stream
            self.say(f"{recorded.position:5} {recorded.type} {about} {recorded.data.decode()[:160]}")

    def _acknowledged(self, stored: Stored) -> None:
        key = stored.headers.get("Nats-Msg-Id", "")
        if "Cascadence-Origin" not in stored.headers and not self.ledger.has(key):
            self.early_acknowledged.append(key)

    def digest(self) -> str:
        found = hashlib.sha256()
        for recorded in self.file.events:
            found.update(recorded.hash)
        for effect in self.sink.effects:
            found.update(repr(effect).encode())
        for stored in self.broker.history:
            found.update(f"{stored.stream}:{stored.seq}:{stored.at_us}".encode() + stored.data)
        found.update(f"{self._loop.time()}:{self._loop.n_steps}".encode())
        return found.hexdigest()

    def figures(self) -> dict[str, int]:
        return {
            "events": len(self.file.events),
            "lives": len(self.lives),
            "effects": len(self.sink.effects),
            "wishes": len(self.clients.attempts.by_key),
            "steps": self._loop.n_steps,
            "seconds": round(self._loop.time()),
        }


def simulate(seed: int, *, traced: bool = False) -> Outcome:
    """Let the world of `seed` happen, and tell what came of it."""
    chance = random.Random(f"{seed}:order")
    loop = SimLoop(chance, chance.choice([0.0, 0.3, 1.0]))
    with _surroundings(loop) as said:
        world = World(seed, loop, traced=traced)
        try:
            loop.run_until_complete(world.live())
        except Stuck as stuck:
            world.faults.append(f"stuck: {stuck}")
        except Exception as error:  # of the checks, or of the world's own making: it must not hide the other worlds
            world.faults.append(f"the world came to an end: {told(error)}")
        world.faults += loop.troubles
        world.faults += dict.fromkeys(said)
        outcome = Outcome(seed, world.faults, world.digest(), world.figures(), world.trace)
        for life in world.lives:
            if life.alive:
                life.die("the end of the world")
        loop.close()
        asyncio.set_event_loop(None)
        tasks = [*loop.orphans, *(task for life in world.lives for task in life.tasks)]
        del world, loop
        bury(tasks)
    return outcome


class InOrder(dict[Any, None]):
    """Instead of anyio's sets of scopes, whose order is that of their addresses."""

    def add(self, element: Any) -> None:
        self[element] = None

    def discard(self, element: Any) -> None:
        self.pop(element, None)

    remove = discard


@contextmanager
def _surroundings(loop: SimLoop) -> Iterator[list[str]]:
    """What the real code finds in the places that are no arguments. Gives what living daemons log as errors."""
    said: list[str] = []

    def listen(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> Any:
        life = OF.get()
        is_over = isinstance(life, DaemonLife) and (not life.alive or life.log is None or life.log.is_over)
        if not is_over:  # after a stop, what did not end in time finds the log closed
            error = sys.exc_info()[1] if event.get("exc_info") else event.get("error", "")
            said.append(f"the daemon's log: {event.get('event')} {error!r}")
        raise structlog.DropEvent

    async def connect(**options: Any) -> SimBus:
        life = OF.get()
        assert isinstance(life, DaemonLife)
        return life.world.broker.connect(
            life=life, instance_id=options["instance_id"], clock=options["clock"], marks=options["marks"]
        )

    def passes(name: str) -> None:
        life = OF.get()
        if isinstance(life, DaemonLife):
            life.passes(name)

    make_scope = CancelScope.__init__

    def in_order(self: CancelScope, *options: Any, **more: Any) -> None:
        make_scope(self, *options, **more)
        scope: Any = self
        scope._child_scopes = InOrder()

    was_collecting, config = gc.isenabled(), structlog.get_config()
    with ExitStack() as stack:
        stack.callback(structlog.configure, **config)
        stack.enter_context(mock.patch.object(JetStreamBus, "open", connect))
        stack.enter_context(mock.patch.object(crashpoint, "on_pass", passes))
        stack.enter_context(mock.patch.object(CancelScope, "__init__", in_order))
        stack.enter_context(mock.patch.object(os, "getpid", return_value=1))
        stack.enter_context(mock.patch.dict(sys.modules, {"tino_storm": STORM}))
        structlog.configure(
            processors=[listen],
            wrapper_class=structlog.make_filtering_bound_logger(40),
            cache_logger_on_first_use=False,
        )
        # When cycles are collected must not depend on anything but the seed.
        gc.disable()
        if was_collecting:
            stack.callback(gc.enable)
        yield said
