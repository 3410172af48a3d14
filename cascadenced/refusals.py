"""An error → what a face answers: one table for HTTP, the socket and the micro service."""

from __future__ import annotations

import msgspec

from cascadenced.errors import (
    BadMessage,
    CascadenceError,
    Conflict,
    DiskError,
    DiskFull,
    IllShaped,
    Invalid,
    NotAllowed,
    Overloaded,
    Refused,
    RunFailedError,
    Unavailable,
    Unknown,
)

_STATUS: tuple[tuple[type[BaseException], int], ...] = (
    (IllShaped, 422),
    (Invalid, 400),
    (NotAllowed, 403),
    (Unknown, 404),
    (Conflict, 409),
    (Refused, 400),
    (BadMessage, 400),
    (Overloaded, 429),
    (Unavailable, 503),
    (DiskFull, 507),
    (DiskError, 503),
    (RunFailedError, 400),
)
"""The first that fits. A task's own failure is the request's outcome, hence 400, never a fault of ours."""


class ErrorBody(msgspec.Struct, omit_defaults=True):
    """detail: a sentence for people.  error: a word for machines.  event_id: of the event that says the same.

    run_id and error_type: the run that failed, if one did, and the class of the exception that ended it.
    """

    detail: str
    error: str
    event_id: str | None = None
    run_id: str | None = None
    error_type: str | None = None


class Answer(msgspec.Struct, frozen=True):
    """status: as in HTTP.  retry_after_s: when it is worth trying again."""

    status: int
    body: ErrorBody
    retry_after_s: float | None = None


def is_only_counted(error: CascadenceError) -> bool:
    """Whether what was asked for was refused, and no event says so."""
    return isinstance(error, Overloaded) or (isinstance(error, Refused) and not error.recorded)


def answer(error: CascadenceError) -> Answer:
    """What to answer when a verb or route raised `error`."""
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
    retry_after = error.retry_after_s if isinstance(error, Overloaded) else 1.0 if status in (503, 507) else None
    body = ErrorBody(str(error), error.code)
    if isinstance(error, Refused):
        body.event_id = error.event_id
    if isinstance(error, RunFailedError):
        body.run_id, body.error_type = error.run_id, error.error_type
    return Answer(status, body, retry_after)
