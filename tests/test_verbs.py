"""The table of verbs: what each does, and that nothing ill-typed gets as far as doing anything."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from cascadenced.errors import Conflict, Invalid, NotAllowed, Overloaded, RunFailedError, Unavailable, Unknown
from cascadenced.events.pointer import PointerAdded
from cascadenced.events.run import RunRefused, RunRequested
from cascadenced.events.task import TaskDisabled
from cascadenced.instance import Instance
from cascadenced.plugins.base import ManualTrigger, PointerTask
from cascadenced.verbs import LOCAL_VERBS, VERBS, perform
from cascadenced.workflows import subscribe
from tests.doubles import PSEUDONYMS, World, ask, until

WHO = {"user_id": "alice", "group_id": "eng"}
ALICE_HASH, ENG_HASH = PSEUDONYMS.user("alice"), PSEUDONYMS.group("eng")


class Adds(ManualTrigger):
    """Adds up."""

    name = "adds"

    async def run(self) -> Any:
        return sum(self.args.get("numbers", [1, 2]))  # type: ignore[arg-type]


class Fails:
    name = "fails"

    async def run(self) -> None:
        raise LookupError("alice is not there")


class Marks(PointerTask):
    name = "marks"

    def run(self) -> None: ...


@subscribe("order.placed")
async def place(payload: dict[str, Any], user_id: str) -> list[Any]:
    return [payload, user_id]


@pytest.fixture
def world() -> World:
    return World(Adds, Fails, Marks, place)


async def do(instance: Instance, verb: str, arguments: Any = None, *, via: str | None = None) -> Any:
    """The verb's result as JSON would show it."""
    known = {**VERBS, **LOCAL_VERBS}
    result = await perform(known[verb], instance, {} if arguments is None else arguments, via=via)
    return msgspec.json.decode(msgspec.json.encode(result))


# ── running ──────────────────────────────────────────────────────────────────────────────────────────────────


async def test_list_names_all_tasks_and_whether_they_are_disabled(world: World) -> None:
    async with world.up() as instance:
        await do(instance, "disable", {"task": "fails"})
        assert await do(instance, "list") == [
            {"name": "adds", "disabled": False},
            {"name": "fails", "disabled": True},
            {"name": "marks", "disabled": False},
            {"name": "workflow.order.placed", "disabled": False},
        ]


async def test_run_waits_for_the_result(world: World) -> None:
    async with world.up() as instance:
        result = await do(instance, "run", {**WHO, "task": "adds", "args": {"numbers": [3, 4]}})
        [requested] = world.recorded(RunRequested)
        assert result == {"run_id": requested.run_id, "status": "success", "result": 7, "duplicate": False}
        assert (requested.event.via, requested.user_hash) == ("cli", ALICE_HASH)


async def test_run_does_not_wait_if_told_so(world: World) -> None:
    async with world.up() as instance:
        result = await do(instance, "run", {**WHO, "task": "adds", "wait": False})
        assert result["status"] == "accepted"
        assert (await instance.runs.ended(result["run_id"])).run.result == 3


async def test_run_with_the_same_key_is_the_same_run(world: World) -> None:
    async with world.up() as instance:
        asked = {**WHO, "task": "adds", "idempotency_key": "k"}
        first, again = await do(instance, "run", asked), await do(instance, "run", asked)
        assert again == {**first, "duplicate": True}


async def test_a_run_that_fails_is_told_with_its_reason_and_by_pseudonym(world: World) -> None:
    async with world.up() as instance:
        with pytest.raises(RunFailedError, match=f"^{ALICE_HASH} is not there$") as caught:
            await do(instance, "run", {**WHO, "task": "fails"})
        assert caught.value.error_type == "LookupError"
        assert caught.value.run_id == world.recorded(RunRequested)[0].run_id


