"""What the outside calls a request, as the log has it: an idempotency key, or the id of a message.

Senders choose both freely, so both are content. Only where one names its own sender does the pseudonym stand for the
name; the same words of the same sender still give the same source.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

import msgspec

from cascadenced.errors import Conflict, Invalid
from cascadenced.eventlog.base import EventLog
from cascadenced.eventlog.known import position_of
from cascadenced.events.base import Json, Recorded
from cascadenced.events.inbound import MAX_KEY_CHARS, MAX_MESSAGE_ID_CHARS
from cascadenced.handlers.people import Person
from cascadenced.identity import Identity, Pseudonyms, Redactor

MAX_REQUEST_EVENTS = 3
"""Of one request: the dispatched event, the run it asks for, and how that began or was refused."""


class Sources:
    """Spells sources, and finds what was recorded under them."""

    def __init__(self, log: EventLog, pseudonyms: Pseudonyms) -> None:
        self._log, self._pseudonyms = log, pseudonyms

    def of_message(self, source: str, sender: Person | None) -> str:
        """The source of a message that came as `source`. sender: None when it names nobody."""
        return source if sender is None else _unnamed(source, sender.redact)

    def of_run(self, task: str, who: Identity, key: str, nth: int) -> str:
        """The source of the `nth` run under a key, from 1; there is another one when a run was refused."""
        return self._of_key("key", task, who, key, nth)

    def of_event(self, name: str, who: Identity, key: str, nth: int) -> str:
        """The source of the `nth` event under a key."""
        return self._of_key("event-key", name, who, key, nth)

    def of_control(self, user_hash: str | None, key: str, redact: Redactor | None) -> str:
        """The source of a control under a key: one key of one user is one wish, about whatever run or task."""
        _check_key(key)
        return f"control-key:{user_hash or ''}:{key if redact is None else _unnamed(key, redact)}"

    async def recorded(self, source: str) -> Sequence[Recorded]:
        """What was recorded with the request of this source, first its own event; empty if nothing was."""
        position = await position_of(self._log.tables, source)
        if position is None:
            return ()
        first, *rest = await self._log.read(position - 1, MAX_REQUEST_EVENTS)
        run_id = first.run_id
        return first, *(recorded for recorded in rest if run_id is not None and recorded.run_id == run_id)

    def _of_key(self, family: str, what: str, who: Identity, key: str, nth: int) -> str:
        _check_key(key)
        if nth > 1:
            family = f"{family}.{nth}"
        return f"{family}:{what}:{self._pseudonyms.user(who.user_id)}:{_unnamed(key, Redactor(who, self._pseudonyms))}"


def used_otherwise() -> Conflict:
    """The refusal of a key that was used for something else."""
    return Conflict(
        "the idempotency key was used before with other arguments: choose another key for another request",
        code="idempotency.conflict",
    )


def canonical(value: Json) -> bytes:
    """For comparing: 1, 1.0 and True are equal in Python, and three different arguments."""
    return msgspec.json.encode(value, order="sorted")


def _check_key(key: str) -> None:
    if not 1 <= len(key) <= MAX_KEY_CHARS:
        raise Invalid(f"idempotency_key must have 1–{MAX_KEY_CHARS} characters")


def _unnamed(words: str, redact: Redactor) -> str:
    unnamed = redact(words)
    return unnamed if len(unnamed) <= MAX_MESSAGE_ID_CHARS else sha256(unnamed.encode()).hexdigest()
