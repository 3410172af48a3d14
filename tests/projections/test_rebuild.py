"""A projection is the log, folded: wherever its batches were cut, and whenever it is folded again."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from contextlib import closing

import pytest

from cascadenced.projections import all_projections
from tests.projections.stories import as_read_back, chaos, dump, folded, story

TABLES = [table for projection in all_projections() for table in projection.tables]
NAMES = [projection.name for projection in all_projections()]


def projection_called(name):
    return next(projection for projection in all_projections() if projection.name == name)


def tables_of(store):
    with closing(sqlite3.connect(store.path)) as connection:
        return dump(connection, TABLES)


async def live(log, seed, n_runs):
    """Tell a story to the log, in batches as they come."""
    chance = random.Random(seed)
    changes = story(seed, n_runs)
    while changes:
        n = chance.choice([1, 1, 1, 2, 5, 20, 100])
        await asyncio.gather(*(log.append([change]) for change in changes[:n]))
        del changes[:n]


@pytest.mark.parametrize("seed", range(3))
async def test_rebuilding_gives_equal_tables_after_hundreds_of_runs(file_store, seed):
    log = await file_store.open(projections=all_projections())
    await live(log, seed, 300)
    before = tables_of(file_store)
    states = await log.rebuild()
    assert tables_of(file_store) == before
    assert [state.frozen for state in states] == [None] * len(states)


async def test_no_table_of_a_story_is_empty(file_store):
    log = await file_store.open(projections=all_projections())
    await live(log, 0, 300)
    assert [table for table, rows in tables_of(file_store) if not rows] == []


async def test_no_projection_freezes_on_any_event_there_is(file_store):
    from cascadenced.eventlog.base import Change
    from tests.examples import every_event

    log = await file_store.open(projections=all_projections())
    for event in every_event():
        await log.append([Change("any", [event])])
    assert [state.name for state in log.projection_states() if state.frozen] == []


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", range(10))
def test_rows_do_not_depend_on_where_batches_were_cut(name, seed):
    events = chaos(seed, 300)
    projection = projection_called(name)
    chance = random.Random(seed)
    one_by_one = folded(projection, events, range(300))
    assert folded(projection, events, []) == one_by_one
    assert folded(projection, events, chance.sample(range(300), 20)) == one_by_one


@pytest.mark.parametrize("name", NAMES)
def test_rows_do_not_depend_on_whether_events_were_read_from_the_file(name):
    events = chaos(7, 500)
    projection = projection_called(name)
    assert folded(projection, as_read_back(events), []) == folded(projection, events, [])


def test_names_and_tables_are_unique():
    assert len(set(NAMES)) == len(NAMES)
    assert len(set(TABLES)) == len(TABLES)


async def test_task_rows_count_no_run_twice_and_none_too_few(file_store):
    log = await file_store.open(projections=all_projections())
    await live(log, 1, 300)
    rows = await log.tables.fetch("SELECT name, running, queued FROM task_status WHERE kind = 'manual' ORDER BY name")
    assert rows == [("alpha", 0, 0), ("beta", 0, 0), ("gamma", 0, 0)]


async def test_the_table_of_runs_says_what_the_runs_own_streams_say(file_store):
    from msgspec.structs import astuple

    from cascadenced.projections.run_view import run_view
    from cascadenced.projections.runs import list_runs

    log = await file_store.open(projections=all_projections())
    await live(log, 2, 150)
    rows = (await list_runs(log.tables, limit=1000)).items
    assert len(rows) == 150
    for row in rows:
        view = run_view(await log.read_stream(f"run-{row.run_id}"))
        assert astuple(row) == astuple(view)[: len(astuple(row))]