@pytest.mark.parametrize("wait", [True, False])
@pytest.mark.parametrize(
    ("switch", "task", "kind", "said"),
    [
        (None, "nothing", Unknown, "Unknown task: nothing"),
        ("disable", "adds", Conflict, "Task 'adds' is disabled"),
        ("pause", "adds", Conflict, "Task 'adds' is paused"),
    ],
)
async def test_a_refusal_is_an_error_also_when_it_is_asked_twice(
    world: World, switch: str | None, task: str, kind: type[Exception], said: str, wait: bool
) -> None:
    async with world.up() as instance:
        if switch is not None:
            await do(instance, switch, {"task": task})
        for _ in range(2 if wait else 1):
            with pytest.raises(kind, match=f"^{said}$"):
                await do(instance, "run", {**WHO, "task": task, "idempotency_key": "k", "wait": wait})
    assert len(world.events(RunRefused)) == 1


async def test_a_fork_waits_for_the_result_and_says_through_which_door_it_came(world: World) -> None:
    async with world.up() as instance:
        first = await do(instance, "run", {**WHO, "task": "adds", "args": {"numbers": [3, 4]}})
        asked = {**WHO, "run": first["run_id"][:20], "stage": "run", "args": {"numbers": [5]}}
        result = await do(instance, "fork", asked, via="bus")
        assert (result["status"], result["result"], result["duplicate"]) == ("success", 5, False)
        requested = world.recorded(RunRequested, run_id=result["run_id"])[0]
        assert (requested.event.via, requested.event.forked_from) == ("bus", first["run_id"])
        with pytest.raises(Conflict, match="never came to the stage verify"):
            await do(instance, "fork", {**asked, "stage": "verify"})
        with pytest.raises(NotAllowed, match="another user's"):
            await do(instance, "fork", {**asked, "user_id": "bob"})


async def test_trigger_runs_manual_tasks_only(world: World) -> None:
    async with world.up() as instance:
        assert (await do(instance, "trigger", {**WHO, "task": "adds"}))["result"] == 3
        with pytest.raises(Conflict, match="'fails' is not a manual task"):
            await do(instance, "trigger", {**WHO, "task": "fails"})
        with pytest.raises(Unknown, match="Unknown task: nothing"):
            await do(instance, "trigger", {**WHO, "task": "nothing"})


async def test_a_full_queue_is_told(world: World) -> None:
    world = World(Adds, max_queued_runs=1, max_concurrent_runs=1)
    async with world.up() as instance:
        await instance.runs.stop(0)
        await do(instance, "run", {**WHO, "task": "adds", "wait": False})
        with pytest.raises(Overloaded):
            await do(instance, "run", {**WHO, "task": "adds"})


async def test_who_waits_while_the_daemon_stops_is_told_that_the_run_goes_on_later(world: World) -> None:
    async with world.up() as instance:
        await instance.runs.stop(0)
        with pytest.raises(Unavailable, match="goes on after the next start"):
            await do(instance, "run", {**WHO, "task": "adds"})


# ── switches, events, pointers ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("there", "back", "statuses"),
    [("disable", "enable", ["disabled", "enabled"]), ("pause", "resume", ["paused", "resumed"])],
)
async def test_a_switch_says_whether_it_moved_and_its_audit_row_names_who_asked(
    world: World, there: str, back: str, statuses: list[str]
) -> None:
    async with world.up() as instance:
        for verb, who, changed in [(there, WHO, True), (there, {}, False), (back, WHO, True)]:
            assert (await do(instance, verb, {"task": "adds", **who}))["changed"] is changed
        trail = await do(instance, "trail", {"task": "adds", "category": "audit"})
    assert [(row["stage"], row["status"]) for row in trail["items"]] == [("scheduler", status) for status in statuses]
    assert {(row["user_hash"], row["group_hash"]) for row in trail["items"]} == {(ALICE_HASH, ENG_HASH)}


async def test_a_switch_of_an_unknown_task_is_told(world: World) -> None:
    async with world.up() as instance:
        with pytest.raises(Unknown, match="Unknown task: nothing"):
            await do(instance, "disable", {"task": "nothing"})


