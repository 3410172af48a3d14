"""The JSON Schema of the log: every type of event with its data, in the header that `log export` writes around it.

Made from the structs that the log itself is read with; the words come from their docstrings. It is tolerant as the log
is: fields of a later version may be there, a type of a later version may not.
"""

from __future__ import annotations

import inspect
import re
from functools import cache
from typing import Any

import msgspec

from cascadenced.events.base import Event, Recorded
from cascadenced.events.catalogue import SCHEMA, TYPES

_HEX64 = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
_EVENT_ID = {"type": "string", "pattern": "^[0-9a-f]{32}$"}
_COUNT = {"type": "integer", "minimum": 1}
_SHAPES: dict[str, dict[str, Any]] = {
    "position": _COUNT,
    "version": _COUNT,
    "epoch": _COUNT,
    "schema": _COUNT,
    "id": _EVENT_ID,
    "hash": _HEX64,
    "type": {"enum": list(TYPES)},
    "data": {"type": "object", "required": ["type"]},
}
"""What the struct of a header does not say of its fields."""


@cache
def document() -> bytes:
    """JSON Schema, draft 2020-12, as JSON."""
    _, structs = msgspec.json.schema_components([*TYPES.values(), Recorded], ref_template="#/$defs/{name}")
    header = _described(structs[Recorded.__name__], Recorded)
    del header["properties"]["event"]  # the data again, as Python sees it
    for name, shape in _SHAPES.items():
        described = {key: value for key, value in header["properties"][name].items() if key == "description"}
        header["properties"][name] = described | shape
    return msgspec.json.encode(
        {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "$id": f"urn:cascadenced:event:{SCHEMA}",
            **header,
            "title": "An event of cascadenced's log",
            "required": [name for name in header["required"] if name != "event"],
            # Rather than oneOf: what is wrong with an event is then told of its own type, not of all the others.
            "allOf": [
                {
                    "if": {"properties": {"type": {"const": name}}, "required": ["type"]},
                    "then": {"properties": {"data": {"$ref": f"#/$defs/{struct.__name__}"}}},
                }
                for name, struct in TYPES.items()
            ],
            "$defs": {
                **{name: shape for name, shape in structs.items() if name != Recorded.__name__},
                **{struct.__name__: _described(structs[struct.__name__], struct) for struct in TYPES.values()},
            },
        }
    )


def _described(schema: dict[str, Any], struct: type[Event] | type[Recorded]) -> dict[str, Any]:
    """The schema, the struct's docstring taken apart: its sentences on top, `field: …` with the field."""
    properties = {name: dict(shape) for name, shape in schema["properties"].items()}
    text = inspect.cleandoc(struct.__doc__ or "")
    names = "|".join(map(re.escape, properties))
    about, *parts = re.split(rf"(?:^|(?<=[.…\n])\s*)({names}): ", text, flags=re.MULTILINE)
    for name, words in zip(parts[::2], parts[1::2], strict=True):
        properties[name]["description"] = _one_line(words)
    return {**schema, "description": _one_line(about), "properties": properties}


def _one_line(text: str) -> str:
    return " ".join(text.split())
