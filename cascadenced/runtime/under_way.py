"""The steps of a stage that are under way on an event loop: what its code leaves behind ends them first.

A task group cancels its other tasks when one of them raises, and a wait is raised. That must not cut steps off: so each
is a task of its own, which only the end of the stage for another reason cancels.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any


class UnderWay:
    """waits: whether the stage has come to a wait."""

    def __init__(self, waits: Callable[[], bool]) -> None:
        self._waits = waits
        self._steps: set[Any] = set()

    async def do(self, step: Coroutine[Any, Any, Any]) -> Any:
        """What `step` returns. Raises what it raises."""
        import asyncio  # a worker whose task needs none does without

        task = asyncio.create_task(step)
        self._steps.add(task)
        task.add_done_callback(self._steps.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if self._waits() or task.done():
                raise
            task.cancel()
            return await task

    async def settled(self) -> None:
        """Return when there are none any more. Cancelled, it cancels them."""
        if not self._steps:
            return
        import asyncio

        try:
            while self._steps:
                await asyncio.wait(self._steps)
        except asyncio.CancelledError:
            self.cancel()
            raise

    def cancel(self) -> None:
        """Let none of them go on."""
        for task in self._steps:
            task.cancel()
