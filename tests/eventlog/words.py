"""Small events and projections for tests of the log, to which it is all the same what an event says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

from cascadenced.eventlog.base import Change
from cascadenced.events.base import Context, Recorded
from cascadenced.events.idea import IdeaRecorded


def said(stream: str, *texts: str, expected: int | None = None, **context: Any) -> Change:
    """A change that says `texts` at the end of `stream`."""
    return Change(stream, [IdeaRecorded(text=text) for text in texts], expected, Context(**context))


def texts(events: Sequence[Recorded]) -> list[str]:
    return [event.event.text for event in events]  # type: ignore[attr-defined]


async def everything(log: Any) -> list[Recorded]:
    return await log.read(0, 1_000_000)


async def taken(follower: AsyncIterator[Sequence[Recorded]], n: int) -> list[Recorded]:
    """The next `n` events, at least, that a follower is given."""
    events: list[Recorded] = []
    async with asyncio.timeout(10):
        while len(events) < n:
            events += await anext(follower)
    return events


class Words:
    """A projection: one row an event."""

    version = 1
    tables = ("words",)
    ddl = "CREATE TABLE words (position INTEGER PRIMARY KEY, text TEXT NOT NULL)"
    types = frozenset({"idea.recorded"})

    def __init__(self, name: str = "words", version: int = 1) -> None:
        self.name, self.version = name, version
        self.tables = (name,)
        self.ddl = f"CREATE TABLE {name} (position INTEGER PRIMARY KEY, text TEXT NOT NULL)"

    def apply(self, connection: Any, batch: Sequence[Recorded]) -> None:
        for recorded in batch:
            self.before(connection, recorded.event.text)
            connection.execute(
                f"INSERT INTO {self.name} VALUES (?, ?)", (recorded.position, self.spelled(recorded.event.text))
            )

    def before(self, connection: Any, text: str) -> None:
        """What a broken projection does wrong."""

    def spelled(self, text: str) -> str:
        return text


async def words_in(log: Any, name: str = "words") -> list[str]:
    return [text for (text,) in await log.tables.fetch(f"SELECT text FROM {name} ORDER BY position")]
