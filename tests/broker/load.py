"""The load: run requests and pointers, published again until they are confirmed, as any client would."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from contextlib import suppress
from typing import Any

import nats

ANSWER_WITHIN_S = 1.0
CONFIRMED_WITHIN_S = 120.0
_NEW_LINE_AFTER_S = 10.0
"""Unconfirmed for so long, a client connects afresh: one that was cut off just as it reconnected may hear nothing."""
_CONNECTED_WITHIN_S = 5.0
_AGAIN_S = 0.05
POINTER_EVERY = 4


class Load:
    """One client. confirmed: wishes that the broker confirmed: number → stream and sequence.  ended: runs told of."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._client: Any = None
        self._task: asyncio.Task[None] | None = None
        self._since = 0.0  # of the connection
        self._n = 0
        self._going_on = False
        self.confirmed: dict[int, tuple[str, int]] = {}
        self.ended: set[str] = set()

    async def __aenter__(self) -> Load:
        await self._connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:  # it was not stopped: something went wrong, and the broker may be gone
            self._task.cancel()
            await asyncio.wait([self._task], timeout=5)
        await self._hang_up()

    async def _connect(self) -> None:
        connecting = nats.connect(
            self._url, error_cb=_quiet, reconnect_time_wait=0.05, max_reconnect_attempts=-1, connect_timeout=1
        )
        self._client = await asyncio.wait_for(connecting, _CONNECTED_WITHIN_S)  # by itself it would try for ever
        await self._client.subscribe("ume.task_run.>", cb=self._on_task_run)
        self._since = time.monotonic()

    async def _hang_up(self) -> None:
        with suppress(Exception):
            await asyncio.wait_for(self._client.close(), 2)

    def start(self) -> None:
        self._going_on = True
        self._task = asyncio.create_task(self._for_ever())

    async def stop(self) -> None:
        """Return when the wish under way is confirmed. (Cancelling would not do: nats-py may swallow it.)"""
        self._going_on = False
        if self._task is not None:
            await self._task
            self._task = None

    async def one(self) -> int:
        """Publish the next wish; return its number when it is confirmed. Fails when that takes too long."""
        n, self._n, began = self._n, self._n + 1, time.monotonic()
        while (where := await self._published(n)) is None:
            took_s = time.monotonic() - began
            assert took_s < CONFIRMED_WITHIN_S, f"the broker has not confirmed wish {n} within {took_s:.0f} s"
            if min(took_s, time.monotonic() - self._since) > _NEW_LINE_AFTER_S:
                await self._hang_up()
                with suppress(Exception):  # it may be down still
                    await self._connect()
                self._since = time.monotonic()
            await asyncio.sleep(_AGAIN_S)
        self.confirmed[n] = where
        return n

    async def holds(self, n: int) -> bool:
        """Whether the broker still has the message of wish `n`, and can read it."""
        stream, seq = self.confirmed[n]
        answer = await self._client.request(f"$JS.API.STREAM.MSG.GET.{stream}", b'{"seq":%d}' % seq, timeout=5)
        message = json.loads(answer.data).get("message", {})
        return f"Nats-Msg-Id: wish-{n}\r\n".encode() in base64.b64decode(message.get("hdrs", ""))

    async def run(self) -> int:
        """A wish that is a run, confirmed."""
        while self._n % POINTER_EVERY == 0:
            await self.one()
        return await self.one()

    async def api(self, verb: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        answer = await self._client.request(f"$JS.API.{verb}", json.dumps(body or {}).encode(), timeout=5)
        decoded: dict[str, Any] = json.loads(answer.data)
        assert "error" not in decoded, decoded
        return decoded

    async def fill(self, n_bytes: int) -> None:
        """Messages of others, so large that the server begins another file."""
        for start in range(0, n_bytes, 900_000):
            body = bytes(min(900_000, n_bytes - start))
            await self._client.jetstream().publish("ume.audit.filler.run", body, timeout=10)

    async def ids(self) -> list[str]:
        """The message ids of all events that the broker has, as anybody would read them."""
        inbox, heard = self._client.new_inbox(), asyncio.Queue[Any]()
        subscription = await self._client.subscribe(inbox, cb=heard.put)
        try:
            config = {"deliver_subject": inbox, "deliver_policy": "all", "ack_policy": "none", "headers_only": True}
            made = await self.api("CONSUMER.CREATE.UME", {"stream_name": "UME", "config": config})
            found = []
            for _ in range(made["num_pending"]):
                try:
                    message = await asyncio.wait_for(heard.get(), 2)
                except TimeoutError:
                    break  # it counted some that it cannot read
                found.append((message.headers or {}).get("Nats-Msg-Id", ""))
            await self.api(f"CONSUMER.DELETE.UME.{made['name']}")
            return found
        finally:
            await subscription.unsubscribe()

    async def _for_ever(self) -> None:
        while self._going_on:
            await self.one()
            await asyncio.sleep(0.02)

    async def _published(self, n: int) -> tuple[str, int] | None:
        who = {"user_id": f"user-{n}", "group_id": "eng"}
        if n % POINTER_EVERY == 0:
            subject, body = "ume.pointer.marks", {**who, "run_id": str(n)}
        else:
            subject, body = "ume.run.request.traced", {**who, "args": {"n": n}}
        try:
            answer = await self._client.request(
                subject, json.dumps(body).encode(), timeout=ANSWER_WITHIN_S, headers={"Nats-Msg-Id": f"wish-{n}"}
            )
            told = json.loads(answer.data)
            return None if "error" in told else (told["stream"], told["seq"])
        except Exception:  # whatever it was, nothing was confirmed
            return None

    async def _on_task_run(self, message: Any) -> None:
        self.ended.add(json.loads(message.data)["run_id"])


async def _quiet(_error: Exception) -> None:
    """Servers come and go here; what matters is noted."""
