"""Commands from the bus → the handler that records them. One case for each family of subjects."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

from cascadenced.errors import BadMessage, Conflict, Invalid, NotAllowed, Refused
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
from cascadenced.events.workflow import EventDispatched
from cascadenced.handlers.facts import Facts
from cascadenced.handlers.people import People
from cascadenced.handlers.run_requests import Origin, RunRequests
from cascadenced.handlers.schedule_requests import ScheduleRequests
from cascadenced.handlers.sources import Sources
from cascadenced.identity import Pseudonyms
from cascadenced.runtime.ingest import Handle, Message, Outcome
from cascadenced.runtime.tasks import Tasks


class BusCommands:
    """`Commands` of runtime/ingest.py."""

    def __init__(
        self,
        requests: RunRequests,
        schedules: ScheduleRequests,
        facts: Facts,
        tasks: Tasks,
        sources: Sources,
        pseudonyms: Pseudonyms,
    ) -> None:
        self._requests, self._schedules, self._facts = requests, schedules, facts
        self._tasks, self._sources = tasks, sources
        self._pseudonyms = pseudonyms

    def batch(self) -> Handle:
        return partial(self._begin, People(self._pseudonyms))

    def _begin(self, people: People, command: Command, message: Message) -> Awaitable[Outcome]:
        who = named(command)
        person = None if who is None else people.person(who)
        source = self._sources.of_message(message.source, person)
        match command:
            case DispatchEvent(name=name) if self._tasks.listener(name) is None:
                assert person is not None
                event = EventDispatched(name=name, via="bus", payload=command.payload)
                context = person.traced(message.traceparent)
                return self._requests.unhandled(event, person, context, source)
            case DispatchEvent() | RequestRun() | SetSchedule():
                return self._asked(command, source, message, str if person is None else person.redact)
            case UpdatePointer():
                return self._facts.pointer(command, "bus", people)
            case ReportRun():
                return self._facts.report(command, source, message.origin, people)
            case RecordIdea():
                return self._facts.idea(command, source, people)
            case RecordNote():
                return self._facts.note(command, source, people)
        raise AssertionError(f"nobody handles a {type(command).__name__}")

    async def _asked(
        self,
        command: DispatchEvent | RequestRun | SetSchedule,
        source: str,
        message: Message,
        redact: Callable[[str], str],
    ) -> Outcome:
        """What may be refused. redact: of a reason, which others than the sender read."""
        try:
            match command:
                case DispatchEvent(name=name):
                    return await self._requests.dispatch(
                        name, command.payload, command.identity, _origin(source, message)
                    )
                case RequestRun(task=task):
                    self._refuse_unknown(task)
                    return await self._requests.run(
                        task,
                        command.identity,
                        command.args,
                        _origin(source, message),
                        idempotency_key=command.idempotency_key,
                        priority=command.priority,
                    )
                case SetSchedule(task=task, entry=None):
                    self._refuse_unknown(task)
                    by = self._schedules.by(command.identity)
                    return await self._schedules.remove(task, by=by, source=source, even_if_unset=True)
                case SetSchedule(task=task, entry=entry):
                    self._refuse_unknown(task)
                    return await self._schedules.set(task, entry, via="bus", who=command.identity, source=source)
        except Invalid as error:
            if isinstance(command, SetSchedule):  # its text quotes what was sent, and others than the sender read it
                raise BadMessage(f"this is no schedule that can be kept ({error.code})", code="invalid") from None
            raise BadMessage(redact(str(error)), code="invalid") from None
        except NotAllowed as error:
            raise BadMessage(redact(str(error)), code="not_allowed") from None
        except Conflict as error:
            raise BadMessage(redact(str(error)), code=error.code) from None
        except Refused as error:
            raise BadMessage(redact(str(error)), code="invalid") from None

    def _refuse_unknown(self, task: str) -> None:
        if self._tasks.get(task) is None:
            raise BadMessage(f"Unknown task: {task}", code="unknown_task")


def _origin(source: str, message: Message) -> Origin:
    return Origin(via="bus", source=source, at_us=message.at_us, traceparent=message.traceparent)
