"""Time: the fake clock is as good as the real one for whoever waits; instants have one spelling."""

from __future__ import annotations

import asyncio
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascadenced.clock import FakeClock, SystemClock, iso, parse_iso

CENTURY_US = 100 * 366 * 86_400 * 1_000_000


def test_the_system_clock_tells_microseconds_since_1970():
    assert abs(SystemClock().now_us() - time.time() * 1e6) < 1e6


def test_the_system_clock_never_goes_back():
    clock = SystemClock()
    readings = [clock.monotonic() for _ in range(100)]
    assert readings == sorted(readings)


async def test_sleeping_no_time_on_the_system_clock_returns_at_once():
    await asyncio.wait_for(SystemClock().sleep(-5), timeout=1)


async def test_sleepers_wake_in_order_of_their_due_time():
    clock, woken = FakeClock(), []

    async def sleeper(seconds: float) -> None:
        await clock.sleep(seconds)
        woken.append((seconds, clock.monotonic()))

    async with asyncio.TaskGroup() as group:
        for seconds in (3, 1, 2):
            group.create_task(sleeper(seconds))
        await asyncio.sleep(0)
        await clock.advance(10)
    assert woken == [(1, 1.0), (2, 2.0), (3, 3.0)]


async def test_sleepers_due_at_the_same_instant_wake_in_the_order_they_fell_asleep():
    clock, woken = FakeClock(), []

    async def sleeper(name: str) -> None:
        await clock.sleep(1)
        woken.append(name)

    async with asyncio.TaskGroup() as group:
        for name in "abc":
            group.create_task(sleeper(name))
        await asyncio.sleep(0)
        await clock.advance(1)
    assert woken == ["a", "b", "c"]


async def test_a_sleeper_that_falls_asleep_again_is_woken_again_within_the_same_advance():
    clock, woken = FakeClock(), []

    async def ticker() -> None:
        for _ in range(3):
            await clock.sleep(1)
            woken.append(clock.monotonic())

    async with asyncio.TaskGroup() as group:
        group.create_task(ticker())
        await asyncio.sleep(0)
        await clock.advance(3)
        assert woken == [1.0, 2.0, 3.0]


async def test_nobody_wakes_before_their_time():
    clock = FakeClock()
    sleeper = asyncio.create_task(clock.sleep(1))
    await asyncio.sleep(0)
    await clock.advance(0.999)
    assert not sleeper.done()
    sleeper.cancel()


async def test_a_cancelled_sleeper_does_no_harm():
    clock = FakeClock()
    sleeper = asyncio.create_task(clock.sleep(1))
    await asyncio.sleep(0)
    sleeper.cancel()
    await clock.advance(2)
    assert sleeper.cancelled()


async def test_sleeping_no_time_lets_the_others_run():
    clock, ran = FakeClock(), []
    other = asyncio.create_task(_note(ran))
    await clock.sleep(0)
    assert ran == ["other"]
    await other


async def _note(ran: list[str]) -> None:
    ran.append("other")


async def test_advance_moves_both_clocks():
    clock = FakeClock(start_us=1_000)
    await clock.advance(2.5)
    assert (clock.now_us(), clock.monotonic()) == (2_501_000, 2.5)


async def test_a_jump_moves_only_the_wall_clock():
    clock = FakeClock(start_us=1_000_000)
    clock.jump(-0.5)
    assert (clock.now_us(), clock.monotonic()) == (500_000, 0.0)


def test_an_instant_is_shown_in_utc_with_microseconds():
    assert iso(1_795_424_400_000_001) == "2026-11-23T09:00:00.000001Z"


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-23T09:00:00.000001Z",
        "2026-11-23T10:00:00.000001+01:00",
        "2026-11-22T23:00:00.000001-10:00",
    ],
)
def test_an_instant_is_read_with_any_offset(text: str):
    assert parse_iso(text) == 1_795_424_400_000_001


@pytest.mark.parametrize("text", ["2026-11-23T09:00:00", "tomorrow", ""])
def test_what_is_no_instant_with_an_offset_is_refused(text: str):
    with pytest.raises(ValueError, match=r".+"):
        parse_iso(text)


@given(st.integers(min_value=-CENTURY_US // 2, max_value=10 * CENTURY_US))
def test_an_instant_that_is_shown_is_read_back_to_the_microsecond(at_us: int):
    assert parse_iso(iso(at_us)) == at_us
