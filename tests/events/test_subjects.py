"""Names become subject tokens and come back, however naughty they are."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascadenced.errors import BadMessage, Invalid
from cascadenced.events.subjects import (
    INBOUND,
    MAX_NAME_CHARS,
    Address,
    checked_event_name,
    checked_reported_name,
    checked_task_name,
    event_subject,
    parse,
    subject,
    token,
)

NAMED = ["run.request", "pointer", "schedule", "task_run"]
NAUGHTY = ["*", ">", ".", "..", "a b", "a\r\nb", "%", "%2E", "%%", "~", "日本", "Zoë", "\0", "$SYS", "a/b", "+", ""]
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@pytest.mark.parametrize("name", ["example", "Example_2", "a-b", "0"])
def test_a_plain_name_is_its_own_token(name: str):
    assert token(name) == name


@pytest.mark.parametrize("name", NAUGHTY)
def test_a_naughty_name_is_one_legal_token(name: str):
    assert re.fullmatch(r"[A-Za-z0-9_%-]+", token(name))


@pytest.mark.parametrize("name", NAUGHTY)
@pytest.mark.parametrize("family", NAMED)
def test_a_naughty_name_survives_its_subject(family: str, name: str):
    assert parse("ume", subject("ume", family, name)) == Address(family, name)


@given(NAMES)
def test_any_name_survives_its_subject(name: str):
    assert parse("ume", subject("ume", "pointer", name)) == Address("pointer", name)


@given(NAMES, NAMES)
def test_different_names_have_different_tokens(one: str, other: str):
    assert (token(one) == token(other)) == (one == other)


@given(NAMES)
def test_any_event_name_survives_its_subject(name: str):
    assert parse("ume", event_subject("ume", name)) == Address("event", name)


def test_an_event_keeps_its_dots():
    assert event_subject("ume", "calendar.event.created") == "ume.event.calendar.event.created"


def test_a_workflows_task_is_one_token():
    assert subject("ume", "audit", "workflow.calendar.event", "run") == "ume.audit.workflow%2Ecalendar%2Eevent.run"


@pytest.mark.parametrize("prefix", ["ume", "team.ume", "a.b.c"])
@pytest.mark.parametrize("family", NAMED)
def test_a_prefix_may_have_several_tokens(prefix: str, family: str):
    assert parse(prefix, subject(prefix, family, "example")) == Address(family, "example")


def test_an_event_under_a_prefix_of_several_tokens_keeps_its_name():
    assert parse("team.ume", event_subject("team.ume", "a.b")) == Address("event", "a.b")


@pytest.mark.parametrize("family", ["idea", "note"])
def test_ideas_and_notes_have_no_name(family: str):
    assert parse("ume", f"ume.{family}") == Address(family)


def test_every_inbound_family_is_parsed():
    names = {"event": ["x"], "idea": [], "note": []}
    subjects = [".".join(["ume", family, *names.get(family, ["x"])]) for family in INBOUND]
    assert [parse("ume", full).family for full in subjects] == list(INBOUND)


@pytest.mark.parametrize(
    "full",
    [
        "",
        "ume",
        "ume.",
        "other.pointer.example",
        "umes.pointer.example",
        "UME.pointer.example",
        "x.ume.pointer.example",
        "ume.stage.example.run",
        "ume.audit.example.run",
        "ume.event",
        "ume.event.",
        "ume.event.a..b",
        "ume.run.request",
        "ume.run.request.",
        "ume.run.request.a.b",
        "ume.run.cancel.a",
        "ume.pointer",
        "ume.pointer.",
        "ume.pointer.a.b",
        "ume..example",
        "ume.idea.x",
        "ume.idea.",
        "ume.rpc.list",
    ],
)
def test_a_subject_of_no_family_is_refused(full: str):
    with pytest.raises(BadMessage) as refused:
        parse("ume", full)
    assert refused.value.code == "unknown_family"


def test_half_a_prefix_is_foreign():
    with pytest.raises(BadMessage):
        parse("team.ume", "team.pointer.example")


@pytest.mark.parametrize("name", ["example", "a-b_C9", "x" * MAX_NAME_CHARS])
def test_a_task_may_be_named(name: str):
    assert checked_task_name(name) == name


@pytest.mark.parametrize("name", ["", "a.b", "a b", "é", "a\n", "*", "x" * (MAX_NAME_CHARS + 1)])
def test_a_task_may_not_be_named(name: str):
    with pytest.raises(Invalid):
        checked_task_name(name)


@pytest.mark.parametrize("check", [checked_event_name, checked_reported_name])
@pytest.mark.parametrize("name", ["created", "workflow.calendar.event.create_request", "x" * MAX_NAME_CHARS])
def test_an_event_or_reported_task_may_be_named(check, name: str):
    assert check(name) == name


@pytest.mark.parametrize("check", [checked_event_name, checked_reported_name])
@pytest.mark.parametrize("name", ["", ".", "a..b", ".a", "a.", "a b", "a.*", "a.>", "é", "a\n", "x." * 65 + "x"])
def test_an_event_or_reported_task_may_not_be_named(check, name: str):
    with pytest.raises(Invalid):
        check(name)
