"""An event that says how it recurs is dispatched again by the clock, for the same person."""

from __future__ import annotations

from hashlib import sha256

from cascadenced.errors import Invalid
from cascadenced.events.base import Json
from cascadenced.handlers.schedule_requests import ScheduleRequests
from cascadenced.handlers.sources import canonical
from cascadenced.identity import Identity, Pseudonyms

_KEY = "recurrence"
_RULES = {"cron": "expr", "rrule": "rrule"}
_NAME_CHARS = 12


class Recurring:
    """`recurrence` of a payload: {"cron": …} or {"rrule": …}, and `timezone`. What else it holds is kept, unread."""

    def __init__(self, schedules: ScheduleRequests, pseudonyms: Pseudonyms) -> None:
        self._schedules, self._pseudonyms = schedules, pseudonyms

    def entry(self, event: str, payload: dict[str, Json]) -> dict[str, Json] | None:
        """The schedule of an event; None if it names none. Raises Invalid for a rule that is none."""
        recurrence = payload.get(_KEY)
        if not isinstance(recurrence, dict) or not any(recurrence.get(rule) for rule in _RULES):
            return None
        rules = {key: recurrence[rule] for rule, key in _RULES.items() if recurrence.get(rule)}
        entry: dict[str, Json] = {
            **rules,
            "event": event,
            "args": {key: value for key, value in payload.items() if key != _KEY},
            _KEY: recurrence,
        }
        if recurrence.get("timezone") is not None:
            entry["timezone"] = recurrence["timezone"]
        try:
            self._schedules.defined("recurrence", entry, "event")
        except Invalid as error:
            raise Invalid(str(error), code=f"recurrence.{error.code}") from None
        return entry

    async def set(self, event: str, entry: dict[str, Json], who: Identity) -> str:
        """Set it; the same event of the same person is the same schedule. Returns its name."""
        user, group = self._pseudonyms.user(who.user_id), self._pseudonyms.group(who.group_id)
        told = sha256(b"\0".join((user.encode(), group.encode(), canonical(entry["args"])))).hexdigest()
        name = f"{event.replace('.', '-')}-{told[:_NAME_CHARS]}"
        await self._schedules.set(name, entry, via="event", who=who)
        return name
