"""Every message of a stream, without its body: through a consumer of its own, which acknowledges nothing.

A request asks for a hundred at once and the next one is made when they are here: nothing gathers while the caller is
slow, and others have their turn every 2 ms (with a thousand every 20 ms, and no more of them in a second). What a
server cannot read of its store it skips without a word (measured on 2.9.10 to 2.15.1); but 2.9 still counts it, and
falls silent when nothing else is left. So when less came than was asked for, or nothing, the stream itself is asked
where to go on.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress

import nats.errors

from cascadenced.bus.base import JetStreamOff, ScanStuck, Sighting
from cascadenced.bus.frames import publication
from cascadenced.bus.jetstream_client import Heard
from cascadenced.bus.jetstream_link import ApiError, Client, api
from cascadenced.bus.jetstream_pull import parse_reply
from cascadenced.errors import Unavailable

_AT_ONCE = 100
_SILENCE_S = 5.0
_NO_MORE = ("404", "408")
_NOT_FOUND = 404
_FORGOTTEN_AFTER_S = 60
"""The server removes a consumer that nobody asked for so long: us, when we did not come to the end."""
_CONSUMER = {
    "deliver_policy": "by_start_sequence",
    "ack_policy": "none",
    "headers_only": True,
    "mem_storage": True,
    "num_replicas": 1,
    "inactive_threshold": _FORGOTTEN_AFTER_S * 1_000_000_000,
}


class Scans:
    """All scans of one bus; several may be under way."""

    def __init__(self) -> None:
        self._under_way: set[_Scan] = set()

    def lost(self) -> None:
        """The connection broke, or the stream is not what it was: no scan under way goes on."""
        for scan in self._under_way:
            scan.fail()

    async def run(self, client: Client, stream: str) -> AsyncGenerator[Sequence[Sighting]]:
        """See `base.Bus.scan`."""
        begin: int | None = 1
        try:
            while begin is not None:
                scan = _Scan()
                try:
                    async with aclosing(self._from(begin, scan, client, stream)) as chunks:
                        async for chunk in chunks:
                            yield chunk
                    return
                except ScanStuck:
                    yield scan.found
                    silent_at = max(begin, scan.last_seq + 1)
                    begin = await _next_readable(client, stream, silent_at)
                    if begin == silent_at:
                        raise
        except (ApiError, JetStreamOff) as error:
            raise Unavailable(f"the stream {stream} was not looked through: {error}") from None
        except (nats.errors.Error, OSError) as error:
            raise Unavailable(f"the stream {stream} was not looked through: {type(error).__name__}") from None

    async def _from(self, begin: int, scan: _Scan, client: Client, stream: str) -> AsyncGenerator[Sequence[Sighting]]:
        """From that sequence on. Raises ScanStuck, and what the client and the API raise."""
        inbox = client.new_inbox()
        config = {**_CONSUMER, "opt_start_seq": begin}
        self._under_way.add(scan)
        try:
            end = await client.listen(inbox, scan.on_message)
            try:
                made = await api(client, f"CONSUMER.CREATE.{stream}", {"stream_name": stream, "config": config})
                where = f"{stream}.{made['name']}"
                scan.expect(made["num_pending"])
                request = publication(
                    f"$JS.API.CONSUMER.MSG.NEXT.{where}", b'{"batch":%d,"no_wait":true}' % _AT_ONCE, inbox
                )
                while not scan.ended:
                    await client.send([request])
                    yield await scan.chunk()
                    if scan.was_short and await _next_readable(client, stream, scan.last_seq + 1) is None:
                        break
                await api(client, f"CONSUMER.DELETE.{where}")
            finally:
                await asyncio.shield(end())
        finally:
            self._under_way.discard(scan)


async def _next_readable(client: Client, stream: str, begin: int) -> int | None:
    """The sequence of the first message from `begin` on that the server can read; `begin` if it cannot tell."""
    try:
        answer = await api(client, f"STREAM.MSG.GET.{stream}", {"seq": begin, "next_by_subj": ">"})
    except ApiError as error:
        return None if error.status == _NOT_FOUND else begin
    seq: int = answer["message"]["seq"]
    return seq


class _Scan:
    """One look through. ended: nothing that was there when it began is left to come.  found: and not handed out."""

    def __init__(self) -> None:
        self._left = self._n_heard = 0
        self.found: list[Sighting] = []
        self._last_reply = ""
        self._status: str | None = None
        self._whole = asyncio.Event()
        self.ended = True
        self.was_short = False
        """Whether the last request brought less than was asked for, and there ought to be more."""

    @property
    def last_seq(self) -> int:
        """Where the last message lies that was heard of; 0 for none."""
        return parse_reply(self._last_reply).stream_seq if self._last_reply else 0

    def expect(self, n_messages: int) -> None:
        self._left, self.ended = n_messages, n_messages == 0

    async def chunk(self) -> list[Sighting]:
        """What the last request brought. Raises Unavailable when it brought no end."""
        heard = -1
        while not self._whole.is_set():
            if heard == self._n_heard:
                raise ScanStuck(f"nothing heard for {_SILENCE_S:g} s while looking through the stream")
            heard = self._n_heard
            with suppress(TimeoutError):
                await asyncio.wait_for(self._whole.wait(), _SILENCE_S)
        if self._status is not None and self._status not in _NO_MORE:
            raise Unavailable(f"looking through the stream was cut short ({self._status})")
        # Told that there is no more while something came, we ask once more: taken for the end, a slip of the server
        # would have us publish again what is there.
        self._left -= self._n_heard
        self.ended = self._left <= 0 or (self._status is not None and self._n_heard == 0)
        self.was_short = self._status is not None and not self.ended
        found, self.found, self._n_heard, self._status = self.found, [], 0, None
        self._whole.clear()
        return found

    def fail(self) -> None:
        self._status = "the connection broke"
        self._whole.set()

    def on_message(self, message: Heard) -> None:
        headers = message.headers
        if not message.reply:
            self._status = (headers or {}).get("Status", "")
            self._whole.set()
            return
        self._n_heard += 1
        self._last_reply = message.reply
        if headers is not None and (sighting := Sighting.of(headers)) is not None:
            self.found.append(sighting)
        if self._n_heard == _AT_ONCE:
            self._whole.set()
