"""Every event is written small, read back equal, and stays readable."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascadenced.events import run, upcast
from cascadenced.events.base import Event
from cascadenced.events.catalogue import SCHEMA, TYPE_NAMES, TYPES, decode, encode
from cascadenced.events.run import RunRequested
from cascadenced.events.stage import StageFinished
from cascadenced.events.task import TaskEnabled
from tests.examples import every_event, example, recorded

EVENTS = [pytest.param(event, id=TYPE_NAMES[type(event)]) for event in every_event()]

JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner),
    max_leaves=20,
)


def subclasses(kind: type[Event]) -> set[type[Event]]:
    return {kind} | {below for child in kind.__subclasses__() for below in subclasses(child)}


def test_the_catalogue_lists_every_event_there_is():
    assert set(TYPES.values()) == subclasses(Event) - {Event}


def test_every_type_has_an_example():
    assert {type(event) for event in every_event()} == set(TYPES.values())


@pytest.mark.parametrize("event", EVENTS)
def test_an_event_is_read_back_as_it_was_written(event: Event):
    assert decode(encode(event)) == event


@pytest.mark.parametrize("event", EVENTS)
def test_an_events_bytes_name_its_type_first(event: Event):
    assert next(iter(json.loads(encode(event)).items())) == ("type", TYPE_NAMES[type(event)])


@pytest.mark.parametrize("event", EVENTS)
def test_fields_of_a_later_version_are_tolerated(event: Event):
    later = {**json.loads(encode(event)), "a_field_of_tomorrow": {"deep": [1]}}
    assert decode(json.dumps(later).encode()) == event


@pytest.mark.parametrize("kind", TYPES.values(), ids=TYPES)
def test_fields_at_their_default_are_not_stored(kind: type[Event]):
    required = {f.name for f in msgspec.structs.fields(kind) if f.required}
    event = kind(**{name: value for name, value in _fields_of(kind).items() if name in required})
    assert set(json.loads(encode(event))) == {"type", *required}


def _fields_of(kind: type[Event]) -> dict[str, object]:
    return {name: getattr(example(kind), name) for name in kind.__struct_fields__}


@pytest.mark.parametrize("event", EVENTS)
def test_events_are_frozen(event: Event):
    if event.__struct_fields__:
        with pytest.raises(AttributeError):
            setattr(event, event.__struct_fields__[0], "another")


@given(JSON_VALUES)
def test_content_is_stored_exactly(value: object):
    event = example(StageFinished, output=value)
    assert decode(encode(event)).output == value


@pytest.mark.parametrize("value", [None, False, 0, 0.0, "", [], {}])
def test_an_output_that_is_nearly_nothing_keeps_its_type(value: object):
    back = decode(encode(example(StageFinished, output=value))).output
    assert (type(back), back) == (type(value), value)


def test_the_logs_own_bytes_may_be_deeper_than_what_the_outside_may_send():
    value: object = "deep"
    for _ in range(70):
        value = [value]
    assert decode(encode(example(StageFinished, output=value))).output == value


def test_the_logs_own_bytes_may_be_larger_than_what_the_outside_may_send():
    event = example(StageFinished, output="x" * 600_000)
    assert decode(encode(event)) == event


def test_the_logs_own_bytes_may_have_a_key_twice():
    assert decode(b'{"type":"task.enabled","task":"first","task":"second"}') == TaskEnabled(task="second")


def test_two_requests_do_not_share_their_default_arguments():
    first, second = RunRequested(task="a", via="bus"), RunRequested(task="b", via="bus")
    assert first.args is not second.args


def test_an_unknown_type_is_refused():
    with pytest.raises(msgspec.ValidationError):
        decode(b'{"type":"moon.landed"}')


def test_opening_and_terminal_types_exist_and_differ():
    assert set(TYPES) >= run.OPENING | run.TERMINAL
    assert not run.OPENING & run.TERMINAL


def test_the_newest_schema_is_where_the_steps_end():
    assert max(upcast.STEPS, default=0) + 1 == SCHEMA


def test_a_recorded_example_holds_the_events_own_bytes():
    event = example(TaskEnabled, task="shop")
    assert decode(recorded(event, position=9).data) == event