async def test_dispatch_answers_with_the_workflows_result(world: World) -> None:
    async with world.up() as instance:
        result = await do(instance, "dispatch", {**WHO, "event": "order.placed", "payload": {"n": 1}})
        assert (result["status"], result["result"]) == ("success", [{"n": 1}, "alice"])
        later = await do(instance, "dispatch", {**WHO, "event": "order.placed", "wait": False})
        assert later["status"] == "accepted"
        await instance.runs.ended(later["run_id"])


async def test_dispatch_of_an_event_nobody_listens_to_is_no_error(world: World) -> None:
    async with world.up() as instance:
        assert await do(instance, "dispatch", {**WHO, "event": "nobody.listens"}) == {
            "event": "nobody.listens", "run_id": None, "status": "unhandled", "result": None, "duplicate": False
        }  # fmt: skip


@pytest.mark.parametrize("event", ["order.placed", "nobody.listens"])
async def test_dispatch_with_the_same_key_is_one_event(world: World, event: str) -> None:
    async with world.up() as instance:
        asked = {**WHO, "event": event, "idempotency_key": "k"}
        first, again = await do(instance, "dispatch", asked), await do(instance, "dispatch", asked)
        assert again == {**first, "duplicate": True}
        other = await do(instance, "run", {**WHO, "task": "adds", "idempotency_key": "k"})
        assert other["run_id"] != first["run_id"]


async def test_dispatch_to_a_disabled_workflow_is_refused(world: World) -> None:
    async with world.up() as instance:
        await do(instance, "disable", {"task": "workflow.order.placed"})
        with pytest.raises(Conflict, match="Task 'workflow.order.placed' is disabled"):
            await do(instance, "dispatch", {**WHO, "event": "order.placed"})


async def test_pointers_are_added_once_listed_and_found_by_raw_id(world: World) -> None:
    async with world.up() as instance:
        assert await do(instance, "pointer_add", {"task": "marks", "run_id": "r1", **WHO}) == {"stored": True}
        assert await do(instance, "pointer_add", {"task": "marks", "run_id": "r1", **WHO}) == {"stored": False}
        received = {"task": "marks", "run_id": "r2", "user_hash": "e" * 64}
        assert await do(instance, "pointer_receive", received) == {"stored": True}
        everything = await do(instance, "pointers")
        mine = await do(instance, "pointers", {"user_id": "alice", "group_id": "eng", "task": "marks"})
    assert [row["run_id"] for row in everything["items"]] == ["r1", "r2"]
    assert mine["items"] == [{"task": "marks", "run_id": "r1", "user_hash": ALICE_HASH, "group_hash": ENG_HASH}]
    assert [event.via for event in world.events(PointerAdded)] == ["cli", "bus"]


@pytest.mark.parametrize(
    ("verb", "arguments", "said"),
    [
        ("pointer_add", {"task": "adds", "run_id": "r", **WHO}, "'adds' is not a pointer task"),
        ("pointer_add", {"task": "nothing", "run_id": "r", **WHO}, "'nothing' is not a pointer task"),
        ("pointer_add", {"task": "marks", "run_id": "r"}, "user_id or user_hash is required"),
        ("pointer_add", {"task": "marks", "run_id": "", "user_id": "u"}, "run_id is required"),
        ("pointer_receive", {"task": "marks", "run_id": "r", "user_hash": "xyz"}, "user_hash must be 64"),
        ("pointer_receive", {"task": "two words", "run_id": "r", "user_id": "u"}, "cannot name a task"),
    ],
)
async def test_a_pointer_that_cannot_be_one_is_invalid(
    world: World, verb: str, arguments: dict[str, Any], said: str
) -> None:
    async with world.up() as instance:
        with pytest.raises(Invalid, match=said):
            await do(instance, verb, arguments)
    assert world.events(PointerAdded) == []


# ── looking ──────────────────────────────────────────────────────────────────────────────────────────────────


