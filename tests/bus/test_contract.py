"""What both buses promise."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping

import pytest

from cascadenced.bus.base import Delivery, Reply
from cascadenced.errors import BadMessage, Unavailable
from cascadenced.events.outgoing import Outgoing
from tests.bus.conftest import World


async def fetched(world: World, n: int) -> list[Delivery]:
    """The next `n` deliveries."""
    got: list[Delivery] = []
    async with asyncio.timeout(10):
        while len(got) < n:
            got += await world.bus.fetch(n - len(got))
    return got


async def acked(world: World, n: int, *, erase: bool = False) -> list[Delivery]:
    got = await fetched(world, n)
    for delivery in got:
        delivery.ack(erase=erase)
    return got


def outgoing(subject: str, n: int = 0, origin: str = "me") -> Outgoing:
    headers = {"Nats-Msg-Id": f"{subject}-{n}", "Cascadence-Origin": origin}
    return Outgoing.with_headers(subject, json.dumps({"n": n}).encode(), headers)


async def test_a_message_comes_with_all_that_was_sent(world: World) -> None:
    await world.send("ume.pointer.example", b"{}", {"Nats-Msg-Id": "p-1", "traceparent": "00-ä"})
    [delivery] = await acked(world, 1)
    assert (delivery.subject, delivery.data) == ("ume.pointer.example", b"{}")
    assert delivery.headers["Nats-Msg-Id"] == "p-1"
    assert delivery.headers["traceparent"] == "00-ä"
    assert (delivery.stream, delivery.stream_seq, delivery.n_delivered) == ("UME", 1, 1)
    assert delivery.at_us > 1_600_000_000_000_000


async def test_a_message_without_headers_has_none(world: World) -> None:
    await world.send("ume.idea", b"{}")
    [delivery] = await acked(world, 1)
    assert delivery.headers == {}


async def test_every_inbound_family_arrives_and_unknown_flat_ones_do_too(world: World) -> None:
    subjects = {
        "ume.event.calendar.event.created",
        "ume.run.request.example",
        "ume.pointer.example",
        "ume.schedule.example",
        "ume.task_run.example",
        "ume.idea",
        "ume.note",
        "ume.never_heard_of",
    }
    for subject in subjects:
        await world.send(subject, b"{}")
    assert {delivery.subject for delivery in await acked(world, len(subjects))} == subjects


async def test_fetch_waits_for_the_first_message(world: World) -> None:
    waiting = asyncio.create_task(world.bus.fetch(10))
    await asyncio.sleep(0)
    assert not waiting.done()
    await world.send("ume.note", b"1")
    [delivery] = await asyncio.wait_for(waiting, 5)
    assert delivery.data == b"1"
    delivery.ack()


async def test_fetch_returns_no_more_than_asked_for(world: World) -> None:
    for n in range(5):
        await world.send("ume.note", b"%d" % n)
    first = await world.bus.fetch(2)
    assert 1 <= len(first) <= 2
    rest = await fetched(world, 5 - len(first))
    assert [delivery.data for delivery in [*first, *rest]] == [b"0", b"1", b"2", b"3", b"4"]


async def test_more_messages_than_may_be_in_flight_all_arrive_in_order(world: World) -> None:
    n = 1500
    await asyncio.gather(*(world.send("ume.event.x", b"%d" % i) for i in range(n)))
    got: dict[int, bytes] = {}
    async with asyncio.timeout(20):
        while len(got) < n:  # on a slow machine the broker may lose patience, and some come twice
            for delivery in await world.bus.fetch(100):
                delivery.ack()
                got.setdefault(delivery.stream_seq, delivery.data)
    assert list(got) == sorted(got)
    assert sorted(map(int, got.values())) == list(range(n))


async def test_what_nobody_acknowledged_comes_again_and_is_the_same(world: World) -> None:
    await world.send("ume.event.x", b"once")
    [first] = await fetched(world, 1)
    await world.impatience()
    [second] = await acked(world, 1)
    assert (second.data, second.stream_seq, second.at_us) == (first.data, first.stream_seq, first.at_us)
    assert (first.n_delivered, second.n_delivered) == (1, 2)


async def test_what_was_acknowledged_does_not_come_again(world: World) -> None:
    await world.send("ume.event.x", b"acknowledged")
    await world.send("ume.event.x", b"left")
    first, _left = await fetched(world, 2)
    first.ack()
    await world.impatience()
    [again] = await acked(world, 1)
    assert again.data == b"left"


async def test_a_message_put_off_comes_again_after_its_delay(world: World) -> None:
    await world.send("ume.event.x", b"later")
    [delivery] = await fetched(world, 1)
    delivery.retry_later(0.2)
    delivery.ack()  # too late: only the first end counts
    again = asyncio.create_task(world.bus.fetch(1))
    await world.pass_time(0.1)
    assert not again.done()
    await world.pass_time(0.1)
    [delivery] = await asyncio.wait_for(again, 5)
    assert (delivery.data, delivery.n_delivered) == (b"later", 2)
    delivery.ack()


async def test_an_end_after_the_broker_lost_patience_does_no_harm(world: World) -> None:
    await world.send("ume.event.x", b"slow")
    [first] = await fetched(world, 1)
    await world.impatience()
    [second] = await fetched(world, 1)
    first.ack()
    second.ack()
    await world.send("ume.event.x", b"next")
    assert [delivery.data for delivery in await acked(world, 1)] == [b"next"]


async def test_our_own_messages_are_stored_but_not_delivered_to_us(world: World) -> None:
    await world.bus.publish([outgoing("ume.task_run.example"), outgoing("ume.event.done")])
    await world.send("ume.task_run.example", b"foreign", {"Cascadence-Origin": "another"})
    assert [delivery.data for delivery in await acked(world, 1)] == [b"foreign"]
    assert len(await world.stored()) == 3


async def test_what_is_published_is_stored_in_order(world: World) -> None:
    messages = [outgoing("ume.stage.example.run", n) for n in range(40)]
    await world.bus.publish(messages)
    assert await world.stored() == [(message.subject, message.body) for message in messages]


@pytest.mark.parametrize("n", [3, 40])
async def test_publishing_again_changes_nothing(world: World, n: int) -> None:
    messages = [outgoing("ume.audit.example.run", i) for i in range(n)]
    await world.bus.publish(messages[: n - 1])
    await world.bus.publish(messages)
    assert await world.stored() == [(message.subject, message.body) for message in messages]


async def test_nothing_to_publish_is_no_trouble(world: World) -> None:
    await world.bus.publish([])


async def test_subjects_nobody_stores_and_run_requests_may_stand_between_others(world: World) -> None:
    ours = [outgoing("ume.stage.example.run", n) for n in range(40)]
    mixed = [*ours[:20], outgoing("elsewhere.example"), outgoing("ume.run.request.child", origin="another"), *ours[20:]]
    await world.bus.publish(mixed)
    assert len(await world.stored()) == 40
    assert [subject for subject, _ in await world.stored(runs=True)] == ["ume.run.request.child"]


async def test_a_message_too_large_for_the_broker_is_refused_before_any_is_sent(world: World) -> None:
    huge = Outgoing("ume.stage.example.run", bytes(world.bus.info().max_payload_bytes + 1))
    with pytest.raises(BadMessage) as refusal:
        await world.bus.publish([outgoing("ume.stage.example.run"), huge])
    assert refusal.value.code == "too_large"
    assert await world.stored() == []
    await world.bus.publish([outgoing("ume.stage.example.run")])


async def test_an_acknowledged_run_request_leaves_its_queue(world: World) -> None:
    await world.send("ume.run.request.example", b"{}")
    await acked(world, 1, erase=True)
    async with asyncio.timeout(5):
        while await world.stored(runs=True):
            await asyncio.sleep(0.01)


async def test_an_erased_message_leaves_its_stream_and_does_not_come_again(world: World) -> None:
    for n in range(20):
        await world.send("ume.event.secret", b"%d" % n)
    await acked(world, 20, erase=True)
    await world.send("ume.event.open", b"after")
    await world.impatience()
    assert [delivery.data for delivery in await acked(world, 1)] == [b"after"]
    async with asyncio.timeout(5):
        while [subject for subject, _ in await world.stored()] != ["ume.event.open"]:
            await asyncio.sleep(0.01)


async def test_a_request_is_answered_by_its_verb(world: World) -> None:
    async def echo(body: bytes, headers: Mapping[str, str]) -> Reply:
        return body.upper(), {}

    async def refuse(body: bytes, headers: Mapping[str, str]) -> Reply:
        return b"{}", {"Nats-Service-Error": "unknown", "Nats-Service-Error-Code": "404"}

    await world.bus.serve({"echo": echo, "refuse": refuse}, version="1.2.3.dev4")
    assert await world.request("echo", b"abc") == (b"ABC", {})
    _, headers = await world.request("refuse", b"")
    assert headers["Nats-Service-Error-Code"] == "404"


async def test_a_verb_that_raises_is_answered_for_and_served_again(world: World) -> None:
    async def fail(body: bytes, headers: Mapping[str, str]) -> Reply:
        raise RuntimeError("alice")

    await world.bus.serve({"fail": fail}, version="1.0.0")
    for _ in range(2):
        body, headers = await world.request("fail", b"")
        assert headers["Nats-Service-Error-Code"] == "500"
        assert b"alice" not in body + str(headers).encode()


async def test_a_slow_request_does_not_hold_up_the_next(world: World) -> None:
    go = asyncio.Event()

    async def verb(body: bytes, headers: Mapping[str, str]) -> Reply:
        if body == b"slow":
            await go.wait()
        return body, {}

    await world.bus.serve({"verb": verb}, version="1.0.0")
    slow = asyncio.create_task(world.request("verb", b"slow"))
    assert (await world.request("verb", b"fast"))[0] == b"fast"
    assert not slow.done()
    go.set()
    assert (await slow)[0] == b"slow"


async def test_a_closed_bus_says_so_to_everybody(world: World) -> None:
    waiting = asyncio.create_task(world.bus.fetch(1))
    await asyncio.sleep(0)
    await world.bus.close()
    await world.bus.close()
    with pytest.raises(Unavailable):
        await asyncio.wait_for(waiting, 5)
    with pytest.raises(Unavailable):
        await world.bus.publish([outgoing("ume.stage.example.run")])
    assert not world.bus.info().connected


async def test_info_says_what_it_is_connected_to(world: World) -> None:
    info = world.bus.info()
    assert info.connected
    assert info.epoch
    assert info.server_id
    assert info.max_payload_bytes == 1024 * 1024
    assert "@" not in info.url
