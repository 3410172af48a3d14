"""Tasks that do to their process what must not be done to the daemon's."""

from __future__ import annotations

import asyncio
import ctypes
import mmap
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from typing import Any

from tests.runtime.worker_tasks import Task


class Aborts:
    def run(self) -> None:
        print("about to abort", end="")
        sys.stdout.flush()
        os.abort()


class Segfaults:
    async def run(self) -> None:
        ctypes.string_at(0)


class Exits:
    args: dict[str, Any]

    def run(self) -> None:
        print("leaving")
        os._exit(self.args["code"])


class KillsItself:
    def run(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class KillsItsGroup:
    def run(self) -> None:
        os.killpg(0, signal.SIGKILL)


class RealTimeSignal:
    def run(self) -> None:
        os.kill(os.getpid(), signal.SIGRTMIN + 1)


class LoopsForEver(Task):
    def run(self) -> None:
        self.begun()
        while True:
            pass


class LoopsInC(Task):
    """Never lets go of the interpreter's lock."""

    def run(self) -> None:
        self.begun()
        re.match(r"(a+)+$", "a" * 64 + "b")


class IgnoresSignals(Task):
    def run(self) -> None:
        for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_IGN)
        self.begun()
        while True:
            time.sleep(1)


class SwallowsCancellation(Task):
    async def run(self) -> None:
        self.begun()
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                continue


class BlocksItsLoop(Task):
    async def run(self) -> None:
        self.begun()
        time.sleep(1_000)


class StopsItself(Task):
    def run(self) -> None:
        self.begun()
        os.kill(os.getpid(), signal.SIGSTOP)


class Prints:
    args: dict[str, Any]

    def run(self) -> str:
        block = b"x" * 1023 + b"\n"
        for _ in range(self.args["n_mib"]):
            os.write(1, block * 1024)
        return "printed"


class PrintsForEver(Task):
    def run(self) -> None:
        self.begun()
        while True:
            print("again")


class EatsMemory:
    """what: lists, one block, or memory that is shared."""

    args: dict[str, Any]

    def run(self) -> int:
        held: list[Any] = []
        while True:
            match self.args["what"]:
                case "objects":
                    held.append([None] * 1000)
                case "block":
                    held.append(bytearray(1 << 40))
                case "shared":
                    held.append(mmap.mmap(-1, 1 << 28))

    def verify(self) -> str:
        return "still there"


class EatsMemoryAsAResult:
    def run(self) -> Any:
        block = "x" * 1_000_000
        return [block] * 2_000


class EatsTime(Task):
    args: dict[str, Any]

    def run(self) -> None:
        if self.args.get("ignores"):
            signal.signal(signal.SIGXCPU, signal.SIG_IGN)
        while True:
            pass


class ForksChildren(Task):
    """A few that ignore what can be ignored, and have children of their own."""

    def run(self) -> list[int]:
        script = "trap '' TERM HUP INT; sleep 1000 & echo $!; echo $$; wait; sleep 1000"
        children = [subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, text=True) for _ in range(4)]
        pids = [int(child.stdout.readline()) for child in children for _ in range(2) if child.stdout]
        self.children = children
        self._host.step("children", lambda: pids)
        return pids

    def verify(self) -> None:
        os.abort()


class ForksAndReturnsTwice:
    def run(self) -> str:
        return "the child's" if os.fork() == 0 else "the parent's"

    def verify(self) -> str:
        return "once"


class ForkedChildRunsOn(Task):
    """It holds whatever its parent had open."""

    def run(self) -> None:
        pid = os.fork()
        if pid == 0:
            time.sleep(1_000)
        self._host.step("child", lambda: pid)
        os._exit(5)


class ClosesEverything:
    def run(self) -> str:
        os.closerange(0, 4096)
        return "closed"


class ClosesEverythingAndOpensMore(Task):
    """What is opened then has the numbers of what was closed."""

    args: dict[str, Any]

    def run(self) -> str:
        os.closerange(0, 4096)
        for n in range(32):
            os.open(f"{self.args['folder']}/{n}", os.O_RDWR | os.O_CREAT)
        return "a result that belongs in no file"


class ClosesEverythingAndGoesOn(Task):
    def run(self) -> None:
        self.begun()
        os.closerange(0, 4096)
        while True:
            time.sleep(1)


