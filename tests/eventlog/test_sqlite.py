"""What only the real log can promise: durability, full disks, group commit, and projections under savepoints."""

from __future__ import annotations

import asyncio
import sqlite3
import stat
import subprocess
import sys
import threading
from contextlib import closing

import pytest

from cascadenced.clock import FakeClock
from cascadenced.errors import ConfigError, DiskError, DiskFull, LogCorrupt, Unavailable
from cascadenced.eventlog import sequence, sqlite
from cascadenced.eventlog.base import Change
from cascadenced.eventlog.intake import Job
from cascadenced.eventlog.sqlite import SqliteEventLog
from cascadenced.events.idea import IdeaRecorded
from cascadenced.events.run import RunRequested
from cascadenced.ids import SeededIds
from tests.eventlog.words import Words, everything, said, texts, words_in
from tests.examples import example


def raw(store, sql, *parameters):
    """What another program sees in the file."""
    with closing(sqlite3.connect(store.path)) as connection:
        return connection.execute(sql, parameters).fetchall()


def statements_of(log):
    """Everything the writer's connection executes from now on."""
    seen = []
    log._connection.set_trace_callback(seen.append)
    return seen


# ── the file ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_file_can_be_read_by_its_owner_only(file_store):
    await file_store.open()
    assert stat.S_IMODE(file_store.path.stat().st_mode) == 0o600


async def test_the_files_beside_it_can_be_read_by_its_owner_only(file_store):
    log = await file_store.open()
    await log.append([said("a", "one")])
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in file_store.path.parent.iterdir()}
    assert modes == {"log.db": 0o600, "log.db-wal": 0o600, "log.db-shm": 0o600}


async def test_the_pragmas_our_promises_rest_on_are_in_force(file_store):
    log = await file_store.open()
    asked = ("journal_mode", "synchronous", "fullfsync", "foreign_keys", "trusted_schema", "application_id")
    values = [log._connection.execute(f"PRAGMA {name}").fetchone()[0] for name in asked]
    assert values == ["wal", 2, 1, 1, 0, 0x43415343]


async def test_events_cannot_be_changed_by_hand(file_store):
    log = await file_store.open()
    await log.append([said("a", "one")])
    with pytest.raises(sqlite3.IntegrityError, match="never changed"):
        raw(file_store, "UPDATE events SET data = x'00'")


async def test_events_cannot_be_deleted_by_hand(file_store):
    log = await file_store.open()
    await log.append([said("a", "one")])
    with pytest.raises(sqlite3.IntegrityError, match="never deleted"):
        raw(file_store, "DELETE FROM events")


async def test_after_closing_only_the_database_file_is_left(file_store):
    log = await file_store.open()
    await log.append([said("a", "one")])
    await log.close()
    assert [path.name for path in file_store.path.parent.iterdir()] == ["log.db"]


