"""Who is named in one batch of messages."""

from __future__ import annotations

from typing import Any

import pytest

from cascadenced.events.base import Context
from cascadenced.events.inbound import RecordIdea
from cascadenced.handlers.people import People
from cascadenced.identity import Identity, Pseudonyms
from cascadenced.ids import GroupHash, UserHash
from tests.doubles import ALICE, BOB, PSEUDONYMS

ALICE_HASH, ENG_HASH = PSEUDONYMS.user("alice"), PSEUDONYMS.group("eng")
THEIRS = "e" * 64


class Counting(Pseudonyms):
    """Counts how often an id is hashed."""

    n_hashed = 0

    def user(self, user_id: str) -> UserHash:
        self.n_hashed += 1
        return super().user(user_id)

    def group(self, group_id: str) -> GroupHash:
        self.n_hashed += 1
        return super().group(group_id)


def test_each_person_of_a_batch_is_hashed_once() -> None:
    pseudonyms = Counting("a secret")
    people = People(pseudonyms)
    for who in (ALICE, BOB, Identity("alice", "eng"), BOB):
        people.person(who)
    assert pseudonyms.n_hashed == 4
    assert people.person(ALICE) is not people.person(Identity("alice", "ops"))


def test_a_person_is_known_by_pseudonyms_and_taken_out_of_texts() -> None:
    alice = People(PSEUDONYMS).person(ALICE)
    assert alice.context == Context(user_hash=ALICE_HASH, group_hash=ENG_HASH)
    assert alice.redact("alice/7") == f"{ALICE_HASH}/7"
    assert alice.traced(None) is alice.context
    assert alice.traced("00-1").traceparent == "00-1"
    assert (alice.traced("00-1").user_hash, alice.context.traceparent) == (ALICE_HASH, None)


@pytest.mark.parametrize(
    ("about", "context"),
    [
        ({}, Context()),
        ({"user_id": "alice"}, Context(user_hash=ALICE_HASH)),
        ({"group_id": "eng"}, Context(group_hash=ENG_HASH)),
        ({"user_id": "alice", "group_id": "eng"}, Context(user_hash=ALICE_HASH, group_hash=ENG_HASH)),
        ({"user_id": "alice", "user_hash": THEIRS}, Context(user_hash=THEIRS)),
        ({"user_hash": THEIRS, "group_id": "eng"}, Context(user_hash=THEIRS, group_hash=ENG_HASH)),
        ({"user_hash": THEIRS, "group_hash": THEIRS}, Context(user_hash=THEIRS, group_hash=THEIRS)),
    ],
)
def test_a_hash_that_came_with_news_is_taken_as_it_is_and_an_id_only_where_there_is_none(
    about: dict[str, Any], context: Context
) -> None:
    nobody = {"user_id": None, "user_hash": None, "group_id": None, "group_hash": None}
    assert People(PSEUDONYMS).context(RecordIdea(text="x", **{**nobody, **about})) == context
