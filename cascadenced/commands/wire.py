"""A verb over the daemon's Unix socket: one HTTP exchange, with nothing that takes long to import.

HTTP/1.0, one request per connection: the answer ends where the connection does, and is never sent in chunks.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from typing import Any, NamedTuple

from cascadenced.config import Config
from cascadenced.errors import ConfigError, Unavailable

MAX_NOTE_BYTES = 64 * 1024

Reply = tuple[int, bytes]
"""Status as in HTTP, JSON."""


class Note(NamedTuple):
    """`daemon.json`: where the daemon of a data folder is found. nats_url: with credentials, so not for showing."""

    pid: int
    http_url: str
    nats_url: str
    socket: str
    version: str
    instance_id: str


class Broken(Unavailable):
    """The connection ended before the answer did: whether the wish was granted is not known."""

    code = "no_answer"


def note(config: Config) -> Note | None:
    """What the daemon of this folder left about itself; after `kill -9` that of the last one. None if there is none."""
    try:
        with open(config.daemon_json, "rb") as file:
            found = _read(json.loads(file.read(MAX_NOTE_BYTES)))
    except PermissionError as error:
        raise ConfigError(f"{config.daemon_json} cannot be read: {error.strerror}") from None
    except (OSError, ValueError, RecursionError):
        return None
    return found if found is not None and _is_of(found.socket, config) else None


def _read(value: Any) -> Note | None:
    """A note as JSON; fields of a later version are left out. None for anything else."""
    try:
        found = Note(**{field: value[field] for field in Note._fields})
    except (TypeError, KeyError):
        return None
    return found if type(found.pid) is int and all(isinstance(text, str) for text in found[1:]) else None


def exchange(config: Config, path: str, body: bytes, timeout_s: float | None) -> Reply | None:
    """POST `body` to the daemon and wait for the answer; None if no daemon listens.

    Raises Unavailable when it does not answer within `timeout_s` seconds (None: as long as it takes), Broken.
    """
    found = note(config)
    if found is None:
        return None
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection, _translated(found):
        connection.settimeout(timeout_s)
        if not _connected(connection, found):
            return None
        connection.sendall(request(path, body))
        chunks = list(iter(lambda: connection.recv(1 << 16), b""))
        return parsed(b"".join(chunks), found)


async def exchange_async(config: Config, path: str, body: bytes, timeout_s: float | None) -> Reply | None:
    """As `exchange`, for callers on an event loop."""
    import asyncio

    found = note(config)
    if found is None:
        return None
    with _translated(found):
        async with asyncio.timeout(timeout_s):
            try:
                reader, writer = await asyncio.open_unix_connection(found.socket)
            except (FileNotFoundError, ConnectionRefusedError):
                return None
            try:
                writer.write(request(path, body))
                return parsed(await reader.read(-1), found)
            finally:
                writer.close()


def request(path: str, body: bytes) -> bytes:
    """The bytes of the request."""
    head = (
        f"POST {path} HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body


def parsed(answer: bytes, found: Note) -> Reply:
    """The reply in all the bytes that came. Raises Broken if some are missing."""
    head, blank, body = answer.partition(b"\r\n\r\n")
    status_line, *fields = head.split(b"\r\n")
    words = status_line.split(b" ", 2)
    if not blank or len(words) < 2 or not words[0].startswith(b"HTTP/") or not words[1].isdigit():
        raise _gone(found)
    for field in fields:
        name, _, value = field.partition(b":")
        if name.strip().lower() == b"content-length" and value.strip() != str(len(body)).encode():
            raise _gone(found)
    return int(words[1]), body


def _is_of(path: str, config: Config) -> bool:
    """Whether the socket belongs to this folder: a copied folder brings along the note of the original's daemon."""
    own = config.socket
    folder, name = os.path.split(path)
    own_folder, own_name = os.path.split(own)
    if name != own_name:
        return False
    if own_folder != config.data_dir:
        return True  # a socket elsewhere is named after its data folder
    with contextlib.suppress(OSError):
        return os.path.samefile(folder, config.data_dir)
    return False


def _connected(connection: socket.socket, found: Note) -> bool:
    try:
        connection.connect(found.socket)
    except (FileNotFoundError, ConnectionRefusedError):
        return False
    return True


@contextlib.contextmanager
def _translated(found: Note) -> Iterator[None]:
    try:
        yield
    except TimeoutError:
        raise Unavailable(f"the daemon (process {found.pid}) does not answer; its log may say why") from None
    except (ConnectionError, EOFError):
        raise _gone(found) from None
    except OSError as error:
        raise Unavailable(f"the daemon's socket {found.socket} cannot be used: {error.strerror}") from None


def _gone(found: Note) -> Broken:
    return Broken(
        f"the daemon (process {found.pid}) went away before it answered: what was asked may have been recorded "
        "(`cascadenced runs` tells)"
    )
