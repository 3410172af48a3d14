"""A daemon at work on a nats-server, its own or another; and what must be true whatever was done to that server."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any

from cascadenced.bus.embedded import EmbeddedServer
from cascadenced.eventlog.rows import COLUMNS, from_row
from cascadenced.events.base import Recorded
from cascadenced.events.outbound import messages
from cascadenced.events.pointer import PointerAdded
from cascadenced.events.run import RunFinished, RunRequested
from cascadenced.events.system import EpochBroken, EpochRepaired
from tests.acceptance.conftest import Daemon
from tests.broker.load import POINTER_EVERY, Load

TOKEN = "0123456789abcdef0123456789abcdef"
PROGRESS_WITHIN_S = 15.0
WHOLE_WITHIN_S = 40.0
_STAGES = 5


class Scene:
    """outside: the server, if it is not the daemon's own."""

    def __init__(self, daemon: Daemon, load: Load, outside: EmbeddedServer | None) -> None:
        self.daemon, self.load, self.outside = daemon, load, outside
        self.recorded: list[Recorded] = []
        self.progress_within_s, self.whole_within_s = PROGRESS_WITHIN_S, WHOLE_WITHIN_S
        self.damaged = False
        """Whether bytes of its store were changed."""
        self.lossy = False
        """Whether the broker may have lost what it had confirmed to clients."""
        self.excused: set[int] = set()
        """Wishes that it has indeed lost."""

    @property
    def jetstream(self) -> Path:
        """Where the server keeps all it has."""
        root = self.daemon.data_dir if self.outside is None else self.daemon.folder / "outside"
        return root / "nats" / "jetstream"

    @property
    def store(self) -> Path:
        """The folder of the streams."""
        return next(self.jetstream.glob("*/streams"))

    @property
    def server_pid(self) -> int:
        if self.outside is not None:
            return self.outside.pid
        (pid,) = nats_servers(str(self.daemon.data_dir))
        return pid

    @asynccontextmanager
    async def down(self, how: signal.Signals) -> AsyncIterator[None]:
        """While the server is down. The daemon whose own it is stands still meanwhile, and starts it again then."""
        if self.outside is not None:
            os.kill(self.outside.pid, how)
            await self.outside.wait()
            yield
            await self.outside.restart()
            return
        assert self.daemon.process is not None
        pid = self.server_pid
        self.daemon.process.send_signal(signal.SIGSTOP)
        try:
            os.kill(pid, how)
            async with asyncio.timeout(10):
                while pid in nats_servers(str(self.daemon.data_dir)):
                    await asyncio.sleep(0.01)
            yield
        finally:
            self.daemon.process.send_signal(signal.SIGCONT)
        async with asyncio.timeout(10):
            while not nats_servers(str(self.daemon.data_dir)):
                await asyncio.sleep(0.01)

    # ── what must be true ────────────────────────────────────────────────────────────────────────────────────────

    async def progress(self) -> float:
        """After healing: how long until a new wish has run and been told of on the bus. Fails when that takes longer.

        Not necessarily the first: a damaged server may confirm what it then cannot read.
        """
        began, first = time.monotonic(), await self.load.one()
        while time.monotonic() - began < self.progress_within_s:
            await self.load.run()
            await asyncio.sleep(0.02)
            if {run_id for run_id, _, n in self.daemon.effects() if int(n) > first} & self.load.ended:
                return time.monotonic() - began
        raise AssertionError(f"no progress within {self.progress_within_s:g} s of healing")

    async def settled(self) -> None:
        """Nothing under way: what was confirmed is done, the outbox empty, nothing to repair."""
        await self._until(self._is_settled, "it does not settle")

    async def whole(self) -> None:
        """Every event that must be on the bus is there, once."""
        await self.settled()
        await self._until(self._is_whole, "the bus is not what the log says")
        twice = {message_id: n for message_id, n in Counter(await self.load.ids()).items() if n > 1 and message_id}
        assert not twice, f"on the bus more than once: {list(twice.items())[:5]}"

    async def _until(self, condition: Callable[[], Any], what: str) -> None:
        why = "it was never asked"
        try:
            async with asyncio.timeout(self.whole_within_s):
                while (why := await condition()) is not None:
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(f"{what} within {self.whole_within_s:g} s: {why}") from None

    async def _is_settled(self) -> str | None:
        try:
            status = await self.daemon.get("/status")
        except OSError as error:
            return str(error)
        bus = status["bus"]
        busy = {name: status[name] for name in ("n_running", "n_queued") if status[name]}
        busy |= {name: bus[name] for name in ("outbox_pending", "n_to_repair") if bus[name]}
        self.read()
        undone = self._undone()
        if self.lossy:
            with suppress(Exception):
                self.excused |= {n for n in undone if not await self.load.holds(n)}
        return f"{busy} {sorted(undone)[:5]}" if busy or undone or not bus["well"] else None

    async def _is_whole(self) -> str | None:
        try:
            there = set(await self.load.ids())
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        self.read()
        missing = [message_id for message_id in self.expected() if message_id not in there]
        return f"{len(missing)} are missing, the first is {missing[0]}" if missing else None

    def expected(self) -> list[str]:
        """The ids of all messages about what is recorded."""
        return [
            message.headers["Nats-Msg-Id"]
            for recorded in self.recorded
            for message in messages(recorded, "ume", broadcast_pointers=False)
        ]

    def read(self) -> None:
        """Take in what the log has by now."""
        with closing(sqlite3.connect(f"file:{self.daemon.data_dir / 'log.db'}?mode=ro", uri=True)) as connection:
            rows = connection.execute(
                f"SELECT {COLUMNS} FROM events WHERE position > ? ORDER BY position", (len(self.recorded),)
            )
            self.recorded += [from_row(row) for row in rows]

    def of(self, kind: type[Any], after: int = 0) -> list[Any]:
        """The events of that kind above a position."""
        return [recorded.event for recorded in self.recorded[after:] if isinstance(recorded.event, kind)]

    def reasons(self, after: int) -> set[str]:
        """Why the epoch broke. A second break of a kind within a minute is told by the repair alone."""
        repaired = {reason for event in self.of(EpochRepaired, after) for reason in event.reasons}
        return repaired | {event.reason for event in self.of(EpochBroken, after)}

    def _undone(self) -> set[int]:
        """Wishes that were confirmed, whose runs have not ended."""
        finished = {r.run_id for r in self.recorded if isinstance(r.event, RunFinished)}
        done = {
            int(r.event.args["n"]) for r in self.recorded if isinstance(r.event, RunRequested) and r.run_id in finished
        }
        done |= {int(r.event.run_id) for r in self.recorded if isinstance(r.event, PointerAdded)}
        return set(self.load.confirmed) - done - self.excused

    def once(self) -> None:
        """Whatever was asked for was done once, and nothing that was confirmed is missing."""
        self.read()
        asked = Counter(event.args["n"] for event in self.of(RunRequested))
        pointed = Counter(event.run_id for event in self.of(PointerAdded))
        repeated = [n for n, count in {**asked, **pointed}.items() if count > 1]
        assert not repeated, f"done more than once: {repeated[:5]}"
        effects = Counter(self.daemon.effects())
        assert not (again := [effect for effect, count in effects.items() if count > 1]), (
            f"stages run twice: {again[:5]}"
        )
        assert not (undone := self._undone()), f"confirmed and not done: {sorted(undone)[:5]}"
        runs = [n for n in self.load.confirmed if n % POINTER_EVERY and n not in self.excused]
        assert len({(n, stage) for _, stage, n in effects if int(n) in set(runs)}) == _STAGES * len(runs)

    async def verified(self) -> None:
        code, _, error = await self.daemon.command("log", "verify")
        assert code == 0, error