async def test_status_is_of_the_instance_or_of_one_task(world: World) -> None:
    async with world.up() as instance:
        await do(instance, "run", {**WHO, "task": "adds"})
        whole, one = await do(instance, "status"), await do(instance, "status", {"task": "adds"})
        assert [row["name"] for row in whole["tasks"]] == ["adds", "fails", "marks", "workflow.order.placed"]
        assert (whole["instance_id"], whole["n_queued"]) == ("i-test", 0)
        assert (one["kind"], one["last_status"], len(one["recent_runs"])) == ("manual", "success", 1)
        with pytest.raises(Unknown, match="Unknown task: nothing"):
            await do(instance, "status", {"task": "nothing"})


async def test_runs_are_listed_newest_first_a_page_at_a_time_and_by_status(world: World) -> None:
    async with world.up() as instance:
        ids = []
        for _ in range(3):
            await world.clock.advance(1.0)
            ids.append((await do(instance, "run", {**WHO, "task": "adds"}))["run_id"])
        await do_failing(instance)
        first = await do(instance, "runs", {"task": "adds", "limit": 2})
        rest = await do(instance, "runs", {"task": "adds", "limit": 2, "after": first["next"]})
        assert [row["run_id"] for row in first["items"] + rest["items"]] == ids[::-1]
        assert rest["next"] is None
        assert len((await do(instance, "runs", {"status": "error"}))["items"]) == 1


async def do_failing(instance: Instance) -> str:
    accepted = await ask(instance, "fails")
    await instance.runs.ended(accepted.run_id)
    return accepted.run_id


async def test_show_is_one_run_in_full_by_id_or_its_beginning(world: World) -> None:
    async with world.up() as instance:
        run_id = await do_failing(instance)
        shown = await do(instance, "show", {"run": run_id})
        assert shown == await do(instance, "show", {"run": run_id[:12]})
        assert shown["status"] == "error"
        assert shown["error"] == {"type": "LookupError", "message": f"{ALICE_HASH} is not there"}
        with pytest.raises(Unknown):
            await do(instance, "show", {"run": "no such run"})


async def test_the_trail_has_stage_and_audit_rows(world: World) -> None:
    async with world.up() as instance:
        await do(instance, "run", {**WHO, "task": "adds"})
        stages = await do(instance, "trail", {"task": "adds", "category": "stage"})
        audits = await do(instance, "trail", {"task": "adds", "category": "audit"})
    assert [row["stage"] for row in stages["items"]] == [
        "start", "intake", "research", "plan", "run", "verify", "finish"
    ]  # fmt: skip
    assert ("execute", "success") in [(row["stage"], row["status"]) for row in audits["items"]]


async def test_follow_ups_are_listed(world: World) -> None:
    async with world.up() as instance:
        assert (await do(instance, "followups"))["items"] == []


async def test_the_log_can_be_verified_and_folded_again(world: World) -> None:
    async with world.up() as instance:
        await do(instance, "run", {**WHO, "task": "adds"})
        assert await do(instance, "log_verify") == {"position": len(world.file.events)}
        before = await do(instance, "runs")
        states = await do(instance, "log_rebuild", {"projections": ["runs"]})
        assert {state["frozen"] for state in states} == {None}
        assert await do(instance, "runs") == before
        assert len(await do(instance, "log_rebuild")) == len(states)
        with pytest.raises(Unknown, match="no projection 'nothing'; there are audit_trail, "):
            await do(instance, "log_rebuild", {"projections": ["nothing"]})


# ── dead letters ─────────────────────────────────────────────────────────────────────────────────────────────


async def a_letter(world: World, instance: Instance, subject: str, raw: bytes) -> int:
    from cascadenced.bus.memory import MemoryBus
    from cascadenced.errors import BadMessage
    from cascadenced.runtime.ingest import Message

    bus = MemoryBus(clock=world.clock)
    bus.send(subject, raw, {"x": "y"})
    [delivery] = await bus.fetch(1)
    message = Message(source=f"s:{subject}:{raw!r}", stamp=delivery, origin=None, traceparent=None)
    await instance.dead_letters.record(delivery, message, BadMessage("cannot be read", code="unknown_task"))
    return instance.log.position


