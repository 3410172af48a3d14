"""The real daemon, `cascadenced up`, as a process of its own on an empty folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.apart import ROOT
from bench.processes import children

READY_WITHIN_S = 60.0
STOP_WITHIN_S = 30.0
_LOOK_AGAIN_S = 0.002
_TASKS = {"async": "AsyncStages", "plain": "PlainStages", "on_due": "on_due"}


class Daemon:
    """A running daemon. start_s: from the start of its process until it was ready."""

    def __init__(self, env: Mapping[str, str], note: Mapping[str, Any], start_s: float) -> None:
        self.env, self.start_s = env, start_s
        self.pid: int = note["pid"]
        self.http_url: str = note["http_url"]
        self.nats_url: str = note["nats_url"]

    @property
    def server_pid(self) -> int | None:
        """Of the nats-server it has started; None if it uses another."""
        return next(iter(children(self.pid)), None)


@contextmanager
def daemon(folder: Path, *, task: str = "async", nats_url: str | None = None, **settings: object) -> Iterator[Daemon]:
    """Start a daemon on `folder/data` and wait until it is ready; stop it in the end.

    task: which of the workloads' tasks is its task `stages`.  nats_url: None for a server of its own.
    settings: keys of the configuration.
    """
    env = environment(folder, task=task, nats_url=nats_url, **settings)
    note_path = Path(env["CASCADENCE_DATA_DIR"], "daemon.json")
    with (folder / "daemon.log").open("ab") as log:
        began = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "cascadenced", "up"], cwd=ROOT, env=env, stdout=log, stderr=log
        )
    try:
        while not note_path.exists():
            if process.poll() is not None or time.perf_counter() - began > READY_WITHIN_S:
                raise RuntimeError("the daemon is not ready:\n" + (folder / "daemon.log").read_text()[-4000:])
            time.sleep(_LOOK_AGAIN_S)
        start_s = time.perf_counter() - began
        yield Daemon(env, json.loads(note_path.read_text()), start_s)
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(STOP_WITHIN_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def environment(
    folder: Path, *, task: str = "async", nats_url: str | None = None, **settings: object
) -> dict[str, str]:
    """What commands and daemon of one bench share; nothing of the caller's own configuration.

    They find and leave bytecode, as an installation with pip has it: without it, a command compiles a quarter of its
    time.
    """
    foreign = ("CASCADENCE", "NATS_", "UME_", "PYTHONDONTWRITEBYTECODE")
    clean = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
    given = {"data_dir": folder / "data", "http_port": 0, "plugin_entry_points": "false"}
    given["plugin_paths"] = f"bench.workloads:{_TASKS[task]}"
    clean |= {f"CASCADENCE_{key.upper()}": str(value) for key, value in (given | settings).items()}
    return clean | ({"NATS_URL": nats_url} if nats_url is not None else {})
