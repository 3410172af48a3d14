"""What Linux tells about a process: CPU time and memory."""

from __future__ import annotations

import os
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def cpu_s(*pids: int) -> float:
    """User and system time of all threads so far, to 10 ms."""
    return sum(_ticks(pid) for pid in pids) / _TICKS_PER_S


def _ticks(pid: int) -> int:
    after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(after_name[11]) + int(after_name[12])


def precise_cpu_s(pid: int) -> float:
    """The same of the threads that live now, to the nanosecond: for a process that does next to nothing."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def rss_mib(pid: int) -> float:
    """Memory that is resident now."""
    return _status_mib(pid, "VmRSS")


def peak_rss_mib(pid: int | None = None) -> float:
    """Memory that was resident at most. None: our own."""
    return _status_mib(pid or os.getpid(), "VmHWM")


def children(pid: int) -> list[int]:
    """Direct children, whichever thread started them."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def _status_mib(pid: int, field: str) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise LookupError(f"/proc/{pid}/status has no {field}")
