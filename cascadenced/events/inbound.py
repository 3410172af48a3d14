"""A message that others published → the command it is, or BadMessage. Pure; its shapes are in received.py.

Commands carry raw identities, because the sender does; they live only until the event that answers them is recorded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping

import msgspec

from cascadenced.errors import BadMessage, FutureSchema, Invalid
from cascadenced.events import subjects
from cascadenced.events.base import Json
from cascadenced.events.bodies import SCHEMA_VERSION
from cascadenced.events.received import (
    ReceivedEventBody,
    ReceivedIdeaBody,
    ReceivedNoteBody,
    ReceivedPointerBody,
    ReceivedRunBody,
    ReceivedScheduleBody,
    ReceivedTaskRunBody,
    Somebody,
)
from cascadenced.events.strict import scan, shaped
from cascadenced.identity import Identity, checked, checked_hash

MAX_KEY_CHARS = 256
MAX_MESSAGE_ID_CHARS = 1024


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """A wish, imperative; may be refused."""


class News(Command, frozen=True, kw_only=True):
    """Something to be kept, about somebody or nobody: exactly the hashes that the message carries, if it does; a raw id
    counts only where there is no hash."""

    user_id: str | None
    user_hash: str | None
    group_id: str | None
    group_hash: str | None


class DispatchEvent(Command, frozen=True, kw_only=True):
    """Run the workflow registered for `name`."""

    name: str
    payload: dict[str, Json]
    identity: Identity


class RequestRun(Command, frozen=True, kw_only=True):
    """Run `task`. idempotency_key: the same key, task and user name the same run, for ever."""

    task: str
    identity: Identity
    args: dict[str, Json]
    idempotency_key: str | None = None
    priority: int = 0


class UpdatePointer(News, frozen=True, kw_only=True):
    """Store a pointer."""

    task: str
    run_id: str


class SetSchedule(Command, frozen=True, kw_only=True):
    """Schedule `task` as `entry` says (schedules/definition.py); None removes its schedule."""

    task: str
    entry: dict[str, Json] | None
    identity: Identity | None


class ReportRun(News, frozen=True, kw_only=True):
    """A run of another system has the status `status`."""

    task: str
    run_id: str
    status: str
    started_at: str | None
    finished_at: str | None


class RecordIdea(News, frozen=True, kw_only=True):
    """Keep an idea."""

    text: str


class RecordNote(News, frozen=True, kw_only=True):
    """Keep a note about a task's run."""

    note: str
    task: str | None
    run_id: str | None


def decode(prefix: str, subject: str, data: bytes) -> Command:
    """The command in a message. Raises BadMessage: undecodable, too_large, too_deep, invalid, unknown_family;
    FutureSchema if its `schema_version` is newer than ours."""
    address = subjects.parse(prefix, subject)
    value = scan(data)
    if isinstance(value, dict) and "schema_version" in value:
        _refuse_future(value["schema_version"])
    try:
        return _command(address, value)
    except Invalid as error:
        raise BadMessage(str(error), code="invalid") from None


