"""From the bus into the log: every row of the contract's table, and everything that can be wrong with a message."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from cascadenced.bus.base import UNREADABLE_HEADERS
from cascadenced.bus.memory import MemoryBus, MemoryDelivery
from cascadenced.errors import BadMessage, DiskError, DiskFull, Overloaded, Unavailable, Unknown
from cascadenced.eventlog.base import Change
from cascadenced.events.base import Event
from cascadenced.events.dead_letter import MessageDeadLettered, MessageRedriven
from cascadenced.events.idea import IdeaRecorded, NoteRecorded
from cascadenced.events.inbound import Command
from cascadenced.events.pointer import PointerAdded
from cascadenced.events.run import ForeignRunReported, RunFinished, RunRefused, RunRequested
from cascadenced.events.schedule import ScheduleSet
from cascadenced.events.system import RequestsRefused
from cascadenced.events.workflow import EventDispatched
from cascadenced.handlers.people import People
from cascadenced.handlers.run_requests import Origin
from cascadenced.identity import Identity
from cascadenced.instance import Instance
from cascadenced.runtime.ingest import MAX_ATTEMPTS, MAX_BATCHES, Commands, Handle, Ingest, Message, Outcome
from cascadenced.vault import MemoryVault
from cascadenced.workflows import subscribe
from tests.doubles import PSEUDONYMS, World, ask, idle, until

WHO = {"user_id": "alice", "group_id": "eng"}
ALICE_HASH, ENG_HASH = PSEUDONYMS.user("alice"), PSEUDONYMS.group("eng")
TRACE = "00-" + "1" * 32 + "-" + "2" * 16 + "-01"


TWICE: list[tuple[str, Any]] = [
    ("ume.run.request.quick", WHO),
    ("ume.event.calendar.event.create_request", WHO),
    ("ume.event.nobody.listens", WHO),
    ("ume.pointer.marks", {"run_id": "r1", "user_id": "alice"}),
    ("ume.schedule.quick", {"expr": "* * * * *"}),
    ("ume.schedule.quick", {"expr": None}),
    ("ume.task_run.theirs", {"run_id": "r1", "status": "success"}),
    ("ume.idea", {"text": "an idea"}),
    ("ume.note", {"note": "a note"}),
    ("ume.idea", b"{"),
    ("ume.unknown", {}),
]


class Quick:
    name = "quick"
    args: dict[str, Any]

    async def run(self) -> Any:
        return self.args


@subscribe("calendar.event.create_request")
async def create(payload: dict[str, Any], user_id: str, group_id: str) -> list[Any]:
    return [payload, user_id, group_id]


class OneHandle:
    """Commands that are all handled by one function."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle

    def batch(self) -> Handle:
        return self._handle


class Inlet(World):
    """A world with a bus, and ingest between them."""

    def __init__(self, *tasks: object, **config: Any) -> None:
        super().__init__(*(tasks or (Quick, create)), **config)
        self.bus = MemoryBus(clock=self.clock, instance_id="i-test")

    @asynccontextmanager
    async def flowing(self, *tasks: object, erase: bool = True, handle: Any = None) -> AsyncIterator[Instance]:
        """handle: instead of the instance's own."""
        async with self.up(*tasks) as instance:
            commands = OneHandle(handle) if handle else instance.bus_commands
            running = asyncio.create_task(self.ingest(instance, commands=commands, erase=erase).run())
            try:
                yield instance
            finally:
                assert not running.done(), running.exception()
                running.cancel()

    def ingest(self, instance: Instance, *, commands: Commands, erase: bool = False) -> Ingest:
        return Ingest(
            self.bus,
            "ume",
            commands=commands,
            dead_letter=instance.dead_letters.record,
            room=instance.runs.room,
            refusals=instance.refusals,
            erase=erase,
        )

    def send(self, subject: str, body: Any, headers: Mapping[str, str] | None = None) -> None:
        self.bus.send(subject, body if isinstance(body, bytes) else json.dumps(body).encode(), headers)

    async def take_in(self) -> None:
        """Until nothing is in hand and nothing waits."""
        await until(lambda: not self.bus.server.ready and not self.bus.server.in_hand)
        await idle()

    def all_acknowledged(self) -> bool:
        return not self.bus.server.in_hand and not self.bus.server.ready


@pytest.fixture
def inlet() -> Inlet:
    return Inlet()


# ── what others publish ──────────────────────────────────────────────────────────────────────────────────────


async def test_a_run_request_is_a_run(inlet: Inlet) -> None:
    async with inlet.flowing():
        body = {**WHO, "args": {"n": 1}, "priority": 5}
        inlet.send("ume.run.request.quick", body, {"Nats-Msg-Id": "m1", "traceparent": TRACE})
        await until(lambda: inlet.events(RunFinished))
    requested = inlet.recorded(RunRequested)[0]
    assert requested.event == RunRequested(task="quick", via="bus", args={"n": 1}, priority=5)
    assert (requested.source, requested.user_hash, requested.group_hash) == ("run.request:m1", ALICE_HASH, ENG_HASH)
    assert requested.traceparent == TRACE


async def test_an_event_runs_its_workflow(inlet: Inlet) -> None:
    async with inlet.flowing() as instance:
        inlet.send("ume.event.calendar.event.create_request", {"payload": {"title": "x"}, **WHO})
        await until(lambda: inlet.events(RunFinished))
        ended = await instance.runs.ended(inlet.recorded(RunRequested)[0].run_id)
    assert ended.run.result == [{"title": "x"}, "alice", "eng"]
    assert inlet.events(EventDispatched)[0].via == "bus"


