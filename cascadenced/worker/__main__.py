"""`python -m cascadenced.worker CHANNEL LIFELINE`: started by runtime/worker.py, with two descriptors of its own."""

from __future__ import annotations

import faulthandler
import os
import sys
from contextlib import suppress

from cascadenced.runtime.worker_protocol import Open, OutOfMemory, framed
from cascadenced.worker.channel import Channel, die_with
from cascadenced.worker.host import Host
from cascadenced.worker.perform import Performer, limit

_NO_ROOM = framed(OutOfMemory())


def main(descriptor: int, lifeline: int) -> None:
    die_with(lifeline)
    os.set_inheritable(descriptor, False)
    faulthandler.enable()  # what a crash in C was about is part of the output
    _talk_plainly()
    channel = Channel(descriptor)
    opening = channel.opening.get()
    _move_in(opening)
    limit(opening.limits)
    performer = Performer(opening.source, Host(channel), opening.limits)
    channel.on_attached = performer.attach
    performer.load()
    while (call := channel.calls.get()) is not None:
        try:
            frame = framed(performer.perform(call))
        except MemoryError:
            frame = _NO_ROOM
        _flush()
        channel.send_frame(frame)
        del call, frame
    performer.close()


def _move_in(opening: Open) -> None:
    """What was set for our own start is put back, for the task's code and what that starts."""
    sys.path[:] = opening.path
    sys.argv[:] = [opening.source.module]
    os.environ.pop("PYTHONPATH", None)
    if opening.pythonpath is not None:
        os.environ["PYTHONPATH"] = opening.pythonpath


def _talk_plainly() -> None:
    """Line by line, so that nothing is missing after a crash; and printing raises nothing."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True, errors="backslashreplace")  # type: ignore[union-attr]


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(BaseException):  # a task may have put anything there
            stream.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
