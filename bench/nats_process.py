"""A nats-server of the bench's own, and the client that it is reached with."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import nats

from cascadenced.bus.embedded_config import Settings, Version, config_text, find_server, server_version

READY_WITHIN_S = 20.0


class Server(msgspec.Struct, frozen=True):
    """A running nats-server. url: with its token in it."""

    url: str
    pid: int


@contextmanager
def nats_server(folder: Path, *, synced: bool) -> Iterator[Server]:
    """JetStream on files in `folder`, a free loopback port.

    synced: configured as the daemon's own server is (each message synced before it is confirmed, store encrypted); else
    as a server is by default (synced every two minutes, in clear).
    """
    folder.mkdir()
    path = find_server(None)
    token = secrets.token_hex(16)
    settings = Settings(folder=folder, token=token, key=secrets.token_hex(32))
    (folder / "server.conf").write_text(config_text(settings, version()) if synced else _plain(settings))
    process = subprocess.Popen(
        [path, "-c", folder / "server.conf"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield Server(f"nats://{token}@127.0.0.1:{_port(folder / f'{path.name}_{process.pid}.ports')}", process.pid)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def version() -> Version:
    """Of the nats-server that is found."""
    return asyncio.run(server_version(find_server(None)))


@asynccontextmanager
async def client(url: str) -> AsyncIterator[Any]:
    """A plain nats-py client."""
    connected = await nats.connect(url, max_reconnect_attempts=0)
    try:
        yield connected
    finally:
        with contextlib.suppress(Exception):
            await connected.close()


def _plain(settings: Settings) -> str:
    return f"""listen: "127.0.0.1:{settings.port}"
authorization {{ token: "{settings.token}" }}
jetstream {{ store_dir: {json.dumps(str(settings.folder))} }}
ports_file_dir: {json.dumps(str(settings.folder))}
log_file: {json.dumps(str(settings.folder / "server.log"))}
"""


def _port(ports: Path) -> int:
    deadline = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < deadline:
        with contextlib.suppress(FileNotFoundError, ValueError, LookupError):
            return int(json.loads(ports.read_bytes())["nats"][0].rpartition(":")[2])
        time.sleep(0.005)
    raise TimeoutError(f"nats-server is not ready: see {ports.with_name('server.log')}")
