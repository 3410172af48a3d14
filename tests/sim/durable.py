"""The tasks of a world that work in steps, wait, are tried again, must not happen twice, or plan runs of their own.

What an effect returns names it: the run, the stage, what was done, and a number. So what is recorded of a step and what
a run returns can be told from any other. How long each one takes is another matter at each attempt.
"""

from __future__ import annotations

import asyncio
from typing import Any

from cascadenced import ParallelPlan, Retry
from cascadenced.plugins.base import BaseTask
from tests.sim.sink import BEGUN, did, moment

SETTLED = "settled"
"""What an operator says that an effect returned."""


class Durable(BaseTask):
    """Effects of steps, and a sign that a stage's code has begun."""

    def __repr__(self) -> str:
        return f"<{self.name}>"  # it is recorded of plans, and must not be an address

    def begun(self, stage: str) -> None:
        did(self.run_id, stage, self.args.get("n"), BEGUN)

    async def do(self, stage: str, what: str) -> str:
        await moment()
        done = did(self.run_id, stage, self.args.get("n"), what)
        await moment()
        return done

    def do_plainly(self, stage: str, what: str) -> str:
        return did(self.run_id, stage, self.args.get("n"), what)

    def result(self, *steps: Any) -> dict[str, Any]:
        return {"n": self.args.get("n"), "steps": list(steps)}


class Stepping(Durable):
    """One after the other, with a sleep and a wait between them."""

    name = "stepping"

    async def plan(self) -> Any:
        self.begun("plan")
        return await self.step("planned", self.do, "plan", "planned")

    async def run(self, plan: Any) -> Any:
        self.begun("run")
        first = await self.step("first", self.do, "run", "first")
        await self.sleep(float(str(self.args.get("seconds", 0.0))))
        second = await self.step("second", self.do_plainly, "run", "second")
        heard = await self.wait_for("go", where={"of": self.args["n"]})
        third = await self.step("third", self.do, "run", "third")
        return {**self.result(first, second, third), "plan": plan, "heard": heard["n"]}


class Listening(Durable):
    """Is handed one event after the other, and the third only if it comes in time."""

    name = "listening"

    async def run(self) -> Any:
        self.begun("run")
        await self.step("prepared", self.do, "run", "prepared")  # meanwhile the event may come
        one = await self.wait_for("go", where={"of": self.args["n"]})
        two = await self.wait_for("go", where={"of": self.args["n"]})
        try:
            three = await self.wait_for("go", timeout_s=2.0, where={"of": self.args["n"]})
        except TimeoutError:
            three = {"n": None}
        return {**self.result(), "heard": [one["n"], two["n"], three["n"]]}

    async def verify(self, result: Any) -> Any:
        self.begun("verify")
        return result


class Branching(Durable):
    """Several at a time, with the same names in all branches: only their places tell them apart."""

    name = "branching"

    async def run(self) -> Any:
        self.begun("run")
        before = await self.step("before", self.do, "run", "before")
        found = await asyncio.gather(self.branch("a"), self.napping("b"), self.forking("c"))
        return self.result(before, *(step for steps in found for step in steps))

    async def verify(self, result: Any) -> Any:
        self.begun("verify")
        async with asyncio.TaskGroup() as group:
            branches = [group.create_task(each) for each in (self.napping("d", "verify"), self.branch("e", "verify"))]
        return {**result, "steps": [*result["steps"], *(step for branch in branches for step in branch.result())]}

    async def branch(self, of: str, stage: str = "run") -> list[Any]:
        first = await self.step(self.named("first", of), self.do, stage, f"{of}1")
        await moment()
        return [first, await self.step(self.named("second", of), self.do, stage, f"{of}2")]

    async def napping(self, of: str, stage: str = "run") -> list[Any]:
        first = await self.step(self.named("first", of), self.do, stage, f"{of}1")
        await self.sleep(float(str(self.args.get("seconds", 0.0))))
        return [first, await self.step(self.named("second", of), self.do, stage, f"{of}2")]

    async def forking(self, of: str) -> list[Any]:
        first = await self.step(self.named("first", of), self.do, "run", f"{of}1")
        await moment()
        found = await asyncio.gather(self.branch(f"{of}x"), self.branch(f"{of}y"))
        return [first, *(step for steps in found for step in steps)]

    def named(self, name: str, of: str) -> str:
        return name


class Flaky(Branching):
    """Fails now and then, in a step or between two of them, and is tried again."""

    name = "flaky"
    retries = Retry(max_attempts=4, initial_s=0.5, max_s=5.0)

    async def do(self, stage: str, what: str) -> str:
        if await moment() < 0.04:
            raise ValueError("no luck")
        return await super().do(stage, what)

    async def branch(self, of: str, stage: str = "run") -> list[Any]:
        steps = await super().branch(of, stage)
        if await moment() < 0.1:
            raise ValueError("no luck between steps")
        return steps


class Late(Durable):
    """Takes longer than it may now and then."""

    name = "late"
    retries = Retry(max_attempts=3, initial_s=0.1)
    timeout_s = 1.0

    async def run(self) -> Any:
        self.begun("run")
        first = await self.step("first", self.do, "run", "first")
        await asyncio.sleep(1.5 * await moment())
        return self.result(first, await self.step("second", self.do, "run", "second"))


