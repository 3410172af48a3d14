"""Nobody changes the past unnoticed: a file altered behind our back is refused, and the event is named."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest
from msgspec import structs

from cascadenced.errors import LogCorrupt
from cascadenced.eventlog import sqlite
from cascadenced.eventlog.base import Change
from cascadenced.eventlog.chain import first_misfit, header_of, link, verify
from cascadenced.eventlog.database import verify_chain
from cascadenced.events.run import RunRequested
from tests.eventlog.words import said
from tests.examples import every_event, example, recorded


def tamper(path, *statements):
    """Alter the file as somebody would who knows SQL, and about our triggers."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("DROP TRIGGER IF EXISTS events_are_not_changed")
        connection.execute("DROP TRIGGER IF EXISTS events_are_not_deleted")
        for statement in statements:
            connection.execute(statement)


def forget_what_was_verified(path, position=0):
    tamper(path, f"UPDATE checkpoints SET position = {position} WHERE name = 'verified'")


async def filled(file_store, n=10):
    """A closed log of n events, of which none counts as verified."""
    log = await file_store.open()
    for i in range(n):
        await log.append([said("a", f"event {i}", user_hash="u")])
    await log.close()
    forget_what_was_verified(file_store.path)


async def corrupt_at(file_store):
    with pytest.raises(LogCorrupt) as corrupt:
        await file_store.open()
    assert str(corrupt.value.position) in str(corrupt.value)
    return corrupt.value.position


async def test_an_untouched_log_opens(file_store):
    await filled(file_store)
    assert (await file_store.open()).position == 10


@pytest.mark.parametrize(
    "change",
    [
        "data = CAST(replace(CAST(data AS TEXT), 'event 4', 'EVENT 4') AS BLOB)",
        "user_hash = 'somebody else'",
        "at_us = at_us + 1",
        "origin = 'elsewhere'",
        "source = 'bus:1'",
        "cause = NULL, run_id = 'r'",
        "schema = 0",
        "epoch = 9",
        "hash = zeroblob(32)",
    ],
)
async def test_a_changed_event_is_found_at_opening(file_store, change):
    await filled(file_store)
    tamper(file_store.path, f"UPDATE events SET {change} WHERE position = 5")
    assert await corrupt_at(file_store) == 5


async def test_an_event_taken_out_is_found_at_opening(file_store):
    await filled(file_store)
    tamper(file_store.path, "DELETE FROM events WHERE position = 5")
    assert await corrupt_at(file_store) == 5


async def test_an_event_taken_out_with_the_gap_closed_is_found_at_opening(file_store):
    await filled(file_store)
    tamper(
        file_store.path,
        "DELETE FROM events WHERE position = 5",
        "UPDATE events SET position = -(position - 1), version = version - 1 WHERE position > 5",
        "UPDATE events SET position = -position WHERE position < 0",
    )
    assert await corrupt_at(file_store) == 5


async def test_two_events_that_changed_places_are_found_at_opening(file_store):
    await filled(file_store)
    tamper(
        file_store.path,
        "UPDATE events SET position = 100 WHERE position = 5",
        "UPDATE events SET position = 5 WHERE position = 6",
        "UPDATE events SET position = 6 WHERE position = 100",
    )
    assert await corrupt_at(file_store) == 5


async def test_an_event_put_in_is_found_at_opening(file_store):
    await filled(file_store)
    columns = "id, stream, type, at_us, origin, epoch, schema, data, hash"
    tamper(
        file_store.path,
        f"INSERT INTO events (position, version, {columns}) SELECT 11, 11, {columns} FROM events WHERE position = 10",
    )
    assert await corrupt_at(file_store) == 11


async def test_a_lost_end_of_what_was_verified_is_found_at_opening(file_store):
    await filled(file_store)
    await (await file_store.open()).close()
    tamper(file_store.path, "DELETE FROM events WHERE position > 8")
    assert await corrupt_at(file_store) == 10


async def test_a_lost_end_that_a_follower_has_finished_is_found_at_opening(file_store):
    log = await file_store.open()
    await log.append([said("a", *map(str, range(10)))])
    log.set_checkpoint("outbox", 9)
    await log.close()
    forget_what_was_verified(file_store.path)
    tamper(file_store.path, "DELETE FROM events WHERE position > 7")
    with pytest.raises(LogCorrupt, match="events 8 to 9 are missing at the end"):
        await file_store.open()


async def test_a_lost_end_in_which_a_run_began_is_found_at_opening(file_store):
    log = await file_store.open()
    await log.append([said("a", "one"), Change("run-1", [example(RunRequested)])])
    await log.close()
    forget_what_was_verified(file_store.path)
    tamper(file_store.path, "DELETE FROM events WHERE position > 1")
    assert await corrupt_at(file_store) == 2


async def test_a_lost_end_is_found_by_the_whole_check_of_a_file(file_store):
    log = await file_store.open()
    await log.append([said("a", *map(str, range(10)))])
    await log.close()
    tamper(file_store.path, "DELETE FROM events WHERE position > 8")
    with closing(sqlite3.connect(file_store.path)) as connection, pytest.raises(LogCorrupt) as corrupt:
        verify_chain(connection)
    assert corrupt.value.position == 9


async def test_an_end_that_is_lost_while_the_log_is_open_is_found_by_the_whole_check(file_store):
    log = await file_store.open()
    await log.append([said("a", *map(str, range(10)))])
    tamper(file_store.path, "DELETE FROM events WHERE position > 8")
    with pytest.raises(LogCorrupt) as corrupt:
        await log.verify()
    assert corrupt.value.position == 9