def channel() -> socket.socket:
    """The one that connects us with the daemon."""
    for name in os.listdir("/proc/self/fd"):
        try:
            found = socket.socket(fileno=os.dup(int(name)))
        except OSError:
            continue
        if found.family == socket.AF_UNIX:
            return found
    raise AssertionError("there is no socket")


class ShutsTheSocket:
    def run(self) -> None:
        channel().shutdown(socket.SHUT_RDWR)
        time.sleep(1_000)


class ShutsHalfTheSocket:
    """The daemon hears nothing more; the task itself goes on."""

    def run(self) -> None:
        channel().shutdown(socket.SHUT_WR)
        time.sleep(1_000)


class Forges:
    args: dict[str, Any]

    def run(self) -> None:
        channel().sendall(bytes.fromhex(self.args["hex"]))
        time.sleep(1_000)


def frame(text: bytes) -> bytes:
    return len(text).to_bytes(4) + text


FORGED = {
    "no JSON": frame(b"hello"),
    "no type": frame(b"{}"),
    "an unknown type": frame(b'{"type":"nothing"}'),
    "what only the daemon says": frame(b'{"type":"close"}'),
    "another shape": frame(b'{"type":"step","id":"x","place":"1","name":"n"}'),
    "an endless frame": b"\xff\xff\xff\xff" + b"x" * 100,
    "a deep value": frame(b'{"type":"returned","value":' + b"[" * 5_000 + b"]" * 5_000 + b"}"),
    "a value deeper than allowed": frame(b'{"type":"returned","value":' + b"[" * 200 + b"]" * 200 + b"}"),
    "a value larger than allowed": frame(b'{"type":"returned","value":"' + b"x" * 600_000 + b'"}'),
    "a wide integer": frame(b'{"type":"returned","value":' + b"9" * 30 + b"}"),
    "no UTF-8": frame(b'{"type":"returned","value":"\xff"}'),
    "a step's value deeper than allowed": frame(
        b'{"type":"step_done","id":1,"place":"1","name":"n","value":' + b"[" * 200 + b"]" * 200 + b"}"
    ),
}


class FloodsWithQuestions(Task):
    """Without waiting for an answer."""

    def run(self) -> None:
        self.begun()
        found, question = channel(), frame(b'{"type":"sleep","id":7,"place":"1","seconds":1}')
        while True:
            found.sendall(question * 1_000)


class HostileText(Exception):
    def __str__(self) -> str:
        raise SystemExit(9)

    __repr__ = __str__

    @property
    def partial(self) -> object:
        raise SystemExit(9)


class Hostile:
    """A value that can be looked at in no way."""

    def __getattribute__(self, name: str) -> Any:
        raise SystemExit(9)

    def __repr__(self) -> str:
        raise SystemExit(9)

    __str__ = __repr__


class NameExits(type):
    @property
    def __name__(cls) -> str:  # type: ignore[override]
        raise SystemExit(9)

    @property
    def __mro__(cls) -> Any:  # type: ignore[override]
        raise SystemExit(9)


class HostileName(Exception, metaclass=NameExits):
    pass


class RaisesHostile:
    args: dict[str, Any]

    def run(self) -> Any:
        match self.args["what"]:
            case "text":
                raise HostileText()
            case "name":
                raise HostileName("x")
            case "cause":
                raise ValueError("x") from HostileText()
            case "argument":
                raise ValueError(Hostile())
            case "result":
                return Hostile()
            case "long":
                raise ValueError("é" * 3_000_000)
            case "surrogate":
                raise ValueError("\ud800")


class BreaksPython:
    """Takes away what we might need afterwards."""

    def run(self) -> str:
        sys.stdout = sys.stderr = None
        sys.modules.clear()
        sys.path.clear()
        os.chdir("/")
        os.umask(0o777)
        return "broken"

    def verify(self) -> str:
        return "still there"


class RaisesInTheReader(Task):
    """Patches us, the thread that reads included."""

    def run(self) -> None:
        import cascadenced.worker.channel as ours

        def broken(*_: object) -> None:
            raise SystemExit(9)

        ours.Channel._take = broken
        self._host.step("never answered", lambda: None)


class RaisesLimits:
    def run(self) -> list[int]:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        return []
