"""The garbage collector of our processes, while they start and when they end.

What a start imports and opens stays, but the collector looks through it again and again: for 0.2 of the 0.7 s that a
daemon needs until it is ready, and for 10 of the 64 ms of a command, most of them at its very end.
"""

from __future__ import annotations

import gc

_USUAL = gc.get_threshold()
_WHILE_STARTING = 100_000
"""Objects until it looks: not never, because a start may take long (waiting for NATS)."""


def starting() -> None:
    """Look for garbage seldom from now on."""
    gc.set_threshold(_WHILE_STARTING)


def started() -> None:
    """Look for it as usual, but never again in what is there now: that stays."""
    gc.freeze()
    gc.set_threshold(*_USUAL)
