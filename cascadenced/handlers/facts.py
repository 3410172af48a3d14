"""What others tell us that starts nothing: pointers, reports, ideas, notes. Each is recorded once."""

from __future__ import annotations

from collections.abc import Awaitable

from cascadenced.eventlog.base import Change, EventLog, Receipt
from cascadenced.events.base import Context, Event
from cascadenced.events.idea import IdeaRecorded, NoteRecorded
from cascadenced.events.inbound import News, RecordIdea, RecordNote, ReportRun, UpdatePointer
from cascadenced.events.pointer import PointerAdded
from cascadenced.events.run import ForeignRunReported
from cascadenced.events.streams import IDEAS_STREAM, NOTES_STREAM, pointer_stream, task_stream
from cascadenced.handlers.people import People
from cascadenced.identity import Pseudonyms


class Facts:
    """Records facts by pseudonym. Raw ids that came along go to the vault first.

    Each method begins the append and returns what waits for its receipt: a duplicate if its source, or for pointers
    the content, is known. people: of the batch of messages that it is part of; none if it came alone.
    """

    def __init__(self, log: EventLog, pseudonyms: Pseudonyms) -> None:
        self._log, self._pseudonyms = log, pseudonyms

    def pointer(self, update: UpdatePointer, via: str, people: People | None = None) -> Awaitable[Receipt]:
        """Store a pointer. Its own content is its identity, whatever message brought it."""
        context = self._about(update, people)
        user_hash, group_hash = context.user_hash or "", context.group_hash
        event = PointerAdded(
            task=update.task, run_id=update.run_id, user_hash=user_hash, group_hash=group_hash, via=via
        )
        source = f"pointer:{update.task}:{update.run_id}:{user_hash}:{group_hash or ''}"
        return self._record(pointer_stream(update.task), event, context, source)

    def report(
        self, report: ReportRun, source: str, origin: str | None, people: People | None = None
    ) -> Awaitable[Receipt]:
        """Another system's run."""
        event = ForeignRunReported(
            task=report.task,
            foreign_run_id=report.run_id,
            status=report.status,
            started_at=report.started_at,
            finished_at=report.finished_at,
            foreign_origin=origin,
        )
        return self._record(task_stream(report.task), event, self._about(report, people), source)

    def idea(self, idea: RecordIdea, source: str | None, people: People | None = None) -> Awaitable[Receipt]:
        return self._record(IDEAS_STREAM, IdeaRecorded(text=idea.text), self._about(idea, people), source)

    def note(self, note: RecordNote, source: str | None, people: People | None = None) -> Awaitable[Receipt]:
        event = NoteRecorded(note=note.note, task=note.task, about_run_id=note.run_id)
        return self._record(NOTES_STREAM, event, self._about(note, people), source)

    def _record(self, stream: str, event: Event, context: Context, source: str | None) -> Awaitable[Receipt]:
        return self._log.append([Change(stream, [event], None, context)], source=source)

    def _about(self, news: News, people: People | None) -> Context:
        return (people or People(self._pseudonyms)).context(news)
