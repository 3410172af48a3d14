"""What both buses promise about a broker that forgets: it is told, nothing moves before `resume`, then all goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from cascadenced.bus.base import Broken, Doubt, Lost, News, Restored, Sighting
from cascadenced.bus.marks import NO_SERVER, Marks, from_numbers, to_numbers
from cascadenced.errors import Unavailable
from cascadenced.events.outbound import POSITION_HEADER, REPUBLISHED_HEADER
from cascadenced.events.outgoing import Outgoing
from tests.bus.conftest import World
from tests.bus.test_contract import acked


def positioned(position: int, *, key: str = "audit", again: bool = False) -> Outgoing:
    headers = {
        "Nats-Msg-Id": f"{position:032x}.{key}",
        "Cascadence-Origin": "me",
        POSITION_HEADER: str(position),
    }
    return Outgoing.with_headers("ume.audit.example.run", b"{}", headers | ({REPUBLISHED_HEADER: "1"} if again else {}))


async def seen(world: World) -> list[Sighting]:
    return [sighting async for chunk in world.bus.scan() for sighting in chunk]


async def told(world: World, kind: type[News], n: int = 1) -> Sequence[News]:
    """The news of that kind, when there are as many."""
    async with asyncio.timeout(15):
        while len(found := [news for news in world.told if isinstance(news, kind)]) < n:
            await world.bus.check()
            await asyncio.sleep(0.02)
    return found


async def published(world: World, messages: list[Outgoing]) -> None:
    """As the outbox does: again, until it is confirmed."""
    async with asyncio.timeout(15):
        while True:
            try:
                return await world.bus.publish(messages)
            except Unavailable:
                await asyncio.sleep(0.02)


async def test_a_scan_shows_every_message_with_a_position_in_the_streams_order(world: World) -> None:
    await world.bus.publish([positioned(7), positioned(9), positioned(8, again=True)])
    await world.send("ume.audit.x.run", b"no headers at all")
    await world.send("ume.audit.x.run", b"nonsense", {POSITION_HEADER: "seven"})
    await world.send("ume.audit.x.run", b"far too much", {POSITION_HEADER: "9" * 100})
    await world.send("ume.event.x", b"another's", {POSITION_HEADER: "7", "Cascadence-Origin": "another"})
    assert await seen(world) == [
        Sighting(7, f"{7:032x}.audit", "me", False),
        Sighting(9, f"{9:032x}.audit", "me", False),
        Sighting(8, f"{8:032x}.audit", "me", True),
        Sighting(7, "", "another", False),
    ]


async def test_a_scan_of_nothing_ends(world: World) -> None:
    assert await seen(world) == []


@pytest.mark.parametrize("n", [999, 1000, 2001])
async def test_a_scan_of_many_messages_shows_all(world: World, n: int) -> None:
    await world.bus.publish([positioned(position) for position in range(1, n + 1)])
    assert [sighting.position for sighting in await seen(world)] == list(range(1, n + 1))


async def test_two_scans_at_once_do_not_disturb_each_other_or_what_is_delivered(world: World) -> None:
    await world.bus.publish([positioned(position) for position in range(1, 1500)])
    one, two = await asyncio.gather(seen(world), seen(world))
    assert one == two
    assert len(one) == 1499
    await world.send("ume.event.x", b"after")
    assert [delivery.data for delivery in await acked(world, 1)] == [b"after"]


async def test_what_was_erased_or_forgotten_is_not_seen(world: World) -> None:
    await world.bus.publish([positioned(1), positioned(2), positioned(3)])
    await world.forget(f"{2:032x}.audit")
    assert [sighting.position for sighting in await seen(world)] == [1, 3]


async def test_while_all_is_well_a_check_finds_nothing(world: World) -> None:
    await world.bus.publish([positioned(1)])
    await world.send("ume.event.x", b"{}")
    await acked(world, 1, erase=True)
    for _ in range(3):
        await world.bus.check()
    await asyncio.sleep(0)
    assert world.told == []


async def test_a_restart_is_told_and_worth_a_closer_look(world: World) -> None:
    await world.bus.publish([positioned(1)])
    await world.restart()
    assert await told(world, Doubt) == [Doubt("server_restarted")]
    assert [type(news) for news in world.told] == [Lost, Restored, Doubt]
    await published(world, [positioned(2)])
    assert [sighting.position for sighting in await seen(world)] == [1, 2]


async def test_a_purge_is_noticed_and_nothing_is_published_before_it_is_recorded(world: World) -> None:
    await world.bus.publish([positioned(1), positioned(2)])
    world.resumes = False
    await world.purge()
    [broken] = await told(world, Broken)
    assert isinstance(broken, Broken)
    assert (broken.reason, broken.stream) == ("marker_gone", "UME")
    with pytest.raises(Unavailable):
        await world.bus.publish([positioned(3)])
    world.bus.resume()
    await published(world, [positioned(3)])
    assert [sighting.position for sighting in await seen(world)] == [3]
    await world.bus.check()
    assert len(await told(world, Broken)) == 1


async def test_nothing_is_delivered_before_a_break_is_recorded(world: World) -> None:
    await world.bus.publish([positioned(1)])
    world.resumes = False
    await world.purge()
    await told(world, Broken)
    waiting = asyncio.create_task(world.bus.fetch(1))
    await world.send("ume.event.x", b"new")
    await asyncio.sleep(0.05)
    assert not waiting.done()
    world.bus.resume()
    [delivery] = await asyncio.wait_for(waiting, 10)
    assert delivery.data == b"new"


async def test_what_was_in_hand_when_it_broke_comes_again_whatever_became_of_it(world: World) -> None:
    await world.bus.publish([positioned(1)])
    await world.send("ume.event.x", b"in hand")
    [delivery] = await world.bus.fetch(1)
    await world.forget(f"{1:032x}.audit")
    await told(world, Broken)
    delivery.ack(erase=True)
    await world.impatience()
    [again] = await acked(world, 1)
    assert again.data == b"in hand"


async def test_ids_that_outlive_their_messages_can_be_forgotten(world: World) -> None:
    await world.bus.publish([positioned(1), positioned(2)])
    await world.purge()
    await told(world, Broken)
    await published(world, [positioned(1), positioned(2)])
    assert await seen(world) == []
    assert await world.bus.forget_ids()
    await published(world, [positioned(1), positioned(2)])
    await published(world, [positioned(1), positioned(2)])
    assert [sighting.position for sighting in await seen(world)] == [1, 2]


async def test_recreated_streams_are_another_epoch_and_all_goes_on(world: World) -> None:
    before = world.bus.info().epoch
    await world.bus.publish([positioned(1)])
    await world.send("ume.event.x", b"read")
    await acked(world, 1)
    await world.recreate()
    found = await told(world, Broken)
    assert {news.reason for news in found if isinstance(news, Broken)} == {"stream_recreated"}
    await published(world, [positioned(2)])
    assert world.bus.info().epoch != before
    assert [sighting.position for sighting in await seen(world)] == [2]
    await world.send("ume.event.x", b"new")
    await world.send("ume.run.request.x", b"new")
    assert [delivery.data for delivery in await acked(world, 2)] == [b"new", b"new"]


async def test_a_look_that_waited_while_a_break_was_found_and_recorded_finds_nothing_more(world: World) -> None:
    await world.bus.publish([positioned(1)])
    await world.recreate()
    await asyncio.gather(*(world.bus.check() for _ in range(10)))
    found = await told(world, Broken)
    assert {news.reason for news in found if isinstance(news, Broken)} == {"stream_recreated"}
    await published(world, [positioned(2)])


async def test_marks_are_in_doubt_until_somebody_has_heard_of_it(world: World) -> None:
    await world.bus.publish([positioned(1)])
    world.hears.clear()
    await world.restart()
    async with asyncio.timeout(10):
        while world.bus.marks.server != NO_SERVER:
            await asyncio.sleep(0.01)
    assert Doubt("server_restarted") not in world.told
    world.hears.set()
    await told(world, Doubt)
    assert world.bus.marks.server > NO_SERVER


async def test_a_hole_in_the_middle_raises_a_doubt(world: World) -> None:
    await world.bus.publish([positioned(position) for position in range(1, 11)])
    await world.bus.check()
    await world.forget(f"{5:032x}.audit")
    assert await told(world, Doubt) == [Doubt("fewer_messages")]


async def test_marks_become_numbers_and_come_back(world: World) -> None:
    await world.bus.publish([positioned(1)])
    await world.send("ume.event.x", b"{}")
    await acked(world, 1)
    await world.bus.check()
    marks = world.bus.marks
    assert from_numbers(to_numbers(marks)) == marks
    assert all(0 <= number < 2**63 for number in to_numbers(marks).values())
    assert marks.own_seq == 1
    assert marks.events.read_seq == 2
    assert from_numbers({}) == Marks()


async def test_storage_tells_the_bounds(world: World) -> None:
    storage = await world.bus.storage()
    assert storage.max_age_us == 7 * 86400 * 10**6
    assert not storage.full
    assert not storage.selective


async def test_a_closed_bus_has_no_more_news(world: World) -> None:
    listening = asyncio.create_task(world.bus.news())
    await asyncio.sleep(0)
    await world.bus.close()
    with pytest.raises(Unavailable):
        await asyncio.wait_for(listening, 5)
    with pytest.raises(Unavailable):
        await world.bus.storage()
