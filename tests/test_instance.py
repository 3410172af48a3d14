"""An instance on doubles: asking for runs, refusals, the queue, waiting for ends."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from cascadenced.errors import DiskFull, Invalid, Overloaded, Unavailable, Unknown
from cascadenced.eventlog.base import Change
from cascadenced.events.audit import audit_rows
from cascadenced.events.outbound import messages
from cascadenced.events.pointer import PointerAdded
from cascadenced.events.run import RunFailed, RunFinished, RunHeld, RunRefused, RunRequested, RunStarted
from cascadenced.events.stage import StageFinished, StageStarted
from cascadenced.events.streams import run_stream
from cascadenced.events.task import TaskRegistered
from cascadenced.events.workflow import EventDispatched
from cascadenced.handlers.run_requests import Origin
from cascadenced.identity import Identity
from cascadenced.instance import Instance
from cascadenced.plugins.discover import collect
from cascadenced.workflows import subscribe
from tests.doubles import ALICE, BOB, PSEUDONYMS, World, ask, idle, run, until


class Quick:
    """Ends at once."""

    name = "quick"

    async def run(self) -> str:
        return "done"


class Gated:
    """Runs until its gate is opened; notes who has entered, in order."""

    name = "gated"
    args: dict[str, Any]
    entered: list[Any]
    gate: asyncio.Event

    async def run(self) -> Any:
        self.entered.append(self.args.get("n"))
        await self.gate.wait()
        return self.args.get("n")


@pytest.fixture
def gated() -> type[Gated]:
    """Its own class for each test, with its own gate."""
    return type("Gated", (Gated,), {"entered": [], "gate": asyncio.Event()})


# ── the queue ────────────────────────────────────────────────────────────────────────────────────────────────


async def test_when_all_slots_are_taken_runs_are_queued_and_then_started_in_order(gated: type[Gated]) -> None:
    async with World(gated, max_concurrent_runs=2).up() as instance:
        accepted = [await ask(instance, "gated", args={"n": n}) for n in range(5)]
        assert (instance.runs.n_running, instance.runs.n_queued) == (2, 3)
        await until(lambda: len(gated.entered) == 2)
        await idle()
        assert gated.entered == [0, 1]
        gated.gate.set()
        ended = [await instance.runs.ended(a.run_id) for a in accepted]
        assert gated.entered == [e.run.result for e in ended] == [0, 1, 2, 3, 4]
        assert (instance.runs.n_running, instance.runs.n_queued) == (0, 0)


async def test_a_queued_run_has_no_started_event_until_it_has_a_slot(gated: type[Gated]) -> None:
    world = World(gated, max_concurrent_runs=1)
    async with world.up() as instance:
        await ask(instance, "gated")
        second = await ask(instance, "gated")
        assert [type(e) for e in world.events(run_id=second.run_id)] == [RunRequested]
        gated.gate.set()
        await instance.runs.ended(second.run_id)
        assert [type(e) for e in world.events(run_id=second.run_id)] == [
            RunRequested, RunStarted, StageStarted, StageFinished, RunFinished
        ]  # fmt: skip


async def test_a_started_run_and_its_first_stage_are_one_append_with_the_request() -> None:
    world = World(Quick)
    async with world.up() as instance:
        await run(instance, "quick")
    requested, started, stage = world.recorded()[1:4]
    assert requested.at_us == started.at_us == stage.at_us
    assert [type(r.event) for r in (requested, started, stage)] == [RunRequested, RunStarted, StageStarted]


async def test_a_full_queue_refuses_and_records_nothing(gated: type[Gated]) -> None:
    world = World(gated, max_concurrent_runs=1, max_queued_runs=2)
    async with world.up() as instance:
        for n in range(3):
            await ask(instance, "gated", args={"n": n})
        before = len(world.file.events)
        with pytest.raises(Overloaded, match="2 runs are queued already; try again later") as caught:
            await ask(instance, "gated")
        assert caught.value.retry_after_s > 0
        assert len(world.file.events) == before
        gated.gate.set()
        await until(lambda: instance.runs.n_queued == 0)
        assert (await run(instance, "gated", args={"n": 9})).run.result == 9


async def test_whoever_can_wait_waits_for_room_in_the_queue(gated: type[Gated]) -> None:
    async with World(gated, max_concurrent_runs=1, max_queued_runs=1).up() as instance:
        await ask(instance, "gated")
        assert await instance.runs.room() == 1
        await ask(instance, "gated")
        room = asyncio.ensure_future(instance.runs.room())
        await idle()
        assert not room.done()
        gated.gate.set()
        assert await room == 1


async def test_requests_at_the_same_moment_do_not_overfill_the_queue(gated: type[Gated]) -> None:
    world = World(gated, max_concurrent_runs=1, max_queued_runs=3)
    async with world.up() as instance:
        answers = await asyncio.gather(*(ask(instance, "gated") for _ in range(20)), return_exceptions=True)
        assert [type(answer) for answer in answers].count(Overloaded) == 16
        assert (instance.runs.n_queued, len(world.events(RunRequested))) == (3, 4)
        gated.gate.set()
        await until(lambda: instance.runs.n_running == 0)


async def test_a_request_that_fails_leaves_its_place_in_the_queue_to_others(gated: type[Gated]) -> None:
    world = World(gated, max_concurrent_runs=1, max_queued_runs=1)
    async with world.up() as instance:
        await ask(instance, "gated")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(world.vault, "remember", refuse_to_remember)
            with pytest.raises(DiskFull):
                await ask(instance, "gated", Identity("somebody", "new"))
        instance.log.fail_next = DiskFull("no space")  # type: ignore[attr-defined]
        with pytest.raises(DiskFull):
            await ask(instance, "gated")
        await asyncio.wait_for(instance.runs.room(), 5)
        await ask(instance, "gated")
        with pytest.raises(Overloaded):
            await ask(instance, "gated")
        gated.gate.set()
        await until(lambda: instance.runs.n_running == 0)


async def refuse_to_remember(*_: Any) -> None:
    raise DiskFull("no space")


async def test_the_queue_has_no_room_while_what_fills_it_is_being_recorded(gated: type[Gated]) -> None:
    async with World(gated, max_concurrent_runs=1, max_queued_runs=1).up() as instance:
        await ask(instance, "gated")
        second = asyncio.ensure_future(ask(instance, "gated"))
        await asyncio.sleep(0)
        room = asyncio.ensure_future(instance.runs.room())
        await second
        await idle()
        assert not room.done()
        gated.gate.set()
        await room


async def test_only_the_ids_of_a_long_queue_are_kept_and_they_run_all_the_same(
    gated: type[Gated], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cascadenced.runtime.runs.MAX_QUEUED_IN_MEMORY", 1)
    async with World(gated, max_concurrent_runs=1).up() as instance:
        accepted = [await ask(instance, "gated", args={"n": n}) for n in range(5)]
        ends = [asyncio.ensure_future(instance.runs.ended(a.run_id)) for a in accepted]
        await idle()
        gated.gate.set()
        assert [ended.run.result for ended in await asyncio.gather(*ends)] == [0, 1, 2, 3, 4]


# ── refusals ─────────────────────────────────────────────────────────────────────────────────────────────────


async def refused(world: World, instance: Instance, task: str) -> tuple[str, str]:
    """(code, reason) of the refusal, after checking that all readers see the same."""
    accepted = await ask(instance, task)
    assert accepted.refused is not None
    code, reason = accepted.refused
    assert world.events(run_id=accepted.run_id) == [
        RunRequested(task=task, via="http"), RunRefused(task=task, via="http", code=code, reason=reason)
    ]  # fmt: skip
    assert (await instance.answers.run(accepted.run_id)).status == "refused"
    [audit] = [row for event in world.events(run_id=accepted.run_id) for row in audit_rows(event)]
    assert (audit.stage, audit.status, audit.reason) == ("run", "error", reason)
    assert instance.runs.n_running == instance.runs.n_queued == 0
    return code, reason


async def test_an_unknown_task_is_refused() -> None:
    world = World(Quick)
    async with world.up() as instance:
        assert await refused(world, instance, "nothing") == ("unknown_task", "Unknown task: nothing")


async def test_a_disabled_task_is_refused_until_it_is_enabled() -> None:
    world = World(Quick)
    async with world.up() as instance:
        await instance.tasks.switch("quick", "disable", Change("x", []).context)
        assert await refused(world, instance, "quick") == ("disabled", "Task 'quick' is disabled")
        await instance.tasks.switch("quick", "enable", Change("x", []).context)
        assert (await run(instance, "quick")).run.result == "done"


async def test_a_paused_task_is_refused_until_it_is_resumed() -> None:
    world = World(Quick)
    async with world.up() as instance:
        await instance.tasks.switch("quick", "pause", Change("x", []).context)
        assert await refused(world, instance, "quick") == ("paused", "Task 'quick' is paused")
        await instance.tasks.switch("quick", "resume", Change("x", []).context)
        assert (await run(instance, "quick")).run.result == "done"


async def test_a_refused_run_publishes_one_task_run_with_status_refused() -> None:
    world = World(Quick)
    async with world.up() as instance:
        accepted = await ask(instance, "nothing")
    subjects = [
        message.subject
        for recorded in world.recorded(run_id=accepted.run_id)
        for message in messages(recorded, "ume", broadcast_pointers=False)
    ]
    assert subjects == ["ume.audit.nothing.run", "ume.task_run.nothing"]


@pytest.mark.parametrize("task", ["", "two words", "x" * 129, "a.b..c", "a>b", "a\nb"])
async def test_what_cannot_be_a_tasks_name_is_invalid_and_not_recorded(task: str) -> None:
    world = World(Quick)
    async with world.up() as instance:
        before = len(world.file.events)
        with pytest.raises(Invalid, match="names no task"):
            await ask(instance, task)
        assert len(world.file.events) == before


# ── asking twice ─────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_same_idempotency_key_names_the_same_run_at_any_time() -> None:
    world = World(Quick)
    async with world.up() as instance:
        first = await ask(instance, "quick", key="k")
        await instance.runs.ended(first.run_id)
        await world.clock.advance(86_400 * 400)
        again = await ask(instance, "quick", key="k")
        assert (again.run_id, again.duplicate) == (first.run_id, True)
        assert not first.duplicate
    async with world.up() as instance:
        assert (await ask(instance, "quick", key="k")).run_id == first.run_id
    assert len(world.events(RunRequested)) == 1
    assert instance.runs.n_running == 0


async def test_the_same_key_of_another_user_or_task_is_another_run() -> None:
    class Other(Quick):
        name = "other"

    async with World(Quick, Other).up() as instance:
        runs = [
            await ask(instance, "quick", ALICE, key="k"),
            await ask(instance, "quick", BOB, key="k"),
            await ask(instance, "other", ALICE, key="k"),
        ]
        assert len({accepted.run_id for accepted in runs}) == 3


@pytest.mark.parametrize("key", ["", "k" * 257])
async def test_a_key_that_is_empty_or_too_long_is_invalid(key: str) -> None:
    world = World(Quick)
    async with world.up() as instance:
        with pytest.raises(Invalid, match="idempotency_key must have 1–256 characters"):
            await ask(instance, "quick", key=key)
    assert world.events(RunRequested) == []


async def test_the_raw_user_id_is_not_in_the_source_of_a_key() -> None:
    world = World(Quick)
    async with world.up() as instance:
        accepted = await ask(instance, "quick", key="k")
    assert world.recorded(run_id=accepted.run_id)[0].source == f"key:quick:{PSEUDONYMS.user('alice')}:k"


async def test_a_source_that_the_log_has_is_the_same_run_though_many_ask_at_once() -> None:
    world = World(Quick)
    async with world.up() as instance:
        accepted = await asyncio.gather(*(ask(instance, "quick", source="run.request:1") for _ in range(10)))
        assert len({a.run_id for a in accepted}) == 1
        assert [a.duplicate for a in accepted].count(False) == 1
        await instance.runs.ended(accepted[0].run_id)
        assert instance.runs.n_running == 0
    assert len(world.events(RunRequested)) == 1


async def test_a_duplicate_gives_its_slot_to_whoever_waits(gated: type[Gated]) -> None:
    async with World(gated, Quick, max_concurrent_runs=1).up() as instance:
        first = await ask(instance, "quick", source="s")
        await instance.runs.ended(first.run_id)
        await until(lambda: instance.runs.n_running == 0)
        duplicate = asyncio.ensure_future(ask(instance, "quick", source="s"))
        await asyncio.sleep(0)
        queued = await ask(instance, "quick")
        assert (await duplicate).duplicate
        assert (await instance.runs.ended(queued.run_id)).run.status == "success"


# ── dispatching ──────────────────────────────────────────────────────────────────────────────────────────────


@subscribe("invoice.received")
async def file_invoice(payload: dict[str, Any], user_id: str) -> str:
    return f"{user_id}: {payload.get('number')}"


async def dispatch(instance: Instance, name: str, payload: dict[str, Any] | None = None, source: str | None = None):
    return await instance.requests.dispatch(name, payload or {}, ALICE, Origin(via="bus", source=source))


async def test_an_event_runs_the_workflow_that_listens_and_both_are_one_append() -> None:
    world = World(file_invoice)
    async with world.up() as instance:
        dispatched = await dispatch(instance, "invoice.received", {"number": 7})
        ended = await instance.runs.ended(dispatched.run_id)
    assert ended.run.result == "alice: 7"
    event, requested = world.recorded(EventDispatched)[0], world.recorded(RunRequested)[0]
    assert event.at_us == requested.at_us
    assert event.event.run_id == requested.run_id == dispatched.run_id
    assert requested.cause == event.id


async def test_an_event_without_a_listener_is_recorded_as_unhandled() -> None:
    world = World(Quick)
    async with world.up() as instance:
        dispatched = await dispatch(instance, "nobody.listens", {"a": 1})
        assert dispatched.run_id is None
        assert (await dispatch(instance, "nobody.listens", source="s")).duplicate is False
        assert (await dispatch(instance, "nobody.listens", source="s")).duplicate is True
    assert [e.run_id for e in world.events(EventDispatched)] == [None, None]
    assert world.events(RunRequested) == []


async def test_an_unhandled_event_that_comes_again_stays_unhandled_though_somebody_listens_now() -> None:
    world = World(Quick)
    async with world.up() as instance:
        await dispatch(instance, "invoice.received", source="s")
        other = await ask(instance, "quick")
    async with world.up(Quick, file_invoice) as instance:
        again = await dispatch(instance, "invoice.received", source="s")
        assert again.duplicate
        assert again.run_id is None
        assert again.run_id != other.run_id
        assert instance.runs.n_running == 0


async def test_the_same_dispatch_twice_is_the_same_run() -> None:
    world = World(file_invoice)
    async with world.up() as instance:
        first = await dispatch(instance, "invoice.received", source="s")
        again = await dispatch(instance, "invoice.received", source="s")
        assert (again.run_id, again.duplicate) == (first.run_id, True)
    assert len(world.events(EventDispatched)) == 1


async def test_an_event_for_a_disabled_workflow_is_refused() -> None:
    async with World(file_invoice).up() as instance:
        await instance.tasks.switch("workflow.invoice.received", "disable", Change("x", []).context)
        dispatched = await dispatch(instance, "invoice.received")
        assert dispatched.refused == ("disabled", "Task 'workflow.invoice.received' is disabled")


@pytest.mark.parametrize("name", ["", "two words", "a..b", "x" * 129])
async def test_what_cannot_be_an_events_name_is_invalid(name: str) -> None:
    world = World(Quick)
    async with world.up() as instance:
        with pytest.raises(Invalid, match="cannot name an event"):
            await dispatch(instance, name)
    assert world.events(EventDispatched) == []


# ── waiting for the end ──────────────────────────────────────────────────────────────────────────────────────


async def test_the_end_of_a_run_that_was_never_asked_for_is_unknown() -> None:
    async with World(Quick).up() as instance:
        with pytest.raises(Unknown, match="no run .123"):
            await instance.runs.ended("123")


async def test_the_end_of_a_finished_run_is_known_at_once_and_without_its_exception_object() -> None:
    class Fails:
        name = "fails"

        async def run(self) -> None:
            raise ValueError("boom")

    async with World(Fails).up() as instance:
        first = await run(instance, "fails")
        assert isinstance(first.error, ValueError)
        later = await instance.runs.ended((await ask(instance, "fails")).run_id)
        assert later.run.status == "error"
        accepted = await ask(instance, "fails")
        await instance.runs.ended(accepted.run_id)
        again = await instance.runs.ended(accepted.run_id)
        assert (again.run.reason, again.error) == ("boom", None)


async def test_many_may_wait_for_the_end_of_one_run_and_one_of_them_may_give_up(gated: type[Gated]) -> None:
    async with World(gated).up() as instance:
        accepted = await ask(instance, "gated", args={"n": 1})
        waiting = [asyncio.ensure_future(instance.runs.ended(accepted.run_id)) for _ in range(3)]
        await idle()
        waiting[1].cancel()
        gated.gate.set()
        assert (await waiting[0]).run.result == (await waiting[2]).run.result == 1


async def test_one_may_wait_for_a_run_that_is_still_queued(gated: type[Gated]) -> None:
    async with World(gated, max_concurrent_runs=1).up() as instance:
        await ask(instance, "gated")
        queued = await ask(instance, "gated", args={"n": 2})
        end = asyncio.ensure_future(instance.runs.ended(queued.run_id))
        await idle()
        assert not end.done()
        gated.gate.set()
        assert (await end).run.result == 2


async def test_a_queued_run_that_ends_while_its_stream_is_read_is_not_waited_for_for_ever(
    gated: type[Gated], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with World(gated, max_concurrent_runs=1).up() as instance:
        await ask(instance, "gated")
        queued = await ask(instance, "gated", args={"n": 2})
        read_stream, started, go_on = instance.log.read_stream, asyncio.Event(), asyncio.Event()

        async def slow(stream: str, after_version: int = 0) -> Any:
            events = await read_stream(stream, after_version)
            started.set()
            await go_on.wait()
            return events

        monkeypatch.setattr(instance.log, "read_stream", slow)
        end = asyncio.ensure_future(instance.runs.ended(queued.run_id))
        await idle()
        monkeypatch.setattr(instance.log, "read_stream", read_stream)
        gated.gate.set()
        await until(lambda: instance.runs.n_running == 0)
        go_on.set()
        assert (await asyncio.wait_for(end, 5)).run.result == 2


async def test_a_run_that_is_held_says_so_to_those_who_wait_and_to_those_who_ask_later() -> None:
    world = World(Quick)
    async with world.up() as instance:
        await instance.runs.stop(0)  # accepted, not started
        accepted = await ask(instance, "quick")
        world.crash(instance)

    class Other(Quick):
        name = "other"

    async with world.up(Other, recover=False) as instance:
        await instance.runs.recover()
        with pytest.raises(Unavailable, match="Unknown task: quick"):
            await instance.runs.ended(accepted.run_id)
        await until(lambda: world.events(RunHeld))
        with pytest.raises(Unavailable):
            await asyncio.wait_for(instance.runs.ended(accepted.run_id), 5)


async def test_an_unfinished_run_of_the_past_is_not_waited_for_where_nobody_goes_on_with_it(gated: type[Gated]) -> None:
    world = World(gated)
    async with world.up() as instance:
        accepted = await ask(instance, "gated")
        world.crash(instance)
    async with world.up(recover=False) as instance:
        with pytest.raises(Unavailable):
            await asyncio.wait_for(instance.runs.ended(accepted.run_id), 5)


# ── a caller that gives up ───────────────────────────────────────────────────────────────────────────────────


async def test_a_caller_cancelled_before_the_commit_leaves_no_stuck_slot_and_no_stuck_run() -> None:
    """What is on its way into the log cannot be called back: it is recorded, so it runs."""
    world = World(Quick, max_concurrent_runs=1)
    async with world.up() as instance:
        asking = asyncio.ensure_future(ask(instance, "quick"))
        await until(lambda: instance.log.waiting)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await until(lambda: world.events(RunFinished))
        await until(lambda: instance.runs.n_running == 0)
        assert (await run(instance, "quick")).run.status == "success"


async def test_a_caller_cancelled_while_its_run_is_queued_leaves_it_in_the_queue(gated: type[Gated]) -> None:
    world = World(gated, max_concurrent_runs=1)
    async with world.up() as instance:
        await ask(instance, "gated", args={"n": 1})
        asking = asyncio.ensure_future(ask(instance, "gated", args={"n": 2}))
        await until(lambda: instance.log.waiting)
        asking.cancel()
        await idle()
        gated.gate.set()
        await until(lambda: gated.entered == [1, 2])


async def test_a_caller_cancelled_while_the_vault_writes_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(Quick, max_concurrent_runs=1)
    async with world.up() as instance:
        with monkeypatch.context() as patch:
            patch.setattr(world.vault, "remember", lambda *_: asyncio.Event().wait())
            asking = asyncio.ensure_future(ask(instance, "quick"))
            await idle()
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
        assert instance.runs.n_running == 0
        assert world.events(RunRequested) == []
        assert (await run(instance, "quick")).run.status == "success"


async def test_an_append_that_fails_frees_the_slot_and_tells_the_caller() -> None:
    world = World(Quick, max_concurrent_runs=1)
    async with world.up() as instance:
        instance.log.fail_next = DiskFull("no space")
        with pytest.raises(DiskFull):
            await ask(instance, "quick")
        assert instance.runs.n_running == 0
        assert (await run(instance, "quick")).run.status == "success"


# ── the disk, and other writers ──────────────────────────────────────────────────────────────────────────────


async def test_a_full_disk_at_the_end_of_a_stage_is_waited_for(gated: type[Gated]) -> None:
    world = World(gated)
    async with world.up() as instance:
        accepted = await ask(instance, "gated", args={"n": 1})
        await until(lambda: gated.entered)
        instance.log.fail_next = DiskFull("no space")
        gated.gate.set()
        for again in (True, True, False):
            await until(lambda: instance.log.fail_next is None)
            await idle()
            assert instance.runs.n_running == 1
            instance.log.fail_next = DiskFull("no space") if again else None
            await world.clock.advance(1.0)
        assert (await instance.runs.ended(accepted.run_id)).run.result == 1
    assert gated.entered == [1]


async def test_a_full_disk_when_a_queued_run_starts_is_waited_for(gated: type[Gated]) -> None:
    world = World(gated, max_concurrent_runs=1)
    async with world.up() as instance:
        await ask(instance, "gated", args={"n": 1})
        queued = [await ask(instance, "gated", args={"n": n}) for n in (2, 3)]
        await until(lambda: gated.entered == [1])
        gated.gate.set()
        await until(lambda: world.events(RunFinished))
        instance.log.fail_next = DiskFull("no space")  # the next commit is the start of a queued run
        await until(lambda: instance.log.fail_next is None)
        await idle()
        assert len(world.events(RunStarted)) == 1
        await world.clock.advance(1.0)
        for accepted in queued:
            assert (await instance.runs.ended(accepted.run_id)).run.status == "success"


async def foreign(instance: Instance, run_id: str, *events: Any) -> None:
    """Somebody else writes to the stream of a run, behind its back."""
    await instance.log.append([Change(run_stream(run_id), list(events))])


async def test_another_writer_on_a_runs_stream_costs_nothing(gated: type[Gated]) -> None:
    async with World(gated).up() as instance:
        accepted = await ask(instance, "gated", args={"n": 1})
        await until(lambda: gated.entered)
        await foreign(instance, accepted.run_id, PointerAdded(task="gated", run_id="x", user_hash="0" * 64))
        gated.gate.set()
        assert (await instance.runs.ended(accepted.run_id)).run.result == 1


async def test_another_writer_on_a_queued_runs_stream_costs_nothing(gated: type[Gated]) -> None:
    async with World(gated, max_concurrent_runs=1).up() as instance:
        await ask(instance, "gated", args={"n": 1})
        queued = await ask(instance, "gated", args={"n": 2})
        await foreign(instance, queued.run_id, PointerAdded(task="gated", run_id="x", user_hash="0" * 64))
        gated.gate.set()
        assert (await instance.runs.ended(queued.run_id)).run.result == 2


async def test_an_end_that_somebody_else_recorded_stands(gated: type[Gated]) -> None:
    world = World(gated)
    async with world.up() as instance:
        accepted = await ask(instance, "gated", args={"n": 1})
        await until(lambda: gated.entered)
        await foreign(
            instance, accepted.run_id, RunFailed(task="gated", via="http", error_type="killed", reason="by hand")
        )
        gated.gate.set()
        assert (await instance.runs.ended(accepted.run_id)).run.reason == "by hand"
        await until(lambda: instance.runs.n_running == 0)
    assert world.events(StageFinished) == []


async def test_a_queued_run_that_somebody_else_ended_is_not_started(gated: type[Gated]) -> None:
    world = World(gated, max_concurrent_runs=1)
    async with world.up() as instance:
        await ask(instance, "gated", args={"n": 1})
        queued = await ask(instance, "gated", args={"n": 2})
        end = asyncio.ensure_future(instance.runs.ended(queued.run_id))
        await foreign(
            instance, queued.run_id, RunFailed(task="gated", via="http", error_type="killed", reason="by hand")
        )
        gated.gate.set()
        assert (await end).run.reason == "by hand"
    assert gated.entered == [1]


async def test_a_fault_of_ours_while_driving_a_run_frees_its_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    async with World(Quick, max_concurrent_runs=1).up() as instance:

        def broken(*_: Any, **__: Any) -> Any:
            raise RuntimeError("a fault of ours")

        with monkeypatch.context() as patch:
            patch.setattr("cascadenced.runtime.journey.outcome_of", broken)
            accepted = await ask(instance, "quick")
            with pytest.raises(Unavailable):
                await instance.runs.ended(accepted.run_id)
        await until(lambda: instance.runs.n_running == 0)
        assert (await run(instance, "quick")).run.status == "success"


# ── registration ─────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_task_is_recorded_once_and_again_only_when_it_has_changed() -> None:
    class Changed(Quick):
        """Another description."""

    world = World(Quick)
    for tasks in ((), (), (Changed,), (Changed,)):
        async with world.up(*tasks):
            pass
    assert [event.description for event in world.events(TaskRegistered)] == ["Ends at once.", "Another description."]


async def test_switches_survive_restarts_and_new_code() -> None:
    class Changed(Quick):
        """Another description."""

    world = World(Quick)
    async with world.up() as instance:
        await instance.tasks.switch("quick", "disable", Change("x", []).context)
    for tasks in ((), (Changed,)):
        async with world.up(*tasks) as instance:
            assert (await ask(instance, "quick")).refused == ("disabled", "Task 'quick' is disabled")


async def test_what_could_not_be_used_is_an_event_and_the_others_are_registered() -> None:
    class Broken:
        name = "broken"

    world = World(Quick)
    instance = await world.start()
    catalogue = collect([("shop:Broken", Broken), ("shop:Quick", Quick)])
    instance.catalogue = catalogue
    await instance.register_tasks()
    await instance.log.close()
    assert world.file.events[-1].event.plugin == "shop:Broken"
    assert "has no run() method" in world.file.events[-1].event.reason


async def test_a_switch_pressed_by_two_at_once_is_recorded_once() -> None:
    world = World(Quick)
    async with world.up() as instance:
        context = Change("x", []).context
        changed = await asyncio.gather(*(instance.tasks.switch("quick", "disable", context) for _ in range(4)))
        assert sorted(changed) == [False, False, False, True]
        assert await instance.tasks.switch("quick", "enable", context)
    assert [type(e).__name__ for e in world.events()][1:] == ["TaskDisabled", "TaskEnabled"]


# ── what a running task may ask for ──────────────────────────────────────────────────────────────────────────


async def test_a_task_keeps_an_attribute_of_its_own_called_host() -> None:
    class Database:
        name = "database"

        def __init__(self) -> None:
            self.host = "db.example.com"

        def run(self) -> str:
            return self.host

    async with World(Database).up() as instance:
        assert (await run(instance, "database")).run.result == "db.example.com"


# ── status ───────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_status_tells_how_the_instance_is(gated: type[Gated]) -> None:
    world = World(gated, max_concurrent_runs=1)
    async with world.up() as instance:
        await ask(instance, "gated")
        await ask(instance, "gated")
        await world.clock.advance(5.0)
        status = await instance.status()
        assert (status.n_running, status.n_queued, status.position) == (1, 1, len(world.file.events))
        assert (status.uptime_s, status.durability, status.read_only, status.bus) == (5.0, "memory", None, None)
        assert re.search(rb'"name":"gated".*"running":1,"queued":1', bytes(status.tasks))
