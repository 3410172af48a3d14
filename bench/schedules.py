"""A hundred thousand schedules, each once an hour, spread over the hour's minutes.

`measure`: an instance that has them in its log learns when each is due (load), and lets 20 minutes of virtual time
pass. decide: what is due is read, decided, and its next instant worked out. tick: the same with all that follows from
it, the record in the log, synced, and an event that is dispatched.

`measure_burst`: a real daemon with schedules that are all due at the same instant, and GETs of /status meanwhile.

Units: seconds, milliseconds (medians of 20 ticks; p50, p99 of GETs), MiB of memory that load adds.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import re
import tempfile
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bench.daemon_process import Daemon, daemon
from bench.percentiles import percentile
from bench.processes import rss_mib
from bench.sides import Figures
from bench.workloads import DUE, STAGES
from cascadenced import garbage, logs
from cascadenced.clock import SystemClock
from cascadenced.config import load
from cascadenced.eventlog.base import Change, Receipt
from cascadenced.events.schedule import ScheduleSet, TickFired
from cascadenced.events.streams import schedule_stream
from cascadenced.instance import Instance, open_instance
from cascadenced.plugins.discover import collect
from cascadenced.projections import schedules
from cascadenced.schedules.model import evolve

_MINUTES = 60
_TICKS = 20
_AT_ONCE = 1_000
_FILLED_US, _STARTED_US = 200, 5_000_000
"""A schedule takes so much to be set, and their daemon so much to start, at the most: then they may be due."""
_EVENTS_A_RUN = 6
_WITHIN_S = 60.0
_GET_EVERY_S = 0.01
_MINUTE_US = 60_000_000
_HOUR_US = 60 * _MINUTE_US


class _Time(SystemClock):
    """at_us: what it is taken for."""

    def __init__(self, at_us: int) -> None:
        self.at_us = at_us

    def now_us(self) -> int:
        return self.at_us


def measure(n: int) -> Figures:
    """n: schedules."""
    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(_measured(Path(folder, "data"), n))


async def _measured(data_dir: Path, n: int) -> Figures:
    hour_us = time.time_ns() // 1_000 // _HOUR_US * _HOUR_US
    async with _instance(data_dir) as instance:
        await fill(instance, (_hourly(i, hour_us) for i in range(n)))
    async with _instance(data_dir) as instance:
        clock = instance.ticks._clock = instance.ticks.ticker._clock = _Time(hour_us + _MINUTE_US // 2)
        gc.collect()
        before_mib, began = rss_mib(os.getpid()), time.perf_counter()
        await instance.prerequisites.open()
        await instance.ticks.load()
        load_s, mib = time.perf_counter() - began, rss_mib(os.getpid()) - before_mib
        assert len(instance.ticks.ticker) == n
        ticks_ms, decides_ms, cpu_ms = [], [], []
        for minute in range(1, _TICKS + 1):
            clock.at_us = hour_us + minute * _MINUTE_US + 100_000
            due = instance.ticks.ticker.due(n)
            began, cpu = time.perf_counter(), time.process_time()
            await _decide(instance, due)
            decides_ms.append((time.perf_counter() - began) * 1e3)
            cpu_ms.append((time.process_time() - cpu) * 1e3)
            began = time.perf_counter()
            await instance.ticks.look(due)
            ticks_ms.append((time.perf_counter() - began) * 1e3)
        return {
            "load_s": load_s,
            "mib": mib,
            "decide_ms": percentile(decides_ms, 50),
            "decide_cpu_ms": percentile(cpu_ms, 50),
            "tick_ms": percentile(ticks_ms, 50),
            "due_a_tick": n / _MINUTES,
        }


async def _decide(instance: Instance, names: list[str]) -> None:
    """Read, decide, and work out the next instant, as `Ticks.look` does, and record nothing."""
    ticks = instance.ticks
    for stored in (await schedules.stored(instance.log.tables, names)).values():
        rule = stored.schedule.rule
        assert rule is not None
        table = await instance.calendars.timetable(rule)
        fire = ticks._decided(stored.schedule, rule, table).fire
        assert fire is not None
        ticks._wake(evolve(stored.schedule, TickFired(task=rule.task, due_us=fire.due_us, run_id="")), table)


def _hourly(i: int, from_us: int) -> ScheduleSet:
    return ScheduleSet(task=f"t{i}", expr=f"{i % _MINUTES} * * * *", event="nobody.listens", from_us=from_us)


async def fill(instance: Instance, rules: Iterable[ScheduleSet]) -> None:
    """Set these schedules, without asking anybody."""
    appends: list[asyncio.Future[Receipt]] = []
    for rule in rules:
        appends.append(instance.log.append([Change(schedule_stream(rule.task), [rule], 0)]))
        if len(appends) == _AT_ONCE:
            await asyncio.gather(*appends)
            appends.clear()
    await asyncio.gather(*appends)


@asynccontextmanager
async def _instance(data_dir: Path) -> AsyncIterator[Instance]:
    config = load(None, {}, {"data_dir": str(data_dir)})
    logs.configure("ERROR")
    async with open_instance(config, who="bench", catalogue=collect([("bench", STAGES["one"])])) as instance:
        garbage.started()
        yield instance


def measure_burst(n: int) -> Figures:
    """n: schedules of a real daemon that are due at the same instant, each with a run of one stage."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        due_us = (time.time_ns() // 1_000 + _STARTED_US + n * _FILLED_US) // 1_000_000 * 1_000_000
        asyncio.run(_prepared(folder / "data", n, due_us))
        with daemon(folder, task="on_due") as up:
            return asyncio.run(_burst(up, n, due_us))


async def _prepared(data_dir: Path, n: int, due_us: int) -> None:
    at = datetime.fromtimestamp(due_us / 1e6, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    now_us = time.time_ns() // 1_000
    async with _instance(data_dir) as instance:
        await fill(instance, (ScheduleSet(task=f"t{i}", event=DUE, at=at, from_us=now_us) for i in range(n)))


async def _burst(up: Daemon, n: int, due_us: int) -> Figures:
    """GETs of /status, one after the other, from a second before that instant until all runs have ended."""
    parts = urlsplit(up.http_url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    took_ms = list[float]()

    async def status() -> dict[str, Any]:
        began = time.perf_counter()
        writer.write(f"GET /status HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
        assert length is not None
        body: dict[str, Any] = json.loads(await reader.readexactly(int(length[1])))
        took_ms.append((time.perf_counter() - began) * 1e3)
        return body

    before = (await status())["position"]
    to_go_s = due_us / 1e6 - 1.0 - time.time()
    assert to_go_s > 0, f"the daemon has started {1.0 - to_go_s:.1f} s after its schedules were due"
    await asyncio.sleep(to_go_s)
    took_ms.clear()
    while True:
        now = await status()
        if now["position"] > before + _EVENTS_A_RUN * n and not now["n_running"] and not now["n_queued"]:
            break
        assert time.time() < due_us / 1e6 + _WITHIN_S, f"the runs have not ended: {now}"
        await asyncio.sleep(_GET_EVERY_S)
    took_s = time.time() - due_us / 1e6
    writer.close()
    p50, p99 = percentile(took_ms, 50), percentile(took_ms, 99)
    return {"runs_per_s": n / took_s, "took_s": took_s, "p50_ms": p50, "p99_ms": p99, "max_ms": max(took_ms)}
