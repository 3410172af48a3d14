"""The real log: one connection in one thread writes; callers await its group commit.

Whatever gathered while the last commit ran is the next batch (`intake.py`): no timer, few statements per table, one
wake-up of the loop. A commit that fails fails its callers and nobody else.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import structlog

from cascadenced.clock import Clock
from cascadenced.crashpoint import crashpoint
from cascadenced.errors import CascadenceError, ConfigError, DataFolderGone, DiskError, DiskFull, WrongVersion
from cascadenced.eventlog.base import Change, Observer, Opening, Projection, ProjectionState, Receipt
from cascadenced.eventlog.bulk import delete_many, insert_many, select_many
from cascadenced.eventlog.chain import check_end
from cascadenced.eventlog.database import connect, migrate, translated, verify_chain
from cascadenced.eventlog.folding import Folding
from cascadenced.eventlog.intake import Intake, Job
from cascadenced.eventlog.place import Place
from cascadenced.eventlog.reader import Reader
from cascadenced.eventlog.rows import COLUMNS, from_row, write
from cascadenced.eventlog.sequence import Batch, Pending, Tail, prepare
from cascadenced.eventlog.tail import LiveTail
from cascadenced.events.base import Recorded
from cascadenced.events.catalogue import SCHEMA
from cascadenced.ids import EventId, Ids

_log = structlog.get_logger(__name__)

MAX_BATCH_EVENTS = 2_048
"""Events in one transaction; more wait for the next, so that no caller waits long. Two of the largest statements."""
VERIFIED_EVERY = 10_000
"""How often the checkpoint from which a start checks the chain moves on."""

WAL_GROWTH_BYTES = 16 * 1024 * 1024
"""Four times what SQLite lets gather before it carries the WAL over. When it has grown by so much, we ask why."""

_REBUILD_AT_ONCE = 5_000
"""Events folded together: many runs have begun and ended within one such batch, and are written once."""

_VERIFIED = "verified"
_CHECKPOINTS = "INSERT INTO checkpoints (name, position) VALUES"
_MOVE_CHECKPOINT = "ON CONFLICT (name) DO UPDATE SET position = excluded.position"
_SAVE_CHECKPOINT = f"{_CHECKPOINTS} (?, ?) {_MOVE_CHECKPOINT}"
_HEADS = "SELECT stream, max(version) FROM events WHERE stream IN ({}) GROUP BY stream"
_POSITIONS = "SELECT source, position FROM events WHERE source IN ({})"


class SqliteEventLog:
    """See `eventlog/base.py`. Open with `open`, on the loop that will use it; the folder's lock is the caller's."""

    def __init__(
        self,
        path: Path,
        connection: sqlite3.Connection,
        reader: Reader,
        tail: Tail,
        folding: Folding,
        projections: Sequence[Projection],
        clock: Clock,
        ids: Ids,
        on_fatal: Callable[[CascadenceError], None] | None,
    ) -> None:
        self.path = path
        self._place = Place(path)
        self._connection = connection
        self.tables = self._reader = reader
        self._tail = tail
        self._folding = folding
        self._projections = projections
        self._clock, self._ids = clock, ids
        self._on_fatal = on_fatal
        self._loop = asyncio.get_running_loop()
        self._live = LiveTail(tail.position)
        self._full: str | None = None
        self._broken: CascadenceError | None = None
        self._checkpoints: dict[str, int] = {}  # what followers said last; only the loop changes it
        self._saved = {_VERIFIED: tail.position}  # what of that is committed; only the writer thread changes it
        self._wal = path.with_name(f"{path.name}-wal")
        self._wal_bytes = 0  # when we last asked
        self._intake = Intake(self._loop)
        self._stopping = self._ended = self._closed = False
        self._written = asyncio.Event()
        self._thread = threading.Thread(target=self._write, name="event-log-writer", daemon=True)
        self._thread.start()

    @classmethod
    async def open(
        cls,
        path: Path,
        *,
        clock: Clock,
        ids: Ids,
        instance_id: str | None = None,
        projections: Sequence[Projection] = (),
        on_fatal: Callable[[CascadenceError], None] | None = None,
    ) -> SqliteEventLog:
        """Open, migrate, check the chain's tail, rebuild outdated projections, raise the epoch.

        instance_id: `origin` of what is recorded; None: the one this file remembers, made at its first opening.
        on_fatal: called once on the loop when a write or sync failed; nothing can be recorded afterwards.
        Raises ConfigError, LogCorrupt, DiskError, DiskFull. Blocks the loop: it is opened before anything runs.
        """
        connection = connect(path)
        try:
            migrate(connection, path, ids)
            row = connection.execute("SELECT position FROM checkpoints WHERE name = ?", (_VERIFIED,)).fetchone()
            position, end = verify_chain(connection, row[0] if row else None)
            last = connection.execute("SELECT id, schema FROM events WHERE position = ?", (position,)).fetchone()
            if last is not None:
                if last[1] > SCHEMA:
                    raise ConfigError(
                        f"{path} was written by a newer version (its events have schema {last[1]}, this one knows "
                        f"{SCHEMA}): install that version again, or restore a backup"
                    )
                ids.not_before(EventId(last[0]))
            connection.execute("BEGIN IMMEDIATE")
            folding = Folding(connection, projections, clock)
            folding.rebuild(folding.prepare(), _all_events(connection))
            origin, epoch = _open_for_writing(connection, instance_id, ids)
            connection.execute(_SAVE_CHECKPOINT, (_VERIFIED, position))
            connection.execute("COMMIT")
            reader = await Reader.open(path)
        except BaseException as error:
            connection.close()
            if isinstance(error, sqlite3.Error):
                raise translated(error, path) from None
            raise
        tail = Tail(position, end, origin, epoch)
        return cls(path, connection, reader, tail, folding, projections, clock, ids, on_fatal)

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
        return "fsync"

    @property
    def read_only(self) -> str | None:
        return self._full or (str(self._broken) if self._broken else None)

    def append(self, changes: Sequence[Change], *, source: str | None = None) -> asyncio.Future[Receipt]:
        future: asyncio.Future[Receipt] = self._loop.create_future()
        if self._broken is not None or self._stopping:
            future.set_exception(self._broken or DiskError("the log is closed"))
            return future
        self._intake.put(prepare(changes, source, self._clock, self._ids, future))
        return future

    async def read_stream(self, stream: str, after_version: int = 0) -> list[Recorded]:
        return await self._reader.read_stream(stream, after_version)

    def read_since(self, stream: str, position: int) -> AsyncIterator[Recorded]:
        return self._reader.read_since(stream, position)

    async def read(self, after: int, limit: int) -> list[Recorded]:
        return await self._reader.read(after, limit)

    def follow(self, after: int) -> AsyncIterator[Sequence[Recorded]]:
        return self._live.follow(after, self._reader.read)

    def observe(self, observer: Observer) -> None:
        self._live.observe(observer)

    async def unfinished(self) -> list[str]:
        return await self._reader.unfinished()

    async def openings(self) -> list[Opening]:
        return await self._reader.openings()

    async def checkpoint(self, name: str) -> int:
        waiting = self._checkpoints.get(name)
        return await self._reader.checkpoint(name) if waiting is None else waiting

    def set_checkpoint(self, name: str, position: int) -> None:
        self._checkpoints[name] = position

    def projection_states(self) -> list[ProjectionState]:
        return self._folding.states(self.position)

    def frozen(self) -> Mapping[str, str]:
        return {name: state.frozen or "" for name, state in self._folding.frozen.items()}

    async def rebuild(self, names: Sequence[str] | None = None) -> list[ProjectionState]:
        """Fold projections (all, or those named) again from the log; nothing is appended meanwhile."""

        def work() -> object:
            wanted = [projection for projection in self._projections if names is None or projection.name in names]
            with self._transaction():
                self._folding.rebuild(wanted, _all_events(self._connection))
            return None

        await self._in_writer(work)
        return self.projection_states()

    async def remember(self, key: str, value: str) -> str:
        """What the file says under `key`: `value`, durably, if it said nothing so far."""

        def work() -> object:
            with self._transaction():
                self._connection.execute(
                    "INSERT INTO meta (key, value) VALUES (?, ?) ON CONFLICT DO NOTHING", (key, value)
                )
            return self._connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()[0]

        return str(await self._in_writer(work))

    async def verify(self) -> int:
        """Check the whole chain against the file, while appends go on; returns the position reached.

        Raises LogCorrupt.
        """
        committed = self.position
        reached = await self._reader.verify()
        check_end(reached, committed)
        return reached

    async def probe(self) -> None:
        """Return when the writer thread has had its turn and found the file where it was opened.

        Raises DataFolderGone; nothing can be recorded then, and `on_fatal` is called.
        """
        await self._in_writer(self._place.check)

    async def close(self) -> None:
        if not self._stopping:
            self._stopping = True
            self._intake.put(Job(self._end, self._loop.create_future()))
        await self._written.wait()
        if self._closed:
            return
        self._closed = True
        self._live.close()
        await self._reader.close()
        self._connection.close()

    async def _in_writer(self, work: Callable[[], object]) -> object:
        if self._stopping:
            raise DiskError("the log is closed")
        future: asyncio.Future[object] = self._loop.create_future()
        self._intake.put(Job(work, future))
        return await future

    # ── the writer thread ────────────────────────────────────────────────────────────────────────────────────

    def _write(self) -> None:
        while not self._ended:
            waiting = self._intake.take(MAX_BATCH_EVENTS)
            if isinstance(waiting, Job):
                self._do(waiting)
            else:
                self._commit(waiting)
        self._tell(self._written.set)

    def _end(self) -> None:
        """The last job."""
        self._flush_checkpoints()
        self._ended = True

    def _do(self, job: Job) -> None:
        try:
            result = job.work()
        except Exception as error:  # noqa: BLE001 -- whatever it was, its caller hears it
            failure = translated(error, self.path) if isinstance(error, sqlite3.OperationalError) else error
            fatal = isinstance(failure, DataFolderGone) and self._breaks(failure)
            self._tell(lambda: self._not_done(job, failure, fatal=fatal))
        else:
            self._tell(lambda: None if job.future.done() else job.future.set_result(result))

    def _commit(self, waiting: list[Pending]) -> None:
        try:
            if self._broken is not None:
                raise self._broken  # nothing is written after a failed write, also not what was queued by then
            batch = self._tail.sequence(waiting, self._heads_of, self._positions_of)
            if batch.recorded:
                self._write_batch(batch)
        except Exception as error:  # noqa: BLE001 -- the thread must live; the callers hear what happened
            failure = translated(error, self.path) if isinstance(error, sqlite3.Error) else error
            fatal = self._breaks(failure)
            self._tell(lambda: self._failed(waiting, failure, fatal=fatal))
            return
        self._tail.advance(batch)
        crashpoint("append.after_commit")
        self._tell(lambda: self._committed(batch))
        self._ask_after_the_wal()

    def _ask_after_the_wal(self) -> None:
        """SQLite carries the WAL over after a commit, and tells nobody when the disk fails at that: it only grows."""
        try:
            n_bytes = self._wal.stat().st_size
            grown = n_bytes - self._wal_bytes
            if 0 <= grown < WAL_GROWTH_BYTES:
                return
            self._wal_bytes = n_bytes
            if grown > 0:
                self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        except (OSError, sqlite3.Error) as error:
            failure = translated(error, self.path) if isinstance(error, sqlite3.Error) else self._without_wal(error)
            if self._breaks(failure):
                self._tell(lambda: self._failed([], failure, fatal=True))

    def _without_wal(self, error: OSError) -> DiskError:
        try:
            self._place.check()
        except DataFolderGone as gone:
            return gone
        return DiskError(f"{self._wal} cannot be read: {error.strerror}")

    def _breaks(self, failure: Exception) -> bool:
        """Whether this is the failure after which nothing is written any more."""
        if not isinstance(failure, DiskError) or self._broken is not None:
            return False
        self._broken = failure
        return True

    def _write_batch(self, batch: Batch) -> None:
        connection = self._connection
        checkpoints = self._unsaved_checkpoints(batch.recorded[-1].position)
        with self._transaction():
            write(connection, batch.rows)
            if batch.opened:
                insert_many(connection, "INSERT INTO unfinished (stream, position) VALUES", list(batch.opened.items()))
            if batch.closed:
                delete_many(connection, "DELETE FROM unfinished WHERE stream IN ({})", batch.closed)
            self._folding.fold(batch.recorded)
            if checkpoints:
                insert_many(connection, _CHECKPOINTS, list(checkpoints.items()), _MOVE_CHECKPOINT)
            self._place.check()  # what is committed into a file that nobody finds again is not recorded
            crashpoint("append.before_commit")
        self._saved.update(checkpoints)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """All or nothing: in the file, and in what the folding remembers of it."""
        frozen = self._folding.frozen
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            self._folding.frozen = frozen
            # SQLite may have rolled back by itself (a full disk does); rolling back twice would raise.
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    def _unsaved_checkpoints(self, position: int) -> Mapping[str, int]:
        """As they are now; what a follower sets while we write waits for the next commit."""
        unsaved = {name: at for name, at in self._checkpoints.copy().items() if self._saved.get(name) != at}
        if position - self._saved[_VERIFIED] >= VERIFIED_EVERY:
            # These bytes were chained by us a moment ago: a start need not check further back than this.
            unsaved[_VERIFIED] = position
        return unsaved

    def _flush_checkpoints(self) -> None:
        """At close, when no append carries them."""
        checkpoints = {**self._unsaved_checkpoints(self._tail.position), _VERIFIED: self._tail.position}
        if self._broken is not None:
            return
        try:
            with self._transaction():
                self._connection.executemany(_SAVE_CHECKPOINT, list(checkpoints.items()))
        except sqlite3.Error as error:
            _log.warning("checkpoints_not_saved", error=str(error))

    def _heads_of(self, streams: list[str]) -> dict[str, int]:
        return dict(select_many(self._connection, _HEADS, streams))

    def _positions_of(self, sources: list[str]) -> dict[str, int]:
        return dict(select_many(self._connection, _POSITIONS, sources))

    def _tell(self, callback: Callable[[], object]) -> None:
        try:
            self._loop.call_soon_threadsafe(callback)
        except RuntimeError:
            _log.warning("loop_closed_before_the_log")

    # ── back on the loop ─────────────────────────────────────────────────────────────────────────────────────

    def _committed(self, batch: Batch) -> None:
        if batch.recorded:
            self._full = None
        self._live.grew(batch.recorded, batch.n_bytes)
        for outcome in batch.outcomes:
            if outcome.future.done():  # its caller was cancelled; the events stay recorded
                continue
            if isinstance(outcome.result, WrongVersion):
                outcome.future.set_exception(outcome.result)
            else:
                outcome.future.set_result(outcome.result)

    def _failed(self, waiting: list[Pending], error: Exception, *, fatal: bool) -> None:
        if isinstance(error, DiskFull):
            self._full = str(error)
        for append in waiting:
            if not append.future.done():
                append.future.set_exception(error)
        self._say_fatal(fatal)

    def _not_done(self, job: Job, error: Exception, *, fatal: bool) -> None:
        if not job.future.done():
            job.future.set_exception(error)
        self._say_fatal(fatal)

    def _say_fatal(self, fatal: bool) -> None:
        if fatal and self._on_fatal is not None:
            assert self._broken is not None
            self._on_fatal(self._broken)


def _open_for_writing(connection: sqlite3.Connection, instance_id: str | None, ids: Ids) -> tuple[str, int]:
    """Raise the epoch and settle who we are: (origin, epoch)."""
    meta = dict(connection.execute("SELECT key, value FROM meta").fetchall())
    origin = instance_id or meta.get("instance_id") or f"i-{ids.token()[:12]}"
    epoch = int(meta.get("epoch", "0")) + 1
    connection.executemany(
        "INSERT INTO meta (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        [("instance_id", origin), ("epoch", str(epoch))],
    )
    return origin, epoch


def _all_events(connection: sqlite3.Connection) -> Iterator[list[Recorded]]:
    cursor = connection.execute(f"SELECT {COLUMNS} FROM events ORDER BY position")  # noqa: S608
    while rows := cursor.fetchmany(_REBUILD_AT_ONCE):
        yield [from_row(row) for row in rows]
