"""Runs whose parent has ended: nobody wants them any more, and nobody waits while they are cancelled.

One whose effect may have happened stays in doubt till somebody resolves it, and ends with that."""

from __future__ import annotations

import asyncio

import structlog

from cascadenced.errors import CascadenceError, Conflict
from cascadenced.runtime.controls import Controls

_log = structlog.get_logger(__name__)

_WHY = "the run whose plan asked for it has ended"


class Orphans:
    """Of all runs of this instance."""

    def __init__(self, controls: Controls) -> None:
        self._controls = controls
        self._cancelling: set[asyncio.Task[None]] = set()

    def cancel_soon(self, run_id: str) -> None:
        cancelling = asyncio.get_running_loop().create_task(self._cancel(run_id), name=f"cancel-{run_id}")
        self._cancelling.add(cancelling)
        cancelling.add_done_callback(self._cancelling.discard)

    async def cancelled(self) -> None:
        """Return when all of them have ended, and theirs."""
        while self._cancelling:
            await asyncio.wait(self._cancelling)

    async def _cancel(self, run_id: str) -> None:
        try:
            await self._controls.abandon(run_id, reason=_WHY)
        except Conflict:
            pass  # it has ended by itself
        except CascadenceError as error:
            _log.error("orphan_not_cancelled", run_id=run_id, error=str(error))
