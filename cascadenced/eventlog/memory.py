"""The double: the same rule of a commit over a list; events and projections can be asked in SQL as well, in memory.

What was committed lives in a `MemoryFile`, so that a test can close the log, or forget to, and open it again.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cascadenced.clock import Clock
from cascadenced.crashpoint import crashpoint
from cascadenced.errors import CascadenceError, DiskError, Unavailable
from cascadenced.eventlog.base import Change, Observer, Opening, Projection, ProjectionState, Receipt, Row
from cascadenced.eventlog.chain import header_of, verify
from cascadenced.eventlog.database import migrate
from cascadenced.eventlog.folding import Folding
from cascadenced.eventlog.rows import opening, to_row, write
from cascadenced.eventlog.sequence import Batch, Pending, Tail, prepare
from cascadenced.eventlog.tail import LiveTail
from cascadenced.events.base import Recorded
from cascadenced.ids import EventId, Ids


class MemoryFile:
    """What survives a crash of the process that wrote it."""

    def __init__(self) -> None:
        self.events: list[Recorded] = []
        self.versions: dict[str, int] = {}
        self.sources: dict[str, int] = {}
        self.unfinished: dict[str, int] = {}
        self.checkpoints: dict[str, int] = {}
        self.anchor = b"\0" * 32
        self.epoch = 0
        self.instance_id: str | None = None


class MemoryTables:
    """`Tables` over an open connection."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.closed = False

    async def fetch(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        try:
            return self._connection.execute(sql, parameters).fetchall()
        except sqlite3.ProgrammingError:
            if self.closed:
                raise Unavailable("the log is closed") from None
            raise


class MemoryEventLog:
    """See `eventlog/base.py`. A commit happens at the loop's next turn, with all that was appended in this one."""

    def __init__(
        self,
        file: MemoryFile,
        *,
        clock: Clock,
        ids: Ids,
        instance_id: str | None,
        projections: Sequence[Projection],
    ) -> None:
        self.file = file
        self._clock, self._ids = clock, ids
        self._projections = projections
        file.epoch += 1
        file.instance_id = instance_id or file.instance_id or f"i-{ids.token()[:12]}"
        last = file.events[-1] if file.events else None
        if last is not None:
            ids.not_before(EventId(last.id))
        self._tail = Tail(len(file.events), last.hash if last else file.anchor, file.instance_id, file.epoch)
        self._live = LiveTail(len(file.events))
        self._connection = sqlite3.connect(":memory:", isolation_level=None)
        migrate(self._connection, Path(":memory:"), ids)
        write(self._connection, [to_row(event) for event in file.events])
        self.tables = MemoryTables(self._connection)
        self._folding = Folding(self._connection, projections, clock)
        self._folding.rebuild(self._folding.prepare(), self._batches())
        self._waiting: list[Pending] = []
        self._checkpoints: dict[str, int] = {}
        self._closed = False
        self._loop = asyncio.get_running_loop()
        self.fail_next: CascadenceError | None = None
        """A test sets it: the next commit fails with it, as a disk would."""

    @classmethod
    async def open(
        cls,
        file: MemoryFile | None = None,
        *,
        clock: Clock,
        ids: Ids,
        instance_id: str | None = None,
        projections: Sequence[Projection] = (),
        on_fatal: Callable[[CascadenceError], None] | None = None,
    ) -> MemoryEventLog:
        """on_fatal is never called: memory does not fail, save by `fail_next`, which fails one batch."""
        return cls(file or MemoryFile(), clock=clock, ids=ids, instance_id=instance_id, projections=projections)

    @property
    def position(self) -> int:
        return self._live.position

    @property
    def epoch(self) -> int:
        return self._tail.epoch

    @property
    def origin(self) -> str:
        return self._tail.origin

    @property
    def durability(self) -> str:
        return "memory"

    @property
    def read_only(self) -> str | None:
        return None

    def append(self, changes: Sequence[Change], *, source: str | None = None) -> asyncio.Future[Receipt]:
        future: asyncio.Future[Receipt] = self._loop.create_future()
        if self._closed:
            future.set_exception(DiskError("the log is closed"))
            return future
        if not self._waiting:
            self._commit_soon()
        self._waiting.append(prepare(changes, source, self._clock, self._ids, future))
        return future

    async def read_stream(self, stream: str, after_version: int = 0) -> list[Recorded]:
        return [event for event in self.file.events if event.stream == stream and event.version > after_version]

    async def read_since(self, stream: str, position: int) -> AsyncIterator[Recorded]:
        for event in [event for event in self.file.events[position:] if event.stream == stream]:
            yield event

    async def read(self, after: int, limit: int) -> list[Recorded]:
        return self.file.events[after : after + limit]

    def follow(self, after: int) -> AsyncIterator[Sequence[Recorded]]:
        return self._live.follow(after, self.read)

    def observe(self, observer: Observer) -> None:
        self._live.observe(observer)

    async def unfinished(self) -> list[str]:
        return sorted(self.file.unfinished, key=self.file.unfinished.__getitem__)

    async def openings(self) -> list[Opening]:
        events = (event for at in sorted(self.file.unfinished.values()) for event in self.file.events[at - 1 : at])
        return [opening(event.stream, event.position, event.group_hash, event.event) for event in events]

    async def checkpoint(self, name: str) -> int:
        return self._checkpoints.get(name, self.file.checkpoints.get(name, 0))

    def set_checkpoint(self, name: str, position: int) -> None:
        self._checkpoints[name] = position

    def projection_states(self) -> list[ProjectionState]:
        return self._folding.states(self.position)

    def frozen(self) -> Mapping[str, str]:
        return {name: state.frozen or "" for name, state in self._folding.frozen.items()}

    async def rebuild(self, names: Sequence[str] | None = None) -> list[ProjectionState]:
        wanted = [projection for projection in self._projections if names is None or projection.name in names]
        self._folding.rebuild(wanted, self._batches())
        return self.projection_states()

    async def verify(self) -> int:
        rows = ((header_of(event), event.data, event.hash) for event in self.file.events)
        return verify(0, self.file.anchor, rows)[0]

    async def probe(self) -> None:
        """Memory is always there."""

    async def close(self) -> None:
        if self._closed:
            return
        self._commit()
        self._closed = True
        self.file.checkpoints.update(self._checkpoints)
        self._live.close()
        self.tables.closed = True
        self._connection.close()

    # What only tests use.

    @property
    def waiting(self) -> Sequence[Pending]:
        """Appends that are not committed yet."""
        return self._waiting

    @property
    def is_over(self) -> bool:
        """Closed, or dead."""
        return self._closed

    def die(self) -> None:
        """The process is killed: what waits is never committed, and nobody is told."""
        self._closed = True
        self._waiting.clear()

    # How it works.

    def _commit_soon(self) -> None:
        """Something waits. A simulation lets it take as long as a disk does."""
        self._loop.call_soon(self._commit)

    def _commit(self) -> None:
        waiting, self._waiting = self._waiting, []
        if not waiting or self._closed:
            return
        if self.fail_next is not None:
            error, self.fail_next = self.fail_next, None
            self._failed(waiting, error)
            return
        try:
            # Plain dicts answer for all streams and sources there are, asked or not.
            batch = self._tail.sequence(waiting, lambda _: self.file.versions, lambda _: self.file.sources)
            if batch.recorded:
                self._write(batch)
                crashpoint("append.before_commit")
        except Exception as error:  # noqa: BLE001 -- the callers hear what happened
            self._failed(waiting, DiskError(str(error)) if isinstance(error, sqlite3.Error) else error)
            return
        file = self.file
        file.events.extend(batch.recorded)
        file.versions.update(batch.heads)
        file.sources.update({event.source: event.position for event in batch.recorded if event.source is not None})
        file.unfinished.update(batch.opened)
        for stream in batch.closed:
            file.unfinished.pop(stream, None)
        file.checkpoints.update(self._checkpoints)
        self._checkpoints = {}
        self._tail.advance(batch)
        crashpoint("append.after_commit")
        self._live.grew(batch.recorded, batch.n_bytes)
        for outcome in batch.outcomes:
            if outcome.future.done():
                continue
            if isinstance(outcome.result, Receipt):
                outcome.future.set_result(outcome.result)
            else:
                outcome.future.set_exception(outcome.result)

    def _write(self, batch: Batch) -> None:
        frozen = self._folding.frozen
        self._connection.execute("BEGIN")
        try:
            write(self._connection, batch.rows)
            self._folding.fold(batch.recorded)
            self._connection.execute("COMMIT")
        except BaseException:
            self._folding.frozen = frozen
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    @staticmethod
    def _failed(waiting: Sequence[Pending], error: Exception) -> None:
        for append in waiting:
            if not append.future.done():
                append.future.set_exception(error)

    def _batches(self) -> list[list[Recorded]]:
        return [self.file.events] if self.file.events else []
