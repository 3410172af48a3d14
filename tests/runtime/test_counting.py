"""Refusals that come in floods: one event a minute says how many."""

from __future__ import annotations

import asyncio

import pytest

from cascadenced.errors import DiskFull
from cascadenced.events.system import RequestsRefused
from cascadenced.runtime import counting
from cascadenced.runtime.counting import RefusalCounter
from tests.conftest import MemoryStore


@pytest.fixture
async def log(memory_store: MemoryStore):
    return await memory_store.open()


@pytest.fixture
async def counter(log, clock):
    counter = RefusalCounter(log, clock)
    yield counter
    await counter.flush()


async def recorded(log):
    events = [event.event for event in await log.read(0, 10_000)]
    assert all(isinstance(event, RequestsRefused) for event in events)
    return [(event.reason, event.subject, event.n_refused) for event in events]


async def a_minute(clock):
    await asyncio.sleep(0)  # the timer falls asleep
    await clock.advance(60)
    for _ in range(5):
        await asyncio.sleep(0)  # the append is committed


async def test_nothing_is_recorded_within_the_minute(log, clock, counter):
    counter.count("overload", "a")
    await asyncio.sleep(0)
    await clock.advance(59.9)
    assert await recorded(log) == []


async def test_after_a_minute_one_event_says_how_often(log, clock, counter):
    for _ in range(500):
        counter.count("overload", "a")
    await a_minute(clock)
    assert await recorded(log) == [("overload", "a", 500)]


async def test_each_reason_and_subject_is_counted_apart(log, clock, counter):
    for reason, subject in (("overload", "a"), ("overload", "b"), ("duplicate", "a"), ("overload", "a")):
        counter.count(reason, subject)
    await a_minute(clock)
    assert await recorded(log) == [("overload", "a", 2), ("overload", "b", 1), ("duplicate", "a", 1)]


async def test_each_minute_has_an_event_of_its_own(log, clock, counter):
    for n in (2, 3):
        for _ in range(n):
            counter.count("overload", "a")
        await a_minute(clock)
    assert await recorded(log) == [("overload", "a", 2), ("overload", "a", 3)]


async def test_a_quiet_minute_records_nothing(log, clock, counter):
    counter.count("overload", "a")
    for _ in range(5):
        await a_minute(clock)
    assert len(await recorded(log)) == 1


async def test_subjects_are_bounded_and_the_rest_counted_together(log, clock, counter, monkeypatch):
    monkeypatch.setattr(counting, "MAX_KEYS", 3)
    for n in range(10):
        counter.count("overload", f"s{n}")
    counter.count("overload", "s0")
    await a_minute(clock)
    assert await recorded(log) == [
        ("overload", "s0", 2),
        ("overload", "s1", 1),
        ("overload", "s2", 1),
        ("overload", "other", 7),
    ]


async def test_totals_go_on_for_ever(clock, counter):
    for _ in range(3):
        counter.count("overload", "a")
        await a_minute(clock)
    assert counter.total == {"overload": 3}


async def test_flushing_records_at_once_and_only_once(log, clock, counter):
    counter.count("overload", "a")
    await counter.flush()
    await a_minute(clock)
    assert await recorded(log) == [("overload", "a", 1)]


async def test_flushing_nothing_records_nothing(log, counter):
    await counter.flush()
    assert await recorded(log) == []


async def test_counting_goes_on_after_a_flush(log, clock, counter):
    await counter.flush()
    counter.count("overload", "a")
    await a_minute(clock)
    assert await recorded(log) == [("overload", "a", 1)]


async def test_what_a_full_disk_kept_out_is_recorded_later(log, clock, counter):
    counter.count("overload", "a")
    log.fail_next = DiskFull("full")
    await a_minute(clock)
    counter.count("overload", "a")
    await a_minute(clock)
    assert await recorded(log) == [("overload", "a", 2)]


async def test_a_log_that_cannot_be_written_does_not_disturb_the_stop(log, counter):
    counter.count("overload", "a")
    await log.close()
    await counter.flush()
