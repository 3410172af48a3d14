"""A disk that fails at its n-th write or sync, and a log that must live with it.

`broken`: that one call fails with an I/O error, and later ones succeed, as they do when the kernel has dropped what it
could not write: a log that tried again would not notice. `worn`: it fails so from that call on. `full`: from that call
on nothing fits, until there is space again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

from cascadenced.clock import FakeClock
from cascadenced.errors import CascadenceError, DiskError, DiskFull
from cascadenced.eventlog.base import Change
from cascadenced.eventlog.sqlite import SqliteEventLog
from cascadenced.ids import SeededIds
from cascadenced.projections import all_projections
from tests.crash.disk import (
    IOERR_FSYNC,
    IOERR_SHMSIZE,
    IOERR_TRUNCATE,
    IOERR_WRITE,
    SQLITE_FULL,
    SQLITE_OK,
    Call,
    Kind,
    watched,
)
from tests.crash.power import FILE, Events

Way = Literal["broken", "worn", "full"]

_IO_ERRORS: dict[Kind, int] = {"write": IOERR_WRITE, "sync": IOERR_FSYNC, "truncate": IOERR_TRUNCATE}
_CODES: dict[Way, dict[Kind, int]] = {
    "broken": _IO_ERRORS,
    "worn": _IO_ERRORS,
    # A sync that finds no space is an I/O error to SQLite: what was written before may be lost.
    "full": {"write": SQLITE_FULL, "grow_shm": IOERR_SHMSIZE},
}


class FaultyDisk:
    """A `Watcher`. at: which call fails, from 1, counted over those that this way of failing knows; 0: none.

    file: only calls for the file of this name; None: for the log's database and what lies beside it.
    """

    def __init__(self, way: Way, at: int, file: str | None = None) -> None:
        self._codes, self._at, self._file = _CODES[way], at, file
        self._lasting = way != "broken"
        self.n_calls = 0
        self.failed: Call | None = None
        """The first call that failed."""

    def heal(self) -> None:
        self._at = 0

    def refuse(self, call: Call) -> int:
        if call.kind not in self._codes or not (
            call.name.startswith(FILE) if self._file is None else call.name == self._file
        ):
            return SQLITE_OK
        self.n_calls += 1
        if self._at and (self.n_calls == self._at or (self._lasting and self.n_calls > self._at)):
            self.failed = self.failed or call
            return self._codes[call.kind]
        return SQLITE_OK

    def done(self, call: Call) -> None:
        pass


class SwitchedDisk:
    """A `Watcher`: while the file `switch` exists, every call that this way of failing knows fails.

    files: what the names of the files begin with that it concerns.
    """

    def __init__(self, way: Way, switch: Path, files: str) -> None:
        self._codes, self._switch, self._files = _CODES[way], switch, files

    def refuse(self, call: Call) -> int:
        if call.name.startswith(self._files) and self._switch.exists():
            return self._codes.get(call.kind, SQLITE_OK)
        return SQLITE_OK

    def done(self, call: Call) -> None:
        pass


class Life(msgspec.Struct):
    """What a log did on a faulty disk. recorded: what callers were told is recorded.

    opened: whether it came as far as that.  errors: what callers were told instead, in order.
    after_broken: recorded after a caller had been told of an I/O error.  fatal: what the log's owner was told.
    read_only: what the log said of itself after the first error, and at the end.
    """

    opened: bool = False
    recorded: Events = []
    after_broken: Events = []
    errors: list[CascadenceError] = []
    fatal: list[CascadenceError] = []
    read_only: tuple[str | None, str | None] = (None, None)

    def met(self, *kinds: type[CascadenceError]) -> bool:
        return any(isinstance(error, kinds) for error in self.errors)


MAX_FULL = 2
"""How many callers hear of a full disk before there is space again."""


async def live(folder: Path, disk: FaultyDisk, changes: Sequence[Change]) -> Life:
    """Let a log append `changes`, one after the other, each until it is recorded or the log is broken."""
    life = Life()
    with watched(folder, disk):
        log = await _opened(folder, disk, life)
        if log is None:
            return life
        life.opened = True
        connection = log._connection
        # Otherwise a thousand pages would have to be written before the WAL is carried over.
        await log._in_writer(lambda: connection.execute("PRAGMA wal_autocheckpoint = 12").fetchall())
        for change in changes:
            while not life.met(DiskError) and not await _append(log, change, life):
                _count(life, disk)
        if life.met(DiskError):
            await _append(log, changes[-1], life)  # whoever comes later hears of it, too
        life.read_only = (life.read_only[0], log.read_only)
        await log.close()
    return life


async def _opened(folder: Path, disk: FaultyDisk, life: Life) -> SqliteEventLog | None:
    """The log; None if it cannot be opened for anything but lack of space."""
    while True:
        try:
            return await SqliteEventLog.open(
                folder / FILE,
                clock=FakeClock(),
                ids=SeededIds(),
                projections=all_projections(),
                on_fatal=life.fatal.append,
            )
        except CascadenceError as error:
            life.errors.append(error)
            if not isinstance(error, DiskFull):
                return None
            _count(life, disk)


async def _append(log: SqliteEventLog, change: Change, life: Life) -> bool:
    """Whether it was recorded."""
    try:
        receipt = await asyncio.wait_for(log.append([change]), 10)
    except CascadenceError as error:
        if life.read_only[0] is None:
            life.read_only = (log.read_only, None)
        life.errors.append(error)
        return False
    told = [(event.position, event.id, event.hash) for event in receipt.recorded]
    life.recorded += told
    if life.met(DiskError):
        life.after_broken += told
    return True


def _count(life: Life, disk: FaultyDisk) -> None:
    if len(life.errors) >= MAX_FULL:
        disk.heal()
