"""Steps under way on a loop: what cuts them off, and what does not."""

from __future__ import annotations

import asyncio

import pytest

from cascadenced.runtime.under_way import UnderWay
from tests.doubles import idle


class Step:
    """Ends when its gate opens."""

    def __init__(self) -> None:
        self.gate, self.was_cancelled = asyncio.Event(), False

    async def __call__(self) -> str:
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.was_cancelled = True
            raise
        return "done"


async def test_who_is_cancelled_has_its_step_cancelled() -> None:
    under_way, step = UnderWay(lambda: False), Step()
    doing = asyncio.create_task(under_way.do(step()))
    await idle()
    doing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await doing
    assert step.was_cancelled


async def test_in_a_stage_that_waits_the_step_goes_on_and_is_waited_for() -> None:
    under_way, step = UnderWay(lambda: True), Step()
    doing = asyncio.create_task(under_way.do(step()))
    await idle()
    doing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await doing
    settling = asyncio.create_task(under_way.settled())
    await idle()
    assert not settling.done()
    step.gate.set()
    await settling
    assert not step.was_cancelled


async def test_who_no_longer_waits_for_them_to_settle_cancels_them() -> None:
    under_way, step = UnderWay(lambda: True), Step()
    doing = asyncio.create_task(under_way.do(step()))
    await idle()
    settling = asyncio.create_task(under_way.settled())
    await idle()
    settling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await settling
    with pytest.raises(asyncio.CancelledError):
        await doing
    assert step.was_cancelled


@pytest.mark.parametrize("turns", range(6))
async def test_a_cancellation_that_comes_as_the_step_ends_is_heeded(turns: int) -> None:
    """At whichever turn of the loop: else the code would go on to its next step though the stage is over."""
    under_way, step = UnderWay(lambda: False), Step()
    doing = asyncio.create_task(under_way.do(step()))
    await idle()
    step.gate.set()
    for _ in range(turns):
        await asyncio.sleep(0)
    was_in_time = doing.cancel()
    await asyncio.wait([doing])
    assert doing.cancelled() == was_in_time
