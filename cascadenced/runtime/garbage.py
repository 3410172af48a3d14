"""The collector of reference cycles, as a daemon needs it.

Left alone it looked for cycles after every 70 messages taken in, and every ten thousand of them at all that the modules
hold: a tenth of the time (6 µs of 60 for each message). Hardly anything of ours is a cycle.
"""

from __future__ import annotations

import gc

_EVERY_OBJECTS = 10_000
"""So many more than before are looked at together. Python's own bound is 700: fewer than one batch of messages has."""


def collect_seldom() -> None:
    """When everything is loaded: what is there now is never looked at again, what comes is looked at less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_EVERY_OBJECTS, 10, 10)
