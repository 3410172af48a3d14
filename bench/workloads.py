"""The task that is run: five hooks that do nothing, so that what is measured is everything around them."""

from __future__ import annotations

from cascadenced.identity import Identity
from cascadenced.plugins.base import BaseTask
from cascadenced.workflows import subscribe

SOMEBODY = Identity("bench", "bench")


class AsyncStages:
    """Five coroutines: they run on the loop."""

    name = "stages"

    async def intake(self) -> str:
        return "taken"

    async def plan(self) -> str:
        return "planned"

    async def precheck(self) -> bool:
        return True

    async def run(self) -> str:
        return "done"

    async def verify(self) -> str:
        return "verified"


class PlainStages:
    """The same as plain functions, each of which takes a thread."""

    name = "stages"

    def intake(self) -> str:
        return "taken"

    def plan(self) -> str:
        return "planned"

    def precheck(self) -> bool:
        return True

    def run(self) -> str:
        return "done"

    def verify(self) -> str:
        return "verified"


class OneStage:
    """One coroutine."""

    name = "stages"

    async def run(self) -> str:
        return "done"


N_STEPS = 20


async def _nothing() -> str:
    return "done"


class Steps(BaseTask):
    """One coroutine of `N_STEPS` steps."""

    name = "stages"

    async def run(self) -> str:
        for n in range(N_STEPS):
            await self.step(f"step {n}", _nothing)
        return "done"


class Sleeps(BaseTask):
    """One coroutine that sleeps for a day."""

    name = "stages"

    async def run(self) -> str:
        await self.sleep(86_400)
        return "done"


DUE = "bench.due"


@subscribe(DUE)
async def on_due() -> str:
    """One coroutine, for an event."""
    return "done"


STAGES = {"async": AsyncStages, "plain": PlainStages, "one": OneStage, "steps": Steps, "sleeps": Sleeps}
