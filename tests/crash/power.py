"""A power cut at any moment, on paper: writes are recorded once, and thousands of disks are made of them.

What was synced is kept. Of what was not, a disk may hold any part in any order: each write is there, not there, or
torn at a sector's edge; names made or taken away are there up to some point. Each image is opened by the real log,
which must hold every event that was acknowledged before the cut, and nothing that was never appended.

The same seed makes the same calls, cuts and tears; only what SQLite draws by itself (the salts of its WAL) differs.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import sqlite3
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec

from cascadenced.clock import FakeClock
from cascadenced.errors import CascadenceError, DiskError
from cascadenced.eventlog.base import Change, Receipt
from cascadenced.eventlog.sqlite import SqliteEventLog
from cascadenced.ids import SeededIds
from cascadenced.projections import all_projections
from tests.crash.disk import IOERR_FSYNC, SQLITE_OK, Call, watched
from tests.projections.stories import dump, story

SECTOR_BYTES = 512
TABLES = [table for projection in all_projections() for table in projection.tables]
FILE = "log.db"

Image = dict[str, bytes]
"""File name → content."""


class Recording:
    """What went to the disk, in order, and what callers had been told by then. A `Watcher`."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.acknowledged: list[tuple[int, int]] = []
        """(calls made before, position): the caller was told that everything up to `position` is recorded."""

    def refuse(self, call: Call) -> int:
        return SQLITE_OK

    def done(self, call: Call) -> None:
        self.calls.append(call)

    def acknowledge(self, position: int) -> None:
        self.acknowledged.append((len(self.calls), position))

    def owed(self, n_calls: int) -> int:
        """The highest position anybody was told of before call number `n_calls` was made."""
        return max((position for after, position in self.acknowledged if after <= n_calls), default=0)


class FailingSync(Recording):
    """At the n-th sync, from 1, an I/O error: the kernel forgets what it could not write, and the next sync succeeds.

    Readers still see those bytes until the power goes. n: 0 for none.
    """

    def __init__(self, n: int) -> None:
        super().__init__()
        self._at, self.n_syncs = n, 0
        self.failed_after: int | None = None
        """Calls made before the one that failed."""

    def refuse(self, call: Call) -> int:
        if call.kind != "sync":
            return SQLITE_OK
        self.n_syncs += 1
        if self.n_syncs != self._at:
            return SQLITE_OK
        self.failed_after = len(self.calls)
        self.calls.append(msgspec.structs.replace(call, kind="lost", sync_folder=False))
        return IOERR_FSYNC


# ── what a disk may hold ─────────────────────────────────────────────────────────────────────────────────────────


class Inode:
    """A file's content: what is certain, and what was written since the last sync."""

    def __init__(self) -> None:
        self.certain = bytearray()
        self.pending: list[Call] = []

    def sync(self) -> None:
        for call in self.pending:
            _apply(self.certain, call)
        self.pending.clear()

    def image(self, fate: Callable[[Call], Iterator[Call]]) -> bytes:
        content = bytearray(self.certain)
        for call in self.pending:
            for part in fate(call):
                _apply(content, part)
        return bytes(content)


class Disk:
    """Fed with calls; says at any moment what a power cut may leave."""

    def __init__(self) -> None:
        self._inodes: dict[tuple[str, int], Inode] = {}
        self._names: dict[str, Inode] = {}
        self._pending_names: list[tuple[str, Inode | None]] = []

    def feed(self, call: Call) -> None:
        key = (call.name, call.inode)
        inode = self._inodes.get(key)
        if inode is None:
            inode = self._inodes[key] = Inode()
            self._pending_names.append((call.name, inode))
        if call.kind in ("write", "truncate"):
            inode.pending.append(call)
        elif call.kind == "sync":
            inode.sync()
        elif call.kind == "lost":
            inode.pending.clear()
        elif call.kind == "delete":
            self._pending_names.append((call.name, None))
        if call.sync_folder:
            self._names = self._named(len(self._pending_names))
            self._pending_names.clear()

    def after_power_cut(self, chance: random.Random) -> Image:
        """One of the many; which, `chance` says."""
        fate = chance.choice([_lost, _kept, _kept_or_lost, _kept_lost_or_torn])
        named = self._named(chance.randint(0, len(self._pending_names)))
        return {name: inode.image(lambda call: fate(call, chance)) for name, inode in sorted(named.items())}

    def _named(self, n_pending: int) -> dict[str, Inode]:
        names = dict(self._names)
        for name, inode in self._pending_names[:n_pending]:
            if inode is None:
                names.pop(name, None)
            else:
                names[name] = inode
        return names