async def test_closing_does_not_wait_for_other_readers(file_store):
    log = await file_store.open()
    await log.append([said("a", "one")])
    with closing(sqlite3.connect(f"file:{file_store.path}?mode=ro", uri=True)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM events").fetchall()
        log.append([said("a", "two")])
        await asyncio.wait_for(log.close(), 5)
    assert raw(file_store, "SELECT count(*) FROM events") == [(2,)]


async def test_an_anchor_is_random(tmp_path, clock):
    anchors = set()
    for name in ("one", "two"):
        log = await SqliteEventLog.open(tmp_path / name, clock=clock, ids=SeededIds(len(anchors)))
        anchors.add(log._connection.execute("SELECT hash FROM anchor").fetchone()[0])
        await log.close()
    assert {len(anchor) for anchor in anchors} == {32}
    assert len(anchors) == 2


# ── group commit ─────────────────────────────────────────────────────────────────────────────────────────────────


async def test_what_is_appended_in_one_turn_of_the_loop_is_one_commit(file_store):
    log = await file_store.open()
    seen = statements_of(log)
    await asyncio.gather(*(log.append([said("a", str(n))]) for n in range(512)))
    assert seen.count("COMMIT") == 1
    assert sum(statement.startswith("INSERT INTO events") for statement in seen) == 1


async def test_what_gathers_while_the_writer_is_busy_is_one_commit(file_store):
    log = await file_store.open()
    seen, go_on = statements_of(log), threading.Event()
    busy = asyncio.ensure_future(log._in_writer(go_on.wait))
    await asyncio.sleep(0)
    appends = []
    for n in range(50):
        appends.append(log.append([said("a", str(n))]))
        await asyncio.sleep(0)
    go_on.set()
    await asyncio.gather(busy, *appends)
    assert seen.count("COMMIT") == 1


async def test_a_batch_is_bounded(file_store, monkeypatch):
    monkeypatch.setattr(sqlite, "MAX_BATCH_EVENTS", 10)
    log = await file_store.open()
    batches = []
    log.observe(batches.append)
    await asyncio.gather(*(log.append([said("a", "x", "y")]) for _ in range(50)))
    assert max(map(len, batches)) <= 10


async def test_an_append_larger_than_a_batch_is_still_all_or_nothing(file_store, monkeypatch):
    monkeypatch.setattr(sqlite, "MAX_BATCH_EVENTS", 10)
    log = await file_store.open()
    batches = []
    log.observe(batches.append)
    await log.append([said("a", *map(str, range(25)))])
    assert list(map(len, batches)) == [25]


async def test_a_batch_of_duplicates_and_clashes_alone_writes_nothing(file_store):
    log = await file_store.open()
    await log.append([said("a", "one")], source="bus:1")
    seen = statements_of(log)
    await asyncio.gather(
        log.append([said("a", "one")], source="bus:1"), log.append([said("a", "x", expected=7)]), return_exceptions=True
    )
    assert not [statement for statement in seen if statement.startswith(("BEGIN", "INSERT", "COMMIT"))]


async def test_a_caller_is_resumed_only_when_others_can_read_its_events(file_store):
    log = await file_store.open()
    for n in range(20):
        receipt = await log.append([said("a", str(n))])
        assert raw(file_store, "SELECT max(position) FROM events") == [(receipt.recorded[-1].position,)]


async def test_a_caller_waits_for_the_commit(file_store):
    """Its transaction is held up before COMMIT; nobody is told until it goes on."""
    reached, go_on = threading.Event(), threading.Event()

    class Holding(Words):
        def before(self, connection, text):
            reached.set()
            go_on.wait(5)

    log = await file_store.open(projections=[Holding()])
    append = log.append([said("a", "one")])
    await asyncio.to_thread(reached.wait, 5)
    assert raw(file_store, "SELECT count(*) FROM events") == [(0,)]
    assert not append.done()
    go_on.set()
    await append
    assert raw(file_store, "SELECT count(*) FROM events") == [(1,)]


async def test_cancelled_callers_leave_events_without_gaps(file_store):
    log = await file_store.open()
    appends = [log.append([said("a", str(n))]) for n in range(100)]
    for append in appends[::2]:
        append.cancel()
    await asyncio.gather(*appends, return_exceptions=True)
    await log.append([said("a", "last")])
    assert [event.position for event in await everything(log)] == list(range(1, 102))


# ── checkpoints ──────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_checkpoint_rides_in_the_next_commit(file_store):
    log = await file_store.open()
    log.set_checkpoint("outbox", 7)
    assert raw(file_store, "SELECT position FROM checkpoints WHERE name = 'outbox'") == []
    await log.append([said("a", "one")])
    assert raw(file_store, "SELECT position FROM checkpoints WHERE name = 'outbox'") == [(7,)]


async def test_a_checkpoint_that_did_not_move_is_not_written_again(file_store):
    log = await file_store.open()
    log.set_checkpoint("outbox", 7)
    await log.append([said("a", "one")])
    log.set_checkpoint("outbox", 7)
    seen = statements_of(log)
    await log.append([said("a", "two")])
    assert not [statement for statement in seen if "checkpoints" in statement]


async def test_a_checkpoint_set_while_a_commit_runs_is_saved_by_the_next(file_store):
    reached, go_on = threading.Event(), threading.Event()

    class Holding(Words):
        def before(self, connection, text):
            if text == "hold":
                reached.set()
                go_on.wait(5)

    log = await file_store.open(projections=[Holding()])
    append = log.append([said("a", "hold")])
    await asyncio.to_thread(reached.wait, 5)
    log.set_checkpoint("outbox", 7)
    go_on.set()
    await append
    await log.append([said("a", "next")])
    assert raw(file_store, "SELECT position FROM checkpoints WHERE name = 'outbox'") == [(7,)]


async def test_a_checkpoint_whose_commit_failed_is_saved_in_the_end(file_store):
    log = await file_store.open()
    log._connection = Failing(log._connection, io_error("database or disk is full", sqlite3.SQLITE_FULL))
    log.set_checkpoint("outbox", 7)
    with pytest.raises(DiskFull):
        await log.append([said("a", "x")])
    assert await log.checkpoint("outbox") == 7
    await log.append([said("a", "y")])
    assert raw(file_store, "SELECT position FROM checkpoints WHERE name = 'outbox'") == [(7,)]


# ── a full disk, a broken one ────────────────────────────────────────────────────────────────────────────────────


class FullDisk:
    """While it lasts, the database may not grow."""

    def __init__(self, log):
        self.log = log

    async def set(self, pages):
        await self.log._in_writer(
            lambda: self.log._connection.execute(
                f"PRAGMA max_page_count = {pages or self.log._connection.execute('PRAGMA page_count').fetchone()[0]}"
            ).fetchall()
        )

    async def __aenter__(self):
        await self.set(None)

    async def __aexit__(self, *_):
        await self.set(1_000_000)


BIG = "x" * 50_000


async def test_callers_on_a_full_disk_hear_so(file_store):
    log = await file_store.open()
    async with FullDisk(log):
        with pytest.raises(DiskFull, match="no space"):
            await log.append([said("a", BIG)])


async def test_a_full_log_says_why_nothing_can_be_written_until_it_can(file_store):
    log = await file_store.open()
    async with FullDisk(log):
        with pytest.raises(DiskFull):
            await log.append([said("a", BIG)])
        assert "no space left" in log.read_only
    await log.append([said("a", BIG)])
    assert log.read_only is None


async def test_a_duplicate_is_answered_on_a_full_disk_and_does_not_make_it_writable(file_store):
    log = await file_store.open()
    await log.append([said("a", "one")], source="bus:1")
    async with FullDisk(log):
        with pytest.raises(DiskFull):
            await log.append([said("a", BIG)])
        assert (await log.append([said("a", "one")], source="bus:1")).duplicate_of == 1
        assert log.read_only is not None


async def test_a_full_disk_leaves_nothing_half_written(file_store):
    log = await file_store.open(projections=[Words()])
    await log.append([said("a", "before")])
    async with FullDisk(log):
        with pytest.raises(DiskFull):
            await log.append([said("a", "small"), Change("run-1", [example(RunRequested)]), said("a", BIG)])
    await log.append([said("a", "after", expected=1)])
    assert texts(await everything(log)) == await words_in(log) == ["before", "after"]
    assert await log.unfinished() == []
    assert await log.verify() == 2


async def test_a_full_disk_is_no_reason_to_stop(file_store):
    told = []
    log = await file_store.open(on_fatal=told.append)
    async with FullDisk(log):
        with pytest.raises(DiskFull):
            await log.append([said("a", BIG)])
    assert told == []


async def test_a_disk_that_fills_up_inside_a_projection_fails_the_batch_and_freezes_nothing(file_store):
    class Greedy(Words):
        def spelled(self, text):
            return text if text == "small" else BIG * 20

    log = await file_store.open(projections=[Greedy()])
    async with FullDisk(log):
        with pytest.raises(DiskFull):
            await log.append([said("a", "big")])
    await log.append([said("a", "small")])
    assert log.projection_states()[0].frozen is None
    assert await words_in(log) == ["small"]


class Failing:
    """A connection whose commits fail with these errors, one each; then the disk is well again."""

    def __init__(self, connection, *errors):
        self._connection = connection
        self.errors = list(errors)

    def __getattr__(self, name):
        return getattr(self._connection, name)

    def execute(self, sql, *parameters):
        if sql == "COMMIT" and self.errors:
            raise self.errors.pop(0)
        return self._connection.execute(sql, *parameters)


def io_error(text="disk I/O error", code=sqlite3.SQLITE_IOERR):
    error = sqlite3.OperationalError(text)
    error.sqlite_errorcode = code
    return error


async def broken(file_store, **options):
    log = await file_store.open(**options)
    await log.append([said("a", "before")])
    log._connection = Failing(log._connection, io_error())
    return log


async def test_after_a_failed_write_callers_hear_of_it_and_the_owner_is_told_once(file_store):
    told = []
    log = await broken(file_store, on_fatal=told.append)
    for _ in range(2):
        with pytest.raises(DiskError, match="I/O error"):
            await log.append([said("a", "one")])
    assert [type(error) for error in told] == [DiskError]


async def test_after_a_failed_write_nothing_more_is_written_not_even_what_was_queued(file_store, monkeypatch):
    monkeypatch.setattr(sqlite, "MAX_BATCH_EVENTS", 1)
    log = await broken(file_store)
    first, *queued = [log.append([said("a", str(n))]) for n in range(20)]
    with pytest.raises(DiskError):
        await first
    assert all(isinstance(r, DiskError) for r in await asyncio.gather(*queued, return_exceptions=True))
    await log.close()
    assert raw(file_store, "SELECT count(*) FROM events") == [(1,)]


async def test_after_a_failed_write_the_log_says_that_it_cannot_be_written(file_store):
    log = await broken(file_store)
    with pytest.raises(DiskError):
        await log.append([said("a", "one")])
    assert "I/O error" in log.read_only


async def test_after_a_failed_write_closing_ends(file_store):
    log = await broken(file_store)
    log.append([said("a", "one")]).cancel()
    await asyncio.wait_for(log.close(), 5)


async def test_an_owner_that_raises_keeps_no_caller_waiting(file_store):
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)

    def raises(error):
        raise ZeroDivisionError

    log = await broken(file_store, on_fatal=raises)
    with pytest.raises(DiskError):
        await asyncio.wait_for(log.append([said("a", "one")]), 5)


