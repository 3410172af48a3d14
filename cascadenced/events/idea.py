"""Ideas and notes that users and tasks leave. Streams `idea` and `run-<run id>` or `note`."""

from __future__ import annotations

from cascadenced.events.base import Event


class IdeaRecorded(Event, tag="idea.recorded", frozen=True, kw_only=True):
    """Somebody had an idea. text: content."""

    text: str


class NoteRecorded(Event, tag="note.recorded", frozen=True, kw_only=True):
    """Somebody left a note.

    note: content.  task: what it is about, in the words of whoever left it.  about_run_id: likewise.
    """

    note: str
    task: str | None = None
    about_run_id: str | None = None
