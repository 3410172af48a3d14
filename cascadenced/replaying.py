"""Whether this process performs a run again. Then nobody listens: what task code asks of a daemon or of a data folder
is counted, and not done.

It is said of the whole process, not in a ContextVar: a thread that a task starts begins with an empty context.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakSet


class Wishes:
    """n: so many were not carried out. Counted by any thread."""

    def __init__(self) -> None:
        self.n = 0
        self._lock = threading.Lock()

    def add(self) -> None:
        with self._lock:
            self.n += 1


_unheard: Wishes | None = None
_left_behind: WeakSet[threading.Thread] = WeakSet()
"""Threads that a replay has begun. They may go on after it, and are not heard then either."""


@contextmanager
def nobody_listens() -> Iterator[Wishes]:
    """While it lasts, `goes_unheard` says yes; in threads that have begun meanwhile it does so for good."""
    global _unheard
    before, there = _unheard, set(threading.enumerate())
    _unheard = wishes = Wishes()
    try:
        yield wishes
    finally:
        _left_behind.update(thread for thread in threading.enumerate() if thread not in there)
        _unheard = before


def goes_unheard() -> bool:
    """Whether what the caller is about to ask is not to be carried out. Yes counts as a wish."""
    if _unheard is not None:
        _unheard.add()
        return True
    return threading.current_thread() in _left_behind
