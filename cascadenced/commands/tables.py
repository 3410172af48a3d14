"""Text for people. What comes from tasks and messages is shown without the characters that drive a terminal."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

import click

_COLOURS = {
    "success": "green",
    "enabled": "green",
    "ok": "green",
    "running": "cyan",
    "started": "cyan",
    "queued": "cyan",
    "waiting": "yellow",
    "paused": "yellow",
    "disabled": "yellow",
    "refused": "yellow",
    "in_doubt": "yellow",
    "timeout": "yellow",
    "cancelled": "yellow",
    "warning": "yellow",
    "error": "red",
    "wrong": "red",
}
_SHOWN_CHARS = 200


def coloured(text: str, word: str | None = None) -> str:
    """`text` in the colour of `word` (default: of itself). `click.echo` takes it away where no terminal reads."""
    colour = _COLOURS.get(text if word is None else word)
    if colour is None or os.environ.get("NO_COLOR"):
        return text
    return click.style(text, fg=colour)


def plain(text: str) -> str:
    """`text` with control characters made visible, line breaks and tabs excepted."""
    return "".join(
        char if char.isprintable() or char in "\n\t" else char.encode("unicode_escape").decode() for char in text
    )


def cell(value: Any) -> str:
    """A value of a row, in one line."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return plain(str(value)).replace("\n", " ").replace("\t", " ")


def content(value: Any, limit: int | None = _SHOWN_CHARS) -> str:
    """A JSON value in one line, cut after `limit` characters."""
    text = plain(json.dumps(value, ensure_ascii=False, separators=(",", ":")))
    return text if limit is None or len(text) <= limit else text[: limit - 1] + "…"


def table(headers: Sequence[str], rows: Sequence[Sequence[Any]], indent: str = "") -> str:
    """Aligned columns, two spaces apart. A cell that is a word like `success` gets its colour."""
    texts = [[cell(value) for value in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(headers, *texts, strict=True)]

    def line(cells: Sequence[str], *, colours: bool) -> str:
        padded = [text.ljust(width) for text, width in zip(cells, widths, strict=True)]
        padded[-1] = cells[-1]
        if colours:
            padded = [coloured(shown, text) for shown, text in zip(padded, cells, strict=True)]
        return (indent + "  ".join(padded)).rstrip()

    return "\n".join([line(headers, colours=False), *(line(row, colours=True) for row in texts)])


def fields(pairs: Sequence[tuple[str, Any]], indent: str = "") -> str:
    """`name  value` lines, aligned; pairs without a value are left out."""
    given = [(name, value) for name, value in pairs if value is not None]
    width = max((len(name) for name, _ in given), default=0)
    return "\n".join(f"{indent}{name.ljust(width)}  {value}" for name, value in given)


def when(instant: str | None) -> str | None:
    """ISO 8601 UTC → to the second, as people read it."""
    return None if instant is None else instant[:19].replace("T", " ") + "Z"


def took(seconds: float | None) -> str | None:
    return None if seconds is None else f"{seconds:.3f} s"
