"""Ten times as many requests as can be done, through both doors: the socket refuses, the bus keeps, nobody is lost."""

from __future__ import annotations

import asyncio
from collections import Counter

import aiohttp
import pytest

from tests.acceptance.conftest import Daemon, request_body
from tests.acceptance.flood import Flood, daemon_in_memory, memory_mib, numbers

SLOTS, SECONDS = 20, 0.05
SUSTAINABLE_PER_S = SLOTS / SECONDS
FOR_S = 1.0
N = round(10 * SUSTAINABLE_PER_S * FOR_S / 2)
"""Through each door."""
MAX_QUEUED = 100
AT_ONCE = 32
WITHIN_S = 60.0
MAX_GROWTH_MIB = 40

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3 * WITHIN_S)]


async def test_at_ten_times_the_sustainable_rate_the_socket_refuses_the_bus_waits_and_nothing_is_lost() -> None:
    async with daemon_in_memory() as daemon:
        await daemon.start(
            CASCADENCE_LOG_LEVEL="warning",
            CASCADENCE_MAX_CONCURRENT_RUNS=str(SLOTS),
            CASCADENCE_MAX_QUEUED_RUNS=str(MAX_QUEUED),
        )
        watch = Watch(daemon)
        watching = asyncio.create_task(watch.run())
        async with daemon.client() as client, Flood(client) as flood:
            told, _ = await asyncio.gather(over_the_socket(daemon), over_the_bus(flood))
            assert {answer for answer in await flood.answered() if answer.error} == set()
        # What cannot be done now is refused at once, with word of when to come again; the broker keeps the rest.
        assert told["accepted"] + told["refused"] == N
        assert told["refused"] > N / 2
        n_runs = told["accepted"] + N
        await all_ended(daemon, n_runs)
        watching.cancel()
        assert 0 < watch.most_queued <= MAX_QUEUED
        assert watch.most_mib - watch.first_mib < MAX_GROWTH_MIB
        assert (await numbers(daemon))['cascadence_refused_total{reason="overloaded"}'] == told["refused"]
        assert await daemon.stop() == 0
        done = Counter(run_id for run_id, stage, _ in daemon.effects() if stage == "run")
        assert (len(done), set(done.values())) == (n_runs, {1})


class Watch:
    """What the daemon says of itself meanwhile."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self.first_mib = self.most_mib = memory_mib(daemon)
        self.most_queued = 0

    async def run(self) -> None:
        while True:
            self.most_queued = max(self.most_queued, (await self._daemon.get("/status"))["n_queued"])
            self.most_mib = max(self.most_mib, memory_mib(self._daemon))
            await asyncio.sleep(0.05)  # a sample; nothing is waited for


async def over_the_socket(daemon: Daemon) -> Counter[str]:
    """N requests, as fast as they are answered; how they were."""
    told: Counter[str] = Counter()
    numbers_left = iter(range(N))
    connector = aiohttp.UnixConnector(daemon.found["socket"], limit=AT_ONCE)

    async def ask(session: aiohttp.ClientSession) -> None:
        for n in numbers_left:
            body = {"task": "slow", "user_id": "alice", "group_id": "eng", "args": _args(n), "wait": False}
            async with session.post("http://daemon/rpc/run", json=body) as response:
                answer = await response.json(content_type=None)
                if response.status == 429:
                    assert int(response.headers["Retry-After"]) > 0
                    assert answer["error"] == "overloaded"
                    told["refused"] += 1
                else:
                    assert answer["run_id"], answer
                    told["accepted"] += 1

    async with aiohttp.ClientSession(connector=connector) as session:
        await asyncio.gather(*(ask(session) for _ in range(AT_ONCE)))
    return told


async def over_the_bus(flood: Flood) -> None:
    for n in range(N):
        await flood.publish("ume.run.request.slow", request_body(n, args=_args(n)), {"Nats-Msg-Id": f"bus-{n}"})


def _args(n: int) -> dict[str, float]:
    return {"n": n, "seconds": SECONDS}


async def all_ended(daemon: Daemon, n_runs: int) -> None:
    async with asyncio.timeout(WITHIN_S):
        while (await numbers(daemon)).get('cascadence_events_total{type="run.finished"}', 0) < n_runs:
            await asyncio.sleep(0.1)  # a metric, which tells nobody by itself
