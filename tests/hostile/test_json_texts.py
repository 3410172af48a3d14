"""Hundreds of JSON texts: taken or refused as they must be, by the program and by our own reading of the grammar."""

from __future__ import annotations

import pytest
from click import BadParameter
from hypothesis import given
from hypothesis import strategies as st

from cascadenced.commands.options import JsonObject
from cascadenced.errors import BadMessage
from cascadenced.events.strict import scan
from tests.hostile import grammar
from tests.hostile.json_texts import Text, every_text, values

TEXTS = every_text()
_BY_NAME = {"argvalues": TEXTS, "ids": [text.name for text in TEXTS]}


def refusal(data: bytes) -> str | None:
    try:
        scan(data)
    except BadMessage as error:
        return error.code
    return None


def test_there_are_enough_of_them_and_no_two_are_called_the_same() -> None:
    assert len(TEXTS) > 1000
    assert len({text.name for text in TEXTS}) == len(TEXTS)


@pytest.mark.parametrize("text", **_BY_NAME)
def test_a_text_is_taken_or_refused_as_it_must_be(text: Text) -> None:
    assert refusal(text.data) == text.reason


@pytest.mark.parametrize("text", **_BY_NAME)
def test_our_own_reading_of_the_grammar_says_the_same(text: Text) -> None:
    reasons = grammar.reasons(text.data)
    assert text.reason in reasons if text.reason else not reasons


@pytest.mark.parametrize("text", values(), ids=lambda text: text.name)
def test_the_command_line_takes_the_same_texts_and_refuses_the_others_in_words(text: Text) -> None:
    # As the interpreter hands over an argument that is no UTF-8.
    argument = b'{"k":' + text.data + b"}"
    spelled = argument.decode(errors="surrogateescape")
    if text.reason is None:
        assert JsonObject().convert(spelled, None, None) == scan(argument)
    else:
        with pytest.raises(BadParameter, match="A JSON object is expected"):
            JsonObject().convert(spelled, None, None)


FRAGMENTS = st.sampled_from(
    [text.data for text in values() if len(text.data) < 100] + [b"[", b"]", b"{", b"}", b",", b":"]
)


@given(st.lists(FRAGMENTS | st.binary(max_size=3), max_size=12).map(b"".join))
def test_whatever_is_put_together_the_program_and_the_grammar_agree(data: bytes) -> None:
    said, reasons = refusal(data), grammar.reasons(data)
    assert (said is None) == (not reasons)
    assert said is None or said in reasons
