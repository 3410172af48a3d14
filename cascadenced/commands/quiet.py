"""stdout is for a command's answer: what runs in this process beside it writes to stderr."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator

import structlog

from cascadenced.config import Config


@contextlib.contextmanager
def quiet(config: Config) -> Iterator[None]:
    """Send to stderr what task code prints and what is logged; of the log errors only, unless a level is configured.

    Everything is put back afterwards: `cli.main` may be one call in somebody's longer program.
    """
    level = config.log_level if "log_level" in config.sources else "error"
    configured, before = structlog.is_configured(), structlog.get_config()
    threshold = logging.getLevelNamesMapping()[level.upper()]
    # structlog's own printer writes to whatever sys.stdout is at the time.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(threshold))
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        if configured:
            structlog.configure(**before)
        else:
            structlog.reset_defaults()
