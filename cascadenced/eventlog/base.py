"""The one durable truth: an append-only log of events, and the promises every implementation keeps.

- An append is all or nothing, and durable before its caller is resumed.
- Positions are 1, 2, 3 … without gaps; versions are the same within a stream.
- `expected` guards against a second writer; `source` makes a repeated append answer with the first one.
- Projections are folded in the append's transaction; one that raises is frozen and never blocks the log.
- Observers see every committed batch, in order, before the callers of its appends are resumed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from cascadenced.events.base import Context, Event, Recorded

Row = tuple[Any, ...]
Observer = Callable[[Sequence[Recorded]], None]


class Change(msgspec.Struct, frozen=True):
    """Events for the end of one stream. expected: the version the caller last saw, 0 for a new stream, None: any."""

    stream: str
    events: Sequence[Event]
    expected: int | None = None
    context: Context = Context()


class Receipt(msgspec.Struct, frozen=True):
    """What an append did. recorded: the events written, in order; empty for a duplicate.

    duplicate_of: position of the event that already had this `source`, else None.
    """

    recorded: Sequence[Recorded]
    duplicate_of: int | None = None

    @property
    def duplicate(self) -> bool:
        return self.duplicate_of is not None


class Opening(msgspec.Struct, frozen=True, gc=False):
    """How an unfinished stream began: its opening event without the run's arguments, which may be large."""

    stream: str
    position: int
    task: str
    group_hash: str | None
    priority: int
    parent_run_id: str | None


class Tables(Protocol):
    """Read access to the projections and the events: one statement at a time, on what is committed."""

    async def fetch(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]: ...


class Connection(Protocol):
    """What a projection may do to its own tables, inside the append's transaction."""

    def execute(self, sql: str, parameters: Sequence[Any] = (), /) -> Any: ...

    def executemany(self, sql: str, parameters: Sequence[Sequence[Any]], /) -> Any: ...


class Projection(Protocol):
    """Rows folded from the log, rebuildable from nothing else. One question each.

    `tables` are created by `ddl` and owned outright. `apply` sees every event of
    its `types` once, in order, amid others, in batches of any size;
    the rows it leaves must not depend on where the batches were cut. A change of meaning raises `version`, which
    makes the next open rebuild it.
    """

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> int: ...

    @property
    def tables(self) -> Sequence[str]: ...

    @property
    def ddl(self) -> str: ...

    @property
    def types(self) -> frozenset[str]:
        """Event types that change its rows; a batch without any of them is not shown to it."""
        ...

    def apply(self, connection: Connection, batch: Sequence[Recorded]) -> None: ...


class ProjectionState(msgspec.Struct, frozen=True):
    """position: the last event folded.  frozen: why it stopped there, None while it keeps up."""

    name: str
    position: int
    frozen: str | None
    stale_since_us: int | None


class EventLog(Protocol):
    """See the module's docstring. All methods are called on the event loop that opened it."""

    @property
    def tables(self) -> Tables: ...

    @property
    def position(self) -> int:
        """Position of the newest committed event, 0 for an empty log."""
        ...

    @property
    def epoch(self) -> int: ...

    @property
    def read_only(self) -> str | None:
        """Why nothing can be written just now (disk full), else None."""
        ...

    def append(self, changes: Sequence[Change], *, source: str | None = None) -> asyncio.Future[Receipt]:
        """Add events to the ends of streams: all of them, or none.

        source: what the outside calls this; if the log has it, nothing is written and the receipt says so.
        Raises (through the future) WrongVersion if another writer came first, DiskFull, DiskError.
        """
        ...

    async def read_stream(self, stream: str, after_version: int = 0) -> list[Recorded]:
        """The stream's events in order."""
        ...

    def read_since(self, stream: str, position: int) -> AsyncIterator[Recorded]:
        """The stream's events with positions above `position`, in order, as many as there are now."""
        ...

    async def read(self, after: int, limit: int) -> list[Recorded]:
        """Up to `limit` events with positions above `after`, in order."""
        ...

    def follow(self, after: int) -> AsyncIterator[Sequence[Recorded]]:
        """Every event above `after`, in order, for ever: first from the file, then as they are committed."""
        ...

    def observe(self, observer: Observer) -> None:
        """Call `observer` on the loop with each committed batch, before the callers of its appends are resumed."""
        ...

    async def unfinished(self) -> list[str]:
        """Streams with an opening event and no terminal one (events/run.py), oldest first."""
        ...

    async def openings(self) -> list[Opening]:
        """The opening events of the unfinished streams, oldest first: read at once, however many there are."""
        ...

    async def checkpoint(self, name: str) -> int:
        """The last position that follower `name` finished, 0 at first."""
        ...

    def set_checkpoint(self, name: str, position: int) -> None:
        """Remember it with the next commit, or at close; a crash before that repeats a few events.

        A name with a colon, like `bus:own_seq`, keeps a number of the follower's own, which is no position.
        """
        ...

    def projection_states(self) -> list[ProjectionState]: ...

    def frozen(self) -> Mapping[str, str]:
        """The projections that have stopped, by name, with the reason: empty as a rule, and quick to ask."""
        ...

    async def close(self) -> None:
        """Commit what is queued, then close. Idempotent."""
        ...


class WritableLog(EventLog, Protocol):
    """A log as its owner has it."""

    @property
    def origin(self) -> str:
        """The instance that records: of each event."""
        ...

    @property
    def durability(self) -> str:
        """`fsync`: what is acknowledged survives a power cut; `memory`: nothing survives."""
        ...

    async def rebuild(self, names: Sequence[str] | None = None) -> list[ProjectionState]:
        """Fold projections (all, or those named) again from the log; nothing is appended meanwhile."""
        ...

    async def verify(self) -> int:
        """Check the whole chain while appends go on; returns the position reached. Raises LogCorrupt."""
        ...

    async def probe(self) -> None:
        """Return when the log has had its turn and found its file where it was opened. Raises DataFolderGone."""
        ...
