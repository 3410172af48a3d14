"""A database that is copied while others write to it."""

from __future__ import annotations

import os
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest

from cascadenced.errors import BackupDamaged, ConfigError, DiskError, LogCorrupt, Unknown
from cascadenced.eventlog.copying import check_log, copy_database, epoch_of, raise_epoch
from tests.eventlog.words import said


def nothing() -> None:
    """Nobody else is there."""


@pytest.fixture
def busy(tmp_path: Path):
    """A database of several megabytes, and a connection that writes to it."""
    with closing(sqlite3.connect(tmp_path / "busy.db", isolation_level=None)) as writer:
        writer.execute("PRAGMA journal_mode = WAL").fetchall()
        writer.execute("CREATE TABLE t (n INTEGER PRIMARY KEY, text TEXT)")
        writer.execute("BEGIN")
        writer.executemany("INSERT INTO t (text) VALUES (?)", [("x" * 1000,)] * 5000)
        writer.execute("COMMIT")
        yield tmp_path / "busy.db", writer


def test_a_commit_at_every_step_neither_waits_nor_makes_the_copy_begin_again(busy, tmp_path: Path) -> None:
    path, writer = busy
    n_steps = 0

    def commit() -> None:
        nonlocal n_steps
        n_steps += 1
        assert n_steps < 100, "it does not end"
        writer.execute("UPDATE t SET text = 'changed' WHERE n % 7 = 0")
        writer.execute("INSERT INTO t (text) VALUES ('late')")

    copy_database(path, tmp_path / "copy.db", commit)
    assert n_steps > 3
    with closing(sqlite3.connect(tmp_path / "copy.db")) as copy:
        assert copy.execute("SELECT count(*), min(text), max(text) FROM t").fetchone() == (5000, "x" * 1000, "x" * 1000)
        assert copy.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_copy_is_one_file_for_its_owner_that_is_read_from_a_folder_nobody_may_write(busy, tmp_path: Path) -> None:
    path, _ = busy
    folder = tmp_path / "media"
    folder.mkdir()
    copy_database(path, folder / "copy.db", nothing)
    assert [entry.name for entry in folder.iterdir()] == ["copy.db"]
    assert stat.S_IMODE((folder / "copy.db").stat().st_mode) == 0o600
    with closing(sqlite3.connect(folder / "copy.db")) as copy:
        assert copy.execute("PRAGMA journal_mode").fetchone() == ("delete",)


def test_what_a_pause_raises_ends_the_copying(busy, tmp_path: Path) -> None:
    def give_up() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        copy_database(busy[0], tmp_path / "copy.db", give_up)


def test_what_cannot_be_copied_is_told(busy, tmp_path: Path) -> None:
    with pytest.raises(Unknown, match="there is no"):
        copy_database(tmp_path / "nothing.db", tmp_path / "copy.db", nothing)
    (tmp_path / "taken.db").touch()
    with pytest.raises(ConfigError, match="is there already"):
        copy_database(busy[0], tmp_path / "taken.db", nothing)
    (tmp_path / "text.db").write_text("no database at all" * 1000)
    with pytest.raises(DiskError, match=r"text\.db cannot be read"):
        copy_database(tmp_path / "text.db", tmp_path / "copy.db", nothing)


# ── a log that lies still ────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
async def still(file_store, tmp_path: Path) -> Path:
    """A copy of a log with three events."""
    log = await file_store.open(instance_id="instance-1")
    for text in ("one", "two", "three"):
        await log.append([said("a", text)])
    copy_database(file_store.path, tmp_path / "copy.db", nothing)
    return tmp_path / "copy.db"


async def test_a_good_log_is_checked_and_its_end_told(still: Path) -> None:
    before = still.read_bytes()
    end = check_log(still)
    assert (end.position, end.epoch, end.instance_id, len(end.hash)) == (3, 1, "instance-1", 64)
    assert still.read_bytes() == before


async def test_an_event_that_was_changed_is_named(still: Path) -> None:
    with closing(sqlite3.connect(still, isolation_level=None)) as connection:
        connection.execute("DROP TRIGGER events_are_not_changed")
        connection.execute("UPDATE events SET type = 'x' WHERE position = 2")
    with pytest.raises(LogCorrupt, match="event 2"):
        check_log(still)


async def test_a_torn_page_another_database_and_half_a_file_are_damage(still: Path, tmp_path: Path) -> None:
    whole = still.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:4096] + os.urandom(4096) + whole[8192:], b"", b"text" * 5000):
        still.write_bytes(content)
        with pytest.raises(BackupDamaged):
            check_log(still)
    with closing(sqlite3.connect(tmp_path / "other.db")) as other:
        other.execute("CREATE TABLE groceries (name)")
    with pytest.raises(BackupDamaged, match="not an event log"):
        check_log(tmp_path / "other.db")


async def test_an_epoch_is_raised_in_the_file(still: Path) -> None:
    raise_epoch(still, 7)
    assert epoch_of(still) == check_log(still).epoch == 7
    assert epoch_of(still.with_name("none.db")) == 0
