"""How the daemon logs: structlog, to stderr; lines for people on a terminal, JSON elsewhere.

What is logged while a run goes on, by us or by the task, does not name whom it runs for.
"""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import MutableMapping
from contextlib import suppress
from typing import Any, TextIO, cast

import structlog

from cascadenced.identity import nameless

_EVERYTHING: Any = structlog.make_filtering_bound_logger(logging.NOTSET)


class _Levelled(_EVERYTHING):  # type: ignore[misc]  # structlog makes its classes as the program runs
    """A logger whose level can change: the ones that modules hold are made once."""

    threshold = logging.INFO

    def is_enabled_for(self, level: int) -> bool:
        return self.threshold <= level

    def debug(self, event: str, *args: Any, **fields: Any) -> Any:
        return super().debug(event, *args, **fields) if self.threshold <= logging.DEBUG else None

    def info(self, event: str, *args: Any, **fields: Any) -> Any:
        return super().info(event, *args, **fields) if self.threshold <= logging.INFO else None

    def warning(self, event: str, *args: Any, **fields: Any) -> Any:
        return super().warning(event, *args, **fields) if self.threshold <= logging.WARNING else None


def set_level(level: str) -> None:
    """level: debug, info, warning or error. Holds for every logger at once."""
    _Levelled.threshold = logging.getLevelNamesMapping()[level.upper()]


def configure(level: str) -> None:
    """level: as in `set_level`. Libraries that use `logging` come through at warning and above."""
    terminal = sys.stderr.isatty()
    set_level(level)
    colors = "NO_COLOR" not in os.environ
    renderer = structlog.dev.ConsoleRenderer(colors=colors) if terminal else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            # Twice: JSON in a value is spelled once more by the renderer, and what is no text becomes text only there.
            _nameless_values,
            renderer,
            _nameless,
        ],
        wrapper_class=_Levelled,
        logger_factory=structlog.PrintLoggerFactory(file=cast(TextIO, _Patient(sys.stderr))),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Nameless("%(levelname)s %(name)s %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])


class _Patient(io.TextIOBase):
    """A stream that may have lost its reader: whoever logs does not fail of that."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._stream.flush()


def _nameless_values(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    redact = nameless.get()
    if redact is not str:
        event.update({name: redact(value) for name, value in event.items() if isinstance(value, str)})
    return event


def _nameless(_logger: Any, _method: str, line: Any) -> str:
    return nameless.get()(line)


class _Nameless(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return nameless.get()(super().format(record))
