"""The levers of the double."""

from __future__ import annotations

import asyncio

import pytest

from cascadenced.bus.base import Broken
from cascadenced.bus.memory import MemoryBus
from cascadenced.clock import FakeClock
from cascadenced.errors import Unavailable, Unknown
from tests.bus.test_contract import outgoing


@pytest.fixture
def bus() -> MemoryBus:
    return MemoryBus(clock=FakeClock(), instance_id="me", max_messages=10)


async def test_a_publish_told_to_fail_may_have_stored_some(bus: MemoryBus) -> None:
    messages = [outgoing("ume.stage.x.run", n) for n in range(3)]
    bus.fail_publishes(2, stored=1)
    for _ in range(2):
        with pytest.raises(Unavailable):
            await bus.publish(messages)
    await bus.publish(messages)
    assert list(bus.published) == messages


async def test_while_disconnected_nothing_moves(bus: MemoryBus) -> None:
    bus.send("ume.idea", b"1")
    [in_hand] = await bus.fetch(1)
    bus.disconnect()
    bus.send("ume.idea", b"2")
    waiting = asyncio.create_task(bus.fetch(10))
    await asyncio.sleep(0)
    with pytest.raises(Unavailable):
        await bus.publish([outgoing("ume.stage.x.run")])
    assert not waiting.done()
    assert not bus.info().connected
    bus.reconnect()
    assert sorted((got.data, got.n_delivered) for got in await waiting) == [(b"1", 2), (b"2", 1)]
    in_hand.ack()


async def test_what_is_acknowledged_late_is_not_delivered_again(bus: MemoryBus) -> None:
    bus.send("ume.idea", b"late")
    [in_hand] = await bus.fetch(1)
    bus.redeliver()
    in_hand.ack(erase=True)
    bus.send("ume.idea", b"next")
    assert [got.data for got in await bus.fetch(10)] == [b"next"]
    assert list(bus.erased) == [("UME", 1)]


async def test_a_wiped_broker_has_another_epoch_and_nothing_else(bus: MemoryBus) -> None:
    bus.send("ume.idea", b"old")
    [in_hand] = await bus.fetch(1)
    before = bus.info().epoch
    bus.wipe()
    bus.send("ume.idea", b"new")
    in_hand.ack(erase=True)
    bus.redeliver()
    assert [message.data for message in bus.messages()] == [b"new"]
    assert [got.data for got in await bus.fetch(10)] == [b"new"]
    assert bus.info().epoch != before


async def test_it_forgets_old_events_and_refuses_new_runs_at_its_bound(bus: MemoryBus) -> None:
    for n in range(15):
        bus.send("ume.idea", b"%d" % n)
        bus.send("ume.run.request.x", b"%d" % n)
    assert [message.data for message in bus.messages()] == [b"%d" % n for n in range(5, 15)]
    assert [message.data for message in bus.messages(runs=True)] == [b"%d" % n for n in range(10)]
    assert len(await bus.fetch(100)) == 20


async def test_an_id_is_known_for_two_minutes() -> None:
    clock = FakeClock()
    bus = MemoryBus(clock=clock)
    for _ in range(3):
        bus.send("ume.idea", b"", {"Nats-Msg-Id": "1"})
        await clock.advance(60)
    assert len(bus.messages()) == 2


async def test_a_verb_nobody_serves_is_unknown(bus: MemoryBus) -> None:
    with pytest.raises(Unknown):
        await bus.request("list", b"")


async def test_the_server_outlives_its_connections_and_what_they_did_not_end(bus: MemoryBus) -> None:
    bus.send("ume.idea", b"ended")
    bus.send("ume.idea", b"in hand")
    bus.send("ume.idea", b"put off")
    ended, _, put_off = await bus.fetch(10)
    ended.ack()
    put_off.retry_later(60.0)
    await bus.close()
    bus.server.store("ume.idea", b"meanwhile", {})
    again = MemoryBus(clock=FakeClock(), instance_id="me", server=bus.server, marks=bus.marks)
    assert sorted(got.data for got in await again.fetch(10)) == [b"in hand", b"meanwhile", b"put off"]


async def test_a_connection_that_remembers_more_than_the_server_has_says_so(bus: MemoryBus) -> None:
    await bus.publish([outgoing("ume.stage.x.run", n) for n in range(3)])
    bus.server.forget_tail(2)
    again = MemoryBus(clock=FakeClock(), instance_id="me", server=bus.server, marks=bus.marks)
    assert isinstance(await again.news(), Broken)
    with pytest.raises(Unavailable):
        await again.publish([outgoing("ume.stage.x.run", 3)])
    again.resume()
    await again.publish([outgoing("ume.stage.x.run", 3)])
