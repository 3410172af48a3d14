"""`python -m bench`: every measurement once, as a table; `--json` for machines, `--rounds N` for medians of N."""

from __future__ import annotations

import argparse
import json
import platform
import sqlite3
import statistics
import sys
from collections.abc import Callable

from bench import durable_runs, raw_sqlite

MEASUREMENTS: dict[str, Callable[[], dict[str, float]]] = {
    "raw_sqlite": raw_sqlite.measure,
    "durable_runs_async": durable_runs.measure_async,
    "durable_runs_threads": durable_runs.measure_threads,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="rounds, interleaved; the median counts (default 3)")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    options = parser.parse_args()
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in MEASUREMENTS}
    for _ in range(options.rounds):
        for name, measure in MEASUREMENTS.items():
            rounds[name].append(measure())
    medians = {
        name: {key: statistics.median(result[key] for result in results) for key in results[0]}
        for name, results in rounds.items()
    }
    if options.json:
        print(json.dumps(medians))
        return 0
    print(
        f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}; medians of {options.rounds}, interleaved"
    )
    for name, values in medians.items():
        print(
            f"  {name:<22} "
            + "  ".join(
                f"{key} {value:,.3g}" if value < 100 else f"{key} {value:,.0f}" for key, value in values.items()
            )
        )
    ratio = medians["durable_runs_async"]["events_per_s"] / medians["raw_sqlite"]["events_per_s"]
    print(f"  durable events per second are {ratio:.2f} of raw SQLite's at batches of 50")
    return 0


if __name__ == "__main__":
    sys.exit(main())
