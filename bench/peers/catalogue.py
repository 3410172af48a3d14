"""What is compared with what, and the goals."""

from __future__ import annotations

import asyncio
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench import commands, durable_runs, full_path, schedules
from bench.apart import ROOT, from_process
from bench.full_path import Subjects
from bench.nats_process import nats_server
from bench.peers.environments import python_of
from bench.sides import Benchmark, Figures, Goal, Ratio, Side

_OUR_MESSAGES_A_RUN = 16
_CHAIN = Subjects(request="chain.1", body=b"1", stream="CHAIN", ended="done", said=b"", shared=True)


def dbos(n: int, *, mode: str, concurrency: int = 50) -> Figures:
    """n: workflows."""
    command = [python_of("dbos"), "-m", "bench.peers.dbos_runs", mode, str(n), str(concurrency)]
    return from_process(command, f"dbos {mode}")


def huey(n: int) -> Figures:
    """n: pipelines."""
    return from_process([python_of("huey"), "-m", "bench.peers.huey_runs", str(n)], "huey")


def apscheduler(n: int) -> Figures:
    """n: jobs."""
    return from_process([python_of("apscheduler"), "-m", "bench.peers.apscheduler_jobs", str(n)], "apscheduler")


def faststream(n: int, *, synced: bool, messages_a_run: int, outstanding: int = 200) -> Figures:
    """n: runs. The same client as ours asks for them."""
    with (
        tempfile.TemporaryDirectory() as name,
        nats_server(Path(name, "nats-server"), synced=synced) as server,
        _chain(server.url, messages_a_run) as pid,
    ):
        return asyncio.run(full_path.drive(server.url, _CHAIN, pid, server.pid, n, outstanding))


