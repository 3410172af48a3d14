"""Reading the file beside a writer, after one, and without one."""

from __future__ import annotations

import sqlite3

import pytest

from cascadenced.errors import LogCorrupt, Unavailable
from cascadenced.eventlog.reader import Reader
from cascadenced.eventlog.rows import OPENINGS
from tests.eventlog.test_chain import tamper
from tests.eventlog.words import Words, everything, said, texts


@pytest.fixture
async def read(file_store):
    """Opens a reader of the log's file."""
    readers = []

    async def open_():
        readers.append(await Reader.open(file_store.path))
        return readers[-1]

    yield open_
    for reader in readers:
        await reader.close()


async def test_a_reader_sees_what_a_writer_commits(file_store, read):
    log = await file_store.open()
    reader = await read()
    await log.append([said("a", "one")])
    assert texts(await reader.read(0, 10)) == ["one"]


async def test_a_reader_works_when_the_writer_has_closed(file_store, read):
    log = await file_store.open()
    await log.append([said("a", "one")])
    await log.close()
    assert texts(await (await read()).read_stream("a")) == ["one"]


async def test_a_reader_goes_on_when_the_writer_closes(file_store, read):
    log = await file_store.open()
    reader = await read()
    await log.append([said("a", "one")])
    await log.close()
    assert texts(await reader.read(0, 10)) == ["one"]


async def test_a_reader_that_closes_last_leaves_the_writers_files_alone(file_store, read):
    log = await file_store.open()
    await log.append([said("a", "one")])
    await (await read()).close()
    await log.append([said("a", "two")])
    assert texts(await everything(log)) == ["one", "two"]


async def test_a_reader_cannot_write(file_store, read):
    await file_store.open()
    reader = await read()
    with pytest.raises((sqlite3.OperationalError, Unavailable), match="readonly"):
        await reader.fetch("INSERT INTO meta VALUES ('a', 'b')")


async def test_without_a_file_there_is_nothing_to_read(read, file_store):
    with pytest.raises(Unavailable, match="cannot be read"):
        await read()
    assert not file_store.path.exists()


async def test_a_file_that_is_no_log_cannot_be_read(read, file_store):
    file_store.path.write_bytes(b"my diary" * 1000)
    with pytest.raises(Unavailable, match="cannot be read"):
        await read()


async def test_another_programs_database_cannot_be_read(read, file_store):
    connection = sqlite3.connect(file_store.path)
    connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    with pytest.raises(Unavailable, match="cannot be read"):
        await read()


async def test_a_path_with_odd_characters_can_be_read(tmp_path, clock):
    from cascadenced.eventlog.sqlite import SqliteEventLog
    from cascadenced.ids import SeededIds

    path = tmp_path / "what? a #1 100% log.db"
    log = await SqliteEventLog.open(path, clock=clock, ids=SeededIds())
    await log.append([said("a", "one")])
    assert texts(await log.read(0, 10)) == ["one"]
    await log.close()


async def test_a_closed_reader_says_so(file_store, read):
    await file_store.open()
    reader = await read()
    await reader.close()
    with pytest.raises(Unavailable, match="is closed"):
        await reader.position()


async def test_a_reader_knows_position_checkpoints_and_unfinished_streams(file_store, read):
    from cascadenced.eventlog.base import Change
    from cascadenced.events.run import RunRequested
    from tests.examples import example

    log = await file_store.open()
    log.set_checkpoint("outbox", 1)
    await log.append([said("a", "one"), Change("run-1", [example(RunRequested)])])
    reader = await read()
    assert (await reader.position(), await reader.checkpoint("outbox"), await reader.unfinished()) == (2, 1, ["run-1"])


async def test_what_opened_the_unfinished_streams_is_found_without_looking_through_the_log(file_store, read):
    await file_store.open()
    plan = [detail for *_, detail in await (await read()).fetch(f"EXPLAIN QUERY PLAN {OPENINGS}")]
    assert [step for step in plan if "unfinished" not in step and "SUBQUERY" not in step] == [
        "SEARCH events USING INTEGER PRIMARY KEY (rowid=?)"
    ]


async def test_a_closed_reader_does_not_tell_what_opened_the_unfinished_streams(file_store, read):
    await file_store.open()
    reader = await read()
    await reader.close()
    with pytest.raises(Unavailable, match="is closed"):
        await reader.openings()


async def test_the_position_of_an_empty_log_is_zero(file_store, read):
    await file_store.open()
    assert await (await read()).position() == 0


async def test_a_reader_knows_which_projections_are_frozen(file_store, read):
    class Broken(Words):
        def before(self, connection, text):
            raise ValueError("no")

    log = await file_store.open(projections=[Broken("broken"), Words("whole")])
    await log.append([said("a", "one")])
    states = await (await read()).projection_states()
    assert states == log.projection_states()


async def test_a_reader_can_check_the_whole_chain(file_store, read):
    log = await file_store.open()
    await log.append([said("a", *map(str, range(20)))])
    await log.close()
    assert await (await read()).verify() == 20


async def test_a_reader_finds_a_changed_event(file_store, read):
    log = await file_store.open()
    await log.append([said("a", *map(str, range(20)))])
    await log.close()
    tamper(file_store.path, "UPDATE events SET at_us = 0 WHERE position = 13")
    with pytest.raises(LogCorrupt, match="event 13"):
        await (await read()).verify()
