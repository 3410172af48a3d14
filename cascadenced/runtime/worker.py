"""Task code in processes of its own: started for a run, kept between its stages, ended with it, whatever the code does.

    workers = Workers(environ=os.environ, max_workers=16)
    worker = await workers.start(TaskSource("shop.tasks", "Charge"), Limits(memory_bytes=1 << 30))
    performed = await worker.perform(StageCall(stage="run", attributes={…}), answer)
    await worker.close()

A worker is spawned, never forked: a fork of a program with threads has locks in it that nobody will ever release. It
is the first of a session and a process group, and all of that group ends with it: killed, because a task may ignore
SIGTERM. A process that the task puts into another session or group is out of our reach.
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack, suppress

import msgspec
import structlog

from cascadenced.errors import CascadenceError, Refused, Unavailable
from cascadenced.events.content import recordable
from cascadenced.pipeline.policy import Limits
from cascadenced.runtime.whose import work
from cascadenced.runtime.worker_output import Output, Printed
from cascadenced.runtime.worker_protocol import (
    EXIT_CHANNEL_LOST,
    Answer,
    Answered,
    Ask,
    Attached,
    Close,
    EventWanted,
    FromWorker,
    Open,
    OutOfMemory,
    Raised,
    Refusal,
    Returned,
    SleepWanted,
    StageCall,
    StepDone,
    StepRaised,
    StepWanted,
    Suspended,
    TaskSource,
    ToWorker,
    Unframer,
    Wish,
    framed,
)

_log = structlog.get_logger(__name__)

MAX_ASKS = 256
"""Questions of one worker that are being answered; while there are so many, the next ones are not read."""
CLOSE_WITHIN_S = 1.0
"""How long a worker may take to end by itself (`atexit`, its threads)."""
_LOST_WITHIN_S = 0.5
"""How long a worker whose socket is closed may take to end; most of them are ending."""
_SPARE_AFTER_S = 0.1
"""After a start, so that it does not compete with what was started."""
_READ_BYTES = 256 * 1024
_MAX_LAST_READS = 64  # far more than a socket holds; somebody out of our reach may still write to it
_WITHHELD = frozenset(
    {
        *("CASCADENCE_HASH_SECRET", "CASCADENCE_HTTP_TOKEN", "CASCADENCED_CRASH_AT"),
        *("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"),
    }
)
"""Variables that are for the daemon alone."""


class Died(msgspec.Struct, frozen=True):
    """The process ended before the stage did. reason: a sentence without anybody's name.

    code: `worker.killed` (by `kill`), `worker.signal`, `worker.exit`, `worker.cpu_limit`, `worker.channel` (the task
    closed what connects it with the daemon, or wrote something else to it).
    """

    code: str
    reason: str
    signal: int | None = None
    exit_code: int | None = None


class Performed(msgspec.Struct, frozen=True):
    """How a stage went, and what was printed meanwhile."""

    outcome: Returned | Raised | OutOfMemory | Suspended | Died
    printed: Printed


Answerer = Callable[[Ask], Awaitable[Answer]]
"""Says what the daemon answers a task. May raise Refused, which the task gets to see; anything else ends the stage."""


class Workers:
    """All worker processes of a daemon, for one event loop.

    environ: of the daemon; the workers get it without what is for the daemon alone.
    max_workers: as many at once; more wait their turn, in `start`.
    n_spares: started ahead once workers are in use, since starting Python takes longer than most stages.
    """

    def __init__(self, *, environ: Mapping[str, str], max_workers: int, n_spares: int = 1) -> None:
        self._environ = {name: value for name, value in environ.items() if name not in _WITHHELD}
        self._pythonpath = self._environ.get("PYTHONPATH")
        self._places = asyncio.Semaphore(max_workers)
        self._n_spares = n_spares
        self._spares: list[Worker] = []
        self._at_work: set[Worker] = set()
        self._refilling: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def n_workers(self) -> int:
        """Processes of runs that have not ended yet."""
        return len(self._at_work)

    async def start(self, source: TaskSource, limits: Limits | None = None) -> Worker:
        """A process for one run. It is not waited for: importing the task's code is part of its first stage.

        Raises Unavailable when the system gives no process or descriptor, or the daemon is stopping.
        """
        await self._places.acquire()
        try:
            worker = self._opened(source, limits or Limits())
        except BaseException:
            self._places.release()
            raise
        self._at_work.add(worker)
        if self._refilling is None:
            self._refilling = asyncio.get_running_loop().call_later(_SPARE_AFTER_S, self._refill)
        return worker

    async def close(self) -> None:
        """Start nothing more, kill all. Returns when they have ended."""
        self._closed = True
        if self._refilling is not None:
            self._refilling.cancel()
        workers = [*self._spares, *self._at_work]
        for worker in workers:
            worker.kill("the daemon is stopping")
        await asyncio.gather(*(worker.wait() for worker in workers))

    def _opened(self, source: TaskSource, limits: Limits) -> Worker:
        while True:
            if self._closed:
                raise Unavailable("no worker process is started any more: the daemon is stopping")
            is_spare = bool(self._spares)
            try:
                worker = self._spares.pop() if is_spare else self._spawn()
                worker.open(Open(source=source, limits=limits, path=_path(), pythonpath=self._pythonpath))
            except OSError as error:
                if not is_spare:  # else somebody has killed it
                    raise Unavailable(f"a worker process cannot be started: {error}") from error
            else:
                return worker

    def _spawn(self) -> Worker:
        return Worker({**self._environ, "PYTHONPATH": os.pathsep.join(_path())}, self._ended)

    def _refill(self) -> None:
        self._refilling = None
        work.set(None)
        try:
            while len(self._spares) < self._n_spares:
                self._spares.append(self._spawn())
        except OSError as error:  # whoever needs one will be told
            _log.warning("no_spare_worker", error=str(error))

    def _ended(self, worker: Worker) -> None:
        if worker in self._at_work:
            self._at_work.remove(worker)
            self._places.release()
        elif worker in self._spares:
            self._spares.remove(worker)


def _path() -> tuple[str, ...]:
    return tuple(entry or os.getcwd() for entry in sys.path)


class Worker:
    """One process, started. Made by `Workers.start`. It performs one stage at a time.

    pid: also the id of its process group.  died: how it ended, None while it lives.  cpu_s: what it computed by then,
    children included that it waited for. (Its largest size is not known: the kernel counts ours in, as its parent's.)
    """

    def __init__(self, environ: Mapping[str, str], on_end: Callable[[Worker], None]) -> None:
        """Raises OSError."""
        self._loop = asyncio.get_running_loop()
        self._limits, self._on_end = Limits(), on_end
        self.died: Died | None = None
        self.cpu_s = 0.0
        self._killed: Died | None = None
        self._has_begun = False
        self._outcome: asyncio.Future[Returned | Raised | OutOfMemory | Suspended | Died] | None = None
        self._answer: Answerer | None = None
        self._answering: set[asyncio.Task[None]] = set()
        self._reading = False
        self._is_gone = False  # reaped, or about to be: its number is nobody's any more
        self._loss: asyncio.TimerHandle | None = None
        self._sending = asyncio.Lock()
        self._has_ended = asyncio.Event()
        self._unframer = Unframer(FromWorker)
        self._start(environ)

    def open(self, opening: Open) -> None:
        """What it is for. Raises OSError if it cannot be told, because it has ended."""
        self._limits = opening.limits
        frame = framed(opening)
        if self._socket.send(frame) < len(frame):  # nothing else was sent before: there is room
            raise OSError("the socket has no room for the first message")

    def _start(self, environ: Mapping[str, str]) -> None:
        with ExitStack() as undo, ExitStack() as theirs:
            self._socket, its_socket = socket.socketpair()
            undo.callback(self._socket.close)
            theirs.callback(its_socket.close)
            self._socket.setblocking(False)
            its_lifeline, self._lifeline = os.pipe()
            undo.callback(os.close, self._lifeline)
            theirs.callback(os.close, its_lifeline)
            printed, prints = os.pipe()
            theirs.callback(os.close, prints)
            undo.callback(os.close, printed)
            self._process = subprocess.Popen(  # noqa: S603 -- our own interpreter and module
                # -P: no module in the working folder is to be taken for one of Python's own while it starts.
                [sys.executable, "-P", "-m", "cascadenced.worker", str(its_socket.fileno()), str(its_lifeline)],
                stdin=subprocess.DEVNULL,
                stdout=prints,
                stderr=prints,
                pass_fds=(its_socket.fileno(), its_lifeline),
                start_new_session=True,
                env=dict(environ),
            )
            self.pid = self._process.pid
            undo.callback(self._process.wait)
            undo.callback(os.killpg, self.pid, signal.SIGKILL)
            self._watch()
            undo.pop_all()
        self._output = Output(printed)
        self._read_on()

    async def perform(self, call: StageCall, answer: Answerer) -> Performed:
        """Do a stage. What the task asks meanwhile `answer` is called for, in an asyncio task for each question.

        It does not return before the stage has ended: cancelled, or when `answer` raises, it kills the process first.
        """
        if self._outcome is not None:
            raise RuntimeError("a worker performs one stage at a time")
        if self.died is not None:
            return Performed(self.died, self._output.take())
        self._outcome, self._answer = self._loop.create_future(), answer
        self._has_begun = True
        try:
            await self._send(call)
            outcome = await self._outcome
        except BaseException:
            self.kill("nobody waits for its stage any more")
            raise
        finally:
            self._outcome = self._answer = None
            for task in self._answering:
                task.cancel()
        return Performed(outcome, self._output.take())

    def printed(self) -> Printed:
        """What was printed since a stage last came to an end: of one that was given up."""
        return self._output.take()

    async def attach(self, item: object) -> None:
        """Add to the task's `context`. Before the first stage it is left to that one's attributes."""
        if self._has_begun and self.died is None:
            await self._send(Attached(item=item))

    def kill(self, reason: str = "it was killed") -> None:
        """SIGKILL to the process and its group, at once. reason: why, as a clause; the first one counts. Idempotent."""
        self._end_with(Died("worker.killed", f"the worker process was killed: {reason}", signal=signal.SIGKILL))

    async def wait(self) -> Died:
        """Return when it has ended and is reaped: how."""
        await self._has_ended.wait()
        assert self.died is not None
        return self.died

    async def close(self) -> None:
        """Let it end, or kill it when it takes longer than CLOSE_WITHIN_S. Returns when it has ended. Idempotent."""
        if self.died is None:
            try:
                async with asyncio.timeout(CLOSE_WITHIN_S):
                    await self._send(Close())
                    await self._has_ended.wait()
            except TimeoutError:
                pass
            finally:
                self.kill("it took too long to end")
        await self._has_ended.wait()

    # ── what is said ─────────────────────────────────────────────────────────────────────────────────────────

    async def _send(self, message: ToWorker) -> None:
        """A worker that does not hear it any more is ending, and that tells how the stage went."""
        frame = framed(message)
        async with self._sending:
            if self.died is None:
                try:
                    await self._loop.sock_sendall(self._socket, frame)
                except (BrokenPipeError, ConnectionError):
                    self._lost()

    def _read_on(self) -> None:
        if not self._reading and self.died is None:
            self._reading = True
            self._loop.add_reader(self._socket, self._read)

    def _stop_reading(self) -> None:
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._socket)

    def _read(self) -> bool:
        """Take in what has come; whether there may be more."""
        try:
            data = self._socket.recv(_READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return False
        except ConnectionError:
            data = b""
        if not data:
            self._stop_reading()
            self._lost()
            return False
        try:
            for message in self._unframer.feed(data):
                self._take(message)
        except (ValueError, CascadenceError) as error:
            self._stop_reading()
            what = "the worker process sent the daemon what it cannot read"
            self._end_with(Died("worker.channel", f"{what}: {error}", signal=signal.SIGKILL))
            return False
        if len(self._answering) >= MAX_ASKS:
            self._stop_reading()
        return self._reading

    def _take(self, message: FromWorker) -> None:
        match message:
            case StepWanted() | StepDone() | StepRaised() | SleepWanted() | EventWanted() | Wish():
                if isinstance(message, StepDone):
                    recordable(message.value)
                if self._answer is not None:
                    task = self._loop.create_task(self._answered(message, self._answer), name=f"worker-{self.pid}-ask")
                    self._answering.add(task)
                    task.add_done_callback(self._answer_given)
            case Returned() | Raised() | OutOfMemory() | Suspended():
                if isinstance(message, Returned):
                    recordable(message.value)
                elif isinstance(message, Raised):
                    recordable(message.partial)
                self._settle(message)

    async def _answered(self, ask: Ask, answerer: Answerer) -> None:
        answer: Answer
        try:
            answer = await answerer(ask)
        except Refused as refused:
            answer = Refusal(type(refused).__name__, refused.code, str(refused))
        except Exception as error:  # noqa: BLE001 -- passed on to whoever had the stage performed
            if self._outcome is not None and not self._outcome.done():
                self._outcome.set_exception(error)
            return
        await self._send(Answered(id=ask.id, answer=answer))

    def _answer_given(self, task: asyncio.Task[None]) -> None:
        self._answering.discard(task)
        self._read_on()

    def _settle(self, outcome: Returned | Raised | OutOfMemory | Suspended | Died) -> None:
        if self._outcome is not None and not self._outcome.done():
            self._outcome.set_result(outcome)

    # ── how it ends ──────────────────────────────────────────────────────────────────────────────────────────

    def _lost(self) -> None:
        """The other end of the socket is closed: the process is ending, or its task closed it and it ends soon."""
        if self._loss is None and not self._is_gone:
            self._loss = self._loop.call_later(_LOST_WITHIN_S, self._end_with, _CHANNEL_LOST)

    def _end_with(self, how: Died) -> None:
        if not self._is_gone:
            self._killed = self._killed or how
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)

    def _watch(self) -> None:
        """Have `_exited` called, on the loop, when the process has ended."""
        if not hasattr(os, "pidfd_open"):
            threading.Thread(target=self._wait, name=f"worker-{self.pid}", daemon=True).start()
            return
        pidfd = os.pidfd_open(self.pid)

        def ended() -> None:
            self._loop.remove_reader(pidfd)
            os.close(pidfd)
            self._exited(None)

        self._loop.add_reader(pidfd, ended)

    def _wait(self) -> None:
        _, status, usage = os.wait4(self.pid, 0)
        with suppress(RuntimeError):  # the loop is gone: the process is ending
            self._loop.call_soon_threadsafe(self._exited, (status, usage))

    def _exited(self, reaped: tuple[int, resource.struct_rusage] | None) -> None:
        """It has ended, and so does what it leaves behind. Until it is reaped its number is that of its group alone."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self._is_gone = True
        status, usage = reaped or os.wait4(self.pid, 0)[1:]
        self._process.returncode = os.waitstatus_to_exitcode(status)
        for _ in range(_MAX_LAST_READS):  # what it said last
            if not self._reading or not self._read():
                break
        self._stop_reading()
        if self._loss is not None:
            self._loss.cancel()
        self.cpu_s = usage.ru_utime + usage.ru_stime
        self.died = self._how(self._process.returncode)
        self._output.close()
        os.close(self._lifeline)
        if self._sending.locked():
            self._last_send = self._loop.create_task(self._close_socket())
        else:
            self._socket.close()
        self._settle(self.died)
        self._has_ended.set()
        self._on_end(self)

    async def _close_socket(self) -> None:
        """Not under the feet of a message that is being sent: its number would be somebody else's."""
        async with self._sending:
            self._socket.close()

    def _how(self, status: int) -> Died:
        if status == -signal.SIGKILL and self._killed is not None:
            return self._killed
        if status == EXIT_CHANNEL_LOST:
            return _CHANNEL_LOST
        if status >= 0:
            return Died(
                "worker.exit",
                f"the worker process ended with exit code {status} before its stage did",
                exit_code=status,
            )
        limits, number = self._limits, -status
        over = limits.cpu_s is not None and self.cpu_s >= limits.cpu_s
        if number == signal.SIGXCPU or (number == signal.SIGKILL and over):
            reason = (
                f"the worker process was ended after {self.cpu_s:.1f} s of computing; its limit is {limits.cpu_s} s"
            )
            return Died("worker.cpu_limit", reason, signal=number)
        more = ""
        if number == signal.SIGKILL:
            more = ", and not by the daemon: the system had no memory left, or somebody killed it"
        elif limits.memory_bytes is not None:
            more = f"; its memory is limited to {limits.memory_bytes} bytes"
        return Died(
            "worker.signal", f"the worker process was ended by signal {number} ({_signal_name(number)}){more}", number
        )


_CHANNEL_LOST = Died(
    "worker.channel",
    "the worker process was ended because the task closed file descriptors that are not its own",
    signal=None,
    exit_code=EXIT_CHANNEL_LOST,
)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"SIGRTMIN+{number - signal.SIGRTMIN}"
