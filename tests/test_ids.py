"""Event ids always grow; run ids follow from what the outside called the request."""

from __future__ import annotations

import hashlib
import itertools
import random

import pytest

from cascadenced.ids import EventId, SeededIds, SystemIds, run_id_for

AT_US = 1_790_000_000_123_456


@pytest.fixture(params=[SystemIds, SeededIds])
def ids(request):
    return request.param()


def test_event_ids_grow_even_when_the_clock_goes_back(ids):
    clock = random.Random(7)
    made = [ids.event_id(AT_US + clock.randint(-10_000_000, 10_000_000)) for _ in range(100_000)]
    assert all(earlier < later for earlier, later in itertools.pairwise(made))


def test_event_ids_grow_within_one_millisecond(ids):
    made = [ids.event_id(AT_US) for _ in range(1000)]
    assert made == sorted(set(made))


def test_event_ids_of_one_millisecond_count_up(ids):
    made = [int(ids.event_id(AT_US), 16) for _ in range(1000)]
    assert made == list(range(made[0], made[0] + 1000))


def test_counting_up_carries_into_the_first_half(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(random.Random, "getrandbits", lambda self, n_bits: (1 << n_bits) - 1)
    ids = SeededIds()
    first, second = ids.event_id(AT_US), ids.event_id(AT_US)
    assert (first[16:], second[16:]) == ("b" + "f" * 15, "8" + "0" * 15)
    assert int(second[:16], 16) == int(first[:16], 16) + 1


def test_an_event_id_begins_with_its_milliseconds(ids):
    assert int(ids.event_id(AT_US)[:12], 16) == AT_US // 1000


def test_an_event_id_is_laid_out_as_a_uuid_of_version_7(ids):
    for _ in range(100):
        value = ids.event_id(AT_US)
        assert len(value) == 32
        assert value[12] == "7"
        assert value[16] in "89ab"


def test_event_ids_are_greater_than_the_logs_last_one(ids):
    last = EventId("ffff" + "0" * 8 + "7fff" + "bfffffffffffffff")
    ids.not_before(last)
    assert ids.event_id(AT_US) > last


def test_an_older_last_id_changes_nothing(ids):
    before = ids.event_id(AT_US)
    ids.not_before(EventId("0" * 32))
    assert ids.event_id(AT_US) > before


def test_two_processes_do_not_make_the_same_ids():
    assert SystemIds().event_id(AT_US) != SystemIds().event_id(AT_US)


def test_the_same_seed_makes_the_same_ids_tokens_and_fractions():
    def story(seed: int) -> list[object]:
        ids = SeededIds(seed)
        return [ids.event_id(AT_US), ids.token(), ids.event_id(AT_US)]

    assert story(5) == story(5)


def test_another_seed_makes_other_ids():
    assert SeededIds(1).event_id(AT_US) != SeededIds(2).event_id(AT_US)


def test_a_token_is_32_hex_digits_and_new_every_time(ids):
    tokens = {ids.token() for _ in range(100)}
    assert len(tokens) == 100
    assert all(len(token) == 32 and int(token, 16) >= 0 for token in tokens)


def test_a_second_delivery_names_the_same_run():
    assert run_id_for("run.request:m-1", AT_US) == run_id_for("run.request:m-1", AT_US)


def test_another_source_names_another_run():
    assert run_id_for("run.request:m-1", AT_US) != run_id_for("run.request:m-2", AT_US)


def test_a_run_id_is_48_bits_of_time_and_80_bits_of_the_sources_digest():
    run_id = run_id_for("key:example:ü", AT_US)
    assert run_id == f"{AT_US // 1000:012x}" + hashlib.sha256("key:example:ü".encode()).hexdigest()[:20]


def test_run_ids_sort_by_time():
    assert run_id_for("a", AT_US) < run_id_for("a", AT_US + 1000)
