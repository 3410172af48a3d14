"""nats-py's client, reading whatever a server may send.

Its own reader ends at the first subject, reply or header block that it does not expect, without a word to anybody; and
a server hands on what any client publishes: bytes that are no UTF-8, `\\v` and `\\f` inside a subject, header blocks of
four bytes. So the lines are read here, texts are decoded so that nothing is refused, and a header block that is none is
kept whole for whoever writes the dead letter. What is left of nats-py's privacy that we rely on stands in this file.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Any

import msgspec
import nats.aio.client
import nats.errors
import structlog

from cascadenced.bus.base import UNREADABLE_HEADERS

_MAX_LINE_BYTES = 1024 * 1024
"""Servers bound what clients send to 4 KiB a line; the INFO of a large cluster is longer."""
_CRLF = b"\r\n"
_PLAIN_START, _PLAIN_END = b"NATS/1.0\r\n", b"\r\n\r\n"
_FIELD_NAME = re.compile(r"[A-Za-z0-9_-]+")
_BAD_SUBJECT = "invalid publish subject"

_log = structlog.get_logger("cascadenced.bus")


def text(raw: bytes) -> str:
    """Any bytes as text that any encoder takes: what is no UTF-8 is spelled out as `\\xff`."""
    return raw.decode(errors="backslashreplace")


class Heard(msgspec.Struct, frozen=True):
    """A message for a handler of `listen`. reply: empty if no answer is wanted."""

    subject: str
    reply: str
    data: bytes
    headers: dict[str, str] | None


class TolerantClient(nats.aio.client.Client):
    """See the module's docstring."""

    _reading_task: asyncio.Task[None] | None
    _server_info: dict[str, Any]

    def __init__(self) -> None:
        super().__init__()
        self._ps: Any = Lines(self)
        self._handlers: dict[int, Callable[[Heard], None]] = {}

    @property
    def is_reading(self) -> bool:
        """Whether somebody listens to the server. A connected client that does not is deaf."""
        return self._reading_task is not None and not self._reading_task.done()

    @property
    def server_info(self) -> dict[str, Any]:
        """What the server said of itself when we connected: `server_id`, `version` …"""
        return self._server_info

    async def send(self, commands: Iterable[bytes]) -> None:
        """Hand commands (`bus/frames.py`) to the socket, in order; waits while too much has not left yet.

        Raises ConnectionClosedError. While the connection is being mended they are kept for the next one.
        """
        if self.is_closed or self.is_draining_pubs:
            raise nats.errors.ConnectionClosedError
        for command in commands:
            await self._send_command(command)
        if self._flush_queue is not None and self._flush_queue.empty():
            await self._flush_pending()

    async def listen(self, subject: str, handler: Callable[[Heard], None]) -> Callable[[], Awaitable[None]]:
        """Call `handler` with every message to `subject` as it is read. It must be quick; what it raises is logged.

        A subscription of nats-py puts a queue and a task between, which takes longer than most of our handlers.
        Returns what ends it.
        """

        async def until_known(message: Any) -> None:
            handler(Heard(message.subject, message.reply, message.data, message.headers))

        subscription = await self.subscribe(subject, cb=until_known)
        self._handlers[subscription._id] = handler

        async def end() -> None:
            del self._handlers[subscription._id]
            await subscription.unsubscribe()

        return end

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes | None) -> None:
        handler = self._handlers.get(sid)
        if handler is None:
            await super()._process_msg(sid, subject, reply, data, headers or b"")
            return
        fields = None
        if headers:
            fields = _plain_headers(headers) or await self._process_headers(headers)
        handler(Heard(text(subject), text(reply), data, fields))

    async def _process_headers(self, headers: bytes | None) -> dict[str, str] | None:
        try:
            found: dict[str, str] | None = await super()._process_headers(headers)
        except Exception:  # noqa: BLE001 -- whatever it stumbled over is not a header block
            return {UNREADABLE_HEADERS: text(headers or b"")}
        if headers and not headers.startswith(b"NATS/1."):
            return {UNREADABLE_HEADERS: text(headers)}
        return found

    async def _process_err(self, err_msg: str) -> None:
        if _BAD_SUBJECT in err_msg:
            # Somebody asked us to answer to a subject that is none. nats-py would close the connection over it.
            _log.info("nats_refused_subject", error=err_msg)
            return
        await super()._process_err(err_msg)

    def _build_message(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: dict[str, str] | None
    ) -> Any:
        return self.msg_class(self, text(subject), text(reply), data, headers, _sid=sid)


