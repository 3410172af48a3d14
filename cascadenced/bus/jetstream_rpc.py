"""The micro service `cascadence`: `<prefix>.rpc.<verb>`, found and counted by `$SRV.PING`, `INFO` and `STATS`.

nats-py answers an endpoint's requests one after the other; each of ours gets a task instead, so that one slow verb does
not hold up the next request. STATS therefore times only the start of a request; errors are counted in its `data`.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import nats.errors
import nats.micro
import structlog

from cascadenced.bus.base import Reply, Responder
from cascadenced.bus.jetstream_link import Client, flushed

MAX_AT_ONCE = 256
_NAME = "cascadence"
_FLUSH_WITHIN_S = 5
_OVERLOADED: Reply = (
    b'{"detail":"too many requests at once: try again in a second","error":"overloaded"}',
    {"Nats-Service-Error": "overloaded", "Nats-Service-Error-Code": "429"},
)
_FAILED: Reply = (
    b'{"detail":"the request could not be answered: see the log","error":"internal"}',
    {"Nats-Service-Error": "internal", "Nats-Service-Error-Code": "500"},
)

_log = structlog.get_logger("cascadenced.bus")


async def answer(responder: Responder, verb: str, body: bytes, headers: Mapping[str, str]) -> Reply:
    """What `responder` says; when it raises, an error without details, which may name people."""
    try:
        return await responder(body, headers)
    except Exception as error:  # noqa: BLE001 -- whatever a verb does, the next request is served
        _log.exception("rpc_failed", verb=verb, type=type(error).__name__)
        return _FAILED


class Rpc:
    """The verbs on one client at a time."""

    def __init__(self, verbs: Mapping[str, Responder], *, prefix: str, version: str) -> None:
        self._verbs, self._prefix, self._version = verbs, prefix, semantic_version(version)
        self._tasks: set[asyncio.Task[None]] = set()
        self._n_errors: Counter[str] = Counter()

    async def attach(self, client: Client) -> None:
        """Serve on a new client. Raises nats.errors.Error if it is gone again."""
        service: Any = await nats.micro.add_service(
            client,  # type: ignore[arg-type] # our protocol stands for nats-py's client
            name=_NAME,
            version=self._version,
            description="cascadenced: tasks, runs and schedules",
            stats_handler=lambda stats: {"num_errors": self._n_errors[stats.name]},
        )
        group = service.add_group(name=f"{self._prefix}.rpc")
        for verb, responder in self._verbs.items():
            await group.add_endpoint(name=verb, handler=self._handler(verb, responder))
        await flushed(client, _FLUSH_WITHIN_S)  # the server knows all of them when we return

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()

    def _handler(self, verb: str, responder: Responder) -> Any:
        async def handle(request: Any) -> None:
            if len(self._tasks) >= MAX_AT_ONCE:
                self._n_errors[verb] += 1
                await self._respond(request, _OVERLOADED)
                return
            task = asyncio.create_task(self._serve(verb, responder, request))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        return handle

    async def _serve(self, verb: str, responder: Responder, request: Any) -> None:
        reply = await answer(responder, verb, request.data, request.headers or {})
        if "Nats-Service-Error" in reply[1]:
            self._n_errors[verb] += 1
        await self._respond(request, reply)

    async def _respond(self, request: Any, reply: Reply) -> None:
        body, headers = reply
        try:
            await request.respond(body, headers=dict(headers) or None)
        except nats.errors.MaxPayloadError:
            await self._respond(request, _FAILED)
        except (nats.errors.Error, ValueError, OSError) as error:
            # The asker is gone, or never gave a reply subject.
            _log.info("rpc_unanswered", type=type(error).__name__)


def semantic_version(version: str) -> str:
    """`version` as NATS wants it: 1.2.3.dev4 → 1.2.3-dev4."""
    match = re.match(r"(\d+)(?:\.(\d+))?(?:\.(\d+))?[.-]?([0-9A-Za-z.-]*)", version)
    if match is None:
        return "0.0.0"
    major, minor, patch, rest = match.groups()
    return f"{int(major)}.{int(minor or 0)}.{int(patch or 0)}" + (f"-{rest.rstrip('.-')}" if rest.strip(".-") else "")
