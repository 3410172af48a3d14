"""A broker that forgets, on doubles: every break is an event, and what is missing is on the bus again."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from cascadenced.bus.base import DUPLICATE_WINDOW_S, Sighting
from cascadenced.bus.memory import MemoryBus
from cascadenced.bus.memory_stream import Stored
from cascadenced.errors import DiskFull
from cascadenced.events.outbound import REPUBLISHED_HEADER
from cascadenced.events.system import BusLost, BusRestored, EpochBroken, EpochRepaired
from cascadenced.instance import Instance
from cascadenced.runtime import repair
from cascadenced.runtime.bus_keeper import CHECK_EVERY_S, DOUBT_AGAIN_S, BusKeeper, known_marks
from cascadenced.runtime.outages import Outages
from cascadenced.runtime.outbox import Outbox
from tests.doubles import idle, run
from tests.runtime.test_outbox import Outlet


class Kept(Outlet):
    """An outlet with somebody who stands beside its bus. max_messages: all that the stream has room for."""

    def __init__(self, *tasks: object, max_messages: int = 100_000, max_age_s: float = 7 * 86400) -> None:
        super().__init__(*tasks)
        self.bus = MemoryBus(clock=self.clock, instance_id="i-test", max_messages=max_messages, max_age_s=max_age_s)

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[tuple[Instance, BusKeeper]]:
        async with self.up() as instance:
            outbox = Outbox(instance.log, self.clock, self.bus, self.publications, instance.refusals)
            keeper = BusKeeper(
                instance.log, self.clock, self.bus, self.publications, origin=instance.log.origin, outages=Outages()
            )
            running = [asyncio.create_task(outbox.run()), asyncio.create_task(keeper.run())]
            try:
                await outbox.drained()
                yield instance, keeper
            finally:
                for task in running:
                    assert not task.done(), task.exception()
                    task.cancel()
                await asyncio.gather(*running, return_exceptions=True)

    async def pass_time(self, seconds: float, step_s: float = 0.5) -> None:
        """Whoever waits has turns in between."""
        for _ in range(round(seconds / step_s)):
            await self.clock.advance(step_s)  # type: ignore[attr-defined]
            await idle(30)

    async def repaired(self, n: int = 1, within_s: float = 400) -> list[EpochRepaired]:
        for _ in range(round(within_s)):
            found = self.events(EpochRepaired)
            if len(found) >= n:
                return found  # type: ignore[return-value]
            await self.pass_time(1)
        raise AssertionError(f"not repaired {n} times: {[type(e).__name__ for e in self.events()][-10:]}")

    @property
    def on_the_bus(self) -> list[str]:
        return [message.headers["Nats-Msg-Id"] for message in self.bus.messages()]

    async def expected(self) -> list[str]:
        return [message.headers["Nats-Msg-Id"] for message in await self.publications(self.file.events)]

    async def assert_whole(self) -> None:
        assert Counter(self.on_the_bus) == Counter(await self.expected())


@pytest.fixture
def kept() -> Kept:
    return Kept()


async def test_an_outage_is_recorded_with_what_it_took(kept: Kept) -> None:
    async with kept.kept():
        kept.bus.disconnect()
        await kept.pass_time(4)
        kept.bus.reconnect()
        await idle()
    assert kept.events(BusLost) == [BusLost(reason="disconnected")]
    [restored] = kept.events(BusRestored)
    assert isinstance(restored, BusRestored)
    assert restored.away_s == pytest.approx(4)
    assert restored.server_id == "memory-1"


async def test_a_flapping_connection_leaves_few_events_and_counts_the_rest(kept: Kept) -> None:
    async with kept.kept():
        for _ in range(100):
            kept.bus.disconnect()
            await kept.pass_time(0.5)
            kept.bus.reconnect()
            await kept.pass_time(0.5)
        await kept.pass_time(61)
    assert len(kept.events(BusLost)) <= 2
    assert sum(event.n_breaks for event in kept.events(BusRestored)) == 100  # type: ignore[attr-defined]


@pytest.mark.parametrize("how", ["wipe", "purge", "take_over"])
async def test_what_a_broker_forgot_is_recorded_and_published_again(kept: Kept, how: str) -> None:
    async with kept.kept() as (instance, keeper):
        for _ in range(30):
            await run(instance, "staged")
        await kept.pass_time(CHECK_EVERY_S + 1)
        getattr(kept.bus, how)()
        await kept.pass_time(CHECK_EVERY_S + 1)
        [broken] = kept.events(EpochBroken)
        [repaired] = await kept.repaired()
        assert keeper.n_to_repair == 0
        await kept.assert_whole()
    assert isinstance(broken, EpochBroken)
    assert broken.reason == ("marker_gone" if how == "purge" else "stream_recreated")
    assert (broken.stream, broken.after) == ("UME", kept.bus.info().epoch)
    n = 0 if how == "take_over" else 1 + 30 * 16
    assert (repaired.n_republished, repaired.n_missing, repaired.n_breaks) == (n, 0, 1)


async def test_an_end_that_is_lost_is_noticed_when_the_line_is_back_and_published_again_in_order(kept: Kept) -> None:
    async with kept.kept() as (instance, _):
        for _ in range(10):
            await run(instance, "staged")
        await kept.pass_time(1)
        kept.bus.disconnect()
        kept.bus.forget_tail(40)
        kept.bus.reconnect(restarted=True)
        [repaired] = await kept.repaired()
        await kept.assert_whole()
    assert [event.reason for event in kept.events(EpochBroken)] == ["end_lost"]  # type: ignore[attr-defined]
    assert repaired.n_republished == 40
    late = [stored for stored in kept.bus.messages() if REPUBLISHED_HEADER in stored.headers]
    positions = [int(stored.headers["Cascadence-Position"]) for stored in late]
    assert len(late) == 40
    assert positions == sorted(positions)


async def test_a_hole_in_the_middle_is_found_after_a_restart_with_an_intact_end(kept: Kept) -> None:
    async with kept.kept() as (instance, _):
        for _ in range(10):
            await run(instance, "staged")
        await kept.pass_time(1)
        assert kept.bus.forget(lambda stored: 50 <= stored.seq < 60) == 10
        kept.bus.disconnect()
        kept.bus.reconnect(restarted=True)
        [repaired] = await kept.repaired()
        await kept.assert_whole()
    assert [event.reason for event in kept.events(EpochBroken)] == ["messages_missing"]  # type: ignore[attr-defined]
    assert repaired.n_republished == 10


async def test_a_restart_that_lost_nothing_is_no_event_but_the_outage(kept: Kept) -> None:
    async with kept.kept() as (instance, _):
        await run(instance, "staged")
        for _ in range(3):
            kept.bus.disconnect()
            kept.bus.reconnect(restarted=True)
            await kept.pass_time(30)
    assert kept.events(EpochBroken) == kept.events(EpochRepaired) == []


async def test_single_messages_that_an_operator_removed_are_found_by_counting(kept: Kept) -> None:
    async with kept.kept() as (instance, _):
        for _ in range(5):
            await run(instance, "staged")
        await kept.pass_time(CHECK_EVERY_S + 1)
        assert kept.bus.forget(lambda stored: stored.seq in (7, 21)) == 2
        await kept.pass_time(CHECK_EVERY_S + 1)
        [repaired] = await kept.repaired()
        await kept.assert_whole()
    assert repaired.n_republished == 2


async def test_a_doubt_that_was_idle_lately_waits_but_is_not_forgotten(kept: Kept) -> None:
    async with kept.kept() as (instance, _):
        for _ in range(5):
            await run(instance, "staged")
        kept.bus.send("ume.audit.theirs.run", b"{}")
        await kept.pass_time(CHECK_EVERY_S + 1)
        assert kept.bus.forget(lambda stored: "theirs" in stored.subject) == 1  # a look that finds nothing of ours
        await kept.pass_time(CHECK_EVERY_S + 1)
        assert kept.bus.forget(lambda stored: stored.seq == 7) == 1
        await kept.pass_time(5 * CHECK_EVERY_S)
        assert kept.events(EpochBroken) == []
        await kept.pass_time(DOUBT_AGAIN_S, 5)
        await kept.repaired()
        await kept.assert_whole()
        assert kept.bus.forget(lambda stored: stored.seq == 9) == 1  # the last look was not idle
        await kept.pass_time(2 * CHECK_EVERY_S)
        await kept.assert_whole()


@pytest.mark.parametrize("broken", [False, True])
async def test_what_goes_missing_behind_a_look_takes_another_look(
    kept: Kept, monkeypatch: pytest.MonkeyPatch, broken: bool
) -> None:
    scan, n_scans = kept.bus.scan, 0

    async def and_then_one_goes_missing() -> AsyncGenerator[Sequence[Sighting]]:
        nonlocal n_scans
        n_scans += 1
        async for chunk in scan():
            yield chunk
        if n_scans == (2 if broken else 1):  # in the last round of a repair
            assert kept.bus.forget(lambda stored: stored.seq == 7) == 1
            await kept.bus.check()
            await idle()

    async with kept.kept() as (instance, _):
        for _ in range(5):
            await run(instance, "staged")
        await kept.pass_time(CHECK_EVERY_S + 1)
        monkeypatch.setattr(kept.bus, "scan", and_then_one_goes_missing)
        if broken:
            kept.bus.wipe()
        kept.bus.disconnect()
        kept.bus.reconnect(restarted=True)
        await kept.pass_time(4 * CHECK_EVERY_S)
        await kept.assert_whole()


async def test_events_go_on_to_the_bus_while_it_is_repaired(kept: Kept) -> None:
    async with kept.kept() as (instance, _):
        for _ in range(20):
            await run(instance, "staged")
        kept.bus.can_forget_ids = False
        kept.bus.purge()
        await kept.pass_time(CHECK_EVERY_S + 5)
        assert kept.events(EpochBroken)
        assert not kept.events(EpochRepaired)  # the broker still knows the ids
        before = len(kept.on_the_bus)
        await run(instance, "staged")
        await kept.pass_time(1)
        assert len(kept.on_the_bus) == before + 16
        [repaired] = await kept.repaired(within_s=DUPLICATE_WINDOW_S * 2)
        await kept.assert_whole()
    assert repaired.took_s >= DUPLICATE_WINDOW_S - CHECK_EVERY_S


async def test_a_repair_goes_on_in_the_next_life(kept: Kept) -> None:
    instance = await kept.start()
    outbox = Outbox(instance.log, kept.clock, kept.bus, kept.publications, instance.refusals)
    keeper = BusKeeper(
        instance.log, kept.clock, kept.bus, kept.publications, origin=instance.log.origin, outages=Outages()
    )
    running = [asyncio.create_task(outbox.run()), asyncio.create_task(keeper.run())]
    for _ in range(30):
        await run(instance, "staged")
    await outbox.drained()
    kept.bus.can_forget_ids = False
    kept.bus.purge()
    await kept.pass_time(CHECK_EVERY_S + 1)
    assert kept.events(EpochBroken)
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    kept.crash(instance)
    kept.bus.can_forget_ids = True
    async with kept.kept():
        await kept.repaired()
        await kept.assert_whole()
    assert len(kept.events(EpochBroken)) == 1


async def test_a_second_break_begins_the_repair_again(kept: Kept) -> None:
    async with kept.kept() as (instance, keeper):
        for _ in range(30):
            await run(instance, "staged")
        kept.bus.can_forget_ids = False
        kept.bus.purge()
        await kept.pass_time(CHECK_EVERY_S + 5)
        kept.bus.wipe()
        await kept.pass_time(CHECK_EVERY_S + 5)
        [repaired] = await kept.repaired()
        await kept.assert_whole()
    assert [event.reason for event in kept.events(EpochBroken)] == ["marker_gone", "stream_recreated"]  # type: ignore[attr-defined]
    assert repaired.n_breaks == 2
    assert keeper.n_to_repair == 0


async def test_breaks_of_one_kind_are_recorded_once_a_minute_and_all_repaired(kept: Kept) -> None:
    async with kept.kept() as (instance, _):
        for _ in range(3):
            await run(instance, "staged")
            kept.bus.wipe()
            await kept.pass_time(CHECK_EVERY_S + 2)
        await kept.pass_time(5)
        await kept.assert_whole()
    assert len(kept.events(EpochBroken)) == 1
    assert sum(event.n_breaks for event in kept.events(EpochRepaired)) == 3  # type: ignore[attr-defined]


async def test_a_scan_that_is_cut_short_is_made_again_and_nothing_is_published_twice(kept: Kept) -> None:
    async with kept.kept() as (instance, _):
        for _ in range(30):
            await run(instance, "staged")
        await kept.pass_time(DUPLICATE_WINDOW_S + 1)
        kept.bus.scans_failing = 3
        assert kept.bus.forget(lambda stored: 100 <= stored.seq < 110) == 10
        kept.bus.disconnect()
        kept.bus.reconnect(restarted=True)
        await kept.repaired()
        await kept.assert_whole()


async def test_a_break_that_cannot_be_recorded_yet_holds_the_bus_until_it_can(kept: Kept) -> None:
    async with kept.kept() as (instance, _):
        await run(instance, "staged")
        append, full = instance.log.append, True

        def refuse(changes: Any, **more: Any) -> Any:
            if not full:
                return append(changes, **more)
            refused = asyncio.get_running_loop().create_future()
            refused.set_exception(DiskFull("no space left"))
            return refused

        instance.log.append = refuse  # type: ignore[method-assign]
        kept.bus.wipe()
        await kept.pass_time(CHECK_EVERY_S + 20)
        assert kept.bus._held
        full = False
        await kept.repaired()
        await kept.assert_whole()


# ── what the stream itself drops ─────────────────────────────────────────────────────────────────────────────────


async def test_a_full_stream_is_not_blamed_for_what_it_drops() -> None:
    kept = Kept(max_messages=200)
    async with kept.kept() as (instance, _):
        for _ in range(40):
            await run(instance, "staged")
        for _ in range(3):
            kept.bus.disconnect()
            kept.bus.reconnect(restarted=True)
            await kept.pass_time(60)
    assert kept.events(EpochBroken) == []
    assert len(kept.on_the_bus) == 200


async def test_what_a_full_stream_drops_behind_the_look_is_not_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Kept(max_messages=300)
    scan, n_scans = kept.bus.scan, 0

    async def and_meanwhile_it_drops_some() -> AsyncGenerator[Sequence[Sighting]]:
        nonlocal n_scans
        n_scans += 1
        async for chunk in scan():
            there = {stored.headers.get("Nats-Msg-Id") for stored in kept.bus.messages()}
            yield [sighting for sighting in chunk if sighting.message_id in there]
            for n in range(200 if n_scans == 1 else 0):
                kept.bus.send("ume.audit.theirs.run", b"{}", {"Nats-Msg-Id": f"theirs {n}"})

    async with kept.kept() as (instance, _):
        for _ in range(40):
            await run(instance, "staged")
        monkeypatch.setattr(kept.bus, "scan", and_meanwhile_it_drops_some)
        kept.bus.disconnect()
        kept.bus.reconnect(restarted=True)
        await kept.pass_time(30)
    assert n_scans > 0
    assert kept.events(EpochBroken) == []


async def test_a_hole_in_a_full_stream_is_filled_and_then_left_in_peace() -> None:
    kept = Kept(max_messages=200)
    async with kept.kept() as (instance, _):
        for _ in range(40):
            await run(instance, "staged")
        assert kept.bus.forget(lambda stored: 500 <= stored.seq < 510) == 10
        await run(instance, "staged")  # so that it is full again
        kept.bus.disconnect()
        kept.bus.reconnect(restarted=True)
        [repaired] = await kept.repaired()
        held = set(kept.on_the_bus)
        missing = [message for message in (await kept.expected())[-180:] if message not in held]
        assert missing == []
        for _ in range(3):
            kept.bus.disconnect()
            kept.bus.reconnect(restarted=True)
            await kept.pass_time(60)
    assert len(kept.events(EpochBroken)) == len(kept.events(EpochRepaired)) == 1
    assert repaired.n_republished == 10


async def test_a_full_stream_that_was_wiped_gets_the_newest_and_others_go_on_filling_it() -> None:
    kept = Kept(max_messages=200)
    async with kept.kept() as (instance, _):
        for _ in range(40):
            await run(instance, "staged")
        kept.bus.wipe()
        await kept.pass_time(CHECK_EVERY_S + 1)
        [repaired] = await kept.repaired()
        assert 150 < repaired.n_republished <= 180
        for _ in range(20):
            await run(instance, "staged")
            for n in range(16):
                kept.bus.send("ume.audit.theirs.run", b"{}", {"Nats-Msg-Id": f"{n} {instance.log.position}"})
        for _ in range(3):
            kept.bus.disconnect()
            kept.bus.reconnect(restarted=True)
            await kept.pass_time(60)
    assert len(kept.events(EpochBroken)) == len(kept.events(EpochRepaired)) == 1


async def test_what_is_older_than_the_stream_keeps_it_is_not_missed() -> None:
    kept = Kept(max_age_s=1000)
    async with kept.kept() as (instance, _):
        for _ in range(10):
            await run(instance, "staged")
        await kept.pass_time(900, 5)
        old = len(kept.on_the_bus)
        for _ in range(10):
            await run(instance, "staged")
        await kept.pass_time(110, 5)
        kept.bus.forget(lambda stored: stored.seq <= old)  # by age
        kept.bus.disconnect()
        kept.bus.reconnect(restarted=True)
        await kept.pass_time(30)
        assert kept.events(EpochBroken) == []
        kept.bus.wipe()
        await kept.pass_time(CHECK_EVERY_S + 1)
        [repaired] = await kept.repaired()
    assert repaired.n_republished == 10 * 16


# ── other timelines and other instances ──────────────────────────────────────────────────────────────────────────


async def test_messages_of_another_log_with_the_same_positions_do_not_count(kept: Kept) -> None:
    async with kept.kept() as (instance, _):
        for _ in range(5):
            await run(instance, "staged")
        for stored in kept.bus.messages():
            _others(stored, kept)
        kept.bus.forget(lambda stored: "theirs" not in stored.subject)
        kept.bus.disconnect()
        kept.bus.reconnect(restarted=True)
        await kept.repaired()
        ours = Counter(
            stored.headers["Nats-Msg-Id"] for stored in kept.bus.messages() if "theirs" not in stored.subject
        )
        assert ours == Counter(await kept.expected())


def _others(stored: Stored, kept: Kept) -> None:
    their_id = "f" * 32 + "." + stored.headers["Nats-Msg-Id"].partition(".")[2]
    headers = {**stored.headers, "Nats-Msg-Id": f"{stored.seq:032x}{their_id[32:]}", "Cascadence-Origin": "another"}
    kept.bus.send("ume.audit.theirs.run", b"{}", headers)


async def test_an_event_that_nothing_can_be_made_of_is_not_missed(kept: Kept) -> None:
    async with kept.kept() as (instance, _):
        for _ in range(5):
            await run(instance, "staged")
        translate = kept.publications

        async def stumbling(batch: Any) -> Any:
            if any(recorded.position == 20 for recorded in batch):
                raise RuntimeError("a fault of ours")
            return await translate(batch)

        missing = repair.Missing(
            instance.log, kept.clock, kept.bus, stumbling, origin="i-test", pace=repair.Pace(kept.clock, 1.0)
        )
        assert [batch async for batch in missing.messages()] == []
        assert missing.n_scanned == len(kept.on_the_bus)


async def test_a_long_log_is_compared_in_several_looks(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repair, "MAX_POSITIONS", 100)
    monkeypatch.setattr(repair, "_AT_ONCE", 30)
    async with kept.kept() as (instance, _):
        for _ in range(30):
            await run(instance, "staged")
        kept.bus.wipe()
        await kept.pass_time(CHECK_EVERY_S + 1)
        await kept.repaired()
        await kept.assert_whole()


# ── marks ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_marks_are_kept_for_the_next_start(kept: Kept) -> None:
    async with kept.kept() as (instance, _):
        await run(instance, "staged")
        await kept.pass_time(1)
    assert kept.file.checkpoints["bus:own_seq"] == 17
    async with kept.up() as instance:
        assert await known_marks(instance.log) == kept.bus.marks


@pytest.mark.parametrize("restarted", [True, False])
async def test_a_doubt_that_nobody_came_to_look_into_is_not_forgotten_by_a_crash(
    kept: Kept, restarted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A restarted server, or one that has fewer messages than it should, has a hole where its marks are not."""
    async with kept.kept() as (instance, _):
        for _ in range(5):
            await run(instance, "staged")
        await kept.pass_time(CHECK_EVERY_S + 1)
    with monkeypatch.context() as patch:
        patch.setattr(BusKeeper, "_mend", lambda _: asyncio.Event().wait())  # killed before its turn
        async with kept.kept() as (instance, _):
            kept.bus.disconnect()
            assert kept.bus.forget(lambda stored: stored.seq in (7, 21)) == 2
            kept.bus.reconnect(restarted=restarted)
            await idle()
            await run(instance, "staged")  # what is known of the broker is stored with it
    async with kept.kept():
        await kept.repaired()
        await kept.assert_whole()


async def test_news_of_before_are_not_lost_on_a_slow_listener(kept: Kept) -> None:
    kept.bus.disconnect()
    kept.bus.reconnect()
    async with kept.kept():
        await idle()
    assert [type(event) for event in kept.events(BusLost)] == [BusLost]