@asynccontextmanager
async def scene(
    folder: Path, *, own: bool, binary: Path | None = None, key: str | None = None, **env: str
) -> AsyncIterator[Scene]:
    """A daemon on its own server, or on another that outlives it.

    binary: which nats-server, None for the one that would be found.  key: another's store is encrypted with it.
    """
    daemon = Daemon(folder)
    server = str(binary) if binary is not None else None
    if own:
        outside = None
        env = env | ({"CASCADENCE_NATS_SERVER": server} if server else {})
    else:
        outside = await EmbeddedServer.start(folder / "outside", token=TOKEN, server=server, key=key)
        env = env | {"NATS_URL": outside.url}
    try:
        await daemon.start(**({"CASCADENCE_LOG_LEVEL": "info"} | env))
        async with Load(daemon.found["nats_url"]) as load:
            yield Scene(daemon, load, outside)
    finally:
        if daemon.process is not None and daemon.process.returncode is None:
            await daemon.kill()
        if outside is not None:
            await outside.stop()


def nats_servers(data_dir: str) -> set[int]:
    """Pids of live nats-servers whose command line names the folder (Linux)."""
    found = set()
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                command = Path(f"/proc/{entry}/cmdline").read_bytes().decode(errors="replace")
                zombie = ") Z " in Path(f"/proc/{entry}/stat").read_text()
            except OSError:
                continue
            if "nats-server" in command and data_dir in command and not zombie:
                found.add(int(entry))
    return found
