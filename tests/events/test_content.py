"""What a task returns is stored exactly, or refused with a reason; nothing else can happen."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import sys
import uuid
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascadenced.events.catalogue import decode, encode
from cascadenced.events.content import (
    MAX_CONTENT_BYTES,
    MAX_CONTENT_DEPTH,
    MAX_SHOWN_CHARS,
    TooLarge,
    Unserialisable,
    recordable,
    shown,
)
from cascadenced.events.stage import StageFinished
from tests.examples import example

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner),
    max_leaves=30,
)


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


class Colour(enum.Enum):
    RED = "red"


class Fruit(enum.StrEnum):
    PEAR = "pear"


class Size(enum.IntEnum):
    S = 1


class Name(str):
    __slots__ = ()


class Count(int):
    pass


class Weight(float):
    pass


@dataclasses.dataclass
class Point:
    x: int


class Shape(msgspec.Struct):
    x: int


class Pair(NamedTuple):
    left: int
    right: int


class Hostile:
    """Every method a curious caller might use raises."""

    def _raise(self, *_: object) -> Any:
        raise RuntimeError("hostile")

    __str__ = __repr__ = __eq__ = __hash__ = __bool__ = __len__ = __iter__ = __getstate__ = _raise


class HostileList(list):
    def __iter__(self) -> Any:
        raise RuntimeError("hostile")


class EvasiveList(list):
    def __iter__(self) -> Any:
        return iter([1, 2, 3, 4, 5])


class HostileKey(str):
    __slots__ = ()

    def __repr__(self) -> str:
        raise RuntimeError("hostile")

    __str__ = __repr__


class HostileError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("hostile")


@dataclasses.dataclass
class RaisesWhenRead:
    x: int = 1

    def __getattribute__(self, name: str) -> Any:
        if name in {"x", "__dict__"}:
            raise HostileError
        return object.__getattribute__(self, name)


CYCLE: list[Any] = []
CYCLE.append({"again": CYCLE})

PASSES = {
    "None": None,
    "a boolean": True,
    "a string": "Zoë 👋 \0 \u2028",
    "the largest integer": 2**64 - 1,
    "the smallest integer": -(2**63),
    "a large float": sys.float_info.max,
    "the smallest float": 5e-324,
    "minus zero": -0.0,
    "an empty list": [],
    "a mapping of everything": {"": [None, True, 1, 1.5, "a", {"b": {}}]},
}

REFUSED = {
    "an integer of 65 bits": 2**64,
    "an integer below 64 bits": -(2**63) - 1,
    "an enormous integer": 10**5000,
    "NaN": float("nan"),
    "infinity": [float("inf")],
    "bytes": b"abc",
    "a bytearray": bytearray(b"abc"),
    "a set": {1, 2},
    "a frozenset": frozenset({1}),
    "an integer key": {1: "a"},
    "a boolean key": {True: "a"},
    "a None key": {None: "a"},
    "a tuple key": {(1, 2): "a"},
    "an enum key": {Fruit.PEAR: 1},
    "a datetime": datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
    "a date": datetime.date(2026, 1, 1),
    "a timedelta": datetime.timedelta(seconds=1),
    "a Decimal": decimal.Decimal("1.1"),
    "a UUID": uuid.UUID(int=1),
    "a dataclass": Point(1),
    "a struct": Shape(1),
    "raw JSON": msgspec.Raw(b"1"),
    "raw rubbish": msgspec.Raw(b"{"),
    "an Enum": Colour.RED,
    "a StrEnum": Fruit.PEAR,
    "an IntEnum": Size.S,
    "a str of a class of its own": Name("a"),
    "an int of a class of its own": Count(1),
    "a float of a class of its own": Weight(1.0),
    "an OrderedDict": collections.OrderedDict(a=1),
    "a deque": collections.deque([1]),
    "a generator": (n for n in ()),
    "a class": Point,
    "a function": nested,
    "an object": object(),
    "half a surrogate pair": "\ud800",
    "half a surrogate pair in a key": {"\ud800": 1},
    "a value that contains itself": CYCLE,
    "an object whose every method raises": Hostile(),
    "a list that cannot be walked": HostileList([1]),
    "a list that shows other elements": EvasiveList([1]),
    "a key that cannot be shown": {HostileKey("a"): 1},
    "a dataclass that raises an error without text": RaisesWhenRead(),
    "something wrong deep inside": {"a": [{"b": ({"c": b"x"},)}]},
}


@pytest.mark.parametrize("value", PASSES.values(), ids=PASSES)
def test_json_values_pass(value: Any):
    assert recordable(value) == value


@pytest.mark.parametrize("value", REFUSED.values(), ids=REFUSED)
def test_what_json_would_change_is_refused(value: Any):
    with pytest.raises(Unserialisable):
        recordable(value)


@given(VALUES)
def test_any_json_value_passes_with_its_types(value: Any):
    back = recordable(value)
    assert repr(back) == repr(value)


@given(VALUES)
def test_what_passes_is_read_back_from_the_log(value: Any):
    assert decode(encode(example(StageFinished, output=recordable(value)))).output == value


def test_tuples_come_back_as_lists():
    assert recordable({"a": (1, (2, 3)), "b": ()}) == {"a": [1, [2, 3]], "b": []}


def test_named_tuples_come_back_as_lists():
    assert recordable(Pair(1, 2)) == [1, 2]


def test_what_is_recorded_is_a_copy():
    value = {"a": [1]}
    back = recordable(value)
    value["a"].append(2)
    assert back == {"a": [1]}


def test_a_refusal_says_where():
    with pytest.raises(Unserialisable, match=r"^value, at \.a\[1\]\.b, is of type bytes: JSON holds "):
        recordable({"a": [0, {"b": b"x"}]})


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (object(), " is of type object: JSON holds text, numbers,"),
        ({"a": [1, {2}]}, ", at .a[1], is of type set: JSON holds"),
        ({"a": {(1, 2): 3}}, ", at .a, has a key of type tuple"),
        ([1, 2**70], ", at [1], is an integer of more than 64 bits"),
        ({"a": "half a \ud800 pair"}, ", at .a, holds half of a surrogate pair"),
        ([float("nan")], ", at [0], is nan, which JSON would change"),
    ],
    ids=lambda each: type(each).__name__,
)
def test_a_refusal_names_the_value_and_what_in_it_cannot_be_recorded(value: Any, said: str):
    with pytest.raises(Unserialisable) as refused:
        recordable(value, "what run() returned")
    assert str(refused.value).startswith(f"what run() returned{said}")


def test_a_value_that_holds_itself_is_told_so():
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(Unserialisable, match=r"deep: does it hold itself\?$"):
        recordable(endless)


def test_what_is_too_large_is_named_with_a_way_out():
    with pytest.raises(TooLarge, match="^the note takes 524289 bytes as JSON; 524288 are allowed: keep it elsewhere"):
        recordable("x" * (MAX_CONTENT_BYTES - 1), "the note")


def test_a_refusal_is_short_even_when_keys_are_long():
    with pytest.raises(Unserialisable) as refused:
        recordable({"k" * 100_000: b"x"})
    assert len(str(refused.value)) < 200


def test_the_reason_code_names_the_result():
    with pytest.raises(Unserialisable) as refused:
        recordable(b"")
    assert refused.value.code == "result.unserialisable"


def test_content_of_exactly_the_bound_passes():
    value = "x" * (MAX_CONTENT_BYTES - 2)
    assert recordable(value) == value


def test_one_byte_more_is_too_large():
    with pytest.raises(TooLarge):
        recordable("x" * (MAX_CONTENT_BYTES - 1))


def test_size_is_counted_in_bytes_not_characters():
    with pytest.raises(TooLarge):
        recordable("é" * (MAX_CONTENT_BYTES // 2))


def test_size_is_counted_as_it_is_spelled():
    longest = "\0" * ((MAX_CONTENT_BYTES - 2) // 6)
    assert recordable(longest) == longest
    with pytest.raises(TooLarge):
        recordable(longest + "\0")


def test_the_deepest_allowed_nesting_passes():
    assert recordable(nested(MAX_CONTENT_DEPTH)) == nested(MAX_CONTENT_DEPTH)


@pytest.mark.parametrize("levels", [MAX_CONTENT_DEPTH + 1, 900, 995, 5_000, 100_000])
def test_deeper_nesting_is_refused(levels: int):
    with pytest.raises(Unserialisable):
        recordable(nested(levels))


def test_what_is_recorded_can_be_read_far_down_the_stack():
    data = encode(example(StageFinished, output=recordable(nested(MAX_CONTENT_DEPTH))))

    def read(levels_down: int) -> Any:
        return decode(data) if levels_down == 0 else read(levels_down - 1)

    assert read(500).output == nested(MAX_CONTENT_DEPTH)


@pytest.mark.parametrize("value", [None, 0, "it's", ["a", {"b": 1.5}]])
def test_an_output_is_shown_as_its_repr(value: Any):
    assert shown(value) == repr(value)


def test_a_long_output_is_cut():
    text = shown("x" * 10_000)
    assert (len(text), text[-4:]) == (MAX_SHOWN_CHARS, "x...")


def test_an_output_that_just_fits_is_not_cut():
    assert shown("x" * (MAX_SHOWN_CHARS - 2)) == repr("x" * (MAX_SHOWN_CHARS - 2))
