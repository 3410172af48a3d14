"""From the log to the bus: in order, again after a failure, from the checkpoint after a restart."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from cascadenced.bus.memory import MemoryBus
from cascadenced.errors import VaultDamaged
from cascadenced.events.base import Context, Recorded
from cascadenced.events.inbound import UpdatePointer
from cascadenced.events.run import RunFinished
from cascadenced.events.stage import StageFinished
from cascadenced.events.system import RequestsRefused
from cascadenced.events.workflow import EventDispatched
from cascadenced.handlers.publications import Publications
from cascadenced.instance import Instance
from cascadenced.runtime.outbox import CHECKPOINT, Outbox
from cascadenced.workflows import subscribe
from tests.doubles import World, ask, idle, run, until


class Staged:
    """A task with all hooks but research."""

    name = "staged"

    async def intake(self) -> None:
        return None

    async def plan(self) -> list[int]:
        return [1]

    async def precheck(self) -> bool:
        return True

    async def run(self, plan: list[int]) -> list[int]:
        return plan

    async def verify(self, result: list[int]) -> list[int]:
        return result


class Outlet(World):
    def __init__(self, *tasks: object, broadcast_pointers: bool = False, reveal: bool = False, **config: Any) -> None:
        super().__init__(*(tasks or (Staged,)), **config)
        self.bus = MemoryBus(clock=self.clock, instance_id="i-test")
        self.publications = Publications(
            "ume", broadcast_pointers=broadcast_pointers, vault=self.vault if reveal else None
        )

    @asynccontextmanager
    async def flowing(self, *tasks: object) -> AsyncIterator[tuple[Instance, Outbox]]:
        async with self.up(*tasks) as instance:
            outbox = Outbox(instance.log, self.clock, self.bus, self.publications, instance.refusals)
            running = asyncio.create_task(outbox.run())
            try:
                yield instance, outbox
            finally:
                assert not running.done(), running.exception()
                running.cancel()

    @property
    def subjects(self) -> list[str]:
        return [message.subject for message in self.bus.published]

    @property
    def ids(self) -> list[str]:
        return [message.headers["Nats-Msg-Id"] for message in self.bus.published]


async def test_a_user_whose_vault_row_is_damaged_is_published_without_a_name() -> None:
    outlet = Outlet(reveal=True)

    async def damaged(_: str) -> str:
        raise VaultDamaged("the seal is broken")

    outlet.vault.user = damaged  # type: ignore[method-assign]
    async with outlet.flowing() as (instance, outbox):
        await run(instance, "staged")
        await outbox.drained()
    assert outlet.subjects
    assert not any(json.loads(message.body).get("user_id") for message in outlet.bus.published)


async def test_what_cannot_be_published_at_all_is_counted_and_the_rest_goes_out() -> None:
    outlet = Outlet()
    translate, outlet.publications = outlet.publications, poisoned(outlet.publications)  # type: ignore[assignment]
    async with outlet.flowing() as (instance, outbox):
        await run(instance, "staged")
        drained = asyncio.ensure_future(outbox.drained())
        for _ in range(60):
            await idle(20)
            await outlet.clock.advance(0.5)  # type: ignore[attr-defined]
        await asyncio.wait_for(drained, 5)
        assert instance.refusals.total == {"event_skipped": 1}
        expected = [message.subject for recorded in outlet.recorded() for message in await translate([recorded])]
    assert len(expected) - 2 == len(outlet.subjects)
    assert outlet.subjects[-1] == expected[-1]


def poisoned(translate: Any) -> Any:
    async def translated(batch: Any) -> Any:
        if any(isinstance(recorded.event, StageFinished) and recorded.event.stage == "plan" for recorded in batch):
            raise RuntimeError("a fault of ours")
        return await translate(batch)

    return translated


async def test_a_run_is_published_as_one_update_and_two_audits_a_stage_and_one_task_run() -> None:
    outlet = Outlet()
    async with outlet.flowing() as (instance, outbox):
        await run(instance, "staged")
        await outbox.drained()
    assert outlet.subjects == [
        "ume.task_spec.staged",
        "ume.audit.staged.intake",
        "ume.stage.staged.intake",
        "ume.audit.staged.intake",
        "ume.audit.staged.plan",
        "ume.stage.staged.plan",
        "ume.audit.staged.plan",
        "ume.audit.staged.execute",
        "ume.audit.staged.precheck",
        "ume.stage.staged.precheck",
        "ume.audit.staged.precheck",
        "ume.stage.staged.run",
        "ume.audit.staged.execute",
        "ume.audit.staged.verify",
        "ume.stage.staged.verify",
        "ume.audit.staged.verify",
        "ume.task_run.staged",
    ]


async def test_messages_are_in_log_order_with_ids_of_their_events_and_no_raw_identity() -> None:
    outlet = Outlet()
    async with outlet.flowing() as (instance, outbox):
        await asyncio.gather(*(run(instance, "staged") for _ in range(5)))
        await outbox.drained()
    positions = {recorded.id: recorded.position for recorded in outlet.recorded()}
    published = [positions[message_id.split(".")[0]] for message_id in outlet.ids]
    assert published == sorted(published)
    assert len(set(outlet.ids)) == len(outlet.ids)
    for message in outlet.bus.published:
        body = json.loads(message.body)
        assert (body.get("user_id"), body.get("group_id")) == (None, None)
        assert b"alice" not in message.body
        assert message.headers["Cascadence-Origin"] == "i-test"


async def test_with_emit_raw_user_id_bodies_name_the_user() -> None:
    outlet = Outlet(reveal=True)
    async with outlet.flowing() as (instance, outbox):
        await run(instance, "staged")
        await outbox.drained()
    last = json.loads(outlet.bus.published[-1].body)
    assert (last["user_id"], last["spec"]["user_id"]) == ("alice", "alice")


@pytest.mark.parametrize("n_stored", [0, 2])
async def test_what_was_not_confirmed_is_sent_again_in_order_and_stored_once(n_stored: int) -> None:
    outlet = Outlet()
    async with outlet.flowing() as (instance, outbox):
        await outbox.drained()
        outlet.bus.fail_publishes(3, stored=n_stored)
        await run(instance, "staged")
        for _ in range(4):
            await idle()
            await outlet.clock.advance(5.0)
        await outbox.drained()
    assert len(outlet.ids) == len(set(outlet.ids)) == 17
    assert outlet.subjects[-1] == "ume.task_run.staged"


async def test_the_checkpoint_moves_only_after_the_confirmation() -> None:
    outlet = Outlet()
    async with outlet.flowing() as (instance, outbox):
        await outbox.drained()
        before = outbox.position
        outlet.bus.disconnect()
        await run(instance, "staged")
        await idle()
        assert outbox.position == await instance.log.checkpoint(CHECKPOINT) == before
        draining = asyncio.ensure_future(outbox.drained())
        await idle()
        assert not draining.done()
        outlet.bus.reconnect()
        await outlet.clock.advance(5.0)
        await draining
        assert outbox.position == instance.log.position


async def test_after_a_crash_publishing_starts_again_at_the_checkpoint_and_doubles_are_not_stored() -> None:
    outlet = Outlet()
    async with outlet.flowing() as (instance, outbox):
        await run(instance, "staged")
        await outbox.drained()
        outlet.crash(instance)  # the last checkpoint was to ride in a commit that never came
    n_published = len(outlet.ids)
    assert outlet.file.checkpoints[CHECKPOINT] < len(outlet.file.events)
    async with outlet.flowing() as (_, outbox):
        await outbox.drained()
    assert outlet.ids[:n_published] == list(dict.fromkeys(outlet.ids))[:n_published]
    assert len(outlet.ids) == len(set(outlet.ids)) == n_published


async def test_after_an_orderly_stop_nothing_is_published_again() -> None:
    outlet = Outlet()
    async with outlet.flowing() as (instance, outbox):
        await run(instance, "staged")
        await outbox.drained()
    sent: list[Any] = []
    publish = outlet.bus.publish

    async def noted(messages: Any) -> None:
        sent.extend(messages)
        await publish(messages)

    outlet.bus.publish = noted  # type: ignore[method-assign]
    async with outlet.flowing() as (_, outbox):
        await outbox.drained()
        await idle()
    assert sent == []


async def test_what_the_server_cannot_carry_is_skipped_and_counted_and_all_else_goes_on() -> None:
    outlet = Outlet()
    small = outlet.bus.info()
    outlet.bus.info = lambda: type(small)(  # type: ignore[method-assign]
        connected=True, url="", epoch="", server_id="", max_payload_bytes=2_048 + 2_000, server_version=""
    )
    long = "x" * 3_000

    async with outlet.flowing() as (instance, outbox):
        await instance.requests.emit(await live_of(instance, outlet), "big.event", {"text": long}, 1)
        await instance.requests.emit(await live_of(instance, outlet), "small.event", {"text": "x"}, 2)
        await outbox.drained()
        assert instance.refusals.total["unpublishable"] == 1
        await outlet.clock.advance(60.0)
        await until(lambda: outlet.events(RequestsRefused))
    assert "ume.event.big.event" not in outlet.subjects
    assert "ume.event.small.event" in outlet.subjects
    assert len(outlet.events(EventDispatched)) == 2


async def live_of(instance: Instance, outlet: Outlet) -> Any:
    from cascadenced.ids import RunId
    from cascadenced.runtime.record import LiveRun
    from tests.doubles import ALICE

    live = LiveRun(RunId("a-run"), Context(run_id="a-run"))
    live.identity = ALICE
    return live


async def test_an_event_that_a_workflow_emits_is_published() -> None:
    @subscribe("order.placed")
    async def place(dispatch: Any) -> None:
        await dispatch("order.confirmed", {"n": 1})

    outlet = Outlet(place)
    async with outlet.flowing() as (instance, outbox):
        await run(instance, "workflow.order.placed")
        await outbox.drained()
    [message] = [m for m in outlet.bus.published if m.subject == "ume.event.order.confirmed"]
    assert json.loads(message.body)["payload"] == {"n": 1}


def pointer(run_id: str) -> UpdatePointer:
    return UpdatePointer(task="marks", run_id=run_id, user_id=None, user_hash="e" * 64, group_id=None, group_hash=None)


@pytest.mark.parametrize(("broadcast", "n_published"), [(False, 0), (True, 1)])
async def test_a_pointer_from_the_bus_is_sent_on_only_when_asked_and_only_when_it_changed_something(
    broadcast: bool, n_published: int
) -> None:
    outlet = Outlet(broadcast_pointers=broadcast)
    async with outlet.flowing() as (instance, outbox):
        assert not (await instance.facts.pointer(pointer("r"), "bus")).duplicate
        assert (await instance.facts.pointer(pointer("r"), "bus")).duplicate
        await outbox.drained()
    assert outlet.subjects.count("ume.pointer.marks") == n_published


async def test_a_pointer_of_our_own_is_always_published() -> None:
    outlet = Outlet()
    async with outlet.flowing() as (instance, outbox):
        await instance.facts.pointer(pointer("r"), "cli")
        await outbox.drained()
    [message] = [m for m in outlet.bus.published if m.subject == "ume.pointer.marks"]
    assert (json.loads(message.body)["run_id"], json.loads(message.body)["user_hash"]) == ("r", "e" * 64)


async def test_two_broadcasting_instances_settle() -> None:
    """Each sends the other's pointers on, once: the messages end."""
    outlet = Outlet(broadcast_pointers=True)
    async with outlet.flowing() as (instance, outbox):
        for _ in range(5):
            await instance.facts.pointer(pointer("r"), "bus")
        await outbox.drained()
    assert outlet.subjects.count("ume.pointer.marks") == 1


