"""By what streams are known again after a break, and what it means when they are not. Pure.

A broker that lost the end of a stream gives its sequences out a second time, and an old consumer skips what is new
under them; so of each stream we remember where it ended and one message that we have read, and of our own messages the
last one that was confirmed. What went missing in the middle leaves these as they are: that takes a look at every
message (`Doubt` says when it is worth it).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import msgspec

NO_SERVER = 1
"""In the place of a server's digest, which has 63 bits: no server is the one that these marks are of."""


class StreamMarks(msgspec.Struct, frozen=True, kw_only=True):
    """What is remembered of one stream; 0 for what is not known.

    created: digest of its creation time.  end: its highest sequence.  n_messages: how many it held then.
    read_seq, read_at_us: a message that was delivered to us, and its broker time.
    consumers: a bit for each of our consumers that was there.  used: a bit for each that had delivered something.
    """

    created: int = 0
    end: int = 0
    n_messages: int = 0
    read_seq: int = 0
    read_at_us: int = 0
    consumers: int = 0
    used: int = 0


class Marks(msgspec.Struct, frozen=True, kw_only=True):
    """What is remembered of the broker. Whoever opens a bus stores them now and then, and opens the next one with them;
    older ones only notice less.

    own_seq, own_id, own_at_us: our last confirmed message: where, a digest of its id, when by our clock.
    server: digest of the id that the server drew at its start.
    """

    events: StreamMarks = StreamMarks()
    runs: StreamMarks = StreamMarks()
    own_seq: int = 0
    own_id: int = 0
    own_at_us: int = 0
    server: int = 0

    def after_storing(self, seq: int, message_id: str, now_us: int) -> Marks:
        """The stream of events has confirmed this message of ours."""
        if seq <= self.own_seq:
            return self
        return msgspec.structs.replace(self, own_seq=seq, own_id=digest(message_id), own_at_us=now_us)

    def after_reading(self, seq: int, at_us: int, *, is_event: bool) -> Marks:
        """This message was delivered to us. is_event: from the stream of events, else from that of run requests."""
        known = self.events if is_event else self.runs
        if seq <= known.read_seq:
            return self
        known = msgspec.structs.replace(known, read_seq=seq, read_at_us=at_us)
        return msgspec.structs.replace(self, **{"events" if is_event else "runs": known})


class Kept(msgspec.Struct, frozen=True):
    """The message that a stream has at a sequence."""

    at_us: int
    message_id: str


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """A stream as it is now.

    full: it drops its oldest messages for want of room.  selective: it drops others as well, see `base.Storage`.
    max_age_us: after which it drops them anyway, 0: never.
    oldest_at_us: broker time of its first message.  own, read: what it has at the sequences of those marks.
    """

    name: str
    created: int
    first_seq: int
    end: int
    n_messages: int
    full: bool
    max_age_us: int
    selective: bool = False
    oldest_at_us: int = 0
    own: Kept | None = None
    read: Kept | None = None


class Break(msgspec.Struct, frozen=True):
    """What is not as it was. reason: see `events.system.EpochBroken`.  stream: JetStream's name.

    discard: up to which sequence the stream's messages are good for nothing, None for all of them, 0 for none.
    """

    reason: str
    stream: str
    detail: str
    discard: int | None = 0

    @property
    def misleads_consumers(self) -> bool:
        """Whether consumers of the stream must begin again, because what they remember is about other messages."""
        return self.reason in ("stream_recreated", "end_lost", "messages_hidden")


def in_doubt(marks: Marks) -> Marks:
    """`marks` for as long as nobody has looked whether something is missing that they pass over.

    Whatever server a bus is opened at with them, it is another one than the last, and worth a look.
    """
    return msgspec.structs.replace(marks, server=NO_SERVER)


