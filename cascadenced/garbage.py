"""The collector of reference cycles, while a process of ours starts, works and ends.

What a start imports and opens stays, but the collector looks through it again and again: for 0.2 of the 0.7 s that a
daemon needs until it is ready, and for 10 of the 64 ms of a command, most of them at its very end. A daemon at work
hardly makes cycles, and Python's own bound of 700 new objects is less than one batch of messages has: looking then took
a tenth of the time, 6 of 60 µs for each message.
"""

from __future__ import annotations

import gc

_WHILE_STARTING = 100_000
"""Objects until it looks: not never, because a start may take long (waiting for NATS)."""
_AT_WORK = 10_000, 10, 10


def starting() -> None:
    """Look for garbage seldom from now on."""
    gc.set_threshold(_WHILE_STARTING)


def started() -> None:
    """Look for it now and then, but never again in what is there now: that stays."""
    gc.freeze()
    gc.set_threshold(*_AT_WORK)
