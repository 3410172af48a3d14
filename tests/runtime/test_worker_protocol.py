"""Frames between the daemon and a worker: cut anywhere, they are read as they were written."""

from __future__ import annotations

from contextlib import suppress
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascadenced.pipeline.policy import Limits
from cascadenced.runtime import worker_protocol as protocol
from cascadenced.runtime.worker_protocol import (
    MAX_FRAME_BYTES,
    Answered,
    Close,
    FromWorker,
    Go,
    Open,
    Raised,
    Recorded,
    Refusal,
    Returned,
    StageCall,
    Suspend,
    TaskSource,
    ToWorker,
    Unframer,
    framed,
)

TO_WORKER: list[ToWorker] = [
    Open(source=TaskSource("m", "C.D"), limits=Limits(cpu_s=1), path=("/a", "b"), pythonpath=None),
    StageCall(stage="run"),
    StageCall(stage="run", argument=None),
    StageCall(stage="run", argument={"a": [1.5, "é"]}, attributes={"user_id": "alice", "context": []}),
    Answered(id=1, answer=Recorded(None)),
    Answered(id=2, answer=Recorded([1])),
    Answered(id=3, answer=Go()),
    Answered(id=4, answer=Suspend()),
    Answered(id=5, answer=Refusal("Invalid", "code", "text")),
    Close(),
]


@given(st.lists(st.sampled_from(TO_WORKER)), st.lists(st.integers(0, 10_000)))
def test_messages_are_the_same_wherever_they_are_cut(messages: list[Any], cuts: list[int]) -> None:
    data = b"".join(map(framed, messages))
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    unframer = Unframer(ToWorker)
    pieces = [data[start:end] for start, end in pairwise(places)]
    assert [message for piece in pieces for message in unframer.feed(piece)] == messages


def test_an_argument_that_is_none_is_not_no_argument() -> None:
    [message] = Unframer(ToWorker).feed(framed(StageCall(stage="run", argument=None)))
    assert message.argument is None
    [message] = Unframer(ToWorker).feed(framed(StageCall(stage="run")))
    assert message.argument is msgspec.UNSET


def test_messages_before_a_broken_one_are_read() -> None:
    messages = Unframer(FromWorker).feed(framed(Returned(value=1)) + b"\0\0\0\1x" + framed(Returned(value=2)))
    assert next(messages) == Returned(value=1)
    with pytest.raises(ValueError, match="not a message"):
        next(messages)


def test_what_is_too_long_is_neither_written_nor_waited_for() -> None:
    with pytest.raises(ValueError, match="are allowed"):
        framed(Raised(error_type="E", text="x" * MAX_FRAME_BYTES))
    with pytest.raises(ValueError, match="are allowed"):
        list(Unframer(FromWorker).feed((MAX_FRAME_BYTES + 1).to_bytes(4)))


@given(st.binary(max_size=200))
def test_bytes_that_are_no_messages_are_refused_in_one_way(data: bytes) -> None:
    with suppress(ValueError):
        assert all(isinstance(message, msgspec.Struct) for message in Unframer(FromWorker).feed(data))


def test_every_message_says_what_it_is_in_a_word_of_its_own() -> None:
    kinds = [kind for kind in vars(protocol).values() if isinstance(kind, type) and issubclass(kind, msgspec.Struct)]
    tags = [
        kind.__struct_config__.tag for kind in kinds if kind.__struct_config__.tag_field and kind.__name__[0] != "_"
    ]
    assert len(tags) == len(set(tags)) >= 18
