"""One timer for all schedules."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from cascadenced.clock import FakeClock
from cascadenced.errors import Unavailable
from cascadenced.runtime.tick import AT_ONCE, Ticker
from tests.doubles import until

SECOND = 1_000_000


class Looked:
    """What was looked at and when, in seconds since the start; every schedule is due again every `every` seconds."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock, self.start_us = clock, clock.now_us()
        self.every: dict[str, int | None] = {}
        self.seen: list[tuple[float, str]] = []
        self.batches: list[int] = []
        self.fails = 0
        self.hold: asyncio.Event | None = None

    async def __call__(self, names: Sequence[str]) -> Mapping[str, int | None]:
        self.batches.append(len(names))
        self.seen += [((self.clock.now_us() - self.start_us) / SECOND, name) for name in names]
        if self.hold is not None:
            await self.hold.wait()
        if self.fails:
            self.fails -= 1
            raise Unavailable("the log is not writable")
        every = {name: self.every.get(name) for name in names}
        return {name: None if s is None else self.clock.now_us() + s * SECOND for name, s in every.items()}


@asynccontextmanager
async def ticking(every: dict[str, int | None]) -> AsyncIterator[tuple[Ticker, Looked, FakeClock]]:
    clock = FakeClock()
    looked = Looked(clock)
    looked.every = every
    ticker = Ticker(clock, looked)
    ticker.load((name, clock.now_us() + s * SECOND) for name, s in every.items() if s is not None)
    running = asyncio.create_task(ticker.run())
    await until(lambda: clock.n_sleeping or not every)
    try:
        yield ticker, looked, clock
    finally:
        running.cancel()
        await asyncio.wait({running})


async def test_each_is_looked_at_when_its_instant_comes_and_told_when_the_next_one_is() -> None:
    async with ticking({"a": 2, "b": 3}) as (ticker, looked, clock):
        for _ in range(7):
            await clock.advance(1)
            await until(lambda: clock.n_sleeping)
        assert looked.seen == [(2, "a"), (3, "b"), (4, "a"), (6, "a"), (6, "b")]
        assert ticker.next_us("a") == looked.start_us + 8 * SECOND


async def test_one_that_is_never_due_again_is_forgotten() -> None:
    async with ticking({"a": 1}) as (ticker, looked, clock):
        looked.every["a"] = None
        await clock.advance(1)
        await until(lambda: looked.seen)
        await until(lambda: len(ticker) == 0)
        assert ticker.next_us("a") is None


async def test_what_changes_is_looked_at_at_once_and_only_then() -> None:
    async with ticking({"a": 100}) as (ticker, looked, clock):
        ticker.refresh(["a"])
        await until(lambda: len(looked.seen) == 1)
        await until(lambda: clock.n_sleeping)
        await clock.advance(99)
        await until(lambda: clock.n_sleeping)
        assert looked.seen == [(0, "a")]
        await clock.advance(1)
        await until(lambda: len(looked.seen) == 2)


async def test_an_earlier_instant_shortens_the_sleep() -> None:
    async with ticking({"a": 100}) as (ticker, looked, clock):
        ticker.set("b", looked.start_us + 5 * SECOND)
        await until(lambda: clock.n_sleeping == 1)
        await clock.advance(5)
        await until(lambda: looked.seen == [(5, "b")])


async def test_one_that_is_no_longer_set_is_not_looked_at() -> None:
    async with ticking({"a": 1, "b": 2}) as (ticker, looked, clock):
        ticker.set("a", None)
        await clock.advance(2)
        await until(lambda: looked.seen == [(2, "b")])


async def test_when_the_clock_is_set_forth_what_is_due_by_then_is_looked_at() -> None:
    async with ticking({"a": 3_600}) as (ticker, looked, clock):
        ticker.look_at_clock()
        clock.jump(7_200)
        ticker.look_at_clock()
        await until(lambda: looked.seen == [(7_200, "a")])


async def test_when_it_is_set_back_nothing_is_looked_at_before_its_instant_comes_again() -> None:
    async with ticking({"a": 10}) as (ticker, looked, clock):
        clock.jump(-3_600)
        ticker.look_at_clock()
        await until(lambda: clock.n_sleeping)
        await clock.advance(3_609)
        assert looked.seen == []
        await clock.advance(1)
        await until(lambda: looked.seen == [(10, "a")])


async def test_many_at_one_instant_are_looked_at_in_portions() -> None:
    async with ticking({f"s{n}": 60 for n in range(2 * AT_ONCE + 1)}) as (_, looked, clock):
        await clock.advance(60)
        await until(lambda: len(looked.seen) == 2 * AT_ONCE + 1)
        assert looked.batches == [AT_ONCE, AT_ONCE, 1]


async def test_what_cannot_be_looked_at_now_is_looked_at_a_second_later() -> None:
    async with ticking({"a": 5}) as (_, looked, clock):
        looked.fails = 1
        await clock.advance(5)
        await until(lambda: clock.n_sleeping)
        await clock.advance(1)
        await until(lambda: looked.seen == [(5, "a"), (6, "a")])


async def test_a_change_while_it_is_looked_at_makes_it_be_looked_at_once_more() -> None:
    async with ticking({"a": 5}) as (ticker, looked, clock):
        looked.hold = asyncio.Event()
        await clock.advance(5)
        await until(lambda: len(looked.seen) == 1)
        ticker.refresh(["a"])
        looked.hold.set()
        await until(lambda: len(looked.seen) == 2)
        await until(lambda: clock.n_sleeping)
        assert ticker.next_us("a") == looked.start_us + 10 * SECOND


async def test_replaced_instants_do_not_pile_up() -> None:
    async with ticking({"a": 1_000}) as (ticker, looked, _):
        for n in range(10_000):
            ticker.set("a", looked.start_us + (1_000 + n) * SECOND)
        assert len(ticker._heap) <= 65
