"""`python -m bench.peers`: other systems and ours in the same interleaved rounds. Installs them at first use."""

from __future__ import annotations

import sys

from bench.command_line import run
from bench.peers.catalogue import BENCHMARKS

if __name__ == "__main__":
    sys.exit(run(BENCHMARKS, "python -m bench.peers", __doc__))