class Once(Stepping):
    name, delivery = "once", "at_most_once"


class OnceBranching(Branching):
    """Names tell the steps apart, for what is in doubt is told by its name."""

    name, delivery = "once_branching", "at_most_once"

    def named(self, name: str, of: str) -> str:
        return f"{of}{1 if name == 'first' else 2}"


class OnceOrAgain(OnceBranching):
    name, on_doubt = "once_or_again", "retry"


class OnceOrNever(Stepping):
    name, delivery, on_doubt = "once_or_never", "at_most_once", "fail"


class OnceInTime(Late):
    name, delivery = "once_in_time", "at_most_once"
    retries = None


class OnceWhole(Durable):
    """Its effect is the stage's own."""

    name, delivery = "once_whole", "at_most_once"

    async def intake(self) -> Any:
        return await self.do("intake", "")

    async def run(self) -> Any:
        return self.result(await self.do("run", ""))


class Kid(Durable):
    name = "kid"

    def __init__(self, n: int = 0) -> None:
        self.n = n

    async def run(self) -> Any:
        self.begun("run")
        return {"kid": self.n, "steps": [await self.step(what, self.do, "run", what) for what in ("one", "two")]}


class WildKid(Kid):
    """Fails, or not, for good; another run in its place may not."""

    name = "wild_kid"

    async def run(self) -> Any:
        if int(self.run_id[-1], 16) % 3 == 0:
            raise ValueError("this one does not want to")
        return await super().run()


class OnceKid(Kid):
    name, delivery = "once_kid", "at_most_once"


class Parent(Durable):
    """Its children one after the other, and those of a child."""

    name = "parent"

    def plan(self) -> Any:
        self.begun("plan")
        return [Kid(1), Kid(2), [Kid(3), Kid(4)]]

    async def run(self, results: Any) -> Any:
        self.begun("run")
        return {**self.result(await self.step("summed up", self.do, "run", "summed up")), "kids": results}


class Crowd(Parent):
    """All at once, some of which fail and are asked for once more."""

    name = "crowd"
    retries = {"run": Retry(max_attempts=8, initial_s=0.2, max_s=1.0)}

    def plan(self) -> Any:
        self.begun("plan")
        return ParallelPlan([Kid(1), WildKid(2), OnceKid(3), [Kid(4), WildKid(5)]])


class Unlucky(Parent):
    """The first child that fails is the end of it."""

    name = "unlucky"

    def plan(self) -> Any:
        self.begun("plan")
        return [WildKid(1), WildKid(2), WildKid(3)]


class Household(Durable):
    """No run() of its own; plan() works in steps."""

    name = "household"

    async def plan(self) -> Any:
        self.begun("plan")
        await self.step("counted", self.do, "plan", "counted")
        return [Kid(1), OnceKid(2)]


KINDS: dict[type[BaseTask], int] = {
    Stepping: 3, Listening: 3, Branching: 3, Flaky: 3, Late: 2, Once: 2, OnceBranching: 3, OnceOrAgain: 2,
    OnceOrNever: 1, OnceInTime: 1, OnceWhole: 2, Parent: 2, Crowd: 2, Unlucky: 1, Household: 1,
}  # fmt: skip
"""Task → how often it is asked for, against all others."""
CHILDREN = (Kid, WildKid, OnceKid)
LASTING = frozenset(cls.name for cls in (Stepping, Listening, Branching, Flaky, Late, Parent, Crowd, Unlucky))
AT_MOST_ONCE = frozenset(cls.name for cls in (*KINDS, *CHILDREN) if getattr(cls, "delivery", None) == "at_most_once")
ASKED_FOR = frozenset(
    cls.name for cls in (*KINDS, *CHILDREN) if cls.name in AT_MOST_ONCE and getattr(cls, "on_doubt", "ask") == "ask"
)
"""Those whose doubts somebody has to settle."""
_BRANCHED = ["before", "a1", "a2", "b1", "b2", "c1", "cx1", "cx2", "cy1", "cy2"]
STEPS: dict[tuple[str, str], list[str]] = {
    **{(name, "run"): ["first", "second", "third"] for name in ("stepping", "once", "once_or_never")},
    **{(name, "run"): ["first", "second"] for name in ("late", "once_in_time")},
    **{(cls.name, "run"): ["one", "two"] for cls in CHILDREN},
    **{(name, "run"): ["summed up"] for name in ("parent", "crowd", "unlucky")},
    **{
        (name, stage): _BRANCHED + (["d1", "d2", "e1", "e2"] if stage == "verify" else [])
        for name in ("branching", "flaky", "once_branching", "once_or_again")
        for stage in ("run", "verify")
    },
}
"""(task, stage) → what the steps in its result did, in this order."""
WITHOUT_RUN = frozenset({"household"})
"""Tasks whose stage `run` is nobody's code."""
HEARING = frozenset({"stepping", "listening", "once", "once_or_never"})
"""Tasks that wait for `go`, with `of` their key."""
