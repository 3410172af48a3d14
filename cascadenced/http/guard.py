"""Who may ask over TCP.

A page that somebody visits can make their browser send requests to this machine. Host is checked because such a page
may give its own name our address (DNS rebinding) and then read the answers; Origin, because it can send all the same.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Callable, Mapping
from functools import lru_cache
from urllib.parse import urlsplit

from aiohttp import web

from cascadenced.config import Config
from cascadenced.http.face import FACE
from cascadenced.http.replies import json_reply
from cascadenced.refusals import ErrorBody

OPEN_PATHS = frozenset({"/healthz"})
"""What needs no token: it says nothing but how we are, to whoever restarts us."""

_KNOWN_HOSTS = 64
_READING = frozenset({"GET", "HEAD"})


def nobody(_request: web.Request) -> web.Response | None:
    """Refuses nobody."""
    return None


def strangers(in_force: Callable[[], Config]) -> Callable[[web.Request], web.Response | None]:
    """Refuses who may not ask: 421 foreign Host, 403 foreign Origin, 401 no or a wrong token.

    in_force: asked at every request, because the token may change.
    """
    host = in_force().http_host
    our_name = _host_name(host if ":" not in host else f"[{host}]")

    @lru_cache(_KNOWN_HOSTS)  # nearly all requests come with the same few, and taking one apart takes 4 µs
    def is_ours(host: str, *, has_token: bool) -> bool:
        name = _host_name(host)
        # On a wildcard address we cannot know our names; there always is a token then, which a browser cannot guess.
        return name is not None and (name == our_name or _is_loopback(name) or (has_token and _is_any(our_name)))

    def refuse(request: web.Request) -> web.Response | None:
        token = in_force().http_token
        hosts = request.headers.getall("Host", [])
        if len(hosts) != 1 or not is_ours(hosts[0], has_token=token is not None):
            return _refusal(
                request, 421, "bad_host", "this daemon does not answer to that Host; use the address it listens on"
            )
        if request.method not in _READING and not _is_same_origin(request.headers, hosts[0]):
            return _refusal(
                request, 403, "bad_origin", "requests that change something are not taken from other sites' pages"
            )
        if token is not None and request.path not in OPEN_PATHS and not _has_token(request.headers, token):
            response = _refusal(
                request, 401, "bad_token", "the header `Authorization: Bearer <http_token>` is missing or wrong"
            )
            response.headers["WWW-Authenticate"] = 'Bearer realm="cascadence"'
            return response
        return None

    return refuse


def _refusal(request: web.Request, status: int, code: str, detail: str) -> web.Response:
    request.app[FACE].instance.refusals.count(code, "http")
    return json_reply(ErrorBody(detail, code), status)


def _is_same_origin(headers: Mapping[str, str], host: str) -> bool:
    origin = headers.get("Origin")
    if origin is None:
        # No browser, or one that says by this other header where the request comes from.
        return headers.get("Sec-Fetch-Site", "none") in ("none", "same-origin")
    return origin in (f"http://{host}", f"https://{host}")


def _has_token(headers: Mapping[str, str], token: str) -> bool:
    scheme, _, given = headers.get("Authorization", "").partition(" ")
    return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(errors="replace"), token.encode())


def _host_name(host: str) -> str | None:
    """The name or address in a Host header, lower-case and without port, brackets and final dot; None if it is none."""
    try:
        parts = urlsplit(f"//{host}")
        _ = parts.port  # raises for a port that is no number
    except ValueError:
        return None
    if parts.hostname is None or parts.netloc != host or parts.username is not None:
        return None
    return parts.hostname.removesuffix(".")


def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


def _is_any(name: str | None) -> bool:
    try:
        return ipaddress.ip_address(name or "").is_unspecified
    except ValueError:
        return False
