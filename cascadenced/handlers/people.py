"""Who is named in one batch of messages. A pseudonym costs two hashes, and few people send most of a batch.

Raw ids stay in here, so nobody may keep it longer than the batch.
"""

from __future__ import annotations

from msgspec.structs import replace

from cascadenced.events.base import Context
from cascadenced.events.inbound import News, named
from cascadenced.identity import Identity, Pseudonyms, Redactor


class Person:
    """Somebody by pseudonym. context: of what they ask for.  redact: puts the pseudonyms in the place of their ids.
    kept: whether the vault is known to have the ids."""

    __slots__ = ("context", "group_hash", "identity", "kept", "redact", "user_hash")

    def __init__(self, identity: Identity, pseudonyms: Pseudonyms) -> None:
        self.identity = identity
        self.user_hash, self.group_hash = pseudonyms.user(identity.user_id), pseudonyms.group(identity.group_id)
        self.context = Context(user_hash=self.user_hash, group_hash=self.group_hash)
        self.redact = Redactor(identity, pseudonyms)
        self.kept = False

    def traced(self, traceparent: str | None) -> Context:
        """`context` as part of a trace."""
        return self.context if traceparent is None else replace(self.context, traceparent=traceparent)


class People:
    """The persons of one batch, each worked out once."""

    def __init__(self, pseudonyms: Pseudonyms) -> None:
        self._pseudonyms = pseudonyms
        self._persons: dict[Identity, Person] = {}

    def person(self, identity: Identity) -> Person:
        known = self._persons.get(identity)
        if known is None:
            known = self._persons[identity] = Person(identity, self._pseudonyms)
        return known

    def context(self, news: News) -> Context:
        """Whom `news` is about. A hash that came with it is taken as it is; a raw id counts only where there is none.

        The raw id itself is not kept: nothing will run as this user because of a fact.
        """
        user, group = news.user_hash, news.group_hash
        who = named(news)
        if who is not None:
            person = self.person(who)
            user = user or (news.user_id and person.user_hash)
            group = group or (news.group_id and person.group_hash)
        return Context(user_hash=user, group_hash=group)
