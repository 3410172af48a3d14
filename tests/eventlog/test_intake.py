"""What the writer thread is given, and in which order."""

from __future__ import annotations

import asyncio
from typing import Any

from cascadenced.eventlog.intake import Intake, Job
from cascadenced.eventlog.sequence import Pending


def append_of(n_events: int) -> Pending:
    future: Any = None
    return Pending([], n_events, 0, None, future)


async def test_what_is_put_in_within_one_turn_of_the_loop_is_handed_over_together() -> None:
    intake = Intake(asyncio.get_running_loop())
    taking = asyncio.ensure_future(asyncio.to_thread(intake.take, 100))
    await asyncio.sleep(0.01)  # the writer waits already
    together = [append_of(1) for _ in range(3)]
    for append in together:
        intake.put(append)
    assert await taking == together


async def test_what_gathered_in_several_turns_is_taken_together_up_to_the_bound() -> None:
    intake = Intake(asyncio.get_running_loop())
    appends = [append_of(3) for _ in range(5)]
    for append in appends:
        intake.put(append)
        await asyncio.sleep(0)
    assert intake.take(7) == appends[:3]
    assert intake.take(7) == appends[3:]


async def test_an_append_larger_than_the_bound_is_taken_alone() -> None:
    intake = Intake(asyncio.get_running_loop())
    large, small = append_of(50), append_of(1)
    intake.put(large)
    intake.put(small)
    await asyncio.sleep(0)
    assert (intake.take(7), intake.take(7)) == ([large], [small])


async def test_a_job_has_its_turn_after_what_came_before_it() -> None:
    intake, loop = Intake(asyncio.get_running_loop()), asyncio.get_running_loop()
    before, after = append_of(1), append_of(1)
    job = Job(lambda: None, loop.create_future())
    for item in (before, job, after):
        intake.put(item)
    await asyncio.sleep(0)
    assert [intake.take(7) for _ in range(3)] == [[before], job, [after]]