def _plain_headers(block: bytes) -> dict[str, str] | None:
    """The fields of an ordinary header block, the last of each name; None for one that needs a closer look."""
    if not (block.startswith(_PLAIN_START) and block.endswith(_PLAIN_END) and block.isascii()):
        return None
    fields: dict[str, str] = {}
    for line in block[len(_PLAIN_START) : -len(_PLAIN_END)].decode().split("\r\n"):
        name, colon, value = line.partition(":")
        if not colon or not _FIELD_NAME.fullmatch(name):
            return None
        fields[name] = value.strip()
    return fields


class Lines:
    """Bytes from the server → calls of the client. Tokens are separated by spaces and tabs, and by nothing else."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.reset()

    def reset(self) -> None:
        """Forget what was read of an unfinished line or message: another connection begins."""
        self._buffer = bytearray()
        self._searched = 0
        self._message: tuple[bytes, int, bytes, int, int] | None = None

    async def parse(self, data: bytes = b"") -> None:
        """Raises ProtocolError for what is no line of the protocol; nats-py then connects anew."""
        self._buffer += data
        while self._buffer:
            if self._message is not None:
                if not await self._payload(*self._message):
                    return
                continue
            end = self._buffer.find(_CRLF, self._searched)
            if end < 0:
                self._searched = max(0, len(self._buffer) - 1)
                if len(self._buffer) > _MAX_LINE_BYTES:
                    raise nats.errors.ProtocolError(f"a line of more than {_MAX_LINE_BYTES} bytes")
                return
            line = bytes(self._buffer[:end])
            del self._buffer[: end + len(_CRLF)]
            self._searched = 0
            try:
                await self._line(line)
            except (nats.errors.ProtocolError, OSError):
                raise
            except Exception as error:
                # nats-py would end its reading in silence; a broken line it mends.
                raise nats.errors.ProtocolError(f"{text(line[:64])!r} led to {type(error).__name__}") from error

    async def _payload(self, subject: bytes, sid: int, reply: bytes, header_bytes: int, size: int) -> bool:
        """Whether the message was there in full."""
        if len(self._buffer) < size + len(_CRLF):
            return False
        headers = bytes(self._buffer[:header_bytes]) if header_bytes else None
        body = bytes(self._buffer[header_bytes:size])
        del self._buffer[: size + len(_CRLF)]
        self._message = None
        try:
            await self._client._process_msg(sid, subject, reply, body, headers)
        except Exception as error:  # noqa: BLE001 -- one message must not end the reading of all others
            _log.exception("message_not_handed_on", subject=text(subject), type=type(error).__name__)
        return True

    async def _line(self, line: bytes) -> None:
        word, _, rest = line.replace(b"\t", b" ").partition(b" ")
        match word.upper():
            case b"MSG":
                self._message = _message(rest, with_headers=False)
            case b"HMSG":
                self._message = _message(rest, with_headers=True)
            case b"PING":
                await self._client._process_ping()
            case b"PONG":
                # The answer to a ping that nobody waits for any more: nats-py resolves what was cancelled.
                with suppress(asyncio.InvalidStateError):
                    await self._client._process_pong()
            case b"INFO":
                await self._client._process_info(_info(rest))
            case b"-ERR":
                await self._client._process_err(text(rest.strip()).lower())
            case b"+OK":
                pass
            case _:
                raise nats.errors.ProtocolError(f"{text(line[:64])!r} is no line of the NATS protocol")


def _message(arguments: bytes, *, with_headers: bool) -> tuple[bytes, int, bytes, int, int]:
    """(subject, subscription, reply, bytes of the headers, bytes of headers and body). Raises ProtocolError."""
    n_sizes = 2 if with_headers else 1
    tokens = [token for token in arguments.split(b" ") if token]
    if len(tokens) not in (2 + n_sizes, 3 + n_sizes):
        raise nats.errors.ProtocolError(f"a message with {len(tokens)} arguments")
    try:
        sid, *sizes = [int(token) for token in (tokens[1], *tokens[-n_sizes:])]
    except ValueError:
        raise nats.errors.ProtocolError("a message whose sizes are no numbers") from None
    header_bytes, size = sizes if with_headers else (0, sizes[0])
    if not 0 <= header_bytes <= size:
        raise nats.errors.ProtocolError(f"a message of {size} bytes with {header_bytes} bytes of headers")
    return tokens[0], sid, tokens[2] if len(tokens) == 3 + n_sizes else b"", header_bytes, size


def _info(raw: bytes) -> dict[str, Any]:
    try:
        found = msgspec.json.decode(raw, type=dict)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise nats.errors.ProtocolError("an INFO that is no JSON") from None
    return dict(found)
