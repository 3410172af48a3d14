"""What verbs have in common: who asks, and how they are named."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from cascadenced.clock import Clock
from cascadenced.config import Config
from cascadenced.events.base import Context
from cascadenced.handlers.control_requests import Asker
from cascadenced.identity import Identity, Pseudonyms, Redactor, checked
from cascadenced.instance import Instance, Status
from cascadenced.pipeline.access import Caller
from cascadenced.pipeline.queue import Slots
from cascadenced.plugins.discover import Catalogue
from cascadenced.projections.answers import Answers
from cascadenced.projections.board import Board

Arguments = TypeVar("Arguments", bound=msgspec.Struct)


class Named(Protocol):
    """Of tasks."""

    def names(self) -> list[str]: ...


class Readable(Protocol):
    """Of an `Instance`, what a verb takes that only reads: all that there is without a daemon (commands/shelf.py)."""

    @property
    def config(self) -> Config: ...

    @property
    def clock(self) -> Clock: ...

    @property
    def answers(self) -> Answers: ...

    @property
    def board(self) -> Board: ...

    @property
    def tasks(self) -> Named: ...

    @property
    def catalogue(self) -> Catalogue: ...

    @property
    def pseudonyms(self) -> Pseudonyms: ...

    @property
    def epoch(self) -> int | None: ...

    def slots(self, run_id: str, task: str) -> Slots | None:
        """How a run finds them; None where no run goes on."""

    async def status(self) -> Status: ...


class Verb(msgspec.Struct, Generic[Arguments], frozen=True):
    """takes: the struct of its arguments.  help: what it does, in a few words.

    is_wish: whether it asks for something to happen, rather than how things are.
    reads: whether `do` is content with a `Readable`; else it takes an `Instance`.
    """

    name: str
    takes: type[Arguments]
    do: Callable[[Any, Arguments], Awaitable[Any]]
    help: str
    is_wish: bool = False
    reads: bool = False


def verb(
    name: str,
    takes: type[Arguments],
    do: Callable[[Instance, Arguments], Awaitable[Any]],
    help_: str,
    *,
    is_wish: bool = False,
) -> Verb[Any]:
    return Verb(name, takes, do, help_, is_wish)


def reading(
    name: str, takes: type[Arguments], do: Callable[[Readable, Arguments], Awaitable[Any]], help_: str
) -> Verb[Any]:
    return Verb(name, takes, do, help_, reads=True)


class Nothing(msgspec.Struct, forbid_unknown_fields=True):
    """No arguments."""


OWNERS_DOORS = frozenset({"cli", "python"})
"""What only the owner of the data folder may say they came through."""


class Somebody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Who asks. Both are claims of the caller's, 1–256 characters."""

    user_id: str
    group_id: str

    def identity(self) -> Identity:
        return Identity(checked(self.user_id, "user_id"), checked(self.group_id, "group_id"))


class Someone(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Who asks, as claims of theirs; they may leave them out where the verb allows it.

    idempotency_key: the same key of the same user is the same wish, for ever.
    """

    user_id: str | None = None
    group_id: str | None = None
    idempotency_key: str | None = None
    via: str = "cli"

    @property
    def is_owner(self) -> bool:
        return self.via in OWNERS_DOORS

    def asker(self, pseudonyms: Pseudonyms) -> Asker:
        """Raises Invalid for ids that cannot be any."""
        user_id = None if self.user_id is None else checked(self.user_id, "user_id")
        group_id = None if self.group_id is None else checked(self.group_id, "group_id")
        return Asker(
            caller=Caller(
                None if user_id is None else pseudonyms.user(user_id),
                None if group_id is None else pseudonyms.group(group_id),
                is_owner=self.is_owner,
            ),
            via=self.via,
            key=self.idempotency_key,
            redact=None if user_id is None or group_id is None else Redactor(Identity(user_id, group_id), pseudonyms),
        )


class ListArguments(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    limit: int = 100
    after: str | None = None


def by(asker: Asker) -> Context:
    """Whoever asks, for the events of what they do."""
    return Context(user_hash=asker.caller.user_hash, group_hash=asker.caller.group_hash)


def hashed(instance: Readable, *, user_id: str | None, group_id: str | None) -> dict[str, str | None]:
    """Filters by raw ids, as the tables have them."""
    return {
        "user_hash": None if user_id is None else instance.pseudonyms.user(user_id),
        "group_hash": None if group_id is None else instance.pseudonyms.group(group_id),
    }
