"""Everything that is done to a broker: each with what must be noticed of it.

A break leaves the server healed: running, and reachable. What it lost may not be known by then.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from tests.broker.scene import Scene

LOST = frozenset(
    {
        *("end_lost", "marker_gone", "messages_missing", "messages_hidden", "messages_unreadable", "consumers_gone"),
        "stream_recreated",  # an old server may give up a whole stream for one damaged file, if it is encrypted
    }
)
"""Messages went missing; what it looks like depends on which, and on the server."""
KILL, STOP = signal.SIGKILL, signal.SIGTERM


class Break(NamedTuple):
    """do: what is done; returns what it was, for people.

    reasons: one of these must be recorded.  may: these may be, if the dice fell so.  lossy: what was confirmed to
    clients, and not read by then, may be lost.  line: an outage must be recorded.
    """

    do: Callable[[Scene, random.Random], Awaitable[str]]
    reasons: frozenset[str] = frozenset()
    may: frozenset[str] = frozenset()
    lossy: bool = False
    line: bool = True


async def killed(scene: Scene, chance: random.Random) -> str:
    async with scene.down(KILL):
        await asyncio.sleep(chance.random() / 2)
    return "killed and started again"


async def restarted(scene: Scene, _: random.Random) -> str:
    async with scene.down(STOP):
        pass
    return "stopped in good order and started again"


async def paused(scene: Scene, chance: random.Random) -> str:
    seconds = 0.5 + 3 * chance.random()
    await _hang(scene.server_pid, seconds)
    return f"hung for {seconds:.1f} s"


async def hung(scene: Scene, chance: random.Random) -> str:
    """Long enough for the connection to be given up."""
    if scene.outside is None:
        pid = scene.server_pid
        os.kill(pid, signal.SIGSTOP)
        async with asyncio.timeout(45):
            while scene_pids(scene) in ({pid}, set()):
                await asyncio.sleep(0.05)
        return "hung until it was replaced"
    seconds = 17 + 10 * chance.random()
    await _hang(scene.server_pid, seconds)
    return f"hung for {seconds:.1f} s"


async def wiped(scene: Scene, chance: random.Random) -> str:
    async with scene.down(_either(chance)):
        shutil.rmtree(scene.jetstream)
    return "store wiped"


async def cut(scene: Scene, chance: random.Random) -> str:
    how = _either(chance)
    async with scene.down(how):
        path = _blocks(scene, "UME")[-1]
        size = path.stat().st_size
        n = chance.randrange(1, min(size, 30_000))
        os.truncate(path, size - n)
    return f"{how.name}, {path.name} cut by {n} of {size} bytes"


async def holed(scene: Scene, chance: random.Random) -> str:
    how = _either(chance)
    async with scene.down(how):
        blocks = _blocks(scene, "UME")
        path = chance.choice(blocks[:-1] or blocks)
        path.unlink()
    return f"{how.name}, {path.name} of {len(blocks)} removed"


async def flipped(scene: Scene, chance: random.Random) -> str:
    how, told = _either(chance), []
    async with scene.down(how):
        for _ in range(chance.randint(1, 5)):
            path = chance.choice(_blocks(scene, chance.choice(["UME", "UME", "UME_RUNS"])))
            told.append(_flip(path, chance))
    return f"{how.name}, bits flipped in {', '.join(told)}"


async def index_removed(scene: Scene, chance: random.Random) -> str:
    async with scene.down(_either(chance)):
        for path in [*scene.store.glob("*/msgs/*.db"), *scene.store.glob("*/msgs/*.idx")]:
            path.unlink()
    return "index files removed"


async def index_flipped(scene: Scene, chance: random.Random) -> str:
    told = []
    async with scene.down(_either(chance)):
        for path in [*scene.store.glob("*/msgs/*.db"), *scene.store.glob("*/msgs/*.idx")]:
            told.append(_flip(path, chance))
    return f"bits flipped in {', '.join(told) or 'no index, there is none'}"


async def consumers_forgotten(scene: Scene, chance: random.Random) -> str:
    async with scene.down(_either(chance)):
        for path in scene.store.glob("*/obs/*"):
            shutil.rmtree(path)
    return "state of all consumers removed"


async def description_flipped(scene: Scene, chance: random.Random) -> str:
    async with scene.down(_either(chance)):
        told = _flip(scene.store / "UME" / "meta.inf", chance)
    return f"description of a stream damaged: {told}"


async def key_flipped(scene: Scene, chance: random.Random) -> str:
    """The key that a stream's own keys are encrypted with: nothing of it can be read any more."""
    async with scene.down(_either(chance)):
        told = [_flip(path, chance) for path in (scene.store / "UME").glob("meta.key")]
    return f"key of a stream damaged: {told}"


