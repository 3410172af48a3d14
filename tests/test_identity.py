"""Raw ids become keyed pseudonyms, and stay out of what people read."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
import unicodedata
from urllib.parse import quote, quote_plus, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascadenced.errors import Invalid
from cascadenced.identity import MAX_ID_CHARS, SYSTEM, Identity, Pseudonyms, Redactor, checked, checked_hash

KEYED = Pseudonyms("a secret")
ANY_ID = st.text(
    st.characters(exclude_categories=["Cc", "Cs"]), min_size=4, max_size=40
)  # shorter ones are replaced only as words


# ---- what may be an id


@pytest.mark.parametrize(
    "value", ["a", "alice@example.com", "CORP\\alice", "日本", "a b", "x" * MAX_ID_CHARS, "ab" * 32]
)
def test_an_id_may_be_anything_printable_up_to_256_characters(value: str):
    assert checked(value, "user_id") == value


@pytest.mark.parametrize("value", [None, "", "x" * (MAX_ID_CHARS + 1), "a\nb", "a\0", "\x7f", "\x85", "\ud800"])
def test_an_empty_long_or_control_bearing_id_is_refused(value: str | None):
    with pytest.raises(Invalid):
        checked(value, "user_id")


@pytest.mark.parametrize("value", ["alice-the-unique\n", "alice-the-unique" * 20])
def test_a_refused_id_is_not_quoted(value: str):
    with pytest.raises(Invalid) as refused:
        checked(value, "user_id")
    assert "alice-the-unique" not in str(refused.value)


@pytest.mark.parametrize("value", ["", "ab" * 31, "AB" * 32, "ab" * 32 + "\n", "zz" * 32])
def test_only_64_lower_case_hex_digits_are_a_hash(value: str):
    with pytest.raises(Invalid):
        checked_hash(value, "user_hash")


# ---- pseudonyms


def test_compat_hashing_reproduces_the_predecessor_without_a_secret():
    pseudonyms = Pseudonyms("", compat_sha256=True)
    assert pseudonyms.user("alice") == "2bd806c97f0e00af1a1fc3328fa763a9269723c8db8fac4f93af71db186d6e90"


def test_compat_hashing_puts_the_secret_before_the_id():
    assert Pseudonyms("pepper", compat_sha256=True).user("alice") == hashlib.sha256(b"pepperalice").hexdigest()


def test_compat_hashing_hashes_groups_like_users():
    pseudonyms = Pseudonyms("pepper", compat_sha256=True)
    assert pseudonyms.group("alice") == pseudonyms.user("alice")


def test_a_pseudonym_is_the_hmac_of_domain_and_id():
    expected = hmac.new(b"a secret", b"cascadenced/user/1\0alice", hashlib.sha256).hexdigest()
    assert KEYED.user("alice") == expected


def test_a_user_and_a_group_of_the_same_name_have_different_pseudonyms():
    assert KEYED.user("eng") != KEYED.group("eng")


def test_another_secret_gives_other_pseudonyms():
    assert KEYED.user("alice") != Pseudonyms("another secret").user("alice")


def test_the_same_secret_gives_the_same_pseudonyms_elsewhere():
    assert KEYED.user("alice") == Pseudonyms("a secret").user("alice")


def test_both_unicode_spellings_of_a_name_have_one_pseudonym():
    assert KEYED.user("Zo\u00eb") == KEYED.user("Zoe\u0308")


def test_case_matters():
    assert KEYED.user("alice") != KEYED.user("Alice")


def test_a_pseudonym_used_as_an_id_is_hashed_again():
    pseudonym = KEYED.user("alice")
    assert KEYED.user(pseudonym) != pseudonym


# ---- redaction


def redact(text: str, user_id: str = "alice@example.com", group_id: str = "engineering") -> str:
    shown = Redactor(Identity(user_id, group_id), KEYED)(text)
    return shown.replace(KEYED.user(user_id), "<user>").replace(KEYED.group(group_id), "<group>")


def test_both_ids_are_replaced_by_their_pseudonyms():
    assert redact("alice@example.com of engineering failed") == "<user> of <group> failed"


def test_text_without_the_ids_stays_as_it_is():
    assert redact("boom at line 7") == "boom at line 7"


def test_ids_inside_other_words_are_replaced():
    assert redact("reengineering/alice@example.com.txt") == "re<group>/<user>.txt"


@pytest.mark.parametrize("user_id", ["a.*+?[x](y)|z^$", r"CORP\alice", "{}{0}%s", r"\1\g<0>", "(?!)"])
def test_characters_with_a_meaning_for_patterns_mean_nothing(user_id: str):
    assert redact(f"<{user_id}>", user_id) == "<<user>>"


def test_a_dot_in_an_id_stands_only_for_a_dot():
    assert redact("a.very.long.id aXveryXlongXid", "a.very.long.id") == "<user> aXveryXlongXid"


NAUGHTY = [
    "Zo\u00eb M\u00fcller",
    "O'Brien",
    'The "Boss"',
    """both ' and " quotes""",
    r"CORP\alice",
    "日本太郎",
    "wave 👋🏽",
    "a+b@x.y",
]
WRITINGS = {
    "as it is": str,
    "repr": repr,
    "repr beside both quotes": lambda raw: repr(f"{raw} ' \""),
    "ascii": ascii,
    "repr of a mapping": lambda raw: repr({"user_id": raw}),
    "JSON in ASCII": json.dumps,
    "JSON": lambda raw: json.dumps(raw, ensure_ascii=False),
    "URL path": lambda raw: quote(raw, safe=""),
    "URL query": lambda raw: urlencode({"user_id": raw}),
    "form": quote_plus,
    "NFC": lambda raw: unicodedata.normalize("NFC", raw),
    "NFD": lambda raw: unicodedata.normalize("NFD", raw),
    "repr of NFD": lambda raw: repr(unicodedata.normalize("NFD", raw)),
}


