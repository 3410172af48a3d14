"""The entry point: argv → exit code. What can be asked is in commands/."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence

_NAMES = ("cascadenced", "task")


def main(args: Sequence[str] | None = None, *, program: str = _NAMES[0]) -> int:
    """Do what the command line `args` says (not `sys.argv`; None is an empty one). Returns the exit code.

    program: how the user called us, for messages.  Raises nothing.
    """
    from cascadenced.commands import line

    return line.run(args or (), program)


def entry() -> None:
    """The console script.

    What a command imports it keeps until it ends. Looking through that for garbage, during the imports and again when
    the interpreter ends, takes 10 of 64 ms, so the collector is told not to.
    """
    gc.disable()
    from cascadenced.commands import line

    gc.freeze()
    gc.enable()
    called = os.path.basename(sys.argv[0])
    code = line.run(sys.argv[1:], called if called in _NAMES else _NAMES[0])
    gc.freeze()
    sys.exit(code)
