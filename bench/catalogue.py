"""What is measured, beside what, and the goals. The goals inform; nothing fails when one is missed."""

from __future__ import annotations

from bench import commands, durable_runs, full_path, growth, ingest, rebuild, schedules, status_gets, steps
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

STEPS = Benchmark(
    "steps",
    "what a recorded stage more, and a durable step more, adds to a run, 50 runs at once; and the memory of 1,000 runs "
    "that sleep",
    (
        Side("beside_stages", steps.measure, (1_500, 400, 40)),
        Side("sleeping", steps.measure_sleeping, (1_000, 1_000, 50)),
    ),
    (
        Ratio("step to stage", "beside_stages.step_us", "beside_stages.stage_us", Goal(1.3, at_most=True)),
        Ratio("CPU of a step to that of a stage", "beside_stages.step_cpu_us", "beside_stages.stage_cpu_us"),
        Ratio("MiB for the runs that sleep", "sleeping.mib", goal=Goal(10, at_most=True)),
    ),
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

_SMALL, _LARGE = (10_000, 10_000, 100), (1_000_000, 100_000, 1_000)

GROWTH = Benchmark(
    "growth",
    "runs as in durable_runs, 50 at once, with 10 thousand (10k) or a million (1M; --quick: 100 thousand) events in "
    "the log; requests called by ids that rise with time (ordered) or by uuid4 (random), as senders name messages",
    (
        Side("ordered_10k", growth.measure, _SMALL, {"ids": "ordered"}),
        Side("ordered_1M", growth.measure, _LARGE, {"ids": "ordered"}),
        Side("random_10k", growth.measure, _SMALL, {"ids": "random"}),
        Side("random_1M", growth.measure, _LARGE, {"ids": "random"}),
    ),
    (
        Ratio("1M to 10k, ordered ids", "ordered_1M.runs_per_s", "ordered_10k.runs_per_s", Goal(0.9)),
        Ratio("1M to 10k, random ids", "random_1M.runs_per_s", "random_10k.runs_per_s", Goal(0.9)),
        Ratio("1M to 10k, ordered ids, CPU per run", "ordered_1M.cpu_ms_per_run", "ordered_10k.cpu_ms_per_run"),
        Ratio("1M to 10k, random ids, CPU per run", "random_1M.cpu_ms_per_run", "random_10k.cpu_ms_per_run"),
        Ratio("1M to 10k, memory", "ordered_1M.peak_rss_mib", "ordered_10k.peak_rss_mib", Goal(1.1, at_most=True)),
    ),
)

REBUILD = Benchmark(
    "rebuild",
    "all projections of a million events (--quick: 100 thousand) folded again, as `log rebuild` does it; beside "
    "reading the same rows in order and decoding them with the same decoder, once",
    (Side("all", rebuild.measure, (1_000_000, 100_000, 1_000)),),
    (Ratio("rebuild to scan and decode", "all.events_per_s", "all.scan_and_decode_events_per_s", Goal(0.4, 0.55)),),
)

STATUS_GETS = Benchmark(
    "status_gets",
    "GETs on the real daemon over 32 connections from another process. idle: beside a bare aiohttp application that "
    "answers the same bytes. busy: /status with 50 runs outstanding, and those runs without and beside 500 GETs/s",
    (
        Side("idle", status_gets.measure_idle, (30_000, 10_000, 300)),
        Side("busy", status_gets.measure_busy, (10_000, 3_000, 300)),
    ),
    (
        Ratio("/status to bare aiohttp", "idle.status_gets_per_s", "idle.status_bare_gets_per_s", Goal(0.6)),
        Ratio("/healthz to bare aiohttp", "idle.healthz_gets_per_s", "idle.healthz_bare_gets_per_s", Goal(0.6)),
        Ratio(
            "runs beside 500 GETs/s to runs alone",
            "busy.runs_per_s_beside_500_gets_per_s",
            "busy.runs_per_s_without_gets",
            Goal(0.75),
        ),
    ),
)

COMMANDS = Benchmark(
    "commands",
    "the daemon's start until it is ready, its own nats-server included; commands beside it, from the start of their "
    "process to its end, and `python -c pass`; memory and CPU of the idle daemon",
    (Side("wall", commands.measure, (20, 10, 1)),),
    (
        Ratio("list to python -c pass", "wall.list_ms", "wall.python_c_pass_ms", Goal(6, at_most=True)),
        Ratio("start to ready, ms", "wall.start_to_ready_ms", goal=Goal(1500, at_most=True)),
        Ratio("memory of an idle daemon, MiB", "wall.idle_rss_mib", goal=Goal(81, at_most=True)),
    ),
)  # fmt: skip

SCHEDULES = Benchmark(
    "schedules",
    "100,000 schedules in the log, each once an hour: what it takes to know when each is due, and a minute in which "
    "1,667 are due; and a real daemon with 10,000 due at the same instant, each with a run, beside GETs of /status",
    (
        Side("hourly", schedules.measure, (100_000, 20_000, 600)),
        Side("burst", schedules.measure_burst, (10_000, 2_000, 20)),
    ),
    (Ratio("p99 of /status while 10,000 start, ms", "burst.p99_ms", goal=Goal(50, at_most=True)),),
)

BENCHMARKS = (DURABLE_RUNS, IDLE, STEPS, GROWTH, INGEST, FULL_PATH, REBUILD, STATUS_GETS, SCHEDULES, COMMANDS)
