"""Starting and stopping the daemon, and the demo."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from cascadenced.commands import wire
from cascadenced.commands.failures import FAILED
from cascadenced.commands.options import Command
from cascadenced.commands.session import Session, pass_session, patience, remark
from cascadenced.commands.tables import fields, plain
from cascadenced.config import Config
from cascadenced.errors import LogHeld, Unavailable

if TYPE_CHECKING:
    import subprocess

_READY_WITHIN_S = 30.0
_STOP_MARGIN_S = 10.0
_LOOK_AGAIN_S = 0.02
_TAIL_LINES = 20


@click.command(cls=Command)
@click.option("--detach", is_flag=True, help="Return when the daemon is ready; it goes on in the background.")
@pass_session
def up(session: Session, detach: bool) -> int:
    """Start the daemon, in the foreground or detached.

    Ctrl-C stops it. Without NATS_URL it starts a nats-server of its own. With --detach its log is daemon.log in the
    data folder, and `cascadenced down` stops it. Exits 75 if another process holds the folder for longer than
    `lock_wait_s`.
    """
    if not detach:
        from cascadenced.daemon import serve

        return serve(session.config, click.echo, session.reread)
    return _detach(session)


@click.command(cls=Command)
@pass_session
def down(session: Session) -> None:
    """Stop the daemon and wait until it is gone.

    Stages under way may end within `stop_grace_s` seconds; what is left goes on at the next start.
    """
    config = session.config
    pid = _ask_to_stop(config)
    if pid is None:
        session.show({"stopped": None}, f"no daemon is up on {config.data_dir}")
        return
    with patience(f"waiting for process {pid} to stop"):
        _wait_until_gone(config, pid)
    session.show({"stopped": pid}, f"daemon stopped (process {pid})")


@click.command(cls=Command)
@pass_session
def demo(session: Session) -> int:
    """See it work, a kill -9 in the middle included.

    Starts a daemon of its own in an empty folder; nothing is left behind.
    """
    from cascadenced.commands.demo import demo as show

    return show(click.echo)


# ── up ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _detach(session: Session) -> int:
    config = session.config
    if _answers(config):
        found = wire.note(config)
        assert found is not None
        _announce(session, found, "is up already")
        return 0
    import subprocess
    from pathlib import Path

    from cascadenced.private_files import private_folder

    private_folder(Path(config.data_dir))
    log = os.open(config.daemon_log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    start = os.lseek(log, 0, os.SEEK_END)
    try:
        child = subprocess.Popen(  # noqa: S603 -- our own command line
            [sys.executable, "-m", "cascadenced", *_passed_on(session), "up"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    finally:
        os.close(log)
    try:
        with patience("waiting for the daemon to be ready"):
            found = _ready(config, child)
    except KeyboardInterrupt:
        child.terminate()
        raise
    if found is not None:
        _announce(session, found, "is up")
        return 0
    code = child.poll()
    waited_s = config.lock_wait_s + _READY_WITHIN_S
    how = f"ended with exit code {code}" if code is not None else f"is not ready after {waited_s:g} s and goes on"
    remark(f"error: the daemon (process {child.pid}) {how}; {config.daemon_log_path} says:\n{_tail(config, start)}")
    return code if code is not None and code > 0 else FAILED


def _passed_on(session: Session) -> list[str]:
    """The options of this command line that the daemon needs as well."""
    given = [("--config", session.config_path), ("--data-dir", session.config.data_dir)]
    given += [(option, _text(session.overrides.get(key))) for option, key in
              (("--nats-conn", "nats_url"), ("--nats-subject", "ume_nats_subject"))]  # fmt: skip
    return [word for option, value in given if value is not None for word in (option, value)]


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _answers(config: Config) -> bool:
    try:
        return wire.exchange(config, "/rpc/list", b"{}", 5.0) is not None
    except Unavailable:
        return False


def _ready(config: Config, child: subprocess.Popen[bytes]) -> wire.Note | None:
    """What the child leaves when it is ready; None if it ends, or takes too long."""
    deadline = time.monotonic() + config.lock_wait_s + _READY_WITHIN_S
    while child.poll() is None and time.monotonic() < deadline:
        found = wire.note(config)
        if found is not None and found.pid == child.pid:
            return found
        time.sleep(_LOOK_AGAIN_S)
    return None


def _tail(config: Config, start: int) -> str:
    with config.daemon_log_path.open("rb") as file:
        file.seek(start)
        lines = file.read().decode(errors="replace").splitlines()
    return "\n".join(f"  {plain(line)}" for line in lines[-_TAIL_LINES:])


def _announce(session: Session, found: wire.Note, how: str) -> None:
    shown: dict[str, Any] = found._asdict()
    del shown["nats_url"]  # it has credentials in it
    command = "cascadenced" + session.given()
    text = fields(
        [
            ("data", session.config.data_dir),
            ("status", f"{found.http_url}/"),
            ("log", session.config.daemon_log_path),
            ("try", f"{command} run example --user-id you --group-id team"),
            ("stop", f"{command} down"),
        ],
        indent="  ",
    )
    session.show(shown, f"cascadenced {found.version} {how} (process {found.pid})\n{text}")
    for plugin, why in _rejected(session.config).items():
        remark(f"warning: {plain(plugin)} is not loaded: {plain(why)}")


def _rejected(config: Config) -> dict[str, str]:
    """Plugins that the daemon could not use, and why: somebody who has just written one looks here first."""
    try:
        reply = wire.exchange(config, "/rpc/status", b"{}", 5.0)
    except Unavailable:
        return {}
    if reply is None or reply[0] != 200:
        return {}
    rejected: dict[str, str] = json.loads(reply[1]).get("rejected", {})
    return rejected


# ── down ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _ask_to_stop(config: Config) -> int | None:
    """The process id of the daemon that was told to stop; None if there is none."""
    found = wire.note(config)
    try:
        if found is not None and wire.exchange(config, "/stop", b"", 5.0) is not None:
            return found.pid
    except wire.Broken:
        pass  # it may have stopped so quickly; looking at the lock tells
    except Unavailable:
        pass  # it does not answer any more, or not yet: a signal is what is left
    # One that is still starting has no socket yet. That the lock is taken proves that its holder is alive.
    import signal

    from cascadenced.eventlog.lock import read_holder

    pid = _holder(config)
    if pid is None or read_holder(config.data_dir).who != "daemon":
        return None
    os.kill(pid, signal.SIGTERM)
    return pid


def _wait_until_gone(config: Config, pid: int) -> None:
    """Return when the process has let go of the folder; the kernel sees to that, however it ends."""
    patience_s = config.stop_grace_s + _STOP_MARGIN_S
    deadline = time.monotonic() + patience_s
    while _holder(config) == pid:
        if time.monotonic() >= deadline:
            raise Unavailable(f"the daemon (process {pid}) has not stopped within {patience_s:g} s")
        time.sleep(_LOOK_AGAIN_S)


def _holder(config: Config) -> int | None:
    """The process that holds the folder now, None if nobody does."""
    from cascadenced.eventlog.lock import DataFolderLock

    if not config.lock_path.exists():
        return None
    try:
        DataFolderLock.acquire(config.data_dir, "the command down").release()
    except LogHeld as held:
        return held.pid
    return None
