"""Who waits for the end of which run."""

from __future__ import annotations

import asyncio

import msgspec

from cascadenced.errors import Unavailable
from cascadenced.pipeline.model import Run


class Ended(msgspec.Struct, frozen=True):
    """error: the exception object itself if the run failed in this process; for callers who share it."""

    run: Run
    error: BaseException | None


class Endings:
    """Futures by run id."""

    def __init__(self) -> None:
        self._waiting: dict[str, list[asyncio.Future[Ended]]] = {}

    def of(self, run_id: str) -> asyncio.Future[Ended]:
        """The run, once it has ended. Raises Unavailable when it does not go on in this process (`leave`)."""
        waiting: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(run_id, []).append(waiting)
        return waiting

    def tell(self, run_id: str, ended: Ended) -> None:
        for waiting in self._waiting.pop(run_id, ()):
            if not waiting.done():
                waiting.set_result(ended)

    def leave(self, run_id: str, why: str) -> None:
        """Nobody goes on with it here: tell whoever waits."""
        for waiting in self._waiting.pop(run_id, ()):
            if not waiting.done():
                waiting.set_exception(Unavailable(why))

    def leave_all(self, why: str) -> None:
        """`why` with {} for the run's id."""
        for run_id in list(self._waiting):
            self.leave(run_id, why.format(run_id))
