"""A measurement in a process of its own: its memory and CPU time are nobody else's.

`python -m bench.apart MODULE:FUNCTION JSON` prints what FUNCTION returns as the last line of stdout.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.sides import Figures, Side, Size

WITHIN_S = 900
ROOT = Path(__file__).resolve().parents[1]


class Failed(Exception):
    """A measurement did not end well. The text has the last lines it wrote."""


def measured(side: Side, size: Size) -> Figures:
    """One round of `side`. Raises Failed."""
    name = f"{side.measure.__module__}:{side.measure.__qualname__}"
    arguments = json.dumps({"n": side.n(size), **side.fixed})
    return from_process([sys.executable, "-m", "bench.apart", name, arguments], side.name)


def from_process(command: list[str], name: str) -> Figures:
    """The figures that `command` prints as its last line. Raises Failed."""
    with tempfile.TemporaryFile() as errors:
        try:
            done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=errors, timeout=WITHIN_S)
        except subprocess.TimeoutExpired:
            raise Failed(f"{name} took longer than {WITHIN_S} s") from None
        if done.returncode == 0:
            figures: Figures = json.loads(done.stdout.splitlines()[-1])
            return figures
        errors.seek(0)
        said = errors.read().decode(errors="replace").splitlines()[-20:]
    raise Failed(f"{name} ended with status {done.returncode}:\n" + "\n".join(f"  {line}" for line in said))


def main() -> None:
    module, _, function = sys.argv[1].partition(":")
    figures = getattr(importlib.import_module(module), function)(**json.loads(sys.argv[2]))
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
