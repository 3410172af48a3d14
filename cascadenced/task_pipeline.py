"""`TaskPipeline`: one task, run here and now, through the same rules, log and stages as in the daemon."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from cascadenced.clock import SystemClock
from cascadenced.config import Config, load
from cascadenced.errors import Conflict, Invalid, RunFailedError
from cascadenced.eventlog.memory import MemoryEventLog
from cascadenced.events.audit import AuditRow, StageRow, audit_rows, stage_rows
from cascadenced.events.base import Json, Recorded
from cascadenced.events.content import TooLarge, Unserialisable, recordable
from cascadenced.events.streams import run_stream
from cascadenced.handlers.run_requests import Origin
from cascadenced.identity import Identity, Pseudonyms, Redactor, checked
from cascadenced.ids import SystemIds
from cascadenced.instance import Instance, assemble, open_instance
from cascadenced.pipeline.contexts import checked_context
from cascadenced.plugins.describe import describe_once
from cascadenced.plugins.discover import Catalogue
from cascadenced.projections import all_projections
from cascadenced.replaying import goes_unheard
from cascadenced.runtime.spawn import Spawner, ThreadSpawner
from cascadenced.runtime.tasks import TaskEntry
from cascadenced.vault import MemoryVault

_MAX_THREADS = 32

_ELSEWHERE = (
    "has no controls there: pause, resume or cancel that run, and those of its plan do the same; what the task must "
    "know, hand to its constructor; for a run of its own make another TaskPipeline"
)

By = tuple[str | None, str | None]
"""(user_id, group_id) of whoever says something, as far as they told."""


_Asking = asyncio.Task[Any] | concurrent.futures.Future[Any]


class _UnderWay:
    """A run of the pipeline, from before it is asked for until it has ended.

    run_id: once it is recorded, None if it never is.  asked: what others ask of it just now.
    """

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self.loop = asyncio.get_running_loop()
        self.run_id: asyncio.Future[str | None] = self.loop.create_future()
        self.asked: set[_Asking] = set()


class _Told:
    """What a pipeline was told of its next run."""

    def __init__(self) -> None:
        self.contexts: list[tuple[Json, By]] = []
        self.paused_by: By | None = None

    def __bool__(self) -> bool:
        return bool(self.contexts) or self.paused_by is not None


class TaskPipeline:
    """Runs a task object, or a class, through `intake → research → plan → precheck → run → verify`.

    Without `data_dir` only the events of the newest run are kept, in this object; with it all go into that folder's
    log, which no daemon may hold meanwhile. While a run is performed again no folder is opened: such a pipeline runs
    nothing then, and its result is None.

    `pause`, `resume`, `cancel` and `attach_context` are for other threads and coroutines than the one that waits for
    the run. They block where no event loop is running; with a running loop they have begun when they return, and what
    they return can be awaited. Between runs they are about the next one.

    In a plan it stands for its task and controls nothing: from then on these raise Conflict, except while it has a run
    of its own; and a plan does not take one that was told of its next run.
    """

    def __init__(self, task: object, *, data_dir: str | Path | None = None) -> None:
        """Raises Invalid if the object cannot be a task, saying why."""
        self._entry = describe_once(task)
        self._data_dir = data_dir
        self._secret = SystemIds().token()
        self._lock = threading.Lock()
        self._under_way: _UnderWay | None = None
        self._told = _Told()
        self._is_planned = False  # for good: nobody tells it when that run ends
        self.run_id: str | None = None
        """Id of the newest run, once it is asked for."""
        self.events: list[Recorded] = []
        """Events of the newest run, in order."""

    def run(self, *, user_id: str, group_id: str | None = None, args: dict[str, Json] | None = None) -> Any:
        """The result of `verify`, else of `run`. Raises what the task raised.

        Blocks where no event loop is running; with a running loop it returns a coroutine to await. Ctrl-C ends the call
        with KeyboardInterrupt, and the run as a caller that gives up does: unfinished, its stage interrupted.
        """
        if _running_loop() is not None:
            return self.run_async(user_id=user_id, group_id=group_id, args=args)
        if self._goes_unheard():
            return None
        # The loop has a thread of its own, so that plain hooks stay in the caller's, and may wait for what they record.
        spawner = ThreadSpawner(_MAX_THREADS)
        return spawner.lend(self._run(user_id, group_id, args, spawner))

    def run_async(
        self, *, user_id: str, group_id: str | None = None, args: dict[str, Json] | None = None
    ) -> Coroutine[Any, Any, Any]:
        """As `run`, always a coroutine. Plain hooks run in threads, so that the loop stays free."""
        return self._run(user_id, group_id, args, ThreadSpawner(_MAX_THREADS))

    def pause(self, *, user_id: str | None = None, group_id: str | None = None) -> Any:
        """What is under way ends; nothing new starts until `resume`. user_id, group_id: who says so, if not the user.

        Raises Conflict if the run has ended meanwhile.
        """
        by = _checked_ids(user_id, group_id)
        with self._lock:
            if self._under_way is None:
                self._refuse_if_planned()
                self._told.paused_by = by
                return _there(None)
            asking = self._ask(lambda instance, run_id: _pause(instance, run_id, by))
        return _answer(asking)

    def resume(self, *, user_id: str | None = None, group_id: str | None = None) -> Any:
        """The end of a pause. Raises Conflict if there is none, or if the run has ended meanwhile."""
        by = _checked_ids(user_id, group_id)
        with self._lock:
            if self._under_way is None:
                self._refuse_if_planned()
                if self._told.paused_by is None:
                    raise Conflict("no run of this pipeline is paused", code="not_paused")
                self._told.paused_by = None
                return _there(None)
            asking = self._ask(lambda instance, run_id: _resume(instance, run_id, by))
        return _answer(asking)

    def cancel(self, reason: str = "cancelled on request", *, user_id: str | None = None) -> Any:
        """End the run now; whoever waits for it gets a RunFailedError. Raises Conflict if no run is under way."""
        by = _checked_ids(user_id, None)
        with self._lock:
            if self._under_way is None:
                self._refuse_if_planned()
                raise _no_run()
            asking = self._ask(lambda instance, run_id: _cancel(instance, run_id, by, reason))
        return _answer(asking)

    def attach_context(self, payload: Any, *, user_id: str | None = None, group_id: str | None = None) -> Any:
        """Tell the run something: JSON, or a model with a `model_dump` or `dict` method. Returns whether it is told at
        once, because no stage is under way; else the next stage is.

        Raises Invalid (a ValueError) for what cannot be told.
        """
        by, context = _checked_ids(user_id, group_id), _checked_payload(payload)
        with self._lock:
            if self._under_way is None:
                self._refuse_if_planned()
                self._told.contexts.append((context, by))
                return _there(True)
            asking = self._ask(lambda instance, run_id: _attach(instance, run_id, by, context))
        return _answer(asking)

    def _cascade_entry(self) -> TaskEntry:
        """What a plan that this is part of asks for. Raises Conflict if that would lose what the pipeline was told."""
        with self._lock:
            if self._told:
                raise Conflict(f"a pipeline in a plan was told of its next run, and {_ELSEWHERE}", code="planned")
            self._is_planned = True
        return self._entry

    def _refuse_if_planned(self) -> None:
        if self._is_planned:
            raise Conflict(f"this pipeline runs as part of another run, and {_ELSEWHERE}", code="planned")

    def audit_rows(self) -> list[AuditRow]:
        """The audit rows of the newest run."""
        return [row for recorded in self.events for row in audit_rows(recorded.event)]

    def stage_rows(self) -> list[StageRow]:
        """The stage rows of the newest run."""
        return [row for recorded in self.events for row in stage_rows(recorded.event)]

    async def _run(self, user_id: str, group_id: str | None, args: dict[str, Json] | None, spawner: Spawner) -> Any:
        identity = Identity(checked(user_id, "user_id"), checked(group_id or user_id, "group_id"))
        args = _checked_args(args or {})
        if self._goes_unheard():
            return None
        async with AsyncExitStack() as stack:
            stack.callback(spawner.close)
            instance = await self._open(stack, spawner)
            stack.push_async_callback(instance.runs.stop, 0.0)  # a caller that gave up leaves its run under way
            stack.push_async_callback(self._over, under_way := _UnderWay(instance))
            accepted = await self._begin(under_way, identity, args)
            try:
                ended = await instance.runs.ended(accepted)
            finally:
                self.events = await instance.log.read_stream(run_stream(accepted))
        if ended.error is not None:
            raise ended.error
        if ended.run.status != "success":
            error_type = ended.run.error_type or ended.run.status
            raise RunFailedError(ended.run.reason or error_type, error_type=error_type, run_id=accepted)
        return ended.run.result

    def _goes_unheard(self) -> bool:
        return self._data_dir is not None and goes_unheard()

    async def _begin(self, under_way: _UnderWay, identity: Identity, args: dict[str, Json]) -> str:
        """Ask for the run; before it starts, it is told what was meant for it. Returns its id."""
        instance = under_way.instance
        with self._lock:
            told, self._told = self._told, _Told()
            self._under_way = under_way
        if told:
            instance.runs.limit(0, instance.config.max_queued_runs)  # it has to wait till all is said
        accepted = await instance.requests.run(self._entry.name, identity, args, Origin(via="python"))
        self.run_id = accepted.run_id
        for context, by in told.contexts:
            await _attach(instance, accepted.run_id, by, context)
        if told.paused_by is not None:
            await _pause(instance, accepted.run_id, told.paused_by)
        if told:
            instance.runs.limit(instance.config.max_concurrent_runs, instance.config.max_queued_runs)
        under_way.run_id.set_result(accepted.run_id)
        return accepted.run_id

    async def _over(self, under_way: _UnderWay) -> None:
        """Nothing more is asked of this run, and what was is answered, while there is somebody who can."""
        with self._lock:
            if self._under_way is under_way:
                self._under_way = None
            asked = list(under_way.asked)
        if not under_way.run_id.done():
            under_way.run_id.set_result(None)
        answers = (one if isinstance(one, asyncio.Task) else asyncio.wrap_future(one) for one in asked)
        await asyncio.gather(*answers, return_exceptions=True)

    def _ask(self, work: Callable[[Instance, str], Awaitable[Any]]) -> _Asking:
        """Begin `work` for the run that is under way, in its loop. The lock is held: it does not end meanwhile."""
        under_way = self._under_way
        assert under_way is not None

        async def asked() -> Any:
            run_id = await asyncio.shield(under_way.run_id)
            if run_id is None:
                raise _no_run()
            return await work(under_way.instance, run_id)

        asking: _Asking
        if _running_loop() is under_way.loop:
            asking = under_way.loop.create_task(asked())
        else:
            asking = asyncio.run_coroutine_threadsafe(asked(), under_way.loop)
        under_way.asked.add(asking)
        asking.add_done_callback(under_way.asked.discard)
        return asking

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
        args = recordable(args, "args")
    except (Unserialisable, TooLarge) as error:
        raise Invalid(str(error), code=error.code) from None
    if not isinstance(args, dict):
        raise Invalid(f"args must be a dict, not a {type(args).__name__}")
    return args


async def _pause(instance: Instance, run_id: str, by: By) -> None:
    await instance.controls.pause(run_id, by=_pseudonym(instance, by))


async def _resume(instance: Instance, run_id: str, by: By) -> None:
    await instance.controls.resume(run_id, by=_pseudonym(instance, by))


async def _cancel(instance: Instance, run_id: str, by: By, reason: str) -> None:
    await instance.controls.cancel(run_id, via="python", by=_pseudonym(instance, by), reason=reason)


async def _attach(instance: Instance, run_id: str, by: By, context: Json) -> bool:
    user_id, group_id = by
    redact = None if user_id is None else Redactor(Identity(user_id, group_id or user_id), instance.pseudonyms)
    told = await instance.controls.signal(run_id, context, via="python", by=_pseudonym(instance, by), redact=redact)
    return told.at_once


def _pseudonym(instance: Instance, by: By) -> str | None:
    return None if by[0] is None else instance.pseudonyms.user(by[0])


def _checked_ids(user_id: str | None, group_id: str | None) -> By:
    return (
        None if user_id is None else checked(user_id, "user_id"),
        None if group_id is None else checked(group_id, "group_id"),
    )


def _checked_payload(payload: Any) -> Json:
    """`payload` as a run is told it, of a model what it says of itself. Raises Invalid."""
    for export in ("model_dump", "dict"):
        if not isinstance(payload, dict) and callable(getattr(payload, export, None)):
            payload = getattr(payload, export)()
            break
    try:
        return checked_context(recordable(payload, "context"))
    except (Unserialisable, TooLarge) as error:
        raise Invalid(str(error), code=error.code) from None


def _no_run() -> Conflict:
    return Conflict("no run of this pipeline is under way", code="run_ended")


def _answer(asking: _Asking) -> Any:
    """What is answered; where a loop is running, to be awaited."""
    if isinstance(asking, asyncio.Task):
        return asking
    return asking.result() if _running_loop() is None else asyncio.wrap_future(asking)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _there(value: Any) -> Any:
    """`value`; where a loop is running, to be awaited."""
    loop = _running_loop()
    if loop is None:
        return value
    future: asyncio.Future[Any] = loop.create_future()
    future.set_result(value)
    return future
