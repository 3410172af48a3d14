"""Users' values and JSON: results, arguments, outputs. Stored exactly, or refused; never approximated.

A value may be recorded when reading it back gives an equal value. So a resumed run is handed what the first one was.
What is shown of users' objects is text of our own: cut, encodable, and no subclass of str with methods of its own.
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
MAX_READ_CHARS = 64 * 1024
"""Of a text that is to be shown: more of it is not even looked at."""
MAX_KEY_SHOWN_CHARS = 40
MAX_PATH_CHARS = 80
"""Of where in a value something is."""

_INT_MIN, _INT_MAX = -(2**63), 2**64 - 1
_SHORT = MAX_CONTENT_BYTES // 6 - 2
"""Characters of a text that is not too large, whatever it is spelled with: escaped, a character has six bytes."""
_SCALARS = (str, int, float, bool, type(None))
_JSON_HOLDS = "JSON holds text, numbers, true, false, None, lists, and dicts with text as keys"
_MAX_LINEAGE = 32
_MAX_CLASS_CHARS = 200
_name_of = type.__dict__["__name__"].__get__
_mro_of = type.__dict__["__mro__"].__get__
_module_of = type.__dict__["__module__"].__get__
_qualname_of = type.__dict__["__qualname__"].__get__
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


class Unserialisable(CascadenceError):
    """A result or argument that JSON cannot hold without changing it."""

    code = "result.unserialisable"


class TooLarge(CascadenceError):
    """A result or argument of more than MAX_CONTENT_BYTES as JSON."""

    code = "result.too_large"


def recordable(value: Any, what: str = "value") -> Json:
    """`value` as it will be read back: equal to it, tuples as lists. Raises Unserialisable or TooLarge.

    Strings, numbers, booleans, None, lists, tuples and dicts with string keys pass; 64-bit integers; finite floats;
    up to MAX_CONTENT_DEPTH levels.

    what: the value's name in the error, which also says where in it the trouble is.
    """
    if value is None or type(value) is bool or (type(value) is str and len(value) <= _SHORT and value.isascii()):
        return value  # what most stages put out, and JSON changes nothing in it
    try:
        data = _encode(value)
        if len(data) > MAX_CONTENT_BYTES:
            raise TooLarge(
                f"{what} takes {len(data)} bytes as JSON; {MAX_CONTENT_BYTES} are allowed: "
                "keep it elsewhere, and here only where it is"
            )
        back = _decode(data)
        change = _change(value, back, 0)
    except TooLarge:
        raise
    except Exception as error:  # noqa: BLE001 -- the value's own methods run here, and a thread may be changing it
        change = _stray(value) or ("", f"is of type {type_name(value)}, which cannot be JSON: {text_of(error)}")
        raise _unserialisable(what, change) from None
    if change:
        raise _unserialisable(what, change)
    return back


def _unserialisable(what: str, change: tuple[str, str]) -> Unserialisable:
    where, why = change
    return Unserialisable(f"{what}, at {cut(where, MAX_PATH_CHARS)}, {why}" if where else f"{what} {why}")


def own_copy(value: Json) -> Json:
    """`value`, which is JSON, for somebody to do with as they like."""
    return _decode(_encode(value)) if type(value) in (dict, list) else value


def _stray(value: Any) -> tuple[str, str] | None:
    """(where, why) of the first thing in a value that JSON has no form for; None if it is something else."""
    try:
        return _strayed(value, 0)
    except Exception:  # noqa: BLE001 -- as above
        return None


def _strayed(value: Any, depth: int) -> tuple[str, str] | None:
    if depth > MAX_CONTENT_DEPTH:
        return "", f"is nested more than {MAX_CONTENT_DEPTH} deep: does it hold itself?"
    if isinstance(value, (list, tuple)):
        for i, each in enumerate(value):
            if found := _strayed(each, depth + 1):
                return f"[{i}]{found[0]}", found[1]
    elif type(value) is dict:
        for key, each in value.items():
            if type(key) is not str:
                return "", f"has a key of type {type_name(key)}; JSON keys are strings"
            if found := _strayed(each, depth + 1):
                return f".{key[:MAX_KEY_SHOWN_CHARS]}{found[0]}", found[1]
    elif type(value) is int and not _INT_MIN <= value <= _INT_MAX:
        return "", "is an integer of more than 64 bits"
    elif type(value) not in _SCALARS:
        return "", f"is of type {type_name(value)}: {_JSON_HOLDS}"
    elif type(value) is str and plain(value) != value[: MAX_READ_CHARS + 1]:
        return "", "holds half of a surrogate pair, for which there are no bytes"
    return None


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
                return "", f"has a key of type {type_name(key)}; JSON keys are strings"
            if change := _change(old, back[key], depth + 1):
                return f".{key[:MAX_KEY_SHOWN_CHARS]}{change[0]}", change[1]
    elif type(value) is int and not _INT_MIN <= value <= _INT_MAX:
        return "", "is an integer of more than 64 bits"
    elif type(value) not in _SCALARS:
        return "", f"is of type {type_name(value)}: {_JSON_HOLDS}"
    elif value != back:
        return "", f"is {value!r:.40}, which JSON would change"
    return None


def type_name(value: object) -> str:
    """The name of its class; not asked of the class itself, whose metaclass may have code of its own for that."""
    return plain(_name_of(type(value)))


def text_of(error: BaseException) -> str:
    """`str(error)`, or what can be said instead: never empty, never raising."""
    try:
        return plain(str(error)) or type_name(error)
    except BaseException:  # noqa: BLE001 -- a hostile __str__ is still only an error of its own
        return f"{type_name(error)} (its text cannot be shown)"


def partial_of(error: BaseException) -> tuple[Json, str | None]:
    """What the exception carried as `.partial`: as content if it can be, in any case as text. Raises nothing, but takes
    as long as the task's own code takes."""
    try:
        partial = getattr(error, "partial", None)
        if partial is None:
            return None, None
        text = plain(repr(partial))
    except BaseException:  # noqa: BLE001 -- the task's own code once more
        return None, None
    try:
        return recordable(partial), text
    except BaseException:  # noqa: BLE001 -- it cannot be content, or its methods are the task's
        return None, text


def lineage_of(error: BaseException) -> tuple[str, ...]:
    """Names of its classes, `module:qualname`, its own first; not asked of them either. Empty if one has none."""
    try:
        kinds = _mro_of(type(error))[:_MAX_LINEAGE]
        return tuple(plain(f"{_module_of(kind)}:{_qualname_of(kind)}")[:_MAX_CLASS_CHARS] for kind in kinds)
    except BaseException:  # noqa: BLE001 -- a __module__ that is none
        return ()


def plain(text: str) -> str:
    """The beginning of `text`, up to one more than MAX_READ_CHARS, as a str and nothing else.

    Halves of surrogate pairs, for which UTF-8 has no bytes, are spelled out.
    """
    beginning = str.__getitem__(text, slice(MAX_READ_CHARS + 1))
    return str.encode(beginning, errors="backslashreplace").decode()


def shown(value: Json) -> str:
    """`repr(value)` as people see it."""
    return cut(repr(value))


def cut(text: str, max_chars: int = MAX_SHOWN_CHARS) -> str:
    """`text`, at most `max_chars` of it, with `...` at the end if there is more."""
    return text if len(text) <= max_chars else text[: max_chars - 3] + "..."
