"""What a server may send, and what any client may have it send."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import nats.errors
import pytest

from cascadenced.bus.base import UNREADABLE_HEADERS
from cascadenced.bus.embedded import EmbeddedServer
from cascadenced.bus.jetstream_client import Heard, Lines
from tests.bus.conftest import TOKEN, RealWorld
from tests.bus.test_contract import acked


class Reader:
    """What lines are read to. `hear` is for a subscription that somebody listens to without nats-py."""

    def __init__(self) -> None:
        self.messages: list[tuple[int, bytes, bytes, bytes, bytes | None]] = []
        self.others: list[Any] = []
        self.fails = False

    def hear(self, message: Heard) -> None:
        self.messages.append((2, message.subject.encode(), message.reply.encode(), message.data, None))
        if self.fails:
            raise IndexError

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes | None) -> None:
        self.messages.append((sid, subject, reply, data, headers))
        if self.fails:
            raise IndexError

    async def _process_ping(self) -> None:
        self.others.append("ping")

    async def _process_pong(self) -> None:
        self.others.append("pong")
        raise asyncio.InvalidStateError

    async def _process_info(self, info: dict[str, Any]) -> None:
        self.others.append(info)

    async def _process_err(self, error: str) -> None:
        self.others.append(error)


EVERYTHING = (
    b"MSG a.\xff 1 2\r\n{}\r\nPING\r\nMSG b\x0bc 2 $JS.ACK.x  3\r\n\r\n\n\r\n+OK\r\nHMSG d 3\treply 4 6\r\nNATS[]\r\n"
    b'HMSG e 3 0 0\r\n\r\nPONG\r\n-ERR \'Slow Consumer\'\r\nINFO {"server_id":"x"}\r\n'
)
MESSAGES = [
    (1, b"a.\xff", b"", b"{}", None),
    (2, b"b\x0bc", b"$JS.ACK.x", b"\r\n\n", None),
    (3, b"d", b"reply", b"[]", b"NATS"),
    (3, b"e", b"", b"", None),
]


@pytest.mark.parametrize("step", [1, 2, 3, 7, 1000])
async def test_lines_are_read_however_they_are_cut(step: int) -> None:
    heard = Reader()
    lines = Lines(heard, {2: heard.hear})
    for start in range(0, len(EVERYTHING), step):
        await lines.parse(EVERYTHING[start : start + step])
    assert heard.messages == MESSAGES
    assert heard.others == ["ping", "pong", "'slow consumer'", {"server_id": "x"}]


@pytest.mark.parametrize(
    "line",
    [
        b"NONSENSE",
        b"MSG a 1",
        b"MSG a b c d e 2",
        b"MSG a x 2",
        b"MSG a 1 -2",
        b"HMSG a 1 9 2",
        b"INFO {",
        b"INFO \xff",
    ],
)
async def test_what_is_no_line_of_the_protocol_is_a_protocol_error(line: bytes) -> None:
    with pytest.raises(nats.errors.ProtocolError):
        await Lines(Reader(), {}).parse(line + b"\r\n")


async def test_a_line_without_an_end_is_bounded() -> None:
    lines = Lines(Reader(), {})
    await lines.parse(bytes(1024 * 1024))
    with pytest.raises(nats.errors.ProtocolError):
        await lines.parse(b"x")


async def test_a_message_that_cannot_be_handed_on_does_not_end_the_reading() -> None:
    heard = Reader()
    heard.fails = True
    await Lines(heard, {2: heard.hear}).parse(EVERYTHING)
    assert heard.messages == MESSAGES


async def test_a_reader_that_was_reset_begins_with_a_new_line() -> None:
    heard = Reader()
    lines = Lines(heard, {2: heard.hear})
    await lines.parse(b"MSG a 1 1000\r\nhalf")
    lines.reset()
    await lines.parse(b"PING\r\n")
    assert (heard.messages, heard.others) == ([], ["ping"])


@asynccontextmanager
async def raw(server: EmbeddedServer) -> AsyncIterator[Any]:
    """A function that sends bytes to the server as they are and returns when it has taken them."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b'CONNECT {"verbose":false,"auth_token":"%b","headers":true}\r\n' % TOKEN.encode())

    async def send(*lines: bytes) -> None:
        writer.write(b"".join(lines) + b"PING\r\n")
        async with asyncio.timeout(10):
            while not (await reader.readline()).startswith(b"PONG"):
                pass

    yield send
    writer.close()


def _pub(subject: bytes, body: bytes = b"{}") -> bytes:
    return b"PUB %b %d\r\n%b\r\n" % (subject, len(body), body)


POISON: Sequence[bytes] = [
    _pub(b"ume.event.\xff\xfe"),
    _pub(b"ume.event.x\x0by"),
    _pub(b"ume.event.x\x0cy"),
    _pub(b"ume.event.x\x00y"),
    _pub(b"ume.event.\x1c\xc2\x85"),
    _pub(b"ume.event.>"),
    b"HPUB ume.event.x 4 6\r\nNATS{}\r\n",
    b"HPUB ume.event.x 1 3\r\nN{}\r\n",
    b"HPUB ume.event.x 0 2\r\n{}\r\n",
    b"HPUB ume.event.x 13 15\r\nNATS/1.0 \xff\xff\xff\xff{}\r\n",
    b"HPUB ume.event.x 16 18\r\nNATS/1.0 404 \xff\r\n{}\r\n",
]
UNANSWERABLE: Sequence[bytes] = [
    b"PUB ume.rpc.echo \xff 2\r\n{}\r\n",
    b"PUB ume.rpc.echo a..b 2\r\n{}\r\n",
    b"PUB ume.rpc.echo a\x0bb 2\r\n{}\r\n",
    b"PUB $SRV.PING \xff 0\r\n\r\n",
    b"PUB $SRV.PING a..b 0\r\n\r\n",
]


@pytest.mark.slow
class TestHostileClients:
    async def test_whatever_a_stream_took_is_delivered_and_so_is_the_next(
        self, server: EmbeddedServer, real: RealWorld
    ) -> None:
        client: Any = real.bus._client
        async with raw(server) as send:
            await send(*POISON, _pub(b"ume.event.x", b"next"))
        got = await acked(real, len(POISON) + 1)
        assert got[-1].data == b"next"
        assert got[0].subject == r"ume.event.\xff\xfe"
        assert got[6].headers == {UNREADABLE_HEADERS: "NATS"}
        for delivery in got:
            delivery.subject.encode()
        assert real.bus._client is client

    async def test_requests_that_cannot_be_answered_do_not_end_the_connection(
        self, server: EmbeddedServer, real: RealWorld
    ) -> None:
        async def echo(body: bytes, headers: Any) -> tuple[bytes, dict[str, str]]:
            return body, {}

        await real.bus.serve({"echo": echo}, version="1.0.0")
        client: Any = real.bus._client
        async with raw(server) as send:
            await send(*UNANSWERABLE)
        assert (await real.request("echo", b"again"))[0] == b"again"
        await real.send("ume.event.x", b"next")
        assert [delivery.data for delivery in await acked(real, 1)] == [b"next"]
        assert (real.bus._client, client.is_connected) == (client, True)
