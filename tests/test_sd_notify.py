"""What systemd hears, on sockets as it makes them."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from cascadenced.sd_notify import Notifier


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    """The manager's address, as in the environment, and its socket."""
    name = f"@cascadenced-test-{os.getpid()}" if request.param == "abstract" else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind("\0" + name[1:] if name.startswith("@") else name)
        listener.settimeout(5)
        yield name, listener


def test_each_state_is_one_datagram(manager: tuple[str, socket.socket]) -> None:
    address, listener = manager
    notifier = Notifier(address, watchdog_s=1.0)
    notifier.ready("ready, http://127.0.0.1:8000/")
    assert listener.recv(4096) == b"READY=1\nSTATUS=ready, http://127.0.0.1:8000/"
    notifier.reloading(12.3456789)
    assert listener.recv(4096).splitlines()[:2] == [b"RELOADING=1", b"MONOTONIC_USEC=12345679"]
    notifier.alive()
    assert listener.recv(4096) == b"WATCHDOG=1"
    notifier.stopping("bye")
    assert listener.recv(4096) == b"STOPPING=1\nSTATUS=bye"


def test_a_text_cannot_smuggle_in_a_state(manager: tuple[str, socket.socket]) -> None:
    address, listener = manager
    Notifier(address).status("waiting\nREADY=1" + "x" * 10_000)
    (line,) = listener.recv(65536).splitlines()
    assert line.startswith(b"STATUS=waiting READY=1xxx")
    assert len(line) < 500


def test_without_a_watchdog_no_sign_of_life_is_sent(manager: tuple[str, socket.socket]) -> None:
    address, listener = manager
    notifier = Notifier(address)
    notifier.alive()
    notifier.status("first")
    assert listener.recv(4096) == b"STATUS=first"


@pytest.mark.parametrize("address", [None, "/nowhere/at/all", "@", "/x" * 100, "@\0\0"])
def test_where_nobody_listens_nothing_happens(address: str | None) -> None:
    Notifier(address, 1.0).ready("ready")
    Notifier(address, 1.0).alive()


def test_the_environment_is_read_and_not_passed_on() -> None:
    environ = {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid()), "OTHER": "1"}
    assert Notifier.of(environ).watchdog_s == 3.0
    assert environ == {"OTHER": "1"}


@pytest.mark.parametrize(("usec", "pid"), [("", ""), ("0", ""), ("nonsense", ""), ("3000000", "1"), ("-1", "")])
def test_a_watchdog_that_is_not_ours_or_not_one_is_none(usec: str, pid: str) -> None:
    assert Notifier.of({"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": usec, "WATCHDOG_PID": pid}).watchdog_s is None
