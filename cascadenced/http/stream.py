"""The log as server-sent events: every event from a position on, then each as it is committed.

A message's id is the event's position, so that a client that comes back with `Last-Event-ID` misses and repeats
nothing. A client that does not read is cut off; it can come back.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Iterator, Sequence
from contextlib import aclosing
from typing import Annotated, Any, cast

import msgspec
import structlog
from aiohttp import web
from msgspec import Meta

from cascadenced.errors import Conflict, Invalid, Overloaded
from cascadenced.eventlog.base import EventLog
from cascadenced.events.base import Recorded
from cascadenced.http.face import FACE, Face
from cascadenced.http.query import arguments
from cascadenced.http.replies import encode, headers
from cascadenced.projections.answers import event_view
from cascadenced.projections.page import checked_position

_log = structlog.get_logger(__name__)

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

    after: Annotated[str, Meta(pattern="^[0-9]{1,18}$", description="a position; events above it are sent")] | None = (
        None
    )


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
    response = web.StreamResponse(headers=headers("text/event-stream", X_Accel_Buffering="no"))
    face.n_streams += 1
    try:
        await response.prepare(request)
        await _until_stop(face, _send(log, response, position))
    except TimeoutError:
        _cut(request)
    except ConnectionError:
        pass  # it went away
    except Exception:  # noqa: BLE001 -- what has begun as a stream cannot become an error answer any more
        _log.exception("stream_failed")
        _cut(request)
    finally:
        face.n_streams -= 1
    return response


def _cut(request: web.Request) -> None:
    # Closing would wait for the client to read what is buffered, and look like a good end.
    if request.transport is not None:
        request.transport.abort()


def _begin(request: web.Request) -> int | None:
    asked = arguments(request, StreamArguments)
    last = request.headers.get("Last-Event-ID", "")
    try:
        return checked_position(last or asked.after)
    except Invalid:
        raise Invalid("Last-Event-ID must be a position: the id of the last event that was received") from None


async def _until_stop(face: Face, sending: Coroutine[Any, Any, None]) -> None:
    """Send until the log or the application closes. Raises ConnectionError, TimeoutError."""
    tasks = [asyncio.create_task(sending), asyncio.create_task(_set(face.stopping))]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if tasks[0].done():
            tasks[0].result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _set(event: asyncio.Event) -> None:
    await event.wait()


async def _send(log: EventLog, response: web.StreamResponse, position: int) -> None:
    async def write(data: bytes) -> None:
        async with asyncio.timeout(STALL_S):
            await response.write(data)

    await write(b"retry: %d\n\n" % RETRY_MS)
    events = cast(AsyncGenerator[Sequence[Recorded], None], log.follow(position))
    async with aclosing(events):
        while True:
            batch = asyncio.ensure_future(anext(events, None))
            try:
                # Not wait_for: it would cancel the generator, and with it the stream.
                while not (await asyncio.wait({batch}, timeout=KEEP_ALIVE_S))[0]:
                    await write(b": still here\n\n")
            finally:
                batch.cancel()
                await asyncio.wait({batch})
            recorded = batch.result()
            if recorded is None:
                return  # the log is closed
            for chunk in _chunks(recorded):
                await write(chunk)


def _chunks(batch: Sequence[Recorded]) -> Iterator[bytes]:
    """The messages of a batch, several at a time but never much more than _CHUNK_BYTES."""
    chunk = bytearray()
    for recorded in batch:
        chunk += b"id: %d\nevent: %b\ndata: %b\n\n" % (
            recorded.position,
            recorded.type.encode(),
            encode(event_view(recorded)),
        )
        if len(chunk) >= _CHUNK_BYTES:
            yield bytes(chunk)
            chunk.clear()
    if chunk:
        yield bytes(chunk)
