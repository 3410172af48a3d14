"""Text for people. What comes from tasks and messages is shown without the characters that drive a terminal."""

from __future__ import annotations

import json
import os
import shutil
import sys
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
_RUN_CHARS = 16
"""Of a run's id: its time to the millisecond, and 16 random bits."""


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


def table(headers: Sequence[str], rows: Sequence[Sequence[Any]], indent: str = "", *, spare: Sequence[str] = ()) -> str:
    """Aligned columns, two spaces apart. A cell that is a word like `success` gets its colour.

    spare: columns that a terminal too narrow for all of them is not shown, the first one first.
    """
    texts = [[cell(value) for value in row] for row in rows]
    width = _terminal_width()
    if spare and width is not None:
        headers, texts = fitted(headers, texts, width - len(indent), spare)
    widths = [max(map(len, column)) for column in zip(headers, *texts, strict=True)]

    def line(cells: Sequence[str], *, colours: bool) -> str:
        padded = [text.ljust(width) for text, width in zip(cells, widths, strict=True)]
        padded[-1] = cells[-1]
        if colours:
            padded = [coloured(shown, text) for shown, text in zip(padded, cells, strict=True)]
        return (indent + "  ".join(padded)).rstrip()

    return "\n".join([line(headers, colours=False), *(line(row, colours=True) for row in texts)])


def fitted(
    headers: Sequence[str], rows: Sequence[Sequence[str]], width: int, spare: Sequence[str]
) -> tuple[Sequence[str], list[list[str]]]:
    """Columns for a terminal of `width`: ids of runs are shortened to what every command takes for them, and then spare
    columns left out, before all others those that say nothing, until the rest fits or none is spare any more."""
    columns = {head: list(cells) for head, *cells in zip(headers, *rows, strict=True)}

    def fits() -> bool:
        return sum(max(map(len, [head, *cells])) + 2 for head, cells in columns.items()) - 2 <= width

    if not fits() and "RUN" in columns:
        columns["RUN"] = [text[:_RUN_CHARS] for text in columns["RUN"]]
    for head in sorted(spare, key=lambda head: any(text not in ("-", "") for text in columns[head])):
        if not fits():
            del columns[head]
    return list(columns), [list(row) for row in zip(*columns.values(), strict=True)]


def _terminal_width() -> int | None:
    """In characters; None where no terminal reads."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


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