async def test_an_event_without_a_workflow_is_recorded_as_unhandled(inlet: Inlet) -> None:
    async with inlet.flowing():
        inlet.send("ume.event.nobody.listens", {"payload": {"a": 1}, **WHO})
        await inlet.take_in()
    assert inlet.events(EventDispatched) == [EventDispatched(name="nobody.listens", via="bus", payload={"a": 1})]
    assert inlet.events(MessageDeadLettered) == []


async def test_a_pointer_is_stored_by_pseudonym(inlet: Inlet) -> None:
    async with inlet.flowing():
        inlet.send("ume.pointer.marks", {"run_id": "r1", "user_id": "alice"})
        inlet.send("ume.pointer.marks", {"run_id": "r2", "user_hash": "e" * 64, "group_hash": "f" * 64})
        await inlet.take_in()
    assert inlet.events(PointerAdded) == [
        PointerAdded(task="marks", run_id="r1", user_hash=ALICE_HASH, via="bus"),
        PointerAdded(task="marks", run_id="r2", user_hash="e" * 64, group_hash="f" * 64, via="bus"),
    ]


async def test_a_schedule_is_set_and_removed_in_the_order_it_came(inlet: Inlet) -> None:
    async with inlet.flowing():
        inlet.send("ume.schedule.quick", {"expr": "0  9 * * 1-5", "timezone": "Europe/Berlin", **WHO})
        inlet.send("ume.schedule.quick", {"expr": None})
        inlet.send("ume.schedule.quick", {"every_s": 60, "recurrence": {"cron": "x"}})
        await inlet.take_in()
    first, second = inlet.events(ScheduleSet)
    assert (first.task, first.expr, first.timezone, first.via) == ("quick", "0  9 * * 1-5", "Europe/Berlin", "bus")
    assert (second.expr, second.every_s) == (None, 60)
    assert second.recurrence == {"cron": "x"}
    assert [r.type for r in inlet.recorded() if r.type.startswith("schedule.")] == [
        "schedule.set", "schedule.removed", "schedule.set"
    ]  # fmt: skip
    assert inlet.recorded(ScheduleSet)[0].user_hash == ALICE_HASH
    assert (await inlet.vault.reveal(ALICE_HASH, ENG_HASH)).user_id == "alice"


async def test_a_foreign_runs_outcome_is_recorded(inlet: Inlet) -> None:
    async with inlet.flowing() as instance:
        inlet.send("ume.task_run.theirs", {"run_id": "r1", "status": "success", "finished_at": "2026-01-01T00:00:00Z"})
        await inlet.take_in()
        assert instance.board.row("theirs").last_status == "success"
    assert inlet.events(ForeignRunReported) == [
        ForeignRunReported(task="theirs", foreign_run_id="r1", status="success", finished_at="2026-01-01T00:00:00Z")
    ]


async def test_ideas_and_notes_are_stored(inlet: Inlet) -> None:
    async with inlet.flowing():
        inlet.send("ume.idea", {"text": "an idea", "user_id": "alice"})
        inlet.send("ume.note", {"note": "a note", "task_name": "quick", "run_id": "r1", "user_hash": "e" * 64})
        await inlet.take_in()
    assert inlet.events(IdeaRecorded) == [IdeaRecorded(text="an idea")]
    assert inlet.events(NoteRecorded) == [NoteRecorded(note="a note", task="quick", about_run_id="r1")]
    assert inlet.recorded(IdeaRecorded)[0].user_hash == ALICE_HASH
    assert inlet.recorded(NoteRecorded)[0].user_hash == "e" * 64


async def test_no_raw_identity_reaches_the_log(inlet: Inlet) -> None:
    who = {"user_id": "alice@example.com", "group_id": "the-engineers"}
    async with inlet.flowing():
        for subject, body in (
            ("ume.run.request.quick", {}),
            ("ume.event.calendar.event.other", {}),
            ("ume.pointer.marks", {"run_id": "r"}),
            ("ume.schedule.quick", {"expr": "* * * * *"}),
            ("ume.task_run.theirs", {"run_id": "r", "status": "error"}),
            ("ume.idea", {"text": "x"}),
            ("ume.note", {"note": "x"}),
            ("ume.run.request.nothing", {}),
        ):
            inlet.send(subject, {**body, **who}, {"Nats-Msg-Id": subject})
        await inlet.take_in()
    assert len(inlet.events()) >= 10
    for raw in who.values():
        assert raw not in inlet.text()


async def test_a_valid_request_that_is_forbidden_now_is_a_refused_run_and_no_dead_letter(inlet: Inlet) -> None:
    async with inlet.flowing() as instance:
        await instance.tasks.switch("quick", "disable", inlet_context())
        inlet.send("ume.run.request.quick", WHO)
        await inlet.take_in()
    assert [event.code for event in inlet.events(RunRefused)] == ["disabled"]
    assert inlet.events(MessageDeadLettered) == []
    assert inlet.all_acknowledged()


def inlet_context() -> Any:
    from cascadenced.events.base import Context

    return Context()


# ── twice ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("header", ["Nats-Msg-Id", "ce-id"])
async def test_a_message_id_is_applied_once_whatever_its_age(inlet: Inlet, header: str) -> None:
    async with inlet.flowing() as instance:
        for _ in range(3):
            inlet.send("ume.run.request.quick", WHO, {header: "m1"})
            await inlet.take_in()
            await inlet.clock.advance(3_600)
        assert instance.refusals.total["duplicate"] == 2
    assert len(inlet.events(RunRequested)) == 1


