"""Keys and message ids: what counts as the same request, and what of a sender's words the log keeps."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from cascadenced.errors import Conflict, Overloaded
from cascadenced.events.base import Context
from cascadenced.events.run import RunRequested
from cascadenced.events.workflow import EventDispatched
from cascadenced.handlers.run_requests import Dispatched, Origin
from cascadenced.identity import Identity
from cascadenced.instance import Instance
from cascadenced.pipeline.admission import Switch
from cascadenced.workflows import subscribe
from tests.doubles import ALICE, PSEUDONYMS, World, ask

HASH = PSEUDONYMS.user("alice")


class Quick:
    name = "quick"

    async def run(self) -> str:
        return "done"


@subscribe("order.placed")
async def placed(payload: dict[str, Any]) -> None: ...


@pytest.fixture
def world() -> World:
    return World(Quick, placed)


async def dispatch(
    instance: Instance, name: str, payload: dict[str, Any] | None = None, *, who: Identity = ALICE, key: str = "k"
) -> Dispatched:
    return await instance.requests.dispatch(name, payload or {}, who, Origin(via="cli"), idempotency_key=key)


# ── the same key, other arguments ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("args", [{}, {"n": 2}, {"n": 1.0}, {"n": True}, {"n": 1, "m": 1}])
async def test_a_key_that_was_used_with_other_arguments_is_a_conflict(world: World, args: dict[str, Any]) -> None:
    async with world.up() as instance:
        await ask(instance, "quick", args={"n": 1}, key="k")
        with pytest.raises(Conflict, match="used before with other arguments") as caught:
            await ask(instance, "quick", args=args, key="k")
        assert caught.value.code == "idempotency.conflict"
    assert len(world.events(RunRequested)) == 1


async def test_what_was_accepted_is_not_refused_when_it_is_asked_again_and_the_queue_is_full_by_now() -> None:
    gate = asyncio.Event()

    class Slow:
        name = "slow"

        async def run(self) -> None:
            await gate.wait()

    @subscribe("order.placed")
    async def slowly(payload: dict[str, Any]) -> None:
        await gate.wait()

    async with World(Slow, slowly, max_concurrent_runs=1, max_queued_runs=2).up() as instance:
        first = await ask(instance, "slow", args={"n": 1}, key="k")
        second = await dispatch(instance, "order.placed", {"n": 1})
        await ask(instance, "slow")
        for _ in range(2):
            again = await ask(instance, "slow", args={"n": 1}, key="k")
            assert (again.run_id, again.duplicate) == (first.run_id, True)
            once_more = await dispatch(instance, "order.placed", {"n": 1})
            assert (once_more.run_id, once_more.duplicate) == (second.run_id, True)
        with pytest.raises(Conflict, match="used before with other arguments"):
            await ask(instance, "slow", args={"n": 2}, key="k")
        with pytest.raises(Overloaded):
            await ask(instance, "slow", args={"n": 1}, key="another")
        gate.set()


async def test_a_key_that_was_used_for_another_group_is_a_conflict(world: World) -> None:
    async with world.up() as instance:
        await ask(instance, "quick", ALICE, key="k")
        with pytest.raises(Conflict):
            await ask(instance, "quick", Identity("alice", "ops"), key="k")


async def test_the_order_of_the_arguments_is_all_the_same(world: World) -> None:
    async with world.up() as instance:
        await ask(instance, "quick", args={"a": 1, "b": {"c": 1, "d": 2}}, key="k")
        assert (await ask(instance, "quick", args={"b": {"d": 2, "c": 1}, "a": 1}, key="k")).duplicate


@pytest.mark.parametrize("event", ["order.placed", "nobody.listens"])
async def test_an_event_under_a_key_that_was_used_with_another_payload_is_a_conflict(world: World, event: str) -> None:
    async with world.up() as instance:
        await dispatch(instance, event, {"n": 1})
        assert (await dispatch(instance, event, {"n": 1})).duplicate
        with pytest.raises(Conflict):
            await dispatch(instance, event, {"n": 2})
    assert len(world.events(EventDispatched)) == 1


async def test_a_message_delivered_again_is_a_duplicate_whatever_it_says_now(world: World) -> None:
    async with world.up() as instance:
        await ask(instance, "quick", args={"n": 1}, source="run.request:m1")
        assert (await ask(instance, "quick", args={"n": 2}, source="run.request:m1")).duplicate


# ── keys do not meet ─────────────────────────────────────────────────────────────────────────────────────────


async def test_a_run_and_an_event_of_one_name_have_keys_of_their_own(world: World) -> None:
    async with world.up() as instance:
        await ask(instance, "event.order.placed", key="k")
        dispatched = await dispatch(instance, "order.placed")
        assert not dispatched.duplicate
        assert dispatched.run_id is not None


# ── keys of refused runs ─────────────────────────────────────────────────────────────────────────────────────


async def switch(instance: Instance, task: str, to: Switch) -> None:
    await instance.tasks.switch(task, to, Context())


async def test_the_key_of_a_refused_run_can_be_used_again_when_the_rule_allows_it(world: World) -> None:
    async with world.up() as instance:
        await switch(instance, "quick", "disable")
        refused = await ask(instance, "quick", key="k")
        assert (await ask(instance, "quick", key="k")).run_id == refused.run_id
        await switch(instance, "quick", "enable")
        accepted = await ask(instance, "quick", key="k")
        assert (accepted.duplicate, accepted.refused) == (False, None)
        assert accepted.run_id != refused.run_id
        again = await ask(instance, "quick", key="k")
        assert (again.run_id, again.duplicate) == (accepted.run_id, True)
    async with world.up() as instance:
        assert (await ask(instance, "quick", key="k")).run_id == accepted.run_id
    assert len(world.events(RunRequested)) == 2


async def test_a_key_whose_first_run_was_refused_is_still_bound_to_its_arguments(world: World) -> None:
    async with world.up() as instance:
        await switch(instance, "quick", "disable")
        await ask(instance, "quick", args={"n": 1}, key="k")
        await switch(instance, "quick", "enable")
        with pytest.raises(Conflict):
            await ask(instance, "quick", args={"n": 2}, key="k")


async def test_the_key_of_an_event_whose_workflow_was_refused_can_be_used_again(world: World) -> None:
    async with world.up() as instance:
        await switch(instance, "workflow.order.placed", "pause")
        assert (await dispatch(instance, "order.placed")).refused
        await switch(instance, "workflow.order.placed", "resume")
        dispatched = await dispatch(instance, "order.placed")
        assert (dispatched.duplicate, dispatched.refused) == (False, None)
        assert (await dispatch(instance, "order.placed")).run_id == dispatched.run_id


# ── senders who name themselves ──────────────────────────────────────────────────────────────────────────────


async def test_a_key_that_names_its_user_is_kept_by_pseudonym_and_is_still_one_key(world: World) -> None:
    async with world.up() as instance:
        first = await ask(instance, "quick", key="alice-2026")
        assert (await ask(instance, "quick", key="alice-2026")).run_id == first.run_id
    assert world.recorded(RunRequested)[0].source == f"key:quick:{HASH}:{HASH}-2026"
    assert "alice" not in world.text()


async def test_a_key_made_of_ids_alone_stays_short(world: World) -> None:
    async with world.up() as instance:
        key = "a " * 128
        first = await ask(instance, "quick", Identity("a", "a"), key=key)
        assert (await ask(instance, "quick", Identity("a", "a"), key=key)).run_id == first.run_id
    assert len(world.recorded(RunRequested)[0].source or "") < 400
