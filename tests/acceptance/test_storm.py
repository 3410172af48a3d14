"""Tens of thousands of broken messages for every family, with good ones among them; then each is asked for.

`make storm N=500000 SEED=7` sends more of them, or others. The daemon's folder is in memory where the system has such a
place: on a disk, half of the time is the broker's, which syncs every message and every erasure by itself.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sqlite3
import time
import unicodedata
from collections import Counter, defaultdict
from typing import Any
from urllib.parse import unquote

import pytest

from tests.acceptance.conftest import Daemon, request_body
from tests.acceptance.flood import Flood, daemon_in_memory, memory_mib, numbers, total
from tests.hostile.messages import FAMILIES, Fate, Sent, fate, sent

N = int(os.environ.get("STORM_N", "50000"))
SEED = int(os.environ.get("STORM_SEED", "1"))
REPLAY = f"make storm N={N} SEED={SEED}"
GOOD_EVERY = 100
"""One good run of five stages among so many others."""
WITHIN_S = 120 + N / 100
"""What is sent must be done with so soon; ten times what it takes."""
STALLED_S = 20
"""Without a single new event."""
MAX_GROWTH_MIB = 100
"""From a fifth of them to all of them; it is less than half of that."""
STAGES = 5

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2 * WITHIN_S)]


class Ledger:
    """What was sent, and what must be found. outcomes: by the source that the log has for a message."""

    def __init__(self) -> None:
        self.n_sent = self.n_foreign = 0
        self.outcomes: dict[str, tuple[int, Fate]] = {}
        self.must: Counter[str] = Counter()
        self._known: set[Any] = set()

    def add(self, message: Sent) -> None:
        """One more was sent."""
        self.n_sent += 1
        expected = fate(message)
        if expected.foreign:
            self.n_foreign += 1
            return
        identity = self._identity(message, expected)
        if identity in self._known:
            return
        self._known.add(identity)
        self.must["dead" if expected.reasons else str(expected.event)] += 1
        if isinstance(identity, str):
            self.outcomes[identity] = (message.n, expected)

    @property
    def n_repeated(self) -> int:
        return self.n_sent - self.n_foreign - len(self._known)

    def _identity(self, message: Sent, expected: Fate) -> Any:
        """What makes it one thing for ever: its content for pointers, its key for runs, else what it is called."""
        value = json.loads(message.body) if expected.event is not None else {}
        family = next((family for family in FAMILIES if _is_of(message.subject, family)), "unknown")
        if expected.event == "pointer.added":
            user = value.get("user_hash") or unicodedata.normalize("NFC", value["user_id"])
            group = value.get("group_hash") or unicodedata.normalize("NFC", value.get("group_id") or "")
            return ("pointer", unquote(message.subject), value["run_id"], user, group)
        if expected.event == "run.requested" and value.get("idempotency_key") is not None:
            return ("key", unicodedata.normalize("NFC", value["user_id"]), value["idempotency_key"])
        name = message.headers.get("Nats-Msg-Id") or message.headers.get("ce-id")
        if name is None:
            return ("nameless", message.n)
        source = f"{family}:{name if len(name) <= 1024 else hashlib.sha256(name.encode()).hexdigest()}"
        return source if expected.event is not None else f"dead:{source}"


def _is_of(subject: str, family: str) -> bool:
    if family in ("idea", "note"):
        return subject == f"ume.{family}"
    rest = subject.removeprefix(f"ume.{family}.")
    return rest != subject and (family == "event" or "." not in rest)


async def test_after_a_storm_every_message_is_accounted_for_and_the_good_ones_have_run() -> None:
    ledger = Ledger()
    async with daemon_in_memory() as daemon:
        await daemon.start(CASCADENCE_LOG_LEVEL="info")
        began = time.monotonic()
        async with daemon.client() as client, Flood(client) as flood:
            watching = asyncio.create_task(_watch(daemon))
            n_good = await _pour(flood, ledger)
            told = await flood.answered()
            assert {answer for answer in told if answer.error or answer.duplicate} == set(), REPLAY
        sizes = await _done(daemon, ledger, n_good, watching, began)
        print(f"{N} messages: {time.monotonic() - began:.1f} s, {sizes}")
        await _nobody_is_shut_out(daemon)
        found = await numbers(daemon)
        assert await daemon.stop() == 0
        _each_became_what_it_must(daemon, ledger, n_good)
        # Not equal: what the broker delivered once more, because an acknowledgement came late, is counted as well.
        assert found['cascadence_refused_total{reason="duplicate"}'] >= ledger.n_repeated, REPLAY
        assert found['cascadence_refused_total{reason="foreign_request"}'] >= ledger.n_foreign, REPLAY
        faults = [line for line in daemon.output if "Traceback" in line or "message_failed" in line or "_kept" in line]
        assert not faults, f"{faults[:5]}\n{REPLAY}"
        code, out, err = await daemon.command("log", "verify", within_s=WITHIN_S)
        assert code == 0, out + err


async def _pour(flood: Flood, ledger: Ledger) -> int:
    """Send everything; returns how many good ones were among it."""
    n_good = 0
    for n in range(N):
        message = sent(SEED, n)
        for _ in range(1 + message.again):
            await flood.publish(message.subject, message.body, message.headers)
            ledger.add(message)
        if n % GOOD_EVERY == 0:
            n_good += 1
            await flood.publish("ume.run.request.traced", request_body(n), {"Nats-Msg-Id": f"good-{n}"})
        if n % 50 == 0:
            await asyncio.sleep(0)  # the answers want to be heard
    return n_good


async def _watch(daemon: Daemon) -> float:
    """The daemon's memory when it has worked off a fifth."""
    while (await daemon.get("/status"))["position"] < N / 5:
        await asyncio.sleep(0.05)
    return memory_mib(daemon)


