"""Verbs over bytes: JSON in, JSON out, and an answer to everything."""

from __future__ import annotations

import json
from typing import Any

import pytest
import structlog

from cascadenced.bus.memory import MemoryBus
from cascadenced.errors import (
    BadMessage,
    CascadenceError,
    ConfigError,
    Conflict,
    DiskError,
    DiskFull,
    FutureSchema,
    Invalid,
    LogCorrupt,
    NotAllowed,
    Overloaded,
    PrecheckError,
    Refused,
    RunFailedError,
    Unavailable,
    Unknown,
    VaultDamaged,
    WrongVersion,
)
from cascadenced.events.run import RunRequested
from cascadenced.events.system import RequestsRefused
from cascadenced.instance import Instance
from cascadenced.refusals import answer
from cascadenced.rpc import call, responders
from cascadenced.verbs import LOCAL_VERBS, VERBS
from tests.doubles import PSEUDONYMS, World

WHO = {"user_id": "alice", "group_id": "eng"}


class Adds:
    name = "adds"
    args: dict[str, Any]

    async def run(self) -> int:
        return sum(self.args["numbers"])


class Fails:
    name = "fails"

    async def run(self) -> None:
        raise LookupError("alice\nis not\tthere")


@pytest.fixture
def world() -> World:
    return World(Adds, Fails)


async def served(world: World, instance: Instance) -> MemoryBus:
    bus = MemoryBus(clock=world.clock)
    await bus.serve(responders(instance), version="1")
    return bus


async def called(instance: Instance, verb: str, body: bytes) -> tuple[int, Any]:
    status, reply, refused = await call(instance, VERBS[verb], body, via=None)
    assert (refused is None) == (status == 200)
    return status, json.loads(reply)


# ── the table of errors ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("error", "status", "word", "retry_after_s"),
    [
        (Invalid("x"), 400, "invalid", None),
        (Invalid("x", code="too_deep"), 400, "too_deep", None),
        (Refused("x"), 400, "refused", None),
        (BadMessage("x"), 400, "invalid", None),
        (FutureSchema("x"), 400, "future_schema", None),
        (NotAllowed("x"), 403, "not_allowed", None),
        (Unknown("x"), 404, "unknown", None),
        (Unknown("x", code="unknown_task"), 404, "unknown_task", None),
        (Conflict("x"), 409, "conflict", None),
        (Conflict("x", code="disabled"), 409, "disabled", None),
        (Overloaded("x", retry_after_s=5.0), 429, "overloaded", 5.0),
        (RunFailedError("x", error_type="ValueError", run_id="r"), 400, "run_failed", None),
        (Unavailable("x"), 503, "unavailable", 1.0),
        (DiskError("x"), 503, "disk_error", 1.0),
        (DiskFull("x"), 507, "disk_full", 1.0),
        (WrongVersion("s", expected=1, actual=2), 500, "wrong_version", None),
        (LogCorrupt("x", position=1), 500, "log_corrupt", None),
        (VaultDamaged("x"), 500, "vault_damaged", None),
        (ConfigError("x"), 500, "config", None),
        (PrecheckError("x"), 500, "precheck_failed", None),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, CascadenceError) else None,
)
def test_each_error_has_its_status_and_word(
    error: CascadenceError, status: int, word: str, retry_after_s: float | None
) -> None:
    said = answer(error)
    assert (said.status, said.body.error, said.retry_after_s) == (status, word, retry_after_s)
    assert said.body.detail == str(error)


def test_a_failed_run_is_answered_with_its_id_and_the_class_of_its_exception() -> None:
    body = answer(RunFailedError("x", error_type="ValueError", run_id="r1")).body
    assert (body.run_id, body.error_type) == ("r1", "ValueError")
    assert answer(Invalid("x")).body.run_id is None


