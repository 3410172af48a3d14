"""Values, texts and refusals → responses. All of them are made here, because all of them carry the same headers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import structlog
from aiohttp import web
from aiohttp.typedefs import Middleware
from multidict import CIMultiDict

from cascadenced.errors import CascadenceError
from cascadenced.refusals import Answer, ErrorBody, answer

_log = structlog.get_logger(__name__)

encode = msgspec.json.Encoder().encode

_HEADERS = {
    # Nothing inline, nothing from elsewhere, nobody's frame.
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Server": "cascadenced",
}


def headers(content_type: str, **others: str) -> CIMultiDict[str]:
    """Those that every response carries, and its own; an underscore stands for a hyphen."""
    return CIMultiDict(
        {**_HEADERS, "Content-Type": content_type, **{name.replace("_", "-"): value for name, value in others.items()}}
    )


_JSON = headers("application/json")
"""Copied for each answer, which takes a tenth of the time of adding them one by one."""


def json_reply(value: Any, status: int = 200) -> web.Response:
    return web.Response(body=encode(value), status=status, headers=_JSON)


def json_bytes(body: bytes, status: int = 200) -> web.Response:
    return web.Response(body=body, status=status, headers=_JSON)


def text_reply(body: bytes, content_type: str, **others: str) -> web.Response:
    """content_type: with its charset, if it has one.  others: more headers."""
    return web.Response(body=body, headers=headers(content_type, **others))


def refusal(refused: Answer) -> web.Response:
    """The response for a refusal, with Retry-After in whole seconds where it is worth trying again."""
    response = json_reply(refused.body, refused.status)
    if refused.retry_after_s is not None:
        response.headers["Retry-After"] = str(max(1, round(refused.retry_after_s)))
    return response


def answering(refuse: Callable[[web.Request], web.Response | None]) -> Middleware:
    """The one middleware: whoever may not ask is refused, and whatever a handler raises becomes `{"detail", "error"}`
    with its status.

    refuse: the refusal for who may not ask, None for who may.
    """

    @web.middleware
    async def answered(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        try:
            refused = refuse(request)
            return await handler(request) if refused is None else refused
        except CascadenceError as error:
            return refusal(answer(error))
        except web.HTTPException as error:
            return _of_library(request, error)
        except ConnectionError:
            raise  # the client is gone, nobody is left to be answered
        except Exception:  # noqa: BLE001 -- a fault of ours; the daemon goes on serving
            _log.exception("request_failed", method=request.method, route=_route(request))
            return json_reply(ErrorBody("an internal error; the daemon's log has the details", "internal"), 500)

    return answered


_CODES = {408: "too_slow", 413: "too_large", 415: "packed"}


def _of_library(request: web.Request, error: web.HTTPException) -> web.StreamResponse:
    """aiohttp's own refusals, in our words."""
    match error.status:
        case 404:
            body = ErrorBody("there is nothing here; GET /openapi.json lists what there is", "not_found")
        case 405:
            body = ErrorBody(f"{request.method[:20]} is not offered here", "method_not_allowed")
        case 408 | 413 | 415:
            body = ErrorBody(error.text or error.reason, _CODES[error.status])
        case _:
            body = ErrorBody(error.reason, "http_error")
    response = json_reply(body, error.status)
    if "Allow" in error.headers:
        response.headers["Allow"] = error.headers["Allow"]
    return response


def _route(request: web.Request) -> str:
    # The pattern, not the path: what people put into paths does not belong in a log.
    resource = request.match_info.route.resource
    return resource.canonical if resource is not None else ""
