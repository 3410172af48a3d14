"""Commands from the bus → the handler that records them. One case for each family of subjects."""

from __future__ import annotations

from cascadenced.errors import BadMessage, Conflict, NotAllowed, Refused
from cascadenced.events.inbound import (
    Command,
    DispatchEvent,
    RecordIdea,
    RecordNote,
    ReportRun,
    RequestRun,
    SetSchedule,
    UpdatePointer,
    named,
)
from cascadenced.handlers.facts import Facts
from cascadenced.handlers.run_requests import Origin, RunRequests
from cascadenced.handlers.sources import Sources
from cascadenced.runtime.counting import RefusalCounter
from cascadenced.runtime.ingest import Message
from cascadenced.runtime.tasks import Tasks


class BusCommands:
    """`handle` of runtime/ingest.py."""

    def __init__(
        self, requests: RunRequests, facts: Facts, tasks: Tasks, refusals: RefusalCounter, sources: Sources
    ) -> None:
        self._requests, self._facts, self._tasks, self._refusals = requests, facts, tasks, refusals
        self._sources = sources

    async def __call__(self, command: Command, message: Message) -> None:
        """Record what follows from `command`. Raises BadMessage with the reason of the dead letter."""
        try:
            await self._record(command, message)
        except NotAllowed as error:
            raise BadMessage(str(error), code="not_allowed") from None
        except Conflict as error:
            raise BadMessage(str(error), code=error.code) from None
        except Refused as error:
            raise BadMessage(str(error), code="invalid") from None

    async def _record(self, command: Command, message: Message) -> None:
        source = self._sources.of_message(message.source, named(command))
        origin = Origin(via="bus", source=source, at_us=message.at_us, traceparent=message.traceparent)
        match command:
            case RequestRun(task=task):
                self._refuse_unknown(task)
                accepted = await self._requests.run(
                    task,
                    command.identity,
                    command.args,
                    origin,
                    idempotency_key=command.idempotency_key,
                    priority=command.priority,
                )
                self._count(accepted.duplicate, f"run.request.{task}")
            case DispatchEvent(name=name):
                dispatched = await self._requests.dispatch(name, command.payload, command.identity, origin)
                self._count(dispatched.duplicate, f"event.{name}")
            case UpdatePointer(task=task):
                self._count(not await self._facts.pointer(command, "bus"), f"pointer.{task}")
            case SetSchedule(task=task):
                self._refuse_unknown(task)
                self._count(not await self._facts.schedule(command, source), f"schedule.{task}")
            case ReportRun(task=task):
                self._count(not await self._facts.report(command, source, message.origin), f"task_run.{task}")
            case RecordIdea():
                self._count(not await self._facts.idea(command, source), "idea")
            case RecordNote():
                self._count(not await self._facts.note(command, source), "note")

    def _refuse_unknown(self, task: str) -> None:
        if self._tasks.get(task) is None:
            raise BadMessage(f"Unknown task: {task}", code="unknown_task")

    def _count(self, duplicate: bool, subject: str) -> None:
        if duplicate:
            self._refusals.count("duplicate", subject)
