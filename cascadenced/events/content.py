"""Users' values and JSON: results, arguments, outputs. Stored exactly, or refused; never approximated.

A value may be recorded when reading it back gives an equal value. So a resumed run is handed what the first one was.
"""

from __future__ import annotations

from typing import Any

import msgspec

from cascadenced.errors import CascadenceError
from cascadenced.events.base import Json

MAX_CONTENT_BYTES = 512 * 1024
MAX_CONTENT_DEPTH = 128
"""Far from the interpreter's recursion limit: what is stored must be readable from any depth of the stack."""
MAX_SHOWN_CHARS = 2048
MAX_KEY_SHOWN_CHARS = 40

_INT_MIN, _INT_MAX = -(2**63), 2**64 - 1
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

    Strings, numbers, booleans, None, lists, tuples and dicts with string keys pass; 64-bit integers; finite floats;
    up to MAX_CONTENT_DEPTH levels.
    """
    try:
        data = _encode(value)
        if len(data) > MAX_CONTENT_BYTES:
            raise TooLarge(f"{len(data)} bytes as JSON; {MAX_CONTENT_BYTES} are allowed")
        back = _decode(data)
        change = _change(value, back, 0)
    except TooLarge:
        raise
    except Exception as error:  # noqa: BLE001 -- the value's own methods run here, and a thread may be changing it
        raise Unserialisable(f"a value of type {type(value).__name__} cannot be JSON: {_text_of(error)}") from None
    if change:
        raise Unserialisable(f"value{change[0]} {change[1]}")
    return back


def _change(value: Any, back: Json, depth: int) -> tuple[str, str] | None:
    """(where, why) of the first difference between a value and what JSON made of it; None if there is none."""
    if depth > MAX_CONTENT_DEPTH:
        return "", f"is nested more than {MAX_CONTENT_DEPTH} deep"
    if isinstance(value, (list, tuple)) and isinstance(back, list):
        for i, (old, new) in enumerate(zip(value, back, strict=True)):
            if change := _change(old, new, depth + 1):
                return f"[{i}]{change[0]}", change[1]
    elif type(value) is dict and isinstance(back, dict):
        for key, old in value.items():
            if type(key) is not str:
                return "", f"has a key of type {type(key).__name__}; JSON keys are strings"
            if change := _change(old, back[key], depth + 1):
                return f".{key[:MAX_KEY_SHOWN_CHARS]}{change[0]}", change[1]
    elif type(value) is int and not _INT_MIN <= value <= _INT_MAX:
        return "", "is an integer of more than 64 bits"
    elif type(value) not in _SCALARS or value != back:
        return "", f"is a {type(value).__name__}, which JSON would change"
    return None


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 -- a hostile __str__ must not hide the error it belongs to
        return type(error).__name__


def shown(value: Json) -> str:
    """`repr(value)` as people see it."""
    return cut(repr(value))


def cut(text: str) -> str:
    """`text`, at most MAX_SHOWN_CHARS of it, with `...` at the end if there is more."""
    return text if len(text) <= MAX_SHOWN_CHARS else text[: MAX_SHOWN_CHARS - 3] + "..."