# ── projections ──────────────────────────────────────────────────────────────────────────────────────────────────


async def test_wrong_sql_freezes_the_projection_only(file_store):
    class Misspelled(Words):
        def before(self, connection, text):
            connection.execute("UPDATE words SET no_such_column = 1")

    log = await file_store.open(projections=[Misspelled("words"), Words("others")])
    await log.append([said("a", "one")])
    assert log.projection_states()[0].frozen == "OperationalError: no such column: no_such_column"
    assert await words_in(log, "others") == ["one"]


async def test_a_violated_constraint_freezes_the_projection_only(file_store):
    class Twice(Words):
        def before(self, connection, text):
            connection.execute("INSERT INTO words VALUES (1, 'mine')")

    log = await file_store.open(projections=[Twice("words")])
    await log.append([said("a", "one")])
    assert log.projection_states()[0].frozen.startswith("IntegrityError")
    assert await words_in(log) == []


async def test_a_database_failure_inside_a_savepoint_fails_the_batch_not_the_projection(file_store):
    told = []

    class Unlucky(Words):
        def before(self, connection, text):
            raise io_error()

    log = await file_store.open(projections=[Unlucky()], on_fatal=told.append)
    with pytest.raises(DiskError, match="I/O error"):
        await log.append([said("a", "one")])
    assert log.projection_states()[0].frozen is None
    assert raw(file_store, "SELECT count(*) FROM events") == [(0,)]
    assert len(told) == 1