@contextmanager
def _chain(url: str, messages_a_run: int) -> Iterator[int]:
    """The process that handles the five stages; yields its id when it is ready."""
    command = [python_of("faststream"), "-m", "bench.peers.faststream_chain", url, str(messages_a_run)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"ready\n", "the FastStream chain did not start"
        yield process.pid
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


RUNS = Benchmark(
    "runs",
    "runs of five recorded steps that do nothing. ours: through the engine, 50 at once, every event synced. dbos: "
    "workflows of five steps on SQLite in WAL mode (set by us), all at once in its threads (its faster way), or 50 "
    "coroutines at once. huey: pipelines of five tasks on SQLite, one worker. idle: one run at a time",
    (
        Side("ours_async", durable_runs.measure, (4_000, 1_000, 60), {"task": "async", "concurrency": 50}),
        Side("ours_plain", durable_runs.measure, (3_000, 1_000, 60), {"task": "plain", "concurrency": 50}),
        Side("ours_idle", durable_runs.measure_idle, (300, 100, 10)),
        Side("ours_empty", commands.measure_memory, (1, 1, 1)),
        Side("dbos_threads", dbos, (400, 100, 10), {"mode": "threads"}),
        Side("dbos_async", dbos, (400, 100, 10), {"mode": "async"}),
        Side("huey", huey, (1_000, 300, 10)),
    ),
    (
        Ratio("runs/s: ours to DBOS", "ours_async.runs_per_s", "dbos_threads.runs_per_s", Goal(25, 50)),
        Ratio("runs/s, plain functions: ours to DBOS", "ours_plain.runs_per_s", "dbos_threads.runs_per_s"),
        Ratio("runs/s, coroutines: ours to DBOS", "ours_async.runs_per_s", "dbos_async.runs_per_s"),
        Ratio("runs/s: ours to Huey", "ours_async.runs_per_s", "huey.runs_per_s", Goal(8, 15)),
        Ratio("runs/s, plain functions: ours to Huey", "ours_plain.runs_per_s", "huey.runs_per_s"),
        Ratio("CPU per run: ours to DBOS", "ours_async.cpu_ms_per_run", "dbos_threads.cpu_ms_per_run",
              Goal(0.05, 0.02, at_most=True)),
        Ratio("CPU per run, plain functions: ours to DBOS", "ours_plain.cpu_ms_per_run", "dbos_threads.cpu_ms_per_run"),
        Ratio("CPU per run: ours to Huey", "ours_async.cpu_ms_per_run", "huey.cpu_ms_per_run"),
        Ratio("idle p50: ours to DBOS threads", "ours_idle.p50_ms", "dbos_threads.idle_p50_ms",
              Goal(0.35, 0.2, at_most=True)),
        Ratio("idle p50: ours to Huey", "ours_idle.p50_ms", "huey.idle_p50_ms"),
        Ratio("memory, empty: our daemon to DBOS", "ours_empty.empty_rss_mib", "dbos_threads.empty_rss_mib",
              Goal(1, at_most=True)),
        Ratio("memory, peak: our engine to DBOS", "ours_async.peak_rss_mib", "dbos_async.peak_rss_mib"),
    ),
)  # fmt: skip

_SIXTEEN = {"messages_a_run": _OUR_MESSAGES_A_RUN}

CHAIN = Benchmark(
    "chain",
    "JetStream → five stages → events out, 200 requests outstanding, 16 messages out a run; the same client, the same "
    "server settings. ours: the real daemon, everything recorded and synced in SQLite as well. faststream: a chain of "
    "five durable pull subscribers (batches of 100) that records nothing; messages_5: only the chain's own messages",
    (
        Side("ours_synced", full_path.measure, (5_000, 1_000, 20), {"server": "own"}),
        Side("faststream_synced", faststream, (1_500, 500, 20), {"synced": True, **_SIXTEEN}),
        Side("ours_default", full_path.measure, (5_000, 1_000, 20), {"server": "default"}),
        Side("faststream_default", faststream, (1_500, 500, 20), {"synced": False, **_SIXTEEN}),
        Side("faststream_default_messages_5", faststream, (3_000, 1_000, 20), {"synced": False, "messages_a_run": 5}),
    ),
    (
        Ratio("runs/s, synced: ours to FastStream", "ours_synced.runs_per_s", "faststream_synced.runs_per_s",
              Goal(2.5, 4)),
        Ratio("runs/s, default: ours to FastStream", "ours_default.runs_per_s", "faststream_default.runs_per_s",
              Goal(2.5, 4)),
        Ratio("runs/s, default: ours to FastStream with 5 messages", "ours_default.runs_per_s",
              "faststream_default_messages_5.runs_per_s"),
        Ratio("CPU per run, synced: our daemon to FastStream", "ours_synced.daemon_cpu_ms_per_run",
              "faststream_synced.daemon_cpu_ms_per_run"),
        Ratio("CPU per run, default: our daemon to FastStream", "ours_default.daemon_cpu_ms_per_run",
              "faststream_default.daemon_cpu_ms_per_run"),
        Ratio("idle p50, synced: ours to FastStream", "ours_synced.idle_p50_ms", "faststream_synced.idle_p50_ms",
              Goal(1.3, at_most=True)),
        Ratio("idle p50, default: ours to FastStream", "ours_default.idle_p50_ms", "faststream_default.idle_p50_ms",
              Goal(1.3, at_most=True)),
    ),
)  # fmt: skip

SCHEDULES = Benchmark(
    "schedules",
    "100,000 schedules, each once an hour. load: until it is known when each is due. tick: a minute in which 1,667 are "
    "due. apscheduler: jobs in its memory store, handed to an executor that drops them; ours: decide is as much, from "
    "the schedules on disk; tick is that with a record of each instant, synced, and an event that is dispatched",
    (
        Side("ours", schedules.measure, (100_000, 20_000, 600)),
        Side("apscheduler", apscheduler, (100_000, 20_000, 600)),
    ),
    (
        Ratio("load: ours to APScheduler", "ours.load_s", "apscheduler.load_s", Goal(0.5, 0.2, at_most=True)),
        Ratio("memory: ours to APScheduler", "ours.mib", "apscheduler.mib", Goal(0.2, at_most=True)),
        Ratio("deciding: ours to APScheduler", "ours.decide_ms", "apscheduler.tick_ms", Goal(0.1, at_most=True)),
        Ratio("CPU of deciding: ours to APScheduler", "ours.decide_cpu_ms", "apscheduler.tick_cpu_ms"),
        Ratio("with record and event: ours to APScheduler", "ours.tick_ms", "apscheduler.tick_ms"),
    ),
)

BENCHMARKS = (RUNS, CHAIN, SCHEDULES)
