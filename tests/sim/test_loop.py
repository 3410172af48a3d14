"""The loop under the simulation: its time, its order, and what becomes of the dead."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from tests.sim.loop import Mortal, SimLoop, Stuck, bury

Go = Callable[..., Any]


@pytest.fixture
def go() -> Iterator[Go]:
    """Runs a coroutine function on a loop of its own, handing it that loop if it takes one."""
    loops: list[SimLoop] = []

    def run(main: Callable[[SimLoop], Coroutine[Any, Any, Any]], *, seed: int = 0, disorder: float = 1.0) -> Any:
        loop = SimLoop(random.Random(seed), disorder)
        loops.append(loop)
        return loop.run_until_complete(main(loop))

    yield run
    for loop in loops:
        loop.close()
    bury([task for loop in loops for task in loop.orphans])


async def _entered(n: int = 6) -> list[int]:
    order: list[int] = []

    async def enter(number: int) -> None:
        await asyncio.sleep(0)
        order.append(number)

    await asyncio.gather(*map(enter, range(n)))
    return order


def test_time_passes_only_in_jumps_to_the_next_timer(go: Go) -> None:
    async def main(loop: SimLoop) -> list[float]:
        at = [loop.time()]
        await asyncio.gather(asyncio.sleep(3600), asyncio.sleep(1.5))
        return [*at, loop.time()]

    began = time.monotonic()
    assert go(main) == [0.0, 3600.0]
    assert time.monotonic() - began < 5


def test_timers_go_off_in_the_order_of_their_times_whatever_the_seed(go: Go) -> None:
    async def main(_: SimLoop) -> list[float]:
        gone_off: list[float] = []

        async def after(seconds: float) -> None:
            await asyncio.sleep(seconds)
            gone_off.append(seconds)

        await asyncio.gather(*map(after, (3.0, 1.0, 2.0)))
        return gone_off

    assert [go(main, seed=seed) for seed in range(10)] == [[1.0, 2.0, 3.0]] * 10


def test_the_order_of_what_is_ready_follows_from_the_seed(go: Go) -> None:
    orders = [tuple(go(lambda _: _entered(), seed=seed)) for seed in (*range(20), *range(20))]
    assert orders[:20] == orders[20:]
    assert len(set(orders)) > 10


def test_without_disorder_it_is_as_asyncio_has_it(go: Go) -> None:
    assert go(lambda _: _entered(), disorder=0.0) == [0, 1, 2, 3, 4, 5]


def test_nothing_of_the_dead_happens_any_more_not_even_their_cleaning_up(go: Go) -> None:
    done: list[str] = []

    async def work(n: int) -> None:
        try:
            done.append(f"{n} begins")
            await asyncio.sleep(n)
            done.append(f"{n} ends")
        finally:
            done.append(f"{n} cleans up")

    async def main(loop: SimLoop) -> list[str]:
        mortal, other = Mortal(), Mortal()
        for n, owner in ((1, mortal), (3, mortal), (3, other)):
            loop.create_task(work(n), context=owner.context())
        await asyncio.sleep(2)
        mortal.die("at once")
        await asyncio.sleep(2)
        dead = list(done)
        bury(mortal.tasks)
        return dead

    dead = go(main, disorder=0.0)
    assert dead == ["1 begins", "3 begins", "3 begins", "1 ends", "1 cleans up", "3 ends", "3 cleans up"]


def test_what_the_dead_began_belongs_to_them_too(go: Go) -> None:
    done: list[str] = []

    async def late() -> None:
        await asyncio.sleep(1)
        done.append("late")

    async def begin() -> None:
        asyncio.get_running_loop().call_later(1, done.append, "later")
        await asyncio.gather(late(), late())

    async def main(loop: SimLoop) -> None:
        mortal = Mortal()
        loop.create_task(begin(), context=mortal.context())
        await asyncio.sleep(0.5)
        mortal.die("at once")
        await asyncio.sleep(5)
        bury(mortal.tasks)

    go(main)
    assert done == []


def test_a_mortal_can_be_met_at_any_of_its_steps(go: Go) -> None:
    async def count(steps: list[int]) -> None:
        while True:
            steps.append(len(steps))
            await asyncio.sleep(0)

    async def main(loop: SimLoop) -> list[int]:
        mortal, steps = Mortal(), list[int]()
        mortal.at_step, mortal.on_step = 4, lambda: mortal.die("at its fourth step")
        loop.create_task(count(steps), context=mortal.context())
        await asyncio.sleep(1)
        bury(mortal.tasks)
        return steps

    assert go(main) == [0, 1, 2]


def test_a_world_in_which_nothing_can_happen_any_more_says_so(go: Go) -> None:
    with pytest.raises(Stuck, match="nothing is left that could happen"):
        go(lambda loop: _for_ever(loop.create_future()))


async def _for_ever(future: asyncio.Future[None]) -> None:
    await future


def test_a_world_that_turns_in_circles_says_so(go: Go, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.sim.loop.MAX_STEPS_AT_ONCE", 100)

    async def main(_: SimLoop) -> None:
        while True:
            await asyncio.sleep(0)

    with pytest.raises(Stuck, match="it turns in circles at 0.000 s"):
        go(main)


def test_there_are_no_threads(go: Go) -> None:
    async def main(_: SimLoop) -> None:
        await asyncio.to_thread(print)

    with pytest.raises(AssertionError, match="no threads"):
        go(main)


def test_an_error_that_nobody_catches_is_a_trouble_of_the_living_only(go: Go) -> None:
    async def main(loop: SimLoop) -> list[str]:
        mortals = Mortal(), Mortal()
        for mortal in mortals:
            loop.create_task(_failing(), context=mortal.context())
        await asyncio.sleep(1)
        mortals[0].die("before anybody has looked")
        for mortal in mortals:
            mortal.tasks.clear()
        await asyncio.sleep(1)
        return loop.troubles

    [trouble] = go(main)
    assert trouble.endswith("exception was never retrieved: ValueError('nobody looks')")


async def _failing() -> None:
    raise ValueError("nobody looks")