@pytest.mark.parametrize("code", [sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_CORRUPT_VTAB, sqlite3.SQLITE_NOTADB])
async def test_a_damaged_file_met_by_a_projection_fails_the_batch(file_store, code):
    class Unlucky(Words):
        def before(self, connection, text):
            error = sqlite3.DatabaseError("database disk image is malformed")
            error.sqlite_errorcode = code
            raise error

    log = await file_store.open(projections=[Unlucky()])
    with pytest.raises(DiskError, match="malformed"):
        await log.append([said("a", "one")])


class Fragile(Words):
    bearable = False

    def before(self, connection, text):
        if text == "bad" and not self.bearable:
            raise ValueError("not that word")


async def test_a_projection_frozen_in_a_batch_that_then_failed_is_not_frozen(file_store):
    """Else it would skip events here, and pass for one that kept up after a restart."""

    class Filling(Words):
        def spelled(self, text):
            return BIG * 20 if text == "bad" else text

    log = await file_store.open(projections=[Fragile("fragile"), Filling("filling")])
    async with FullDisk(log):
        with pytest.raises(DiskFull):
            await log.append([said("a", "bad")])
    await log.append([said("a", "good")])
    await log.close()
    log = await file_store.open(projections=[Fragile("fragile"), Filling("filling")])
    assert [state.frozen for state in log.projection_states()] == [None, None]
    assert await words_in(log, "fragile") == ["good"]


