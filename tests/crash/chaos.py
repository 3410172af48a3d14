"""A daemon under load, killed over and over; then the audit.

A round is one life of the daemon. It ends at a named crash point, at a random moment, while it starts, or in good
order. Which, and when, follows from the seed: the same seed kills at the same points and delays. What the clients and
the daemon have done by then depends on the machine, so a replay meets the same blows, not the same instants.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import signal
import sqlite3
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, closing, suppress
from pathlib import Path
from typing import Any, Protocol

import msgspec

from cascadenced.projections import all_projections
from tests.acceptance.conftest import Daemon
from tests.crash.audit import Effect, Evidence, Row, audit, read_rows
from tests.crash.client import Clients
from tests.projections.stories import dump

TABLES = [table for projection in all_projections() for table in projection.tables]
NOT_REACHED_WITHIN_S = 8.0
"""When a crash point is not passed often enough by then, the daemon is killed all the same."""
SETTLED_WITHIN_S = 90.0

QUIET = {"CASCADENCE_LOG_LEVEL": "warning"}

PASSES = {
    "append.before_commit": 120,
    "append.after_commit": 120,
    "ingest.before_append": 30,
    "ingest.after_append": 30,
    "stage.before_effect": 100,
    "stage.after_effect": 100,
    "outbox.before_publish": 40,
    "outbox.after_publish": 40,
    "vault.after_write": 30,
}
"""The crash points that a daemon under load passes, and how many passes each lets by at most; the first start's own
events take some."""


class Process(Protocol):
    """What the checks at the end need of a daemon."""

    data_dir: Path

    async def command(self, *arguments: str, within_s: float) -> tuple[int, str, str]: ...

    def client(self) -> AbstractAsyncContextManager[Any]: ...


class Blow(msgspec.Struct, frozen=True):
    """How a round ends. at: a crash point with its count, else None.  after_s: of load, or of starting up."""

    how: str
    after_s: float = 0.0
    at: str | None = None

    def __str__(self) -> str:
        return f"{self.how} {self.at or f'after {self.after_s:.2f} s'}"


def blows(seed: int, n: int) -> list[Blow]:
    """The first `n` of this seed. Every crash point comes once before any comes again."""
    chance = random.Random(f"{seed}:blows")
    points: list[str] = []
    found = []
    for _ in range(n):
        kind = chance.random()
        if kind < 0.6:
            if not points:
                points = chance.sample(sorted(PASSES), len(PASSES))
            name = points.pop()
            found.append(Blow("crash at", at=f"{name}:{chance.randint(1, PASSES[name])}"))
        elif kind < 0.85:
            found.append(Blow("kill", chance.random() * 1.5))
        elif kind < 0.95:
            found.append(Blow("kill while starting", chance.random() * 0.8))
        else:
            found.append(Blow("stop", chance.random()))
    return found


class Outcome(msgspec.Struct, frozen=True):
    """faults: what the audit found.  told: figures for people."""

    faults: list[str]
    told: str


async def chaos(
    folder: Path,
    seed: int,
    dealt: Sequence[Blow],
    say: Callable[[str], None],
    *,
    settle_within_s: float = SETTLED_WITHIN_S,
    defect: str = "",
) -> Outcome:
    """A life for each blow and one more, in `folder`. seed: of the clients.  say: told one line a round.

    settle_within_s: how long the last life may take until everything has ended.
    defect: Python that each daemon executes when it loads its tasks, to see whether the audit finds what it does.
    """
    daemon = Daemon(folder)
    with (folder / "accept_tasks.py").open("a") as tasks:
        tasks.write(defect)
    clients = Clients(daemon.data_dir, seed)
    n_reached, faults = 0, []
    clients.start()
    try:
        for number, blow in enumerate(dealt, start=1):
            outcome = await _life(daemon, blow)
            n_reached += outcome == "reached"
            say(f"round {number}/{len(dealt)}: {blow}: {outcome}; {clients.attempts.told()}")
            faults += [f"round {number}, {blow}: {fault}" for fault in _of_its_own_accord(daemon, blow)]
        happened = f"{len(dealt)} rounds, {n_reached} crash points reached"
        after = await aftermath(daemon, clients, happened, settle_within_s)
    except AssertionError as error:  # a daemon that does not get ready
        return Outcome([*faults, str(error)], clients.attempts.told())
    finally:
        await clients.stop()
        await _kill(daemon)
    return Outcome(faults + after.faults, after.told)


def _of_its_own_accord(daemon: Daemon, blow: Blow) -> list[str]:
    """What the daemon of this round did that nobody made it do."""
    assert daemon.process is not None
    expected = 0 if blow.how == "stop" else -signal.SIGKILL
    status = daemon.process.returncode
    faults = [] if status == expected else [f"it ended with {status}, not {expected}: {daemon.output[-3:]}"]
    return faults + [line for line in daemon.output if '"exception":' in line or line.startswith("Traceback")]


async def aftermath(
    daemon: Daemon, clients: Clients, happened: str, settle_within_s: float = SETTLED_WITHIN_S
) -> Outcome:
    """A last life, undisturbed, in which everything ends; then the audit. happened: what led here, for the figures."""
    daemon.output.clear()
    await daemon.start(**QUIET)
    await clients.stop()
    settled = await _settled(daemon, clients, settle_within_s)
    on_the_bus = await published(daemon)
    faults = [] if settled else [f"not everything had ended after {settle_within_s:g} s"]
    if (status := await daemon.stop()) != 0:
        faults.append(f"the last stop ended with {status}")
    rows = read_rows(daemon.data_dir / "log.db")
    effects = [Effect(run_id, stage) for run_id, stage, _ in daemon.effects()]
    faults += audit(Evidence(clients.attempts, rows, effects, on_the_bus))
    faults += await checked_by_the_product(daemon)
    return Outcome(faults, f"{happened}; {_figures(clients, rows)}")


async def _life(daemon: Daemon, blow: Blow) -> str:
    """One round; how it came out, in a word."""
    daemon.output.clear()
    if blow.how == "kill while starting":
        await daemon.launch(**QUIET)
        await asyncio.sleep(blow.after_s)
        await _kill(daemon)
        return "killed"
    if blow.at is not None:
        await daemon.launch(**QUIET, CASCADENCED_CRASH_AT=blow.at)
        with suppress(TimeoutError):
            await daemon.ended(NOT_REACHED_WITHIN_S)
            return "reached"
        await _kill(daemon)
        return "not reached, killed"
    await daemon.start(**QUIET)
    await asyncio.sleep(blow.after_s)
    if blow.how == "stop":
        return f"stopped with {await daemon.stop()}"
    await _kill(daemon)
    return "killed"


async def _kill(daemon: Daemon) -> None:
    if daemon.process is not None and daemon.process.returncode is None:
        with suppress(ProcessLookupError):
            await daemon.kill()


async def _settled(daemon: Daemon, clients: Clients, within_s: float) -> bool:
    """Wait until what was acknowledged is in the log, every run has ended, and the bus knows; False if that fails."""
    path = daemon.data_dir / "log.db"
    with suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            while True:
                status = await daemon.get("/status")
                idle = status["n_running"] == status["n_queued"] == status["bus"]["outbox_pending"] == 0
                if idle and not _n_unfinished(path) and not _missing(path, clients):
                    return True
                await asyncio.sleep(0.2)
    return False


def _n_unfinished(path: Path) -> int:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        n: int = connection.execute("SELECT count(*) FROM unfinished").fetchone()[0]
        return n


def _missing(path: Path, clients: Clients) -> set[str]:
    """Keys that were acknowledged and are not in the log yet: the bus still has them."""
    owed = {attempt.key for attempt in clients.attempts.with_outcome("acknowledged")}
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        runs = "SELECT json_extract(data, '$.args.n') FROM events WHERE type = 'run.requested'"
        pointers = "SELECT json_extract(data, '$.run_id') FROM events WHERE type = 'pointer.added'"
        return owed - {key for (key,) in connection.execute(f"{runs} UNION ALL {pointers}")}


async def published(daemon: Process, prefix: str = "ume") -> frozenset[str]:
    """Ids of the events that the daemon's stream has a message of."""
    seen = set()
    async with daemon.client() as client:
        stream = client.jetstream()
        n_messages = (await stream.stream_info(prefix.upper())).state.messages
        subscription = await stream.subscribe(f"{prefix}.>", stream=prefix.upper(), ordered_consumer=True)
        for _ in range(n_messages):
            message = await subscription.next_msg(timeout=20)
            seen.add((message.headers or {}).get("Nats-Msg-Id", "").partition(".")[0])
    return frozenset(seen)


