"""Path and query string → the struct of a route's arguments, or Invalid."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import msgspec
from aiohttp import web

from cascadenced.errors import Invalid
from cascadenced.events.strict import complaint

Arguments = TypeVar("Arguments", bound=msgspec.Struct)


def arguments(request: web.Request, takes: type[Arguments]) -> Arguments:
    """What the request asks for. Raises Invalid for an unknown, repeated or ill-formed value."""
    values: dict[str, str] = {}
    given: Iterable[tuple[str, str]] = (*request.match_info.items(), *request.query.items())
    for name, value in given:
        if name in values:
            raise Invalid(f"{_shown(name)} is given twice")
        try:
            (name + value).encode()
        except UnicodeEncodeError:
            raise Invalid(f"{_shown(name)} is not UTF-8") from None
        values[name] = value
    try:
        # Not strict: in a query string every number is text.
        return msgspec.convert(values, takes, strict=False)
    except msgspec.ValidationError as error:
        raise Invalid(_sentence(error, takes, values)) from None


def _sentence(error: msgspec.ValidationError, takes: type[Arguments], values: dict[str, str]) -> str:
    """msgspec's complaint in the words of a query string: it says `$.limit` and knows no value."""
    what, _, where = str(error).partition(" - at `$.")
    name = where.rstrip("`")
    if name not in values:
        return complaint(error, takes)
    expected = what.partition(", got ")[0].removeprefix("Expected ")
    return f"{name} must be {expected}, not {_shown(values[name])}"


def _shown(text: str) -> str:
    return ascii(text[:40])