async def test_a_dead_letter_is_listed_without_and_shown_with_its_content(world: World) -> None:
    async with world.up() as instance:
        position = await a_letter(world, instance, "ume.idea", b'{"text": "secret \xff"}')
        [row] = (await do(instance, "dead_letters"))["items"]
        assert (row["position"], row["reason"], row["n_bytes"], row["redriven"]) == (
            position, "unknown_task", 20, False
        )  # fmt: skip
        assert "secret" not in str(row)
        shown = await do(instance, "dead_letter", {"position": position})
        assert shown["text"] == '{"text": "secret \\xff"}'
        assert shown["headers"] == {"x": "y"}


async def test_a_letter_that_can_be_read_now_is_redriven(world: World) -> None:
    async with world.up() as instance:
        good = await a_letter(world, instance, "ume.idea", b'{"text": "an idea"}')
        bad = await a_letter(world, instance, "ume.idea", b"{")
        assert (await do(instance, "redrive", {"position": good}))["redriven"]
        with pytest.raises(Conflict, match="^still cannot be read: "):
            await do(instance, "redrive", {"position": bad})
        for verb in ("redrive", "dead_letter"):
            with pytest.raises(Unknown, match="no dead letter at position 1"):
                await do(instance, verb, {"position": 1})


# ── arguments ────────────────────────────────────────────────────────────────────────────────────────────────

MINIMAL: dict[str, dict[str, Any]] = {
    "run": {**WHO, "task": "adds"},
    "trigger": {**WHO, "task": "adds"},
    "dispatch": {**WHO, "event": "order.placed"},
    "enable": {"task": "adds"},
    "disable": {"task": "adds"},
    "pause": {"task": "adds"},
    "resume": {"task": "adds"},
    "show": {"run": "0" * 32},
    "explain": {"run": "0" * 32},
    "diff": {"left": "0" * 32, "right": "1" * 32},
    "fork": {**WHO, "run": "0" * 32, "stage": "run"},
    "pause_run": {**WHO, "run": "0" * 32},
    "resume_run": {**WHO, "run": "0" * 32},
    "cancel": {**WHO, "run": "0" * 32},
    "signal": {**WHO, "run": "0" * 32, "value": {"note": "n"}},
    "resolve": {**WHO, "run": "0" * 32, "resolution": "retry"},
    "trail": {"task": "adds"},
    "partial": {"task": "adds", "stage": "run"},
    "schedule": {"task": "adds", "expr": "* * * * *"},
    "unschedule": {"task": "adds"},
    "schedule_pause": {"task": "adds"},
    "schedule_resume": {"task": "adds"},
    "ticks": {"task": "adds"},
    "backfill": {"task": "adds", "start": "2026-11-26T09:00:00Z", "end": "2026-11-26T10:00:00Z"},
    "graph": {"task": "adds"},
    "simulate": {"start": "2026-11-30T09:00:00Z", "end": "2026-11-30T10:00:00Z"},
    "preview": {"expr": "* * * * *"},
    "load_schedules": {"text": ""},
    "pointer_add": {"task": "marks", "run_id": "r", "user_id": "u"},
    "pointer_receive": {"task": "marks", "run_id": "r", "user_id": "u"},
    "dead_letter": {"position": 1},
    "redrive": {"position": 1},
}


@pytest.mark.parametrize("verb", [*VERBS, *LOCAL_VERBS])
async def test_arguments_that_are_not_the_verbs_are_invalid_and_nothing_is_recorded(world: World, verb: str) -> None:
    good = MINIMAL.get(verb, {})
    wrong: list[Any] = [[], "text", 7, {**good, "no_such_argument": 1}]
    takes_anything = {"value"} if verb == "signal" else set()
    wrong += [{**good, name: {"an": ["object"]}} for name in good if name not in takes_anything]
    wrong += [{key: value for key, value in good.items() if key != name} for name in good if name in _required(verb)]
    async with world.up() as instance:
        before = len(world.file.events)
        for arguments in wrong:
            with pytest.raises(Invalid):
                await do(instance, verb, arguments)
        assert len(world.file.events) == before


