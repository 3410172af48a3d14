"""Bytes from outside → a JSON value, or BadMessage. Never used on the log's own bytes.

msgspec alone accepts duplicate keys, 30-digit integers and 100 levels, and raises RecursionError on more. The standard
library's parser calls us back for every object, integer and float, so what must be refused is refused while parsing;
the depth is bounded before, by counting brackets.

That costs 3 µs for a small object and 200 µs for 2.5 KiB. Most texts show more cheaply that they are in order: what
msgspec read from them is, written again, the same text but for white space. Then no key came twice, for only one of
them would have been written. That takes 1.1 µs and 40 µs; texts that are not the same are only spelled in another way
than msgspec's, or wrong, and are read the slow way.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, TypeVar

import msgspec

from cascadenced.errors import BadMessage
from cascadenced.events.base import Json

MAX_BYTES = 512 * 1024
MAX_DEPTH = 64

_INT_MIN, _INT_MAX = -(2**63), 2**64 - 1
_SPACE = b" \t\r\n"
_decode, _encode = msgspec.json.Decoder().decode, msgspec.json.Encoder().encode
_refuse_long_integers = msgspec.msgpack.Encoder().encode
"""MessagePack has no integers of more than 64 bits."""
# Nothing here is ever given back or tried twice: a string that does not end counts as one to the end of the text.
_STRING_OR_BRACKET = re.compile(r'"(?:[^"\\]++|\\.?)*+(?:"|\Z)|[\[\]{}]', re.DOTALL)

T = TypeVar("T")


def scan(data: bytes) -> Json:
    """The JSON value in `data`. Raises BadMessage with code too_large, too_deep or undecodable, whatever is wrong."""
    if len(data) > MAX_BYTES:
        raise BadMessage(f"{len(data)} bytes; {MAX_BYTES} are allowed", code="too_large")
    try:
        value = _decode(data)
        _refuse_long_integers(value)
        written = _encode(value)
        # Without white space in the strings either, for it changes neither what a string is nor how many there are.
        in_order = written.translate(None, _SPACE) == data.translate(None, _SPACE)
    except Exception:  # noqa: BLE001 -- whatever it was, the closer look has a reason for it
        in_order = False
    return value if in_order and not _is_deep(value, data) else _scan_closely(data)


def _scan_closely(data: bytes) -> Json:
    """`scan` of a text that is not too large."""
    try:
        text = data.decode()
        if text.count("[") + text.count("{") > MAX_DEPTH:
            _refuse_deep(text)
        value = _PARSER.decode(text)
        if "\\u" in text:
            _refuse_lone_surrogates(value)
    except BadMessage:
        raise
    except Exception as error:  # noqa: BLE001 -- RecursionError and UnicodeDecodeError included: all mean the same here
        raise BadMessage(f"not JSON: {_cause(error)}", code="undecodable") from None
    return value


def shaped(value: Json, shape: type[T]) -> T:
    """A scanned value as an instance of `shape`; BadMessage with code invalid if it does not fit."""
    if not isinstance(value, dict):
        raise BadMessage(f"a JSON object is expected, not {_kind(value)}", code="invalid")
    try:
        return msgspec.convert(value, shape)
    except msgspec.ValidationError as error:
        raise BadMessage(complaint(error, shape), code="invalid") from None


def complaint(error: msgspec.ValidationError, shape: type) -> str:
    """msgspec's words on fields that are there and should not be, or should be and are not, with what is meant."""
    what, _, where = str(error).partition(" - at `$")
    path = where.rstrip("`").removeprefix(".")
    within = f" in `{path}`" if path else ""
    if what.startswith("Object contains unknown field `"):
        name = what.split("`")[1]
        return f"there is no field `{name}`{within}" + ("" if path else _instead(name, shape))
    if what.startswith("Object missing required field `"):
        return f"the field `{what.split('`')[1]}` is missing{within}"
    if what.startswith("Expected ") and path:
        expected, _, got = what.removeprefix("Expected ").partition(", got ")
        return f"`{path}` must be {expected}" + (f", not {got}" if got else "")
    return str(error)


def _instead(name: str, shape: type) -> str:
    """What an unknown field may have been meant as."""
    from difflib import get_close_matches

    is_struct = isinstance(shape, type) and issubclass(shape, msgspec.Struct)
    known = [field.encode_name for field in msgspec.structs.fields(shape)] if is_struct else []
    near = get_close_matches(name, known, n=1)
    if near:
        return f"; did you mean `{near[0]}`?"
    return f"; there may be {', '.join(known)}" if known else "; there may be none"


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise BadMessage("an object has the same key twice", code="undecodable")
    return result


def _integer(digits: str) -> int:
    value = int(digits) if len(digits) <= 20 else _INT_MAX + 1
    if not _INT_MIN <= value <= _INT_MAX:
        raise BadMessage("an integer has more than 64 bits", code="undecodable")
    return value


def _float(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise BadMessage("a number is too large", code="undecodable")
    return value


def _constant(name: str) -> float:
    raise BadMessage(f"{name} is not JSON", code="undecodable")


_PARSER = json.JSONDecoder(object_pairs_hook=_object, parse_int=_integer, parse_float=_float, parse_constant=_constant)


def _is_deep(value: Json, data: bytes) -> bool:
    """Whether `value`, which was read from `data`, has more than MAX_DEPTH levels."""
    if data.count(b"[") + data.count(b"{") <= MAX_DEPTH or isinstance(value, str):
        return False
    level, n_levels = [value], 0  # arrays and objects of one depth
    while level and n_levels <= MAX_DEPTH:
        n_levels += 1
        level = [
            each
            for container in level
            for each in (container.values() if type(container) is dict else container)
            if type(each) is dict or type(each) is list
        ]
    return n_levels > MAX_DEPTH


def _refuse_deep(text: str) -> None:
    depth = 0
    for match in _STRING_OR_BRACKET.finditer(text):
        token = match.group()
        if token in "[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise BadMessage(f"nested more than {MAX_DEPTH} deep", code="too_deep")
        elif token in "]}":
            depth -= 1


def _refuse_lone_surrogates(value: Json) -> None:
    try:
        msgspec.json.encode(value)
    except UnicodeEncodeError:
        raise BadMessage("a string has half of a surrogate pair", code="undecodable") from None


def _cause(error: Exception) -> str:
    # The parser's own message may quote the document, so only what is wrong and where is kept.
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at character {error.pos}"
    if isinstance(error, UnicodeDecodeError):
        return f"invalid UTF-8 at byte {error.start}"
    return type(error).__name__


def _kind(value: Json) -> str:
    kinds: dict[type, str] = {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return kinds.get(type(value), "a number")