async def _done(daemon: Daemon, ledger: Ledger, n_good: int, watching: asyncio.Task[float], began: float) -> str:
    """Return when everything that must be recorded is, and memory has not grown with it."""
    n_runs = ledger.must["run.requested"] + n_good
    last, since = 0, began
    while True:
        found = await numbers(daemon)
        n_dead = total(found, "cascadence_dead_letters_total")
        n_finished = int(found.get('cascadence_events_total{type="run.finished"}', 0))
        recorded = {kind: found.get(f'cascadence_events_total{{type="{kind}"}}', 0) for kind in ledger.must}
        missing = {kind: n - recorded[kind] for kind, n in ledger.must.items() if kind != "dead" and recorded[kind] < n}
        if n_dead >= ledger.must["dead"] and n_finished >= n_runs and not missing:
            break
        now, position = time.monotonic(), total(found, "cascadence_events_total")
        assert now - began < WITHIN_S, f"still {n_dead=} {n_finished=} {missing=}\n{REPLAY}"
        if position != last:
            last, since = position, now
        elif now - since > STALLED_S:
            break  # nothing more comes: which messages are missing, the log will tell
        await asyncio.sleep(0.2)
    early, late = await watching, memory_mib(daemon)
    assert late - early < MAX_GROWTH_MIB, f"{early:.0f} MiB after a fifth, {late:.0f} MiB after all\n{REPLAY}"
    return f"{early:.0f} MiB after a fifth, {late:.0f} MiB after all"


async def _nobody_is_shut_out(daemon: Daemon) -> None:
    """The next one is served, at every door."""
    code, out, err = await daemon.command("run", "telling", "--user-id", "alice", "--group-id", "eng")
    assert code == 0, out + err
    assert (await daemon.get("/healthz"))["status"] == "ok"
    (newest,) = (await daemon.get("/dead-letters?limit=1"))["items"]
    code, out, err = await daemon.command("dead-letters", "show", str(newest["position"]))
    assert code == 0, out + err


def _each_became_what_it_must(daemon: Daemon, ledger: Ledger, n_good: int) -> None:
    log = sqlite3.connect(daemon.data_dir / "log.db")
    with log:
        rows = log.execute("SELECT type, source, data FROM events WHERE source IS NOT NULL").fetchall()
        n_ended = dict(log.execute("SELECT type, count(*) FROM events WHERE type LIKE 'run.%' GROUP BY type"))
    log.close()
    became: defaultdict[str, list[str]] = defaultdict(list)
    found: Counter[str] = Counter()
    for kind, source, data in rows:
        if source.startswith("run.request:good-"):
            continue
        reason = json.loads(data)["reason"] if kind == "message.dead_lettered" else None
        became[source].append(reason or kind)
        found["dead" if reason else kind] += 1
    wrong = []
    for source, (n, expected) in ledger.outcomes.items():
        possible = expected.reasons or {str(expected.event)}
        if len(became[source]) != 1 or became[source][0] not in possible:
            wrong.append(f"{sent(SEED, n)!r:.2000}\n  became {became[source]}, not {sorted(possible)}")
    assert not wrong, f"{len(wrong)} messages, such as:\n" + "\n".join(wrong[:5]) + f"\n{REPLAY}"
    assert {kind: found[kind] for kind in ledger.must} == dict(ledger.must), REPLAY
    assert found.total() + ledger.n_repeated + ledger.n_foreign == ledger.n_sent, REPLAY

    n_runs = ledger.must["run.requested"] + n_good + 1
    assert (n_ended["run.requested"], n_ended["run.finished"], n_ended.get("run.failed", 0)) == (n_runs, n_runs, 0)
    effects = Counter(n for _, _, n in daemon.effects())
    assert set(effects) == {str(n) for n in range(0, N, GOOD_EVERY)}, REPLAY
    assert set(effects.values()) == {STAGES}, REPLAY
