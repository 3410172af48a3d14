"""Keeps a nats-server of our own going: started again when it ends, when it hangs, when it does not do its work.

It is our child, nobody else will. A server that hangs (stopped, deadlocked) accepts connections, because the kernel
does, but greets nobody; three unanswered calls in a row are no pause of ours: if our own loop stood still, one is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import anyio
import structlog

from cascadenced.bus.base import BusInfo
from cascadenced.clock import Clock
from cascadenced.errors import CascadenceError
from cascadenced.runtime.retry import backoff_s

CALL_EVERY_S = 5.0
MAX_UNANSWERED = 3
"""With the time that a call may take: a server is given up after 15 to 25 s of silence. A healthy one that syncs to a
busy disk greets within milliseconds; connections of its clients are given up after 10 to 15 s."""
PATIENCE_S = 60.0
"""How long it may not do its work although it answers, at first; each time twice as long, up to ten minutes."""
_LONGEST_PATIENCE_S = 600.0
_STABLE_AFTER_S = 60.0

_log = structlog.get_logger(__name__)


class OwnServer(Protocol):
    """What is asked of bus/embedded.py."""

    @property
    def running(self) -> bool: ...

    async def wait(self) -> int: ...

    async def restart(self) -> None: ...

    def kill(self) -> None: ...

    async def answers(self) -> bool: ...

    def set_aside(self, stream: str) -> None: ...


class ServerKeeper:
    """info: what the bus says, None while there is none."""

    def __init__(self, server: OwnServer, clock: Clock, info: Callable[[], BusInfo | None]) -> None:
        self._server, self._clock, self._info = server, clock, info
        self._starting = False
        self._unreadable = ""
        self._patience_s = PATIENCE_S

    async def run(self) -> None:
        """Until cancelled."""
        async with anyio.create_task_group() as parts:
            parts.start_soon(self._revive)
            parts.start_soon(self._watch)

    def set_aside(self, stream: str) -> None:
        """Start it again without the files of `stream`, which it cannot read."""
        if not self._unreadable:
            _log.error("nats_stream_unreadable", stream=stream)
            self._unreadable = stream
            self._server.kill()

    async def _revive(self) -> None:
        attempt, began = 0, self._clock.monotonic()
        while True:
            status = await self._server.wait()
            attempt = 1 if self._clock.monotonic() - began > _STABLE_AFTER_S else attempt + 1
            _log.error("nats_server_ended", status=status, attempt=attempt)
            await self._clock.sleep(backoff_s(attempt))
            self._starting = True
            try:
                if self._unreadable:
                    self._server.set_aside(self._unreadable)
                    self._unreadable = ""
                await self._server.restart()
            except (CascadenceError, OSError) as error:  # e.g. a full disk, a program that is being replaced
                _log.error("nats_server_does_not_start", error=str(error))
            finally:
                self._starting, began = False, self._clock.monotonic()

    async def _watch(self) -> None:
        n_unanswered, ailing_since = 0, self._clock.monotonic()
        while True:
            await self._clock.sleep(CALL_EVERY_S)
            now, info = self._clock.monotonic(), self._info()
            if self._starting or not self._server.running:
                n_unanswered, ailing_since = 0, now
                continue
            n_unanswered = 0 if await self._server.answers() else n_unanswered + 1
            if info is None or info.well:
                ailing_since = now
                self._patience_s = PATIENCE_S
            if info is not None and info.unreadable_stream:
                self.set_aside(info.unreadable_stream)
            elif n_unanswered >= MAX_UNANSWERED:
                _log.error("nats_server_hangs", n_unanswered=n_unanswered)
                self._server.kill()
                n_unanswered, ailing_since = 0, now
            elif not n_unanswered and now - ailing_since >= self._patience_s:
                _log.error("nats_server_does_not_do_its_work", for_s=round(self._patience_s))
                self._server.kill()
                self._patience_s = min(self._patience_s * 2, _LONGEST_PATIENCE_S)
                ailing_since = now