async def test_a_batch_of_any_size_is_published_whole() -> None:
    outlet = Outlet()
    async with outlet.flowing() as (instance, outbox):
        outlet.bus.disconnect()
        await asyncio.gather(*(run(instance, "staged") for _ in range(60)))
        outlet.bus.reconnect()
        await outlet.clock.advance(5.0)
        await outbox.drained()
    assert outlet.subjects.count("ume.task_run.staged") == 60 == len(outlet.events(RunFinished))
    assert len(outlet.ids) == 1 + 60 * 16


async def test_events_of_our_own_household_are_not_published() -> None:
    async def silent(recorded: list[Recorded]) -> int:
        return len(await Publications("ume", broadcast_pointers=True, vault=None)(recorded))

    world = World(Staged)
    async with world.up() as instance:
        await ask(instance, "staged")
        household = [r for r in world.recorded() if r.type in ("run.requested", "run.started")]
        assert len(household) == 2
        assert await silent(household) == 0


async def test_nothing_is_given_up_as_too_large_while_nobody_knows_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    outlet = Outlet()
    info = outlet.bus.info
    async with outlet.flowing() as (instance, outbox):
        await outbox.drained()
        monkeypatch.setattr(outlet.bus, "info", lambda: msgspec.structs.replace(info(), max_payload_bytes=0))
        await run(instance, "staged")
        await idle()
        assert outbox.position < instance.log.position
        monkeypatch.setattr(outlet.bus, "info", info)
        await outlet.clock.advance(10)  # type: ignore[attr-defined]
        await asyncio.wait_for(outbox.drained(), 5)
    expected = [message.headers["Nats-Msg-Id"] for message in await outlet.publications(outlet.file.events)]
    assert outlet.ids == expected