@pytest.mark.parametrize("writing", WRITINGS.values(), ids=WRITINGS)
@pytest.mark.parametrize("user_id", NAUGHTY)
def test_an_id_is_found_however_it_is_written(user_id: str, writing):
    assert "<user>" in redact(f"before {writing(user_id)} after", user_id)


def test_an_id_within_the_other_does_not_hide_it():
    assert redact("alice and alice-team", "alice", "alice-team") == "<user> and <group>"


def test_a_group_within_the_user_does_not_hide_it():
    assert redact("eng-alice and eng-", "eng-alice", "eng-") == "<user> and <group>"


def test_of_overlapping_ids_the_first_is_replaced_and_the_other_is_no_longer_whole():
    shown = redact("abcdefgh", "abcdef", "defgh")
    assert shown == "<user>gh"


def test_a_user_and_a_group_of_one_name_are_shown_as_the_user():
    assert redact("hello alice", "alice", "alice") == "hello <user>"


def test_a_short_id_is_replaced_as_a_word():
    assert redact("user 'a' and a, a_b", "a") == "user '<user>' and <user>, <user>_b"


def test_a_short_id_inside_a_word_stays():
    assert redact("a banana", "a") == "<user> banana"


def test_pseudonyms_are_not_redacted_in_turn():
    shown = Redactor(Identity("e", "eng"), KEYED)("e of eng")
    assert shown == f"{KEYED.user('e')} of {KEYED.group('eng')}"


def test_the_systems_own_name_is_not_an_identity():
    assert Redactor(SYSTEM, KEYED)("the file system is full: filesystem") == "the file system is full: filesystem"


@given(ANY_ID, st.text(max_size=30), st.text(max_size=30))
def test_no_id_of_four_or_more_characters_survives(user_id: str, before: str, after: str):
    redactor = Redactor(Identity(user_id, "engineering"), KEYED)
    shown = redactor(before + user_id + after)
    assert user_id not in shown.replace(KEYED.user(user_id), "\0").replace(KEYED.group("engineering"), "\0")


def test_an_id_made_of_backslashes_is_searched_in_linear_time():
    redactor = Redactor(Identity("\\" * MAX_ID_CHARS, "'\\" * (MAX_ID_CHARS // 2)), KEYED)
    started = time.process_time()
    redactor(("\\" * (MAX_ID_CHARS - 1) + "x" + "\\'" * 100) * 1000)
    assert time.process_time() - started < 2
