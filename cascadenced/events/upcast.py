"""Stored shapes of the past → today's, one step per schema version.

A change of shape that a default cannot express raises `catalogue.SCHEMA` by one and adds its step here; stored bytes
are never rewritten. Steps take and give the decoded object of one event and leave types they do not know alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

Step = Callable[[dict[str, Any]], dict[str, Any]]

STEPS: Mapping[int, Step] = {}
"""schema n → the function that makes it schema n + 1. Empty: the first shape is still today's."""


def to_current(data: bytes, schema: int, steps: Mapping[int, Step] = STEPS) -> bytes:
    """`data` as the newest shape. Raises KeyError for a schema without a step: the file is newer than this program."""
    shape = msgspec.json.decode(data)
    newest = max(steps, default=0) + 1
    for version in range(schema, newest):
        shape = steps[version](shape)
    if schema > newest:
        raise KeyError(f"schema {schema} is newer than {newest}")
    return msgspec.json.encode(shape)
