"""The broker of a world: a `MemoryServer` with a temper. It outlives all lives of the daemon.

It may deliver late, twice, in another order and again before it was acknowledged; lose acknowledgements, answers and
confirmations; go away, come back as another server, and have forgotten the end of its streams, a hole in them, or all.
What it loses of what it had confirmed to clients, it owns up to (`on_lost`), so that nobody else is blamed.
"""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from cascadenced.bus.marks import Marks
from cascadenced.bus.memory import MemoryBus
from cascadenced.bus.memory_server import MemoryServer
from cascadenced.bus.memory_stream import Stored
from cascadenced.clock import Clock
from cascadenced.errors import Unavailable
from cascadenced.events.outgoing import Outgoing
from tests.sim.loop import Mortal

ACK_WAIT_S = 5.0
PREFIX = "ume"


class Temper(msgspec.Struct, frozen=True):
    """Probabilities, and how late a thing may be in seconds."""

    ack_lost: float = 0.0
    impatient: float = 0.0
    shuffled: float = 0.0
    publish_fails: float = 0.0
    client_unheard: float = 0.0
    client_unanswered: float = 0.0
    slowness_s: float = 0.0

    @classmethod
    def drawn(cls, chance: random.Random) -> Temper:
        """Each fault is there in some worlds only, so that none hides another."""

        def at_times(most: float) -> float:
            return chance.random() * most if chance.random() < 0.6 else 0.0

        return cls(
            ack_lost=at_times(0.4),
            impatient=at_times(0.3),
            shuffled=at_times(1.0),
            publish_fails=at_times(0.3),
            client_unheard=at_times(0.2),
            client_unanswered=at_times(0.3),
            slowness_s=at_times(0.5),
        )


class NoAnswer(Exception):
    """Whoever asked does not know what became of it."""


