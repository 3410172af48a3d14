"""Users' values and JSON: results, arguments, outputs. Stored exactly, or refused; never approximated.

A value may be recorded when reading it back gives an equal value. So a resumed run is handed what the first one was.
"""

from __future__ import annotations

from typing import Any

import msgspec

from cascadenced.errors import CascadenceError
from cascadenced.events.base import Json

MAX_CONTENT_BYTES = 512 * 1024
MAX_SHOWN_CHARS = 2048

_SCALARS = (str, int, float, bool, type(None))
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


class Unserialisable(CascadenceError):
    """A result or argument that JSON cannot hold without changing it."""

    code = "result.unserialisable"


class TooLarge(CascadenceError):
    """A result or argument of more than MAX_CONTENT_BYTES as JSON."""

    code = "result.too_large"


def recordable(value: Any) -> Json:
    """`value` as it will be read back: equal to it, tuples as lists. Raises Unserialisable or TooLarge.

    Strings, numbers, booleans, None, lists, tuples and dicts with string keys pass; 64-bit integers; finite floats.
    """
    try:
        data = _encode(value)
        back = _decode(data)
    except Exception as error:  # noqa: BLE001 -- the value's own methods run here and may raise anything
        raise Unserialisable(f"a value of type {type(value).__name__} cannot be JSON: {_text_of(error)}") from None
    if len(data) > MAX_CONTENT_BYTES:
        raise TooLarge(f"{len(data)} bytes as JSON; {MAX_CONTENT_BYTES} are allowed")
    _refuse_changed(value, back, "value")
    return back


def _refuse_changed(value: Any, back: Json, path: str) -> None:
    """Walk both only as far as needed to say where they differ."""
    if isinstance(value, tuple):
        value = list(value)
    if isinstance(value, list) and isinstance(back, list):
        for i, (old, new) in enumerate(zip(value, back, strict=True)):
            _refuse_changed(old, new, f"{path}[{i}]")
    elif type(value) is dict and isinstance(back, dict):
        for key, old in value.items():
            if type(key) is not str:
                raise Unserialisable(f"{path} has the key {key!r}; JSON keys are strings")
            _refuse_changed(old, back[key], f"{path}.{key}")
    elif type(value) not in _SCALARS or value != back:
        raise Unserialisable(f"{path} is a {type(value).__name__}, which JSON would change")


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 -- a hostile __str__ must not hide the error it belongs to
        return type(error).__name__


def shown(value: Json) -> str:
    """`repr(value)`, cut to MAX_SHOWN_CHARS with `...` at the end."""
    text = repr(value)
    return text if len(text) <= MAX_SHOWN_CHARS else text[: MAX_SHOWN_CHARS - 3] + "..."
