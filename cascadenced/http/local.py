"""What only the owner of the data folder may ask, over the Unix socket: every verb, and the stop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import msgspec
from aiohttp import web
from msgspec import Meta

from cascadenced.errors import Unknown
from cascadenced.http.body import body_of
from cascadenced.http.face import FACE
from cascadenced.http.query import arguments
from cascadenced.http.replies import json_bytes, json_reply, refusal
from cascadenced.http.routes import Route
from cascadenced.http.work import performed
from cascadenced.rpc import call
from cascadenced.verbs import LOCAL_VERBS, VERBS

_VERBS = {**VERBS, **LOCAL_VERBS}


class VerbArguments(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    verb: Annotated[str, Meta(description="one of the verbs; the body holds its arguments, a JSON object")]


class Stopping(msgspec.Struct):
    """status: always `stopping`."""

    status: str = "stopping"


def local_routes(stop: Callable[[], None]) -> tuple[Route, ...]:
    """stop: asks the daemon to stop; returns at once."""

    async def handle_stop(_request: web.Request) -> web.Response:
        stop()
        return json_reply(Stopping(), 202)

    return (
        Route(
            method="POST",
            path="/rpc/{verb}",
            summary="Perform a verb",
            handle=_perform,
            takes=VerbArguments,
            answers={"application/json": None},
            statuses={404: "no such verb, or what it was asked about is unknown"},
        ),
        Route(
            method="POST",
            path="/stop",
            summary="Ask the daemon to stop; what is under way goes on at its next start",
            handle=handle_stop,
            answers={},
            statuses={202: "it will"},
        ),
    )


async def _perform(request: web.Request) -> web.Response:
    face = request.app[FACE]
    name = arguments(request, VerbArguments).verb
    verb = _VERBS.get(name)
    if verb is None:
        raise Unknown(f"no verb {name[:40]!r}; there are {', '.join(sorted(_VERBS))}")
    status, body, refused = await performed(request, call(face.instance, verb, await body_of(request), via=None))
    return json_bytes(body, status) if refused is None else refusal(refused)
