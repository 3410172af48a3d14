"""HTML that cannot be injected into: text becomes `Html` only by being escaped."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

_VOID = frozenset({"br", "link", "meta"})


class Html(str):
    """Markup. Any other string is text."""

    __slots__ = ()


Child = str | int | float | None | Iterable["Child"]


def tag(name: str, /, *children: Child, **attributes: str | int | bool | None) -> Html:
    """An element. None is nothing, an iterable is what is in it.

    attributes: `class_` is class, other `_` are `-`; True is an attribute without value, None and False are none.
    """
    spelled = "".join(
        f" {key.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{escape(str(value))}"')
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    return Html(f"<{name}{spelled}>" if name in _VOID else f"<{name}{spelled}>{joined(children)}</{name}>")


def joined(children: Child) -> Html:
    """Children beside each other."""
    if children is None:
        return Html("")
    if isinstance(children, Html):
        return children
    if isinstance(children, str | int | float):
        return Html(escape(str(children)))
    return Html("".join(joined(child) for child in children))
