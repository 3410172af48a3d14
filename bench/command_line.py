"""Measure what was asked for and print it: the command line of `bench` and `bench.peers`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from bench import report
from bench.apart import Failed, measured
from bench.machine import this_machine
from bench.rounds import Result, interleaved, summary
from bench.sides import Benchmark, Figures, Side, Size


def run(benchmarks: Sequence[Benchmark], prog: str, description: str | None) -> int:
    """Do what the arguments say; the exit status."""
    parser = argparse.ArgumentParser(prog=prog, description=description)
    names = [benchmark.name for benchmark in benchmarks]
    parser.add_argument("--only", action="append", metavar="NAME", help=f"one of {', '.join(names)}, or NAME.SIDE")
    parser.add_argument("--rounds", type=int, help="rounds; the median counts (default 3)")
    parser.add_argument("--quick", action="store_true", help="one short round")
    parser.add_argument("--size", type=Size, choices=list(Size), help="how much work a round does (default full)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures of all rounds there as well")
    options = parser.parse_args()
    chosen = _chosen(benchmarks, options.only) if options.only else list(benchmarks)
    if not chosen:
        parser.error(f"{', '.join(options.only)} names no benchmark: there are {', '.join(names)}")
    size = options.size or (Size.QUICK if options.quick else Size.FULL)
    n_rounds = options.rounds or (1 if options.quick else 3)
    return _report_on(chosen, size, n_rounds, options.json)


def _report_on(benchmarks: Iterable[Benchmark], size: Size, n_rounds: int, out: Path | None) -> int:
    """Measure and print; 1 if something could not be measured."""
    machine = this_machine()
    print(f"{machine}; {n_rounds} interleaved round{'s' if n_rounds > 1 else ''}, size {size}\n", flush=True)
    results: dict[str, Result] = {}
    n_failed = 0
    for benchmark in benchmarks:
        try:
            result = summary(benchmark, interleaved(benchmark, size, n_rounds, _told))
        except Failed as failure:
            n_failed += 1
            print(f"{benchmark.name} could not be measured: {failure}\n", flush=True)
            continue
        results[benchmark.name] = result
        print(report.text(benchmark.name, result), flush=True)
    if out is not None:
        whole = {"machine": machine, "size": size, "n_rounds": n_rounds, "benchmarks": results}
        out.write_bytes(msgspec.json.format(msgspec.json.encode(whole)) + b"\n")
    return 1 if n_failed else 0


def _told(side: Side, size: Size) -> Figures:
    if not sys.stderr.isatty():
        return measured(side, size)
    print(f"… {side.name}", end="", file=sys.stderr, flush=True)
    try:
        return measured(side, size)
    finally:
        print("\r\033[K", end="", file=sys.stderr, flush=True)


def _chosen(benchmarks: Iterable[Benchmark], only: Iterable[str]) -> list[Benchmark]:
    """Whole benchmarks, or those of their sides that are named."""
    wanted = set(only)
    chosen = []
    for benchmark in benchmarks:
        sides = tuple(side for side in benchmark.sides if {benchmark.name, f"{benchmark.name}.{side.name}"} & wanted)
        if sides:
            chosen.append(msgspec.structs.replace(benchmark, sides=sides))
    return chosen
