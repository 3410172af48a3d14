"""nats-py's client, reading whatever a server may send.

Its own reader ends at the first subject, reply or header block that it does not expect, without a word to anybody; and
a server hands on what any client publishes: bytes that are no UTF-8, `\\v` and `\\f` inside a subject, header blocks of
four bytes. So the lines are read here, texts are decoded so that nothing is refused, and a header block that is none is
kept whole for whoever writes the dead letter. What is left of nats-py's privacy that we rely on stands in this file.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import msgspec
import nats.aio.client
import nats.errors
import structlog

from cascadenced.bus.base import UNREADABLE_HEADERS

_MAX_LINE_BYTES = 1024 * 1024
"""Servers bound what clients send to 4 KiB a line; the INFO of a large cluster is longer."""
_MAX_WRITE_BYTES = 256 * 1024
"""Commands are joined into writes of about so much: nats-py takes 2 µs for each one it is given."""
_CRLF = b"\r\n"
_PLAIN_START, _PLAIN_END = b"NATS/1.0\r\n", b"\r\n\r\n"
_FIELD_NAME = re.compile(r"[A-Za-z0-9_-]+")
_USUAL_NAMES = frozenset({"Nats-Msg-Id", "traceparent", "Cascadence-Origin", "Status", "Description"})
"""These are field names, as one look tells; matching costs ten times as much."""
_BAD_SUBJECT = "invalid publish subject"

_log = structlog.get_logger("cascadenced.bus")


def text(raw: bytes) -> str:
    """Any bytes as text that any encoder takes: what is no UTF-8 is spelled out as `\\xff`."""
    return raw.decode("utf-8", "backslashreplace")


class Heard(msgspec.Struct, frozen=True, gc=False):
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
        self._handlers: dict[int, Callable[[Heard], None]] = {}
        self._ps: Any = Lines(self, self._handlers)

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
        for some in _joined(commands):
            await self._send_command(some)
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
        else:
            handler(Heard(text(subject), text(reply), data, await self._process_headers(headers)))

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
        if not colon or not (name in _USUAL_NAMES or _FIELD_NAME.fullmatch(name)):
            return None
        fields[name] = value.strip()
    return fields


def _joined(commands: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in fewer pieces, none much larger than the largest of them."""
    some: list[bytes] = []
    n_bytes = 0
    for command in commands:
        some.append(command)
        n_bytes += len(command)
        if n_bytes >= _MAX_WRITE_BYTES:
            yield b"".join(some)
            some, n_bytes = [], 0
    if some:
        yield b"".join(some)


class Lines:
    """Bytes from the server → calls of the client. Tokens are separated by spaces and tabs, and by nothing else.

    What was read is never moved: a message is cut out of it where it stands. handlers: by subscription; they get their
    messages at once, unless there is something unusual about them.
    """

    def __init__(self, client: Any, handlers: Mapping[int, Callable[[Heard], None]]) -> None:
        self._client, self._handlers = client, handlers
        self._connection = 0
        self.reset()

    def reset(self) -> None:
        """Forget what was read of an unfinished line or message: another connection begins."""
        self._connection += 1
        self._keep(b"", n_wanted=0)

    async def parse(self, data: bytes = b"") -> None:
        """Raises ProtocolError for what is no line of the protocol; nats-py then connects anew."""
        if self._kept:
            self._kept.append(data)
            self._n_kept += len(data)
            if self._n_kept < self._n_wanted:
                return
            data = b"".join(self._kept)
        handlers, connection, at = self._handlers, self._connection, 0
        while (stop := data.find(_CRLF, at)) >= 0:
            line, begin = data[at:stop], stop + len(_CRLF)
            announced = _announced(line)
            if announced is None:
                at = begin
                await self._other(line)
            else:
                subject, sid, reply, header_bytes, size = announced
                end = begin + size
                if len(data) < end + len(_CRLF):
                    self._keep(data[at:], n_wanted=end + len(_CRLF) - at)
                    return
                at = end + len(_CRLF)
                headers, body = data[begin : begin + header_bytes], data[begin + header_bytes : end]
                handler, fields = handlers.get(sid), _plain_headers(headers) if headers else None
                try:
                    if handler is None or (headers and fields is None):
                        await self._client._process_msg(sid, subject, reply, body, headers or None)
                    else:
                        handler(Heard(text(subject), text(reply), body, fields))
                except Exception as error:  # noqa: BLE001 -- one message must not end the reading of all others
                    _log.exception("message_not_handed_on", subject=text(subject), type=type(error).__name__)
            if connection != self._connection:
                return  # this led to a new connection; the rest is from the old one
        if len(data) - at > _MAX_LINE_BYTES:
            raise nats.errors.ProtocolError(f"a line of more than {_MAX_LINE_BYTES} bytes")
        self._keep(data[at:], n_wanted=0)

    def _keep(self, data: bytes, *, n_wanted: int) -> None:
        """Of an unfinished line or message. n_wanted: how many bytes there must be before it is worth another look."""
        self._kept = [data] if data else []
        self._n_kept, self._n_wanted = len(data), n_wanted

    async def _other(self, line: bytes) -> None:
        """A line that announces no message."""
        try:
            await self._told(line)
        except (nats.errors.ProtocolError, OSError):
            raise
        except Exception as error:
            # nats-py would end its reading in silence; a broken line it mends.
            raise nats.errors.ProtocolError(f"{text(line[:64])!r} led to {type(error).__name__}") from error

    async def _told(self, line: bytes) -> None:
        word, _, rest = line.replace(b"\t", b" ").partition(b" ")
        match word.upper():
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


def _announced(line: bytes) -> tuple[bytes, int, bytes, int, int] | None:
    """The message that follows the line: (subject, subscription, reply, bytes of the headers, bytes of headers and
    body); None if the line announces none. Raises ProtocolError."""
    reply, header_bytes = b"", b"0"
    match line.split(b" "):
        # As servers spell deliveries and answers: most of what we read.
        case [b"HMSG", subject, sid, reply, header_bytes, size] if subject and reply and b"\t" not in line:
            pass
        case [b"MSG", subject, sid, size] if subject and b"\t" not in line:
            pass
        case _:
            word, *arguments = line.replace(b"\t", b" ").split(b" ")
            match word.upper(), [argument for argument in arguments if argument]:
                case b"MSG", [subject, sid, *answer, size] if len(answer) < 2:
                    pass
                case b"HMSG", [subject, sid, *answer, header_bytes, size] if len(answer) < 2:
                    pass
                case ((b"MSG" | b"HMSG"), wrong):
                    raise nats.errors.ProtocolError(f"a message with {len(wrong)} arguments")
                case _:
                    return None
            reply = answer[0] if answer else b""
    try:
        n_header_bytes, n_bytes = int(header_bytes), int(size)
        if 0 <= n_header_bytes <= n_bytes:
            return subject, int(sid), reply, n_header_bytes, n_bytes
    except ValueError:
        raise nats.errors.ProtocolError("a message whose sizes are no numbers") from None
    raise nats.errors.ProtocolError(f"a message of {n_bytes} bytes with {n_header_bytes} bytes of headers")


def _info(raw: bytes) -> dict[str, Any]:
    try:
        found = msgspec.json.decode(raw, type=dict)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise nats.errors.ProtocolError("an INFO that is no JSON") from None
    return dict(found)
