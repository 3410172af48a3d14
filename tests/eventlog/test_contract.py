"""What every event log promises (eventlog/base.py), asked of the real one on a real file and of its double."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from cascadenced.errors import DiskError, Unavailable, WrongVersion
from cascadenced.eventlog import tail
from cascadenced.eventlog.base import Change, Opening
from cascadenced.events.base import Context
from cascadenced.events.run import RunFinished, RunRefused, RunRequested, RunStarted
from cascadenced.events.stage import StageStarted
from tests.eventlog.words import Words, everything, said, taken, texts, words_in
from tests.examples import example


async def outcomes(*appends):
    """What became of appends that go into one batch: receipts and errors, in order."""
    return await asyncio.gather(*appends, return_exceptions=True)


# ── appending ────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_an_append_gives_back_what_is_then_read(log):
    receipt = await log.append([said("a", "one", "two"), said("b", "three")])
    assert await everything(log) == list(receipt.recorded)


async def test_positions_are_one_two_three_across_streams(log):
    receipt = await log.append([said("a", "one", "two"), said("b", "three")])
    assert [event.position for event in receipt.recorded] == [1, 2, 3]


async def test_versions_count_within_each_stream(log):
    await log.append([said("a", "one"), said("b", "two")])
    receipt = await log.append([said("b", "three"), said("a", "four", "five")])
    assert [(event.stream, event.version) for event in receipt.recorded] == [("b", 2), ("a", 2), ("a", 3)]


async def test_a_clash_on_one_stream_writes_nothing_on_the_others(log):
    with pytest.raises(WrongVersion):
        await log.append([said("a", "one"), said("b", "two", expected=7)])
    assert await everything(log) == []


async def test_position_is_that_of_the_newest_event(log):
    assert log.position == 0
    await log.append([said("a", "one", "two")])
    assert log.position == 2


async def test_an_append_of_nothing_writes_nothing(log):
    receipt = await log.append([])
    assert (list(receipt.recorded), log.position) == ([], 0)


async def test_each_event_carries_the_context_of_its_change(log):
    receipt = await log.append(
        [
            said("a", "one", user_hash="u", group_hash="g", run_id="r", correlation="c", traceparent="t"),
        ]
    )
    event = receipt.recorded[0]
    assert (event.user_hash, event.group_hash, event.run_id, event.correlation, event.traceparent) == tuple("ugrct")


async def test_events_carry_the_instant_of_their_append(log, clock):
    before = (await log.append([said("a", "one")])).recorded[0]
    await clock.advance(1.5)
    after = (await log.append([said("a", "two")])).recorded[0]
    assert after.at_us - before.at_us == 1_500_000


async def test_within_an_append_each_event_causes_the_next(log):
    one, two, three = (await log.append([said("a", "one", "two", cause="asked"), said("b", "three")])).recorded
    assert (one.cause, two.cause, three.cause) == ("asked", one.id, two.id)


async def test_a_change_may_name_a_cause_of_its_own(log):
    _, two = (await log.append([said("a", "one"), said("b", "two", cause="another")])).recorded
    assert two.cause == "another"


async def test_an_event_that_cannot_be_written_as_text_fails_its_own_caller_only(log):
    good = log.append([said("a", "one")])
    with pytest.raises(UnicodeEncodeError):
        await log.append([said("b\ud800", "two")])
    with pytest.raises(UnicodeEncodeError):
        await log.append([said("b", "two", traceparent="\ud800")])
    with pytest.raises(UnicodeEncodeError):
        await log.append([said("b", "two")], source="\ud800")
    assert texts((await good).recorded) == ["one"]


async def test_a_thousand_concurrent_appends_get_a_thousand_places(log):
    receipts = await asyncio.gather(*(log.append([said(f"s{n % 7}", str(n))]) for n in range(1000)))
    assert [receipt.recorded[0].position for receipt in receipts] == list(range(1, 1001))


# ── expected versions ────────────────────────────────────────────────────────────────────────────────────────────


async def test_zero_is_expected_of_a_new_stream(log):
    await log.append([said("a", "one", expected=0)])
    assert texts(await log.read_stream("a")) == ["one"]


async def test_the_version_last_seen_is_expected_of_a_known_stream(log):
    await log.append([said("a", "one", "two")])
    await log.append([said("a", "three", expected=2)])
    assert texts(await log.read_stream("a")) == ["one", "two", "three"]


@pytest.mark.parametrize("expected", [0, 1, 3])
async def test_another_version_is_refused_and_named(log, expected):
    await log.append([said("a", "one", "two")])
    with pytest.raises(WrongVersion) as refused:
        await log.append([said("a", "three", expected=expected)])
    assert (refused.value.stream, refused.value.expected, refused.value.actual) == ("a", expected, 2)


async def test_none_expects_any_version(log):
    await log.append([said("a", "one")])
    await log.append([said("a", "two", expected=None)])
    assert texts(await log.read_stream("a")) == ["one", "two"]


async def test_of_two_appends_that_expect_the_same_version_in_one_batch_the_first_wins(log):
    first, second = await outcomes(
        log.append([said("a", "mine", expected=0)]), log.append([said("a", "yours", expected=0)])
    )
    assert texts(first.recorded) == ["mine"]
    assert isinstance(second, WrongVersion)


async def test_a_clash_fails_only_its_own_append_within_a_batch(log):
    one, clash, two = await outcomes(
        log.append([said("a", "one")]), log.append([said("b", "x", expected=9)]), log.append([said("b", "two")])
    )
    assert isinstance(clash, WrongVersion)
    assert [r.recorded[0].position for r in (one, two)] == [1, 2]


async def test_the_version_is_guarded_after_a_restart_as_well(store):
    log = await store.open()
    await log.append([said("a", "one")])
    await log.close()
    log = await store.open()
    with pytest.raises(WrongVersion):
        await log.append([said("a", "two", expected=0)])


async def test_a_stream_that_fell_out_of_memory_keeps_its_version(log, monkeypatch):
    monkeypatch.setattr("cascadenced.eventlog.sequence.MAX_HEADS", 2)
    for stream in "abcd":
        await log.append([said(stream, "one")])
    receipt = await log.append([said("a", "two", expected=1)])
    assert receipt.recorded[0].version == 2


# ── sources ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_source_is_kept_on_the_first_event_of_its_append(log):
    receipt = await log.append([said("a", "one", "two")], source="bus:1")
    assert [event.source for event in receipt.recorded] == ["bus:1", None]


async def test_a_known_source_is_answered_with_the_first_position_and_not_written(log):
    await log.append([said("a", "zero")])
    await log.append([said("a", "one", "two")], source="bus:1")
    again = await log.append([said("a", "one", "two")], source="bus:1")
    assert (list(again.recorded), again.duplicate_of, log.position) == ([], 2, 3)


async def test_the_same_source_twice_in_one_batch_is_written_once(log):
    first, again = await outcomes(
        log.append([said("a", "one")], source="bus:1"), log.append([said("a", "one")], source="bus:1")
    )
    assert (first.duplicate_of, again.duplicate_of, log.position) == (None, 1, 1)


async def test_a_source_is_known_after_a_restart(store):
    log = await store.open()
    await log.append([said("a", "one")], source="bus:1")
    await log.close()
    log = await store.open()
    assert (await log.append([said("a", "one")], source="bus:1")).duplicate_of == 1


async def test_a_duplicate_is_answered_before_versions_are_compared(log):
    await log.append([said("a", "one", expected=0)], source="bus:1")
    assert (await log.append([said("a", "one", expected=0)], source="bus:1")).duplicate_of == 1


async def test_the_source_of_an_append_that_clashed_is_still_free(log):
    await log.append([said("a", "one")])
    with pytest.raises(WrongVersion):
        await log.append([said("a", "two", expected=0)], source="bus:1")
    receipt = await log.append([said("a", "two", expected=1)], source="bus:1")
    assert receipt.duplicate_of is None


async def test_positions_have_no_gaps_after_clashes_and_duplicates(log):
    appends = []
    for n in range(60):
        appends.append(log.append([said("a", str(n), expected=n)]))  # clashes from the second on: two writers
        appends.append(log.append([said("a", str(n))], source=f"bus:{n % 10}"))
    await outcomes(*appends)
    assert [event.position for event in await everything(log)] == list(range(1, log.position + 1))


# ── ids, epochs, origins, the chain ──────────────────────────────────────────────────────────────────────────────


async def test_event_ids_rise_also_when_the_clock_goes_back(log, clock):
    await log.append([said("a", "one")])
    clock.jump(-3600)
    await log.append([said("a", "two")])
    one, two = await everything(log)
    assert one.id < two.id


async def test_event_ids_rise_across_a_restart_with_a_clock_set_back(store, clock):
    log = await store.open()
    await log.append([said("a", "one")])
    await log.close()
    clock.jump(-3600)
    log = await store.open()
    await log.append([said("a", "two")])
    one, two = await everything(log)
    assert one.id < two.id


async def test_every_opening_raises_the_epoch(store):
    for expected in (1, 2, 3):
        log = await store.open()
        assert log.epoch == expected
        assert (await log.append([said("a", "x")])).recorded[0].epoch == expected
        await log.close()


async def test_the_origin_is_made_up_once_and_remembered(store):
    log = await store.open()
    origin = log.origin
    await log.close()
    log = await store.open()
    assert (await log.append([said("a", "one")])).recorded[0].origin == log.origin == origin


async def test_a_configured_origin_is_used_and_remembered(store):
    await (await store.open(instance_id="left")).close()
    assert (await store.open()).origin == "left"


async def test_the_chain_holds_over_batches_and_restarts(store):
    for _ in range(3):
        log = await store.open()
        await log.append([said("a", "one", "two")])
        await log.append([said("b", "three")], source=f"s{log.epoch}")
        await log.close()
    log = await store.open()
    assert await log.verify() == 9


# ── observers ────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_observers_see_a_batch_before_its_callers_are_resumed(log):
    seen = []
    log.observe(lambda batch: seen.append(texts(batch)))
    await log.append([said("a", "one")])
    assert seen == [["one"]]


async def test_observers_see_every_event_once_in_order(log):
    seen = []
    log.observe(seen.extend)
    await asyncio.gather(*(log.append([said("a", str(n))]) for n in range(200)))
    assert seen == await everything(log)


async def test_observers_are_told_in_the_order_they_came(log):
    told = []
    for name in "xyz":
        log.observe(lambda batch, name=name: told.append(name))
    await log.append([said("a", "one")])
    assert told == ["x", "y", "z"]


async def test_observers_hear_nothing_of_appends_that_wrote_nothing(log):
    await log.append([said("a", "one")], source="bus:1")
    seen = []
    log.observe(seen.append)
    await log.append([said("a", "one")], source="bus:1")
    assert seen == []


async def test_the_position_has_moved_when_observers_are_told(log):
    positions = []
    log.observe(lambda batch: positions.append(log.position))
    await log.append([said("a", "one", "two")])
    assert positions == [2]


async def test_an_observer_that_raises_keeps_neither_callers_nor_other_observers(log):
    seen = []

    def broken(batch):
        raise ZeroDivisionError

    log.observe(broken)
    log.observe(seen.extend)
    receipt = await asyncio.wait_for(log.append([said("a", "one")]), 5)
    assert seen == list(receipt.recorded)


# ── followers ────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_follower_catches_up_and_then_sees_what_is_committed(log):
    await log.append([said("a", "one", "two")])
    follower = log.follow(0)
    assert texts(await taken(follower, 2)) == ["one", "two"]
    await log.append([said("a", "three")])
    assert texts(await taken(follower, 1)) == ["three"]


async def test_a_follower_starts_after_the_position_it_names(log):
    await log.append([said("a", "one", "two", "three")])
    assert texts(await taken(log.follow(2), 1)) == ["three"]


async def test_a_follower_catches_up_with_what_was_recorded_before_the_restart(store):
    log = await store.open()
    await log.append([said("a", *map(str, range(10)))])
    await log.close()
    log = await store.open()
    follower = log.follow(3)
    await log.append([said("a", "new")])
    assert texts(await taken(follower, 8)) == [*map(str, range(3, 10)), "new"]


async def test_a_follower_that_waits_is_woken_by_a_commit(log):
    waiting = asyncio.ensure_future(taken(log.follow(0), 1))
    await asyncio.sleep(0)
    await log.append([said("a", "one")])
    assert texts(await waiting) == ["one"]


async def test_a_slow_follower_misses_nothing_when_it_falls_out_of_memory(log, monkeypatch):
    monkeypatch.setattr(tail, "MAX_RECENT", 8)
    monkeypatch.setattr(tail, "MAX_YIELD", 3)
    follower = log.follow(0)
    seen = []
    for n in range(50):
        await log.append([said("a", str(n), "again")])
        if n % 5 == 0:
            seen += await anext(follower)
    seen += await taken(follower, 100 - len(seen))
    assert [event.position for event in seen] == list(range(1, 101))


async def test_a_follower_misses_nothing_when_large_events_fall_out_of_memory(log, monkeypatch):
    monkeypatch.setattr(tail, "MAX_RECENT_BYTES", 1000)
    follower = log.follow(0)
    for _ in range(20):
        await log.append([said("a", "x" * 300)])
    assert [event.position for event in await taken(follower, 20)] == list(range(1, 21))


async def test_followers_get_each_event_once_while_others_append(log, monkeypatch):
    monkeypatch.setattr(tail, "MAX_RECENT", 16)
    monkeypatch.setattr(tail, "MAX_YIELD", 5)
    followers = [asyncio.ensure_future(taken(log.follow(n), 300 - n)) for n in (0, 100, 250)]

    async def writer(name):
        for n in range(100):
            await log.append([said(name, str(n))])

    await asyncio.gather(*(writer(name) for name in "abc"))
    for start, events in zip((0, 100, 250), await asyncio.gather(*followers), strict=True):
        assert [event.position for event in events] == list(range(start + 1, 301))


async def test_a_follower_ends_when_the_log_is_closed(log):
    async def all_of_it():
        return [event async for batch in log.follow(0) for event in batch]

    following = asyncio.ensure_future(all_of_it())
    await log.append([said("a", "one")])
    await asyncio.sleep(0)
    await log.close()
    assert texts(await asyncio.wait_for(following, 5)) == ["one"]


async def test_following_a_closed_log_ends_at_once(log):
    await log.close()
    assert [batch async for batch in log.follow(0)] == []


async def test_a_cancelled_follower_disturbs_no_other(log):
    gone, stays = (asyncio.ensure_future(taken(log.follow(0), 1)) for _ in range(2))
    await asyncio.sleep(0)
    gone.cancel()
    await log.append([said("a", "one")])
    assert texts(await stays) == ["one"]


# ── checkpoints ──────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_follower_begins_at_zero(log):
    assert await log.checkpoint("outbox") == 0


async def test_a_checkpoint_is_answered_at_once(log):
    log.set_checkpoint("outbox", 7)
    assert await log.checkpoint("outbox") == 7


async def test_a_checkpoint_is_saved_at_close_without_any_append(store):
    log = await store.open()
    await log.append([said("a", *"1234567")])
    log.set_checkpoint("outbox", 7)
    await log.close()
    assert await (await store.open()).checkpoint("outbox") == 7


async def test_a_number_that_is_no_position_is_kept_and_is_not_taken_for_one(store):
    log = await store.open()
    await log.append([said("a", "one")])
    log.set_checkpoint("bus:own_seq", 2**62)
    await log.close()
    log = await store.open()
    assert await log.checkpoint("bus:own_seq") == 2**62
    assert await log.verify() == 1


async def test_each_follower_has_a_checkpoint_of_its_own(store):
    log = await store.open()
    await log.append([said("a", *"123456789")])
    log.set_checkpoint("outbox", 7)
    log.set_checkpoint("planner", 9)
    await log.close()
    log = await store.open()
    assert [await log.checkpoint(name) for name in ("outbox", "planner", "other")] == [7, 9, 0]


async def test_checkpoints_set_while_commits_run_end_as_the_last_one_said(store):
    log = await store.open()
    for n in range(200):
        pending = log.append([said("a", str(n))])
        log.set_checkpoint("outbox", n)
        assert await log.checkpoint("outbox") == n
        await pending
        assert await log.checkpoint("outbox") == n
    await log.close()
    assert await (await store.open()).checkpoint("outbox") == 199


# ── unfinished streams ───────────────────────────────────────────────────────────────────────────────────────────


async def test_a_stream_is_unfinished_from_its_request_to_its_end(log):
    await log.append([Change("run-1", [example(RunRequested)])])
    assert await log.unfinished() == ["run-1"]
    await log.append([Change("run-1", [example(RunFinished)])])
    assert await log.unfinished() == []


async def test_a_stream_that_ends_in_the_append_that_opened_it_never_is_unfinished(log):
    await log.append([Change("run-1", [example(RunRequested), example(RunRefused)])])
    assert await log.unfinished() == []


async def test_a_stream_that_ends_in_the_batch_that_opened_it_never_is_unfinished(log):
    await outcomes(
        log.append([Change("run-1", [example(RunRequested)])]), log.append([Change("run-1", [example(RunFinished)])])
    )
    assert await log.unfinished() == []


async def test_unfinished_streams_come_oldest_first_also_after_a_restart(store):
    log = await store.open()
    for name in ("run-b", "run-c", "run-a"):
        await log.append([Change(name, [example(RunRequested)])])
    await log.append([Change("run-c", [example(RunFinished)])])
    await log.close()
    assert await (await store.open()).unfinished() == ["run-b", "run-a"]


async def test_unfinished_streams_are_told_with_what_opened_them_also_after_a_restart(store):
    log = await store.open()
    await log.append([said("a", "something else")])
    for name, task, priority, group, parent in (
        ("run-b", "y", -7, "g" * 64, None),
        ("run-c", "x", 0, None, None),
        ("run-a", "x", 2**31 - 1, "h" * 64, "b"),
    ):
        requested = example(RunRequested, task=task, priority=priority, parent_run_id=parent)
        await log.append([Change(name, [requested], context=Context(group_hash=group))])
    await log.append([Change("run-c", [example(RunFinished)])])
    await log.close()
    assert await (await store.open()).openings() == [
        Opening("run-b", 2, "y", "g" * 64, -7, None),
        Opening("run-a", 4, "x", "h" * 64, 2**31 - 1, "b"),
    ]


async def test_what_a_run_is_not_given_is_told_as_it_is_meant(log):
    await log.append([Change("run-1", [RunRequested(task="x", via="bus")])])
    assert await log.openings() == [Opening("run-1", 1, "x", None, 0, None)]


@pytest.mark.parametrize(
    "args",
    [
        {},
        {"task": "other", "priority": 9, "parent_run_id": "other", "args": {"task": "other"}},
        {"$.args": 1, 'quo"ted': "\x00\x7f\u2028\ud7ff😀\\", "": {"": [None, True, 1e308, 2**64 - 1, -(2**63)]}},
        {"deep": eval("[" * 99 + "]" * 99)},
        {"large": "x" * 1_000_000},
    ],
    ids=["none", "the same names", "odd", "deep", "large"],
)
async def test_what_opened_a_stream_is_told_whatever_the_arguments_are(log, args):
    await log.append([Change("run-1", [RunRequested(task='é "x', via="bus", args=args, priority=3)])])
    assert await log.openings() == [Opening("run-1", 1, 'é "x', None, 3, None)]


async def test_a_run_that_goes_on_is_told_as_it_was_opened(log):
    await log.append([Change("run-1", [example(RunRequested, task="x"), example(RunStarted)])])
    await log.append([Change("run-1", [example(StageStarted)])])
    assert [(opening.stream, opening.position) for opening in await log.openings()] == [("run-1", 1)]


async def test_nothing_is_told_where_nothing_is_unfinished(log):
    assert await log.openings() == []


# ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_stream_is_read_alone_and_in_order(log):
    await log.append([said("a", "one"), said("b", "two"), said("a", "three")])
    assert texts(await log.read_stream("a")) == ["one", "three"]


async def test_a_stream_is_read_after_a_version(log):
    await log.append([said("a", "one", "two", "three")])
    assert texts(await log.read_stream("a", 1)) == ["two", "three"]


async def test_an_unknown_stream_is_empty(log):
    assert await log.read_stream("nobody") == []


async def test_pages_join_without_gap_or_duplicate(log):
    await log.append([said("a", *map(str, range(10)))])
    pages = [await log.read(after, 4) for after in (0, 4, 8)]
    assert [event.position for event in itertools.chain(*pages)] == list(range(1, 11))


async def test_there_is_nothing_after_the_end(log):
    await log.append([said("a", "one")])
    assert await log.read(1, 100) == []


async def test_what_is_read_back_equals_what_was_recorded_after_a_restart(store):
    log = await store.open()
    recorded = list((await log.append([said("a", "one ☃", "two\0")], source="s")).recorded)
    await log.close()
    assert await everything(await store.open()) == recorded


# ── callers that go away, and the end ────────────────────────────────────────────────────────────────────────────


async def test_the_events_of_a_cancelled_caller_stay_and_others_are_served(log):
    impatient = log.append([said("a", "one")])
    patient = log.append([said("a", "two")])
    impatient.cancel()
    await patient
    assert texts(await everything(log)) == ["one", "two"]


async def test_a_caller_cancelled_before_a_clash_disturbs_nobody(log):
    impatient = log.append([said("a", "one", expected=5)])
    impatient.cancel()
    assert texts((await log.append([said("a", "two")])).recorded) == ["two"]


async def test_closing_commits_what_is_queued(store):
    log = await store.open()
    queued = [log.append([said("a", str(n))]) for n in range(50)]
    await log.close()
    assert [future.result().recorded[0].position for future in queued] == list(range(1, 51))
    assert (await store.open()).position == 50


async def test_closing_twice_is_closing_once(log):
    await log.close()
    await log.close()


async def test_closing_at_the_same_time_is_closing_once(log):
    append = log.append([said("a", "one")])
    await asyncio.gather(log.close(), log.close())
    assert append.done()


async def test_an_append_to_a_closed_log_is_refused(log):
    await log.close()
    with pytest.raises(DiskError, match="closed"):
        await log.append([said("a", "one")])


async def test_the_tables_of_a_closed_log_are_unavailable(log):
    tables = log.tables
    await log.close()
    with pytest.raises(Unavailable, match="closed"):
        await tables.fetch("SELECT 1")


async def test_a_new_log_can_be_written_to(log):
    assert log.read_only is None


# ── projections ──────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_projection_has_folded_an_append_when_its_caller_is_resumed(store):
    log = await store.open(projections=[Words()])
    await log.append([said("a", "one", "two")])
    assert await words_in(log) == ["one", "two"]


async def test_a_projection_that_keeps_up_stands_at_the_head(store):
    log = await store.open(projections=[Words()])
    await log.append([said("a", "one", "two")])
    state = log.projection_states()[0]
    assert (state.name, state.position, state.frozen, state.stale_since_us) == ("words", 2, None, None)


async def test_a_new_projection_is_folded_from_the_whole_log_when_it_is_opened(store):
    log = await store.open()
    await log.append([said("a", "one", "two")])
    await log.close()
    assert await words_in(await store.open(projections=[Words()])) == ["one", "two"]


class Raising(Words):
    """Cannot bear the word `bad`."""

    bearable = False

    def before(self, connection, text):
        if text == "bad" and not self.bearable:
            raise ValueError("not that word")


async def test_a_projection_that_raises_is_frozen_where_it_stood_and_says_so(store, clock):
    log = await store.open(projections=[Raising()])
    await log.append([said("a", "good", "better")])
    await log.append([said("a", "fine", "bad")])
    await log.append([said("a", "later")])
    state = log.projection_states()[0]
    assert (state.position, state.frozen, state.stale_since_us) == (2, "ValueError: not that word", clock.now_us())
    assert await words_in(log) == ["good", "better"]


async def test_a_projection_that_raises_stops_neither_the_log_nor_other_projections(store):
    log = await store.open(projections=[Words("first"), Raising("second"), Words("third")])
    await log.append([said("a", "bad")])
    await log.append([said("a", "later")])
    assert await words_in(log, "first") == await words_in(log, "third") == ["bad", "later"]


async def test_even_a_projection_that_asks_the_program_to_exit_is_only_frozen(store):
    class Exiting(Words):
        def before(self, connection, text):
            raise SystemExit(3)

    log = await store.open(projections=[Exiting()])
    await asyncio.wait_for(log.append([said("a", "one")]), 5)
    assert log.projection_states()[0].frozen == "SystemExit: 3"


async def test_rebuilding_revives_a_frozen_projection(store):
    projection = Raising()
    log = await store.open(projections=[projection])
    await log.append([said("a", "good", "bad")])
    projection.bearable = True
    states = await log.rebuild()
    await log.append([said("a", "later")])
    assert states[0].frozen is None
    assert await words_in(log) == ["good", "bad", "later"]


async def test_rebuilding_a_projection_that_still_raises_freezes_it_again(store):
    log = await store.open(projections=[Raising()])
    await log.append([said("a", "good")])
    await log.append([said("a", "bad")])
    states = await log.rebuild(["words"])
    assert states[0].frozen == "ValueError: not that word"


async def test_only_the_named_projections_are_rebuilt(store):
    log = await store.open(projections=[Raising("first"), Raising("second")])
    await log.append([said("a", "bad")])
    for projection in log._projections:
        projection.bearable = True
    states = await log.rebuild(["second"])
    assert [state.frozen is None for state in states] == [False, True]
