"""The tasks of a world: one class for each kind of behaviour. Each stage leaves an effect in the sink.

To add a kind: a class with a `name` whose hooks call `self.did(stage)`, an entry in `KINDS` with how often it is asked
for; `LASTING` if what it returns is to be compared with what clients are told. What must be true of it goes to
`checks.py`. Times are virtual seconds.
"""

from __future__ import annotations

import asyncio
from functools import cache
from types import SimpleNamespace
from typing import Any

from cascadenced.plugins.base import BaseTask, ManualTrigger, PointerTask
from cascadenced.plugins.builtin import CapabilityFollowUp
from cascadenced.plugins.discover import Catalogue, collect
from cascadenced.runtime.runs import CANCEL_PATIENCE_S
from cascadenced.workflows.subscribe import subscribe
from tests.sim import durable
from tests.sim.sink import did


class Kind(BaseTask):
    """What all of them have in common."""

    def did(self, stage: str) -> None:
        did(self.run_id, stage, self.args.get("n"))

    @property
    def seconds(self) -> float:
        seconds = self.args.get("seconds", 0.0)
        assert isinstance(seconds, float | int)
        return float(seconds)

    def result(self) -> dict[str, Any]:
        return {"n": self.args.get("n")}


class Traced(Kind):
    """Plain hooks, all in one go."""

    name = "traced"

    def intake(self) -> None:
        self.did("intake")

    def plan(self) -> list[Any]:
        self.did("plan")
        return [1, {"deep": None}]

    def precheck(self) -> bool:
        self.did("precheck")
        return True

    def run(self, plan: list[Any]) -> dict[str, Any]:
        self.did("run")
        return {**self.result(), "plan": plan}

    def verify(self, result: dict[str, Any]) -> dict[str, Any]:
        self.did("verify")
        return result


class Quick(Kind):
    """One stage that is over at once."""

    name = "quick"

    def run(self) -> Any:
        self.did("run")
        return self.result()


class Slow(Kind):
    """Takes its time in each stage, before and after the effect."""

    name = "slow"

    async def intake(self) -> None:
        await self._work("intake")

    async def plan(self) -> list[Any]:
        await self._work("plan")
        return []

    async def run(self) -> Any:
        await self._work("run")
        return self.result()

    async def verify(self, result: Any) -> Any:
        await self._work("verify")
        return result

    async def _work(self, stage: str) -> None:
        await asyncio.sleep(self.seconds / 2)
        self.did(stage)
        await asyncio.sleep(self.seconds / 2)


class Hopping(Kind):
    """Many awaits at the same instant: others have their turn again and again."""

    name = "hopping"

    async def plan(self) -> int:
        await self._hop()
        self.did("plan")
        return 7

    async def run(self, plan: int) -> Any:
        await self._hop()
        self.did("run")
        await self._hop()
        return {**self.result(), "plan": plan}

    async def _hop(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)
        await asyncio.gather(asyncio.sleep(self.seconds), asyncio.sleep(0))


class Failing(Kind):
    """Raises in its last stage; a follow-up is due."""

    name = "failing"

    def intake(self) -> None:
        self.did("intake")

    async def run(self) -> Any:
        await asyncio.sleep(self.seconds)
        self.did("run")
        raise RuntimeError(f"as {self.user_id} wished")


class Unwilling(Kind):
    """Does not pass its own check."""

    name = "unwilling"

    def precheck(self) -> Any:
        self.did("precheck")
        return "not today"

    def run(self) -> Any:
        self.did("run")


class Curious(Kind):
    """Asks a question first, which is answered or not."""

    name = "curious"

    def research(self) -> str:
        self.did("research")
        return str(self.args.get("n"))

    async def plan(self, research: Any) -> Any:
        self.did("plan")
        return research

    def run(self, plan: Any) -> Any:
        self.did("run")
        return {**self.result(), "plan": plan}


class Stubborn(Kind):
    """Does not let itself be cancelled, and comes to its end a little later than anybody has patience for."""

    name = "stubborn"

    async def run(self) -> Any:
        loop = asyncio.get_running_loop()
        until = loop.time() + 4 * self.seconds
        while (left := until - loop.time()) > 0:
            try:
                await asyncio.sleep(left)
            except asyncio.CancelledError:
                until = min(until, loop.time() + CANCEL_PATIENCE_S + self.seconds % 1.0)
        self.did("run")
        return self.result()

    async def verify(self, result: Any) -> Any:
        self.did("verify")
        return result


class Switched(Quick, ManualTrigger):
    """The one that operators disable and pause."""

    name = "switched"


class Marks(PointerTask):
    """What pointers belong to."""

    name = "marks"

    def run(self) -> None:
        did(self.run_id, "run", self.args.get("n"))


@subscribe("called")
async def called(payload: dict[str, Any], dispatch: Any) -> Any:
    """A workflow that tells the bus, on which nobody of ours listens to that."""
    await asyncio.sleep(float(payload.get("seconds", 0.0)))
    did(dispatch.__self__._live.run_id, "run", payload.get("n"))
    await dispatch("answered", {"n": payload.get("n")})
    return {"n": payload.get("n")}


KINDS = {
    "traced": 4,
    "quick": 3,
    "slow": 4,
    "hopping": 3,
    "failing": 2,
    "unwilling": 1,
    "curious": 2,
    "stubborn": 2,
    **{cls.name: weight for cls, weight in durable.KINDS.items()},
}
"""Task → how often it is asked for, against the others. `switched` and workflows have wishes of their own."""
LASTING = frozenset({"traced", "quick", "slow", "hopping", "curious", "stubborn"}) | durable.LASTING
"""Tasks that return `{"n": key, …}`."""


@cache
def catalogue() -> Catalogue:
    """Described once: reading the sources takes long."""
    classes = (Traced, Quick, Slow, Hopping, Failing, Unwilling, Curious, Stubborn, Switched, Marks, CapabilityFollowUp)
    found = collect([*((cls.__name__, cls) for cls in (*classes, *durable.KINDS)), ("called", called)])
    assert not found.rejected, found.rejected
    return found


async def _search(query: str, user_id: str) -> list[str]:
    await asyncio.sleep(0)
    if query.endswith("3"):
        raise LookupError(f"nothing about it for {user_id}")
    return [query]


STORM = SimpleNamespace(search=_search)
"""Stands in for the package that answers research."""
