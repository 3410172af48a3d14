"""What systemd is told of the daemon's state: datagrams to the socket that it names in the environment.

Without such a socket nothing is sent. Telling is never in the way: a message that cannot be sent is dropped.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import MutableMapping

_MAX_STATUS_CHARS = 400


class Notifier:
    """watchdog_s: how long systemd waits for a sign of life before it kills us; None: for ever."""

    def __init__(self, address: str | None, watchdog_s: float | None = None) -> None:
        self._address, self.watchdog_s = address, watchdog_s

    @classmethod
    def of(cls, environ: MutableMapping[str, str]) -> Notifier:
        """As the environment says. Takes its variables away: what tasks start must not speak for us."""
        address = environ.pop("NOTIFY_SOCKET", None)
        microseconds, pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
        ours = not pid or pid == str(os.getpid())
        watchdog_s = int(microseconds) / 1e6 if ours and microseconds.isdecimal() and int(microseconds) else None
        return cls(address or None, watchdog_s)

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self._send(f"STATUS={_line(text)}")

    def ready(self, text: str) -> None:
        """The start, or a reload, is complete."""
        self._send("READY=1", f"STATUS={_line(text)}")

    def reloading(self, monotonic_s: float) -> None:
        """monotonic_s: CLOCK_MONOTONIC; systemd tells by it that this reload is the one that it asked for."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={round(monotonic_s * 1e6)}", "STATUS=rereading the configuration")

    def stopping(self, text: str) -> None:
        self._send("STOPPING=1", f"STATUS={_line(text)}")

    def alive(self) -> None:
        """A sign of life, where one is awaited."""
        if self.watchdog_s is not None:
            self._send("WATCHDOG=1")

    def _send(self, *assignments: str) -> None:
        if self._address is None:
            return
        # A leading @ stands for the zero byte of an abstract address.
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with contextlib.suppress(OSError, ValueError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            sender.sendto("\n".join(assignments).encode(), address)


def _line(text: str) -> str:
    return " ".join(text.split())[:_MAX_STATUS_CHARS]