async def test_a_rebuild_that_failed_leaves_a_frozen_projection_frozen(file_store):
    projection = Fragile("fragile")
    log = await file_store.open(projections=[projection])
    await log.append([said("a", "bad")])
    projection.bearable = True
    log._connection = Failing(log._connection, io_error())
    with pytest.raises(DiskError):
        await log.rebuild()
    await log.append([said("a", "later")])
    assert log.projection_states()[0].frozen == "ValueError: not that word"
    assert await words_in(log, "fragile") == []


async def test_a_frozen_projection_is_still_frozen_after_a_restart(file_store, clock):
    log = await file_store.open(projections=[Fragile()])
    await log.append([said("a", "good")])
    await log.append([said("a", "bad")])
    frozen = log.projection_states()[0]
    await log.close()
    await clock.advance(60)
    log = await file_store.open(projections=[Words()])
    await log.append([said("a", "later")])
    assert log.projection_states() == [frozen]
    assert await words_in(log) == ["good"]


async def test_another_version_of_a_projection_is_folded_again_at_opening(file_store):
    class Loud(Words):
        def spelled(self, text):
            return text.upper()

    log = await file_store.open(projections=[Fragile(version=1)])
    await log.append([said("a", "good", "bad")])
    await log.close()
    log = await file_store.open(projections=[Loud(version=2)])
    assert await words_in(log) == ["GOOD", "BAD"]
    assert log.projection_states()[0].frozen is None


async def test_the_same_version_of_a_projection_is_not_folded_again(file_store):
    log = await file_store.open(projections=[Words()])
    await log.append([said("a", "one")])
    await log.close()
    raw_connection = sqlite3.connect(file_store.path)
    raw_connection.execute("UPDATE words SET text = 'as it was'")
    raw_connection.commit()
    raw_connection.close()
    assert await words_in(await file_store.open(projections=[Words()])) == ["as it was"]


async def test_a_projection_that_was_away_for_a_while_is_folded_again(file_store):
    log = await file_store.open(projections=[Words()])
    await log.append([said("a", "one")])
    await log.close()
    log = await file_store.open(projections=[])
    await log.append([said("a", "two")])
    await log.close()
    assert await words_in(await file_store.open(projections=[Words()])) == ["one", "two"]


async def test_rebuilding_gives_the_same_rows(file_store):
    log = await file_store.open(projections=[Words()])
    for n in range(30):
        await log.append([said("a", str(n))])
    before = await words_in(log)
    await log.rebuild()
    assert await words_in(log) == before