class Broker(MemoryServer):
    """on_lost: told of each message that it had confirmed, and has no more.  history: every message it ever stored."""

    def __init__(self, *, clock: Clock, chance: random.Random, temper: Temper, say: Callable[[str], None]) -> None:
        super().__init__(clock=clock, prefix=PREFIX)
        self._chance, self.temper, self._say = chance, temper, say
        self._context = contextvars.copy_context()
        self.is_up = True
        self.bus: SimBus | None = None
        self.history: list[Stored] = []
        self.on_lost: Callable[[Stored], None] = lambda _: None
        self.on_ended: Callable[[Stored], None] = lambda _: None

    def connect(self, *, life: Mortal, instance_id: str, clock: Clock, marks: Marks) -> SimBus:
        """A life of the daemon connects. Raises Unavailable while it is down."""
        if not self.is_up:
            raise Unavailable("nobody answers at nats://sim")
        self.bus = SimBus(self, life, clock=clock, instance_id=instance_id, marks=marks)
        return self.bus

    # ── the daemon's messages ────────────────────────────────────────────────────────────────────────────────────

    def store(self, subject: str, data: bytes, headers: Mapping[str, str]) -> tuple[bool, Stored | None]:
        new, stored = super().store(subject, data, headers)
        if stored is not None:
            self.history.append(stored)
        return new, stored

    def take(self, max_messages: int) -> list[Stored]:
        if self._happens(self.temper.shuffled):
            some = list(self.ready)
            self._chance.shuffle(some)
            self.ready.clear()
            self.ready.extend(some)
            max_messages = self._chance.randint(1, max_messages)
        taken = super().take(max_messages)
        for stored in taken:
            wait_s = self._chance.random() if self._happens(self.temper.impatient) else ACK_WAIT_S
            self._call_later(wait_s, self._lose_patience, stored, stored.n_delivered)
        return taken

    def ended(self, stored: Stored, *, erase: bool) -> bool:
        if self._happens(self.temper.ack_lost):
            return False
        ended = super().ended(stored, erase=erase)
        if ended:
            self.on_ended(stored)
        return ended

    def later(self, stored: Stored, delay_s: float) -> None:
        if stored.in_hand:
            self.in_hand.pop((stored.stream, stored.seq), None)
            stored.in_hand = False
            self._call_later(delay_s, self.again, stored)

    def redeliver(self) -> None:
        """At a connection; else it waits until its patience is at an end."""
        if self._happens(0.5):
            super().redeliver()

    def _lose_patience(self, stored: Stored, n_delivered: int) -> None:
        where = stored.stream, stored.seq
        if self.in_hand.get(where) is stored and stored.n_delivered == n_delivered:
            del self.in_hand[where]
            self.again(stored)

    def _call_later(self, delay_s: float, what: Callable[..., object], *about: Any) -> None:
        """As its own doing, not that of whoever is calling."""
        asyncio.get_running_loop().call_later(delay_s, what, *about, context=self._context.copy())

    # ── clients ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def publish(self, subject: str, data: bytes, headers: Mapping[str, str]) -> None:
        """As a client does, waiting for the confirmation. Raises NoAnswer: it may be stored or not."""
        await self.dawdle()
        if not self.is_up or self._happens(self.temper.client_unheard):
            raise NoAnswer(subject)
        self.store(subject, data, headers)
        if self._happens(self.temper.client_unanswered):
            raise NoAnswer(subject)

    async def ask(self, verb: str, body: bytes, within_s: float) -> tuple[bytes, Mapping[str, str]]:
        """As a client asks the daemon. Raises NoAnswer: it may be done or not."""
        await self.dawdle()
        bus = self.bus
        if bus is None or not bus.answers(verb) or self._happens(self.temper.client_unheard):
            raise NoAnswer(verb)
        answering = asyncio.get_running_loop().create_task(bus.answer(verb, body), context=bus.life.context())
        await asyncio.wait([answering], timeout=within_s)
        if not answering.done() or not bus.is_reachable or self._happens(self.temper.client_unanswered):
            raise NoAnswer(verb)
        return answering.result()

    # ── what becomes of it ───────────────────────────────────────────────────────────────────────────────────────

    def go_down(self) -> None:
        self._say("the broker is gone")
        self.is_up = False
        if self._bus_lives:
            self.bus.disconnect()  # type: ignore[union-attr]

    def come_up(self, *, restarted: bool) -> None:
        self._say("the broker is there again" + (", another server" if restarted else ""))
        self.is_up = True
        if self._bus_lives:
            self.bus.reconnect(restarted=restarted)  # type: ignore[union-attr]
        else:
            self.n_starts += restarted

    def lose_tails(self) -> None:
        """The newest of both streams; to be done while it is down."""
        for stream in (self.events, self.runs):
            newest = list(stream.messages.values())[-self._chance.randint(1, 40) :]
            self._say(f"the broker forgets the last {len(newest)} messages of {stream.name}")
            for stored in newest:
                stream.drop(stored)
                self.on_lost(stored)
            if newest:
                stream.end = newest[0].seq - 1

    def lose_some(self) -> None:
        """Of what we published, wherever it stands."""
        share = self._chance.random() / 2
        n = self.forget(lambda stored: "Cascadence-Position" in stored.headers and self._chance.random() < share)
        self._say(f"the broker forgets {n} messages here and there")

    def lose_all(self) -> None:
        self._say("the broker forgets everything")
        for stored in (*self.events.messages.values(), *self.runs.messages.values()):
            self.on_lost(stored)
        self.wipe()

    def heal(self) -> None:
        """From now on it behaves."""
        self.temper = Temper()
        if not self.is_up:
            self.come_up(restarted=False)

    @property
    def is_idle(self) -> bool:
        """Nothing waits to be delivered, or to be acknowledged."""
        waiting = (stored for stored in self.ready if self.stream(stored).holds(stored))
        return not self.in_hand and next(waiting, None) is None and not self.runs.messages

    @property
    def _bus_lives(self) -> bool:
        return self.bus is not None and self.bus.life.alive and not self.bus._closed

    def _happens(self, probability: float) -> bool:
        return probability > 0.0 and self._chance.random() < probability

    async def dawdle(self) -> None:
        """Everything takes its time on the way."""
        if self.temper.slowness_s and self._happens(0.5):
            await asyncio.sleep(self._chance.random() * self.temper.slowness_s)


class SimBus(MemoryBus):
    """The connection of one life; it is cut when that life ends."""

    def __init__(self, broker: Broker, life: Mortal, *, clock: Clock, instance_id: str, marks: Marks) -> None:
        self.broker, self.life = broker, life
        super().__init__(clock=clock, prefix=PREFIX, instance_id=instance_id, marks=marks, server=broker)

    @property
    def is_reachable(self) -> bool:
        return self.life.alive and not self._closed and self._connected

    async def publish(self, messages: Sequence[Outgoing]) -> None:
        broker, line = self.broker, self.line
        await broker.dawdle()
        if broker._happens(broker.temper.publish_fails):
            self.fail_publishes(1, stored=broker._chance.randint(0, len(messages)))
        await super().publish(messages)
        await broker.dawdle()
        if line != self.line:
            raise Unavailable("the connection broke before the confirmation came")

    async def fetch(self, max_messages: int) -> Any:
        await self.broker.dawdle()
        return await super().fetch(max_messages)

    def answers(self, verb: str) -> bool:
        """Whether anybody is there to be asked."""
        return self.is_reachable and verb in self._verbs

    async def answer(self, verb: str, body: bytes) -> tuple[bytes, Mapping[str, str]]:
        """One request, answered as the daemon answers it."""
        return await self.request(verb, body)

    def cut(self) -> None:
        """Its life is over."""
        self._closed = True
        self.line += 1
        self.broker.on_ready = lambda: None