# ── bytes ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("body", [b"", b"  \n", b"{}"])
async def test_no_arguments_are_an_empty_object(world: World, body: bytes) -> None:
    async with world.up() as instance:
        status, reply = await called(instance, "list", body)
    assert (status, [row["name"] for row in reply]) == (200, ["adds", "fails"])


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (b"{", "undecodable"),
        (b"\xff", "undecodable"),
        (b'{"task": "adds", "task": "fails"}', "undecodable"),
        (b'{"limit": 1' + b"0" * 40 + b"}", "undecodable"),
        (b'{"limit": NaN}', "undecodable"),
        (b'{"after": "\\ud800"}', "undecodable"),
        (b"[" * 1_000, "too_deep"),
        (b" " * 600_000 + b"{}", "too_large"),
        (b"[]", "invalid"),
        (b"null", "invalid"),
        (b'"text"', "invalid"),
        (b'{"limit": "ten"}', "invalid"),
        (b'{"lmit": 10}', "invalid"),
    ],
)
async def test_what_is_not_the_verbs_arguments_is_a_400_and_records_nothing(
    world: World, body: bytes, word: str
) -> None:
    async with world.up() as instance:
        before = len(world.file.events)
        status, reply = await called(instance, "runs", body)
        assert (status, reply["error"]) == (400, word)
        assert reply["detail"]
        assert len(world.file.events) == before


async def test_a_run_over_bytes(world: World) -> None:
    async with world.up() as instance:
        body = json.dumps({**WHO, "task": "adds", "args": {"numbers": [1, 2]}}).encode()
        status, reply = await called(instance, "run", body)
    assert (status, reply["result"]) == (200, 3)


async def test_a_fault_of_ours_is_a_500_that_tells_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async with world.up() as instance:

        async def broken() -> Any:
            raise RuntimeError("the password is 1234")

        monkeypatch.setattr(instance, "status", broken)
        with structlog.testing.capture_logs() as logs:
            status, reply = await called(instance, "status", b"")
    assert status == 500
    assert reply == {"detail": "an internal error; the daemon's log has the details", "error": "internal"}
    assert [(entry["event"], entry["verb"]) for entry in logs] == [("verb_failed", "status")]


async def test_a_result_that_cannot_be_encoded_is_a_500_too(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async with world.up() as instance:

        async def odd() -> Any:
            return "half a \ud800 pair"

        monkeypatch.setattr(instance, "status", odd)
        assert (await called(instance, "status", b""))[0] == 500


# ── what is counted ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("verb", "body", "reason"),
    [
        ("run", b"{", "undecodable"),
        ("run", b'{"task": "adds"}', "invalid"),
        ("run", b'{"task": "adds", "user_id": "", "group_id": "eng"}', "invalid"),
        ("dispatch", b'{"event": "..", "user_id": "alice", "group_id": "eng"}', "invalid"),
        ("trigger", b'{"task": "adds", "user_id": "alice", "group_id": "eng"}', "conflict"),
        ("pause", b'{"task": "nothing"}', "unknown"),
        ("pointer_add", b'{"task": "adds", "run_id": "r", "user_id": "alice"}', "invalid"),
    ],
)
async def test_a_refused_request_is_counted(world: World, verb: str, body: bytes, reason: str) -> None:
    async with world.up() as instance:
        assert (await called(instance, verb, body))[0] >= 400
        assert instance.refusals.total == {reason: 1}
    assert world.events(RequestsRefused) == [RequestsRefused(reason=reason, subject=f"rpc.{verb}", n_refused=1)]


async def test_a_request_that_finds_the_queue_full_is_counted(world: World) -> None:
    async with world.up() as instance:
        instance.runs._max_queued = 0
        body = json.dumps({**WHO, "task": "adds", "args": {"numbers": []}}).encode()
        assert (await called(instance, "run", body))[0] == 429
        assert instance.refusals.total == {"overloaded": 1}


async def test_a_request_that_was_made_before_is_counted_as_a_duplicate(world: World) -> None:
    run = json.dumps({**WHO, "task": "adds", "args": {"numbers": []}, "idempotency_key": "k"}).encode()
    dispatch = json.dumps({**WHO, "event": "nobody.listens", "idempotency_key": "k"}).encode()
    pointer = json.dumps({"task": "marks", "run_id": "r", "user_id": "alice"}).encode()
    async with world.up() as instance:
        for _ in range(3):
            for verb, body in (("run", run), ("dispatch", dispatch), ("pointer_receive", pointer)):
                assert (await called(instance, verb, body))[0] == 200
        assert instance.refusals.total == {"duplicate": 6}


