"""A checkpointed follower: every event, in order, at least once, and no further than it is done."""

from __future__ import annotations

import asyncio

import pytest

from cascadenced.errors import DiskError, DiskFull, LogCorrupt, Unavailable
from cascadenced.runtime.follow import MAX_ATTEMPTS, follow
from cascadenced.runtime.retry import backoff_s
from tests.eventlog.words import said, texts


class Reaction:
    """Remembers what it was handed; `fails` are raised first, one a call."""

    def __init__(self, *fails):
        self.fails = list(fails)
        self.handed = []
        self.calls = 0
        self.called = asyncio.Event()

    async def __call__(self, batch):
        self.calls += 1
        self.called.set()
        if self.fails:
            raise self.fails.pop(0)
        self.handed += texts(batch)

    async def next_call(self):
        async with asyncio.timeout(5):
            await self.called.wait()
        self.called.clear()


@pytest.fixture
async def following(log, clock):
    """Starts followers; they are stopped at the end."""
    tasks = []

    def start(react, name="planner", skipped=None):
        skip = [].append if skipped is None else skipped.append
        tasks.append(asyncio.ensure_future(follow(log, clock, name, react, skip)))
        return tasks[-1]

    yield start
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_events_are_handed_over_and_the_checkpoint_moves(log, following):
    reaction = Reaction()
    following(reaction)
    await log.append([said("a", "one", "two")])
    await reaction.next_call()
    await asyncio.sleep(0)
    assert (reaction.handed, await log.checkpoint("planner")) == (["one", "two"], 2)


async def test_following_begins_after_the_checkpoint(log, following):
    await log.append([said("a", "one", "two", "three")])
    log.set_checkpoint("planner", 2)
    reaction = Reaction()
    following(reaction)
    await reaction.next_call()
    assert reaction.handed == ["three"]


async def test_a_restart_goes_on_where_the_follower_was(store, clock):
    seen = []
    for n in range(3):
        log = await store.open()
        reaction = Reaction()
        task = asyncio.ensure_future(follow(log, clock, "planner", reaction, [].append))
        await log.append([said("a", f"event {n}")])
        await reaction.next_call()
        await asyncio.sleep(0)
        await log.close()
        await asyncio.wait_for(task, 5)
        seen += reaction.handed
    assert seen == ["event 0", "event 1", "event 2"]


@pytest.mark.parametrize("error", [Unavailable("NATS is away"), DiskFull("full")])
async def test_the_same_events_are_handed_over_again_after_a_while(log, clock, following, error):
    reaction = Reaction(error, error)
    following(reaction)
    await log.append([said("a", "one")])
    await reaction.next_call()
    for attempt in (1, 2):
        await asyncio.sleep(0)
        await clock.advance(backoff_s(attempt))
        await reaction.next_call()
    assert (reaction.handed, reaction.calls) == (["one"], 3)


async def test_the_checkpoint_stays_while_the_reaction_fails(log, following):
    reaction = Reaction(*[Unavailable("away")] * 9)
    following(reaction)
    await log.append([said("a", "one")])
    await reaction.next_call()
    assert await log.checkpoint("planner") == 0


class Poisoned(Reaction):
    """Raises for as long as one of the `bad` texts is among what it is handed."""

    def __init__(self, *bad, error=ValueError):
        super().__init__()
        self.bad, self.error = bad, error

    async def __call__(self, batch):
        if any(text in self.bad for text in texts(batch)):
            self.calls += 1
            raise self.error("a bug")
        await super().__call__(batch)


async def patiently(clock, condition):
    """Let virtual time pass until `condition` holds; a log in a file takes real time as well."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0)
            if clock.n_sleeping:
                await clock.advance(1.0)


async def test_an_event_that_a_follower_fails_on_is_skipped_and_the_next_are_handed_over(log, clock, following):
    reaction, skipped = Poisoned("two"), []
    task = following(reaction, skipped=skipped)
    await log.append([said("a", "one", "two", "three")])
    await patiently(clock, lambda: "three" in reaction.handed)
    assert (texts(skipped), reaction.handed) == (["two"], ["one", "three"])
    await log.append([said("a", "four")])
    await patiently(clock, lambda: "four" in reaction.handed)
    await asyncio.sleep(0)
    assert (await log.checkpoint("planner"), task.done()) == (4, False)


async def test_an_event_is_tried_several_times_before_it_is_skipped(log, clock, following):
    reaction, skipped = Reaction(*[ValueError("passing")] * (MAX_ATTEMPTS - 1)), []
    following(reaction, skipped=skipped)
    await log.append([said("a", "one")])
    await patiently(clock, lambda: reaction.handed)
    assert (skipped, reaction.handed) == ([], ["one"])


async def test_a_skipped_event_is_told_of_with_its_position_and_not_with_what_it_says(log, clock, following, capsys):
    reaction, skipped = Poisoned("two"), []
    following(reaction, skipped=skipped)
    await log.append([said("a", "one", "two")])
    await patiently(clock, lambda: skipped)
    [line] = [line for line in capsys.readouterr().out.splitlines() if "event_skipped" in line]
    assert "position=2" in line
    assert "ValueError" in line
    assert "follower=planner" in line


async def test_a_follower_that_is_cancelled_skips_nothing(log, clock, following):
    reaction, skipped = Poisoned("one", error=asyncio.CancelledError), []
    task = following(reaction, skipped=skipped)
    await log.append([said("a", "one")])
    await asyncio.wait([task], timeout=5)
    assert task.cancelled()
    assert (skipped, await log.checkpoint("planner")) == ([], 0)


@pytest.mark.parametrize("error", [DiskError("the log is closed"), LogCorrupt("torn", position=3)])
async def test_a_log_that_is_gone_ends_the_follower_and_skips_nothing(log, following, error):
    skipped = []
    task = following(Reaction(error), skipped=skipped)
    await log.append([said("a", "one")])
    with pytest.raises(type(error)):
        await asyncio.wait_for(task, 5)
    assert (skipped, await log.checkpoint("planner")) == ([], 0)


async def test_following_ends_when_the_log_is_closed(log, following):
    task = following(Reaction())
    await asyncio.sleep(0)
    await log.close()
    await asyncio.wait_for(task, 5)


def test_waits_double_and_are_bounded():
    assert [backoff_s(n) for n in range(1, 8)] == [0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]


def test_the_millionth_wait_is_as_long_as_the_longest():
    assert backoff_s(1_000_000) == 5.0
