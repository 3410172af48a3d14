"""The bytes of a request's body: as they were sent, not too many, and within a time."""

from __future__ import annotations

import asyncio

from aiohttp import web

from cascadenced.events.strict import MAX_BYTES

BODY_WITHIN_S = 30.0
"""How long a body may take to arrive: one that never ends would hold its connection for ever."""


async def body_of(request: web.Request) -> bytes:
    """Raises 408, 413, 415.

    What is packed is refused, not unpacked: of packed bytes that break off, the library makes an empty body.
    """
    packed = request.headers.getall("Content-Encoding", [])
    if any(encoding.strip().lower() not in ("", "identity") for encoding in packed):
        raise web.HTTPUnsupportedMediaType(text="a body is taken as it is: send it without Content-Encoding")
    if (request.content_length or 0) > MAX_BYTES:
        raise web.HTTPRequestEntityTooLarge(MAX_BYTES, request.content_length or 0)
    try:
        async with asyncio.timeout(BODY_WITHIN_S):
            return await request.read()
    except TimeoutError:
        raise web.HTTPRequestTimeout(text=f"the body did not arrive within {BODY_WITHIN_S:g} s") from None
