"""The entry point: argv → exit code. What can be asked is in commands/."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from cascadenced import garbage

_NAMES = ("cascadenced", "task")


def main(args: Sequence[str] | None = None, *, program: str = _NAMES[0]) -> int:
    """Do what the command line `args` says (not `sys.argv`; None is an empty one). Returns the exit code.

    program: how the user called us, for messages.  Raises nothing.
    """
    from cascadenced.commands import line

    return line.run(args or (), program)


def entry() -> None:
    """The console script."""
    garbage.starting()
    called = os.path.basename(sys.argv[0])
    code = main(sys.argv[1:], program=called if called in _NAMES else _NAMES[0])
    garbage.started()  # nothing is looked through once more at the interpreter's end
    sys.exit(code)
