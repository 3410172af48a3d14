"""Tasks for worker processes: those are imported, so they stand in a module.

A test knows that a hook is under way because the hook asks for a step called `begun`.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from typing import Any

from cascadenced.errors import Invalid
from cascadenced.plugins.base import BaseTask

print("imported")


class Task(BaseTask):
    _host: Any

    def begun(self, *_: Any) -> None:
        self._host.step("begun", lambda: None)


# ── ordinary ones ────────────────────────────────────────────────────────────────────────────────────────────────


class Plain:
    """Needs no base class."""

    user_id: str
    args: dict[str, Any]

    def run(self) -> dict[str, Any]:
        return {"user": self.user_id, "args": self.args, "cwd": os.getcwd()}


class Stages:
    """What it keeps between its stages goes on being there."""

    def intake(self) -> int:
        self.pid, self.n_stages = os.getpid(), 1
        return self.pid

    async def plan(self, research: object) -> Any:
        self.loop, self.n_stages = asyncio.get_running_loop(), self.n_stages + 1
        await asyncio.sleep(0)
        return [research, "planned"]

    async def run(self, plan: object) -> Any:
        assert asyncio.get_running_loop() is self.loop
        return {"pid": os.getpid(), "same": self.pid == os.getpid(), "n_stages": self.n_stages + 1, "plan": plan}

    def verify(self, result: object = "nothing") -> object:
        return asyncio.run(self.in_a_loop_of_its_own(result))

    async def in_a_loop_of_its_own(self, result: object) -> object:
        return result


class Copied:
    """Its module has an object of it."""

    def __init__(self, greeting: str) -> None:
        self.greetings = [greeting]

    def run(self) -> list[str]:
        self.greetings.append("again")
        return self.greetings


copied = Copied("hello")
again = copied


class Hands:
    """A plain hook may hand back something to await."""

    def run(self) -> Any:
        async def later() -> str:
            return "later"

        return later()


class Reads(Task):
    """Is told something while it runs."""

    async def run(self) -> list[Any]:
        self.begun()
        while len(self.context) < 2:
            await asyncio.sleep(0.001)
        return self.context


class Prechecks:
    """args: what precheck returns; for `object` an object."""

    args: dict[str, Any]

    def precheck(self) -> Any:
        return object() if self.args["says"] == "object" else self.args["says"]

    def run(self) -> None: ...


class Sees:
    """What surrounds it."""

    def run(self) -> dict[str, Any]:
        return {
            "environ": dict(os.environ),
            "path": sys.path,
            "argv": sys.argv,
            "descriptors": sorted(os.listdir("/proc/self/fd")),
            "session": os.getsid(0),
            "child": subprocess.run(["ls", "/proc/self/fd"], capture_output=True, text=True, check=True).stdout.split(),
            "stdin": sys.stdin.read(),
        }


class Prints:
    args: dict[str, Any]

    def run(self) -> None:
        print("out")
        print("err", file=sys.stderr)
        os.write(1, b"raw \xff\n")
        print("\udc80 no newline", end="")

    def verify(self) -> None:
        for n in range(self.args["n_lines"]):
            print(f"line {n}")


class ThreeFiles:
    def run(self) -> list[Any]:
        return [open(os.devnull) for _ in range(100)]


# ── what they ask ────────────────────────────────────────────────────────────────────────────────────────────────


async def doubled(n: int) -> int:
    await asyncio.sleep(0)
    return 2 * n


class Steps(Task):
    def run(self) -> Any:
        return [self._host.step("first", lambda: (1, 2)), self._host.step("second", str.upper, "b")]

    async def verify(self) -> Any:
        one = await self._host.step("plain", lambda: "x")
        return [one, *await asyncio.gather(*(self._host.step("doubled", doubled, n) for n in range(3)))]


class StepFails(Task):
    def run(self) -> Any:
        try:
            self._host.step("fails", self.fails)
        except LookupError as error:
            return f"went on after {error}"

    async def verify(self) -> Any:
        await self._host.step("fails", self.fails_later)

    def fails(self) -> None:
        raise LookupError("no such thing")

    async def fails_later(self) -> None:
        raise LookupError("no such thing later")


class StepOddResult(Task):
    def run(self) -> Any:
        self._host.step("odd", object)


class ManySteps(Task):
    async def run(self) -> int:
        return sum(await asyncio.gather(*(self._host.step(f"s{n}", doubled, n) for n in range(2_000))))


class StepsInThreads(Task):
    async def run(self) -> Any:
        return await asyncio.gather(*(asyncio.to_thread(self._host.step, f"s{n}", int, n) for n in range(20)))


class Sleeps(Task):
    cleaned_up = False

    def run(self) -> str:
        try:
            self._host.sleep(3600)
        finally:
            print("cleaned up")
        return "slept"

    async def verify(self) -> Any:
        await self._host.sleep(60)
        return await self._host.wait_for("paid", 5, {"order": 7})


class ClingsOn(Task):
    """Does not want to be left."""

    def run(self) -> str:
        try:
            self._host.sleep(3600)
        except BaseException as error:
            print(f"caught {type(error).__name__}")
        try:
            self._host.step("more", lambda: None)
        except BaseException as error:
            print(f"caught {type(error).__name__} again")
        return "done all the same"


class Wishes(Task):
    name = "wishes"

    async def run(self) -> Any:
        await self.add_note("a note")
        try:
            await self._host.add_pointer("t", "", "r", None)
        except Invalid as error:
            return [str(error), error.code, await self._host.dispatch("paid", {"n": 1})]


class Branches(Task):
    """Two coroutines with two steps each, the second of which has branches itself."""

    async def run(self) -> Any:
        return await asyncio.gather(self.branch("a"), self.branch("b"), self.step("direct", self.work, "c"))

    async def verify(self) -> Any:
        async with asyncio.TaskGroup() as group:
            group.create_task(self.branch("a"))
            group.create_task(self.nap())

    async def branch(self, name: str) -> Any:
        one = await self.step("one", self.work, f"{name}1")
        return [one, await self.step("two", self.work, f"{name}2")]

    async def work(self, what: str) -> str:
        await asyncio.sleep(self.args.get(what, 0.0))
        print(what)
        return what

    async def nap(self) -> None:
        await self.sleep(60)


# ── how it can go wrong ──────────────────────────────────────────────────────────────────────────────────────────


class Odd(Exception):
    partial = {"done": [1, 2]}


class OddPartial(Exception):
    partial = object


class Raises:
    args: dict[str, Any]

    def run(self) -> None:
        self.deeper()

    def deeper(self) -> None:
        match self.args["what"]:
            case "odd":
                raise Odd("an odd thing")
            case "odd partial":
                raise OddPartial("an odder thing")
            case "key":
                raise KeyError("k")
            case "exit":
                sys.exit(3)
            case "interrupt":
                raise KeyboardInterrupt()
            case "stop":
                raise StopIteration(1)
            case "group":
                raise ExceptionGroup("several", [ValueError("one")])

    async def verify(self) -> None:
        self.deeper()


class CancelsItself:
    async def run(self) -> None:
        this = asyncio.current_task()
        assert this is not None
        this.cancel()
        await asyncio.sleep(0)


class Returns:
    args: dict[str, Any]

    def run(self) -> Any:
        deep: list[Any] = []
        for _ in range(2_000):
            deep = [deep]
        return {
            "object": object(),
            "set": {1},
            "nan": float("nan"),
            "big": 10**30,
            "keys": {1: 2},
            "deep": deep,
            "large": "x" * 600_000,
            "bytes": b"x",
        }[self.args["what"]]


class PlansTasks:
    def plan(self) -> Any:
        return [Plain()]

    def run(self) -> None: ...


class MadeWrong:
    def __init__(self) -> None:
        raise ValueError("cannot be made")

    def run(self) -> None: ...


class LeavesAThread(Task):
    """It would keep the process."""

    def run(self) -> str:
        threading.Thread(target=threading.Event().wait).start()
        return "done"


class LeavesACoroutine(Task):
    async def run(self) -> str:
        self.task = asyncio.ensure_future(self.never())
        await asyncio.sleep(0)
        return "done"

    async def never(self) -> None:
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                continue
