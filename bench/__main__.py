"""`python -m bench`: measure in interleaved rounds and print medians, ratios and goals. Never passes or fails."""

from __future__ import annotations

import sys

from bench.catalogue import BENCHMARKS
from bench.command_line import run

if __name__ == "__main__":
    sys.exit(run(BENCHMARKS, "python -m bench", __doc__))
