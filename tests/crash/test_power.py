"""Power cuts: the log keeps what it acknowledged, and the harness finds logs that do not."""

from __future__ import annotations

import random
import threading

import msgspec
import pytest

from cascadenced.eventlog import database
from cascadenced.eventlog.sequence import Batch
from cascadenced.eventlog.sqlite import SqliteEventLog
from tests.crash.disk import Call, why_not
from tests.crash.power import Disk, judged, record

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))

N_IMAGES = 1_000
"""A cut at most calls of a recording; `make crash POWER=…` takes as many as one likes."""


# ── what a disk may hold ─────────────────────────────────────────────────────────────────────────────────────────


def disk_after(*calls):
    disk = Disk()
    for call in calls:
        disk.feed(call)
    return disk


def images_of(disk, n=200):
    return [disk.after_power_cut(random.Random(n)) for n in range(n)]


def write(offset, data, name="f"):
    return Call("write", name, 0, offset, data)


SYNC = Call("sync", "f", 0, sync_folder=True)


def test_what_was_synced_is_in_every_image():
    assert images_of(disk_after(write(0, b"one"), SYNC)) == [{"f": b"one"}] * 200


def test_what_was_not_synced_is_in_some_images_and_not_in_others():
    contents = {image["f"] for image in images_of(disk_after(write(0, b"one"), SYNC, write(0, b"two")))}
    assert contents == {b"one", b"two"}


def test_a_later_write_may_be_there_without_an_earlier_one():
    contents = {image["f"] for image in images_of(disk_after(write(0, b"--"), SYNC, write(0, b"a"), write(1, b"b")))}
    assert contents == {b"--", b"a-", b"-b", b"ab"}


def test_a_write_is_torn_at_the_edges_of_sectors_only():
    contents = {image["f"] for image in images_of(disk_after(write(0, b"." * 1024), SYNC, write(500, b"x" * 524)))}
    assert contents == {
        b"." * 1024,
        b"." * 500 + b"x" * 524,
        b"." * 500 + b"x" * 12 + b"." * 512,
        b"." * 512 + b"x" * 512,
    }


def test_a_name_may_be_missing_until_its_folder_is_synced():
    names = {tuple(image) for image in images_of(disk_after(write(0, b"one"), Call("sync", "f", 0)))}
    assert names == {(), ("f",)}


def test_a_file_that_was_deleted_may_come_back_until_its_folder_is_synced():
    gone = Call("delete", "f", 0)
    assert {tuple(image) for image in images_of(disk_after(write(0, b"one"), SYNC, gone))} == {(), ("f",)}
    synced = Call("delete", "f", 0, sync_folder=True)
    assert {tuple(image) for image in images_of(disk_after(write(0, b"one"), SYNC, synced))} == {()}


# ── the log ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_recording_covers_commits_checkpoints_and_two_openings(tmp_path):
    recording, events = await record(tmp_path, 1)
    kinds = {(call.kind, call.name) for call in recording.calls}
    assert kinds >= {("sync", "log.db-wal"), ("sync", "log.db"), ("write", "log.db"), ("delete", "log.db-wal")}
    restarts = [call for call in recording.calls if call.name == "log.db-wal" and call.offset == 0 and call.data]
    assert len(restarts) > 4
    assert recording.acknowledged[-1][1] == len(events) > 100


async def test_the_same_seed_makes_the_same_calls(tmp_path):
    shapes = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        recording, events = await record(tmp_path / name, 3)
        calls = [(call.kind, call.name, call.inode, call.offset, len(call.data)) for call in recording.calls]
        shapes.append((calls, recording.acknowledged, events))
    assert shapes[0] == shapes[1]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
async def test_no_power_cut_takes_an_acknowledged_event_or_leaves_a_log_that_is_not_whole(tmp_path, seed):
    recording, events = await record(tmp_path, seed)
    assert await judged(recording, events, seed, N_IMAGES) == []


# ── and the harness is no rubber stamp ───────────────────────────────────────────────────────────────────────────


async def test_a_log_without_full_sync_is_found_out(tmp_path, monkeypatch):
    real = database._set_pragmas

    def careless(connection, path):
        real(connection, path)
        connection.execute("PRAGMA synchronous = NORMAL")

    monkeypatch.setattr(database, "_set_pragmas", careless)
    recording, events = await record(tmp_path, 1)
    monkeypatch.undo()
    assert any("acknowledged and are gone" in found.fault for found in await judged(recording, events, 1, 200))


class Hasty(SqliteEventLog):
    """Tells its callers before it commits."""

    def _commit(self, waiting):
        batch = self._tail.sequence(waiting, self._heads_of, self._positions_of)
        heard = threading.Event()

        def tell():
            self._committed(batch)
            self._loop.call_soon(self._loop.call_soon, heard.set)  # after the callers

        self._tell(tell)
        heard.wait(10)
        self._write_batch(batch)
        self._tail.advance(batch)


async def test_an_acknowledgement_before_the_commit_is_found_out(tmp_path):
    recording, events = await record(tmp_path, 1, log_class=Hasty)
    assert any("acknowledged and are gone" in found.fault for found in await judged(recording, events, 1, 200))


class TwoSteps(SqliteEventLog):
    """Folds its projections in a transaction of their own."""

    def _write_batch(self, batch):
        fold, self._folding.fold = self._folding.fold, lambda recorded: None
        super()._write_batch(Batch(batch.recorded, batch.rows, [], batch.opened, batch.closed, batch.heads, batch.hash))
        self._folding.fold = fold
        with self._transaction():
            fold(batch.recorded)


async def test_projections_that_are_not_committed_with_their_events_are_found_out(tmp_path):
    recording, events = await record(tmp_path, 1, log_class=TwoSteps)
    assert any("projections" in found.fault for found in await judged(recording, events, 1, 200))


async def test_a_log_that_loses_writes_of_a_checkpoint_is_found_out(tmp_path):
    """A disk that says `synced` and is not: here, whenever the WAL is carried over into the database."""
    recording, events = await record(tmp_path, 1)
    recording.calls = [
        msgspec.structs.replace(call, kind="create") if (call.kind, call.name) == ("sync", "log.db") else call
        for call in recording.calls
    ]
    assert await judged(recording, events, 1, 200)
