"""How long one thread of ours keeps the interpreter lock from the others.

Two of them are busy: the loop, and the log's writer, which gives the lock away with each of the dozen statements of a
commit and has to win it back. With Python's 5 ms the loop had to wait for the commit in the end; with 1 ms a batch of
messages is committed while the next is decoded, and 12 % more of them are taken in. Runs take as long either way.
"""

from __future__ import annotations

import sys

_AT_MOST_S = 0.001


def take_turns() -> None:
    """From now on, in this process."""
    sys.setswitchinterval(_AT_MOST_S)
