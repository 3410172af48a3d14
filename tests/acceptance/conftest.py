"""Real processes on real files: a daemon in a folder of its own, with the nats-server it brings."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import nats
import pytest

READY_WITHIN_S = 20.0

TASKS = '''
"""Tasks whose effects can be counted from outside."""
import asyncio, os, threading

def effect(task, stage):
    # One line, one write: what a kill -9 leaves is whole lines.
    with open(os.environ["EFFECTS"], "a") as file:
        file.write(f"{task.run_id} {stage} {task.args.get('n')}\\n")

class Traced:
    name = "traced"
    async def intake(self): effect(self, "intake"); return {"n": self.args.get("n")}
    async def plan(self): effect(self, "plan"); return "planned"
    async def precheck(self): effect(self, "precheck"); return True
    async def run(self, plan): effect(self, "run"); return {"n": self.args.get("n"), "plan": plan}
    async def verify(self, result): effect(self, "verify"); return result

class Plain(Traced):
    name = "plain"
    def intake(self): effect(self, "intake"); return {"n": self.args.get("n")}
    def plan(self): effect(self, "plan"); return "planned"
    def precheck(self): effect(self, "precheck"); return True
    def run(self, plan): effect(self, "run"); return {"n": self.args.get("n"), "plan": plan}
    def verify(self, result): effect(self, "verify"); return result

class Slow:
    name = "slow"
    async def plan(self): effect(self, "plan"); return None
    async def run(self):
        effect(self, "run")
        await asyncio.sleep(float(self.args.get("seconds", 1)))
        return "slept"
    async def verify(self, result): effect(self, "verify"); return result

class Hung:
    name = "hung"
    def run(self):
        effect(self, "run")
        threading.Event().wait()

class Killer:
    name = "killer"
    def run(self):
        effect(self, "run")
        os.kill(os.getpid(), 9)

class Failing:
    name = "failing"
    def run(self):
        raise ValueError(f"no luck for {self.user_id} of {self.group_id}")

class Telling:
    name = "telling"
    async def run(self): return {"length": len(self.user_id)}
'''


class Daemon:
    """A daemon process and ways to reach it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data_dir = folder / "data"
        self.effects_path = folder / "effects"
        self.process: asyncio.subprocess.Process | None = None
        self.output: list[str] = []
        self._reader: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()
        (folder / "accept_tasks.py").write_text(TASKS)
        self.effects_path.touch()

    @property
    def env(self) -> dict[str, str]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("CASCADENCE", "NATS_", "UME_"))}
        names = ("Traced", "Plain", "Slow", "Hung", "Killer", "Failing", "Telling")
        return clean | {
            "CASCADENCE_DATA_DIR": str(self.data_dir),
            "CASCADENCE_HTTP_PORT": "0",
            "CASCADENCE_PLUGIN_PATHS": ",".join(f"accept_tasks:{name}" for name in names),
            "CASCADENCE_LOG_LEVEL": "debug",
            "EFFECTS": str(self.effects_path),
            "PYTHONUNBUFFERED": "1",
        }

    async def launch(self, **env: str) -> None:
        """Start the process, without waiting for it to be ready."""
        self._ready.clear()
        self.process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "cascadenced", "up"),
            env=self.env | env,
            cwd=self.folder,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=1 << 20,
        )
        self._reader = asyncio.create_task(self._read(self.process))

    async def start(self, **env: str) -> None:
        """Start the process and wait until it is ready. Fails with its output if it ends before."""
        await self.launch(**env)
        assert self.process is not None
        ready = asyncio.create_task(self._ready.wait())
        ended = asyncio.create_task(self.process.wait())
        await asyncio.wait({ready, ended}, timeout=READY_WITHIN_S, return_when=asyncio.FIRST_COMPLETED)
        ended.cancel()
        assert ready.done(), "not ready:\n" + "\n".join(self.output[-40:])

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            text = line.decode(errors="replace").rstrip()
            self.output.append(text)
            if "is ready" in text:
                self._ready.set()

    async def ended(self, within_s: float = 20.0) -> int:
        """Its exit status, once it has ended."""
        assert self.process is not None
        assert self._reader is not None
        status = await asyncio.wait_for(self.process.wait(), within_s)
        await self._reader
        return status

    async def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        await self.ended()

    async def stop(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return await self.ended()

    @property
    def found(self) -> dict[str, Any]:
        return json.loads((self.data_dir / "daemon.json").read_text())

    async def get(self, path: str) -> Any:
        async with aiohttp.ClientSession() as session, session.get(self.found["http_url"] + path) as response:
            return await response.json(content_type=None)

    async def run_of(self, run_id: str) -> dict[str, Any]:
        return await self.get(f"/runs/{run_id}")

    async def runs(self, **query: str) -> list[dict[str, Any]]:
        rest = "&".join(f"{key}={value}" for key, value in query.items())
        return (await self.get(f"/runs?limit=1000&{rest}"))["items"]

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Any]:
        """A plain NATS client."""
        client = await nats.connect(self.found["nats_url"], max_reconnect_attempts=0, error_cb=_quiet)
        try:
            yield client
        finally:
            with suppress(Exception):
                await client.close()

    async def command(self, *arguments: str, within_s: float = 30.0, **env: str) -> tuple[int, str, str]:
        """Run the command line: (exit status, stdout, stderr)."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "cascadenced", *arguments),
            env=self.env | env,
            cwd=self.folder,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await asyncio.wait_for(process.communicate(), within_s)
        assert process.returncode is not None
        return process.returncode, out.decode(), err.decode()

    def effects(self) -> list[tuple[str, str, str]]:
        """(run id, stage, n) of every effect that happened, in order."""
        return [tuple(line.split(" ")) for line in self.effects_path.read_text().splitlines()]  # type: ignore[misc]

    async def follow_events(self, after: int = 0) -> AsyncIterator[dict[str, Any]]:
        """The log's events over SSE, for ever."""
        url = f"{self.found['http_url']}/events?after={after}"
        timeout = aiohttp.ClientTimeout(total=None)
        async with (
            aiohttp.ClientSession(timeout=timeout, read_bufsize=1 << 20) as session,
            session.get(url) as response,
        ):
            async for line in response.content:
                if line.startswith(b"data:"):
                    yield json.loads(line[5:])

    async def until(self, wanted: dict[str, Any], *, after: int = 0, n: int = 1, within_s: float = 20.0) -> None:
        """Return when `n` events whose views have all of `wanted` (fields of `data` included) are in the log."""
        async with asyncio.timeout(within_s):
            async for event in self.follow_events(after):
                flat = {**event["data"], **event}
                if all(flat.get(key) == value for key, value in wanted.items()):
                    n -= 1
                    if n == 0:
                        return


async def _quiet(_error: Exception) -> None:
    """Servers come and go here; what matters is asserted."""


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Daemon]:
    daemon = Daemon(tmp_path)
    yield daemon
    if daemon.process is not None and daemon.process.returncode is None:
        daemon.process.kill()
        await daemon.process.wait()
    if daemon._reader is not None:
        await daemon._reader


def request_body(n: int, user: str = "alice", **more: Any) -> bytes:
    return json.dumps({"user_id": user, "group_id": "eng", "args": {"n": n}, **more}).encode()
