"""The log as server-sent events: every event from a position on, then each as it is committed.

A message's id is the event's position, so that a client that comes back with `Last-Event-ID` misses and repeats
nothing. A client that does not read is cut off; it can come back.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from typing import Annotated, cast

import msgspec
from aiohttp import web
from msgspec import Meta

from cascadenced.errors import Conflict, Invalid, Overloaded
from cascadenced.events.base import Recorded
from cascadenced.http.face import FACE, Face
from cascadenced.http.query import arguments
from cascadenced.http.replies import encode
from cascadenced.projections.answers import event_view
from cascadenced.projections.page import checked_position

KEEP_ALIVE_S = 15.0
"""A comment this often, so that proxies see life, and we see the dead."""
STALL_S = 30.0
"""How long a client may leave its buffer full."""
MAX_STREAMS = 200
RETRY_MS = 2_000
"""How long a browser waits before it comes back."""
_CHUNK_BYTES = 64 * 1024


class StreamArguments(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Where to begin. The header `Last-Event-ID`, which browsers send when they come back, wins."""

    after: (
        Annotated[str, Meta(pattern="^[0-9]{1,18}$", description="a position; events above it are sent")] | None
    ) = None


async def stream(request: web.Request) -> web.StreamResponse:
    """`GET /events`. Without a position it begins at the live end."""
    face = request.app[FACE]
    log = face.instance.log
    after = _begin(request)
    position = log.position if after is None else after
    if position > log.position:
        raise Conflict(f"this log ends at {log.position}, before {position}: it is another log, begin anew")
    if face.n_streams >= MAX_STREAMS:
        face.instance.refusals.count("overload", "/events")
        raise Overloaded(f"{MAX_STREAMS} event streams are open already", retry_after_s=5.0)
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "X-Accel-Buffering": "no"})
    face.n_streams += 1
    try:
        await response.prepare(request)
        await _until_stop(face, _Sender(face, response).send(position))
    except TimeoutError:
        if request.transport is not None:
            request.transport.abort()  # closing would wait for the client to read what is buffered
    except ConnectionError:
        pass  # it went away
    finally:
        face.n_streams -= 1
    return response


def _begin(request: web.Request) -> int | None:
    asked = arguments(request, StreamArguments)
    last = request.headers.get("Last-Event-ID", "")
    try:
        return checked_position(last or asked.after)
    except Invalid:
        raise Invalid("Last-Event-ID must be a position: the id of the last event that was received") from None


async def _until_stop(face: Face, sending: AsyncGenerator[None, None]) -> None:
    """Send until the log or the application closes. Raises ConnectionError, TimeoutError."""

    async def send() -> None:
        async with aclosing(sending):
            async for _ in sending:
                pass

    tasks = [asyncio.ensure_future(send()), asyncio.ensure_future(face.stopping.wait())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if tasks[0].done():
            tasks[0].result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
