"""Bytes from outside are a JSON value or BadMessage, whatever they are, and soon."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable
from typing import Annotated, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascadenced.errors import BadMessage
from cascadenced.events.strict import MAX_BYTES, MAX_DEPTH, _scan_closely, scan, shaped

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT
)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner), max_leaves=30)


def refusal(data: bytes) -> str:
    with pytest.raises(BadMessage) as refused:
        scan(data)
    return refused.value.code


ACCEPTED = {
    "null": (b"null", None),
    "true": (b"true", True),
    "a string": (b'"a"', "a"),
    "an empty object": (b"{}", {}),
    "an empty key": (b'{"":1}', {"": 1}),
    "white space around": (b" \t\r\n[1]\n", [1]),
    "minus zero": (b"-0", 0),
    "the largest integer": (b"18446744073709551615", 2**64 - 1),
    "the smallest integer": (b"-9223372036854775808", -(2**63)),
    "a float": (b"-1.5e3", -1500.0),
    "a float that rounds to zero": (b"1e-999", 0.0),
    "a large float": (b"1.7976931348623157e308", sys.float_info.max),
    "a float of many digits": (b"0." + b"3" * 5000, 1 / 3),
    "a surrogate pair": (rb'"\ud83d\ude00"', "\N{GRINNING FACE}"),
    "a surrogate pair in a key": (rb'{"\uD83D\uDE00":1}', {"\N{GRINNING FACE}": 1}),
    "an escaped backslash before u": (rb'"\\ud800"', r"\ud800"),
    "raw UTF-8": ('"Zoë 👋"'.encode(), "Zoë 👋"),
    "an escaped NUL": (rb'"\u0000"', "\0"),
    "DEL": (b'"\x7f"', "\x7f"),
    "every escape": (rb'"\"\\\/\b\f\n\r\t"', '"\\/\b\f\n\r\t'),
    "the same key in different objects": (b'[{"a":1},{"a":{"a":2}}]', [{"a": 1}, {"a": {"a": 2}}]),
    "keys of different case": (b'{"a":1,"A":2}', {"a": 1, "A": 2}),
    "brackets in a string": (b'"' + b"[{" * 1000 + b'"', "[{" * 1000),
    "brackets after an escaped quote": (rb'"\"' + b"[" * 1000 + b'"', '"' + "[" * 1000),
    "many shallow arrays": (b"[" + b"[]," * 999 + b"[]]", [[]] * 1000),
}


@pytest.mark.parametrize(("data", "value"), ACCEPTED.values(), ids=ACCEPTED)
def test_accepted(data: bytes, value: object):
    assert scan(data) == value


UNDECODABLE = {
    "nothing": b"",
    "white space": b" \n\t ",
    "a word": b"hello",
    "a half object": b'{"a":',
    "a half string": b'"abc',
    "a lone quote": b'"',
    "a lone backslash": b"\\",
    "a string that ends in a backslash": b'"\\',
    "a trailing comma": b"[1,]",
    "something after the value": b"{} {}",
    "a closing bracket too many": b"[]]",
    "only closing brackets": b"]" * 1000,
    "crossed brackets": b"[}" * 100,
    "single quotes": b"{'a':1}",
    "a comment": b"/**/1",
    "a key without quotes": b"{a:1}",
    "a key twice": b'{"a":1,"a":1}',
    "a key twice further in": b'[{"b":{"a":1,"c":0,"a":2}}]',
    "a key twice, once escaped": rb'{"a":1,"\u0061":2}',
    "the empty key twice": b'{"":1,"":2}',
    "NaN": b"NaN",
    "Infinity": b"[Infinity]",
    "-Infinity": b"-Infinity",
    "a float beyond all floats": b"1e999",
    "a negative float beyond all floats": b"-1e999",
    "a float with a huge exponent": b"1e" + b"9" * 5000,
    "an integer of 65 bits": b"18446744073709551616",
    "an integer below 64 bits": b"-9223372036854775809",
    "an integer of 5000 digits": b"1" * 5000,
    "a negative integer of 5000 digits": b"-" + b"1" * 5000,
    "a leading zero": b"01",
    "a leading plus": b"+1",
    "a lone minus": b"-",
    "a number without a fraction": b"1.",
    "hexadecimal": b"0x10",
    "half a pair in a value": rb'"\ud800"',
    "the other half in a value": rb'["\udc00"]',
    "two halves the wrong way round": rb'"\ude00\ud83d"',
    "half a pair in a key": rb'{"\ud800":1}',
    "half a pair deep in a key": rb'[{"a":{"x\udfff":null}}]',
    "half a pair before text": rb'"\ud83dabc"',
    "a surrogate in raw UTF-8": b'"\xed\xa0\x80"',
    "a broken UTF-8 sequence": b'"\xc3("',
    "an overlong UTF-8 sequence": b'"\xc0\xaf"',
    "Latin-1": '"Zoë"'.encode("latin-1"),
    "UTF-16": '{"a":1}'.encode("utf-16"),
    "UTF-16 without a mark": '{"a":1}'.encode("utf-16-le"),
    "UTF-32": '{"a":1}'.encode("utf-32"),
    "a byte order mark": b"\xef\xbb\xbf{}",
    "a raw newline in a string": b'"a\nb"',
    "a raw NUL in a string": b'"a\0b"',
    "a raw NUL after the value": b"{}\0",
    "an unknown escape": rb'"\x41"',
    "a short escape": rb'"\u41"',
    "protobuf": b"\x0a\x07example\x12\x05alice",
    "a no-break space around": "\u00a01".encode(),
}


@pytest.mark.parametrize("data", UNDECODABLE.values(), ids=UNDECODABLE)
def test_refused_as_undecodable(data: bytes):
    assert refusal(data) == "undecodable"


def test_a_message_of_exactly_the_bound_is_accepted():
    assert scan(b'"' + b"x" * (MAX_BYTES - 2) + b'"') == "x" * (MAX_BYTES - 2)


def test_one_byte_more_is_too_large():
    assert refusal(b'"' + b"x" * (MAX_BYTES - 1) + b'"') == "too_large"


@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}"), (b'[{"a":', b"}]")])
def test_the_deepest_allowed_nesting_is_accepted(opening: bytes, closing: bytes):
    n = MAX_DEPTH // (opening.count(b"[") + opening.count(b"{"))
    assert scan(opening * n + b"1" + closing * n)


def test_one_level_more_is_too_deep():
    assert refusal(b"[" * (MAX_DEPTH + 1) + b"1" + b"]" * (MAX_DEPTH + 1)) == "too_deep"


def test_depth_counts_where_it_is_deepest():
    deep = b"[" * MAX_DEPTH + b"1" + b"]" * MAX_DEPTH
    assert refusal(b"[" + deep + b"]") == "too_deep"


def test_brackets_in_strings_do_not_count():
    text = rb'"[[[{{{\"[[[\\"'
    assert scan(b"[" * MAX_DEPTH + text + b"]" * MAX_DEPTH)


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
def test_a_hundred_thousand_levels_are_too_deep(opening: bytes):
    assert refusal(opening * 100_000) == "too_deep"


def _sized(unit: bytes, before: bytes = b"", after: bytes = b"") -> bytes:
    return before + unit * ((MAX_BYTES - len(before) - len(after)) // len(unit)) + after


MANY = b"[]" * 65  # enough brackets to make the scanner look for the depth
ADVERSARIAL = {
    "quotes": _sized(b'"'),
    "quotes after brackets": _sized(b'"', MANY),
    "escaped quotes without an end": _sized(rb"\"", MANY + b'"'),
    "backslashes without an end": _sized(b"\\", MANY + b'"'),
    "an odd number of backslashes": _sized(b"\\\\", MANY + b'"', b"\\"),
    "a string without an end": _sized(b"a", MANY + b'"'),
    "strings without an end between brackets": _sized(rb'["\"', b""),
    "opening brackets": _sized(b"["),
    "closing brackets": _sized(b"]", MANY),
    "brackets in one string": _sized(b"[{", b'"', b'"'),
    "escapes": _sized(rb"\u0041", b'"', b'"'),
    "high surrogates": _sized(rb"\ud800", b'"', b'"'),
    "short strings": _sized(b'"",', b"[" + MANY[:2] + b",", b"1]"),
    "empty objects": _sized(b"{},", b"[", b"1]"),
    "digits": _sized(b"1"),
    "digits after the point": _sized(b"0", b"1.", b"1"),
    "digits in the exponent": _sized(b"9", b"1e"),
    "white space": _sized(b" "),
    "commas": _sized(b",", b"["),
    "distinct keys": b"{" + b",".join(b'"%x":1' % n for n in range(50_000)) + b"}",
}


@pytest.mark.parametrize("data", ADVERSARIAL.values(), ids=ADVERSARIAL)
def test_half_a_mebibyte_of_malice_is_answered_quickly(data: bytes):
    started = time.process_time()
    with contextlib.suppress(BadMessage):
        scan(data)
    assert time.process_time() - started < 0.5  # 0.05 s on the machine of the writer


@given(st.binary(max_size=200))
def test_any_bytes_are_a_value_or_a_bad_message(data: bytes):
    _value_or_bad_message(data)


@given(st.text(alphabet='[]{}",:\\u0dDe1-+.nultrfasNI \n\x00é', max_size=200))
def test_anything_like_json_is_a_value_or_a_bad_message(text: str):
    _value_or_bad_message(text.encode())


def _value_or_bad_message(data: bytes) -> None:
    try:
        value = scan(data)
    except BadMessage:
        return
    assert msgspec.json.decode(msgspec.json.encode(value)) == value


@given(VALUES, st.booleans())
def test_any_json_value_within_the_limits_is_read_equal(value: object, ascii_only: bool):
    assert scan(json.dumps(value, ensure_ascii=ascii_only).encode()) == value


@given(VALUES)
def test_what_is_accepted_can_be_stored(value: object):
    back = msgspec.json.decode(msgspec.json.encode(scan(json.dumps(value).encode())))
    assert back == value


def _outcome(read: Callable[[bytes], object], data: bytes) -> tuple[str, str]:
    try:
        return "a value", repr(read(data))
    except BadMessage as refused:
        return refused.code, str(refused)


SHORT = [data for data, _ in ACCEPTED.values()] + list(UNDECODABLE.values())
MUTATIONS = st.tuples(
    st.floats(0, 1), st.integers(0, 2), st.sampled_from([b"", b" ", b'"', b"1", b"\\", b"\xff", b"]"])
)


@pytest.mark.parametrize("data", SHORT, ids=[*ACCEPTED, *UNDECODABLE])
def test_a_first_look_accepts_nothing_that_a_closer_one_does_not(data: bytes):
    assert _outcome(scan, data) == _outcome(_scan_closely, data)


@given(
    VALUES, st.booleans(), st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", "\t:")]), st.lists(MUTATIONS, max_size=2)
)
def test_a_first_look_and_a_closer_one_agree(
    value: object, ascii_only: bool, separators: tuple[str, str], mutations: list[tuple[float, int, bytes]]
):
    data = json.dumps(value, ensure_ascii=ascii_only, separators=separators).encode()
    for where, n_gone, new in mutations:
        at = int(where * len(data))
        data = data[:at] + new + data[at + n_gone :]
    assert _outcome(scan, data) == _outcome(_scan_closely, data)


SECRET = "alice-the-unique"


@pytest.mark.parametrize(
    "data",
    [
        b'{"user_id":"alice-the-unique"',
        b'{"alice-the-unique":1,"alice-the-unique":2}',
        b'["alice-the-unique\n"]',
        b'"alice-the-unique\xff"',
        rb'"alice-the-unique\ud800"',
        b"alice-the-unique",
        b"[" * 65 + b'"alice-the-unique"',
        b'"' + b"alice-the-unique" * 40_000 + b'"',
    ],
)
def test_a_refusal_does_not_quote_the_message(data: bytes):
    with pytest.raises(BadMessage) as refused:
        scan(data)
    assert SECRET not in str(refused.value)
    assert refused.value.__cause__ is None
    assert refused.value.__suppress_context__ or refused.value.__context__ is None


class Point(msgspec.Struct):
    x: int
    y: int = 0


def test_an_object_of_the_shape_is_converted():
    assert shaped(scan(b'{"x":1,"unknown":true}'), Point) == Point(1)


@pytest.mark.parametrize("data", [b"{}", b'{"x":"1"}', b'{"x":null}', b'{"x":true}', b'{"x":1.5}'])
def test_an_object_of_another_shape_is_invalid(data: bytes):
    with pytest.raises(BadMessage) as refused:
        shaped(scan(data), Point)
    assert refused.value.code == "invalid"


@pytest.mark.parametrize(
    ("value", "kind"),
    [(None, "null"), ([], "an array"), ("a", "a string"), (True, "a boolean"), (1, "a number"), (1.5, "a number")],
)
def test_what_is_no_object_is_named(value: object, kind: str):
    with pytest.raises(BadMessage, match=f"a JSON object is expected, not {kind}"):
        shaped(value, Point)


class _Inner(msgspec.Struct, forbid_unknown_fields=True):
    n: int = 0


class _Shape(msgspec.Struct, forbid_unknown_fields=True):
    args: dict[str, int] = {}
    inner: _Inner | None = None
    task: str = msgspec.field(name="job", default="")


class _Needy(msgspec.Struct):
    user_id: str


class _Bounded(msgspec.Struct):
    count: Annotated[int, msgspec.Meta(ge=1)]


class _Empty(msgspec.Struct, forbid_unknown_fields=True):
    pass


@pytest.mark.parametrize(
    ("value", "shape", "says"),
    [
        ({"arg": {}}, _Shape, "there is no field `arg`; did you mean `args`?"),
        ({"number": 7}, _Shape, "there is no field `number`; there may be args, inner, job"),
        ({"inner": {"m": 1}}, _Shape, "there is no field `m` in `inner`"),
        ({"x": 7}, _Empty, "there is no field `x`; there may be none"),
        ({}, _Needy, "the field `user_id` is missing"),
        ({"count": 0}, _Bounded, "`count` must be `int` >= 1"),
        ({"args": 7}, _Shape, "`args` must be `object`, not `int`"),
    ],
)
def test_a_field_that_is_not_known_or_missing_is_told_with_what_may_be_meant(value: Any, shape: type, says: str):
    with pytest.raises(BadMessage) as caught:
        shaped(value, shape)
    assert (str(caught.value), caught.value.code) == (says, "invalid")
