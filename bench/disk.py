"""The limit of one commit: how long the disk takes to sync a small append."""

from __future__ import annotations

import os
import time
from pathlib import Path


def fdatasync_ms(folder: Path, n: int) -> list[float]:
    """How long each of `n` appends of 512 bytes took, with its fdatasync; milliseconds."""
    took = []
    descriptor = os.open(folder / "synced", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    data = b"x" * 512
    for _ in range(n):
        began = time.perf_counter()
        os.write(descriptor, data)
        os.fdatasync(descriptor)
        took.append((time.perf_counter() - began) * 1e3)
    os.close(descriptor)
    return took