async def test_a_file_that_grows_while_it_is_checked_counts_as_whole(file_store, monkeypatch):
    """The check reads in one snapshot; a follower's checkpoint may be of a later one."""
    from cascadenced.eventlog import database

    log = await file_store.open()
    await log.append([said("a", "one")])
    real = database.verify

    def meanwhile(*arguments):
        reached = real(*arguments)
        with closing(sqlite3.connect(file_store.path)) as writer, writer:
            writer.execute("INSERT INTO checkpoints VALUES ('outbox', 2)")
        return reached

    monkeypatch.setattr(database, "verify", meanwhile)
    with closing(sqlite3.connect(file_store.path)) as connection:
        assert verify_chain(connection)[0] == 1


async def test_another_anchor_is_found_at_opening(file_store):
    await filled(file_store)
    tamper(file_store.path, "UPDATE anchor SET hash = zeroblob(32)")
    assert await corrupt_at(file_store) == 1


async def test_a_missing_anchor_is_found_at_opening(file_store):
    await filled(file_store)
    tamper(file_store.path, "DELETE FROM anchor")
    with pytest.raises(LogCorrupt, match="the anchor"):
        await file_store.open()


async def test_what_was_verified_before_is_not_checked_again_at_opening(file_store):
    await filled(file_store)
    forget_what_was_verified(file_store.path, position=7)
    tamper(file_store.path, "UPDATE events SET user_hash = 'x' WHERE position = 5")
    assert (await file_store.open()).position == 10


async def test_the_whole_check_finds_what_was_changed_before_the_verified_position(file_store):
    await filled(file_store)
    forget_what_was_verified(file_store.path, position=7)
    tamper(file_store.path, "UPDATE events SET user_hash = 'x' WHERE position = 5")
    log = await file_store.open()
    with pytest.raises(LogCorrupt) as corrupt:
        await log.verify()
    assert corrupt.value.position == 5


async def test_a_log_that_was_found_corrupt_is_left_as_it_is(file_store):
    await filled(file_store)
    tamper(file_store.path, "UPDATE events SET user_hash = 'x' WHERE position = 5")
    before = file_store.path.read_bytes()
    await corrupt_at(file_store)
    assert file_store.path.read_bytes() == before


def verified_position(path):
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT position FROM checkpoints WHERE name = 'verified'").fetchone()[0]


async def test_closing_in_good_order_leaves_nothing_to_check(file_store):
    log = await file_store.open()
    await log.append([said("a", "one", "two")])
    await log.close()
    assert verified_position(file_store.path) == 2


async def test_what_an_opening_has_checked_is_remembered_at_once(file_store):
    await filled(file_store)
    await file_store.open()
    assert verified_position(file_store.path) == 10


async def test_the_verified_position_moves_on_while_the_log_grows(file_store, monkeypatch):
    monkeypatch.setattr(sqlite, "VERIFIED_EVERY", 5)
    log = await file_store.open()
    for n in range(13):
        await log.append([said("a", str(n))])
    assert verified_position(file_store.path) == 10


async def test_appends_go_on_while_the_whole_log_is_checked(file_store, monkeypatch):
    monkeypatch.setattr("cascadenced.eventlog.reader._VERIFIED_AT_ONCE", 1)
    await filled(file_store)
    log = await file_store.open()
    assert log._connection.in_transaction is False
    reached = await log.verify()
    receipt = await log.append([said("a", "new")])
    assert (reached, receipt.recorded[0].position) == (10, 11)


def test_data_can_be_replaced_by_its_digest_without_breaking_the_formula():
    from hashlib import sha256

    from cascadenced.eventlog.chain import canonical

    event = recorded(every_event()[0])
    expected = sha256(bytes(32) + canonical(header_of(event)) + sha256(event.data).digest()).digest()
    assert link(bytes(32), header_of(event), event.data) == expected


def test_every_header_field_counts():
    event = recorded(every_event()[0], source="s", cause="c", traceparent="t")
    header = header_of(event)
    whole = link(bytes(32), header, event.data)
    changed = {link(bytes(32), (*header[:i], "other", *header[i + 1 :]), event.data) for i in range(len(header))}
    assert whole not in changed
    assert len(changed) == len(header)


def test_a_chain_may_start_anywhere():
    event = recorded(every_event()[0], position=8)
    hash_ = link(b"\1" * 32, header_of(event), event.data)
    assert verify(7, b"\1" * 32, [(header_of(event), event.data, hash_)]) == (8, hash_)


# ── some events out of the log ───────────────────────────────────────────────────────────────────────────────


def chained(n=6):
    """Rows as `first_misfit` takes them, with positions from 1."""
    rows, before = [], b""
    for position in range(1, n + 1):
        header, data = header_of(structs.replace(recorded(example(RunRequested)), position=position)), b"{}"
        before = link(before, header, data)
        rows.append((header, data, before))
    return rows


@pytest.mark.parametrize("taken_out", [[], [0], [2], [1, 3], [0, 1, 2, 3, 4]])
def test_events_out_of_the_log_fit_whichever_of_them_are_there(taken_out):
    rows = [row for nth, row in enumerate(chained()) if nth not in taken_out]
    assert first_misfit(reversed(rows)) is None


def test_the_first_event_that_does_not_fit_is_named():
    rows = chained()
    for nth in (4, 2):
        rows[nth] = (rows[nth][0], b'{"changed": 1}', rows[nth][2])
        assert first_misfit(rows) == rows[nth][0]


def test_a_hash_that_was_changed_does_not_fit():
    rows = chained()
    rows[3] = (*rows[3][:2], bytes(32))
    assert first_misfit(rows) == rows[3][0]


def test_two_events_at_one_position_do_not_fit():
    rows = chained()
    assert first_misfit([*rows, rows[2]]) == rows[2][0]
