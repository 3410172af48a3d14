"""Somebody wants to control a run or a task, through whichever door: may they, and did they ask for the same before?"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

import msgspec

from cascadenced.errors import Conflict, Invalid, Unknown, no_run
from cascadenced.eventlog.base import EventLog
from cascadenced.events.base import Context, Event, Json, Recorded
from cascadenced.events.run import RunCancelled, RunPaused, RunResolved, RunResumed
from cascadenced.events.signal import ContextAttached
from cascadenced.events.task import TaskDisabled, TaskEnabled, TaskPaused, TaskResumed
from cascadenced.handlers.sources import Sources, canonical, used_otherwise
from cascadenced.identity import Redactor
from cascadenced.pipeline.access import Caller, may_control
from cascadenced.pipeline.admission import Switch
from cascadenced.pipeline.control import is_consumed_at_once
from cascadenced.pipeline.model import Run, fold
from cascadenced.projections.runs import resolve_run_id, running
from cascadenced.runtime.controls import Controlled, Controls
from cascadenced.runtime.record import LiveRun
from cascadenced.runtime.runs import Runs
from cascadenced.runtime.tasks import Tasks

_WHOLE_ID = re.compile("[0-9a-f]{32}")
_MAX_TRIES = 10
"""Of runs that end just when they are to be paused."""
_SWITCHED: dict[Switch, type[Event]] = {
    "enable": TaskEnabled,
    "disable": TaskDisabled,
    "pause": TaskPaused,
    "resume": TaskResumed,
}

Same = Callable[[Recorded], bool]


class Asker(msgspec.Struct, frozen=True):
    """via: the door they came through.  key: their word for this wish, None: it is a new one.  redact: replaces their
    ids, if they said them."""

    caller: Caller
    via: str
    key: str | None = None
    redact: Redactor | None = None


class Outcome(msgspec.Struct, frozen=True):
    """run_id, run: what was controlled, None where that was a task.  changed: whether something was recorded.

    duplicate: whether the same was asked before, under the same key.  delivered: of a signal, at once.
    """

    run_id: str | None = None
    run: Run | None = None
    changed: bool = False
    duplicate: bool = False
    delivered: bool = False


class ControlRequests:
    """The one way to ask for control. A run that the caller may not control raises the same Unknown as none at all.

    The same key of the same user is the same wish, for ever: what it did is not done again, whatever has become of the
    run since. A key that did nothing, because all was so already or was refused, is free.
    """

    def __init__(self, log: EventLog, controls: Controls, runs: Runs, tasks: Tasks, sources: Sources) -> None:
        self._log, self._controls, self._runs = log, controls, runs
        self._tasks, self._sources = tasks, sources

    # ── runs ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def pause(self, given: str, asker: Asker) -> Outcome:
        """given: the run's id, or the beginning of it; as in all of these."""
        run_id = await self._allowed(given, asker)
        by = asker.caller.user_hash
        return await self._once(
            asker,
            run_id,
            lambda first: isinstance(first.event, RunPaused),
            lambda source: self._controls.pause(run_id, by=by, source=source),
        )

    async def resume(self, given: str, asker: Asker) -> Outcome:
        run_id = await self._allowed(given, asker)
        by = asker.caller.user_hash
        return await self._once(
            asker,
            run_id,
            lambda first: isinstance(first.event, RunResumed),
            lambda source: self._controls.resume(run_id, by=by, source=source),
        )

    async def cancel(self, given: str, asker: Asker, reason: str) -> Outcome:
        """reason: without ids."""
        run_id = await self._allowed(given, asker)
        return await self._once(
            asker,
            run_id,
            lambda first: isinstance(first.event, RunCancelled) and first.event.reason == reason,
            lambda source: self._controls.cancel(
                run_id, via=asker.via, by=asker.caller.user_hash, reason=reason, source=source
            ),
        )

    async def signal(self, given: str, asker: Asker, payload: Json) -> Outcome:
        run_id = await self._allowed(given, asker)
        return await self._once(
            asker,
            run_id,
            lambda first: (
                isinstance(first.event, ContextAttached) and canonical(first.event.payload) == canonical(payload)
            ),
            lambda source: self._controls.signal(
                run_id, payload, via=asker.via, by=asker.caller.user_hash, redact=asker.redact, source=source
            ),
        )

    async def resolve(self, given: str, asker: Asker, resolution: str, output: Json) -> Outcome:
        run_id = await self._allowed(given, asker)
        return await self._once(
            asker,
            run_id,
            lambda first: (
                isinstance(first.event, RunResolved)
                and first.event.verdict == resolution
                and canonical(first.event.output) == canonical(output)
            ),
            lambda source: self._controls.resolve(
                run_id, resolution, by=asker.caller.user_hash, output=output, source=source
            ),
        )

    async def _allowed(self, given: str, asker: Asker) -> str:
        """The run's whole id. Raises Unknown if there is none, or none that they may control."""
        run_id = given if _WHOLE_ID.fullmatch(given) else await resolve_run_id(self._log.tables, given, asker.caller)
        try:
            live = await self._runs.find(run_id)
        except Unknown:
            raise no_run(given) from None
        if not _may(asker, live):
            raise no_run(given)
        return run_id

    # ── tasks ────────────────────────────────────────────────────────────────────────────────────────────────

    async def switch(self, task: str, switch: Switch, asker: Asker, context: Context) -> Outcome:
        """Enable, disable, pause or resume a task itself."""
        source = self._source(asker)

        def is_same(first: Recorded) -> bool:
            return isinstance(first.event, _SWITCHED[switch]) and first.event.task == task  # type: ignore[attr-defined]

        if source is not None and await self._first(source, is_same) is not None:
            return Outcome(duplicate=True)
        changed = await self._tasks.switch(task, switch, context, source)
        if changed or source is None:
            return Outcome(changed=changed)
        return Outcome(duplicate=await self._first(source, is_same) is not None)

    async def pause_by_name(self, task: str, asker: Asker, context: Context, job_id: str | None) -> Outcome:
        """job_id: pause that run; None: the newest run of the task under way that is not paused yet, and if there is
        none the task itself.

        Raises Unknown when the run is not under way, Invalid when there is one and nobody says who asks.
        """
        return await self._by_name(task, "pause", asker, context, job_id)

    async def resume_by_name(self, task: str, asker: Asker, context: Context, job_id: str | None) -> Outcome:
        """As `pause_by_name`; without a job_id, of the runs that are paused."""
        return await self._by_name(task, "resume", asker, context, job_id)

    async def _by_name(self, task: str, wish: Switch, asker: Asker, context: Context, job_id: str | None) -> Outcome:
        do = self.pause if wish == "pause" else self.resume
        if job_id is not None:
            _check_named(asker)
            await self._check_is_of(task, job_id, asker)
            try:
                return await do(job_id, asker)
            except Conflict as error:
                raise not_running() if error.code == "run_ended" else error from None
        found = await running(self._log.tables, task, asker.caller, paused=wish == "resume", limit=_MAX_TRIES)
        # Asked for after that: of what the same wish did to a run meanwhile, one of both knows.
        if (before := await self._done_under_key(task, wish, asker)) is not None:
            found = [] if before.run_id is None else [before.run_id]
        for run_id in found:
            _check_named(asker)
            try:
                outcome = await do(run_id, asker)
            except Conflict as error:
                if error.code not in ("run_ended", "not_paused"):
                    raise
            else:
                if outcome.changed or outcome.duplicate:
                    return outcome  # else somebody has paused it meanwhile
        return await self.switch(task, wish, asker, context)

    async def _done_under_key(self, task: str, wish: Switch, asker: Asker) -> Recorded | None:
        """What the same wish did, when it was made before: to a run, or to the task. It may be another one's turn by
        now."""
        source = self._source(asker)
        first = None if source is None else next(iter(await self._sources.recorded(source)), None)
        did = (RunPaused, TaskPaused) if wish == "pause" else (RunResumed, TaskResumed)
        return first if first is not None and isinstance(first.event, did) and first.event.task == task else None

    async def _check_is_of(self, task: str, job_id: str, asker: Asker) -> None:
        try:
            run = (await self._runs.find(await self._allowed(job_id, asker))).run
        except (Unknown, Invalid):
            raise not_running() from None
        if run.task != task:
            raise not_running()

    # ── once ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def _once(
        self, asker: Asker, run_id: str, is_same: Same, do: Callable[[str | None], Awaitable[Controlled]]
    ) -> Outcome:
        source = self._source(asker)
        if source is None:
            return _outcome(run_id, await do(None))

        def is_same_of_run(first: Recorded) -> bool:
            return first.run_id == run_id and is_same(first)

        first = await self._first(source, is_same_of_run)
        if first is None:
            try:
                done = await do(source)
            except Conflict:
                # The same wish may have come twice at once, and the first one been granted in between.
                first = await self._first(source, is_same_of_run)
                if first is None:
                    raise
            else:
                if not done.duplicate:
                    return _outcome(run_id, done)
                first = await self._first(source, is_same_of_run)
        assert first is not None
        run = (await self._runs.find(run_id)).run
        return Outcome(run_id, run, duplicate=True, delivered=await self._was_delivered(first))

    async def _first(self, source: str, is_same: Same) -> Recorded | None:
        """What was recorded under `source`. Raises Conflict if it is not the same that was asked for."""
        first = next(iter(await self._sources.recorded(source)), None)
        if first is not None and not is_same(first):
            raise used_otherwise()
        return first

    async def _was_delivered(self, first: Recorded) -> bool:
        """What the answer to a signal was when it was recorded."""
        if not isinstance(first.event, ContextAttached):
            return False
        events = await self._log.read_stream(first.stream)
        return is_consumed_at_once(fold(recorded.event for recorded in events[: first.version - 1]))

    def _source(self, asker: Asker) -> str | None:
        if asker.key is None:
            return None
        return self._sources.of_control(asker.caller.user_hash, asker.key, asker.redact)


def not_running() -> Unknown:
    """In the words of the predecessor."""
    return Unknown("pipeline not running", code="not_running")


def _check_named(asker: Asker) -> None:
    """Who pauses a run is shown in its events."""
    if asker.caller.user_hash is None:
        raise Invalid("user_id is required")


def _may(asker: Asker, live: LiveRun) -> bool:
    return may_control(asker.caller, user_hash=live.context.user_hash, group_hash=live.context.group_hash)


def _outcome(run_id: str, done: Controlled) -> Outcome:
    return Outcome(run_id, done.run, done.changed, done.duplicate, done.at_once)