async def test_what_is_recorded_as_a_refused_run_is_not_counted_beside_it(world: World) -> None:
    async with world.up() as instance:
        assert (await called(instance, "run", json.dumps({**WHO, "task": "nothing"}).encode()))[0] == 404
        assert instance.refusals.total == {}


@pytest.mark.parametrize(
    ("verb", "body"), [("show", b'{"run": "nothing"}'), ("runs", b'{"limit": -1}'), ("list", b"{")]
)
async def test_a_question_that_has_no_answer_is_not_counted(world: World, verb: str, body: bytes) -> None:
    async with world.up() as instance:
        assert (await called(instance, verb, body))[0] >= 400
        assert instance.refusals.total == {}


async def test_a_run_that_failed_was_not_refused(world: World) -> None:
    async with world.up() as instance:
        assert (await called(instance, "run", json.dumps({**WHO, "task": "fails"}).encode()))[0] == 400
        assert instance.refusals.total == {}


# ── the micro service ────────────────────────────────────────────────────────────────────────────────────────


async def test_every_verb_but_the_owners_is_served_on_the_bus(world: World) -> None:
    async with world.up() as instance:
        assert set(responders(instance)) == set(VERBS)
        bus = await served(world, instance)
        for verb in LOCAL_VERBS:
            with pytest.raises(Unknown):
                await bus.request(verb, b'{"position": 1}')


async def test_a_request_on_the_bus_is_answered_and_recorded_as_from_the_bus(world: World) -> None:
    async with world.up() as instance:
        bus = await served(world, instance)
        asked = {**WHO, "task": "adds", "args": {"numbers": [1, 2]}, "via": "followup"}
        reply, headers = await bus.request("run", json.dumps(asked).encode())
        assert (json.loads(reply)["result"], headers) == (3, {})
    assert [event.via for event in world.events(RunRequested)] == ["bus"]


async def test_a_refusal_on_the_bus_is_in_the_headers_on_one_line(world: World) -> None:
    async with world.up() as instance:
        bus = await served(world, instance)
        reply, headers = await bus.request("run", json.dumps({**WHO, "task": "fails"}).encode())
    assert headers == {
        "Nats-Service-Error": f"{PSEUDONYMS.user('alice')} is not there",
        "Nats-Service-Error-Code": "400",
    }
    assert json.loads(reply)["error_type"] == "LookupError"


@pytest.mark.parametrize(
    ("asked", "code"),
    [({"task": "nothing"}, "404"), ({}, "400"), ({"task": "adds", "user_id": ""}, "400")],
)
async def test_each_refusal_on_the_bus_has_its_status(world: World, asked: dict[str, Any], code: str) -> None:
    async with world.up() as instance:
        bus = await served(world, instance)
        _, headers = await bus.request("run", json.dumps({**WHO, **asked}).encode())
        assert headers["Nats-Service-Error-Code"] == code
        assert headers["Nats-Service-Error"]


# ── controls over the bus ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("verb", "more"),
    [("pause_run", {}), ("cancel", {}), ("signal", {"value": {"note": "n"}}), ("resolve", {"resolution": "retry"})],
)
async def test_over_the_bus_a_run_of_others_is_not_there(world: World, verb: str, more: dict[str, Any]) -> None:
    async with world.up() as instance:
        bus = await served(world, instance)
        reply, _ = await bus.request("run", json.dumps({**WHO, "task": "adds", "args": {"numbers": []}}).encode())
        asked = {"run": json.loads(reply)["run_id"], "via": "cli", **more}
        _, headers = await bus.request(verb, json.dumps({**asked, "user_id": "bob", "group_id": "ops"}).encode())
        assert headers["Nats-Service-Error-Code"] == "404"
        _, headers = await bus.request(verb, json.dumps(asked).encode())
        assert headers["Nats-Service-Error"] == "user_id is required"
        _, headers = await bus.request(verb, json.dumps({**asked, **WHO}).encode())
        assert headers["Nats-Service-Error-Code"] == "409"
