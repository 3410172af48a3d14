"""What others tell us that starts nothing: pointers, schedules, reports, ideas, notes. Each is recorded once."""

from __future__ import annotations

import re
from functools import cache
from zoneinfo import available_timezones

from croniter import croniter

from cascadenced.errors import Invalid, NotAllowed
from cascadenced.eventlog.base import Change, EventLog
from cascadenced.events.base import Context, Event
from cascadenced.events.idea import IdeaRecorded, NoteRecorded
from cascadenced.events.inbound import RecordIdea, RecordNote, ReportRun, SetSchedule, UpdatePointer
from cascadenced.events.pointer import PointerAdded
from cascadenced.events.run import ForeignRunReported
from cascadenced.events.schedule import ScheduleRemoved, ScheduleSet
from cascadenced.identity import Identity, Pseudonyms
from cascadenced.runtime.tasks import task_stream
from cascadenced.vault import VaultPort

MAX_EXPR_CHARS = 256
_UNTELLING = re.compile(r"[0-9*/,?# -]+")


class Facts:
    """Records facts by pseudonym. Raw ids that came along go to the vault first.

    Each method says whether the fact is new: False for one whose source, or for pointers whose content, is known.
    """

    def __init__(
        self, log: EventLog, vault: VaultPort, pseudonyms: Pseudonyms, *, timezone: str, schedules: bool
    ) -> None:
        """timezone: of schedules that name none.  schedules: False with the scheduler `base`, which has none."""
        self._log, self._vault, self._pseudonyms = log, vault, pseudonyms
        self._timezone, self._schedules = timezone, schedules

    async def pointer(self, update: UpdatePointer, via: str) -> bool:
        """Store a pointer. Its own content is its identity, whatever message brought it."""
        context = self._somebody(update)
        event = PointerAdded(
            task=update.task,
            run_id=update.run_id,
            user_hash=context.user_hash or "",
            group_hash=context.group_hash,
            via=via,
        )
        source = f"pointer:{update.task}:{update.run_id}:{event.user_hash}:{event.group_hash or ''}"
        return await self._record(f"pointer-{update.task}", event, context, source)

    async def schedule(self, wish: SetSchedule, source: str | None) -> bool:
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
            context = self._context(wish.identity)
        return await self._record(f"schedule-{wish.task}", event, context, source)

    async def report(self, report: ReportRun, source: str, origin: str | None) -> bool:
        """Another system's run."""
        event = ForeignRunReported(
            task=report.task,
            foreign_run_id=report.run_id,
            status=report.status,
            started_at=report.started_at,
            finished_at=report.finished_at,
            foreign_origin=origin,
        )
        return await self._record(task_stream(report.task), event, self._somebody(report), source)

    async def idea(self, idea: RecordIdea, source: str | None) -> bool:
        return await self._record("ideas", IdeaRecorded(text=idea.text), self._somebody(idea), source)

    async def note(self, note: RecordNote, source: str | None) -> bool:
        event = NoteRecorded(note=note.note, task=note.task, about_run_id=note.run_id)
        return await self._record("notes", event, self._somebody(note), source)

    async def _record(self, stream: str, event: Event, context: Context, source: str | None) -> bool:
        receipt = await self._log.append([Change(stream, [event], None, context)], source=source)
        return receipt.duplicate_of is None

    def _context(self, identity: Identity) -> Context:
        return Context(
            user_hash=self._pseudonyms.user(identity.user_id), group_hash=self._pseudonyms.group(identity.group_id)
        )

    def _somebody(self, named: UpdatePointer | ReportRun | RecordIdea | RecordNote) -> Context:
        """A hash that came with the message is taken as it is; a raw id counts only where there is none.

        The raw id itself is not kept: nothing will run as this user because of a fact.
        """
        user, group = named.user_hash, named.group_hash
        if user is None and named.user_id is not None:
            user = self._pseudonyms.user(named.user_id)
        if group is None and named.group_id is not None:
            group = self._pseudonyms.group(named.group_id)
        return Context(user_hash=user, group_hash=group)


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
