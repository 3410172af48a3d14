"""One stream of the double: messages by sequence, and which ids were seen in the last two minutes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

import msgspec

from cascadenced.bus.base import DUPLICATE_WINDOW_S
from cascadenced.bus.marks import Kept, Seen, StreamMarks
from cascadenced.clock import Clock


class Stored:
    """One message of a stream. in_hand: somebody fetched it, has not ended it, and the broker is still patient."""

    __slots__ = ("at_us", "data", "headers", "in_hand", "n_delivered", "seq", "stream", "subject")

    def __init__(
        self, stream: str, seq: int, at_us: int, subject: str, data: bytes, headers: Mapping[str, str]
    ) -> None:
        self.stream, self.seq, self.at_us = stream, seq, at_us
        self.subject, self.data, self.headers = subject, data, dict(headers)
        self.n_delivered = 0
        self.in_hand = False


class Stream:
    """Messages by sequence, oldest first, at most `max_messages`. A full work queue refuses, another stream forgets."""

    def __init__(self, name: str, max_messages: int, *, work_queue: bool, created: int) -> None:
        self.name, self.work_queue, self.created = name, work_queue, created
        self._max_messages = max_messages
        self.end = 0
        self.messages: OrderedDict[int, Stored] = OrderedDict()
        self.known_ids: OrderedDict[str, float] = OrderedDict()

    def store(self, clock: Clock, subject: str, data: bytes, headers: Mapping[str, str]) -> Stored | None:
        """None for a message id seen in the last two minutes, and when refused."""
        now = clock.monotonic()
        while self.known_ids and next(iter(self.known_ids.values())) <= now - DUPLICATE_WINDOW_S:
            self.known_ids.popitem(last=False)
        message_id = headers.get("Nats-Msg-Id")
        if (self.full and self.work_queue) or message_id in self.known_ids:
            return None
        if message_id:
            self.known_ids[message_id] = now
        if self.full:
            self.messages.popitem(last=False)
        self.end += 1
        stored = Stored(self.name, self.end, clock.now_us(), subject, data, headers)
        self.messages[stored.seq] = stored
        return stored

    @property
    def full(self) -> bool:
        return len(self.messages) >= self._max_messages

    def holds(self, stored: Stored) -> bool:
        return self.messages.get(stored.seq) is stored

    def drop(self, stored: Stored) -> None:
        """It is gone, and so is its id."""
        del self.messages[stored.seq]
        self.known_ids.pop(stored.headers.get("Nats-Msg-Id", ""), None)

    def at(self, seq: int) -> Kept | None:
        found = self.messages.get(seq)
        return None if found is None else Kept(found.at_us, found.headers.get("Nats-Msg-Id", ""))

    def seen(self, known: StreamMarks, own_seq: int, max_age_us: int) -> Seen:
        first = next(iter(self.messages.values()), None)
        return Seen(
            name=self.name,
            created=self.created,
            first_seq=first.seq if first else self.end + 1,
            end=self.end,
            n_messages=len(self.messages),
            full=self.full,
            max_age_us=max_age_us,
            oldest_at_us=first.at_us if first else 0,
            own=self.at(own_seq),
            read=self.at(known.read_seq),
        )

    def known_as(self, known: StreamMarks) -> StreamMarks:
        return msgspec.structs.replace(known, created=self.created, end=self.end, n_messages=len(self.messages))
