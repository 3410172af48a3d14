"""A nats-server of our own: found, locked, started as our child, watched and stopped.

nats-server does not lock its store, and two of them on one folder both write. So we lock `nats/lock` and hand the open
file on to the child: the lock lives exactly as long as the server, however either of us ends. When we are killed the
kernel sends the child SIGTERM (Linux); the next daemon waits for the lock until it is gone.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import fcntl
import json
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Self

import msgspec
import structlog

from cascadenced.bus.embedded_config import (
    SYNC_INTERVAL_SINCE,
    Settings,
    Version,
    config_text,
    find_server,
    server_version,
)
from cascadenced.clock import Clock, SystemClock
from cascadenced.errors import LogHeld, Unavailable
from cascadenced.private_files import write_atomically

_LOCK_AGAIN_S = 0.025
_READY_WITHIN_S = 120.0
"""After a kill it reads all its store before it is ready: 100 MB/s here, a quarter of that on a slow disk (the default
bounds allow 1.25 GB). Stopped halfway it would begin again, for ever."""
_READY_AGAIN_S = 0.005
_STOP_WITHIN_S = 5.0
_GREETED_WITHIN_S = 5.0
_GREETING = b"INFO "
_PR_SET_PDEATHSIG = 1

_log = structlog.get_logger("cascadenced.bus")


class EmbeddedServer:
    """A running nats-server. Created running by `start`; `stop` must be called before the event loop ends."""

    def __init__(self, path: Path, version: Version, settings: Settings, *, lock_wait_s: float, clock: Clock) -> None:
        self.path = path
        self.version = ".".join(map(str, version))
        self.synced = version >= SYNC_INTERVAL_SINCE
        """Whether it syncs each message before it confirms it."""
        self._version, self._settings, self._lock_wait_s, self._clock = version, settings, lock_wait_s, clock
        self._process: asyncio.subprocess.Process | None = None

    @classmethod
    async def start(
        cls,
        data_dir: Path,
        *,
        token: str,
        key: str | None = None,
        server: str | None = None,
        lock_wait_s: float = 10,
        max_payload: int = 1024 * 1024,
        max_file_store: int = 2 << 30,
        clock: Clock | None = None,
    ) -> Self:
        """Start a server on `data_dir/nats`, on a free loopback port. Call it on the main thread.

        token: what clients must show; whoever can read the data folder can read it.
        key: encrypts the store; the same one at every start on this folder.
        server: path of the binary, None to look for one.
        lock_wait_s: how long to wait for a server that still uses the folder.
        Raises ConfigError (no server), LogHeld (the folder stays in use), Unavailable (it does not start).
        """
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError(
                "start the server on the main thread: Linux ends it when the thread that started it ends"
            )
        path = find_server(server)
        folder = (data_dir / "nats").absolute()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
        settings = Settings(folder=folder, token=token, key=key, max_payload=max_payload, max_file_store=max_file_store)
        version = await server_version(path)
        embedded = cls(path, version, settings, lock_wait_s=lock_wait_s, clock=clock or SystemClock())
        await embedded._launch()
        return embedded

    @property
    def url(self) -> str:
        """With the token in it: not for logs."""
        return f"nats://{self._settings.token}@127.0.0.1:{self.port}"

    @property
    def port(self) -> int:
        return self._settings.port

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def answers(self) -> bool:
        """Whether it greets who connects, within 5 s; a process that is stopped or deadlocked does not."""
        try:
            async with asyncio.timeout(_GREETED_WITHIN_S):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                try:
                    return await reader.readexactly(len(_GREETING)) == _GREETING
                finally:
                    writer.transport.abort()
        except (ConnectionError, TimeoutError, asyncio.IncompleteReadError):
            return False
        except OSError:  # it is we who cannot ask: no file descriptor left, say
            return True

    def kill(self) -> None:
        """SIGKILL, which ends also what is stopped. What it has confirmed it has synced."""
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.kill()

    def set_aside(self, stream: str) -> None:
        """While it does not run: move the files of `stream` out of its sight, in the place of what was moved before."""
        aside = self._settings.folder / "unreadable" / stream
        shutil.rmtree(aside, ignore_errors=True)
        aside.parent.mkdir(mode=0o700, exist_ok=True)
        for found in (self._settings.folder / "jetstream").glob(f"*/streams/{stream}"):
            found.rename(aside)
        _log.warning("nats_stream_set_aside", stream=stream, folder=str(aside))

    async def wait(self) -> int:
        """Return when the server has ended, for whatever reason: its exit status, or minus the signal's number."""
        assert self._process is not None
        return await self._process.wait()

    async def restart(self) -> None:
        """Start it again after it ended (or stop it first), on the same port and store. Raises as `start`."""
        await self.stop()
        await self._launch()

    async def stop(self) -> None:
        """SIGTERM, and after 5 s SIGKILL. Returns when it has ended. Idempotent."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        with suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), _STOP_WITHIN_S)
        except TimeoutError:
            _log.warning("nats_server_killed", pid=process.pid)
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _launch(self) -> None:
        folder = self._settings.folder
        lock = await _locked(folder / "lock", self._lock_wait_s, self._clock)
        try:
            for stale in folder.glob("*.ports"):
                stale.unlink()
            config = folder / "server.conf"
            write_atomically(config, config_text(self._settings, self._version).encode())
            self._process = await asyncio.create_subprocess_exec(
                self.path,
                "-c",
                config,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
                pass_fds=(lock,),
                # Ctrl-C at the terminal is for us; we stop the server when we have drained.
                start_new_session=True,
                preexec_fn=_die_with_parent(),
            )
            _write_pid(lock, self._process.pid)
        finally:
            os.close(lock)  # the child has it now
        try:
            port = await self._ready()
        except BaseException:
            await self.stop()
            raise
        self._settings = msgspec.structs.replace(self._settings, port=port)
        _log.info("nats_server_started", path=str(self.path), version=self.version, pid=self.pid, port=port)

    async def _ready(self) -> int:
        """The port it listens on, from the file it writes when it is ready; nats-server gives no other sign."""
        process = self._process
        assert process is not None
        ports = self._settings.folder / f"{self.path.name}_{process.pid}.ports"
        deadline = self._clock.monotonic() + _READY_WITHIN_S
        while process.returncode is None and self._clock.monotonic() < deadline:
            with suppress(FileNotFoundError, ValueError, LookupError):  # not there, or not yet all of it
                return int(json.loads(ports.read_bytes())["nats"][0].rpartition(":")[2])
            await self._clock.sleep(_READY_AGAIN_S)
        how = "did not get ready" if process.returncode is None else f"ended with status {process.returncode}"
        log = self._settings.folder / "server.log"
        raise Unavailable(f"{self.path} {self.version} {how}: see {log}{_last_line(log)}")


async def _locked(path: Path, wait_s: float, clock: Clock) -> int:
    """A descriptor of `path` with an exclusive lock on it. Raises LogHeld when it stays locked for `wait_s`."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline = clock.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EACCES):
                    raise
            else:
                return descriptor
            if clock.monotonic() >= deadline:
                pid = _read_pid(descriptor)
                raise LogHeld(
                    f"another nats-server (pid {pid or 'unknown'}) still uses {path.parent}: stop it first", pid=pid
                )
            await clock.sleep(_LOCK_AGAIN_S)
    except BaseException:
        os.close(descriptor)
        raise


def _write_pid(descriptor: int, pid: int) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{pid}\n".encode(), 0)


def _read_pid(descriptor: int) -> int | None:
    text = os.pread(descriptor, 32, 0).strip()
    return int(text) if text.isdigit() else None


def _last_line(log: Path) -> str:
    """What the server said last, for an error message. Its log has no credentials."""
    try:
        lines = log.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    return f" ({lines[-1].strip()})" if lines else ""


def _die_with_parent() -> Callable[[], None] | None:
    """What the child runs before nats-server: have the kernel send it SIGTERM when we die. None where there is no such
    thing; there the lock alone keeps the next daemon from starting a second server."""
    if sys.platform != "linux":
        return None
    # Everything is resolved here: between fork and exec nothing may allocate or take a lock.
    prctl = ctypes.CDLL(None).prctl
    parent, sigterm = os.getpid(), int(signal.SIGTERM)

    def in_child() -> None:
        prctl(_PR_SET_PDEATHSIG, sigterm)
        if os.getppid() != parent:  # we died in between
            os._exit(1)

    return in_child
