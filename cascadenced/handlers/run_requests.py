"""A run or a workflow is asked for, through whichever door."""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from cascadenced.errors import Invalid, Unknown
from cascadenced.eventlog.base import Change, EventLog
from cascadenced.events.base import Context, Json
from cascadenced.events.content import recordable
from cascadenced.events.inbound import MAX_KEY_CHARS
from cascadenced.events.subjects import checked_event_name, checked_reported_name
from cascadenced.events.workflow import EventDispatched
from cascadenced.identity import Identity, Pseudonyms, Redactor
from cascadenced.ids import RunId
from cascadenced.runtime.record import LiveRun
from cascadenced.runtime.runs import Accepted, Request, Runs
from cascadenced.runtime.tasks import Tasks
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


class RunRequests:
    """The one way to ask for runs."""

    def __init__(self, log: EventLog, runs: Runs, tasks: Tasks, vault: VaultPort, pseudonyms: Pseudonyms) -> None:
        self._log, self._runs, self._tasks = log, runs, tasks
        self._vault, self._pseudonyms = vault, pseudonyms

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
        """Ask for a run of `task`. The same idempotency key of the same user names the same run, for ever.

        args: JSON, at most as large as a message. Raises Invalid for a name or key that cannot be one, Overloaded.
        """
        checked_reported_name(task)
        source = self._source(task, identity, idempotency_key) or origin.source
        return await self._runs.request(
            Request(
                task=task,
                identity=identity,
                via=origin.via,
                args=args,
                priority=priority,
                source=source,
                at_us=origin.at_us,
                cause=origin.cause,
                correlation=origin.correlation,
                traceparent=origin.traceparent,
            )
        )

    async def dispatch(
        self,
        name: str,
        payload: dict[str, Json],
        identity: Identity,
        origin: Origin,
        *,
        idempotency_key: str | None = None,
    ) -> Dispatched:
        """Record the event and ask for a run of the workflow that listens to it, in one append.

        payload: JSON, at most as large as a message. Raises Invalid for a name or key that cannot be one, Overloaded.
        """
        checked_event_name(name)
        if idempotency_key is not None:
            origin = replace(origin, source=self._source(f"event.{name}", identity, idempotency_key))
        workflow = self._tasks.listener(name)
        if workflow is None:
            return await self._unhandled(name, payload, identity, origin)
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
        context = self._context(identity, origin, run_id=run_id)
        event = EventDispatched(name=name, via=origin.via, payload=payload, run_id=run_id)
        try:
            accepted = await self._runs.request(
                request, run_id=run_id, before=[Change(workflow_stream(name), [event], None, context)]
            )
        except Unknown:  # recorded before, when nobody listened yet
            return Dispatched(name, None, duplicate=True)
        return Dispatched(name, accepted.run_id, accepted.duplicate, accepted.refused)

    async def emit(self, live: LiveRun, name: str, payload: dict[str, Json], nth: int) -> Dispatched:
        """A workflow under way dispatches its `nth` event: recorded once though the stage may run again."""
        assert live.identity is not None
        value = recordable(payload)
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

    def _source(self, what: str, identity: Identity, key: str | None) -> str | None:
        if key is not None and not 1 <= len(key) <= MAX_KEY_CHARS:
            raise Invalid(f"idempotency_key must have 1–{MAX_KEY_CHARS} characters")
        if key is None:
            return None
        # It stays in the log; keys are often made of the user's name.
        nameless = Redactor(identity, self._pseudonyms)(key)
        return f"key:{what}:{self._pseudonyms.user(identity.user_id)}:{nameless}"

    async def _unhandled(self, name: str, payload: dict[str, Json], identity: Identity, origin: Origin) -> Dispatched:
        await self._vault.remember([identity], self._pseudonyms)
        event = EventDispatched(name=name, via=origin.via, payload=payload)
        change = Change(workflow_stream(name), [event], None, self._context(identity, origin))
        receipt = await self._log.append([change], source=origin.source)
        return Dispatched(name, None, receipt.duplicate_of is not None)

    def _context(self, identity: Identity, origin: Origin, run_id: RunId | None = None) -> Context:
        return Context(
            user_hash=self._pseudonyms.user(identity.user_id),
            group_hash=self._pseudonyms.group(identity.group_id),
            run_id=run_id,
            cause=origin.cause,
            correlation=origin.correlation or run_id,
            traceparent=origin.traceparent,
        )


def workflow_stream(event: str) -> str:
    return f"workflow-{event}"