async def recreated(scene: Scene, chance: random.Random) -> str:
    names = chance.choice([["UME"], ["UME_RUNS"], ["UME", "UME_RUNS"]])
    for name in names:
        await scene.load.api(f"STREAM.DELETE.{name}")
    return f"{' and '.join(names)} deleted by an operator"


async def purged(scene: Scene, _: random.Random) -> str:
    await scene.load.api("STREAM.PURGE.UME")
    return "UME purged by an operator"


async def half_purged(scene: Scene, chance: random.Random) -> str:
    keep = chance.randrange(1, 50)
    await scene.load.api("STREAM.PURGE.UME", {"keep": keep})
    return f"UME purged by an operator but for {keep} messages"


async def consumers_deleted(scene: Scene, _: random.Random) -> str:
    for stream in ("UME", "UME_RUNS"):
        for name in (await scene.load.api(f"CONSUMER.NAMES.{stream}"))["consumers"]:
            await scene.load.api(f"CONSUMER.DELETE.{stream}.{name}")
    return "all consumers deleted by an operator"


BREAKS = {
    "killed": Break(killed),
    "restarted": Break(restarted),
    "paused": Break(paused, line=False),
    # A server that is stopped in its first second, and then killed, may not have kept a stream it had just made.
    "hung": Break(hung, may=frozenset({"stream_recreated"})),
    "wiped": Break(wiped, reasons=frozenset({"stream_recreated"}), lossy=True),
    "cut": Break(cut, may=LOST, lossy=True),
    "holed": Break(holed, may=LOST, lossy=True),
    "flipped": Break(flipped, may=LOST, lossy=True),
    "index_removed": Break(index_removed, may=LOST),  # an emptied work queue forgets its end with it (2.11)
    "index_flipped": Break(index_flipped, may=LOST),
    "consumers_forgotten": Break(consumers_forgotten, reasons=frozenset({"consumers_gone"})),
    "description_flipped": Break(description_flipped, reasons=frozenset({"stream_recreated"}), may=LOST, lossy=True),
    "key_flipped": Break(key_flipped, reasons=frozenset({"stream_recreated"}), lossy=True),
    "recreated": Break(
        recreated, reasons=frozenset({"stream_recreated"}), may=frozenset({"consumers_gone"}), lossy=True, line=False
    ),
    "purged": Break(purged, reasons=frozenset({"marker_gone", "messages_missing"}), lossy=True, line=False),
    "half_purged": Break(half_purged, reasons=frozenset({"messages_missing"}), lossy=True, line=False),
    "consumers_deleted": Break(consumers_deleted, reasons=frozenset({"consumers_gone"}), line=False),
}


def scene_pids(scene: Scene) -> set[int]:
    from tests.broker.scene import nats_servers

    return nats_servers(str(scene.daemon.data_dir))


async def _hang(pid: int, seconds: float) -> None:
    os.kill(pid, signal.SIGSTOP)
    try:
        await asyncio.sleep(seconds)
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def _either(chance: random.Random) -> signal.Signals:
    return chance.choice([KILL, STOP])


def _blocks(scene: Scene, stream: str) -> list[Path]:
    """The files of a stream's messages, oldest first."""
    found = sorted((scene.store / stream / "msgs").glob("*.blk"), key=lambda path: int(path.stem))
    return [path for path in found if path.stat().st_size] or found


def _flip(path: Path, chance: random.Random) -> str:
    size = path.stat().st_size
    if size == 0:
        return f"{path.name} (empty)"
    at, bit = chance.randrange(size), chance.randrange(8)
    with path.open("r+b") as file:
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 1 << bit]))
    return f"{path.parent.parent.name}/{path.name}@{at}.{bit} of {size}"
