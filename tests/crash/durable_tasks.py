"""Tasks whose effects outlive the daemon: each is one line of a file, which any process may add to.

A stage that works in steps leaves its effects to them and only says, with BEGUN, that its code has begun. What an
effect returns names its line, so that what is recorded of it, and what is handed on, can be told from any other.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import random
import secrets
import time
from typing import Any

import msgspec

from cascadenced import ParallelPlan, Retry
from cascadenced.plugins.base import BaseTask

BEGUN = ">"
OWN = "-"
"""In place of a step's name: the stage's code has begun, and the effect is the stage's own."""

PATIENT = Retry(max_attempts=200, initial_s=0.02, factor=1.2, max_s=0.1)
LIMIT_S = 0.15
"""Of a stage of `late`, whose code takes longer now and then."""


class Line(msgspec.Struct, frozen=True, array_like=True):
    """at_us: when, by the wall clock.  life: of the daemon that had it done.  id: the line's own.  began: the id of the
    line that says that the stage's code began, for a step."""

    at_us: int
    life: int
    pid: int
    run_id: str
    task: str
    stage: str
    step: str
    id: str
    began: str


def effect(task: Any, stage: str, step: str = OWN, began: str = "") -> str:
    """It happens now. What is written survives `kill -9` without being synced: the kernel has it."""
    line = Line(
        at_us=time.time_ns() // 1000,
        life=int(os.environ["LIFE"]),
        pid=os.getpid(),
        run_id=task.run_id,
        task=task.name,
        stage=stage,
        step=step,
        id=secrets.token_hex(6),
        began=began,
    )
    file = os.open(os.environ["SINK"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, msgspec.json.encode(line) + b"\n")
    finally:
        os.close(file)
    return line.id


def moment() -> float:
    return random.random() * 0.012


class Async(BaseTask):
    """Five stages on the loop; the fourth works in steps, sleeps, and waits for an event."""

    name = "async"

    async def intake(self) -> str:
        return await self.do("intake")

    async def plan(self) -> dict[str, str]:
        return {"plan": await self.do("plan")}

    async def precheck(self) -> bool:
        await self.do("precheck")
        return True

    async def run(self, plan: Any) -> Any:
        began = effect(self, "run", BEGUN)
        first = await self.step("first", self.do, "run", "first", began)
        await self.sleep(moment() * 4)
        second = await self.step("second", self.do_plainly, "run", "second", began)
        heard = await self.wait_for("go", where={"n": self.args["n"]})
        third = await self.step("third", self.do, "run", "third", began)
        return {"n": heard["n"], "steps": [first, second, third], "plan": plan}

    async def verify(self, result: Any) -> Any:
        return {**result, "verified": await self.do("verify")}

    async def do(self, stage: str, step: str = OWN, began: str = "") -> str:
        await asyncio.sleep(moment())
        done = effect(self, stage, step, began)
        await asyncio.sleep(moment())
        return done

    def do_plainly(self, stage: str, step: str = OWN, began: str = "") -> str:
        time.sleep(moment())
        done = effect(self, stage, step, began)
        time.sleep(moment())
        return done


class Plain(Async):
    """The same in threads."""

    name = "plain"

    def intake(self) -> str:  # type: ignore[override]
        return self.do_plainly("intake")

    def plan(self) -> dict[str, str]:  # type: ignore[override]
        return {"plan": self.do_plainly("plan")}

    def precheck(self) -> bool:  # type: ignore[override]
        self.do_plainly("precheck")
        return True

    def run(self, plan: Any) -> Any:  # type: ignore[override]
        began = effect(self, "run", BEGUN)
        first = self.step("first", self.do_plainly, "run", "first", began)
        self.sleep(moment() * 4)
        second = self.step("second", self.do_plainly, "run", "second", began)
        heard = self.wait_for("go", where={"n": self.args["n"]})
        third = self.step("third", self.do_plainly, "run", "third", began)
        return {"n": heard["n"], "steps": [first, second, third], "plan": plan}

    def verify(self, result: Any) -> Any:  # type: ignore[override]
        return {**result, "verified": self.do_plainly("verify")}


class Once(Async):
    name, delivery = "once", "at_most_once"


class OncePlainly(Plain):
    name, delivery = "once_plainly", "at_most_once"


class OnceOrAgain(Async):
    name, delivery, on_doubt = "once_or_again", "at_most_once", "retry"


class OnceOrNever(Plain):
    name, delivery, on_doubt = "once_or_never", "at_most_once", "fail"


class Away(Plain):
    """In a process of its own."""

    name, isolation = "away", "process"


class AwayOnce(Plain):
    name, isolation, delivery = "away_once", "process", "at_most_once"


class Stubborn(BaseTask):
    """Its process sees to it that the daemon's end does not kill it at once, and goes on a good while later."""

    name, isolation = "stubborn", "process"

    def run(self) -> Any:
        began = effect(self, "run", BEGUN)
        for name in os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else ():
            try:
                flags = fcntl.fcntl(int(name), fcntl.F_GETFL)
                fcntl.fcntl(int(name), fcntl.F_SETFL, flags & ~fcntl.FASYNC)
            except OSError:
                continue
        time.sleep(0.15)
        step = self.step("late", lambda: effect(self, "run", "late", began))
        return {"n": self.args["n"], "steps": [step]}


class Flaky(Async):
    """Fails now and then, and is tried again."""

    name, retries = "flaky", PATIENT

    async def run(self, plan: Any) -> Any:
        began = effect(self, "run", BEGUN)
        first = await self.step("first", self.do, "run", "first", began)
        if random.random() < 0.5:
            raise ValueError("no luck")
        second = await self.step("second", self.do, "run", "second", began)
        return {"n": self.args["n"], "steps": [first, second]}


class Late(BaseTask):
    """Its code takes too long now and then, in a thread that goes on though nobody waits for it any more."""

    name, retries, timeout_s = "late", PATIENT, LIMIT_S

    def run(self) -> Any:
        began = effect(self, "run", BEGUN)
        time.sleep(random.choice([0, LIMIT_S * 5]))
        step = self.step("late", lambda: effect(self, "run", "late", began))
        return {"n": self.args["n"], "steps": [step]}


class Failing(BaseTask):
    name = "failing"

    async def run(self) -> None:
        effect(self, "run")
        raise ValueError("it always does")


class Kid(BaseTask):
    name = "kid"

    def __init__(self, n: int) -> None:
        self.n = n

    async def run(self) -> Any:
        began = effect(self, "run", BEGUN)
        first = await self.step("first", self.do, began, "first")
        await self.sleep(moment())
        return {"kid": self.n, "steps": [first, await self.step("second", self.do, began, "second")]}

    async def do(self, began: str, step: str) -> str:
        await asyncio.sleep(moment())
        return effect(self, "run", step, began)


class WildKid(Kid):
    """Fails, or not, for good; another run in its place may not."""

    name = "wild_kid"

    async def run(self) -> Any:
        if int(self.run_id[-1], 16) % 3 == 0:
            raise ValueError("this one does not want to")
        return await super().run()


class OnceKid(Kid):
    name, delivery = "once_kid", "at_most_once"


class Parent(BaseTask):
    """Its children one after the other."""

    name = "parent"

    def plan(self) -> Any:
        return [Kid(1), Kid(2), [Kid(3)]]

    async def run(self, results: Any) -> Any:
        effect(self, "run")
        return {"n": self.args["n"], "kids": results}

    async def verify(self, result: Any) -> Any:
        effect(self, "verify")
        return result


class Crowd(Parent):
    """All at once, some of which fail and are asked for once more."""

    name, retries = "crowd", {"run": PATIENT}

    def plan(self) -> Any:
        return ParallelPlan([Kid(1), WildKid(2), WildKid(3), [Kid(4), Kid(5)]])


class CarefulParent(Parent):
    name = "careful_parent"

    def plan(self) -> Any:
        return ParallelPlan([OnceKid(1), Kid(2), OnceKid(3)])


class Household(BaseTask):
    """No run() of its own; plan() works in steps."""

    name = "household"

    async def plan(self) -> Any:
        began = effect(self, "plan", BEGUN)
        await self.step("counted", self.do, began, "counted")
        return [Kid(1), Kid(2)]

    async def do(self, began: str, step: str) -> str:
        await asyncio.sleep(moment())
        return effect(self, "plan", step, began)


ASKED_FOR: dict[type[BaseTask], float] = {
    Async: 12, Plain: 10, Once: 12, OncePlainly: 8, OnceOrAgain: 4, OnceOrNever: 4, Flaky: 8, Late: 3, Failing: 1,
    Parent: 6, Crowd: 6, CarefulParent: 5, Household: 4, Away: 1, AwayOnce: 1, Stubborn: 1,
}  # fmt: skip
"""Tasks that clients ask for, and how often."""
WAITING = frozenset({cls.name for cls in ASKED_FOR if issubclass(cls, Async) and cls is not Flaky})
AT_MOST_ONCE = frozenset(
    {cls.name for cls in (*ASKED_FOR, OnceKid) if getattr(cls, "delivery", None) == "at_most_once"}
)
ASKING = (
    frozenset({cls.name for cls in (*ASKED_FOR, OnceKid) if getattr(cls, "on_doubt", "ask") == "ask"}) & AT_MOST_ONCE
)
"""Those whose doubts somebody has to settle."""
IN_THREADS = frozenset({Plain.name, OncePlainly.name, OnceOrNever.name, Late.name, Async.name, Once.name})
"""Whose effects may be done in a thread, which cannot be stopped."""
