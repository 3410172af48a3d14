"""`python -m bench.publish OURS.json PEERS.json`: docs/benchmarks.svg, and the tables in docs/benchmarks.md."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path

import msgspec

from bench import report
from bench.apart import ROOT
from bench.chart import Bar, Group, svg
from bench.machine import Machine
from bench.rounds import Result

PAGE, CHART = ROOT / "docs" / "benchmarks.md", ROOT / "docs" / "benchmarks.svg"
_TABLES = re.compile(r"(?<=<!-- tables -->\n).*?(?=<!-- end of tables -->)", re.DOTALL)


class Report(msgspec.Struct):
    """What `--json` writes."""

    machine: Machine
    size: str
    n_rounds: int
    benchmarks: dict[str, Result]


Wanted = tuple[str, str, bool]
"""label, `benchmark.side.figure`, whether it is ours."""

CHART_OF: tuple[tuple[str, tuple[Wanted, ...]], ...] = (
    (
        "Durable runs of five steps, runs/s",
        (
            ("cascadenced, coroutines", "runs.ours_async.runs_per_s", True),
            ("cascadenced, plain functions", "runs.ours_plain.runs_per_s", True),
            ("Huey, pipeline of five", "runs.huey.runs_per_s", False),
            ("DBOS on SQLite, threads", "runs.dbos_threads.runs_per_s", False),
            ("DBOS on SQLite, coroutines", "runs.dbos_async.runs_per_s", False),
        ),
    ),
    (
        "CPU of a run, milliseconds (shorter is better)",
        (
            ("cascadenced, coroutines", "runs.ours_async.cpu_ms_per_run", True),
            ("cascadenced, plain functions", "runs.ours_plain.cpu_ms_per_run", True),
            ("Huey, pipeline of five", "runs.huey.cpu_ms_per_run", False),
            ("DBOS on SQLite, threads", "runs.dbos_threads.cpu_ms_per_run", False),
            ("DBOS on SQLite, coroutines", "runs.dbos_async.cpu_ms_per_run", False),
        ),
    ),
    (
        "JetStream → five stages → 16 messages out, runs/s",
        (
            ("cascadenced, server syncs each", "chain.ours_synced.runs_per_s", True),
            ("FastStream, server syncs each", "chain.faststream_synced.runs_per_s", False),
            ("cascadenced, server's default", "chain.ours_default.runs_per_s", True),
            ("FastStream, server's default", "chain.faststream_default.runs_per_s", False),
        ),
    ),
    (
        "Runs/s with so many events in the log",
        (
            ("10 thousand, ordered ids", "growth.ordered_10k.runs_per_s", True),
            ("1 million, ordered ids", "growth.ordered_1M.runs_per_s", True),
            ("10 thousand, random ids", "growth.random_10k.runs_per_s", True),
            ("1 million, random ids", "growth.random_1M.runs_per_s", True),
        ),
    ),
    (
        "Messages recorded and acknowledged, messages/s",
        (
            ("cascadenced, events", "ingest.events.messages_per_s", True),
            ("nats-py fetch(500) into bare SQLite", "ingest.fetch_loop.messages_per_s", False),
            ("our pull alone, nothing recorded", "ingest.pull_only.messages_per_s", False),
        ),
    ),
)


def groups(found: dict[str, Result]) -> list[Group]:
    """What the chart shows of the results that are there."""
    shown = []
    for heading, wanted in CHART_OF:
        bars = [Bar(label, value, ours) for label, path, ours in wanted if (value := _median(found, path)) is not None]
        if bars:
            shown.append(Group(heading, bars))
    return shown


def tables(reports: Iterable[Report]) -> str:
    """Markdown: each report's machine, then its tables as they were printed."""
    parts = []
    for found in reports:
        text = "\n".join(report.text(name, result) for name, result in found.benchmarks.items()).rstrip()
        parts.append(f"{found.machine}; medians of {found.n_rounds}, size {found.size}.\n\n```text\n{text}\n```\n")
    return "\n".join(parts)


def with_tables(page: str, text: str) -> str:
    """`page` with the tables between its marks replaced."""
    found, n = _TABLES.subn(lambda _: f"\n{text}\n", page)
    if n != 1:
        raise ValueError(f"{PAGE} must have `<!-- tables -->` and `<!-- end of tables -->` once each")
    return found


def _median(found: dict[str, Result], path: str) -> float | None:
    benchmark, side, figure = path.split(".")
    result = found.get(benchmark)
    value = None if result is None else result.sides.get(side, {}).get(figure)
    return None if value is None else value.median


def main() -> None:
    reports = [msgspec.json.decode(Path(name).read_bytes(), type=Report) for name in sys.argv[1:]]
    page = with_tables(PAGE.read_text(), tables(reports))
    found = {name: result for report_ in reports for name, result in report_.benchmarks.items()}
    PAGE.write_text(page)
    CHART.write_text(svg(groups(found), str(reports[0].machine)))


if __name__ == "__main__":
    main()
