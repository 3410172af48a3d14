"""What a run may be told from outside: the rules of its shape. Pure."""

from __future__ import annotations

import msgspec

from cascadenced.errors import IllShaped, Invalid
from cascadenced.events.base import Json

MAX_CONTEXT_CHARS = 3_072
"""Of a context's JSON text, as the predecessor counted."""
MAX_TEXT_CHARS = 2_048
"""Of a note, and of a URL."""
_TEXTS = ("note", "url")


def checked_kind(kind: str) -> None:
    """Raises Invalid for any kind of signal but `context`."""
    if kind != "context":
        raise Invalid("unsupported signal kind")


def checked_context(value: Json) -> Json:
    """`value` as a run is told it. A dict with `note` or `url` must have texts there, and not too long ones; whatever
    else code or an operator wants to say is theirs. Raises Invalid."""
    if isinstance(value, dict) and any(name in value for name in _TEXTS):
        _check_texts(value)
    _check_size(value)
    return value


def checked_message(value: Json) -> dict[str, str]:
    """`value` as strangers may tell it: an object with a `note`, a `url` or both, and nothing else.

    Raises IllShaped for anything else than such an object, Invalid for texts that cannot be one.
    """
    if not isinstance(value, dict):
        raise IllShaped("value must be an object with `note`, `url` or both")
    for name in value:
        if name not in _TEXTS:
            raise IllShaped(f"value must have no {name[:40]!r}: only `note` and `url` are told")
    texts: dict[str, str] = {name: text for name, text in value.items() if text is not None}
    _check_texts(texts)
    if not any(text.strip() for text in texts.values()):
        raise Invalid("note or url is required")
    _check_size(texts)
    return texts


def _check_texts(value: dict[str, Json]) -> None:
    for name in _TEXTS:
        text = value.get(name)
        if text is None:
            continue
        if not isinstance(text, str):
            raise Invalid(f"{name} must be a string")
        if len(text) > MAX_TEXT_CHARS:
            raise Invalid(f"{name} exceeds maximum length")


def _check_size(value: Json) -> None:
    if len(msgspec.json.encode(value).decode()) > MAX_CONTEXT_CHARS:
        raise Invalid("context payload too large")
