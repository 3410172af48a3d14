"""APScheduler with its memory store: N jobs, each once an hour, spread over the hour's minutes.

`python -m bench.peers.apscheduler_jobs N`. A job is handed to an executor that drops it, so a tick is what APScheduler
needs to find what is due and to work out when it is due next.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from datetime import UTC, datetime, timedelta
from typing import Any

from apscheduler.executors.base import BaseExecutor
from apscheduler.schedulers import base
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.cron import CronTrigger

from bench.percentiles import percentile
from bench.processes import rss_mib

_MINUTES = 60
_TICKS = 20


class _Dropping(BaseExecutor):  # type: ignore[misc]
    def _do_submit_job(self, job: Any, run_times: Any) -> None:
        self._run_job_success(job.id, [])


class _Time(datetime):
    """What the scheduler takes for the time."""

    at = datetime.now(UTC)

    @classmethod
    def now(cls, tz: Any = None) -> datetime:
        return cls.at.astimezone(tz)


def nothing() -> None:
    pass


def main(n: int) -> None:
    base.datetime = _Time
    # A minute begins before the next hour does, so that no job is due before it is asked for.
    now = _Time.at = datetime.now(UTC).replace(minute=0, second=30, microsecond=0)
    gc.collect()
    before_mib, began = rss_mib(os.getpid()), time.perf_counter()
    scheduler = BackgroundScheduler(timezone=UTC, executors={"default": _Dropping()})
    for i in range(n):
        scheduler.add_job(nothing, CronTrigger(minute=i % _MINUTES, timezone=UTC), id=f"t{i}")
    scheduler.start(paused=True)
    load_s, grown_mib = time.perf_counter() - began, rss_mib(os.getpid()) - before_mib
    scheduler.state = base.STATE_RUNNING
    took_ms, cpu_ms = [], []
    for minute in range(1, _TICKS + 1):
        _Time.at = now.replace(second=0) + timedelta(minutes=minute, milliseconds=100)
        began, cpu = time.perf_counter(), time.process_time()
        scheduler._process_jobs()
        took_ms.append((time.perf_counter() - began) * 1e3)
        cpu_ms.append((time.process_time() - cpu) * 1e3)
    figures = {
        "load_s": load_s,
        "mib": grown_mib,
        "tick_ms": percentile(took_ms, 50),
        "tick_cpu_ms": percentile(cpu_ms, 50),
        "due_a_tick": n / _MINUTES,
    }
    print(json.dumps(figures))
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]))
