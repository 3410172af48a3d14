"""The tasks and the workflow that come with us."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import structlog

from cascadenced.errors import Invalid
from cascadenced.events.base import Json
from cascadenced.plugins.base import BaseTask, CronTask, ManualTrigger, PointerTask
from cascadenced.workflows.demo import greet

_log = structlog.get_logger(__name__)


class Example(CronTask):
    """Says that it ran."""

    name = "example"

    def run(self) -> str:
        _log.info("example_ran", run_id=self.run_id)
        return "example ran"


class Countdown(ManualTrigger):
    """Passes every stage, each taking `args["seconds"]` (default 1): something to watch, pause and kill."""

    name = "countdown"

    async def intake(self) -> dict[str, Json]:
        seconds = self.args.get("seconds", 1)
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds <= 3600:
            raise Invalid("args.seconds must be a number from 0 to 3600")
        return {"seconds": seconds}

    async def plan(self) -> list[str]:
        await self._wait()
        return ["three", "two", "one"]

    async def precheck(self) -> bool:
        await self._wait()
        return True

    async def run(self, plan: list[str]) -> dict[str, Json]:
        await self._wait()
        return {"counted": [*plan, "lift-off"]}

    async def verify(self, result: dict[str, Any]) -> dict[str, Json]:
        await self._wait()
        if result["counted"][-1] != "lift-off":
            raise Invalid("the countdown stopped early")
        return result

    async def _wait(self) -> None:
        await asyncio.sleep(float(self.args.get("seconds", 1)))


class Sleeper(ManualTrigger):
    """Sleeps `args["seconds"]` (default 1) in a thread, as a plain function does."""

    name = "sleeper"

    def run(self) -> dict[str, Json]:
        seconds = float(self.args.get("seconds", 1))
        time.sleep(min(max(seconds, 0.0), 3600.0))
        return {"slept_s": seconds}


class Bookmarks(PointerTask):
    """Keeps pointers; running it does nothing else."""

    name = "bookmarks"

    def run(self) -> None:
        return None


class CapabilityFollowUp(BaseTask):
    """What the capability planner runs after a failed run: leaves a note that somebody should look at it."""

    name = "capability_follow_up"

    async def run(self) -> dict[str, Json]:
        note = f"run {self.args.get('failed_run_id')} of {self.args.get('failed_task')} failed"
        await self.add_note(note)
        return {"note": note}


BUILTINS = (Example, Countdown, Sleeper, Bookmarks, CapabilityFollowUp, greet)
