"""Failing disks: at every single write and sync of the log, what it tells its callers is true."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cascadenced.errors import DiskError, DiskFull, Unavailable
from cascadenced.eventlog import sqlite
from cascadenced.eventlog.reader import Reader
from cascadenced.eventlog.sqlite import SqliteEventLog
from tests.crash.disk import watched, why_not
from tests.crash.faults import FaultyDisk, Life, Way, live
from tests.crash.power import FILE, Judge, events_in
from tests.projections.stories import story

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))

CHANGES = story(1, 4)


async def n_calls(way: Way) -> int:
    with a_folder() as folder:
        disk = FaultyDisk(way, 0)
        life = await live(folder, disk, CHANGES)
    assert life.errors == []
    return disk.n_calls


@contextlib.contextmanager
def a_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="faults-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


async def left_behind(folder: Path, life: Life) -> tuple[int, str | None]:
    """Opened again on a healthy disk: (events beyond those that were acknowledged, what is wrong)."""
    events = events_in(folder / FILE) if life.opened else []
    if events[: len(life.recorded)] != life.recorded:
        return 0, "what was acknowledged is not there"
    return len(events) - len(life.recorded), await Judge(events).fault(folder, len(life.recorded))


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_an_io_error_at_any_call_is_told_and_nothing_is_acknowledged_after_it() -> None:
    n = await n_calls("broken")
    assert n > 300
    for at in range(1, n + 1):
        disk = FaultyDisk("broken", at)
        with a_folder() as folder:
            life = await live(folder, disk, CHANGES)
            n_more, fault = await left_behind(folder, life)
        assert disk.failed is not None
        where = f"{disk.failed.kind} of {disk.failed.name}, call {at}"
        assert fault is None, where
        assert life.after_broken == [], where
        assert not life.met(DiskFull), where
        if not life.opened:
            assert life.met(DiskError), where
        elif life.met(DiskError):
            assert [type(error) for error in life.fatal] == [DiskError], where
            assert "I/O error" in str(life.read_only[1]), where
            assert n_more <= max(len(change.events) for change in CHANGES), where
        else:
            # Carrying the WAL over, or closing: the WAL still has everything, and it is tried again.
            assert (len(life.recorded), n_more) == (sum(len(c.events) for c in CHANGES), 0), where


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_a_disk_that_is_full_from_any_call_on_is_told_and_everything_is_recorded_once_there_is_space() -> None:
    n = await n_calls("full")
    assert n > 250
    for at in range(1, n + 1):
        disk = FaultyDisk("full", at)
        with a_folder() as folder:
            life = await live(folder, disk, CHANGES)
            n_more, fault = await left_behind(folder, life)
        assert disk.failed is not None
        where = f"{disk.failed.kind} of {disk.failed.name}, call {at}"
        assert fault is None, where
        assert {type(error) for error in life.errors} <= {DiskFull}, where
        assert (len(life.recorded), n_more) == (sum(len(c.events) for c in CHANGES), 0), where
        assert life.fatal == [], where
        assert life.read_only[1] is None, where


async def test_a_log_on_a_full_disk_says_so_until_there_is_space() -> None:
    reasons = set[str | None]()
    for at in range(60, 120, 5):  # some of these calls are made by the opening, others by appends
        with a_folder() as folder:
            life = await live(folder, FaultyDisk("full", at, file="log.db-wal"), CHANGES)
        assert [type(error) for error in life.errors] == [DiskFull, DiskFull]
        assert life.read_only[1] is None
        reasons.add(life.read_only[0])
    assert any("no space left" in str(reason) for reason in reasons)


class Optimist(SqliteEventLog):
    """Takes a failed commit for a good one."""

    def _write_batch(self, batch):  # type: ignore[no-untyped-def]
        with contextlib.suppress(Exception):
            super()._write_batch(batch)


async def test_a_log_that_acknowledges_what_it_could_not_write_is_found_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tests.crash.faults.SqliteEventLog", Optimist)
    found = set()
    for at in range(60, 120, 5):  # some of these calls are made by the opening, others by appends
        with a_folder() as folder:
            life = await live(folder, FaultyDisk("broken", at, file="log.db-wal"), CHANGES)
            found.add((await left_behind(folder, life))[1])
    assert "what was acknowledged is not there" in found


async def test_a_database_that_cannot_take_over_the_wal_any_more_stops_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite carries the WAL over after commits, and tells nobody when it cannot: the WAL would grow for ever."""
    monkeypatch.setattr(sqlite, "WAL_GROWTH_BYTES", 100_000)
    life = await live(tmp_path, FaultyDisk("worn", 3, file="log.db"), story(1, 20))
    assert [type(error) for error in life.fatal] == [DiskError]
    assert life.met(DiskError)
    assert life.after_broken == []
    assert (await left_behind(tmp_path, life)) == (0, None)


# ── opening and reading ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
async def written(tmp_path: Path) -> Path:
    await live(tmp_path, FaultyDisk("full", 0), CHANGES)
    return tmp_path


async def test_a_log_that_cannot_be_opened_because_the_disk_is_full_says_so(written: Path) -> None:
    life = await live(written, FaultyDisk("full", 1), [])
    assert [type(error) for error in life.errors] == [DiskFull, DiskFull]
    assert life.opened


async def test_a_reader_on_a_full_disk_is_told_what_to_do(written: Path) -> None:
    with watched(written, FaultyDisk("full", 1)), pytest.raises(Unavailable, match=r"the disk is full.*free some"):
        await Reader.open(written / FILE)
