"""One life of the daemon: the real `Daemon` with its loops, on doubles of all ports, until it stops or dies."""

from __future__ import annotations

import asyncio
import contextvars
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

from cascadenced.connecting import Connected
from cascadenced.daemon import Daemon, Stop
from cascadenced.identity import Pseudonyms
from cascadenced.ids import SeededIds
from cascadenced.instance import Instance, assemble
from cascadenced.projections import all_projections
from cascadenced.runtime.pulse import EVERY_S, pulse
from cascadenced.runtime.spawn import InlineSpawner
from cascadenced.sd_notify import Notifier
from tests.sim.broker import SimBus
from tests.sim.disk import SimLog
from tests.sim.sink import Life
from tests.sim.tables import Tables
from tests.sim.tasks import catalogue

if TYPE_CHECKING:
    from tests.sim.world import World

INSTANCE_ID = "i-sim"
PSEUDONYMS = Pseudonyms("a secret of the simulation")
_UNREACHED = 10**9


class Crashed(BaseException):
    """Unwinds what a simulated process was just doing when it died. Nothing that survives can be reached by then."""


class DaemonLife(Life):
    """A process that is simulated. ended: resolved with how, when it has stopped or died."""

    def __init__(self, world: World, number: int) -> None:
        super().__init__(number, world.sink)
        self.world = world
        self.stop: Stop | None = None
        self.log: SimLog | None = None
        self.instance: Instance | None = None
        self.crash_point: str | None = None
        self.passes_left = _UNREACHED
        self.stop_asked = False
        self.is_ready = False
        self.tables: Tables | None = None
        """Of the projections, as they were when it died or stopped."""
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def begin(self) -> None:
        task = asyncio.get_running_loop().create_task(self._live(), context=self.context())
        task.add_done_callback(self._over, context=contextvars.copy_context())

    async def _live(self) -> None:
        self.stop = Stop()
        this = asyncio.current_task()
        assert this is not None
        self.stop.on_early = this.cancel
        await SimDaemon(self, self.stop).run()

    def ask_to_stop(self, *, hurry: bool = False) -> None:
        self.stop_asked = True
        if self.stop is not None:
            self.stop.request()
            if hurry:
                self.stop.request()

    def die(self, how: str) -> None:
        """As if killed: what is committed, stored or done by now is all that is left of it."""
        super().die(how)
        if self.log is not None:
            self.keep_tables()
            self.log.die()
        bus = self.world.broker.bus
        if isinstance(bus, SimBus) and bus.life is self:
            bus.cut()
        if not self.ended.done():
            self.ended.set_result(how)

    def keep_tables(self) -> None:
        if self.log is not None:
            self.tables = Tables.of(self.log) or self.tables

    def passes(self, crash_point: str) -> None:
        if not self.alive:
            raise Crashed(crash_point)
        if crash_point == self.crash_point:
            self.passes_left -= 1
            if self.passes_left <= 0:
                self.die(f"at {crash_point}")
                raise Crashed(crash_point)

    def _over(self, task: asyncio.Task[None]) -> None:
        if not self.alive or self.ended.done():
            return
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self.world.faults.append(f"life {self.number} ended with {told(error)}")
        elif self.stop is not None and self.stop.error is not None:
            self.world.faults.append(f"life {self.number} stopped on {told(self.stop.error)}")
        elif not self.stop_asked:
            self.world.faults.append(f"life {self.number} ended by itself")
        self.ended.set_result("stopped")
        # What it left under way (a task that does not let itself be cancelled) goes with the process.
        super().die("stopped")


class SimDaemon(Daemon):
    """The daemon without files, sockets and servers."""

    def __init__(self, life: DaemonLife, stop: Stop) -> None:
        world = life.world
        super().__init__(world.config, stop, lambda _: None, lambda: world.config, Notifier(None))
        self._life, self._world = life, world

    async def _open(self, stack: AsyncExitStack) -> Instance:
        """As `open_instance` does."""
        world, life = self._world, self._life
        ids = SeededIds(world.seed * 1_000 + life.number)
        log = life.log = SimLog(
            world.file, clock=world.clock, ids=ids, instance_id=INSTANCE_ID, projections=all_projections()
        )
        log.disk = world.disk
        world.opened(life, log)
        stack.push_async_callback(log.close)
        stack.callback(life.keep_tables)
        spawner = InlineSpawner()
        stack.callback(spawner.close)
        instance = life.instance = await assemble(
            world.config,
            clock=world.clock,
            ids=ids,
            log=log,
            vault=world.vault,
            spawner=spawner,
            catalogue=catalogue(),
            pseudonyms=PSEUDONYMS,
        )
        stack.push_async_callback(instance.refusals.flush)
        return instance

    async def _serve_http(self, *_: Any) -> str:
        return "http://sim"

    async def _pulse(self, instance: Instance) -> None:
        await pulse(
            instance.log.probe,
            [],
            instance.clock,
            every_s=EVERY_S * 30,
            alive=lambda: None,
            fatal=self._stop.fatal,
        )

    def _be_found(self, stack: AsyncExitStack, instance: Instance, connected: Connected, http_url: str) -> None:
        self._life.is_ready = True
        self._world.say(f"life {self._life.number} is ready")


def told(error: BaseException) -> str:
    """What happened, without the groups around it."""
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(told(one) for one in error.exceptions)
    return repr(error)
