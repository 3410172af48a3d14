"""What a worker process prints: the beginning of it is kept for each stage, the rest read and counted.

Whoever prints without end is slowed down, not the daemon: beyond the bound the pipe is emptied only so often.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from contextlib import suppress

import msgspec

MAX_PRINTED_BYTES = 64 * 1024
_PIPE_BYTES = 1024 * 1024
_READ_BYTES = _PIPE_BYTES
_PAUSE_S = 0.005


class Printed(msgspec.Struct, frozen=True):
    """text: whole lines, as they were printed, not redacted.  n_dropped_bytes: what came after them."""

    text: str = ""
    n_dropped_bytes: int = 0


class Output:
    """The reading end of a worker's standard output and standard error, which are one pipe. Owns the descriptor."""

    def __init__(self, descriptor: int, max_bytes: int = MAX_PRINTED_BYTES) -> None:
        self._descriptor, self._max_bytes = descriptor, max_bytes
        self._loop = asyncio.get_running_loop()
        self._kept = bytearray()
        self._n_dropped = 0
        self._pause: asyncio.TimerHandle | None = None
        self._open = True
        os.set_blocking(descriptor, False)
        if hasattr(fcntl, "F_SETPIPE_SZ"):
            with suppress(OSError):  # one user may have only so many large pipes
                fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        self._loop.add_reader(descriptor, self._readable)

    def take(self) -> Printed:
        """What was printed since the last time. Everything that its writer has flushed by now is in it."""
        self._empty()
        kept, n_dropped = self._kept, self._n_dropped
        self._kept, self._n_dropped = bytearray(), 0
        if n_dropped and (end := kept.rfind(b"\n") + 1):
            n_dropped += len(kept) - end
            del kept[end:]
        return Printed(kept.decode(errors="replace"), n_dropped)

    def close(self) -> None:
        """What was printed by now can still be taken. Idempotent."""
        if not self._open:
            return
        self._empty()
        self._end()

    def _end(self) -> None:
        if self._open:
            self._open = False
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None

    def _readable(self) -> None:
        self._read()
        if self._open and self._n_dropped:
            self._loop.remove_reader(self._descriptor)
            self._pause = self._loop.call_later(_PAUSE_S, self._go_on)

    def _go_on(self) -> None:
        self._pause = None
        self._loop.add_reader(self._descriptor, self._readable)

    def _empty(self) -> None:
        """Read what is there; not what is added meanwhile, or it might never end."""
        left = _PIPE_BYTES
        while self._open and left > 0 and (n_read := self._read()):
            left -= n_read

    def _read(self) -> int:
        try:
            data = os.read(self._descriptor, _READ_BYTES)
        except BlockingIOError:
            return 0
        if not data:
            self._end()
            return 0
        room = self._max_bytes - len(self._kept)
        self._kept += data[:room]
        self._n_dropped += max(0, len(data) - room)
        return len(data)
