"""How the daemon logs: structlog, to stderr; lines for people on a terminal, JSON elsewhere."""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

import structlog

_EVERYTHING: Any = structlog.make_filtering_bound_logger(logging.NOTSET)


class _Levelled(_EVERYTHING):  # type: ignore[misc]  # structlog makes its classes as the program runs
    """A logger whose level can change: the ones that modules hold are made once."""

    threshold = logging.INFO

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
            renderer,
        ],
        wrapper_class=_Levelled,
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s %(message)s")
