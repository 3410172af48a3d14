"""The tasks that come with us do what they say."""

from __future__ import annotations

from typing import Any

import pytest

from cascadenced.events.idea import NoteRecorded
from cascadenced.plugins.builtin import Bookmarks, CapabilityFollowUp, Countdown, Example, Sleeper
from tests.doubles import World, run


async def test_the_example_says_that_it_ran() -> None:
    async with World(Example).up() as instance:
        assert (await run(instance, "example")).run.result == "example ran"


async def test_the_countdown_passes_its_stages() -> None:
    async with World(Countdown).up() as instance:
        ended = await run(instance, "countdown", args={"seconds": 0})
    assert ended.run.result == {"counted": ["three", "two", "one", "lift-off"]}
    assert ended.run.done == ("intake", "plan", "precheck", "run", "verify")


@pytest.mark.parametrize("seconds", [-1, 3601, "1", True, None, float("1e300")])
async def test_the_countdown_refuses_what_is_no_number_of_seconds(seconds: Any) -> None:
    async with World(Countdown).up() as instance:
        ended = await run(instance, "countdown", args={"seconds": seconds})
    assert ended.run.reason == "args.seconds must be a number from 0 to 3600"


async def test_the_sleeper_sleeps_and_never_for_a_negative_time() -> None:
    async with World(Sleeper).up() as instance:
        assert (await run(instance, "sleeper", args={"seconds": 0})).run.result == {"slept_s": 0.0}
        assert (await run(instance, "sleeper", args={"seconds": -5})).run.status == "success"


async def test_bookmarks_keep_pointers_and_run_to_nothing() -> None:
    async with World(Bookmarks).up() as instance:
        assert instance.board.kind("bookmarks") == "pointer"
        assert (await run(instance, "bookmarks")).run.result is None


async def test_the_follow_up_leaves_a_note_about_the_run_that_failed() -> None:
    world = World(CapabilityFollowUp)
    async with world.up() as instance:
        asked = {"failed_run_id": "r1", "failed_task": "fails"}
        ended = await run(instance, "capability_follow_up", args=asked)
    [note] = world.events(NoteRecorded)
    assert note.note == "run r1 of fails failed"
    assert (note.task, note.about_run_id) == ("capability_follow_up", ended.run and world.recorded()[1].run_id)
