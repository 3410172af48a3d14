"""`demo`: a daemon of its own, real messages from a plain NATS client, a kill -9 in the middle of a run, and what
happens then. Nothing is left behind."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from shlex import quote
from typing import Any

from cascadenced.errors import Unavailable

Say = Callable[[str], None]

STAGE_S = 0.8
READY_WITHIN_S = 30.0
STEP_WITHIN_S = 30.0


def demo(say: Say) -> int:
    """Show the daemon at work, told line by line through `say`. Returns 0; raises Unavailable if a step fails."""
    with tempfile.TemporaryDirectory(prefix="cascadenced-demo-") as folder:
        asyncio.run(_story(Path(folder), say))
    return 0


async def _story(folder: Path, say: Say) -> None:
    say("1. A daemon with its own nats-server, in an empty folder.")
    async with _daemon(folder) as (process, found):
        say(f"   ready: {found['http_url']}/ and NATS (pid {process.pid})")
        say("\n2. A plain NATS client publishes: an event for a workflow, and a request for a run.")
        async with _client(found["nats_url"]) as (stages, publish):
            await publish("ume.event.demo.greeting", {"payload": {"name": "Ada"}})
            await publish("ume.run.request.countdown", {"args": {"seconds": STAGE_S}})
            say("   stages, as the daemon tells them on the bus:")
            await _watch(stages, say, until=("countdown", "precheck"))
            await asyncio.sleep(STAGE_S / 3)
        say("\n3. kill -9, in the middle of the stage `run`.")
        process.kill()
        await process.wait()
    say("\n4. A new daemon on the same folder: it reads the log and goes on with the stage that has no end.")
    async with _daemon(folder) as (process, found):
        async with _client(found["nats_url"]) as (stages, _publish):
            await _watch(stages, say, until=("countdown", "ended"))
        say("\n5. What the status endpoint says now:")
        run_id = (await _get(found, "/runs?task=countdown"))["items"][0]["run_id"]
        run = await _get(found, f"/runs/{run_id}")
        say(f"   GET {found['http_url']}/runs/{run_id}")
        say(f"   status {run['status']}, result {json.dumps(run['result'])}")
        for stage in run["stages"]:
            again = "   <- started twice: the kill cost this stage its first attempt" if stage["attempt"] > 1 else ""
            say(f"     {stage['stage']:<9} {stage['status']:<8} attempts {stage['attempt']}{again}")
        status = await _get(found, "/status")
        say(f"   GET {found['http_url']}/status")
        say(
            f"   version {status['version']}, events in the log {status['position']}, durability {status['durability']}"
        )
        for task in status["tasks"]:
            if task["last_status"]:
                say(f"     {task['name']:<24} last run {task['last_status']}")
    command = _command()
    say(f"\nDone. Start your own with `{command} up --detach`, then:")
    say(f"   {command} run example --user-id you --group-id team")


def _command() -> str:
    """How our command is called from here; beside the interpreter in an environment that is not activated."""
    if shutil.which("cascadenced"):
        return "cascadenced"
    beside = Path(sys.executable).with_name("cascadenced")
    if not beside.exists():
        return f"{quote(sys.executable)} -m cascadenced"
    return quote(str(beside.relative_to(Path.cwd()) if beside.is_relative_to(Path.cwd()) else beside))


@asynccontextmanager
async def _daemon(folder: Path) -> AsyncIterator[tuple[asyncio.subprocess.Process, dict[str, Any]]]:
    """A daemon process that is ready, and its daemon.json; stopped in good order at the end unless it is dead."""
    ours = {"CASCADENCE_DATA_DIR": str(folder), "CASCADENCE_HTTP_PORT": "0", "CASCADENCE_LOG_LEVEL": "error"}
    others = {key: value for key, value in os.environ.items() if not key.startswith(("CASCADENCE_", "NATS_", "UME_"))}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cascadenced", "up"),
        env=others | ours,
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(READY_WITHIN_S):
            async for line in process.stdout:
                if b"is ready" in line:
                    break
            else:
                raise Unavailable(f"the daemon ended with status {await process.wait()} before it was ready")
        yield process, json.loads((folder / "daemon.json").read_text())
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()


@asynccontextmanager
async def _client(url: str) -> AsyncIterator[tuple[asyncio.Queue[dict[str, Any]], Callable[..., Any]]]:
    """A plain client: a queue of the stage updates it hears, and a function that publishes as alice of eng."""
    import nats

    client = await nats.connect(url, max_reconnect_attempts=0, error_cb=_ignore)
    updates: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def heard(message: Any) -> None:
        updates.put_nowait(json.loads(message.data))

    async def publish(subject: str, body: dict[str, Any]) -> None:
        body = {"user_id": "alice", "group_id": "eng", **body}
        await client.jetstream().publish(subject, json.dumps(body).encode())

    async def ended(message: Any) -> None:
        run = json.loads(message.data)
        updates.put_nowait({"task_name": run["spec"]["id"], "stage": "ended", "user_hash": run["user_hash"]})

    await client.subscribe("ume.stage.>", cb=heard)
    await client.subscribe("ume.task_run.>", cb=ended)
    await client.flush()
    try:
        yield updates, publish
    finally:
        await client.close()


async def _ignore(_error: Exception) -> None:
    """The server goes down with the daemon; that is the point of the demo."""


async def _watch(updates: asyncio.Queue[dict[str, Any]], say: Say, *, until: tuple[str, str]) -> None:
    async with asyncio.timeout(STEP_WITHIN_S):
        while True:
            update = await updates.get()
            say(f"     {update['task_name']:<24} {update['stage']:<9} user {update['user_hash'][:12]}…")
            if (update["task_name"], update["stage"]) == until:
                return


async def _get(found: dict[str, Any], path: str) -> dict[str, Any]:
    import aiohttp

    async with aiohttp.ClientSession() as session, session.get(found["http_url"] + path) as response:
        body: dict[str, Any] = await response.json()
        return body
