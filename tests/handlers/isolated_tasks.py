"""Tasks with processes of their own: those are imported, so they stand in a module."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cascadenced.errors import Invalid
from cascadenced.pipeline.policy import Limits, Retry
from cascadenced.plugins.base import BaseTask


class Isolated(BaseTask):
    isolation = "process"


class Journey(Isolated):
    """Works in steps, sleeps and waits; `args["calls"]` is a file in which it notes what it really does."""

    name = "journey"

    def note(self, what: str) -> str:
        with open(str(self.args["calls"]), "a") as file:
            file.write(f"{what}\n")
        return what

    def intake(self) -> None:
        self.pid = os.getpid()
        print("hello", self.user_id)

    async def plan(self) -> Any:
        return {"same": self.pid == os.getpid()}

    def run(self, plan: Any) -> Any:
        one = self.step(f"one for {self.user_id}", self.note, "one")
        print("tired")
        self.sleep(60)
        two = self.step("two", self.note, "two")
        paid = self.wait_for("paid", where={"n": 7})
        return [plan, one, two, paid["by"]]

    async def verify(self, result: Any) -> Any:
        return [*result, await self.step("three", self.note, "three"), self.context]


class TimesOut(Isolated):
    name = "times-out"

    def run(self) -> str:
        try:
            return str(self.wait_for("paid", timeout_s=5))
        except TimeoutError as error:
            return f"timed out: {error}"


class Confused(Isolated):
    """Asks for what makes no sense, and then for something that does."""

    name = "confused"

    def run(self) -> list[str]:
        def sleep_within() -> None:
            self.sleep(1)

        asked: list[Callable[[], Any]] = [
            lambda: self.step("", list),
            lambda: self.step("x" * 201, list),
            lambda: self.sleep(-1),
            lambda: self.sleep(float("nan")),
            lambda: self.sleep(1e300),
            lambda: self.wait_for("two words"),
            lambda: self.wait_for(7),  # type: ignore[arg-type]
            lambda: self.wait_for("paid", timeout_s="soon"),  # type: ignore[arg-type]
            lambda: self.wait_for("paid", timeout_s=True),
            lambda: self.wait_for("paid", timeout_s=1e300),
            lambda: self.wait_for("paid", where=[1]),  # type: ignore[arg-type]
            lambda: self.step("outer", sleep_within),
        ]
        said = []
        for ask in asked:
            try:
                ask()
            except Invalid as error:
                said.append(str(error))
        return [*said, self.step("last", lambda: "went on")]


class ConfusedInAThread(Confused):
    name = "confused-in-a-thread"
    isolation = "thread"


class Aborts(Isolated):
    """Takes its process with it, the first time."""

    name = "aborts"
    retries = Retry(max_attempts=2, initial_s=0)

    def run(self) -> str:
        seen = Path(str(self.args["calls"]))
        if not seen.exists():
            seen.touch()
            os.abort()
        return "survived"


class Loops(Isolated):
    name = "loops"
    timeout_s = 1.0

    def run(self) -> None:
        print("round and round for", self.user_id)
        Path(str(self.args["calls"])).write_text(str(os.getpid()))
        while True:
            time.sleep(0.01)


class Unserialisable(Isolated):
    name = "unserialisable"
    retries = Retry(max_attempts=3, initial_s=0)

    def run(self) -> Any:
        return {1, 2}


class Raises(Isolated):
    name = "raises"
    retries = Retry(max_attempts=3, initial_s=0, retry_on=(OSError,), give_up_on=("ConnectionError",))

    def run(self) -> None:
        raise {"reset": ConnectionResetError, "missing": FileNotFoundError, "value": ValueError}[
            str(self.args["what"])
        ](f"not for {self.user_id}")


class Mismatched(Isolated):
    """Asks for something else in its second life."""

    name = "mismatched"
    retries = Retry(max_attempts=3, initial_s=0)

    def run(self) -> None:
        seen = Path(str(self.args["calls"]))
        self.step("second" if seen.exists() else "first", lambda: None)
        seen.touch()
        self.sleep(60)


class Hears(Isolated):
    """Has a way of its own to be told things."""

    name = "hears"
    heard: list[Any]

    def attach_context(self, item: Any) -> None:
        self.heard = [*getattr(self, "heard", []), item]

    def run(self) -> Any:
        return [self.heard, self.context]


class Hungry(Isolated):
    name = "hungry"
    limits = Limits(memory_bytes=400 * 1024 * 1024)

    def run(self) -> int:
        return len(bytearray(1024 * 1024 * 1024))


class Nested(Isolated):
    name = "nested"

    def run(self) -> Any:
        return self.step("outer", lambda: self.step("inner", lambda: 1))


class Branching(Isolated):
    """Three branches, each of which sleeps between its steps."""

    name = "branching"
    delivery = "at_most_once"

    async def run(self) -> Any:
        async with asyncio.TaskGroup() as group:
            branches = [group.create_task(self.branch(name)) for name in "abc"]
        return [branch.result() for branch in branches]

    async def branch(self, name: str) -> Any:
        one = await self.step("one", self.note, f"{name}1")
        await self.sleep(60)
        return [one, await self.step("two", self.note, f"{name}2")]

    async def note(self, what: str) -> str:
        await asyncio.sleep(0.01)
        with open(str(self.args["calls"]), "a") as file:
            file.write(f"{what}\n")
        return what


class PaysAndDies(Isolated):
    """Takes its process with it when it has paid; each payment is a line in `args["calls"]`."""

    name, delivery = "pays-and-dies", "at_most_once"
    retries = Retry(max_attempts=3, initial_s=0)
    in_step = False

    def run(self) -> Any:
        return self.step("pay", self.pay) if self.in_step else self.pay()

    def pay(self) -> None:
        with open(str(self.args["calls"]), "a") as file:
            file.write("paid\n")
        os.kill(os.getpid(), signal.SIGKILL)


class PaysInAStepAndDies(PaysAndDies):
    name, in_step = "pays-in-a-step-and-dies", True


class PaysAgainAndDies(PaysAndDies):
    name, on_doubt = "pays-again-and-dies", "retry"
    retries = None


class Waits(Isolated):
    """Is done when the file `args["go"]` is there."""

    name, timeout_s = "waits", {"run": 0.4}
    delivery = "at_most_once"

    def run(self) -> str:
        while not Path(str(self.args["go"])).exists():
            time.sleep(0.01)
        return "done"


class Holds(Waits):
    """The same, without a limit."""

    name, timeout_s = "holds", None
