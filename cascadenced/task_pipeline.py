"""`TaskPipeline`: one task, run here and now, through the same rules, log and stages as in the daemon."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from cascadenced.clock import SystemClock
from cascadenced.config import Config, load
from cascadenced.errors import Invalid, RunFailedError
from cascadenced.eventlog.memory import MemoryEventLog
from cascadenced.events.audit import AuditRow, StageRow, audit_rows, stage_rows
from cascadenced.events.base import Json, Recorded
from cascadenced.events.content import TooLarge, Unserialisable, recordable
from cascadenced.handlers.run_requests import Origin
from cascadenced.identity import Identity, Pseudonyms, checked
from cascadenced.ids import SystemIds
from cascadenced.instance import Instance, assemble, open_instance
from cascadenced.plugins.describe import describe_once
from cascadenced.plugins.discover import Catalogue
from cascadenced.projections import all_projections
from cascadenced.runtime.record import run_stream
from cascadenced.runtime.spawn import Spawner, ThreadSpawner
from cascadenced.runtime.tasks import TaskEntry
from cascadenced.vault import MemoryVault

_MAX_THREADS = 32


class TaskPipeline:
    """Runs a task object, or a class, through `intake → research → plan → precheck → run → verify`.

    Without `data_dir` only the events of the newest run are kept, in this object; with it all go into that folder's
    log, which no daemon may hold meanwhile.
    """

    def __init__(self, task: object, *, data_dir: str | Path | None = None) -> None:
        """Raises Invalid if the object cannot be a task, saying why."""
        self._entry = describe_once(task)
        self._data_dir = data_dir
        self._secret = SystemIds().token()
        self.run_id: str | None = None
        """Id of the newest run, once it is asked for."""
        self.events: list[Recorded] = []
        """Events of the newest run, in order."""

    def run(self, *, user_id: str, group_id: str | None = None, args: dict[str, Json] | None = None) -> Any:
        """The result of `verify`, else of `run`. Raises what the task raised.

        Blocks where no event loop is running; with a running loop it returns a coroutine to await.
        """
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            pass
        else:
            return self.run_async(user_id=user_id, group_id=group_id, args=args)
        # The loop has a thread of its own, so that plain hooks stay in the caller's, and may wait for what they record.
        spawner = ThreadSpawner(_MAX_THREADS)
        return spawner.lend(self._run(user_id, group_id, args, spawner))

    def run_async(
        self, *, user_id: str, group_id: str | None = None, args: dict[str, Json] | None = None
    ) -> Coroutine[Any, Any, Any]:
        """As `run`, always a coroutine. Plain hooks run in threads, so that the loop stays free."""
        return self._run(user_id, group_id, args, ThreadSpawner(_MAX_THREADS))

    def _cascade_entry(self) -> TaskEntry:
        """What a plan that this is part of asks for."""
        return self._entry

    def audit_rows(self) -> list[AuditRow]:
        """The audit rows of the newest run."""
        return [row for recorded in self.events for row in audit_rows(recorded.event)]

    def stage_rows(self) -> list[StageRow]:
        """The stage rows of the newest run."""
        return [row for recorded in self.events for row in stage_rows(recorded.event)]

    async def _run(self, user_id: str, group_id: str | None, args: dict[str, Json] | None, spawner: Spawner) -> Any:
        identity = Identity(checked(user_id, "user_id"), checked(group_id or user_id, "group_id"))
        args = _checked_args(args or {})
        async with AsyncExitStack() as stack:
            stack.callback(spawner.close)
            instance = await self._open(stack, spawner)
            stack.push_async_callback(instance.runs.stop, 0.0)  # a caller that gave up leaves its run under way
            accepted = await instance.requests.run(self._entry.name, identity, args, Origin(via="python"))
            self.run_id = accepted.run_id
            try:
                ended = await instance.runs.ended(accepted.run_id)
            finally:
                self.events = await instance.log.read_stream(run_stream(accepted.run_id))
        if ended.error is not None:
            raise ended.error
        if ended.run.status != "success":
            error_type = ended.run.error_type or ended.run.status
            raise RunFailedError(ended.run.reason or error_type, error_type=error_type, run_id=accepted.run_id)
        return ended.run.result

    async def _open(self, stack: AsyncExitStack, spawner: Spawner) -> Instance:
        catalogue = Catalogue({self._entry.name: self._entry}, ())
        if self._data_dir is not None:
            config = load(None, os.environ, {"data_dir": str(self._data_dir)})
            return await stack.enter_async_context(
                open_instance(config, who="TaskPipeline", catalogue=catalogue, spawner=spawner)
            )
        clock, ids = SystemClock(), SystemIds()
        log = await MemoryEventLog.open(clock=clock, ids=ids, projections=all_projections())
        stack.push_async_callback(log.close)
        instance = await assemble(
            Config(),
            clock=clock,
            ids=ids,
            log=log,
            vault=MemoryVault(),
            spawner=spawner,
            catalogue=catalogue,
            pseudonyms=Pseudonyms(self._secret),
        )
        stack.push_async_callback(instance.stages.close)
        return instance


def _checked_args(args: Json) -> dict[str, Json]:
    """`args` as they will be read back, and nobody else's."""
    try:
        args = recordable(args)
    except (Unserialisable, TooLarge) as error:
        raise Invalid(f"args: {error}", code=error.code) from None
    if not isinstance(args, dict):
        raise Invalid(f"args must be a dict, not a {type(args).__name__}")
    return args