async def test_the_same_id_in_another_family_is_another_message(inlet: Inlet) -> None:
    async with inlet.flowing():
        inlet.send("ume.run.request.quick", WHO, {"Nats-Msg-Id": "m1"})
        inlet.send("ume.idea", {"text": "x"}, {"Nats-Msg-Id": "m1"})
        await inlet.take_in()
    assert len(inlet.events(RunRequested)) == len(inlet.events(IdeaRecorded)) == 1


async def test_a_message_without_an_id_that_is_delivered_again_is_applied_once() -> None:
    inlet = Inlet()
    instance = await inlet.start()
    inlet.send("ume.run.request.quick", WHO)
    [delivery] = await inlet.bus.fetch(10)
    await inlet_apply(inlet, instance, delivery)
    inlet.crash(instance)  # before the ack
    inlet.bus.redeliver()
    async with inlet.flowing() as instance:
        await inlet.take_in()
    assert len(inlet.events(RunRequested)) == 1


async def inlet_apply(inlet: Inlet, instance: Instance, delivery: Any) -> None:
    """What ingest does up to, and without, the acknowledgement."""
    ingest = inlet.ingest(instance, commands=instance.bus_commands)
    delivery.ack = lambda **_: None
    taken = ingest._take(delivery, instance.bus_commands.batch())
    assert taken is not None
    await ingest._end(taken)


async def test_a_message_without_an_id_is_applied_once_also_when_the_broker_makes_its_stream_anew() -> None:
    inlet = Inlet()
    async with inlet.flowing(erase=False):
        inlet.send("ume.event.calendar.event.create_request", {"payload": {"title": "x"}, **WHO})
        await inlet.take_in()
        inlet.bus.take_over()
        await inlet.bus.check()
        inlet.bus.resume()
        assert inlet.bus.server.ready
        await inlet.take_in()
    assert len(inlet.events(RunRequested)) == 1


async def test_two_messages_without_an_id_are_two_though_they_say_the_same(inlet: Inlet) -> None:
    async with inlet.flowing():
        inlet.send("ume.run.request.quick", WHO)
        inlet.send("ume.run.request.quick", WHO)
        await inlet.take_in()
    assert len(inlet.events(RunRequested)) == 2


async def test_an_idempotency_key_is_one_run_whatever_the_messages_are_called(inlet: Inlet) -> None:
    async with inlet.flowing():
        for n in range(3):
            inlet.send("ume.run.request.quick", {**WHO, "idempotency_key": "k"}, {"Nats-Msg-Id": f"m{n}"})
        inlet.send("ume.run.request.quick", {**WHO, "user_id": "bob", "idempotency_key": "k"})
        await inlet.take_in()
    assert len(inlet.events(RunRequested)) == 2


async def test_an_idempotency_key_with_other_arguments_is_a_dead_letter_that_says_so(inlet: Inlet) -> None:
    async with inlet.flowing():
        for n in range(2):
            inlet.send("ume.run.request.quick", {**WHO, "args": {"n": n}, "idempotency_key": "k"})
            await inlet.take_in()
    [letter] = inlet.events(MessageDeadLettered)
    assert letter.reason == "idempotency.conflict"


@pytest.mark.parametrize(
    ("subject", "body"),
    [
        ("ume.run.request.quick", {}),
        ("ume.event.nobody.listens", {}),
        ("ume.idea", {"text": "x"}),
        ("ume.note", {"note": "x"}),
        ("ume.schedule.quick", {"expr": "0 9 * * *"}),
        ("ume.task_run.quick", {"run_id": "r", "status": "success"}),
    ],
)
async def test_a_message_id_that_names_its_sender_is_kept_by_pseudonym(inlet: Inlet, subject: str, body: Any) -> None:
    async with inlet.flowing():
        for _ in range(2):
            inlet.send(subject, {**WHO, **body}, {"Nats-Msg-Id": "alice/2026"})
            await inlet.take_in()
            await inlet.clock.advance(300)
    [source] = [recorded.source for recorded in inlet.recorded() if recorded.source]
    assert source.endswith(f":{ALICE_HASH}/2026")


async def test_a_run_has_the_same_id_wherever_its_message_is_delivered() -> None:
    ids = []
    for _ in range(2):
        inlet = Inlet()
        async with inlet.flowing():
            inlet.send("ume.run.request.quick", WHO, {"Nats-Msg-Id": "m1"})
            await inlet.take_in()
        ids.append(inlet.recorded(RunRequested)[0].run_id)
    assert ids[0] == ids[1]


@pytest.mark.parametrize("header", ["Nats-Msg-Id", "ce-id"])
@pytest.mark.parametrize(("subject", "body"), [(s, b) for s, b in TWICE if isinstance(b, dict) and b], ids=str)
async def test_an_id_that_is_made_of_a_users_name_is_kept_without_it_and_still_applied_once(
    inlet: Inlet, subject: str, body: Any, header: str
) -> None:
    who = {"user_id": "mallory/of the run", "group_id": "run"}
    message_id = "run:mallory/of the run, mallory%2Fof%20the%20run:1"
    async with inlet.flowing():
        for _ in range(2):
            inlet.send(subject, {**body, **who}, {header: message_id})
            await inlet.take_in()
        assert not [recorded.source for recorded in inlet.recorded() if "mallory" in (recorded.source or "")]
        n_events = len(inlet.events())
        inlet.send(subject, {**body, **who}, {header: f"{message_id}2"})
        await inlet.take_in()
        assert len(inlet.events()) > n_events or "pointer" in subject  # those are known by their content


