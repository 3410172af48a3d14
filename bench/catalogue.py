"""What is measured, beside what, and the goals. The goals inform; nothing fails when one is missed."""

from __future__ import annotations

from bench import durable_runs, full_path, ingest
from bench.sides import Benchmark, Goal, Ratio, Side


def _engine(name: str, task: str, concurrency: int, sizes: tuple[int, int, int]) -> Side:
    return Side(name, durable_runs.measure, sizes, {"task": task, "concurrency": concurrency})


DURABLE_RUNS = Benchmark(
    "durable_runs",
    "runs of five recorded stages that do nothing, each event synced, through the engine (the daemon without NATS and "
    "HTTP); hooks as coroutines (async) or plain functions in threads (plain); 1, 50, 500 at once. raw: rows of an "
    "event's size into one indexed SQLite table, WAL, FULL, as many a transaction as the log's commits had",
    (
        _engine("async_1", "async", 1, (300, 100, 10)),
        _engine("async_50", "async", 50, (4_000, 1_000, 60)),
        _engine("async_500", "async", 500, (4_000, 1_000, 60)),
        _engine("plain_1", "plain", 1, (300, 100, 10)),
        _engine("plain_50", "plain", 50, (3_000, 1_000, 60)),
        _engine("plain_500", "plain", 500, (3_000, 1_000, 60)),
    ),
    (
        Ratio("events to raw rows, async, 1 at once", "async_1.events_per_s", "async_1.raw_rows_per_s"),
        Ratio("events to raw rows, async, 50 at once", "async_50.events_per_s", "async_50.raw_rows_per_s"),
        Ratio("events to raw rows, async, 500 at once", "async_500.events_per_s", "async_500.raw_rows_per_s"),
        Ratio("p99 to p50, async, 50 at once", "async_50.p99_ms", "async_50.p50_ms", Goal(3, at_most=True)),
        Ratio("plain to async, 50 at once", "plain_50.runs_per_s", "async_50.runs_per_s"),
    ),
)

IDLE = Benchmark(
    "idle",
    "one run of five recorded stages at a time through the engine, from request to end: six commits, one after the "
    "other; beside one append of 512 bytes with fdatasync on the same disk",
    (Side("one_by_one", durable_runs.measure_idle, (500, 100, 10)),),
    (Ratio("run to fdatasync, p50", "one_by_one.p50_ms", "one_by_one.fdatasync_p50_ms", Goal(12, at_most=True)),),
)

INGEST = Benchmark(
    "ingest",
    "small messages that only have to be recorded: JetStream (default sync) → log → acknowledged after the commit. "
    "fetch_loop: the least that does as much by hand with nats-py, fetch(500), one SQLite transaction a batch. "
    "pull_only: our own pull, and acknowledgements, alone",
    (
        Side("events", ingest.measure, (30_000, 10_000, 300), {"kind": "event"}),
        Side("pointers", ingest.measure, (30_000, 10_000, 300), {"kind": "pointer"}),
        Side("fetch_loop", ingest.measure_fetch_loop, (30_000, 10_000, 500)),
        Side("pull_only", ingest.measure_pull_only, (60_000, 20_000, 500)),
    ),
    (
        Ratio("events to the fetch loop", "events.messages_per_s", "fetch_loop.messages_per_s", Goal(2, 2.5)),
        Ratio("events to pull and acknowledgement alone", "events.messages_per_s", "pull_only.messages_per_s",
              Goal(0.4, 0.5)),
        Ratio("CPU of an event to the fetch loop's", "events.cpu_us_per_message", "fetch_loop.cpu_us_per_message"),
    ),
)  # fmt: skip

FULL_PATH = Benchmark(
    "full_path",
    "requests on JetStream → five recorded stages → events out (16 messages a run), on the real daemon, 200 requests "
    "outstanding. own: the daemon's nats-server, each message synced; default: an external one as it is by default",
    (
        Side("own", full_path.measure, (5_000, 1_000, 20), {"server": "own"}),
        Side("default", full_path.measure, (5_000, 1_000, 20), {"server": "default"}),
    ),
    (Ratio("own (synced) to default", "own.runs_per_s", "default.runs_per_s"),),
)

BENCHMARKS = (DURABLE_RUNS, IDLE, INGEST, FULL_PATH)
