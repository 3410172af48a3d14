"""Daemons by the hundred: a process that has imported everything forks one as soon as it is told to.

A start from nothing computes for half a second, most of it to import; a fork does for a tenth of that. Everything else
is the real thing: the command line `cascadenced …` in a process of its own, which dies of its own SIGKILL.

    stdin   {"fork": {"tag", "argv", "env", "output", "crash_at"}} or {"signal": [pid, number]}, one a line
    stdout  {"tag", "pid"} of what was forked, {"pid", "status"} of what has ended

It ends with its stdin, and takes along what it has forked.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import select
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).parent.parent.parent


# ── the process ──────────────────────────────────────────────────────────────────────────────────────────────────


def main() -> NoReturn:
    _import_all()
    exec(sys.argv[1], {"__name__": "defect"})
    awake, wake = socket.socketpair()
    wake.setblocking(False)
    awake.setblocking(False)
    signal.set_wakeup_fd(wake.fileno())
    signal.signal(signal.SIGCHLD, lambda *_: None)
    children: set[int] = set()
    rest = b""
    _tell({"ready": True})
    while True:
        readable, _, _ = select.select([0, awake], [], [])
        if awake in readable:
            with suppress(BlockingIOError):
                awake.recv(4096)
        _reap(children)
        if 0 not in readable:
            continue
        data = os.read(0, 1 << 16)
        if not data:
            for pid in children:
                os.kill(pid, signal.SIGKILL)
            os._exit(0)
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            asked = json.loads(line)
            if "fork" in asked:
                pid = _fork(asked["fork"])
                children.add(pid)
                _tell({"tag": asked["fork"]["tag"], "pid": pid})
            elif asked["signal"][0] in children:  # its number is its own until it is reaped
                os.kill(*asked["signal"])


def _import_all() -> None:
    import tests.crash.durable_tasks  # noqa: F401
    from cascadenced.runtime import runs

    runs.MAX_SUSPECT_BACKOFF_S = 0.1  # lives are short here: suspects would never have their turn


def _fork(asked: dict[str, Any]) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        nowhere, output = os.open(os.devnull, os.O_RDONLY), asked["output"]
        told = os.open(output, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        for source, target in ((nowhere, 0), (told, 1), (told, 2)):
            os.dup2(source, target)
        os.setsid()
        random.seed()
        os.environ.clear()
        os.environ.update(asked["env"])
        os.chdir(Path(output).parent)
        from cascadenced import crashpoint
        from cascadenced.cli import main as command_line

        crashpoint._name, _, nth = asked["crash_at"].partition(":")
        crashpoint._passes_left = int(nth or 1)
        code = command_line(asked["argv"])
        sys.stdout.flush()
        os._exit(code)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(70)


def _reap(children: set[int]) -> None:
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        children.discard(pid)
        _tell({"pid": pid, "status": os.waitstatus_to_exitcode(status)})


def _tell(what: dict[str, Any]) -> None:
    os.write(1, json.dumps(what).encode() + b"\n")


# ── who asks it ──────────────────────────────────────────────────────────────────────────────────────────────────


class Forked:
    """A process that was forked. pid: once `started`.  status: its exit status, once it has ended."""

    def __init__(self, zygote: Zygote) -> None:
        self._zygote = zygote
        loop = asyncio.get_running_loop()
        self.started: asyncio.Future[int] = loop.create_future()
        self.ended: asyncio.Future[int] = loop.create_future()

    @property
    def pid(self) -> int:
        return self.started.result()

    @property
    def status(self) -> int | None:
        return self.ended.result() if self.ended.done() else None

    async def signal(self, number: int) -> None:
        """Nothing happens if it has ended."""
        await self.started
        self._zygote.ask({"signal": [self.pid, number]})

    async def kill(self) -> int:
        await self.signal(signal.SIGKILL)
        return await self.ended


class Zygote:
    """The process above, from outside."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._by_tag: dict[int, Forked] = {}
        self._by_pid: dict[int, Forked] = {}
        self._reading = asyncio.create_task(self._read())
        self.ready = asyncio.Event()

    @classmethod
    async def start(cls, defect: str = "") -> Zygote:
        """defect: Python that is executed before anything is forked, to see whether it is found out."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.crash.zygote", defect),
            cwd=ROOT,
            env={
                name: value
                for name, value in os.environ.items()
                if not name.startswith(("CASCADENCE", "NATS_", "UME_"))
            },
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        zygote = cls(process)
        await asyncio.wait_for(zygote.ready.wait(), 60)
        return zygote

    async def fork(self, argv: list[str], env: dict[str, str], output: Path, crash_at: str = "") -> Forked:
        """argv: of the command line.  output: the file that its output is added to; its folder is where it works."""
        forked, tag = Forked(self), len(self._by_tag)
        self._by_tag[tag] = forked
        self.ask({"fork": {"tag": tag, "argv": argv, "env": env, "output": str(output), "crash_at": crash_at}})
        await asyncio.wait_for(asyncio.shield(forked.started), 20)
        return forked

    def ask(self, what: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(what).encode() + b"\n")

    async def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()
        await self._reading

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            told = json.loads(line)
            if "ready" in told:
                self.ready.set()
            elif "tag" in told:
                forked = self._by_pid[told["pid"]] = self._by_tag[told["tag"]]
                forked.started.set_result(told["pid"])
            else:
                self._by_pid.pop(told["pid"]).ended.set_result(told["status"])


if __name__ == "__main__":
    main()
