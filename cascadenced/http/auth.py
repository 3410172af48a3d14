"""Who is asking, and their word for what they ask: headers → an identity and an idempotency key, or Invalid.

Both are claims of the caller's. Whether they may talk to us at all is the guard's question.
"""

from __future__ import annotations

from aiohttp import web

from cascadenced.errors import Invalid
from cascadenced.identity import Identity, checked

USER_HEADER = "X-User-ID"
GROUP_HEADER = "X-Group-ID"
KEY_HEADER = "Idempotency-Key"


def identity_of(request: web.Request) -> Identity:
    """Raises Invalid, about the user first."""
    return Identity(_claimed(request, USER_HEADER, "user_id"), _claimed(request, GROUP_HEADER, "group_id"))


def key_of(request: web.Request) -> str | None:
    """1–256 characters, or None: the request is a new one. Raises Invalid."""
    given = _only(request, KEY_HEADER)
    return None if given is None else checked(given, KEY_HEADER)


def _claimed(request: web.Request, header: str, field: str) -> str:
    given = _only(request, header)
    if not given:
        raise Invalid(f"{field} header required", code="identity_required")
    return checked(given, field)


def _only(request: web.Request, header: str) -> str | None:
    given = request.headers.getall(header, [])
    if len(given) > 1:
        raise Invalid(f"the header {header} is given twice")
    return given[0].strip(" \t") if given else None
