"""What it means when a stream is not what it was."""

from __future__ import annotations

from typing import Any

import pytest

from cascadenced.bus.marks import (
    Kept,
    Marks,
    Queue,
    Seen,
    StreamMarks,
    compare,
    compare_consumers,
    compare_own,
    digest,
    unexplained,
)

NOW = 1_790_000_000_000_000
DAY = 86_400_000_000
KNOWN = StreamMarks(created=5, end=100, n_messages=90, read_seq=80, read_at_us=NOW - 10)
OWN = Marks(own_seq=95, own_id=digest("mine"), own_at_us=NOW - 1_000)


def seen(**what: Any) -> Seen:
    return Seen(
        **{
            "name": "UME",
            "created": 5,
            "first_seq": 11,
            "end": 100,
            "n_messages": 90,
            "full": False,
            "max_age_us": 7 * DAY,
            "selective": False,
            "oldest_at_us": NOW - DAY,
            "own": Kept(NOW - 1_000, "mine"),
            "read": Kept(NOW - 10, "theirs"),
        }
        | what
    )


def reason(known: StreamMarks = KNOWN, **what: Any) -> str | None:
    broken = compare(known, seen(**what)) or compare_own(OWN, seen(**what), NOW)
    return broken and broken.reason


@pytest.mark.parametrize(
    ("what", "broken"),
    [
        ({}, None),
        ({"end": 200, "n_messages": 190}, None),
        ({"read": None}, None),  # acknowledged and erased
        ({"created": 6}, "stream_recreated"),
        ({"created": 6, "end": 3, "own": None, "read": None}, "stream_recreated"),
        ({"first_seq": 96, "own": None, "n_messages": 5, "selective": True}, None),
        ({"own": None, "selective": True}, None),  # another message of its subject took its place
        ({"first_seq": 101, "own": None, "n_messages": 0, "selective": True}, "marker_gone"),
        ({"end": 99}, "end_lost"),
        ({"end": 0, "own": None, "read": None}, "end_lost"),
        ({"end": 120, "read": Kept(NOW, "another")}, "end_lost"),
        ({"end": 120, "own": Kept(NOW, "another")}, "end_lost"),
        ({"own": None}, "marker_gone"),
        ({"own": None, "first_seq": 101, "n_messages": 0}, "marker_gone"),  # a purge
        ({"own": None, "first_seq": 101, "full": True}, None),  # pushed out by others
        ({"own": None, "first_seq": 90, "full": True}, "marker_gone"),
    ],
)
def test_a_stream_is_compared_with_what_is_known_of_it(what: dict[str, Any], broken: str | None) -> None:
    assert reason(**what) == broken


def test_where_our_marks_are_newer_than_the_last_look_they_say_where_the_end_was() -> None:
    known = StreamMarks(created=5, end=50, read_seq=110, read_at_us=NOW)
    assert reason(known, end=105) == "end_lost"
    assert compare_own(OWN, seen(end=94, own=None), NOW).reason == "end_lost"  # type: ignore[union-attr]


def test_our_last_message_may_go_with_age() -> None:
    gone = seen(own=None, first_seq=101, n_messages=0)
    assert compare_own(OWN, gone, NOW + 6 * DAY) is not None
    assert compare_own(OWN, gone, NOW + 7 * DAY) is None
    # It was stored before we heard of it, by another clock.
    assert compare_own(OWN, gone, NOW + 7 * DAY - 60_000_000) is None


def test_who_knows_nothing_misses_nothing() -> None:
    assert compare(StreamMarks(), seen(end=0, read=None)) is None
    assert compare_own(Marks(), seen(own=None), NOW) is None
    assert compare_consumers(StreamMarks(), "UME", 0, 0) is None


@pytest.mark.parametrize(
    ("consumers", "used", "broken"),
    [(0b111, 0b101, None), (0b1111, 0b111, None), (0b110, 0b100, "consumers_gone"), (0b111, 0b100, "consumers_gone")],
)
def test_a_consumer_that_is_gone_or_begins_anew_is_noticed(consumers: int, used: int, broken: str | None) -> None:
    found = compare_consumers(StreamMarks(consumers=0b111, used=0b101), "UME", consumers, used)
    assert (found and found.reason) == broken


@pytest.mark.parametrize(
    ("what", "n_erased", "n"),
    [
        ({}, 0, 0),
        ({"end": 150, "n_messages": 140}, 0, 0),
        ({"end": 150, "n_messages": 130}, 0, 10),
        ({"end": 150, "n_messages": 130}, 10, 0),
        ({"end": 150, "n_messages": 130}, 9, 10),
        ({"n_messages": 0, "full": True}, 0, 0),
        ({"n_messages": 60, "selective": True}, 0, 0),
        ({"n_messages": 60, "oldest_at_us": NOW - 7 * DAY + 5}, 0, 0),  # they go with age
    ],
)
def test_messages_that_nobody_removed_are_counted(what: dict[str, Any], n_erased: int, n: int) -> None:
    assert unexplained(KNOWN, seen(**what), n_erased, NOW) == n


def queue(**what: int) -> Queue:
    fields = {"first_seq": 7, "n_messages": 5, "ack_floor": 6, "n_delivered": 6, "n_pending": 5}
    return Queue(**{**fields, "n_unacked": 0, "n_waiting": 2, **what})


@pytest.mark.parametrize(
    ("before", "now", "stuck"),
    [
        ({"n_pending": 4, "n_unacked": 1}, {}, False),  # somebody works on one
        ({}, {"first_seq": 8, "n_delivered": 7}, False),  # it goes on
        ({}, {"n_delivered": 7}, False),
        ({"n_waiting": 0}, {"n_waiting": 0}, False),  # nobody asks
        ({"n_messages": 0, "n_pending": 0}, {"n_messages": 0, "n_pending": 0}, False),  # nothing there
        ({}, {}, True),  # asked for, and not given
        ({"n_pending": 0}, {"n_pending": 0}, True),  # there, and not meant to be given
        ({"n_pending": 0}, {"n_pending": 0, "n_delivered": 60}, True),  # though others are
        ({"ack_floor": 9, "n_unacked": 3}, {"ack_floor": 12, "n_unacked": 1}, True),  # passed over
        ({"n_pending": 0}, {}, False),
    ],
)
def test_a_queue_is_stuck_when_two_looks_say_so(before: dict[str, int], now: dict[str, int], stuck: bool) -> None:
    assert queue(**now).is_stuck(queue(**before)) is stuck
    assert not queue(**now).is_stuck(None)


def test_digests_are_numbers_that_can_be_stored() -> None:
    assert {digest(str(n)).bit_length() <= 63 for n in range(1000)} == {True}
    assert len({digest(str(n)) for n in range(1000)}) == 1000
    assert digest("") > 0
