"""Messages that only have to be recorded: JetStream → log → acknowledged.

n small events that no workflow listens to (or pointers) wait in the stream, one message id each; the clock runs from
the first pull until the broker has heard of the last acknowledgement. On an external nats-server as it is by default.

`measure` is ours: the bus, ingest, rules, vault, log and projections as the daemon has them, its followers included.
`measure_fetch_loop` does by hand what little must be done: nats-py's `fetch(500)`, one SQLite transaction a batch (WAL,
FULL) that drops known message ids and keeps the last event of each name, then an acknowledgement each.
`measure_pull_only` is the limit: our own pull, and acknowledgements, of messages that nobody looks at.

Units: messages/s; CPU microseconds per message of this process, all threads.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import tempfile
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from nats.js.api import AckPolicy, ConsumerConfig

from bench.engine import followed, instance_of
from bench.nats_process import client, nats_server
from bench.sides import Figures
from bench.workloads import SOMEBODY
from cascadenced.bus.jetstream import JetStreamBus
from cascadenced.clock import SystemClock
from cascadenced.config import load
from cascadenced.runtime.ingest import Ingest

WITHIN_S = 300
_ORIGIN = "bench"
_N_NAMES = 20
_BATCH = 500
_HASH = "a" * 64


def measure(n: int, *, kind: str = "event") -> Figures:
    """n: messages. kind: `event` or `pointer`."""
    return _with_server(_ours, n, kind)


def measure_fetch_loop(n: int, *, kind: str = "event") -> Figures:
    return _with_server(_fetch_loop, n, kind)


def measure_pull_only(n: int, *, kind: str = "event") -> Figures:
    return _with_server(_pull_only, n, kind)


def _with_server(way: Any, n: int, kind: str) -> Figures:
    with tempfile.TemporaryDirectory() as name, nats_server(Path(name, "nats-server"), synced=False) as server:
        figures: Figures = asyncio.run(way(Path(name), server.url, n, kind))
        return figures


class _Watch:
    """Wall clock and CPU time since it was made."""

    def __init__(self) -> None:
        self._began, self._cpu = time.perf_counter(), time.process_time()

    def figures(self, n: int) -> Figures:
        took_s, cpu_s = time.perf_counter() - self._began, time.process_time() - self._cpu
        return {"messages_per_s": n / took_s, "cpu_us_per_message": cpu_s / n * 1e6}


async def _ours(folder: Path, url: str, n: int, kind: str) -> Figures:
    config = load(None, {}, {"data_dir": str(folder / "data"), "instance_id": _ORIGIN})
    async with instance_of(config) as instance, _bus(url) as bus, followed(instance, bus) as outbox:
        await outbox.drained()
        await _publish(url, n, kind)
        ingest = Ingest(
            bus,
            config.ume_nats_subject,
            commands=instance.bus_commands,
            dead_letter=instance.dead_letters.record,
            room=instance.runs.room,
            refusals=instance.refusals,
            erase=False,
        )
        first, watch = instance.log.position, _Watch()
        running = asyncio.create_task(ingest.run())
        await _until_acknowledged(url, f"cascadence_{_ORIGIN}_{kind}")
        await outbox.drained()
        figures = watch.figures(n)
        running.cancel()
        assert instance.log.position - first == n, f"{instance.log.position - first} events of {n} messages"
    return figures


async def _pull_only(_folder: Path, url: str, n: int, kind: str) -> Figures:
    async with _bus(url) as bus:
        await _publish(url, n, kind)
        n_left, watch = n, _Watch()
        while n_left:
            for delivery in await bus.fetch(_BATCH):
                delivery.ack()
                n_left -= 1
        await _until_acknowledged(url, f"cascadence_{_ORIGIN}_{kind}")
        return watch.figures(n)


async def _fetch_loop(folder: Path, url: str, n: int, kind: str) -> Figures:
    async with _bus(url):  # makes the stream
        pass
    await _publish(url, n, kind)
    connection = sqlite3.connect(folder / "loop.db", isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.executescript("""
        CREATE TABLE log (position INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, subject TEXT NOT NULL, data BLOB);
        CREATE TABLE latest (subject TEXT PRIMARY KEY, id TEXT NOT NULL) WITHOUT ROWID;
    """)

    def commit(rows: list[tuple[str, str, bytes]]) -> None:
        for _, _, data in rows:
            json.loads(data)
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany("INSERT OR IGNORE INTO log (id, subject, data) VALUES (?, ?, ?)", rows)
        connection.executemany(
            "INSERT INTO latest VALUES (?, ?) ON CONFLICT (subject) DO UPDATE SET id = excluded.id",
            {subject: (subject, key) for key, subject, _ in rows}.values(),
        )
        connection.execute("COMMIT")

    async with client(url) as connected:
        subscription = await connected.jetstream().pull_subscribe(
            f"ume.{kind}.>",
            durable="loop",
            stream="UME",
            config=ConsumerConfig(ack_policy=AckPolicy.EXPLICIT, max_ack_pending=20_000),
        )
        loop, n_left = asyncio.get_running_loop(), n
        with ThreadPoolExecutor(1) as writer:
            watch = _Watch()
            while n_left:
                messages = await subscription.fetch(_BATCH, timeout=10)
                rows = [(m.headers["Nats-Msg-Id"], m.subject, m.data) for m in messages]
                await loop.run_in_executor(writer, commit, rows)
                for message in messages:
                    await message.ack()
                n_left -= len(messages)
            await _until_acknowledged(url, "loop")
            figures = watch.figures(n)
    assert connection.execute("SELECT count(*) FROM log").fetchone() == (n,)
    connection.close()
    return figures


@asynccontextmanager
async def _bus(url: str) -> AsyncIterator[JetStreamBus]:
    bus = await JetStreamBus.open(url=url, instance_id=_ORIGIN, clock=SystemClock())
    try:
        yield bus
    finally:
        await bus.close()


async def _publish(url: str, n: int, kind: str) -> None:
    """Put `n` messages into the stream; returns when it has them all."""
    async with client(url) as connected:
        stream = connected.jetstream()
        before = (await stream.stream_info("UME")).state.messages
        for i in range(n):
            headers = {"Nats-Msg-Id": f"{time.time_ns():016x}-{i:08d}"}
            subject = f"ume.{kind}.bench-{i % _N_NAMES}"
            if kind == "event":
                body = {"user_id": SOMEBODY.user_id, "group_id": SOMEBODY.group_id, "payload": {"number": i}}
            else:
                body = {"run_id": f"run-{i:08d}", "user_hash": _HASH, "group_hash": _HASH}
            await connected.publish(subject, json.dumps(body).encode(), headers=headers)
        await connected.flush(60)
        async with asyncio.timeout(WITHIN_S):
            while (await stream.stream_info("UME")).state.messages - before < n:
                await asyncio.sleep(0.02)


async def _until_acknowledged(url: str, durable: str) -> None:
    """Return when a consumer has nothing left; asks the server ever so often, on a connection of its own."""
    async with client(url) as connected, asyncio.timeout(WITHIN_S):
        stream = connected.jetstream()
        while True:
            info = await stream.consumer_info("UME", durable)
            if info.num_pending == info.num_ack_pending == 0:
                return
            await asyncio.sleep(0.02)
