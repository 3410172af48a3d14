"""A stage in a process of the run's own: what goes there, what it asks meanwhile, and what comes back."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import msgspec

from cascadenced.errors import PrecheckError, Superseded
from cascadenced.events.base import Json
from cascadenced.handlers.failure import Told
from cascadenced.handlers.steps import Steps
from cascadenced.handlers.worker_outcome import printed_for_people, told
from cascadenced.plugins.base import Host
from cascadenced.runtime.record import LiveRun
from cascadenced.runtime.spawn import Suspended as Unwound
from cascadenced.runtime.worker import Died, Worker, Workers
from cascadenced.runtime.worker_protocol import (
    Answer,
    Ask,
    Raised,
    Recorded,
    Returned,
    StageCall,
    Suspended,
    TaskSource,
    Wish,
)

_WISHES = frozenset({"add_note", "add_pointer"})


class FailedThere(Exception):
    """How a stage failed in its process. lineage: `module:qualname` of the error's class and those above it."""

    def __init__(self, said: Told, lineage: tuple[str, ...]) -> None:
        super().__init__(said.reason)
        self.said, self.lineage = said, lineage


class DiedThere(FailedThere):
    """Its process has ended before the stage did."""


class ProcessStages:
    """One worker for each run, from its first stage to its end or its next wait."""

    def __init__(self, max_workers: int) -> None:
        self._max_workers = max_workers
        self._workers: Workers | None = None
        self._at_work: dict[str, Worker] = {}
        self._ending: set[asyncio.Task[None]] = set()

    async def output(
        self, live: LiveRun, stage: str, handed: Json, *, takes: bool, context: list[Json], steps: Steps, host: Host
    ) -> Json:
        """What the hook put out. Raises FailedThere, DiedThere; Unwound if it waits. `live.printed` says what it
        printed, however it ended."""
        assert live.entry is not None
        assert live.redact is not None
        limits = live.entry.policy.limits
        worker, attributes = await self._worker(live, context)
        live.on_begin()
        argument = handed if takes else msgspec.UNSET

        async def answer(ask: Ask) -> Answer:
            if isinstance(ask, Wish):
                return Recorded(await _granted(host, ask))
            return await steps.answer(ask)

        call = StageCall(stage=stage, attributes=attributes, argument=argument)
        try:
            performed = await worker.perform(call, answer)
        except BaseException:
            live.printed = printed_for_people(worker.printed(), live.redact)
            raise
        live.printed = printed_for_people(performed.printed, live.redact)
        match performed.outcome:
            case Returned(value=value):
                if stage == "precheck":
                    _refuse(value)
                    value = None
                return value
            case Suspended():
                raise Unwound(f"the stage {stage} waits")
            case outcome:
                lineage = outcome.lineage if isinstance(outcome, Raised) else ("builtins:Exception",)
                said = told(outcome, live.redact, limits)
                raise (DiedThere if isinstance(outcome, Died) else FailedThere)(said, (*lineage, said.error_type))

    def let_go(self, live: LiveRun) -> None:
        worker = self._at_work.pop(live.run_id, None)
        if worker is not None:
            ending = asyncio.get_running_loop().create_task(worker.close(), name=f"worker-{worker.pid}")
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)

    async def close(self) -> None:
        """End all of them."""
        if self._workers is not None:
            await self._workers.close()

    @property
    def n_workers(self) -> int:
        return 0 if self._workers is None else self._workers.n_workers

    async def _worker(self, live: LiveRun, context: list[Json]) -> tuple[Worker, dict[str, Json]]:
        """The run's, and what its task is to be given first."""
        worker = self._at_work.get(live.run_id)
        if worker is not None and worker.died is None:
            for item in context[live.n_told :]:
                await worker.attach(item)
            live.n_told = len(context)
            return worker, {}
        assert live.entry is not None
        assert live.entry.source is not None
        assert live.identity is not None
        if self._workers is None:
            self._workers = Workers(environ=os.environ, max_workers=self._max_workers)
        module, _, qualname = live.entry.source.partition(":")
        worker = await self._workers.start(TaskSource(module, qualname), live.entry.policy.limits)
        self._at_work[live.run_id] = worker
        live.n_told = len(context)
        return worker, {
            "user_id": live.identity.user_id,
            "group_id": live.identity.group_id,
            "run_id": live.run_id,
            "args": live.run.args,
            "context": context,
        }


def _refuse(value: Json) -> None:
    """Unless a precheck has let the run pass."""
    if value is not True:
        raise PrecheckError(value if isinstance(value, str) and value else "precheck failed")


async def _granted(host: Host, wish: Wish) -> Json:
    if wish.verb not in _WISHES:
        raise Superseded(f"a task in a process of its own cannot ask for {wish.verb!r}")
    granted: Any = await getattr(host, wish.verb)(*wish.arguments)
    return granted