async def test_a_rebuild_waits_for_its_turn_and_misses_nothing(file_store):
    log = await file_store.open(projections=[Words()])
    appends = [log.append([said("a", str(n))]) for n in range(50)]
    rebuilt = asyncio.ensure_future(log.rebuild())
    await asyncio.sleep(0)
    appends += [log.append([said("a", str(n))]) for n in range(50, 100)]
    await asyncio.gather(*appends, rebuilt)
    assert await words_in(log) == list(map(str, range(100)))


# ── the thread and the loop ──────────────────────────────────────────────────────────────────────────────────────


async def test_asking_a_closed_log_to_rebuild_is_refused(file_store):
    log = await file_store.open()
    await log.close()
    with pytest.raises(DiskError, match="closed"):
        await asyncio.wait_for(log.rebuild(), 5)


async def test_a_close_that_was_cancelled_can_be_done_again(file_store):
    log = await file_store.open()
    log.append([said("a", "one")])
    closing_ = asyncio.ensure_future(log.close())
    await asyncio.sleep(0)
    closing_.cancel()
    await asyncio.gather(closing_, return_exceptions=True)
    await asyncio.wait_for(log.close(), 5)
    with pytest.raises(sqlite3.ProgrammingError):
        log._connection.execute("SELECT 1")


def test_the_writer_survives_a_loop_that_is_gone(tmp_path):
    """The process is ending; what was appended is still written."""

    async def main():
        log = await SqliteEventLog.open(tmp_path / "log.db", clock=FakeClock(), ids=SeededIds())
        log.append([said("a", "one")])
        return log

    log = asyncio.run(main())
    log._intake._handed_over.put([Job(log._end, log._loop.create_future())])
    log._thread.join(5)
    assert not log._thread.is_alive()
    assert log._connection.execute("SELECT count(*) FROM events").fetchone() == (1,)
    log._connection.close()


