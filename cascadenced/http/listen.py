"""Sockets to listen on, and what may go wrong with them, as a person who configured them needs to read it."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import stat
from collections.abc import Sequence
from pathlib import Path

from cascadenced.errors import ConfigError
from cascadenced.private_files import exclusive_folder

SOCKET_MODE = 0o600
BACKLOG = 128


async def tcp_sockets(host: str, port: int) -> list[socket.socket]:
    """Listening sockets, one for each address that `host` has. Raises ConfigError.

    port: 0 for any free one, the same at every address.
    """
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise ConfigError(f"http_host: {host!r} is no address of this machine: {error.strerror}") from None
    bound: list[socket.socket] = []
    last: ConfigError | None = None
    for family, address in dict.fromkeys((family, address) for family, _, _, _, address in found):
        try:
            bound.append(_listening(family, (address[0], port, *address[2:])))
        except OSError as error:
            last = _refused(error, host, port)
            if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                # A name may have addresses that this machine does not (::1 without IPv6); that alone is no mistake.
                close_all(bound)
                raise last from None
        else:
            port = port or bound[0].getsockname()[1]
    if last is not None and not bound:
        raise last
    return bound


def _listening(family: int, address: Sequence[object]) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind(tuple(address))
        made.listen(BACKLOG)  # two programs may bind the same port; only one may listen
    except BaseException:
        made.close()
        raise
    return made


def _refused(error: OSError, host: str, port: int) -> ConfigError:
    where = f"cannot listen on http_host {host}, http_port {port}"
    match error.errno:
        case errno.EADDRINUSE:
            remedy = "another program listens there (choose another http_port, or 0 for any free one)"
        case errno.EACCES:
            remedy = "this port needs more rights (choose an http_port above 1023)"
        case errno.EADDRNOTAVAIL:
            remedy = "this machine does not have that address (127.0.0.1 is always there)"
        case _:
            remedy = error.strerror or str(error)
    return ConfigError(f"{where}: {remedy}")


def url_of(host: str, bound: socket.socket) -> str:
    """Where a program on this machine finds the server."""
    port = bound.getsockname()[1]
    name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 -- compared, not bound
    return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"


def unix_socket(path: Path, data_dir: Path) -> socket.socket:
    """A bound socket at `path` that only its owner may open. Raises ConfigError.

    The caller holds the lock of the data folder, so a socket found at `path` belongs to nobody any more: its daemon was
    killed.
    """
    if path.parent != data_dir:
        exclusive_folder(path.parent)
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        made.bind(str(path))
        # Nobody can connect between these: it does not listen yet.
        os.chmod(path, SOCKET_MODE)
    except OSError as error:
        made.close()
        raise ConfigError(f"the socket {path} cannot be made: {error.strerror or error}") from None
    except BaseException:
        made.close()
        raise
    return made


def _remove_stale(path: Path) -> None:
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise ConfigError(f"{path} is in the way: it is no socket; move it away")
    path.unlink()


def close_all(sockets: Sequence[socket.socket]) -> None:
    for made in sockets:
        made.close()
