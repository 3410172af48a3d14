"""A verb that is performed for a request: past the end of its connection if need be, not past the application's."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from aiohttp import web

from cascadenced.errors import Overloaded, Unavailable
from cascadenced.http.face import FACE, Face

STOP_PATIENCE_S = 0.5
"""How long a verb under way may still take when the application closes."""
MAX_WORK = 1_000
"""Verbs under way at once. Most wait for the end of a run, and some for nobody: their callers are gone."""

Result = TypeVar("Result")


async def performed(request: web.Request, verb: Coroutine[Any, Any, Result]) -> Result:
    """What `verb` returns. Raises what it raises; Overloaded when too many are under way, Unavailable when the
    application closes."""
    face = request.app[FACE]
    if len(face.work) >= MAX_WORK:
        _give_up_on_the_gone(face)
    if len(face.work) >= MAX_WORK:
        verb.close()
        raise Overloaded("too many requests wait for runs to end: ask with wait=false", retry_after_s=5.0)
    # A task of its own: who goes away, or loses the connection, takes nothing back that was asked for.
    work = asyncio.create_task(verb)
    face.work[work] = request
    work.add_done_callback(lambda done: face.work.pop(done, None))
    stopping = asyncio.create_task(face.stopping.wait())
    try:
        await asyncio.wait({work, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            await asyncio.wait({work}, timeout=STOP_PATIENCE_S)
    finally:
        stopping.cancel()
    if not work.done() or work.cancelled():
        raise Unavailable("the daemon is stopping; what is recorded goes on at its next start", code="stopping")
    return work.result()


def _give_up_on_the_gone(face: Face) -> None:
    """Nobody waits any more where the connection is closed; what was recorded goes on all the same."""
    for work, request in list(face.work.items()):
        if request.transport is None or request.transport.is_closing():
            work.cancel()
            face.work.pop(work, None)
