"""Values and refusals → responses, and the headers that every response carries."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import structlog
from aiohttp import web

from cascadenced.errors import CascadenceError
from cascadenced.refusals import Answer, ErrorBody, answer

_log = structlog.get_logger(__name__)

encode = msgspec.json.Encoder().encode

HEADERS = {
    # Nothing inline, nothing from elsewhere, nobody's frame.
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Server": "cascadenced",
}


async def set_headers(_request: web.Request, response: web.StreamResponse) -> None:
    """For `on_response_prepare`: errors and streams have them, too."""
    response.headers.update(HEADERS)
    response.headers.setdefault("Cache-Control", "no-store")


def json_reply(value: Any, status: int = 200) -> web.Response:
    return json_bytes(encode(value), status)


def json_bytes(body: bytes, status: int = 200) -> web.Response:
    return web.Response(body=body, status=status, content_type="application/json")


def refusal(refused: Answer) -> web.Response:
    """The response for a refusal, with Retry-After in whole seconds where it is worth trying again."""
    response = json_reply(refused.body, refused.status)
    if refused.retry_after_s is not None:
        response.headers["Retry-After"] = str(max(1, round(refused.retry_after_s)))
    return response


@web.middleware
async def answer_errors(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Whatever a handler raises becomes `{"detail", "error"}` with its status."""
    try:
        return await handler(request)
    except CascadenceError as error:
        return refusal(answer(error))
    except web.HTTPException as error:
        return _of_library(request, error)
    except ConnectionError:
        raise  # the client is gone, nobody is left to be answered
    except Exception:  # noqa: BLE001 -- a fault of ours; the daemon goes on serving
        _log.exception("request_failed", method=request.method, route=_route(request))
        return json_reply(ErrorBody("an internal error; the daemon's log has the details", "internal"), 500)


def _of_library(request: web.Request, error: web.HTTPException) -> web.StreamResponse:
    """aiohttp's own refusals, in our words."""
    match error.status:
        case 404:
            body = ErrorBody("there is nothing here; GET /openapi.json lists what there is", "not_found")
        case 405:
            body = ErrorBody(f"{request.method[:20]} is not offered here", "method_not_allowed")
        case 413:
            body = ErrorBody(error.text or error.reason, "too_large")
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
