"""The worker's end of the sockets: a thread reads, any thread may write or ask.

When the daemon is gone the worker ends at once, with all processes it has started in its group. The kernel sees to that
on Linux, whatever the task's code is doing (`die_with`); elsewhere the thread does, as soon as Python lets it run.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import NoReturn

from cascadenced.runtime.worker_protocol import (
    EXIT_CHANNEL_LOST,
    Answer,
    Answered,
    Ask,
    Attached,
    Close,
    FromWorker,
    Open,
    StageCall,
    ToWorker,
    Unframer,
    framed,
)

_READ_BYTES = 64 * 1024
_READER_STACK_BYTES = 512 * 1024


class Channel:
    """calls: what is to be performed, in order; None is the end.  opening: the first message, once it is there."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._inode = os.fstat(descriptor).st_ino
        self._pid = os.getpid()
        self._writing = threading.Lock()
        self._ids = itertools.count(1)
        self._asked: dict[int, Callable[[Answer], None]] = {}
        self.opening: SimpleQueue[Open] = SimpleQueue()
        self.calls: SimpleQueue[StageCall | None] = SimpleQueue()
        self.on_attached: Callable[[object], None] = lambda _item: None
        before = threading.stack_size(_READER_STACK_BYTES)
        threading.Thread(target=self._read, name="daemon-reader", daemon=True).start()
        threading.stack_size(before)

    def next_id(self) -> int:
        return next(self._ids)

    def ask(self, question: Ask, deliver: Callable[[Answer], None]) -> None:
        """deliver: called with the answer, in the thread that reads."""
        self._asked[question.id] = deliver
        self.send(question)

    def asked(self, question: Ask) -> Answer:
        """The answer, waited for."""
        answer: SimpleQueue[Answer] = SimpleQueue()
        self.ask(question, answer.put)
        return answer.get()

    def send(self, message: FromWorker) -> None:
        """Does not return if the daemon cannot be told any more, or this is a copy of the worker that a task forked."""
        self.send_frame(framed(message))

    def send_frame(self, frame: bytes) -> None:
        if os.getpid() != self._pid:
            os._exit(0)
        rest = memoryview(frame)
        with self._writing:
            try:
                while rest:
                    # A task may have closed it, and opened a file since that has its number now.
                    if os.fstat(self._descriptor).st_ino != self._inode:
                        os._exit(EXIT_CHANNEL_LOST)
                    rest = rest[os.write(self._descriptor, rest) :]
            except OSError:
                os._exit(EXIT_CHANNEL_LOST)

    def _read(self) -> None:
        unframer = Unframer(ToWorker)
        while True:
            try:
                data = os.read(self._descriptor, _READ_BYTES)
            except OSError:
                os._exit(EXIT_CHANNEL_LOST)
            if not data:
                _end_all()
            for message in unframer.feed(data):
                self._take(message)

    def _take(self, message: ToWorker) -> None:
        match message:
            case Answered():
                self._asked.pop(message.id)(message.answer)
            case StageCall():
                self.calls.put(message)
            case Attached():
                self.on_attached(message.item)
            case Open():
                self.opening.put(message)
            case Close():
                self.calls.put(None)


def die_with(descriptor: int) -> None:
    """Have the kernel kill this process group when the other end of the pipe `descriptor` closes.

    Unlike PDEATHSIG that takes the children along; unlike a thread that waits for it, it needs no turn of the
    interpreter, which a long call in C does not give.
    """
    os.set_inheritable(descriptor, False)
    if not hasattr(fcntl, "F_SETSIG"):
        return
    fcntl.fcntl(descriptor, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(descriptor, fcntl.F_SETFL, os.O_NONBLOCK | fcntl.FASYNC)
    with suppress(BlockingIOError):
        os.read(descriptor, 1)
        _end_all()  # it was closed before we said so


def _end_all() -> NoReturn:
    """The daemon is gone, or the task has cut us off from it, and then the daemon sees to the rest of the group."""
    if not hasattr(fcntl, "F_SETSIG"):
        with suppress(OSError):
            os.killpg(0, signal.SIGKILL)
    os._exit(EXIT_CHANNEL_LOST)
