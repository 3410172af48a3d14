"""What a person waits for: the daemon's start, and commands beside it; and what the daemon costs while nothing happens.

Each command is a process of its own, from its start to its end, its output thrown away; beside it `python -c pass`.

Units: milliseconds (the median of n processes each); MiB resident; CPU milliseconds a second.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

from bench.apart import ROOT
from bench.daemon_process import daemon
from bench.processes import precise_cpu_s, rss_mib
from bench.sides import Figures

_SOMEBODY = ("--user-id", "bench", "--group-id", "bench")
COMMANDS: Mapping[str, Sequence[str]] = {
    "version": ("--version",),
    "list": ("list",),
    "status": ("status",),
    "runs": ("runs",),
    "run": ("run", "stages", *_SOMEBODY),
}
_IDLE_S_AT_MOST = 10.0


def measure(n: int) -> Figures:
    """n: times each command is started; the daemon once in every five of them."""
    command = str(Path(sysconfig.get_path("scripts"), "cascadenced"))
    starts: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(n // 5):
            with daemon(Path(folder)) as up:
                starts.append(up.start_s * 1e3)
        with daemon(Path(folder)) as up:
            starts.append(up.start_s * 1e3)
            assert up.server_pid is not None
            memory = {"idle_rss_mib": rss_mib(up.pid), "idle_nats_server_rss_mib": rss_mib(up.server_pid)}
            idle = _idle_cpu_ms_per_s(up.pid, min(_IDLE_S_AT_MOST, n / 2))
            took: dict[str, list[float]] = {"python_c_pass": [], **{name: [] for name in COMMANDS}}
            for _ in range(n):  # in turn, so that what else the machine does hits all alike
                took["python_c_pass"].append(_took_ms([sys.executable, "-c", "pass"], up.env))
                for name, arguments in COMMANDS.items():
                    took[name].append(_took_ms([command, *arguments], up.env))
    return {
        "start_to_ready_ms": median(starts),
        **{f"{name}_ms": median(values) for name, values in took.items()},
        **memory,
        "idle_cpu_ms_per_s": idle,
    }


def measure_memory(n: int) -> Figures:
    """n: daemons, one after the other: what each has resident right after its start."""
    resident = []
    for _ in range(n):
        with tempfile.TemporaryDirectory() as folder, daemon(Path(folder)) as up:
            resident.append(rss_mib(up.pid))
    return {"empty_rss_mib": median(resident)}


def _took_ms(command: list[str], env: Mapping[str, str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, cwd=ROOT, env=env, stdout=subprocess.DEVNULL, check=True)
    return (time.perf_counter() - began) * 1e3


def _idle_cpu_ms_per_s(pid: int, seconds: float) -> float:
    before, began = precise_cpu_s(pid), time.perf_counter()
    time.sleep(seconds)
    return (precise_cpu_s(pid) - before) / (time.perf_counter() - began) * 1e3