async def test_a_key_that_is_made_of_a_users_name_is_kept_without_it_and_still_one_run(inlet: Inlet) -> None:
    body = {"user_id": "mallory@example", "group_id": "eng", "idempotency_key": "mallory%40example:7"}
    async with inlet.flowing() as instance:
        for _ in range(2):
            inlet.send("ume.run.request.quick", body)
        inlet.send("ume.run.request.quick", {**body, "idempotency_key": "mallory@example:8"})
        await inlet.take_in()
        for _ in range(2):
            await instance.requests.dispatch(
                "nobody.listens",
                {},
                Identity("mallory@example", "eng"),
                Origin(via="cli"),
                idempotency_key="mallory@example",
            )
    assert len(inlet.events(RunRequested)) == 2
    assert len(inlet.events(EventDispatched)) == 1
    assert "mallory" not in inlet.text()


async def test_a_pointer_is_stored_once_whatever_message_brings_it(inlet: Inlet) -> None:
    async with inlet.flowing():
        for n in range(3):
            inlet.send("ume.pointer.marks", {"run_id": "r1", "user_id": "alice"}, {"Nats-Msg-Id": f"m{n}"})
        inlet.send("ume.pointer.marks", {"run_id": "r1", "user_hash": ALICE_HASH})
        await inlet.take_in()
    assert len(inlet.events(PointerAdded)) == 1


@pytest.mark.parametrize(("subject", "body"), TWICE, ids=[f"{s}-{n}" for n, (s, _) in enumerate(TWICE)])
async def test_whatever_comes_twice_has_one_effect_and_its_repetition_is_counted(
    inlet: Inlet, subject: str, body: Any
) -> None:
    async with inlet.flowing() as instance:
        inlet.send(subject, body, {"ce-id": "m1"})
        await inlet.take_in()
        n_events = len(inlet.events())
        assert instance.refusals.total["duplicate"] == 0
        inlet.send(subject, body, {"ce-id": "m1"})
        await inlet.take_in()
        assert instance.refusals.total["duplicate"] == 1
        assert len(inlet.events()) == n_events
    (counted,) = inlet.events(RequestsRefused)
    assert (counted.reason, counted.n_refused) == ("duplicate", 1)


# ── dead letters ─────────────────────────────────────────────────────────────────────────────────────────────

BAD: list[tuple[str, Any, str]] = [
    ("ume.run.request.quick", b"not json of mallory", "undecodable"),
    ("ume.run.request.quick", b"\xff\xfe mallory", "undecodable"),
    ("ume.run.request.quick", b'{"user_id": "mallory", "user_id": "x", "group_id": "g"}', "undecodable"),
    ("ume.run.request.quick", b'["mallory"]', "invalid"),
    ("ume.run.request.quick", {"user_id": "mallory"}, "invalid"),
    ("ume.run.request.quick", {"user_id": "mallory", "group_id": 7}, "invalid"),
    ("ume.run.request.quick", {"user_id": "", "group_id": "mallory"}, "invalid"),
    ("ume.run.request.quick", {"user_id": "mallory\n", "group_id": "g"}, "invalid"),
    ("ume.run.request.quick", {**WHO, "args": ["mallory"]}, "invalid"),
    ("ume.run.request.quick", b"[" * 100 + b'"mallory"' + b"]" * 100, "too_deep"),
    ("ume.run.request.quick", b'"' + b"mallory" * 80_000 + b'"', "too_large"),
    ("ume.run.request.nothing", {**WHO, "args": {"x": "mallory"}}, "unknown_task"),
    ("ume.schedule.nothing", {"expr": "* * * * *", "user_id": "mallory"}, "unknown_task"),
    ("ume.schedule.quick", {"user_id": "mallory"}, "invalid"),
    ("ume.schedule.quick", {"expr": "* * *", "user_id": "mallory"}, "invalid"),
    ("ume.schedule.quick", {"expr": "* * * * *", "timezone": "Mars/Base", "user_id": "mallory"}, "invalid"),
    ("ume.schedule.quick", {"expr": "1," * 4_000 + "1 * * * *", "user_id": "mallory"}, "invalid"),
    ("ume.pointer.marks", {"run_id": "mallory"}, "invalid"),
    ("ume.pointer.marks", {"run_id": "r", "user_hash": "mallory"}, "invalid"),
    ("ume.pointer.two%20words", {"run_id": "r", "user_id": "mallory"}, "invalid"),
    ("ume.event.two%20words", {"payload": {}, "user_id": "mallory"}, "invalid"),
    ("ume.idea", {"idea": "mallory"}, "invalid"),
    ("ume.strange", {"text": "mallory"}, "unknown_family"),
]


async def test_a_subject_that_is_no_text_is_recorded_spelled_out(inlet: Inlet) -> None:
    async with inlet.flowing():
        inlet.send("ume.run.request.\udcff\udcfe", WHO)
        inlet.send("ume.run.request.quick", WHO)
        await inlet.take_in()
    [letter] = inlet.events(MessageDeadLettered)
    assert (letter.subject, letter.reason) == (r"ume.run.request.\udcff\udcfe", "undecodable")
    assert (await inlet.vault.open_letter(letter.digest)).subject == "ume.run.request.\udcff\udcfe"
    assert len(inlet.events(RunRequested)) == 1
    assert inlet.all_acknowledged()


