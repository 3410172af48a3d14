"""Ideas and notes that users and tasks leave. Streams `idea` and `run-<run id>` or `note`."""

from __future__ import annotations

from cascadenced.events.base import Event


class IdeaRecorded(Event, tag="idea.recorded", frozen=True, kw_only=True):
    """text: content."""

    text: str


class NoteRecorded(Event, tag="note.recorded", frozen=True, kw_only=True):
    """note: content.  task and run_id: what it is about, in the words of whoever left it."""

    note: str
    task: str | None = None
    about_run_id: str | None = None
