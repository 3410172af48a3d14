"""Errors that nobody waits for: in threads and asyncio tasks that a task has left behind, in destructors; and warnings.

Python writes them to stderr by itself, in full. But they may name anybody, and by then nobody knows for whom that code
ran: what the collector finds, it finds in the middle of another run. So the log has their type and place, not what they
say. A warning is given while its run goes on, and is redacted like all that is logged then.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import traceback
from contextlib import suppress
from types import TracebackType
from typing import Any

import structlog

from cascadenced.events.content import type_name

_log = structlog.get_logger("cascadenced")

MAX_FRAMES = 24


def catch(loop: asyncio.AbstractEventLoop) -> None:
    """From now on they are lines of the log, for this process and this loop."""

    def tell(what: str, error: BaseException | None, where: TracebackType | None) -> None:
        # Source lines hold no values.
        frames = traceback.format_list(traceback.extract_tb(where, limit=-MAX_FRAMES))
        kind = None if error is None else type_name(error)
        # Not here: the collector comes when it likes, also while this very thread writes a line and holds the log.
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(_write, what, kind, "".join(frames))

    def in_thread(args: threading.ExceptHookArgs) -> None:
        if not issubclass(args.exc_type, SystemExit):
            tell("a thread ended with an error", args.exc_value, args.exc_traceback)

    def unraisable(args: Any) -> None:
        tell("an error where none can be raised", args.exc_value, args.exc_traceback)

    def on_loop(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        # What follows is the callback with its arguments.
        what, _, _ = str(context.get("message", "an error on the loop")).partition(" in callback ")
        tell(what, error, None if error is None else error.__traceback__)

    logging.captureWarnings(True)
    threading.excepthook = in_thread
    sys.unraisablehook = unraisable
    loop.set_exception_handler(on_loop)


def _write(what: str, kind: str | None, where: str) -> None:
    _log.error("loose_error", what=what, error_type=kind, traceback=where)
