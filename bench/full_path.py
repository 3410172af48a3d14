"""JetStream → five recorded stages → events out, on the real daemon with its nats-server.

Requests for runs are published, each with a message id and confirmed by the broker, and so many are kept outstanding; a
run counts when its last message, `ume.task_run`, comes back out of the stream through a consumer, so it is stored.

server: `own` is the daemon's (each message synced, store encrypted, requests erased after use); `default` is an
external one as it is without configuration (synced every two minutes).

Units: runs/s; CPU milliseconds per run of daemon, nats-server and client, each a process; milliseconds from publishing
a request to its `ume.task_run`, one at a time on the idle daemon (p50, p99); MiB.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from bench.daemon_process import daemon
from bench.nats_process import client, nats_server
from bench.percentiles import percentile
from bench.processes import cpu_s, peak_rss_mib
from bench.sides import Figures
from bench.workloads import SOMEBODY

WITHIN_S = 300


class Subjects(msgspec.Struct, frozen=True):
    """What a client of a pipeline has to know. stream: where a run's end is announced, on `ended`, saying `said`.

    shared: whether requests are stored in that stream as well.
    """

    request: str
    body: bytes
    stream: str
    ended: str
    said: bytes
    shared: bool


OURS = Subjects(
    request="ume.run.request.stages",
    body=json.dumps({"user_id": SOMEBODY.user_id, "group_id": SOMEBODY.group_id, "args": {"n": 1}}).encode(),
    stream="UME",
    ended="ume.task_run.>",
    said=b'"status":"success"',
    shared=False,
)


def measure(n: int, *, server: str, outstanding: int = 200, task: str = "async") -> Figures:
    """n: runs."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder, nats_url = Path(name), None
        if server == "default":
            external = stack.enter_context(nats_server(folder / "nats-server", synced=False))
            nats_url, server_pid = external.url, external.pid
        up = stack.enter_context(daemon(folder, task=task, nats_url=nats_url, max_concurrent_runs=outstanding))
        if server == "own":
            assert up.server_pid is not None
            server_pid = up.server_pid
        return asyncio.run(drive(up.nats_url, OURS, up.pid, server_pid, n, outstanding))


async def drive(url: str, subjects: Subjects, pid: int, server_pid: int, n: int, outstanding: int) -> Figures:
    """Do `n` runs on whatever process `pid` makes of requests; so many at a time, then some one at a time."""
    async with client(url) as connected:
        requests = Requests(connected, subjects)
        await requests.open()
        await requests.run(min(n, outstanding), outstanding)
        n_out, n_confirmed = await requests.n_stored(), requests.n_confirmed
        pids = {"daemon": pid, "nats_server": server_pid}
        cpu, own_cpu = {who: cpu_s(pid) for who, pid in pids.items()}, time.process_time()
        began = time.perf_counter()
        await requests.run(n, outstanding)
        took_s = time.perf_counter() - began
        figures = {
            "runs_per_s": n / took_s,
            "messages_out_per_run": (await requests.n_stored() - n_out) / n - subjects.shared,
            **{f"{who}_cpu_ms_per_run": (cpu_s(pid) - cpu[who]) / n * 1e3 for who, pid in pids.items()},
            "client_cpu_ms_per_run": (time.process_time() - own_cpu) / n * 1e3,
            "daemon_peak_rss_mib": peak_rss_mib(pid),
        }
        assert requests.n_confirmed - n_confirmed == n
        one_by_one = [await requests.one() for _ in range(max(10, min(200, n // 10)))]
    return figures | {"idle_p50_ms": percentile(one_by_one, 50), "idle_p99_ms": percentile(one_by_one, 99)}


class Requests:
    """A client that asks for runs and hears of their ends."""

    def __init__(self, connected: Any, subjects: Subjects = OURS) -> None:
        self._subjects = subjects
        self._client, self._stream = connected, connected.jetstream()
        self._inbox = connected.new_inbox()
        self._n_asked = 0
        self._ended = asyncio.Condition()
        self.n_ended = self.n_confirmed = 0

    async def open(self) -> None:
        await self._client.subscribe(self._inbox, cb=self._confirmed, pending_msgs_limit=0)
        config = ConsumerConfig(ack_policy=AckPolicy.NONE, deliver_policy=DeliverPolicy.NEW, mem_storage=True)
        await self._stream.subscribe(
            self._subjects.ended,
            stream=self._subjects.stream,
            config=config,
            cb=self._heard,
            manual_ack=True,
            pending_msgs_limit=0,
        )

    async def run(self, n: int, outstanding: int) -> None:
        """Do `n` runs; returns when all have ended and all requests are confirmed."""
        first = self.n_ended
        async with asyncio.timeout(WITHIN_S):
            for i in range(n):
                if i - (self.n_ended - first) >= outstanding:
                    await self._until(first + i - outstanding + 1)
                await self._ask()
            await self._until(first + n)
            while self.n_confirmed < self._n_asked:
                await asyncio.sleep(0.001)

    async def run_until(self, enough: asyncio.Event, outstanding: int) -> None:
        """Keep so many outstanding until there are enough; returns when all have ended."""
        while not enough.is_set():
            await self._ask()
            async with asyncio.timeout(WITHIN_S):
                await self._until(self._n_asked - outstanding + 1)
        async with asyncio.timeout(WITHIN_S):
            await self._until(self._n_asked)

    async def one(self) -> float:
        """Do one run; milliseconds."""
        began, n_ended = time.perf_counter(), self.n_ended
        await self._ask()
        async with asyncio.timeout(WITHIN_S):
            await self._until(n_ended + 1)
        return (time.perf_counter() - began) * 1e3

    async def n_stored(self) -> int:
        """Messages that the event stream has ever taken, once nothing more comes."""
        last = -1
        while (now := (await self._stream.stream_info(self._subjects.stream)).state.last_seq) != last:
            last = now
            await asyncio.sleep(0.05)
        return last

    async def _ask(self) -> None:
        self._n_asked += 1
        headers = {"Nats-Msg-Id": f"{time.time_ns():016x}-{self._n_asked:08d}"}
        subjects = self._subjects
        await self._client.publish(subjects.request, subjects.body, reply=self._inbox, headers=headers)

    async def _until(self, n_ended: int) -> None:
        async with self._ended:
            await self._ended.wait_for(lambda: self.n_ended >= n_ended)

    async def _confirmed(self, message: Any) -> None:
        assert message.data.startswith(b'{"stream"'), message.data
        self.n_confirmed += 1

    async def _heard(self, message: Any) -> None:
        assert self._subjects.said in message.data, message.data
        async with self._ended:
            self.n_ended += 1
            self._ended.notify_all()
