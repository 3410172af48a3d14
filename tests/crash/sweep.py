"""Durable runs in many short lives of the daemon, each ended by a blow; in several worlds side by side. Then the audit.

What makes lives short is `zygote.py`. Each world has a data folder, clients, and a file of effects of its own; they
share a nats-server that stays. The seed deals the blows and what the clients do; when, depends on the machine.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import socket
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any

import msgspec
import nats

from cascadenced.bus.embedded_config import find_server
from tests.crash.attempts import Attempts
from tests.crash.audit import ENDS, Evidence, Row, audit, read_rows
from tests.crash.chaos import Blow, checked_by_the_product, published
from tests.crash.client import Clients, post
from tests.crash.durable import Life, Order, Verb, Witnessed, at_rest, audit_effects
from tests.crash.durable_tasks import ASKED_FOR, BEGUN, WAITING, Line, Stubborn
from tests.crash.zygote import Forked, Zygote

READY_WITHIN_S = 20.0
NOT_REACHED_WITHIN_S = 1.0
RESTS_WITHIN_S = 40.0
STOPPED_FOR_S = 3.0
"""How long SIGSTOP lasts."""
MAX_UNFINISHED = 14
"""Runs that clients ask for while so many are not over: a world must come to rest soon."""

PASSES = {
    "append.before_commit": 40,
    "append.after_commit": 40,
    "stage.before_effect": 25,
    "stage.after_effect": 25,
    "step.before_effect": 15,
    "step.after_effect": 15,
    "outbox.before_publish": 8,
    "outbox.after_publish": 8,
    "vault.after_write": 4,
}
"""Crash points, and how many passes each lets by at most; often it is few, and the recovery itself is hit."""


def blows(seed: int, n_kills: int) -> list[Blow]:
    """The first of this seed, with so many kills among them. Every crash point comes once before any comes again."""
    chance = random.Random(f"{seed}:sweep")
    points: list[str] = []
    found: list[Blow] = []
    while sum(blow.how != "stop" for blow in found) < n_kills:
        kind = chance.random()
        if kind < 0.6:
            if not points:
                points = chance.sample(sorted(PASSES), len(PASSES))
            name = points.pop()
            found.append(Blow("crash at", at=f"{name}:{1 + int(PASSES[name] * chance.random() ** 2)}"))
        elif kind < 0.8:
            found.append(Blow("kill", chance.random() ** 2 * 0.6))
        elif kind < 0.93:
            found.append(Blow("kill while starting", chance.random() * 0.2))
        elif kind < 0.97:
            found.append(Blow("kill, its worker outlives it", 0.3))
        else:
            found.append(Blow("stop", chance.random() * 0.3))
    return found


def replay(seed: int, n_kills: int, n_worlds: int) -> str:
    """The command that deals the same blows."""
    return f"make crash SEED={seed} N=0 POWER=0 KILLS={n_kills} WORLDS={n_worlds}"


class Outcome(msgspec.Struct, frozen=True):
    """faults: what the audits found.  told: figures for people."""

    faults: list[str]
    told: str


async def sweep(
    folder: Path,
    seed: int,
    n_kills: int,
    say: Callable[[str], None],
    *,
    n_worlds: int = 3,
    defect: str = "",
    dealt: Sequence[Blow] | None = None,
    tasks: Sequence[str] = (),
) -> Outcome:
    """So many kills, over `n_worlds` at once. dealt: to every world, instead of what the seed says.

    tasks: that clients ask for, instead of all.  defect: Python that the daemons are made with, to see whether it is
    found out.
    """
    began = time.monotonic()
    async with _server(folder) as nats_url:
        zygote = await Zygote.start(defect)
        try:
            worlds = [World(folder / f"world-{n}", f"w{n}", zygote, nats_url, seed + n, tasks) for n in range(n_worlds)]
            shares = [n_kills // n_worlds + (n < n_kills % n_worlds) for n in range(n_worlds)]
            of_each = [dealt if dealt is not None else blows(seed + n, share) for n, share in enumerate(shares)]
            if dealt is None and of_each[0]:
                of_each[0] = [*of_each[0][:-1], Blow("SIGSTOP, SIGCONT, kill", 0.3)]
            outcomes = await asyncio.gather(*(w.fate(b, say) for w, b in zip(worlds, of_each, strict=True)))
        finally:
            await zygote.close()
    took_s = time.monotonic() - began
    figures: Counter[str] = Counter()
    for world in worlds:
        figures.update(world.figures)
    told = ", ".join(f"{n} {what}" for what, n in figures.items())
    return Outcome(
        [f for faults in outcomes for f in faults], f"{told}; {took_s:.0f} s, {figures['kills'] / took_s:.1f} kills/s"
    )


@asynccontextmanager
async def _server(folder: Path) -> AsyncIterator[str]:
    """A nats-server that survives all daemons."""
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = folder / "nats.conf"
    settings.write_text(f'listen: "127.0.0.1:{port}"\njetstream {{ store_dir: "{folder}/nats" }}\n')
    with (folder / "nats.log").open("wb") as log:
        process = subprocess.Popen([str(find_server()), "-c", str(settings)], stdout=log, stderr=log)
    try:
        yield f"nats://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


class Callers(Clients):
    """Ask for durable runs, tell them what they wait for, and order them about.

    n_told: events that were taken.  orders: in order.
    """

    def __init__(self, data_dir: Path, seed: int, tasks: Sequence[str]) -> None:
        super().__init__(data_dir, seed, n_bus=0, n_socket=0)
        self._log_path = data_dir / "log.db"
        self._tasks = {cls.name: weight for cls, weight in ASKED_FOR.items() if not tasks or cls.name in tasks}
        self.owed: dict[str, None] = {}
        self.orders: list[Order] = []
        self._ways = [self._ask_for_one, self._ask_for_one, self._ask_for_one, self._tell, self._order_about]

    async def _post(self, verb: str, **body: Any) -> tuple[int, Any]:
        return await post(self._found()["socket"], f"/rpc/{verb}", {"user_id": "them", "group_id": "crew", **body})

    async def _ask_for_one(self, chance: random.Random) -> None:
        await asyncio.sleep(chance.random() * 0.04)
        if len(self.unfinished()) >= MAX_UNFINISHED:
            return
        [task] = chance.choices(list(self._tasks), list(self._tasks.values()))
        key, body = self._wish(chance)
        try:
            for n in range(20):
                await self._ask_patiently({**body, "task": task, "idempotency_key": key, "wait": False})
                if self.attempts.by_key[key].n_acknowledged > (n == 0 and chance.random() < 0.1):
                    break
        finally:
            if task in WAITING:
                self.owed[key] = None  # not before: an event that comes before the run is none that it waits for

    async def _ask_patiently(self, body: dict[str, Any]) -> None:
        try:
            await self._ask(body)
        except Exception:  # whoever was asked is gone
            await asyncio.sleep(0.05)

    async def _tell(self, chance: random.Random) -> None:
        """One of those that wait, or will."""
        await asyncio.sleep(chance.random() * 0.03)
        if self.owed:
            await self.tell(chance.choice(list(self.owed)))

    async def tell(self, key: str) -> None:
        status, _ = await self._post("dispatch", event="go", payload={"n": key}, idempotency_key=key, wait=False)
        if status == 200:
            self.owed.pop(key, None)

    async def _order_about(self, chance: random.Random) -> None:
        await asyncio.sleep(chance.random() * 0.1)
        if chance.random() < 0.25:
            for run_id in (await self.listed("in_doubt"))[:2]:
                await self.resolve(run_id, chance)
        elif chance.random() < 0.5:
            for run_id in await self.listed("paused"):
                if chance.random() < 0.7:
                    await self.order(run_id, "resume_run")
        elif unfinished := self.unfinished():
            await self.order(chance.choice(unfinished), "cancel" if chance.random() < 0.35 else "pause_run")

    async def resolve(self, run_id: str, chance: random.Random) -> None:
        with closing(sqlite3.connect(f"file:{self._log_path}?mode=ro", uri=True)) as connection:
            where = "stream = ? AND type = 'run.in_doubt' ORDER BY version DESC LIMIT 1"
            [(data,)] = connection.execute(f"SELECT data FROM events WHERE {where}", [f"run-{run_id}"])
        output: Any = "SETTLED" if json.loads(data).get("step") else {"SETTLED": True, "steps": []}
        await self.order(run_id, "resolve", resolution=chance.choice(["retry", "done", "fail"]), output=output)

    async def order(self, run_id: str, verb: Verb, **more: Any) -> int:
        order = Order(run_id, verb)
        self.orders.append(order)
        status, _ = await self._post(verb, run=run_id, **more)
        if status == 200:
            order.answered_at_us = time.time_ns() // 1000
        return status

    async def listed(self, status: str) -> list[str]:
        """Ids of the runs with that status, as the daemon lists them."""
        found: list[str] = []
        after = None
        while True:
            code, answer = await self._post_plainly("runs", status=status, limit=100, after=after)
            assert code == 200, answer
            found += [row["run_id"] for row in answer["items"]]
            after = answer.get("next")
            if after is None:
                return found

    async def _post_plainly(self, verb: str, **body: Any) -> tuple[int, Any]:
        return await post(self._found()["socket"], f"/rpc/{verb}", body)

    async def status(self) -> Any:
        return (await post(self._found()["socket"], "/status", None))[1]

    def unfinished(self) -> list[str]:
        with closing(sqlite3.connect(f"file:{self._log_path}?mode=ro", uri=True)) as connection:
            return [stream.removeprefix("run-") for (stream,) in connection.execute("SELECT stream FROM unfinished")]


class World:
    """A data folder and all the lives of its daemon. figures: for people."""

    def __init__(
        self, folder: Path, prefix: str, zygote: Zygote, nats_url: str, seed: int, tasks: Sequence[str]
    ) -> None:
        self.data_dir = folder / "data"
        self._folder, self._prefix, self._zygote, self._nats_url = folder, prefix, zygote, nats_url
        self._output, self._sink = folder / "output", folder / "sink"
        self._chance = random.Random(f"{seed}:world")
        self._daemon: Forked | None = None
        self._lives: list[Life] = []
        self._thawing: set[asyncio.Task[None]] = set()
        self.figures: Counter[str] = Counter()
        folder.mkdir(parents=True)
        self._sink.touch()
        self.callers = Callers(self.data_dir, seed, tasks)

    @property
    def _env(self) -> dict[str, str]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("CASCADENCE", "NATS_", "UME_"))}
        return clean | {
            "CASCADENCE_DATA_DIR": str(self.data_dir),
            "CASCADENCE_HTTP_PORT": "0",
            "CASCADENCE_PLUGIN_PATHS": ",".join(f"tests.crash.durable_tasks:{cls.__name__}" for cls in ASKED_FOR),
            "CASCADENCE_LOG_LEVEL": "warning",
            "CASCADENCE_MAX_CONCURRENT_RUNS": "10",
            "NATS_URL": self._nats_url,
            "UME_NATS_SUBJECT": self._prefix,
            "SINK": str(self._sink),
            "LIFE": str(len(self._lives) + 1),
        }

    # ── lives ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def fate(self, dealt: Sequence[Blow], say: Callable[[str], None]) -> list[str]:
        """All blows, then rest; returns what is wrong."""
        faults: list[str] = []
        self.callers.start()
        try:
            for number, blow in enumerate(dealt, start=1):
                before = self._output.stat().st_size if self._output.exists() else 0
                outcome = await self._life(blow)
                self.figures["kills"] += blow.how != "stop"
                self.figures["crash points reached"] += outcome == "reached"
                say(f"{self._prefix} {number}/{len(dealt)}: {blow}: {outcome}")
                faults += [f"{self._prefix} {number}, {blow}: {each}" for each in self._complaints(before, outcome)]
            return [*faults, *(f"{self._prefix}: {fault}" for fault in await self._aftermath())]
        except AssertionError as error:  # a daemon that does not get ready, or does not answer
            return [*faults, f"{self._prefix}: {error}"]
        finally:
            await self.callers.stop()
            await asyncio.gather(*self._thawing)
            if self._daemon is not None and self._daemon.status is None:
                await self._daemon.kill()

    async def _life(self, blow: Blow) -> str:
        """One life; how it came out, in a word or two."""
        daemon = await self._launch(blow.at or "")
        try:
            if blow.at is not None:
                with suppress(TimeoutError):
                    if await self._ready(daemon, or_dead=True):
                        await asyncio.wait_for(asyncio.shield(daemon.ended), NOT_REACHED_WITHIN_S)
                    return "reached" if daemon.status == -signal.SIGKILL else f"ended with {daemon.status}"
                return await self._kill(daemon, "not reached, killed")
            if blow.how != "kill while starting":
                await self._ready(daemon)
            await asyncio.sleep(blow.after_s)
            if blow.how == "stop":
                await daemon.signal(signal.SIGTERM)
                return f"stopped with {await asyncio.wait_for(daemon.ended, 30)}"
            if blow.how.startswith("SIGSTOP"):
                await daemon.signal(signal.SIGSTOP)
                await asyncio.sleep(STOPPED_FOR_S)
                await daemon.signal(signal.SIGCONT)
                await asyncio.sleep(blow.after_s)
            if blow.how.endswith("outlives it"):
                return await self._kill(daemon, "killed" if await self._frozen_worker() else "killed, had no worker")
            return await self._kill(daemon, "killed")
        finally:
            self._lives.append(Life(len(self._lives) + 1, time.time_ns() // 1000))

    async def _launch(self, crash_at: str = "") -> Forked:
        self._daemon = await self._zygote.fork(["up"], self._env, self._output, crash_at)
        return self._daemon

    async def _kill(self, daemon: Forked, how: str) -> str:
        status = await daemon.kill()
        return how if status == -signal.SIGKILL else f"ended with {status}"

    async def _ready(self, daemon: Forked, *, or_dead: bool = False) -> bool:
        """Wait until it is; False if it has died instead."""
        note, deadline = self.data_dir / "daemon.json", time.monotonic() + READY_WITHIN_S
        while time.monotonic() < deadline:
            with suppress(OSError, ValueError):
                if json.loads(note.read_text())["pid"] == daemon.pid:
                    return True
            if or_dead and daemon.status is not None:
                return False
            assert daemon.status is None, f"it ended with {daemon.status} before it was ready: {self._tail()}"
            await asyncio.sleep(0.01)
        raise AssertionError(f"it was not ready within {READY_WITHIN_S:g} s: {self._tail()}")

    async def _frozen_worker(self) -> bool:
        """Stop a process that a run's code has to itself, until the daemon is long gone; whether there was one."""
        life = len(self._lives) + 1
        body = {"user_id": "them", "group_id": "crew", "task": Stubborn.name, "wait": False}
        key, wish = self.callers._wish(self._chance)
        with suppress(OSError, ValueError, TimeoutError):
            await self.callers._ask({**wish, **body, "idempotency_key": key})
        for _ in range(100):
            for line in self._lines():
                if (line.task, line.step, line.life) == (Stubborn.name, BEGUN, life):
                    await asyncio.sleep(0.02)  # it makes itself hard to kill first
                    with suppress(ProcessLookupError):
                        os.kill(line.pid, signal.SIGSTOP)
                        self._thawing.add(asyncio.create_task(_thaw(line.pid)))
                        return True
            await asyncio.sleep(0.02)
        return False

    def _complaints(self, before: int, outcome: str) -> list[str]:
        """What the daemon of this life did that nobody made it do."""
        with self._output.open("rb") as file:
            file.seek(before)
            lines = file.read().decode(errors="replace").splitlines()
        wrong = [line for line in lines if '"exception":' in line or line.startswith("Traceback")]
        wrong += [line for line in lines if "left_unfinished" in line]
        return wrong if outcome in ("reached", "stopped with 0") or "killed" in outcome else [outcome, *lines[-3:]]

    def _tail(self) -> str:
        return "\n".join(self._output.read_text(errors="replace").splitlines()[-20:])

    def _lines(self) -> list[Line]:
        return [msgspec.json.decode(line, type=Line) for line in self._sink.read_bytes().splitlines()]

    # ── the end ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def _aftermath(self) -> list[str]:
        """A last life, undisturbed, in which everything comes to rest, is settled, and ends; then the audit."""
        await self.callers.stop()
        before = self._output.stat().st_size if self._output.exists() else 0
        daemon = await self._launch()
        await self._ready(daemon)
        callers = self.callers
        for run_id in await callers.listed("paused"):
            await callers.order(run_id, "resume_run")
        for key in list(callers.owed):
            await callers.tell(key)
        faults: list[str] = []
        in_doubt, rest_position = frozenset[str](), 0
        if await self._rests():
            in_doubt = frozenset(await callers.listed("in_doubt"))
            rest_position = read_rows(self.data_dir / "log.db")[-1].position
        else:
            faults.append(f"not everything had come to rest after {RESTS_WITHIN_S:g} s: {self._restless()}")
        for _ in range(20):
            for run_id in (listed := await callers.listed("in_doubt")):
                await callers.resolve(run_id, self._chance)
            if not await self._rests() or not listed:
                break
        await self._published_all()
        on_the_bus = await published(self, self._prefix)
        await daemon.signal(signal.SIGTERM)
        if status := await asyncio.wait_for(daemon.ended, 30):
            faults.append(f"the last stop ended with {status}")
        await asyncio.gather(*self._thawing)
        rows, lines = read_rows(self.data_dir / "log.db"), self._lines()
        faults += self._complaints(before, "stopped with 0")
        faults += audit(Evidence(callers.attempts, rows, (), on_the_bus))
        faults += audit_effects(Witnessed(rows, lines, callers.orders, self._lives, in_doubt, rest_position))
        faults += await checked_by_the_product(self)
        self._count(rows, lines, callers.attempts, len(in_doubt))
        return faults

    async def _rests(self) -> bool:
        """Wait until nothing goes on by itself any more; False if that takes too long."""
        deadline = time.monotonic() + RESTS_WITHIN_S
        while time.monotonic() < deadline:
            status = await self.callers.status()
            if status["n_running"] == status["n_queued"] == 0 and at_rest(read_rows(self.data_dir / "log.db")):
                return True
            await asyncio.sleep(0.1)
        return False

    async def _published_all(self) -> None:
        for _ in range(200):
            if (await self.callers.status())["bus"]["outbox_pending"] == 0:
                return
            await asyncio.sleep(0.05)

    def _restless(self) -> str:
        unfinished = set(self.callers.unfinished())
        last: dict[str, Row] = {}
        for row in read_rows(self.data_dir / "log.db"):
            if row.stream.removeprefix("run-") in unfinished:
                last[row.stream] = row
        return "; ".join(f"{stream} ({row.data.get('task')}) after {row.type}" for stream, row in last.items())

    def _count(self, rows: Sequence[Row], lines: Sequence[Line], attempts: Attempts, n_in_doubt: int) -> None:
        types = Counter(row.type for row in rows)
        ends = Counter(row.type for row in rows if row.type in ENDS)
        again = Counter((line.run_id, line.stage, line.step) for line in lines if line.step != BEGUN)
        self.figures += Counter(
            {
                "runs": types["run.requested"],
                **{end.removeprefix("run."): n for end, n in sorted(ends.items())},
                "children": types["child.requested"],
                "waits": types["wait.started"],
                "retries": sum(row.type == "stage.failed" and bool(row.data.get("retry_at_us")) for row in rows),
                "pauses": types["run.paused"],
                "doubts": types["run.in_doubt"],
                "in doubt at the end": n_in_doubt,
                "effects": len(lines),
                "of them repeated": sum(n - 1 for n in again.values()),
                "events": len(rows),
            }
        )

    # ── as the checks know it ────────────────────────────────────────────────────────────────────────────────────

    async def command(self, *arguments: str, within_s: float) -> tuple[int, str, str]:
        """Run the command line: (exit status, output, output)."""
        output = self._folder / "command"
        output.unlink(missing_ok=True)
        forked = await self._zygote.fork(list(arguments), self._env, output)
        status = await asyncio.wait_for(forked.ended, within_s)
        return status, output.read_text(), output.read_text()

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Any]:
        """A plain NATS client."""
        client = await nats.connect(self._nats_url)
        try:
            yield client
        finally:
            await client.close()


async def _thaw(pid: int) -> None:
    await asyncio.sleep(1.0)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)