async def test_a_message_whose_headers_cannot_be_read_is_not_taken_for_one_without(inlet: Inlet) -> None:
    async with inlet.flowing():
        inlet.send("ume.run.request.quick", WHO, {UNREADABLE_HEADERS: "NATS"})
        inlet.send("ume.run.request.quick", WHO)
        await inlet.take_in()
    [letter] = inlet.events(MessageDeadLettered)
    assert letter.reason == "undecodable"
    assert (await inlet.vault.open_letter(letter.digest)).headers == {UNREADABLE_HEADERS: "NATS"}
    assert len(inlet.events(RunRequested)) == 1


@pytest.mark.parametrize(("subject", "body", "reason"), BAD, ids=[f"{s}-{r}-{n}" for n, (s, _, r) in enumerate(BAD)])
async def test_a_bad_message_is_sealed_and_recorded_and_the_next_one_served(
    inlet: Inlet, subject: str, body: Any, reason: str
) -> None:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    async with inlet.flowing():
        inlet.send(subject, raw, {"Nats-Msg-Id": "bad", "x-secret": "mallory"})
        inlet.send("ume.run.request.quick", WHO, {"Nats-Msg-Id": "good"})
        await inlet.take_in()
    [letter] = inlet.events(MessageDeadLettered)
    digest = hashlib.sha256(raw).hexdigest()
    assert (letter.subject, letter.reason, letter.n_bytes, letter.digest) == (subject, reason, len(raw), digest)
    assert letter.detail
    assert len(letter.detail) < 500
    assert "mallory" not in letter.detail
    assert "mallory" not in inlet.text().replace("ume.strange", "")
    sealed = await inlet.vault.open_letter(digest)
    assert (sealed.raw, sealed.headers["x-secret"]) == (raw, "mallory")
    assert len(inlet.events(RunRequested)) == 1
    assert inlet.all_acknowledged()


async def test_a_bad_message_that_is_too_large_for_the_vault_is_recorded_without_its_bytes(inlet: Inlet) -> None:
    inlet.vault = MemoryVault(max_letter_bytes=1000)
    raw = b'"' + b"mallory" * 1000
    async with inlet.flowing() as instance:
        inlet.send("ume.run.request.quick", raw)
        inlet.send("ume.run.request.quick", WHO)
        await inlet.take_in()
        [letter] = inlet.recorded(MessageDeadLettered)
        with pytest.raises(Unknown):
            await instance.dead_letters.open(letter.position)
    assert letter.event.reason == "undecodable"
    assert letter.event.n_bytes == len(raw)
    assert "too large to keep" in letter.event.detail
    assert len(inlet.events(RunRequested)) == 1
    assert inlet.all_acknowledged()


async def test_a_bad_message_that_is_delivered_again_is_one_letter(inlet: Inlet) -> None:
    async with inlet.flowing():
        for _ in range(2):
            inlet.send("ume.idea", b"{", {"Nats-Msg-Id": "bad"})
            await inlet.take_in()
            await inlet.clock.advance(300)
    assert len(inlet.events(MessageDeadLettered)) == 1


async def test_a_message_that_is_mended_and_sent_again_under_its_id_is_applied(inlet: Inlet) -> None:
    async with inlet.flowing() as instance:
        for body in (b"{", WHO, WHO):
            inlet.send("ume.run.request.quick", body, {"Nats-Msg-Id": "m1"})
            await inlet.take_in()
            await inlet.clock.advance(300)
        assert instance.refusals.total["duplicate"] == 1
    assert len(inlet.events(MessageDeadLettered)) == len(inlet.events(RunRequested)) == 1


@pytest.mark.parametrize(
    "headers",
    [
        {"traceparent": "half a \ud800 pair"},
        {"traceparent": "x" * 100_000},
        {"Nats-Msg-Id": "half a \ud800 pair"},
        {"Nats-Msg-Id": "x" * 100_000},
        {"ce-id": ""},
        {"Cascadence-Origin": ""},
    ],
    ids=lambda headers: next(iter(headers)),
)
@pytest.mark.parametrize("body", [{"text": "x"}, b"{"], ids=["good", "bad"])
async def test_no_header_keeps_a_message_from_being_recorded(inlet: Inlet, headers: dict[str, str], body: Any) -> None:
    async with inlet.flowing():
        inlet.send("ume.idea", body, headers)
        await inlet.take_in()
    assert len(inlet.events(IdeaRecorded)) + len(inlet.events(MessageDeadLettered)) == 1
    assert len(str(inlet.recorded()[-1].source)) < 2_000
    assert inlet.recorded()[-1].traceparent is None


# ── a newer version ──────────────────────────────────────────────────────────────────────────────────────────