async def checked_by_the_product(daemon: Process) -> list[str]:
    """The chain, and the tables before and after they are folded again from nothing."""
    code, _, error = await daemon.command("log", "verify", within_s=120)
    faults = [f"log verify: {error.strip()}"] if code else []
    before = _tables(daemon)
    code, _, error = await daemon.command("log", "rebuild", within_s=300)
    if code:
        return [*faults, f"log rebuild: {error.strip()}"]
    after = _tables(daemon)
    return faults + [f"the table {name} is not what the log folds to" for name in before if before[name] != after[name]]


def _tables(daemon: Process) -> dict[str, str]:
    """Table → digest of its rows, in the order SQLite has them."""
    with closing(sqlite3.connect(daemon.data_dir / "log.db")) as connection:
        return {name: hashlib.sha256(repr(rows).encode()).hexdigest() for name, rows in dump(connection, TABLES)}


def _figures(clients: Clients, rows: Sequence[Row]) -> str:
    types = Counter(row.type for row in rows)
    n_repeated = sum(row.type == "stage.started" and row.data["attempt"] > 1 for row in rows)
    n_uttered = sum(attempt.n_uttered for attempt in clients.attempts.by_key.values())
    return (
        f"{len(clients.attempts.by_key)} wishes uttered {n_uttered} times: {clients.attempts.told()}; "
        f"{len(rows)} events, {types['run.finished']} runs finished and {types['run.failed']} failed, "
        f"{n_repeated} stages repeated, {types['pointer.added']} pointers"
    )


def replay(seed: int, n_rounds: int) -> str:
    """The command that deals the same blows."""
    return f"make crash SEED={seed} N={n_rounds} POWER=0"
