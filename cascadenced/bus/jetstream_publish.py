"""Publish in order and wait until all of it is stored.

One by one: all messages are sent at once, their confirmations come to one inbox. On a server that syncs each message
that gives 4 k messages/s; there many messages go as one atomic batch (server 2.12 and newer), which is synced once:
20 k to 45 k messages/s, no less durable. A server refuses a whole batch when it has any of its message ids already,
which is what publishing again after a timeout looks like: then it is sent again one by one, where known ids are
harmless. (Where nothing is synced a batch of 100 is half as fast as one by one: batches are the opener's choice.)
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator, Sequence

import msgspec
import nats.errors

from cascadenced.bus.frames import publication
from cascadenced.bus.jetstream_client import Heard
from cascadenced.bus.jetstream_link import Client
from cascadenced.errors import BadMessage, Unavailable
from cascadenced.events.outgoing import Outgoing

_SILENCE_S = 5.0
_BATCH_MIN = 16
_BATCH_MAX = 1000
"""The server's own bound of a batch."""
_BATCH_HEADERS_BYTES = 192  # what a batch adds to a message
_FRAME_BYTES = 12  # "NATS/1.0", its line's end, and the empty line


class _Refusal(msgspec.Struct):
    description: str = ""


class _Confirmation(msgspec.Struct):
    error: _Refusal | None = None


class _Call:
    """Confirmations of one group of messages. ended: set when all are in, or when it is pointless to wait on."""

    __slots__ = ("ended", "n_confirmed", "n_expected", "n_refused", "why")

    def __init__(self, n_expected: int) -> None:
        self.n_expected = n_expected
        self.n_confirmed = self.n_refused = 0
        self.why = ""
        self.ended = asyncio.Event()

    def confirm(self, why_not: str | None) -> None:
        if why_not is None:
            self.n_confirmed += 1
        else:
            self.n_refused += 1
            self.why = self.why or why_not
        if self.n_confirmed + self.n_refused >= self.n_expected:
            self.ended.set()

    def give_up(self, why: str) -> None:
        self.why = self.why or why
        self.ended.set()

    @property
    def stored(self) -> bool:
        return self.n_confirmed >= self.n_expected


