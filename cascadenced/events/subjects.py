"""Names ⇄ NATS subjects, pure. One token per name; only event names may keep their dots.

ume.<family>.<name>[.<stage>]      e.g. ume.pointer.example, ume.event.calendar.event.created
"""

from __future__ import annotations

import re
from functools import lru_cache
from urllib.parse import quote, unquote

import msgspec

from cascadenced.errors import BadMessage, Invalid

INBOUND = ("event", "run.request", "pointer", "schedule", "task_run", "idea", "note")
"""Families that others publish to us."""
BOTH_WAYS = ("event", "pointer", "schedule", "task_run")
"""Those with a name, in the stream of events, that we publish too."""
OUTWARD = ("task_spec", "stage", "audit", "followup", "dead")
"""Families that we alone publish."""

MAX_NAME_CHARS = 128
_REMEMBERED = 1_024
"""Subjects and names that are not looked at again: few are used, and each for thousands of messages."""
_EMPTY = "%"
_PLAIN = re.compile(r"[A-Za-z0-9_-]+")
_EVENT_NAME = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")


class Address(msgspec.Struct, frozen=True):
    """What a subject says. name: None for families without one (idea, note)."""

    family: str
    name: str | None = None


@lru_cache(maxsize=_REMEMBERED)
def subject(prefix: str, family: str, *names: str) -> str:
    """`prefix.family.name…`; each name is one token, whatever it contains."""
    return ".".join([prefix, family, *(token(name) for name in names)])


def event_subject(prefix: str, name: str) -> str:
    """`prefix.event.<name>`; the dots of the event's name stay dots."""
    return ".".join([prefix, "event", *(token(part) for part in name.split("."))])


def token(name: str) -> str:
    """`name` with everything but letters, digits, `_` and `-` percent-encoded; `%` is legal in a NATS token.

    The empty name, which NATS has no token for, is a lone `%`.
    """
    if _PLAIN.fullmatch(name):
        return name
    return quote(name, safe="").replace(".", "%2E").replace("~", "%7E") or _EMPTY


def _name(spelled: str) -> str:
    return "" if spelled == _EMPTY else unquote(spelled)


def printable(text: str) -> str:
    """`text` as every encoder takes it: surrogates, which are no characters, are spelled out (`\\udcff`)."""
    return text.encode(errors="backslashreplace").decode()


@lru_cache(maxsize=_REMEMBERED)
def parse(prefix: str, full: str) -> Address:
    """The family and name of an inbound subject. Raises BadMessage `unknown_family` if it is none of ours,
    `undecodable` if it is no text.

    prefix: may have several tokens (`team.ume`).
    """
    if printable(full) != full:
        raise BadMessage(f"the subject {printable(full)} is no UTF-8", code="undecodable")
    tokens = full.removeprefix(f"{prefix}.").split(".") if full.startswith(f"{prefix}.") else []
    match tokens:
        case _ if "" in tokens:
            pass
        case ["event", *names] if names:
            return Address("event", ".".join(_name(part) for part in names))
        case ["run", "request", name]:
            return Address("run.request", _name(name))
        case ["pointer" | "schedule" | "task_run" as family, name]:
            return Address(family, _name(name))
        case ["idea" | "note" as family]:
            return Address(family)
    raise BadMessage(f"no family of ours has the subject {full!r}", code="unknown_family")


def checked_task_name(name: str) -> str:
    """`name` if it may name a task: letters, digits, `_`, `-`; raises Invalid."""
    if not _PLAIN.fullmatch(name) or len(name) > MAX_NAME_CHARS:
        raise Invalid(f"{name!r} cannot name a task: use up to {MAX_NAME_CHARS} letters, digits, '_' and '-'")
    return name


@lru_cache(maxsize=_REMEMBERED)
def checked_reported_name(name: str) -> str:
    """`name` if a fact from outside may be about it: a task's, or a workflow's (`workflow.<event>`); raises Invalid."""
    if not _EVENT_NAME.fullmatch(name) or len(name) > MAX_NAME_CHARS:
        raise Invalid(f"{name!r} names no task: use up to {MAX_NAME_CHARS} letters, digits, '_', '-' and single dots")
    return name


@lru_cache(maxsize=_REMEMBERED)
def checked_event_name(name: str) -> str:
    """`name` if it may name an event: as a task, with dots between its parts; raises Invalid."""
    if not _EVENT_NAME.fullmatch(name) or len(name) > MAX_NAME_CHARS:
        raise Invalid(
            f"{name!r} cannot name an event: use up to {MAX_NAME_CHARS} letters, digits, '_' and '-', "
            "with single dots between its parts"
        )
    return name