async def test_what_a_newer_version_wrote_is_parked_and_read_after_the_upgrade(
    inlet: Inlet, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with inlet.flowing() as instance:
        inlet.send("ume.idea", {"schema_version": "2031.01.0", "text": "from the future"}, {"Nats-Msg-Id": "m1"})
        await inlet.take_in()
        [letter] = inlet.recorded(MessageDeadLettered)
        assert letter.event.reason == "future_schema"
        assert await instance.dead_letters.redrive_parked() == 0
    monkeypatch.setattr("cascadenced.events.inbound.SCHEMA_VERSION", "2031.01.0")
    async with inlet.flowing() as instance:
        assert await instance.dead_letters.redrive_parked() == 1
        assert await instance.dead_letters.redrive_parked() == 0
        assert (await instance.answers.dead_letter(letter.position)).redriven
    assert inlet.events(IdeaRecorded) == [IdeaRecorded(text="from the future")]
    assert (letter.source, inlet.recorded(IdeaRecorded)[0].source) == ("dead:idea:m1", "idea:m1")
    assert inlet.events(MessageRedriven) == [MessageRedriven(position=letter.position, subject="ume.idea")]


async def test_a_letter_that_is_read_again_and_also_delivered_again_is_applied_once(
    inlet: Inlet, monkeypatch: pytest.MonkeyPatch
) -> None:
    body, headers = {"schema_version": "2031.01.0", "text": "from the future"}, {"Nats-Msg-Id": "m1"}
    async with inlet.flowing():
        inlet.send("ume.idea", body, headers)
        await inlet.take_in()
    monkeypatch.setattr("cascadenced.events.inbound.SCHEMA_VERSION", "2031.01.0")
    await inlet.clock.advance(300)
    async with inlet.flowing() as instance:
        assert await instance.dead_letters.redrive_parked() == 1
        inlet.send("ume.idea", body, headers)
        await inlet.take_in()
    assert len(inlet.events(IdeaRecorded)) == 1


async def test_a_letter_of_a_log_that_kept_letters_under_their_messages_own_source_is_read_again(inlet: Inlet) -> None:
    async with inlet.flowing() as instance:
        inlet.send("ume.idea", {"schema_version": "2031.01.0", "text": "x"}, {"Nats-Msg-Id": "m1"})
        await inlet.take_in()
        [letter] = inlet.recorded(MessageDeadLettered)
        await instance.log.append([Change("dead-letters", [letter.event])], source="idea:m2")
        position = inlet.recorded(MessageDeadLettered)[-1].position
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("cascadenced.events.inbound.SCHEMA_VERSION", "2031.01.0")
            await instance.dead_letters.redrive(position)
    assert inlet.recorded(IdeaRecorded)[0].source == f"redrive:{position}"


async def test_a_letter_redriven_twice_is_applied_once(inlet: Inlet) -> None:
    async with inlet.flowing() as instance:
        inlet.send("ume.run.request.later", WHO)
        await inlet.take_in()
        position = inlet.recorded(MessageDeadLettered)[0].position
        with pytest.raises(BadMessage, match="Unknown task: later"):
            await instance.dead_letters.redrive(position)

    class Later(Quick):
        name = "later"

    async with inlet.flowing(Later) as instance:
        await instance.dead_letters.redrive(position)
        await instance.dead_letters.redrive(position)
    assert len(inlet.events(RunRequested)) == 1


@pytest.mark.parametrize("error", [Overloaded("full"), Unavailable("away"), RuntimeError("a fault of ours")])
async def test_a_parked_letter_that_cannot_be_read_now_does_not_keep_the_daemon_from_starting(
    inlet: Inlet, error: Exception
) -> None:
    async with inlet.flowing() as instance:
        inlet.send("ume.idea", {"schema_version": "2031.01.0", "text": "x"})
        await inlet.take_in()

        async def refuse(*_: Any) -> None:
            raise error

        instance.dead_letters.redrive = refuse  # type: ignore[method-assign]
        assert await instance.dead_letters.redrive_parked() == 0


# ── other instances ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("subject", ["ume.run.request.quick", "ume.event.calendar.event.create_request"])
async def test_a_wish_of_another_instance_has_no_effect_and_is_counted(inlet: Inlet, subject: str) -> None:
    async with inlet.flowing() as instance:
        inlet.send(subject, {"payload": {}, **WHO}, {"Cascadence-Origin": "i-other", "Nats-Msg-Id": "m"})
        await inlet.take_in()
        assert instance.refusals.total["foreign_request"] == 1
        await inlet.clock.advance(60)
        await idle()
    assert inlet.events(RunRequested) == inlet.events(EventDispatched) == []
    assert inlet.events(RequestsRefused) == [RequestsRefused(reason="foreign_request", subject=subject, n_refused=1)]


@pytest.mark.parametrize("erase", [True, False])
@pytest.mark.parametrize("subject", ["ume.run.request.quick", "ume.event.calendar.event.create_request"])
async def test_a_wish_of_another_instance_that_names_somebody_is_erased_like_any_other(
    inlet: Inlet, subject: str, erase: bool
) -> None:
    async with inlet.flowing(erase=erase):
        inlet.send(subject, {"payload": {}, **WHO}, {"Cascadence-Origin": "i-other"})
        await inlet.take_in()
    assert len(inlet.bus.erased) == int(erase)


async def test_news_of_another_instance_is_taken_in(inlet: Inlet) -> None:
    async with inlet.flowing():
        inlet.send("ume.pointer.marks", {"run_id": "r", "user_hash": "e" * 64}, {"Cascadence-Origin": "i-other"})
        inlet.send("ume.task_run.quick", {"run_id": "r", "status": "error"}, {"Cascadence-Origin": "i-other"})
        await inlet.take_in()
    assert len(inlet.events(PointerAdded)) == 1
    assert inlet.events(ForeignRunReported)[0].foreign_origin == "i-other"


async def test_what_we_published_ourselves_is_not_delivered_to_us(inlet: Inlet) -> None:
    async with inlet.flowing():
        inlet.send("ume.pointer.marks", {"run_id": "r", "user_id": "alice"}, {"Cascadence-Origin": "i-test"})
        await idle()
    assert inlet.events(PointerAdded) == []


# ── acknowledging ────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_message_is_acknowledged_only_after_its_commit(inlet: Inlet) -> None:
    order: list[str] = []
    async with inlet.flowing() as instance:
        instance.log.observe(lambda batch: order.extend(recorded.type for recorded in batch))
        acked = inlet.bus._acked
        inlet.bus._acked = lambda stored, erase: (order.append("ack"), acked(stored, erase))  # type: ignore[method-assign]
        commit = hold_commits(instance)
        inlet.send("ume.idea", {"text": "x"})
        await idle()
        assert order == []
        commit()
        await inlet.take_in()
        assert order == ["idea.recorded", "ack"]


@pytest.mark.parametrize(
    ("subject", "body", "erased"),
    [
        ("ume.idea", {"text": "x", "user_id": "alice"}, True),
        ("ume.idea", {"text": "x", "user_hash": "e" * 64}, False),
        ("ume.idea", {"text": "x"}, False),
        ("ume.event.some.event", {"payload": {}, "user_id": "alice"}, True),
        ("ume.schedule.quick", {"expr": "* * * * *"}, False),
        ("ume.schedule.quick", {"expr": "* * * * *", "user_id": "alice"}, True),
        ("ume.idea", b"who knows what is in here", True),
    ],
)
async def test_only_messages_that_name_somebody_are_erased(inlet: Inlet, subject: str, body: Any, erased: bool) -> None:
    async with inlet.flowing(erase=True):
        inlet.send(subject, body)
        await inlet.take_in()
    assert len(inlet.bus.erased) == int(erased)


async def test_nothing_is_erased_where_that_is_not_wanted(inlet: Inlet) -> None:
    async with inlet.flowing(erase=False):
        inlet.send("ume.idea", {"text": "x", "user_id": "alice"})
        inlet.send("ume.idea", b"{")
        await inlet.take_in()
    assert not inlet.bus.erased


async def test_the_next_batch_is_begun_while_one_is_being_committed(inlet: Inlet) -> None:
    async with inlet.flowing() as instance:
        commit = hold_commits(instance)
        for n in range(3):
            inlet.send("ume.idea", {"text": str(n)})
            await idle()
        assert (len(inlet.bus.server.in_hand), inlet.events(IdeaRecorded)) == (3, [])
        commit()
        await inlet.take_in()
    assert inlet.events(IdeaRecorded) == [IdeaRecorded(text=str(n)) for n in range(3)]


def hold_commits(instance: Instance) -> Callable[[], None]:
    """As by a slow disk. The function that is returned lets go."""
    log: Any = instance.log
    commit, log._commit = log._commit, lambda: None

    def let_go() -> None:
        log._commit = commit
        commit()

    return let_go


async def test_what_comes_faster_than_it_can_be_recorded_stays_with_the_broker(
    inlet: Inlet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cascadenced.runtime.ingest.MAX_FETCH", 10)
    n_sent = 10 * 10 * MAX_BATCHES
    async with inlet.flowing() as instance:
        commit = hold_commits(instance)
        for n in range(n_sent):
            inlet.send("ume.idea", {"text": str(n)})
        await idle(1_000)
        assert len(inlet.bus.server.in_hand) == 10 * MAX_BATCHES
        commit()
        await inlet.take_in()
    assert inlet.events(IdeaRecorded) == [IdeaRecorded(text=str(n)) for n in range(n_sent)]


async def test_a_schedule_is_set_and_removed_in_the_order_it_came_also_in_two_batches(
    inlet: Inlet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cascadenced.runtime.ingest.MAX_FETCH", 1)
    slow, remember = asyncio.Event(), inlet.vault.remember

    async def remember_slowly(*who: Any) -> None:
        await slow.wait()
        await remember(*who)

    monkeypatch.setattr(inlet.vault, "remember", remember_slowly)
    async with inlet.flowing():
        inlet.send("ume.schedule.quick", {"expr": "* * * * *", **WHO})
        inlet.send("ume.schedule.quick", {"expr": None})
        await idle()
        slow.set()
        await inlet.take_in()
    assert [r.type for r in inlet.recorded() if r.type.startswith("schedule.")] == ["schedule.set", "schedule.removed"]


async def test_nobody_who_was_named_stays_in_memory_while_nothing_comes(inlet: Inlet) -> None:
    async with inlet.flowing():
        for subject, body in (("ume.idea", {"text": "x"}), ("ume.event.nobody.listens", {}), ("ume.idea", {})):
            inlet.send(subject, {**body, **WHO})
        await inlet.take_in()
        gc.collect()
        assert [type(each) for each in gc.get_objects() if type(each) in (People, MemoryDelivery)] == []


# ── when something is away ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("error", [DiskFull("no space"), DiskError("gone"), Unavailable("away")])
@pytest.mark.parametrize("body", [{"text": "x"}, b"{"], ids=["good", "bad"])
async def test_what_cannot_be_recorded_now_is_kept_and_recorded_later(inlet: Inlet, error: Any, body: Any) -> None:
    async with inlet.flowing() as instance:
        instance.log.fail_next = error
        inlet.send("ume.idea", body)
        await until(lambda: instance.log.fail_next is None)
        await idle()
        assert inlet.events(IdeaRecorded) + inlet.events(MessageDeadLettered) == []
        await inlet.clock.advance(0.2)
        await inlet.take_in()
    recorded: list[Event] = inlet.events(IdeaRecorded) + inlet.events(MessageDeadLettered)
    assert len(recorded) == 1
    assert inlet.all_acknowledged()


async def test_waiting_for_space_is_no_failure_of_the_message(inlet: Inlet) -> None:
    async with inlet.flowing() as instance:
        inlet.send("ume.idea", {"text": "x"})
        for _ in range(MAX_ATTEMPTS + 3):
            instance.log.fail_next = DiskFull("no space")
            await until(lambda: instance.log.fail_next is None)
            await idle()
            await inlet.clock.advance(5.0)
        await inlet.take_in()
    assert len(inlet.events(IdeaRecorded)) == 1


async def test_no_more_is_fetched_than_there_is_room_for_so_that_nothing_has_to_come_back_later() -> None:
    gate = asyncio.Event()

    class Gated:
        name = "gated"

        async def run(self) -> None:
            await gate.wait()

    inlet = Inlet(Gated, max_concurrent_runs=1, max_queued_runs=3)
    async with inlet.flowing() as instance:
        commit = hold_commits(instance)
        for n in range(10):
            inlet.send("ume.run.request.gated", WHO, {"Nats-Msg-Id": f"m{n}"})
        await idle()
        assert len(inlet.bus.server.in_hand) == 1 + 3  # though none of them is recorded yet
        commit()
        await idle()
        assert (len(inlet.events(RunRequested)), len(inlet.bus.server.in_hand), len(inlet.bus.server.ready)) == (
            4,
            0,
            6,
        )
        gate.set()
        await until(lambda: len(inlet.events(RunFinished)) == 10)  # no clock has moved


async def test_a_request_for_which_others_left_no_room_comes_again() -> None:
    gate = asyncio.Event()

    class Gated:
        name = "gated"

        async def run(self) -> None:
            await gate.wait()

    inlet = Inlet(Gated, max_concurrent_runs=1, max_queued_runs=2)
    async with inlet.flowing() as instance:
        await idle()  # it waits for a message now, and knows of two places
        for _ in range(3):
            await ask(instance, "gated")
        inlet.send("ume.run.request.gated", WHO)
        await idle()
        assert (len(inlet.events(RunRequested)), inlet.events(MessageDeadLettered)) == (3, [])
        gate.set()
        await until(lambda: instance.runs.n_queued == 0)
        await inlet.clock.advance(0.2)
        await until(lambda: len(inlet.events(RunFinished)) == 4)


# ── faults of ours ───────────────────────────────────────────────────────────────────────────────────────────


async def test_a_handler_that_fails_is_tried_again_and_then_the_message_is_a_dead_letter(inlet: Inlet) -> None:
    tries = 0

    async def broken(*_: Any) -> None:
        nonlocal tries
        tries += 1
        raise RuntimeError("about mallory")

    async with inlet.flowing(handle=broken):
        inlet.send("ume.idea", {"text": "mallory"})
        for _ in range(MAX_ATTEMPTS):
            await idle()
            await inlet.clock.advance(5.0)
        await inlet.take_in()
    assert tries == MAX_ATTEMPTS
    [letter] = inlet.events(MessageDeadLettered)
    assert (letter.reason, letter.detail) == ("handler_failed", "our own handler failed: RuntimeError")
    assert "mallory" not in inlet.text()


@pytest.mark.parametrize("at_once", [True, False])
async def test_a_message_that_our_code_fails_on_costs_the_others_of_its_batch_nothing(
    inlet: Inlet, at_once: bool
) -> None:
    class Fragile:
        def __init__(self, instance: Instance) -> None:
            self._instance = instance

        def batch(self) -> Handle:
            handle = self._instance.bus_commands.batch()

            def fragile(command: Command, message: Message) -> Awaitable[Outcome]:
                if command.text != "1":  # type: ignore[attr-defined]
                    return handle(command, message)
                if at_once:
                    raise RuntimeError
                return failing()

            return fragile

    async def failing() -> Outcome:
        await asyncio.sleep(0)
        raise RuntimeError

    async with inlet.up() as instance:
        ingest = inlet.ingest(instance, commands=Fragile(instance))
        running = asyncio.create_task(ingest.run())
        for n in range(3):
            inlet.send("ume.idea", {"text": str(n)})
        await idle()
        assert inlet.events(IdeaRecorded) == [IdeaRecorded(text="0"), IdeaRecorded(text="2")]
        assert len(inlet.bus.server.in_hand) + len(inlet.bus.server.ready) <= 1
        running.cancel()


async def test_a_handler_that_recovers_costs_nothing(inlet: Inlet) -> None:
    async with inlet.flowing() as instance:
        remember, inlet.vault.remember = inlet.vault.remember, None  # type: ignore[assignment]  # a fault of ours
        inlet.send("ume.run.request.quick", WHO)
        await idle()
        inlet.vault.remember = remember  # type: ignore[method-assign]
        await inlet.clock.advance(5.0)
        await until(lambda: inlet.events(RunFinished))
        await until(lambda: instance.runs.n_running == 0)
    assert inlet.events(MessageDeadLettered) == []


async def test_a_sealing_that_fails_in_an_unknown_way_does_not_stop_the_loop(
    inlet: Inlet, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: Any) -> None:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(inlet.vault, "seal_letter", broken)
    async with inlet.flowing():
        inlet.send("ume.idea", b"{")
        for _ in range(MAX_ATTEMPTS + 2):
            await idle()
            await inlet.clock.advance(5.0)
        inlet.send("ume.idea", {"text": "next"})
        await until(lambda: inlet.events(IdeaRecorded))
