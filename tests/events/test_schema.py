"""The JSON Schema of the log: what the log holds is valid, what was doctored is not."""

from __future__ import annotations

import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from cascadenced.events.base import Event
from cascadenced.events.catalogue import TYPE_NAMES, TYPES
from cascadenced.events.schema import document
from cascadenced.events.stage import StageFinished
from tests.examples import every_event, example, recorded

SCHEMA = json.loads(document())
VALIDATOR = Draft202012Validator(SCHEMA)
EVENTS = [pytest.param(event, id=TYPE_NAMES[type(event)]) for event in every_event()]


def exported(event: Event, **header: Any) -> dict[str, Any]:
    """As `log export` writes it."""
    kept = recorded(event, **header)
    line = {name: getattr(kept, name) for name in kept.__struct_fields__ if name != "event"}
    return {**line, "data": json.loads(kept.data), "hash": kept.hash.hex()}


def wrong(line: dict[str, Any]) -> list[str]:
    return [error.message for error in VALIDATOR.iter_errors(line)]


def test_the_schema_is_one() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"


@pytest.mark.parametrize("event", EVENTS)
def test_every_event_is_valid(event: Event) -> None:
    assert wrong(exported(event)) == []


@pytest.mark.parametrize("event", EVENTS)
def test_an_event_without_one_of_its_fields_is_not(event: Event) -> None:
    line = exported(event)
    for name in SCHEMA["$defs"][type(event).__name__]["required"]:
        assert wrong({**line, "data": {key: value for key, value in line["data"].items() if key != name}}), name


@pytest.mark.parametrize("event", EVENTS)
def test_an_event_whose_text_or_number_is_something_else_is_not(event: Event) -> None:
    line = exported(event)
    for name, value in line["data"].items():
        if isinstance(value, str | int | float):
            assert wrong({**line, "data": {**line["data"], name: [value]}}) or name in ("output", "partial"), name


@pytest.mark.parametrize("event", EVENTS)
def test_an_event_that_says_it_is_another_is_not(event: Event) -> None:
    line = exported(event)
    other = next(name for name in TYPES if name != line["type"])
    assert wrong({**line, "type": other})
    assert wrong({**line, "data": {**line["data"], "type": other}})


@pytest.mark.parametrize(
    "doctored",
    [
        {"position": 0},
        {"position": "1"},
        {"type": "moon.landed", "data": {"type": "moon.landed"}},
        {"hash": "00"},
        {"id": "not an id"},
        {"at_us": "2026-09-21"},
        {"user_hash": 7},
        {"data": None},
        {"data": "{}"},
    ],
    ids=str,
)
def test_a_header_that_was_doctored_is_not(doctored: dict[str, Any]) -> None:
    assert wrong({**exported(example(StageFinished)), **doctored})


def test_each_field_of_the_header_is_required() -> None:
    line = exported(example(StageFinished))
    for name in line:
        assert wrong({key: value for key, value in line.items() if key != name}), name


def test_fields_of_a_later_version_are_tolerated() -> None:
    line = exported(example(StageFinished))
    assert wrong({**line, "a_field_of_tomorrow": 1, "data": {**line["data"], "another": {}}}) == []


def test_what_is_wrong_is_told_of_the_events_own_type() -> None:
    line = exported(example(StageFinished))
    assert wrong({**line, "data": {**line["data"], "attempt": "first"}}) == ["'first' is not of type 'integer'"]


@pytest.mark.parametrize("kind", TYPES.values(), ids=TYPES)
def test_every_type_is_described(kind: type[Event]) -> None:
    described = SCHEMA["$defs"][kind.__name__]
    assert described["description"]
    assert not any(f"{name}: " in described["description"] for name in described["properties"])


def test_a_field_has_the_words_of_its_docstring() -> None:
    assert "counts the starts" in SCHEMA["$defs"]["StageStarted"]["properties"]["attempt"]["description"]
    assert "without gaps" in SCHEMA["properties"]["position"]["description"]


def test_an_event_is_read_by_the_log_with_the_same_fields_as_the_schema_has() -> None:
    for kind in TYPES.values():
        assert set(SCHEMA["$defs"][kind.__name__]["properties"]) == {"type", *kind.__struct_fields__}
