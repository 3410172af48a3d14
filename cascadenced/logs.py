"""How the daemon logs: structlog, to stderr; lines for people on a terminal, JSON elsewhere."""

from __future__ import annotations

import logging
import os
import sys

import structlog


def configure(level: str) -> None:
    """level: debug, info, warning or error. Libraries that use `logging` come through at warning and above."""
    terminal = sys.stderr.isatty()
    threshold = logging.getLevelNamesMapping()[level.upper()]
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
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s %(message)s")