def _apply(content: bytearray, call: Call) -> None:
    if call.kind == "truncate":
        del content[call.offset :]
        return
    if len(content) < call.offset:
        content.extend(bytes(call.offset - len(content)))
    content[call.offset : call.offset + len(call.data)] = call.data


def _lost(call: Call, chance: random.Random) -> Iterator[Call]:
    yield from ()


def _kept(call: Call, chance: random.Random) -> Iterator[Call]:
    yield call


def _kept_or_lost(call: Call, chance: random.Random) -> Iterator[Call]:
    if chance.random() < 0.5:
        yield call


def _kept_lost_or_torn(call: Call, chance: random.Random) -> Iterator[Call]:
    if call.kind != "write" or chance.random() < 0.4:
        yield from _kept_or_lost(call, chance)
        return
    start, end = call.offset, call.offset + len(call.data)
    while start < end:
        edge = min(end, (start // SECTOR_BYTES + 1) * SECTOR_BYTES)
        if chance.random() < 0.5:
            part = call.data[start - call.offset : edge - call.offset]
            yield msgspec.structs.replace(call, offset=start, data=part)
        start = edge


# ── the log at work ──────────────────────────────────────────────────────────────────────────────────────────────


Events = list[tuple[Any, ...]]
"""(position, id, hash) of each event: two logs with the same ones hold the same."""


async def record(
    folder: Path,
    seed: int,
    recording: Recording | None = None,
    *,
    log_class: type[SqliteEventLog] = SqliteEventLog,
    n_runs: int = 12,
) -> tuple[Recording, Events]:
    """Let a log write a story in `folder`, over two openings, with a rebuild of the projections between.

    It ends early if the disk fails, as the daemon does. Returns what the disk saw, and all events there are.
    """
    recording, chance = recording or Recording(), random.Random(seed)
    changes = story(seed, n_runs)
    with watched(folder, recording), suppress(DiskError):
        for opening in range(2):
            log = await log_class.open(
                folder / FILE, clock=FakeClock(), ids=SeededIds(seed * 2 + opening), projections=all_projections()
            )
            try:
                if opening == 1:
                    await log.rebuild()
                await _tell(log, changes, len(changes) // (2 - opening), chance, recording)
            finally:
                await log.close()
    return recording, events_in(folder / FILE)


async def _tell(
    log: SqliteEventLog, changes: list[Change], n: int, chance: random.Random, recording: Recording
) -> None:
    """Append the first `n` changes, in batches as they come."""
    connection = log._connection
    # Otherwise a thousand pages would have to be written before the WAL is carried over.
    await log._in_writer(lambda: connection.execute("PRAGMA wal_autocheckpoint = 12").fetchall())
    while n > 0:
        n_together = min(n, chance.choice([1, 1, 1, 2, 3, 8]))
        await _append_together(log, changes[:n_together], recording)
        del changes[:n_together]
        n -= n_together


async def _append_together(log: SqliteEventLog, changes: Sequence[Change], recording: Recording) -> None:
    """Append `changes` in one batch, whatever the writer's thread is doing: the same seed makes the same calls."""

    async def told(append: asyncio.Future[Receipt]) -> None:
        recording.acknowledge((await append).recorded[-1].position)

    asked = threading.Event()
    waiting = asyncio.ensure_future(log._in_writer(asked.wait))
    await asyncio.sleep(0)  # from here on the writer waits
    appends = [log.append([change]) for change in changes]
    asked.set()
    await waiting
    for outcome in await asyncio.gather(*map(told, appends), return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome


def events_in(path: Path) -> Events:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        return connection.execute("SELECT position, id, hash FROM events ORDER BY position").fetchall()


# ── the verdict ──────────────────────────────────────────────────────────────────────────────────────────────────


class Judge:
    """Knows all events that were ever appended, and what the projections of a part of them look like."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._refolded: dict[int, list[Any]] = {}

    async def fault(self, folder: Path, owed: int) -> str | None:
        """What is wrong with the log in `folder`, None if nothing is. owed: the position that was acknowledged."""
        path = folder / FILE
        try:
            log = await SqliteEventLog.open(
                path, clock=FakeClock(), ids=SeededIds(10**6), projections=all_projections()
            )
        except CascadenceError as error:
            return f"the log does not open: {error}"
        try:
            return await self._fault_of(log, path, owed)
        except (CascadenceError, sqlite3.Error) as error:
            return f"the log cannot be read: {error}"
        finally:
            await log.close()

    async def _fault_of(self, log: SqliteEventLog, path: Path, owed: int) -> str | None:
        if log.position < owed:
            return f"events {log.position + 1} to {owed} were acknowledged and are gone"
        if events_in(path) != self._events[: log.position]:
            return "there are events that were never appended"
        await log.verify()
        (found,) = await log.tables.fetch("PRAGMA integrity_check(1)")
        if found != ("ok",):
            return f"the file is damaged: {found[0]}"
        with closing(sqlite3.connect(path)) as connection:
            tables = dump(connection, TABLES)
        if log.position not in self._refolded:
            await log.rebuild()
            with closing(sqlite3.connect(path)) as connection:
                self._refolded[log.position] = dump(connection, TABLES)
        if tables != self._refolded[log.position]:
            return f"the projections are not what the {log.position} events fold to"
        return None


class Found(msgspec.Struct, frozen=True):
    """A disk on which the log does not keep its word. n_calls: calls before the cut."""

    seed: int
    number: int
    n_calls: int
    fault: str

    def __str__(self) -> str:
        return f"seed {self.seed}, image {self.number}, power cut after {self.n_calls} calls: {self.fault}"


async def judged(recording: Recording, events: Events, seed: int, n_images: int, *, after: int = 0) -> list[Found]:
    """Cut the power `n_images` times, spread over the recording; what was found wrong, in the order of time.

    after: calls before the first cut.
    """
    judge, found = Judge(events), []
    for number, (n_calls, image) in enumerate(images(recording, seed, n_images, after=after)):
        with written(image) as folder:
            fault = await judge.fault(folder, recording.owed(n_calls))
        if fault is not None:
            found.append(Found(seed, number, n_calls, fault))
    return found


def images(recording: Recording, seed: int, n_images: int, *, after: int = 0) -> Iterator[tuple[int, Image]]:
    """(calls before the cut, what the disk holds), in the order of time. The arguments are those of `judged`."""
    disk, fed = Disk(), 0
    for number in range(n_images):
        n_calls = after + number * (len(recording.calls) + 1 - after) // n_images
        while fed < n_calls:
            disk.feed(recording.calls[fed])
            fed += 1
        yield n_calls, disk.after_power_cut(random.Random(f"{seed}:{number}"))


@contextmanager
def written(image: Image) -> Iterator[Path]:
    """The image as files, in memory where the machine has such a place: they are synced many times."""
    memory = "/dev/shm"
    folder = Path(tempfile.mkdtemp(prefix="power-", dir=memory if os.access(memory, os.W_OK) else None))
    try:
        for name, content in image.items():
            (folder / name).write_bytes(content)
        yield folder
    finally:
        shutil.rmtree(folder)