def _required(verb: str) -> set[str]:
    takes = {**VERBS, **LOCAL_VERBS}[verb].takes
    return {f.name for f in msgspec.structs.fields(takes) if f.required}


@pytest.mark.parametrize(
    ("verb", "more"),
    [
        ("run", {"user_id": ""}),
        ("run", {"user_id": "x" * 257}),
        ("run", {"group_id": "a\x00b"}),
        ("run", {"args": []}),
        ("run", {"wait": 1}),
        ("run", {"priority": 2**40}),
        ("run", {"priority": 1.5}),
        ("run", {"idempotency_key": ""}),
        ("run", {"idempotency_key": "k" * 257}),
        ("run", {"task": ""}),
        ("run", {"task": "x" * 500_000}),
        ("run", {"task": "two words"}),
        ("trigger", {"user_id": ""}),
        ("dispatch", {"event": ""}),
        ("dispatch", {"event": "two words"}),
        ("dispatch", {"payload": "text"}),
        ("dispatch", {"source": "followup:run:1"}),
        ("dispatch", {"idempotency_key": ""}),
        ("disable", {"user_id": ""}),
        ("disable", {"group_id": "x" * 257}),
        ("trail", {"category": "everything"}),
        ("trail", {"limit": 0}),
        ("trail", {"limit": 1_001}),
        ("trail", {"after": "x"}),
        ("runs", {"status": "sleeping"}),
        ("runs", {"limit": -1}),
        ("runs", {"limit": 2**63}),
        ("pointers", {"after": "9" * 30}),
        ("dead_letter", {"position": 0}),
        ("dead_letter", {"position": 2**64 - 1}),
        ("redrive", {"position": -1}),
        ("log_rebuild", {"projections": "runs"}),
    ],
)
async def test_values_out_of_bounds_are_invalid_and_nothing_is_recorded(
    world: World, verb: str, more: dict[str, Any]
) -> None:
    async with world.up() as instance:
        before = len(world.file.events)
        with pytest.raises(Invalid):
            await do(instance, verb, {**MINIMAL.get(verb, {}), **more})
        assert len(world.file.events) == before


# ── doors ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("verb", ["run", "trigger", "dispatch"])
async def test_through_another_door_than_the_owners_the_door_says_via(world: World, verb: str) -> None:
    async with world.up() as instance:
        await do(instance, verb, {**MINIMAL[verb], "via": "followup"}, via="bus")
    assert [event.via for event in world.events(RunRequested)] == ["bus"]


async def test_the_owner_may_say_cli_or_python_and_nothing_else(world: World) -> None:
    async with world.up() as instance:
        for via in ("cli", "python"):
            await do(instance, "run", {**MINIMAL["run"], "via": via})
        for via in ("bus", "followup", "workflow", "http", ""):
            with pytest.raises(Invalid, match="via must be cli or python"):
                await do(instance, "run", {**MINIMAL["run"], "via": via})
    assert [event.via for event in world.events(RunRequested)] == ["cli", "python"]


def test_every_verb_is_in_one_table_under_its_own_name_and_has_a_help() -> None:
    assert not set(VERBS) & set(LOCAL_VERBS)
    for name, verb in {**VERBS, **LOCAL_VERBS}.items():
        assert verb.name == name
        assert verb.help


async def test_verbs_at_once_do_not_disturb_each_other(world: World) -> None:
    async with world.up() as instance:
        results = await asyncio.gather(
            *(do(instance, "run", {**WHO, "task": "adds", "args": {"numbers": [n]}}) for n in range(20)),
            do(instance, "disable", {"task": "fails"}),
        )
        assert [result["result"] for result in results[:20]] == list(range(20))
        await until(lambda: instance.runs.n_running == 0)
    assert len(world.events(TaskDisabled)) == 1
