"""Power cuts: the log keeps what it acknowledged, and the harness finds logs that do not."""

from __future__ import annotations

import itertools
import random
import shutil
import sqlite3
import threading
from contextlib import closing

import msgspec
import pytest

from cascadenced import vault_file
from cascadenced.config import Config
from cascadenced.errors import Unknown
from cascadenced.eventlog import database
from cascadenced.eventlog.sqlite import SqliteEventLog
from cascadenced.handlers.run_requests import Origin
from cascadenced.identity import Identity
from cascadenced.instance import open_instance
from cascadenced.plugins.discover import collect
from cascadenced.vault import Vault
from tests.crash.disk import Call, watched, why_not
from tests.crash.power import Disk, FailingSync, Judge, Recording, events_in, images, judged, record, written

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))

N_IMAGES = 700
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


def test_what_a_failed_sync_was_for_is_gone_though_the_next_one_succeeds():
    lost = Call("lost", "f", 0)
    assert images_of(disk_after(write(0, b"one"), SYNC, write(0, b"two"), lost, SYNC)) == [{"f": b"one"}] * 200


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


@pytest.mark.slow
async def test_no_sync_that_fails_takes_an_acknowledged_event(tmp_path):
    """Not even if what could not be written is gone for good, and the next sync says that all is well."""
    n_syncs = 0
    for n in itertools.count(1):
        folder = tmp_path / str(n)
        folder.mkdir()
        recording = FailingSync(n)
        try:
            _, events = await record(folder, 1, recording, n_runs=4)
        except sqlite3.Error:  # it did not come as far as a table of events
            events = []
        if recording.failed_after is None:
            break
        n_syncs = n
        assert await judged(recording, events, n, 8, after=recording.failed_after + 1) == []
    assert n_syncs > 30


# ── the log and the vault ────────────────────────────────────────────────────────────────────────────────────────


class Quick:
    """Ends at once."""

    name = "quick"

    async def run(self) -> str:
        return "done"


async def requested(folder, recording):
    """Runs of many users, asked for in an instance on `folder`; returns all events there are."""
    config = Config(data_dir=str(folder))
    with watched(folder, recording):
        async with open_instance(config, who="test", catalogue=collect([("test:Quick", Quick)])) as instance:
            for n in range(40):
                user = Identity(f"user {n}", f"group {n}")
                accepted = await instance.requests.run("quick", user, {}, Origin(via="cli"))
                recording.acknowledge(instance.log.position)
                if n % 3 == 0:
                    await instance.runs.ended(accepted.run_id)
    return events_in(folder / "log.db")


async def nobody(image, folder):
    """Runs in the image of which the vault does not know whose they are."""
    for name in ("vault.key", "hash.secret"):
        shutil.copy(folder / name, image / name)
    with closing(sqlite3.connect(image / "log.db")) as connection:
        asked = connection.execute("SELECT user_hash, group_hash FROM events WHERE type = 'run.requested'").fetchall()
    vault = await Vault.open(image / "vault.db", image / "vault.key")
    unknown = []
    for hashes in asked:
        try:
            await vault.reveal(*hashes)
        except Unknown:
            unknown.append(hashes)
    await vault.close()
    return len(asked), unknown


async def nobodies(folder, recording, events, n_images):
    """Over many power cuts: (runs that were looked at, those of which nobody is known)."""
    judge, n_asked, unknown = Judge(events), 0, []
    for n_calls, image in images(recording, 1, n_images):
        with written(image) as cut:
            assert await judge.fault(cut, recording.owed(n_calls)) is None
            n, some = await nobody(cut, folder)
            n_asked += n
            unknown += some
    return n_asked, unknown


@pytest.mark.slow
async def test_after_a_power_cut_the_vault_knows_everybody_the_log_speaks_of(tmp_path):
    events = await requested(tmp_path, recording := Recording())
    n_asked, unknown = await nobodies(tmp_path, recording, events, 200)
    assert n_asked > 1_000
    assert unknown == []


@pytest.mark.slow
async def test_a_vault_without_full_sync_is_found_out(tmp_path, monkeypatch):
    real = vault_file._connect

    def careless(path):
        connection = real(path)
        connection.execute("PRAGMA synchronous = NORMAL")
        return connection

    monkeypatch.setattr(vault_file, "_connect", careless)
    events = await requested(tmp_path, recording := Recording())
    monkeypatch.undo()
    assert (await nobodies(tmp_path, recording, events, 100))[1]


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
        super()._write_batch(batch)
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