def digest(text: str) -> int:
    """63 bits, never 0."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 1 or 1


def compare(known: StreamMarks, seen: Seen) -> Break | None:
    """What became of a stream."""
    if known.created and seen.created != known.created:
        return Break("stream_recreated", seen.name, "it was made anew")
    if seen.end < (end := max(known.end, known.read_seq)):
        return Break("end_lost", seen.name, f"it ended at {end} and ends at {seen.end} now")
    if known.read_seq and seen.read is not None and seen.read.at_us != known.read_at_us:
        return Break("end_lost", seen.name, f"what was read at {known.read_seq} is another message now")
    return None


def compare_own(marks: Marks, seen: Seen, now_us: int) -> Break | None:
    """What became of our last message in the stream of events."""
    if not marks.own_seq:
        return None
    if seen.end < marks.own_seq:
        return Break("end_lost", seen.name, f"it ended at {marks.own_seq} and ends at {seen.end} now")
    if seen.own is None:
        if _left_in_peace(marks, seen, now_us):
            return None
        return Break("marker_gone", seen.name, f"our last message, at {marks.own_seq}, is gone")
    if digest(seen.own.message_id) != marks.own_id:
        return Break("end_lost", seen.name, f"our last message, at {marks.own_seq}, is another one now")
    return None


def compare_consumers(known: StreamMarks, name: str, consumers: int, used: int) -> Break | None:
    """What became of our consumers. consumers, used: see StreamMarks. (That one was made anew is not told by its
    creation time, which servers give differently at different times.)"""
    if known.consumers & ~consumers:
        return Break("consumers_gone", name, "a consumer is gone, and with it what it has delivered")
    if known.used & ~used:
        return Break("consumers_gone", name, "a consumer has forgotten what it delivered")
    return None


class Queue(msgspec.Struct, frozen=True, kw_only=True):
    """A work queue and its consumer at one moment. n_waiting: requests for messages that the consumer could answer."""

    first_seq: int
    n_messages: int
    ack_floor: int
    n_delivered: int
    n_pending: int
    n_unacked: int
    n_waiting: int

    def is_stuck(self, before: Queue | None) -> bool:
        """Whether messages wait that nobody is given, since `before`: some are not meant to be delivered, or none is.

        At a moment's look it may seem so while acknowledgements are under way; hence the two.
        """
        if before is None or before.first_seq != self.first_seq:
            return False
        left = self._leaves_some and before._leaves_some
        still = self._could_deliver and before._could_deliver and self.n_delivered == before.n_delivered
        return left or still

    @property
    def _leaves_some(self) -> bool:
        return self.n_messages > 0 and (self.first_seq <= self.ack_floor or self.n_pending == self.n_unacked == 0)

    @property
    def _could_deliver(self) -> bool:
        return self.n_pending > 0 == self.n_unacked and self.n_waiting > 0


def unexplained(known: StreamMarks, seen: Seen, n_erased: int, now_us: int) -> int:
    """How many messages are gone that neither age, nor want of room, nor we have removed, as far as counting tells."""
    aged = known.n_messages and _goes_with_age(seen.oldest_at_us, seen, now_us)
    if not known.created or seen.full or seen.selective or aged:
        return 0
    n_removed = known.n_messages + (seen.end - known.end) - seen.n_messages
    return n_removed if n_removed > n_erased else 0


def _left_in_peace(marks: Marks, seen: Seen, now_us: int) -> bool:
    """Whether our last message went with the stream's head, as old ones do, or to where a selective stream has it."""
    if seen.selective and seen.n_messages > 0:
        return True
    return marks.own_seq < seen.first_seq and (seen.full or _goes_with_age(marks.own_at_us, seen, now_us))


def _goes_with_age(at_us: int, seen: Seen, now_us: int) -> bool:
    """Whether a message of that time is gone, or will be soon; not all clocks are the same."""
    return 0 < seen.max_age_us <= now_us - at_us + seen.max_age_us // 8


def to_numbers(marks: Marks) -> dict[str, int]:
    """`marks` as flat names and numbers, to be stored."""
    numbers: dict[str, int] = {}
    for name, value in msgspec.structs.asdict(marks).items():
        if isinstance(value, StreamMarks):
            numbers |= {f"{name}.{key}": number for key, number in msgspec.structs.asdict(value).items()}
        else:
            numbers[name] = value
    return numbers


def from_numbers(numbers: Mapping[str, int]) -> Marks:
    """The reverse of `to_numbers`; what is missing is not known."""

    def stream(name: str) -> StreamMarks:
        return StreamMarks(**{key: numbers.get(f"{name}.{key}", 0) for key in StreamMarks.__struct_fields__})

    own = {key: numbers.get(key, 0) for key in ("own_seq", "own_id", "own_at_us", "server")}
    return Marks(events=stream("events"), runs=stream("runs"), **own)
