"""The load: clients that ask, are not answered, ask again, and note what they were told.

Some publish on JetStream, some use the Unix socket; a few wishes go through both doors under one idempotency key.
Daemons come and go under them, so every error but a clear no means: unknown.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import nats

from tests.crash.attempts import Attempt, Attempts

ANSWER_WITHIN_S = 4.0
RETRY_S = 0.1
TASKS = ("traced", "traced", "plain", "slow", "failing")
CLEAR_NO = frozenset({400, 403, 404, 409, 413, 429, 507})
"""Statuses that say: it was not done, and will not be."""


class Clients:
    """All of them, on one set of attempts. seed: of what they ask for; when, depends on the machine.

    data_dir: where the daemon of the moment is found.  max_keys: of different wishes; then they fall silent.
    """

    def __init__(self, data_dir: Path, seed: int, *, n_bus: int = 2, n_socket: int = 3, max_keys: int = 20_000) -> None:
        self.attempts = Attempts()
        self._note = data_dir / "daemon.json"
        self._seed, self._max_keys = seed, max_keys
        self._keys = count()
        self._workers: list[asyncio.Task[None]] = []
        self._ways: list[Callable[[random.Random], Awaitable[None]]] = [self._bus] * n_bus + [self._socket] * n_socket

    def start(self) -> None:
        for n, way in enumerate(self._ways):
            chance = random.Random(f"{self._seed}:client:{n}")
            self._workers.append(asyncio.create_task(self._for_ever(way, chance)))

    async def stop(self) -> None:
        for worker in self._workers:
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)

    async def _for_ever(self, way: Callable[[random.Random], Awaitable[None]], chance: random.Random) -> None:
        while len(self.attempts.by_key) < self._max_keys:
            try:
                await way(chance)
            except Exception:  # the daemon is gone, or not there yet; nothing was answered
                await asyncio.sleep(RETRY_S)

    def _found(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self._note.read_text())
        return found

    def _wish(self, chance: random.Random) -> tuple[str, dict[str, Any]]:
        key = f"k{next(self._keys)}"
        args: dict[str, Any] = {"n": key, "seconds": round(chance.random() / 10, 3)}
        return key, {"user_id": f"user-{chance.randrange(10**6)}", "group_id": "crew", "args": args}

    # ── JetStream ────────────────────────────────────────────────────────────────────────────────────────────────

    async def _bus(self, chance: random.Random) -> None:
        client = await asyncio.wait_for(
            nats.connect(self._found()["nats_url"], allow_reconnect=False, connect_timeout=1, error_cb=_quiet), 3
        )
        try:
            while True:
                key, body = self._wish(chance)
                if chance.random() < 0.2:
                    pointer = {"run_id": key, "user_id": body["user_id"]}
                    await self._publish(client, self.attempts.uttered(key, "pointer"), "ume.pointer.marks", pointer)
                    continue
                subject = f"ume.run.request.{chance.choice(TASKS)}"
                both = chance.random() < 0.1
                for _ in range(chance.choice([1, 1, 1, 2, 3])):
                    asked = {**body, "idempotency_key": key} if both else body
                    await self._publish(client, self.attempts.uttered(key, "run"), subject, asked)
                if both:
                    task = subject.rpartition(".")[2]
                    await self._ask({**body, "task": task, "idempotency_key": key, "wait": False})
                await asyncio.sleep(chance.random() / 50)
        finally:
            with suppress(Exception):
                await asyncio.wait_for(client.close(), 2)

    async def _publish(self, client: Any, attempt: Attempt, subject: str, body: dict[str, Any]) -> None:
        headers = {"Nats-Msg-Id": attempt.key}
        stream = client.jetstream()
        await asyncio.wait_for(stream.publish(subject, json.dumps(body).encode(), headers=headers), ANSWER_WITHIN_S)
        attempt.n_acknowledged += 1

    # ── the Unix socket ──────────────────────────────────────────────────────────────────────────────────────────

    async def _socket(self, chance: random.Random) -> None:
        key, body = self._wish(chance)
        if chance.random() < 0.05:
            body["user_id"] = ""  # a clear no
        body |= {"task": chance.choice(TASKS), "idempotency_key": key, "wait": chance.random() < 0.5}
        for _ in range(chance.choice([1, 2, 3])):
            await self._ask(body)
        await asyncio.sleep(chance.random() / 50)

    async def _ask(self, body: dict[str, Any]) -> None:
        attempt = self.attempts.uttered(body["args"]["n"], "run")
        status, answer = await post(self._found()["socket"], "/rpc/run", body)
        if answer.get("run_id"):  # it has ended well, or was accepted, or is a run that failed: it is recorded
            attempt.n_acknowledged += 1
            attempt.run_ids.add(answer["run_id"])
            if body["wait"] and status == 200 and body["task"] in ("traced", "plain"):
                attempt.results.append(answer["result"])
        elif status in CLEAR_NO:
            attempt.n_refused += 1


async def post(path: str, verb: str, body: Any, within_s: float = ANSWER_WITHIN_S) -> tuple[int, Any]:
    """Status and answer of the daemon that listens on the Unix socket `path`. body: None asks with GET.

    Raises OSError, TimeoutError, or ValueError if the answer breaks off."""
    method, content = ("GET", b"") if body is None else ("POST", json.dumps(body).encode())
    head = (
        f"{method} {verb} HTTP/1.0\r\nHost: daemon\r\nContent-Type: application/json\r\nContent-Length: {len(content)}"
    )
    async with asyncio.timeout(within_s):
        reader, writer = await asyncio.open_unix_connection(path)
        try:
            writer.write(head.encode() + b"\r\n\r\n" + content)
            answer = await reader.read(-1)
        finally:
            writer.close()
    told, _, rest = answer.partition(b"\r\n\r\n")
    return int(told.split(b" ", 2)[1]) if told.startswith(b"HTTP/") else 0, json.loads(rest)


async def _quiet(_error: Exception) -> None:
    """Servers come and go here; what matters is noted."""
