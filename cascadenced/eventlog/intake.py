"""The loop → the log's writer thread: appends, and other work, in the order they came.

What is put in within one turn of the loop is handed over together. The writer cannot begin before the turn is over
anyway, as the loop has the interpreter lock; woken for the first append it would win that lock in the middle of a batch
of messages, commit a part of it, and wait for the lock again with every further statement.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue

import msgspec

from cascadenced.eventlog.sequence import Pending


class Job(msgspec.Struct, eq=False):
    """Something else for the writer thread to do between two commits, e.g. a rebuild."""

    work: Callable[[], object]
    future: asyncio.Future[object]


class Intake:
    """`put` is called on the loop, `take` in the writer thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._gathering: list[Pending | Job] = []  # in this turn of the loop
        self._handed_over: SimpleQueue[list[Pending | Job]] = SimpleQueue()
        self._waiting: deque[Pending | Job] = deque()  # what the writer thread has got and not begun

    def put(self, item: Pending | Job) -> None:
        if not self._gathering:
            self._loop.call_soon(self._hand_over)
        self._gathering.append(item)

    def take(self, max_events: int) -> list[Pending] | Job:
        """Either one job, or the appends before the next one: until there are `max_events` events, or no more appends.

        Waits for the first of them.
        """
        waiting = self._waiting
        while not waiting or not self._handed_over.empty():
            waiting.extend(self._handed_over.get())
        taken: list[Pending] = []
        n_events = 0
        while waiting and n_events < max_events:
            item = waiting.popleft()
            if isinstance(item, Job):
                if not taken:
                    return item
                waiting.appendleft(item)
                break
            taken.append(item)
            n_events += item.n_events
        return taken

    def _hand_over(self) -> None:
        self._handed_over.put(self._gathering)
        self._gathering = []
