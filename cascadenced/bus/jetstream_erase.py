"""Erase consumed messages: `STREAM.MSG.DELETE`, then the acknowledgement.

In this order a crash between the two only means that the message is delivered again and erased then. Where the store
is in clear the bytes are overwritten, for which recent servers read a whole block (up to 8 MB) each time, 0.7 to 6 ms;
where it is encrypted, deleting is enough and ten times faster. The API answers in the connection's own order, so only
a few requests are under way at once; what waits is bounded by the consumer's unacknowledged messages.

A work queue needs none of it: the server unlinks a block as soon as nothing in it is left to do (measured on 2.9.10
and 2.15.1), so there the acknowledgement is enough.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict

import msgspec

from cascadenced.bus.jetstream_client import Heard
from cascadenced.bus.jetstream_link import Client, Occasionally, Sender
from cascadenced.clock import Clock

_AT_ONCE = 4
_AT_ONCE_DELETING = 64
_ANSWER_WITHIN_S = 10.0
_GIVE_UP_AFTER = 5
"""Deliveries of one message after which it is acknowledged although it could not be erased."""
_GONE_ALREADY = ("no message found", "deleted message")
"""How servers put it; the number beside it (10057) also stands for failures of the disk."""


class _Refusal(msgspec.Struct):
    err_code: int = 0
    description: str = ""


class _Answer(msgspec.Struct):
    success: bool = False
    error: _Refusal | None = None


class _Erasure:
    __slots__ = ("n_delivered", "reply", "sent_at")

    def __init__(self, reply: str, n_delivered: int) -> None:
        self.reply, self.n_delivered = reply, n_delivered
        self.sent_at: float | None = None


class Eraser:
    """See the module's docstring. work_queues: streams that need no erasing.  overwrite: the store is in clear."""

    def __init__(
        self,
        *,
        work_queues: frozenset[str],
        overwrite: bool,
        clock: Clock,
        sender: Sender,
        complaints: Occasionally,
    ) -> None:
        self._work_queues, self._clock = work_queues, clock
        self._at_once = _AT_ONCE if overwrite else _AT_ONCE_DELETING
        self._no_erase = b"" if overwrite else b',"no_erase":true'
        self._sender, self._complaints = sender, complaints
        self._waiting: OrderedDict[tuple[str, int], _Erasure] = OrderedDict()
        self._under_way: dict[tuple[str, int], _Erasure] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        self._inbox = ""
        self._decode = msgspec.json.Decoder(_Answer).decode
        self.n_asked = 0
        """Messages that the broker was asked to erase, in all."""

    async def attach(self, client: Client) -> None:
        """Start anew on this client."""
        self.reset()
        self._inbox = client.new_inbox()
        await client.listen(f"{self._inbox}.*.*", self._on_answer)

    def reset(self) -> None:
        """Forget everything: what was not erased was not acknowledged, so the broker delivers it again."""
        self._waiting.clear()
        self._under_way.clear()
        self._idle.set()

    def erase(self, stream: str, seq: int, reply: str, n_delivered: int) -> None:
        if stream in self._work_queues:
            self._sender.acknowledge(reply)
            return
        self._waiting[stream, seq] = _Erasure(reply, n_delivered)
        self._idle.clear()
        self._go_on()

    @property
    def busy(self) -> bool:
        return bool(self._waiting or self._under_way)

    def erasing(self, stream: str, seq: int, reply: str) -> bool:
        erasure = self._waiting.get((stream, seq)) or self._under_way.get((stream, seq))
        if erasure is not None:
            erasure.reply = reply
        return erasure is not None

    async def drained(self) -> None:
        """Return when nothing is left to erase."""
        await self._idle.wait()

    def _go_on(self) -> None:
        now = self._clock.monotonic()
        if len(self._under_way) >= self._at_once:
            # An answer that got lost must not block the others; the broker delivers the message again.
            for key in [key for key, one in self._under_way.items() if now - (one.sent_at or now) > _ANSWER_WITHIN_S]:
                del self._under_way[key]
        while self._waiting and len(self._under_way) < self._at_once:
            (stream, seq), erasure = self._waiting.popitem(last=False)
            erasure.sent_at = now
            self.n_asked += 1
            self._under_way[stream, seq] = erasure
            self._sender.send(
                f"$JS.API.STREAM.MSG.DELETE.{stream}",
                b'{"seq":%d%b}' % (seq, self._no_erase),
                f"{self._inbox}.{stream}.{seq}",
            )
        if not self._waiting and not self._under_way:
            self._idle.set()

    def _on_answer(self, message: Heard) -> None:
        stream, _, seq = message.subject.removeprefix(f"{self._inbox}.").partition(".")
        erasure = self._under_way.pop((stream, int(seq)), None) if seq.isdigit() else None
        if erasure is not None:
            self._finish(stream, erasure, message.data)
        self._go_on()

    def _finish(self, stream: str, erasure: _Erasure, data: bytes) -> None:
        try:
            answer = self._decode(data)
        except msgspec.MsgspecError:
            answer = _Answer()  # 503 without a body: JetStream is off just now
        refusal = answer.error or _Refusal(description="no answer")
        if answer.success or refusal.description in _GONE_ALREADY:
            self._sender.acknowledge(erasure.reply)
            return
        self._complaints.warn("erase_failed", stream=stream, err_code=refusal.err_code, why=refusal.description)
        if erasure.n_delivered >= _GIVE_UP_AFTER:
            self._sender.acknowledge(erasure.reply)
