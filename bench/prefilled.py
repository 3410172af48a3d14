"""Logs with many events in them: made once, kept in `.bench/logs`, copied for every measurement.

They are valid logs of a data folder: a real run's events, appended again and again under new run ids through the log
itself, so chain, projections and indices are what so many runs would have left.

`python -m bench.prefilled N_EVENTS IDS` makes one.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from bench.apart import ROOT
from bench.durable_runs import runs, sources
from bench.engine import instance_of
from cascadenced.config import load
from cascadenced.eventlog.base import Change, Receipt
from cascadenced.events.base import Context
from cascadenced.events.streams import run_stream

_KEPT = ROOT / ".bench" / "logs"
_SHAPE = ("eventlog", "events", "projections", "vault_file.py")
"""What of the program decides how a data folder looks."""
_AT_ONCE = 1_000


def copied(n_events: int, ids: str, to: Path) -> None:
    """Make `to` a data folder with at least `n_events` events in its log, on the disk. ids: see `sources`."""
    kept = _KEPT / _digest() / f"{ids}-{n_events}"
    if not kept.exists():
        subprocess.run([sys.executable, "-m", "bench.prefilled", str(n_events), ids], cwd=ROOT, check=True)
    shutil.copytree(kept, to)
    for path in to.iterdir():
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


async def fill(data_dir: Path, n_events: int, ids: str) -> None:
    """Append until the log has `n_events` events."""
    config = load(None, {}, {"data_dir": str(data_dir)})
    source = sources(ids)
    async with instance_of(config) as instance:
        log = instance.log
        await runs(instance, 1, 1, source)
        template = next(e for e in await log.read(0, 100) if e.type == "run.requested")
        events = [recorded.event for recorded in await log.read_stream(template.stream)]
        while log.position < n_events:
            appends: list[asyncio.Future[Receipt]] = []
            for _ in range(min(_AT_ONCE, (n_events - log.position) // len(events) + 1)):
                name = source()
                run_id = instance.runs.new_run_id(name, None)
                context = Context(
                    user_hash=template.user_hash, group_hash=template.group_hash, run_id=run_id, correlation=run_id
                )
                appends.append(log.append([Change(run_stream(run_id), events, 0, context)], source=name))
            await asyncio.gather(*appends)


def _digest() -> str:
    """Of the program's files that decide how a data folder looks; logs of another program are made anew."""
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for name in _SHAPE:
        place = ROOT / "cascadenced" / name
        for path in sorted(place.rglob("*")) if place.is_dir() else [place]:
            if path.suffix in (".py", ".sql"):
                digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def main() -> None:
    n_events, ids = int(sys.argv[1]), sys.argv[2]
    shelf = _KEPT / _digest()
    if _KEPT.exists():
        for other in _KEPT.iterdir():
            if other != shelf:
                shutil.rmtree(other, ignore_errors=True)
    draft = shelf / f"{ids}-{n_events}.draft"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    asyncio.run(fill(draft, n_events, ids))
    draft.rename(draft.with_suffix(""))


if __name__ == "__main__":
    main()