@pytest.mark.slow
def test_a_process_that_forgets_to_close_its_log_still_ends(tmp_path):
    forgetful = """
import asyncio, sys
from pathlib import Path
from cascadenced.clock import SystemClock
from cascadenced.eventlog.sqlite import SqliteEventLog
from cascadenced.ids import SystemIds

async def main():
    global log
    log = await SqliteEventLog.open(Path(sys.argv[1]), clock=SystemClock(), ids=SystemIds())

asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", forgetful, str(tmp_path / "log.db")], timeout=20, check=False)
    assert done.returncode == 0


# ── files that are not ours, or not for us ───────────────────────────────────────────────────────────────────────


async def refused(path):
    with pytest.raises(ConfigError) as error:
        await SqliteEventLog.open(path, clock=FakeClock(), ids=SeededIds())
    return str(error.value)


async def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "log.db"
    path.write_bytes(b"my diary, which is long enough to be a header of something" * 100)
    before = path.read_bytes()
    assert "not an event log" in await refused(path)
    assert path.read_bytes() == before


async def test_another_programs_database_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "log.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    before = path.read_bytes()
    assert "another program's database" in await refused(path)
    assert path.read_bytes() == before


async def test_another_programs_application_id_is_refused(tmp_path):
    path = tmp_path / "log.db"
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA application_id = 77")
    connection.execute("VACUUM")
    connection.close()
    assert "another program's database" in await refused(path)


async def test_a_folder_that_does_not_exist_is_a_matter_of_configuration(tmp_path):
    assert "data_dir" in await refused(tmp_path / "no" / "log.db")


async def test_an_empty_file_becomes_a_log(file_store):
    file_store.path.touch()
    log = await file_store.open()
    await log.append([said("a", "one")])
    assert log.position == 1


async def test_a_file_of_a_newer_shape_is_refused_and_left_alone(file_store):
    log = await file_store.open()
    await log.append([said("a", "one")])
    await log.close()
    raw(file_store, "PRAGMA user_version = 999")
    before = file_store.path.read_bytes()
    assert "newer version" in await refused(file_store.path)
    assert file_store.path.read_bytes() == before


async def test_a_log_whose_events_have_a_newer_schema_is_refused(file_store, monkeypatch):
    monkeypatch.setattr("cascadenced.eventlog.sequence.SCHEMA", 2)
    log = await file_store.open()
    await log.append([said("a", "one")])
    await log.close()
    assert "newer version" in await refused(file_store.path)


async def test_an_event_of_an_unknown_type_is_named_and_the_remedy_with_it(file_store, monkeypatch):
    monkeypatch.setattr("cascadenced.eventlog.sequence.encode", lambda event: b'{"type":"moon.landed"}')
    monkeypatch.setitem(sequence.TYPE_NAMES, type(said("a", "one").events[0]), "moon.landed")
    log = await file_store.open()
    await log.append([said("a", "one")])
    with pytest.raises(ConfigError, match=r"event 1 .* newer version"):
        await log.read(0, 10)


@pytest.mark.parametrize("data", [b'{"type":"moon.landed"}', b'{"text":1}', b'{"type":', b"\xff", b""])
async def test_an_event_that_was_changed_in_the_file_is_damage_and_not_of_a_newer_version(file_store, data):
    log = await file_store.open()
    await log.append([said("a", "one", "two")])
    with closing(sqlite3.connect(file_store.path)) as connection, connection:
        connection.execute("DROP TRIGGER events_are_not_changed")
        connection.execute("UPDATE events SET data = ? WHERE position = 2", (data,))
    with pytest.raises(LogCorrupt, match="event 2 .* cannot be read .* restore a backup") as corrupt:
        await log.read(0, 10)
    assert corrupt.value.position == 2


# ── migrations ───────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_migration_that_is_interrupted_leaves_the_old_state(file_store, monkeypatch):
    from cascadenced.eventlog import database

    real = database.statements

    class PowerCut(BaseException):
        pass

    def interrupted(script):
        for n, statement in enumerate(real(script)):
            if n == 4:
                raise PowerCut
            yield statement

    monkeypatch.setattr(database, "statements", interrupted)
    with pytest.raises(PowerCut):
        await file_store.open()
    assert raw(file_store, "SELECT count(*) FROM sqlite_master") == [(0,)]
    assert raw(file_store, "PRAGMA user_version") == [(0,)]


async def test_after_an_interrupted_migration_the_next_opening_does_it(file_store, monkeypatch):
    from cascadenced.eventlog import database

    with monkeypatch.context() as patched:
        patched.setattr(database, "statements", lambda script: ["CREATE TABLE events (x)", "no sql at all"])
        with pytest.raises(DiskError):
            await file_store.open()
    log = await file_store.open()
    await log.append([said("a", "one")])
    assert log.position == 1


async def test_two_logs_share_nothing(tmp_path, clock):
    one, two = [
        await SqliteEventLog.open(tmp_path / name, clock=clock, ids=SeededIds(n)) for n, name in enumerate(("1", "2"))
    ]
    await one.append([said("a", "one")], source="bus:1")
    receipt = await two.append([said("a", "two", expected=0)], source="bus:1")
    assert (receipt.duplicate_of, texts(await everything(one)), texts(await everything(two))) == (
        None,
        ["one"],
        ["two"],
    )
    await one.close()
    await two.close()


async def test_another_program_that_holds_the_file_is_an_outage_and_not_the_end(file_store):
    log = await file_store.open()
    log._connection.execute("PRAGMA busy_timeout = 20")
    stranger = sqlite3.connect(log.path, isolation_level=None)
    stranger.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable, match="another program"):
        await log.append([Change("s", [example(IdeaRecorded)])])
    stranger.execute("ROLLBACK")
    stranger.close()
    await log.append([Change("s", [example(IdeaRecorded)])])
    assert log.position == 1
    assert log.read_only is None
