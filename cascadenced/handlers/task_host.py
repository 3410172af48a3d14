"""What one run's code may ask of the daemon (`plugins.base.Host`): notes, pointers, events.

Each wish is recorded once per run and place: the n-th wish of a stage that runs again after a crash is the n-th wish of
its first attempt.
"""

from __future__ import annotations

from cascadenced.errors import Invalid
from cascadenced.eventlog.base import Change, EventLog
from cascadenced.events.base import Json
from cascadenced.events.content import recordable
from cascadenced.events.idea import NoteRecorded
from cascadenced.events.inbound import UpdatePointer
from cascadenced.events.streams import NOTES_STREAM
from cascadenced.events.subjects import checked_reported_name
from cascadenced.handlers.facts import Facts
from cascadenced.handlers.run_requests import Dispatched, RunRequests
from cascadenced.identity import checked
from cascadenced.runtime.record import LiveRun


class TaskHost:
    """Made for each instance of a task. requests: of events.  facts: of pointers."""

    def __init__(self, log: EventLog, requests: RunRequests, facts: Facts, live: LiveRun) -> None:
        self._log, self._requests, self._facts, self._live = log, requests, facts, live
        self._stage: str | None = None
        self._n = 0

    async def add_note(self, note: str) -> None:
        live = self._live
        if not isinstance(note, str):
            raise Invalid(f"a note must be text, not a {type(note).__name__}")
        event = NoteRecorded(note=recordable(note, "the note"), task=live.run.task, about_run_id=live.run_id)
        change = Change(NOTES_STREAM, [event], None, live.change([]).context)
        await self._log.append([change], source=f"note:{live.run_id}:{live.run.current}:{self._next()}")

    async def add_pointer(self, task: str, user_id: str, run_id: str, group_id: str | None) -> bool:
        update = UpdatePointer(
            task=checked_reported_name(task),
            run_id=checked(run_id, "run_id"),
            user_id=checked(user_id, "user_id"),
            user_hash=None,
            group_id=None if group_id is None else checked(group_id, "group_id"),
            group_hash=None,
        )
        receipt = await self._facts.pointer(update, "python")
        return not receipt.duplicate

    async def dispatch(self, name: str, payload: dict[str, Json] | None = None) -> Dispatched:
        """Emit an event from a workflow: recorded, published, and answered by the workflow registered for it."""
        return await self._requests.emit(self._live, name, payload or {}, self._next())

    def _next(self) -> int:
        if self._stage != self._live.run.current:
            self._stage, self._n = self._live.run.current, 0
        self._n += 1
        return self._n
