"""A run or a workflow is asked for, through whichever door."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from itertools import count
from typing import Protocol

import msgspec
from msgspec.structs import replace

from cascadenced.errors import Invalid, Unknown
from cascadenced.eventlog.base import Change, EventLog, Receipt
from cascadenced.events.base import Context, Json
from cascadenced.events.content import recordable
from cascadenced.events.run import RunRefused, RunRequested
from cascadenced.events.streams import workflow_stream
from cascadenced.events.subjects import checked_event_name, checked_reported_name
from cascadenced.events.workflow import EventDispatched
from cascadenced.handlers.people import Person
from cascadenced.handlers.prerequisites import Prerequisites
from cascadenced.handlers.sources import Sources, canonical, used_otherwise
from cascadenced.identity import Identity, Pseudonyms
from cascadenced.ids import RunId
from cascadenced.runtime.record import LiveRun
from cascadenced.runtime.runs import Accepted, Request, Runs
from cascadenced.runtime.tasks import WORKFLOW_PREFIX, Tasks
from cascadenced.vault import VaultPort


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """Where a request came from. The fields are those of `Request`."""

    via: str
    source: str | None = None
    at_us: int | None = None
    cause: str | None = None
    correlation: str | None = None
    traceparent: str | None = None


class Dispatched(msgspec.Struct, frozen=True):
    """run_id: the run of the workflow that answers, None if nobody listens."""

    event: str
    run_id: str | None
    duplicate: bool = False
    refused: tuple[str, str] | None = None


class Recurs(Protocol):
    """handlers/recurring.py"""

    def entry(self, event: str, payload: dict[str, Json]) -> dict[str, Json] | None: ...

    async def set(self, event: str, entry: dict[str, Json], who: Identity) -> str: ...


class RunRequests:
    """The one way to ask for runs."""

    def __init__(
        self,
        log: EventLog,
        runs: Runs,
        tasks: Tasks,
        vault: VaultPort,
        pseudonyms: Pseudonyms,
        sources: Sources,
        prerequisites: Prerequisites,
    ) -> None:
        self._log, self._runs, self._tasks, self._sources = log, runs, tasks, sources
        self._prerequisites = prerequisites
        self._vault, self._pseudonyms = vault, pseudonyms
        self.recurring: Recurs | None = None
        """What sets the schedules of events that recur; None: nothing does."""

    async def run(
        self,
        task: str,
        identity: Identity,
        args: dict[str, Json],
        origin: Origin,
        *,
        idempotency_key: str | None = None,
        priority: int = 0,
    ) -> Accepted:
        """Ask for a run of `task`. The same idempotency key of the same user names the same run, for ever; after a
        refusal, the next one that is not refused.

        args: JSON, at most as large as a message. Raises Invalid for a name or key that cannot be one, Overloaded,
        Conflict for a key that was used with other arguments.
        """
        checked_reported_name(task)
        request = Request(
            task=task,
            identity=identity,
            via=origin.via,
            args=args,
            priority=priority,
            source=origin.source,
            at_us=origin.at_us,
            cause=origin.cause,
            correlation=origin.correlation,
            traceparent=origin.traceparent,
        )
        if idempotency_key is None:
            return await self.after_others(request)
        for nth in count(1):
            source = self._sources.of_run(task, identity, idempotency_key, nth)
            accepted = await self.after_others(replace(request, source=source))
            if not accepted.duplicate or not await self._is_free(source, identity, args, task):
                break
        return accepted

    async def after_others(
        self, request: Request, *, run_id: RunId | None = None, before: Sequence[Change] = ()
    ) -> Accepted:
        """As `Runs.request`, after runs of the tasks that this one must run after."""
        if self._prerequisites.of(request.task) and self._tasks.refusal(request.task) is None:
            requires = await self._prerequisites.ask(
                request.task,
                request.identity,
                source=request.source,
                at_us=request.at_us,
                correlation=request.correlation,
            )
            request = replace(request, requires=requires)
        return await self._runs.request(request, run_id=run_id, before=before)

    async def dispatch(
        self,
        name: str,
        payload: dict[str, Json],
        identity: Identity,
        origin: Origin,
        *,
        idempotency_key: str | None = None,
        before: Sequence[Change] = (),
    ) -> Dispatched:
        """Record the event and ask for a run of the workflow that listens to it, in one append.

        before: changes that belong in the same append, ahead of these; not with a key.
        payload: JSON, at most as large as a message. With a `recurrence` it is dispatched again by the clock.
        Raises Invalid for a name, key or recurrence that cannot be one, Overloaded, Conflict for a key that was used
        with another payload.
        """
        checked_event_name(name)
        if self.recurring is None or self._tasks.listener(name) is None:
            return await self._dispatch_once(name, payload, identity, origin, idempotency_key, before)
        entry = self.recurring.entry(name, payload)
        dispatched = await self._dispatch_once(name, payload, identity, origin, idempotency_key, before)
        if entry is not None:
            await self.recurring.set(name, entry, identity)
        return dispatched

    async def _dispatch_once(
        self,
        name: str,
        payload: dict[str, Json],
        identity: Identity,
        origin: Origin,
        idempotency_key: str | None,
        before: Sequence[Change],
    ) -> Dispatched:
        if idempotency_key is None:
            return await self._dispatch(name, payload, identity, origin, before)
        for nth in count(1):
            source = self._sources.of_event(name, identity, idempotency_key, nth)
            dispatched = await self._dispatch(name, payload, identity, replace(origin, source=source))
            if not dispatched.duplicate or not await self._is_free(source, identity, payload, WORKFLOW_PREFIX + name):
                break
        return dispatched

    async def _dispatch(
        self,
        name: str,
        payload: dict[str, Json],
        identity: Identity,
        origin: Origin,
        before: Sequence[Change] = (),
    ) -> Dispatched:
        workflow = self._tasks.listener(name)
        person = Person(identity, self._pseudonyms)
        if workflow is None:
            event = EventDispatched(name=name, via=origin.via, payload=payload)
            receipt = await self.unhandled(event, person, _context(person, origin), origin.source, before)
            return Dispatched(name, None, receipt.duplicate)
        run_id = self._runs.new_run_id(origin.source, origin.at_us)
        request = Request(
            task=workflow.name,
            identity=identity,
            via=origin.via,
            args=payload,
            source=origin.source,
            at_us=origin.at_us,
            correlation=origin.correlation,
            traceparent=origin.traceparent,
        )
        context = _context(person, origin, run_id=run_id)
        event = EventDispatched(name=name, via=origin.via, payload=payload, run_id=run_id)
        try:
            accepted = await self._runs.request(
                request, run_id=run_id, before=[*before, Change(workflow_stream(name), [event], None, context)]
            )
        except Unknown:  # recorded before, when nobody listened yet
            return Dispatched(name, None, duplicate=True)
        return Dispatched(name, accepted.run_id, accepted.duplicate, accepted.refused)

    async def emit(self, live: LiveRun, name: str, payload: dict[str, Json], nth: int) -> Dispatched:
        """A workflow under way dispatches its `nth` event: recorded once though the stage may run again."""
        assert live.identity is not None
        value = recordable(payload, "payload")
        if not isinstance(value, dict):
            raise Invalid("the payload of an event must be a dict")
        origin = Origin(
            via="workflow",
            source=f"emit:{live.run_id}:{live.run.current}:{nth}",
            cause=live.last_event_id,
            correlation=live.context.correlation,
            traceparent=live.context.traceparent,
        )
        return await self.dispatch(name, value, live.identity, origin)

    async def _is_free(self, source: str, identity: Identity, args: dict[str, Json], task: str) -> bool:
        """Whether the same may be asked for once more: its run was refused, and would not be now.

        Raises Conflict if it was not the same that was asked for.
        """
        before = await self._sources.recorded(source)
        match before[0].event:
            case RunRequested(args=args_before) | EventDispatched(payload=args_before):
                same = canonical(args_before) == canonical(args)
            case _:
                same = False
        if not same or before[0].group_hash != self._pseudonyms.group(identity.group_id):
            raise used_otherwise()
        was_refused = any(isinstance(recorded.event, RunRefused) for recorded in before)
        return was_refused and self._tasks.refusal(task) is None

    def unhandled(
        self,
        event: EventDispatched,
        person: Person,
        context: Context,
        source: str | None,
        before: Sequence[Change] = (),
    ) -> Awaitable[Receipt]:
        """Record an event that no workflow listens to. The append has begun on return, unless the vault must first
        keep who sent it."""
        changes = [*before, Change(workflow_stream(event.name), [event], None, context)]
        person.kept = person.kept or self._vault.knows(person.user_hash, person.group_hash)
        if person.kept:
            return self._log.append(changes, source=source)
        return self._introduced(person, changes, source)

    async def _introduced(self, person: Person, changes: Sequence[Change], source: str | None) -> Receipt:
        await self._vault.remember([person.identity], self._pseudonyms)
        return await self._log.append(changes, source=source)


def _context(person: Person, origin: Origin, run_id: RunId | None = None) -> Context:
    return Context(
        user_hash=person.user_hash,
        group_hash=person.group_hash,
        run_id=run_id,
        cause=origin.cause,
        correlation=origin.correlation or run_id,
        traceparent=origin.traceparent,
    )
