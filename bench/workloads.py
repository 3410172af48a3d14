"""The task that is run: five hooks that do nothing, so that what is measured is everything around them."""

from __future__ import annotations

from cascadenced.identity import Identity

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


STAGES = {"async": AsyncStages, "plain": PlainStages}
