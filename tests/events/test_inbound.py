"""A message is the command it says it is, or BadMessage with a reason."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascadenced.errors import BadMessage, FutureSchema
from cascadenced.events.bodies import SCHEMA_VERSION
from cascadenced.events.inbound import (
    Command,
    DispatchEvent,
    RecordIdea,
    RecordNote,
    ReportRun,
    RequestRun,
    SetSchedule,
    UpdatePointer,
    decode,
    message_source,
    named,
)
from cascadenced.events.received import MAX_PRIORITY
from cascadenced.identity import Identity
from tests.examples import GROUP_HASH, USER_HASH

NOBODY = {"user_id": None, "user_hash": None, "group_id": None, "group_hash": None}
BODIES: dict[str, dict[str, Any]] = {
    "ume.event.calendar.event.create_request": {"payload": {"title": "Tea"}, "user_id": "alice", "group_id": "eng"},
    "ume.run.request.example": {
        "user_id": "alice",
        "group_id": "eng",
        "args": {"n": 1},
        "idempotency_key": "k1",
        "priority": 2,
    },
    "ume.pointer.example": {"task_name": "example", "run_id": "r1", "user_hash": USER_HASH, "group_hash": GROUP_HASH},
    "ume.schedule.example": {"expr": "0 9 * * *", "timezone": "Europe/Berlin", "user_id": "alice", "group_id": "eng"},
    "ume.task_run.example": {
        "spec": {"id": "example"},
        "run_id": "r1",
        "status": "error",
        "started_at": "2026-01-01T00:00:00Z",
        "finished_at": None,
        "user_hash": USER_HASH,
    },
    "ume.idea": {"text": "water the plants", "user_id": "alice"},
    "ume.note": {"note": "late", "task_name": "example", "run_id": "r1", "user_hash": USER_HASH},
}
EVENT, RUN, POINTER, SCHEDULE, TASK_RUN, IDEA, NOTE = BODIES
MISSING = object()


def received(subject: str, **changes: Any) -> Command:
    """The command in the good body of `subject` with some fields replaced, or left out where MISSING."""
    body = {key: value for key, value in {**BODIES[subject], **changes}.items() if value is not MISSING}
    return decode("ume", subject, json.dumps(body).encode())


def refusal(subject: str, **changes: Any) -> BadMessage:
    with pytest.raises(BadMessage) as refused:
        received(subject, **changes)
    return refused.value


# ---- good bodies


def test_an_event_is_a_dispatch():
    assert received(EVENT) == DispatchEvent(
        name="calendar.event.create_request", payload={"title": "Tea"}, identity=Identity("alice", "eng")
    )


def test_a_run_request_is_a_run():
    assert received(RUN) == RequestRun(
        task="example", identity=Identity("alice", "eng"), args={"n": 1}, idempotency_key="k1", priority=2
    )


def test_a_pointer_is_an_update():
    hashes = {**NOBODY, "user_hash": USER_HASH, "group_hash": GROUP_HASH}
    assert received(POINTER) == UpdatePointer(task="example", run_id="r1", **hashes)


def test_a_schedule_is_set():
    assert received(SCHEDULE) == SetSchedule(
        task="example",
        entry={"expr": "0 9 * * *", "timezone": "Europe/Berlin"},
        identity=Identity("alice", "eng"),
    )


def test_a_task_run_is_a_report():
    assert received(TASK_RUN) == ReportRun(
        task="example",
        run_id="r1",
        status="error",
        started_at="2026-01-01T00:00:00Z",
        finished_at=None,
        **{**NOBODY, "user_hash": USER_HASH},
    )


def test_an_idea_is_recorded():
    assert received(IDEA) == RecordIdea(text="water the plants", **{**NOBODY, "user_id": "alice"})


def test_a_note_is_recorded():
    assert received(NOTE) == RecordNote(note="late", task="example", run_id="r1", **{**NOBODY, "user_hash": USER_HASH})


@pytest.mark.parametrize("subject", BODIES)
def test_unknown_fields_are_tolerated(subject: str):
    assert received(subject, a_field_of_tomorrow={"deep": [1]}) == received(subject)


@pytest.mark.parametrize(
    ("subject", "field", "default"),
    [
        (EVENT, "payload", {}),
        (RUN, "args", {}),
        (RUN, "idempotency_key", None),
        (RUN, "priority", 0),
        (TASK_RUN, "started_at", None),
        (IDEA, "user_id", None),
        (NOTE, "run_id", None),
    ],
)
def test_an_optional_field_may_be_left_out(subject: str, field: str, default: Any):
    assert getattr(received(subject, **{field: MISSING}), field) == default


@pytest.mark.parametrize("group_id", [MISSING, None, ""])
def test_an_event_without_a_group_belongs_to_its_user_alone(group_id: Any):
    assert received(EVENT, group_id=group_id).identity == Identity("alice", "alice")


def test_a_schedule_without_a_user_belongs_to_nobody():
    assert received(SCHEDULE, user_id=MISSING).identity is None


# ---- bad bodies


@pytest.mark.parametrize(
    ("subject", "field"),
    [
        (EVENT, "user_id"),
        (RUN, "user_id"),
        (RUN, "group_id"),
        (POINTER, "run_id"),
        (POINTER, "user_hash"),
        (SCHEDULE, "expr"),
        (TASK_RUN, "run_id"),
        (TASK_RUN, "status"),
        (IDEA, "text"),
        (NOTE, "note"),
    ],
)
def test_a_missing_field_is_invalid(subject: str, field: str):
    assert refusal(subject, **{field: MISSING}).code == "invalid"


@pytest.mark.parametrize(
    ("subject", "field", "value"),
    [
        (EVENT, "user_id", 7),
        (EVENT, "user_id", None),
        (EVENT, "group_id", ["eng"]),
        (EVENT, "payload", None),
        (EVENT, "payload", []),
        (EVENT, "payload", "{}"),
        (RUN, "user_id", None),
        (RUN, "group_id", {}),
        (RUN, "args", [1]),
        (RUN, "idempotency_key", 1),
        (RUN, "idempotency_key", ""),
        (RUN, "idempotency_key", "k" * 257),
        (RUN, "priority", "high"),
        (RUN, "priority", 1.5),
        (RUN, "priority", True),
        (RUN, "priority", MAX_PRIORITY + 1),
        (RUN, "priority", -(2**63)),
        (POINTER, "run_id", None),
        (POINTER, "run_id", 1),
        (POINTER, "run_id", ""),
        (POINTER, "user_hash", "not a hash"),
        (POINTER, "user_hash", USER_HASH.upper()),
        (POINTER, "group_hash", ""),
        (SCHEDULE, "expr", 5),
        (SCHEDULE, "timezone", 1),
        (SCHEDULE, "calendar_event", 5),
        (SCHEDULE, "poll", "often"),
        (SCHEDULE, "user_id", ""),
        (TASK_RUN, "run_id", ["r1"]),
        (TASK_RUN, "status", None),
        (TASK_RUN, "status", ""),
        (TASK_RUN, "spec", "example"),
        (TASK_RUN, "started_at", 1_790_000_000),
        (IDEA, "text", None),
        (NOTE, "note", 1),
        (NOTE, "run_id", 1),
    ],
)
def test_an_ill_typed_field_is_invalid(subject: str, field: str, value: Any):
    assert refusal(subject, **{field: value}).code == "invalid"


@pytest.mark.parametrize("subject", [EVENT, RUN, POINTER, SCHEDULE, IDEA, NOTE])
@pytest.mark.parametrize("user_id", ["", "x" * 257, "ali\nce", "\0", "alice\x7f"])
def test_a_user_id_that_is_empty_long_or_has_control_characters_is_invalid(subject: str, user_id: str):
    assert refusal(subject, user_id=user_id).code == "invalid"


@pytest.mark.parametrize("subject", [RUN, POINTER, TASK_RUN, IDEA, NOTE])
@pytest.mark.parametrize("group_id", ["", "x" * 257, "e\rng"])
def test_a_group_id_that_is_empty_long_or_has_control_characters_is_invalid(subject: str, group_id: str):
    assert refusal(subject, group_id=group_id).code == "invalid"


@pytest.mark.parametrize("subject", BODIES)
@pytest.mark.parametrize("body", [b"[]", b"null", b'"alice"', b"7"])
def test_what_is_no_object_is_invalid(subject: str, body: bytes):
    with pytest.raises(BadMessage) as refused:
        decode("ume", subject, body)
    assert refused.value.code == "invalid"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "undecodable"),
        (b"\x0a\x05alice", "undecodable"),
        (b'{"user_id":"a","user_id":"b"}', "undecodable"),
        (b"[" * 65, "too_deep"),
        (b'"' + b"x" * 600_000 + b'"', "too_large"),
    ],
)
def test_what_is_no_json_within_the_limits_has_the_scanners_code(body: bytes, code: str):
    with pytest.raises(BadMessage) as refused:
        decode("ume", RUN, body)
    assert refused.value.code == code


@pytest.mark.parametrize("subject", ["ume.stage.example.run", "other.idea", "ume.run.request", "ume", "ume.idea.x", ""])
def test_a_subject_of_no_family_is_refused_whatever_it_carries(subject: str):
    with pytest.raises(BadMessage) as refused:
        decode("ume", subject, b"\xff")
    assert refused.value.code == "unknown_family"


@pytest.mark.parametrize("name", ["a%20b", "a%3E", "a%0Ab", "%C3%A9", "x" * 129])
@pytest.mark.parametrize("family", ["event", "pointer", "task_run"])
def test_a_name_that_nothing_can_have_is_invalid(family: str, name: str):
    good = {"event": EVENT, "pointer": POINTER, "task_run": TASK_RUN}[family]
    with pytest.raises(BadMessage) as refused:
        decode("ume", f"ume.{family}.{name}", json.dumps(BODIES[good]).encode())
    assert refused.value.code == "invalid"


@pytest.mark.parametrize("subject", ["ume.pointer.workflow%2Ea%2Eb", "ume.task_run.workflow%2Ea%2Eb"])
def test_facts_may_be_about_a_workflows_task(subject: str):
    body = {"run_id": "r1", "status": "success", "user_hash": USER_HASH}
    assert decode("ume", subject, json.dumps(body).encode()).task == "workflow.a.b"


@given(st.sampled_from(list(BODIES)), st.data())
def test_any_json_is_a_command_or_a_bad_message(subject: str, data: st.DataObject):
    values = st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=3) | st.just({}) | st.just([])
    fields = [*BODIES[subject], "user_hash", "group_hash", "schema_version", "calendar_event", "poll", "recurrence"]
    body = {**BODIES[subject], **data.draw(st.dictionaries(st.sampled_from(fields), values))}
    try:
        command = decode("ume", subject, json.dumps(body).encode())
    except BadMessage:
        return
    assert isinstance(command, Command)


# ---- identities


def test_a_hash_that_came_with_the_message_is_kept_beside_the_id():
    pointer = received(POINTER, user_id="alice", group_id="eng")
    assert (pointer.user_hash, pointer.group_hash) == (USER_HASH, GROUP_HASH)


def test_a_pointer_may_carry_only_a_raw_id():
    pointer = received(POINTER, user_hash=MISSING, user_id="alice")
    assert (pointer.user_id, pointer.user_hash) == ("alice", None)


@pytest.mark.parametrize("subject", [EVENT, RUN])
def test_64_hex_digits_are_an_ordinary_user_id(subject: str):
    assert received(subject, user_id=USER_HASH).identity.user_id == USER_HASH


def test_64_hex_digits_as_a_user_id_are_not_taken_for_a_hash():
    pointer = received(POINTER, user_hash=MISSING, user_id=USER_HASH)
    assert (pointer.user_id, pointer.user_hash) == (USER_HASH, None)


@pytest.mark.parametrize("subject", [EVENT, RUN, SCHEDULE, IDEA])
def test_a_message_with_a_raw_id_carries_an_identity(subject: str):
    assert named(received(subject)) is not None


@pytest.mark.parametrize("subject", [POINTER, TASK_RUN, NOTE])
def test_a_message_with_only_hashes_carries_none(subject: str):
    assert named(received(subject)) is None


@pytest.mark.parametrize("subject", [POINTER, TASK_RUN, NOTE])
@pytest.mark.parametrize("field", ["user_id", "group_id"])
def test_a_raw_id_beside_a_hash_is_an_identity(subject: str, field: str):
    assert named(received(subject, **{field: "alice"})) is not None


SECRET = "alice-the-unique"


@pytest.mark.parametrize(
    ("subject", "changes"),
    [
        (EVENT, {"user_id": [SECRET]}),
        (EVENT, {"user_id": SECRET + "\n"}),
        (EVENT, {"payload": SECRET}),
        (EVENT, {"user_id": SECRET * 20}),
        (RUN, {"user_id": SECRET, "group_id": MISSING}),
        (RUN, {"user_id": SECRET, "args": {SECRET: 1}, "priority": SECRET}),
        (RUN, {"args": [SECRET]}),
        (RUN, {"idempotency_key": SECRET * 20}),
        (RUN, {SECRET: SECRET, "user_id": 1}),
        (POINTER, {"user_hash": SECRET}),
        (POINTER, {"run_id": SECRET + "\0"}),
        (TASK_RUN, {"spec": {"id": [SECRET]}}),
        (TASK_RUN, {"status": SECRET * 20}),
        (IDEA, {"text": {SECRET: SECRET}}),
        (NOTE, {"note": [SECRET]}),
    ],
)
def test_a_refusal_never_quotes_the_body(subject: str, changes: dict[str, Any]):
    assert SECRET not in str(refusal(subject, **changes))


# ---- schedules


@pytest.mark.parametrize("field", ["expr", "calendar_event"])
def test_an_explicit_null_removes_a_schedule(field: str):
    command = decode("ume", SCHEDULE, json.dumps({field: None}).encode())
    assert command.entry is None


@pytest.mark.parametrize("body", [{}, {"cron": "0 9 * * *"}, {"user_id": "alice"}])
def test_a_body_without_a_word_about_the_schedule_removes_nothing(body: dict[str, Any]):
    with pytest.raises(BadMessage) as refused:
        decode("ume", SCHEDULE, json.dumps(body).encode())
    assert refused.value.code == "invalid"


def test_a_recurrence_is_kept_verbatim():
    recurrence = {"cron": "0 9 * * *", "until": None, "n": [1, 2]}
    assert received(SCHEDULE, recurrence=recurrence).entry["recurrence"] == recurrence


def test_what_is_in_the_message_besides_is_no_part_of_the_schedule():
    entry = received(SCHEDULE, schema_version="2026.04.0", event_type="UNKNOWN", user_hash=None).entry
    assert entry == {"expr": "0 9 * * *", "timezone": "Europe/Berlin"}


# ---- versions of the public schema


@pytest.mark.parametrize("subject", BODIES)
def test_a_future_schema_is_parked(subject: str):
    refused = refusal(subject, schema_version="2026.05.0")
    assert isinstance(refused, FutureSchema)
    assert refused.code == "future_schema"


@pytest.mark.parametrize("version", ["2026.04.1", "2026.10.0", "2027", "2027.1", "3000.01.01", "2026.04.0.1"])
def test_a_greater_version_is_future(version: str):
    assert isinstance(refusal(RUN, schema_version=version), FutureSchema)


def test_a_future_schema_is_parked_before_its_body_is_judged():
    assert isinstance(refusal(RUN, schema_version="2027.01.0", user_id=MISSING), FutureSchema)


@pytest.mark.parametrize(
    "version",
    [
        SCHEMA_VERSION,
        "2026.4.0",
        "2026.04",
        "2025.12.9",
        "1",
        "",
        ".",
        "v9999",
        "9999-01",
        "-1",
        "²",
        "2027.²",
        "٣",
        "9" * 5000,
        "1." * 5000,
        None,
        3000,
        2026.5,
        ["2027.01.0"],
        {},
        True,
    ],
)
def test_an_older_or_unreadable_version_is_read_like_ours(version: Any):
    assert received(RUN, schema_version=version) == received(RUN)


# ---- what the outside calls a message


def source(headers: dict[str, str], subject: str = RUN, prefix: str = "ume") -> str:
    return message_source(headers, subject, prefix, lambda: "digest")


def test_a_message_is_named_by_its_family_and_nats_id():
    assert source({"Nats-Msg-Id": "m1", "ce-id": "c1"}) == "run.request:m1"


@pytest.mark.parametrize("headers", [{"ce-id": "c1"}, {"Nats-Msg-Id": "", "ce-id": "c1"}])
def test_without_a_nats_id_by_its_cloud_event_id(headers: dict[str, str]):
    assert source(headers) == "run.request:c1"


@pytest.mark.parametrize("headers", [{}, {"Nats-Msg-Id": "", "ce-id": ""}, {"X": "y"}])
def test_without_any_id_by_its_digest(headers: dict[str, str]):
    assert source(headers) == "run.request:digest"


def test_the_same_id_in_another_family_is_another_message():
    assert len({source({"Nats-Msg-Id": "m1"}, subject) for subject in BODIES}) == len(BODIES)


def test_the_same_id_for_another_task_of_a_family_is_the_same_message():
    assert source({"Nats-Msg-Id": "m1"}, "ume.pointer.a") == source({"Nats-Msg-Id": "m1"}, "ume.pointer.b")


def test_a_message_of_no_family_has_a_name_too():
    assert source({"Nats-Msg-Id": "m1"}, "ume.stage.example.run") == "unknown:m1"


def test_a_long_id_is_shortened_without_making_two_ids_one():
    one, other = source({"Nats-Msg-Id": "x" * 5000 + "1"}), source({"Nats-Msg-Id": "x" * 5000 + "2"})
    assert one != other
    assert len(one) < 100


def test_an_id_that_utf8_cannot_spell_can_be_stored_and_is_told_apart():
    one, other = source({"Nats-Msg-Id": "m\udc80"}), source({"Nats-Msg-Id": "m\udc81"})
    assert one.encode() != other.encode()
