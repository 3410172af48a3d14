"""What the crash sweep has found once, each in its smallest form: runs go on after a crash as if there had been none."""

from __future__ import annotations

import asyncio

from cascadenced import BaseTask
from tests.doubles import World, ask, until


class Child(BaseTask):
    name = "child"

    async def run(self) -> str:
        await self.sleep(60)
        return f"done for {self.user_id}"


class Family(BaseTask):
    name = "family"

    def plan(self) -> list[Child]:
        return [Child()]

    def run(self, results: list[str]) -> list[str]:
        return results


async def test_the_children_of_a_plan_go_on_after_a_crash() -> None:
    world = World(Family)
    first = await world.start()
    run_id = (await ask(first, "family")).run_id
    await until(lambda: len(first.runs._sleepers) == 2)
    world.crash(first)
    async with world.up() as second:
        await until(lambda: len(second.runs._sleepers) == 2)
        await world.clock.advance(61)
        ended = await second.runs.ended(run_id)
        assert (ended.run.status, ended.run.result) == ("success", ["done for alice"]), ended.run.reason
