"""Whose code is running. The asyncio tasks and callbacks that it makes inherit it, whatever they are called."""

from __future__ import annotations

from contextvars import ContextVar
from typing import NamedTuple

from cascadenced.runtime.record import LiveRun


class Work(NamedTuple):
    """stage: None before its first one here.  attempt: of it; None: nothing is recorded when it ends too late."""

    live: LiveRun
    stage: str | None = None
    attempt: int | None = None


work: ContextVar[Work | None] = ContextVar("work", default=None)
"""None: no run's. What serves all runs sets that, or it would be taken for the run that happened to start it."""
