"""An instance on doubles, and the folder in memory that outlives it: for whatever needs runs without files or servers.

world = World(Greeter)                        the tasks that are installed
async with world.up() as instance: …          one life of the instance, ended in good order
world.crash(instance)                         … or by a power cut: nothing more is recorded
async with world.up(OtherTask) as instance: … the next life, on what was committed
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from cascadenced.clock import Clock, FakeClock
from cascadenced.config import Config
from cascadenced.eventlog.memory import MemoryEventLog, MemoryFile
from cascadenced.events.base import Event, Recorded
from cascadenced.handlers.run_requests import Origin
from cascadenced.identity import Identity, Pseudonyms
from cascadenced.ids import SeededIds
from cascadenced.instance import Instance, assemble
from cascadenced.plugins.discover import collect
from cascadenced.projections import all_projections
from cascadenced.runtime.runs import Accepted, Ended
from cascadenced.runtime.spawn import InlineSpawner, Spawner
from cascadenced.vault import MemoryVault

ALICE = Identity("alice", "eng")
BOB = Identity("bob", "ops")
PSEUDONYMS = Pseudonyms("a secret of the tests")
MAX_TURNS = 5_000


class World:
    """What a data folder keeps: log, vault, and beside them the clock. config: settings other than the defaults."""

    def __init__(self, *tasks: object, clock: Clock | None = None, spawner: Spawner | None = None, **config: Any):
        self.tasks = tasks
        self.clock = clock or FakeClock()
        self.spawner = spawner
        self.config = Config(**config)
        self.file = MemoryFile()
        self.vault = MemoryVault()

    @asynccontextmanager
    async def up(self, *tasks: object, recover: bool = True) -> AsyncIterator[Instance]:
        """One life. tasks: other code than last time."""
        instance = await self.start(*tasks, recover=recover)
        try:
            yield instance
        finally:
            if not instance.log.is_over:  # else it has crashed
                await instance.runs.stop(0)
                await instance.refusals.flush()
                await instance.log.close()

    async def start(self, *tasks: object, recover: bool = True) -> Instance:
        ids = SeededIds(self.file.epoch)
        instance = await assemble(
            self.config,
            clock=self.clock,
            ids=ids,
            log=await MemoryEventLog.open(
                self.file, clock=self.clock, ids=ids, instance_id="i-test", projections=all_projections()
            ),
            vault=self.vault,
            spawner=self.spawner or InlineSpawner(),
            catalogue=collect([(str(task), task) for task in tasks or self.tasks]),
            pseudonyms=PSEUDONYMS,
        )
        assert all("Cyclic" in each.reason for each in instance.catalogue.rejected)
        if recover:
            await instance.runs.recover()
        return instance

    def crash(self, instance: Instance) -> None:
        """The power is cut: what is not committed now never will be."""
        instance.log.die()
        for task in asyncio.all_tasks():
            if task.get_name().startswith(("run-", "refusal-counter")):
                task.cancel()

    def events(self, kind: type[Event] | None = None, *, run_id: str | None = None) -> list[Event]:
        """What is committed, in order."""
        return [recorded.event for recorded in self.recorded(kind, run_id=run_id)]

    def recorded(self, kind: type[Event] | None = None, *, run_id: str | None = None) -> list[Recorded]:
        return [
            recorded
            for recorded in self.file.events
            if (kind is None or isinstance(recorded.event, kind)) and (run_id is None or recorded.run_id == run_id)
        ]

    def text(self) -> str:
        """Everything a reader of the log could see."""
        return "\n".join(map(str, map(msgspec.structs.asdict, self.file.events)))


async def ask(
    instance: Instance,
    task: str,
    identity: Identity = ALICE,
    args: dict[str, Any] | None = None,
    *,
    key: str | None = None,
    source: str | None = None,
    via: str = "http",
) -> Accepted:
    """A run is asked for."""
    return await instance.requests.run(task, identity, args or {}, Origin(via=via, source=source), idempotency_key=key)


async def run(instance: Instance, task: str, identity: Identity = ALICE, args: dict[str, Any] | None = None) -> Ended:
    """A run from request to end."""
    return await instance.runs.ended((await ask(instance, task, identity, args)).run_id)


async def until(condition: Callable[[], Any]) -> None:
    """Let the loop turn until `condition` holds; time stands still meanwhile."""
    for _ in range(MAX_TURNS):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError(f"not within {MAX_TURNS} turns of the loop")


async def idle(turns: int = 100) -> None:
    """Let everything happen that can happen without the passing of time."""
    for _ in range(turns):
        await asyncio.sleep(0)
