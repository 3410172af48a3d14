"""GETs on the real daemon, over 32 kept-open connections from another process (`bench/load_generator.py`).

`measure_idle`: /status and /healthz of a daemon with nothing to do, each right before a bare aiohttp application that
answers the same bytes. `measure_busy`: /status while 50 runs are outstanding; and what 500 GETs a second cost the runs.

Units: GETs/s, milliseconds (p50, p99), runs/s.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from time import perf_counter

from bench.apart import ROOT
from bench.daemon_process import Daemon, daemon
from bench.full_path import Requests
from bench.nats_process import client
from bench.sides import Figures

CONNECTIONS = 32
OUTSTANDING = 50
STEADY_PER_S = 500


def measure_idle(n: int) -> Figures:
    """n: GETs of each kind."""
    figures: Figures = {}
    with tempfile.TemporaryDirectory() as folder, daemon(Path(folder)) as up:
        for path in ("status", "healthz"):
            url = f"{up.http_url}/{path}"
            with urllib.request.urlopen(url) as reply:
                body = reply.read()
            with _bare(body) as bare_url:
                asyncio.run(_gets(url, max(CONNECTIONS, n // 10)))
                asyncio.run(_gets(bare_url, max(CONNECTIONS, n // 10)))
                found, bare = asyncio.run(_gets(url, n)), asyncio.run(_gets(bare_url, n))
            figures |= {
                f"{path}_gets_per_s": found["gets_per_s"],
                f"{path}_p50_ms": found["p50_ms"],
                f"{path}_p99_ms": found["p99_ms"],
                f"{path}_bare_gets_per_s": bare["gets_per_s"],
                f"{path}_bytes": len(body),
            }
    return figures


def measure_busy(n: int) -> Figures:
    """n: GETs, and a fifth as many runs."""
    with tempfile.TemporaryDirectory() as folder, daemon(Path(folder)) as up:
        return asyncio.run(_busy(up, n, max(OUTSTANDING, n // 5)))


async def _busy(up: Daemon, n: int, n_runs: int) -> Figures:
    url = f"{up.http_url}/status"
    async with client(up.nats_url) as connected:
        requests = Requests(connected)
        await requests.open()
        await requests.run(OUTSTANDING, OUTSTANDING)
        alone = await _runs_per_s(requests, n_runs)
        async with _steady(url):
            beside = await _runs_per_s(requests, n_runs)
        async with _runs_under_way(requests):
            found = await _gets(url, n)
    return {
        "gets_per_s": found["gets_per_s"],
        "p50_ms": found["p50_ms"],
        "p99_ms": found["p99_ms"],
        "runs_per_s_without_gets": alone,
        "runs_per_s_beside_500_gets_per_s": beside,
    }


async def _runs_per_s(requests: Requests, n: int) -> float:
    began = perf_counter()
    await requests.run(n, OUTSTANDING)
    return n / (perf_counter() - began)


@asynccontextmanager
async def _steady(url: str) -> AsyncIterator[None]:
    """500 GETs a second meanwhile."""
    generator = await _generator(url, 10**9, STEADY_PER_S)
    try:
        yield
        assert generator.returncode is None, "the load generator ended"
    finally:
        generator.terminate()
        await generator.communicate()


@asynccontextmanager
async def _runs_under_way(requests: Requests) -> AsyncIterator[None]:
    """50 runs outstanding meanwhile, all the time."""
    enough = asyncio.Event()
    going = asyncio.create_task(requests.run_until(enough, OUTSTANDING))
    try:
        yield
    finally:
        enough.set()
        await going


async def _gets(url: str, n: int) -> Figures:
    out, _ = await (await _generator(url, n)).communicate()
    figures: Figures = json.loads(out)
    return figures


async def _generator(url: str, n: int, per_s: int | None = None) -> asyncio.subprocess.Process:
    command = [sys.executable, "-m", "bench.load_generator", url, str(n), str(CONNECTIONS)]
    command += [] if per_s is None else [str(per_s)]
    return await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=asyncio.subprocess.PIPE)


@contextmanager
def _bare(body: bytes) -> Iterator[str]:
    """A bare application that answers `body`; yields its URL."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.bare_http"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(body)
        process.stdin.close()
        yield f"http://127.0.0.1:{int(process.stdout.readline())}/"
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()