class Publisher:
    """See the module's docstring.

    runs_subject: what the work queue stores; all other subjects with our prefix belong to the event stream.
    batch_name: how names of atomic batches begin, unique to this process.
    broken: called when the server says that nobody stores a subject of ours.
    """

    def __init__(self, *, prefix: str, runs_subject: str, batch_name: str, broken: Callable[[], None]) -> None:
        self._prefix = f"{prefix}."
        self._runs_prefix = runs_subject.removesuffix(">")
        self._batch_name, self._broken = batch_name, broken
        self._count = itertools.count()
        self._calls: dict[str, _Call] = {}
        self._client: Client | None = None
        self._inbox = ""
        self._decode = msgspec.json.Decoder(_Confirmation).decode
        self.atomic = False
        """Whether the event stream takes batches; learned from the server."""

    async def attach(self, client: Client) -> None:
        self._client = client
        self._inbox = client.new_inbox()
        await client.listen(f"{self._inbox}.*.*", self._on_confirmation)

    def lost(self, why: str) -> None:
        """The connection is gone: no confirmation under way will arrive."""
        for call in self._calls.values():
            call.give_up(why)

    async def publish(self, messages: Sequence[Outgoing]) -> None:
        client = self._client
        if client is None:
            raise Unavailable(f"NATS is not connected: {len(messages)} messages were not published")
        for message in messages:
            _check_size(message, client.max_payload)
        if not self.atomic or len(messages) < _BATCH_MIN:
            await self._one_by_one(client, messages)
            return
        for batch in _batches(messages, self._in_event_stream):
            # A batch cut off by something else may be short; then it is not worth its files on the server.
            if len(batch) < _BATCH_MIN or not await self._as_one(client, batch):
                await self._one_by_one(client, batch)

    async def _one_by_one(self, client: Client, messages: Sequence[Outgoing]) -> None:
        if not client.is_connected:
            raise Unavailable(f"NATS is not connected: {len(messages)} messages were not published")
        name, call = self._open(len(messages))
        ours, foreign = f"{self._inbox}.{name}.o", f"{self._inbox}.{name}.f"
        try:
            await client.send(
                [
                    publication(m.subject, m.body, ours if m.subject.startswith(self._prefix) else foreign, m.lines)
                    for m in messages
                ]
            )
            await self._ended(call)
        except (nats.errors.Error, OSError) as error:
            call.why = type(error).__name__
        finally:
            del self._calls[name]
        if not call.stored:
            raise Unavailable(
                f"NATS did not confirm {call.n_expected - call.n_confirmed} of {call.n_expected} messages: {call.why}"
            )

    async def _as_one(self, client: Client, batch: Sequence[Outgoing]) -> bool:
        """Whether the server stored the whole batch; if not, it may have stored it all the same."""
        name, call = self._open(1)
        batch_id = f"{self._batch_name}{name}"
        last = len(batch)
        try:
            commands = []
            for n, message in enumerate(batch, 1):
                lines = f"{message.lines}Nats-Batch-Id: {batch_id}\r\nNats-Batch-Sequence: {n}\r\n"
                if n == last:
                    lines += "Nats-Batch-Commit: 1\r\n"
                reply = f"{self._inbox}.{name}.o" if n == last else ""
                commands.append(publication(message.subject, message.body, reply, lines))
            await client.send(commands)
            await self._ended(call)
        except (nats.errors.Error, OSError):
            return False
        finally:
            del self._calls[name]
        return call.stored

    def _open(self, n_expected: int) -> tuple[str, _Call]:
        name, call = str(next(self._count)), _Call(n_expected)
        self._calls[name] = call
        if n_expected == 0:
            call.ended.set()
        return name, call

    async def _ended(self, call: _Call) -> None:
        """Wait on as long as confirmations keep coming: a slow disk is not a missing answer."""
        while not call.ended.is_set():
            heard = call.n_confirmed + call.n_refused
            try:
                await asyncio.wait_for(call.ended.wait(), _SILENCE_S)
            except TimeoutError:
                if call.n_confirmed + call.n_refused == heard:
                    call.give_up(f"nothing heard for {_SILENCE_S:g} s")

    def _on_confirmation(self, message: Heard) -> None:
        name, _, whose = message.subject.removeprefix(f"{self._inbox}.").partition(".")
        call = self._calls.get(name)
        if call is None:
            return  # too late: the caller has given up, and publishes again
        data = message.data
        if data.startswith(b'{"stream"') and b'"error"' not in data:
            call.confirm(None)
        elif not data:
            # No responders: nobody stores this subject. Of ours somebody must.
            foreign = whose == "f"
            call.confirm(None if foreign else "no stream stores it")
            if not foreign:
                self._broken()
        else:
            call.confirm(self._why_not(data))

    def _why_not(self, data: bytes) -> str | None:
        try:
            error = self._decode(data).error
        except msgspec.MsgspecError:
            return "an answer that is no confirmation"
        return None if error is None else error.description or "refused without a reason"

    def _in_event_stream(self, message: Outgoing) -> bool:
        return message.subject.startswith(self._prefix) and not message.subject.startswith(self._runs_prefix)


def _check_size(message: Outgoing, max_payload: int) -> None:
    """Raises BadMessage: the server would end the connection, with everything else in it."""
    lines = message.lines
    size = len(message.body) + _FRAME_BYTES + _BATCH_HEADERS_BYTES
    if size + 4 * len(lines) <= max_payload:  # a character has at most four bytes
        return
    size += len(lines.encode())
    if size > max_payload:
        raise BadMessage(
            f"a message for {message.subject} has {size} bytes, the NATS server takes {max_payload}", code="too_large"
        )


def _batches(messages: Sequence[Outgoing], fits: Callable[[Outgoing], bool]) -> Iterator[list[Outgoing]]:
    """`messages` in order, cut where `fits` changes and at the server's bound. Those that do not fit come alone."""
    batch: list[Outgoing] = []
    for message in messages:
        if not fits(message):
            if batch:
                yield batch
            batch = []
            yield [message]
            continue
        batch.append(message)
        if len(batch) == _BATCH_MAX:
            yield batch
            batch = []
    if batch:
        yield batch
