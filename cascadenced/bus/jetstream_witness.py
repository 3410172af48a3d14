"""Knows what the streams were like, and looks whether they still are (`marks.py` says what it means if not)."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec

from cascadenced.bus.base import Storage
from cascadenced.bus.jetstream_link import ApiError, Client, api
from cascadenced.bus.jetstream_pull import Place
from cascadenced.bus.jetstream_setup import Plan, Standing, Streams
from cascadenced.bus.marks import (
    Break,
    Kept,
    Marks,
    Queue,
    Seen,
    StreamMarks,
    compare,
    compare_consumers,
    compare_own,
    digest,
    unexplained,
)
from cascadenced.clock import Clock

_NS_IN_US = 1_000
_NOT_FOUND = 404
_FULL_BUT_FOR = 0.01
_LARGE_BYTES = 1 << 20
"""A stream that has no more room than this part of its bound, or than one large message needs (servers take no larger
ones unless told to), is taken for full: what comes next may not fit, and what came last may have pushed others out."""
_MESSAGE_ID = re.compile(rb"^Nats-Msg-Id: *(.*?)\r$", re.MULTILINE)


class Witness:
    """marks: what is known now; kept up to date by `stored`, `read` and `know`."""

    def __init__(self, names: Plan, marks: Marks, clock: Clock) -> None:
        self._names, self._clock = names, clock
        self.marks = marks
        self._n_erased = self._n_erased_before = 0  # at the last look, and at the one before
        self._queue: Queue | None = None  # at the last look
        self._discarded = 0  # up to here the queue was found unreadable

    def stored(self, seq: int, message_id: str) -> None:
        """The stream of events has stored this message of ours."""
        self.marks = self.marks.after_storing(seq, message_id, self._clock.now_us())

    def read(self, last: Place) -> None:
        """The message that lies there was delivered to us."""
        is_event = last.stream == self._names.events
        self.marks = self.marks.after_reading(last.stream_seq, last.at_us, is_event=is_event)

    async def breaks(self, client: Client, streams: Streams, marks: Marks, *, reconnected: bool) -> list[Break]:
        """What is not as it was, the streams' consumers apart. Raises Unavailable, JetStreamOff, ApiError.

        marks: as they were when `streams` was asked for; what was confirmed since then may be beyond that.
        reconnected: only then a message that we have read may have become another one; asking for it may be costly.
        """
        events = await self._seen(client, streams.events, marks.events, marks.own_seq, with_read=reconnected)
        runs = await self._seen(client, streams.runs, marks.runs, 0, with_read=reconnected)
        found = [
            compare(marks.events, events),
            compare(marks.runs, runs),
            compare_own(marks, events, self._clock.now_us()),
        ]
        return [one for one in found if one is not None]

    async def stuck(self, client: Client, streams: Streams) -> Break | None:
        """Whether requests wait that nobody is given: told at the second look in a row that finds the same one.

        Seen after damage to a queue's files: the consumer stands ahead of messages that are there, or messages are
        counted that no one can read (nats-server 2.9 goes on storing such, behind a damaged one).
        """
        name, state = self._names.runs, streams.runs["state"]
        [consumer] = [consumer for consumer in self._names.consumers if consumer.stream == name]
        info = await api(client, f"CONSUMER.INFO.{name}.{consumer.durable}")
        first_seq, last_seq = state["first_seq"], state["last_seq"]
        queue = Queue(
            first_seq=first_seq,
            n_messages=state["messages"],
            ack_floor=info["ack_floor"]["stream_seq"],
            n_delivered=info["delivered"]["consumer_seq"],
            n_pending=info["num_pending"],
            n_unacked=info["num_ack_pending"],
            n_waiting=info["num_waiting"],
        )
        before, self._queue = self._queue, queue
        if not queue.is_stuck(before) or info.get("paused"):  # by an operator
            return None
        self._queue = None
        body = {"seq": first_seq, "next_by_subj": self._names.runs_subject}
        try:
            seq = (await api(client, f"STREAM.MSG.GET.{name}", body))["message"]["seq"]
        except ApiError as error:
            if error.status != _NOT_FOUND:
                raise
            detail = f"{state['messages']} messages from {first_seq} to {last_seq} cannot be read"
            # Again, and nothing since then can be read either: only another file helps, which an empty stream gets.
            again, self._discarded = 0 < self._discarded < first_seq, last_seq
            return Break("messages_unreadable", name, detail, None if again else last_seq)
        return Break("messages_hidden", name, f"{state['messages']} messages from {seq} on are not delivered")

    def forgotten(self, standings: Sequence[Standing]) -> list[Break]:
        """What our consumers have forgotten."""
        found = [
            compare_consumers(known, name, *_summed(standings, name))
            for known, name in ((self.marks.events, self._names.events), (self.marks.runs, self._names.runs))
        ]
        return [one for one in found if one is not None]

    def missing(self, streams: Streams, n_erased: int) -> int:
        """How many messages of events have gone since the last look, and nobody knows why. n_erased: by us, ever."""
        # What was asked for just before the last look may have been erased just after it.
        n_lately = n_erased - self._n_erased_before
        return unexplained(self.marks.events, _described(streams.events), n_lately, self._clock.now_us())

    def restarted(self, server_id: str) -> bool:
        """Whether the server is another one than the last."""
        return self.marks.server not in (0, digest(server_id))

    def know(
        self,
        streams: Streams,
        standings: Sequence[Standing] | None,
        n_erased: int,
        *,
        server_id: str,
        anew: bool = False,
    ) -> None:
        """This is how it is now. standings: None when nobody asked.  anew: nothing from before counts."""
        marks = Marks() if anew else self.marks
        self.marks = msgspec.structs.replace(
            marks,
            events=_known(marks.events, streams.events, standings),
            runs=_known(marks.runs, streams.runs, standings),
            server=digest(server_id),
        )
        self._n_erased_before, self._n_erased = self._n_erased, n_erased

    async def _seen(
        self, client: Client, info: dict[str, Any], known: StreamMarks, own_seq: int, *, with_read: bool
    ) -> Seen:
        name, seen = info["config"]["name"], _described(info)
        if seen.created != known.created:
            return seen  # whatever it has, it is not what we knew
        return msgspec.structs.replace(
            seen,
            read=await _at(client, name, known.read_seq) if with_read and 0 < known.read_seq <= seen.end else None,
            own=await _at(client, name, own_seq) if 0 < own_seq <= seen.end else None,
        )


def storage(info: dict[str, Any]) -> Storage:
    """What a stream has room for, from STREAM.INFO."""
    config, state = info["config"], info["state"]
    max_bytes, max_messages = max(config["max_bytes"], 0), max(config["max_msgs"], 0)
    few_bytes = max(max_bytes * _FULL_BUT_FOR, min(_LARGE_BYTES, max_bytes / 2))
    return Storage(
        stream=config["name"],
        max_age_us=config["max_age"] // _NS_IN_US,
        max_bytes=max_bytes,
        max_messages=max_messages,
        full=(max_bytes > 0 and state["bytes"] >= max_bytes - few_bytes)
        or (max_messages > 0 and state["messages"] >= max_messages * (1 - _FULL_BUT_FOR)),
        selective=config.get("max_msgs_per_subject", -1) > 0,
    )


def _described(info: dict[str, Any]) -> Seen:
    state, room = info["state"], storage(info)
    return Seen(
        name=info["config"]["name"],
        created=digest(str(info["created"])),
        first_seq=state["first_seq"],
        end=state["last_seq"],
        n_messages=state["messages"],
        full=room.full,
        selective=room.selective,
        max_age_us=room.max_age_us,
        oldest_at_us=_us(state["first_ts"]) if state["messages"] else 0,
    )


def _known(marks: StreamMarks, info: dict[str, Any], standings: Sequence[Standing] | None) -> StreamMarks:
    seen = _described(info)
    marks = msgspec.structs.replace(marks, created=seen.created, end=seen.end, n_messages=seen.n_messages)
    if standings is None:
        return marks
    made = [msgspec.structs.replace(standing, existed=True) for standing in standings]
    consumers, used = _summed(made, seen.name)
    return msgspec.structs.replace(marks, consumers=consumers, used=used)


def _summed(standings: Sequence[Standing], stream: str) -> tuple[int, int]:
    """(a bit for each consumer that was there, a bit for each that has delivered something)"""
    ours = [standing for standing in standings if standing.consumer.stream == stream]
    existed = sum(standing.existed << n for n, standing in enumerate(ours))
    return existed, sum((standing.delivered > 0) << n for n, standing in enumerate(ours))


async def _at(client: Client, stream: str, seq: int) -> Kept | None:
    """The message at `seq`, None for one that is not there or that the server cannot read (it says the same)."""
    try:
        answer = await api(client, f"STREAM.MSG.GET.{stream}", {"seq": seq})
    except ApiError as error:
        if error.status == _NOT_FOUND:
            return None
        raise
    message = answer["message"]
    found = _MESSAGE_ID.search(base64.b64decode(message.get("hdrs") or ""))
    return Kept(_us(message["time"]), found[1].decode(errors="replace") if found else "")


def _us(instant: str) -> int:
    """RFC 3339 → µs since 1970, cut, as the acknowledgement subject has it."""
    at = datetime.fromisoformat(instant)
    return round(at.replace(microsecond=0).timestamp()) * 1_000_000 + at.microsecond
