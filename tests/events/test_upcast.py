"""Bytes of the past are read as today's shapes, one step per schema; bytes of the future are refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cascadenced.events.catalogue import decode, encode
from cascadenced.events.upcast import to_current
from tests.examples import every_event


def rename_name_to_task(shape: dict[str, Any]) -> dict[str, Any]:
    if shape["type"] != "task.enabled":
        return shape
    return {"type": shape["type"], "task": shape["name"]}


def prefix_tasks(shape: dict[str, Any]) -> dict[str, Any]:
    return {**shape, "task": f"shop-{shape['task']}"} if shape["type"] == "task.enabled" else shape


STEPS = {1: rename_name_to_task, 2: prefix_tasks}


def upcast(shape: dict[str, Any], schema: int) -> dict[str, Any]:
    return json.loads(to_current(json.dumps(shape).encode(), schema, STEPS))


def test_the_first_shape_takes_every_step():
    assert upcast({"type": "task.enabled", "name": "a"}, 1) == {"type": "task.enabled", "task": "shop-a"}


def test_a_later_shape_takes_only_the_steps_after_it():
    assert upcast({"type": "task.enabled", "task": "a"}, 2) == {"type": "task.enabled", "task": "shop-a"}


def test_the_newest_shape_is_left_alone():
    assert upcast({"type": "task.enabled", "task": "a"}, 3) == {"type": "task.enabled", "task": "a"}


def test_a_step_leaves_types_it_does_not_know_alone():
    assert upcast({"type": "task.paused", "task": "a"}, 1) == {"type": "task.paused", "task": "a"}


@pytest.mark.parametrize("schema", [4, 99, 0, -1])
def test_a_schema_without_a_step_is_refused(schema: int):
    with pytest.raises(KeyError):
        upcast({"type": "task.enabled", "task": "a"}, schema)


def test_events_of_a_newer_program_are_refused_by_the_decoder():
    with pytest.raises(KeyError):
        decode(encode(every_event()[0]), schema=2)
