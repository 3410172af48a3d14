"""What others tell us that starts nothing: pointers, schedules, reports, ideas, notes. Each is recorded once."""

from __future__ import annotations

import re
from collections.abc import Awaitable
from functools import cache
from zoneinfo import available_timezones

from croniter import croniter

from cascadenced.errors import Invalid, NotAllowed
from cascadenced.eventlog.base import Change, EventLog, Receipt
from cascadenced.events.base import Context, Event
from cascadenced.events.idea import IdeaRecorded, NoteRecorded
from cascadenced.events.inbound import News, RecordIdea, RecordNote, ReportRun, SetSchedule, UpdatePointer
from cascadenced.events.pointer import PointerAdded
from cascadenced.events.run import ForeignRunReported
from cascadenced.events.schedule import ScheduleRemoved, ScheduleSet
from cascadenced.handlers.people import People, Person
from cascadenced.identity import Pseudonyms
from cascadenced.runtime.tasks import task_stream
from cascadenced.vault import VaultPort

MAX_EXPR_CHARS = 256
_UNTELLING = re.compile(r"[0-9*/,?# -]+")


class Facts:
    """Records facts by pseudonym. Raw ids that came along go to the vault first.

    Each method begins the append and returns what waits for its receipt: a duplicate if its source, or for pointers
    the content, is known. people: of the batch of messages that it is part of; none if it came alone.
    """

    def __init__(
        self, log: EventLog, vault: VaultPort, pseudonyms: Pseudonyms, *, timezone: str, schedules: bool
    ) -> None:
        """timezone: of schedules that name none.  schedules: False with the scheduler `base`, which has none."""
        self._log, self._vault, self._pseudonyms = log, vault, pseudonyms
        self._timezone, self._schedules = timezone, schedules

    def pointer(self, update: UpdatePointer, via: str, people: People | None = None) -> Awaitable[Receipt]:
        """Store a pointer. Its own content is its identity, whatever message brought it."""
        context = self._about(update, people)
        user_hash, group_hash = context.user_hash or "", context.group_hash
        event = PointerAdded(
            task=update.task, run_id=update.run_id, user_hash=user_hash, group_hash=group_hash, via=via
        )
        source = f"pointer:{update.task}:{update.run_id}:{user_hash}:{group_hash or ''}"
        return self._record(f"pointer-{update.task}", event, context, source)

    async def schedule(self, wish: SetSchedule, source: str | None) -> Receipt:
        """Set or remove a schedule. Raises Invalid, NotAllowed with the scheduler `base`."""
        if not self._schedules:
            raise NotAllowed("scheduler lacks cron capabilities")
        event: ScheduleSet | ScheduleRemoved
        if wish.expr is None and wish.calendar_event is None:
            event = ScheduleRemoved(task=wish.task)
        else:
            event = ScheduleSet(
                task=wish.task,
                # calendar_event wins over expr, as it did in the predecessor
                expr=None if wish.calendar_event is not None else _checked_expression(wish.expr, wish.task),
                timezone=_checked_zone(wish.timezone or self._timezone),
                calendar_event=wish.calendar_event,
                recurrence=wish.recurrence,
            )
        context = Context()
        if wish.identity is not None:
            await self._vault.remember([wish.identity], self._pseudonyms)
            context = Person(wish.identity, self._pseudonyms).context
        return await self._record(f"schedule-{wish.task}", event, context, source)

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
        return self._record("ideas", IdeaRecorded(text=idea.text), self._about(idea, people), source)

    def note(self, note: RecordNote, source: str | None, people: People | None = None) -> Awaitable[Receipt]:
        event = NoteRecorded(note=note.note, task=note.task, about_run_id=note.run_id)
        return self._record("notes", event, self._about(note, people), source)

    def _record(self, stream: str, event: Event, context: Context, source: str | None) -> Awaitable[Receipt]:
        return self._log.append([Change(stream, [event], None, context)], source=source)

    def _about(self, news: News, people: People | None) -> Context:
        return (people or People(self._pseudonyms)).context(news)


def _checked_expression(expr: str | None, task: str) -> str:
    if not isinstance(expr, str) or not expr.strip():
        raise Invalid(f"{task}: 'expr' must be a non-empty string")
    text = " ".join(expr.split())
    if len(text) > MAX_EXPR_CHARS:
        raise Invalid(f"'expr' has {len(text)} characters; {MAX_EXPR_CHARS} are allowed")
    n_fields = len(text.split(" "))
    if not text.startswith("@") and n_fields != 5:
        raise Invalid(f"Wrong number of fields; got {n_fields}, expected 5")
    if not croniter.is_valid(text):
        # Shown only where it cannot name anybody: the reason of a refusal is read by others than the sender.
        shown = f" ({text})" if _UNTELLING.fullmatch(text) else ""
        raise Invalid(f"'expr'{shown} is not a cron expression: five fields, minute to weekday")
    return text


@cache
def _zones() -> frozenset[str]:
    """Read once: it means walking through a folder of hundreds of files."""
    return frozenset(available_timezones())


def _checked_zone(zone: str) -> str:
    if zone not in _zones():
        raise Invalid("'timezone' is not an IANA time zone, such as Europe/Berlin")
    return zone
