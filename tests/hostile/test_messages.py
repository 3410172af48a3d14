"""What becomes of a mutated message: the program's rules and the oracle, written apart, say the same."""

from __future__ import annotations

from collections import Counter
from random import Random
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cascadenced.errors import BadMessage
from cascadenced.events.bodies import SCHEMA_VERSION
from cascadenced.events.catalogue import TYPE_NAMES
from cascadenced.events.inbound import decode
from cascadenced.instance import Instance
from cascadenced.runtime.ingest import Message
from tests.doubles import World
from tests.hostile.messages import NEWEST, TASK, Maker, Sent, fate, sent

FROM_THE_BUS = {
    *("run.requested", "event.dispatched", "pointer.added", "run.reported", "idea.recorded", "note.recorded"),
    *("schedule.set", "schedule.removed"),
}


STAMP = SimpleNamespace(at_us=1_790_000_000_000_000)


class Telling:
    """What the messages ask for."""

    name = TASK

    async def run(self) -> int:
        return len(self.user_id)  # type: ignore[attr-defined]


async def outcome(instance: Instance, message: Sent) -> str:
    """The reason of the dead letter, or the type of the event. Raises whatever a handler of ours trips over."""
    before = instance.log.position
    known = Message(source=f"storm:{message.n}:{before}", stamp=STAMP, origin=None, traceparent=None)
    try:
        await instance.bus_commands.batch()(decode("ume", message.subject, message.body), known)
    except BadMessage as error:
        return error.code if str(error) else "no sentence"
    types = [TYPE_NAMES[type(recorded.event)] for recorded in await instance.log.read(before, 100)]
    return next((kind for kind in types if kind in FROM_THE_BUS), "nothing")


async def check(instance: Instance, message: Sent) -> str:
    found, expected = await outcome(instance, message), fate(message._replace(headers={}))
    possible = expected.reasons or {expected.event}
    assert found in possible, f"{message}\nbecame {found}, not {sorted(map(str, possible))}"
    return found


@pytest.mark.parametrize("seed", range(4))
async def test_a_thousand_messages_become_what_they_must(seed: int) -> None:
    found: Counter[str] = Counter()
    async with World(Telling).up() as instance:
        for n in range(1000):
            found[await check(instance, sent(seed, n))] += 1
    # Else the mutations have lost their bite.
    reasons = {"undecodable", "invalid", "too_deep", "unknown_family", "unknown_task", "future_schema"}
    assert reasons | FROM_THE_BUS <= set(found)


@settings(
    max_examples=400,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.large_base_example, HealthCheck.data_too_large],
)
@given(st.randoms(use_true_random=False))
async def test_no_mutation_is_found_that_becomes_something_else(random: Random) -> None:
    async with World(Telling).up() as instance:
        await check(instance, Maker(random, 0, "m").make())


def test_the_same_seed_gives_the_same_messages() -> None:
    assert [sent(7, n) for n in range(50)] == [sent(7, n) for n in range(50)]
    assert sent(7, 3) != sent(8, 3)


def test_the_oracle_knows_which_schema_is_the_newest() -> None:
    assert [int(part) for part in SCHEMA_VERSION.split(".")] == NEWEST