def _command(address: subjects.Address, value: Json) -> Command:
    name = address.name or ""
    match address.family:
        case "event":
            event = shaped(value, ReceivedEventBody)
            return DispatchEvent(
                name=subjects.checked_event_name(name),
                payload=event.payload,
                # The predecessor's group was optional on events; without one the event belongs to its user alone.
                identity=_identity(event.user_id, event.group_id or event.user_id),
            )
        case "run.request":
            run = shaped(value, ReceivedRunBody)
            return RequestRun(
                task=name,
                identity=_identity(run.user_id, run.group_id),
                args=run.args,
                idempotency_key=_key(run.idempotency_key),
                priority=run.priority,
            )
        case "pointer":
            pointer = shaped(value, ReceivedPointerBody)
            if pointer.user_hash is None and pointer.user_id is None:
                raise Invalid("user_hash or user_id is required")
            return UpdatePointer(
                task=subjects.checked_reported_name(name),
                run_id=checked(pointer.run_id, "run_id"),
                **_somebody(pointer),
            )
        case "schedule":
            schedule = shaped(value, ReceivedScheduleBody)
            whens = [key for key in ("expr", "calendar_event", "rrule", "every_s", "at") if key in value]
            if not whens:
                raise Invalid("expr or calendar_event is required; null removes the schedule")
            # What else is in the message is nothing to us.
            known = {key: value[key] for key in schedule.__struct_fields__ if key in value}
            entry = {key: given for key, given in known.items() if key not in ("user_id", "group_id")}
            return SetSchedule(
                task=name,
                entry=None if all(value[key] is None for key in whens) else entry,
                identity=None
                if schedule.user_id is None
                else _identity(schedule.user_id, schedule.group_id or schedule.user_id),
            )
        case "task_run":
            report = shaped(value, ReceivedTaskRunBody)
            return ReportRun(
                task=subjects.checked_reported_name(name),
                run_id=checked(report.run_id, "run_id"),
                status=checked(report.status, "status"),
                started_at=report.started_at,
                finished_at=report.finished_at,
                **_somebody(report),
            )
        case "idea":
            idea = shaped(value, ReceivedIdeaBody)
            return RecordIdea(text=idea.text, **_somebody(idea))
        case _:
            note = shaped(value, ReceivedNoteBody)
            return RecordNote(note=note.note, task=note.task_name, run_id=note.run_id, **_somebody(note))


def starts_effects(prefix: str, subject: str) -> bool:
    """Whether a message of this family is a wish (a run, an event) rather than news."""
    return subject.startswith((f"{prefix}.event.", f"{prefix}.run.request."))


def named(command: Command) -> Identity | None:
    """Whom the message names in clear, None if nobody. Who is named as user or group only, is taken for both."""
    if isinstance(command, News):
        user_id, group_id = command.user_id, command.group_id
        if not user_id and not group_id:
            return None
        return Identity(user_id or group_id or "", group_id or user_id or "")
    identity: Identity | None = getattr(command, "identity", None)
    return identity


def message_source(headers: Mapping[str, str], subject: str, prefix: str, fallback: Callable[[], str]) -> str:
    """What the outside calls this message: `<family>:<Nats-Msg-Id or ce-id>`, else what `fallback` makes (a digest).

    An id that is too long, or that UTF-8 cannot spell, is represented by its digest.
    """
    named = headers.get("Nats-Msg-Id") or headers.get("ce-id") or fallback()
    try:
        family = subjects.parse(prefix, subject).family
    except BadMessage:
        family = "unknown"
    if len(named) > MAX_MESSAGE_ID_CHARS or not (named.isascii() or _is_text(named)):
        named = hashlib.sha256(named.encode(errors="surrogatepass")).hexdigest()
    return f"{family}:{named}"


def _is_text(named: str) -> bool:
    return named.encode(errors="surrogatepass") == named.encode(errors="replace")


def _refuse_future(version: Json) -> None:
    if isinstance(version, str) and _comparable(version) > _comparable(SCHEMA_VERSION):
        raise FutureSchema(f"schema_version {version[:32]} is newer than {SCHEMA_VERSION}, the newest read here")


def _comparable(version: str) -> tuple[int, ...]:
    parts = version.split(".")
    return tuple(int(part) for part in parts) if all(part.isdecimal() and len(part) < 9 for part in parts) else ()


def _identity(user_id: str, group_id: str) -> Identity:
    return Identity(checked(user_id, "user_id"), checked(group_id, "group_id"))


def _somebody(body: Somebody) -> dict[str, str | None]:
    return {
        "user_id": None if body.user_id is None else checked(body.user_id, "user_id"),
        "user_hash": None if body.user_hash is None else checked_hash(body.user_hash, "user_hash"),
        "group_id": None if body.group_id is None else checked(body.group_id, "group_id"),
        "group_hash": None if body.group_hash is None else checked_hash(body.group_hash, "group_hash"),
    }


def _key(key: str | None) -> str | None:
    if key is not None and not 1 <= len(key) <= MAX_KEY_CHARS:
        raise Invalid(f"idempotency_key must have 1–{MAX_KEY_CHARS} characters")
    return key
