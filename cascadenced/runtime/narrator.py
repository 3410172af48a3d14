"""What the daemon's own log says of the event log: one line for each event that a person would want to see go by."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import structlog

from cascadenced.events.base import Recorded
from cascadenced.events.dead_letter import MessageDeadLettered
from cascadenced.events.followup import FollowupRequested
from cascadenced.events.run import RunFailed, RunFinished, RunRefused, RunRequested
from cascadenced.events.stage import StageFailed, StageFinished, StageInterrupted, StageStarted
from cascadenced.events.system import BusLost, BusRestored, EpochBroken, EpochRepaired
from cascadenced.events.task import TaskRegistered
from cascadenced.runtime.record import LiveRun

_log = structlog.get_logger("cascadenced")

_QUIET = frozenset({StageStarted, StageFinished, RunRequested, RunFinished, TaskRegistered})
"""Ordinary events: shown at level debug."""
_LOUD = frozenset(
    {
        *(StageFailed, StageInterrupted, RunFailed, RunRefused, MessageDeadLettered, FollowupRequested),
        *(BusLost, BusRestored, EpochBroken, EpochRepaired),
    }
)
"""Events that somebody may have to look at: shown at level warning."""
_FIELDS = (
    *("task", "stage", "attempt", "error_type", "reason", "subject", "failed_task"),
    *("stream", "away_s", "n_breaks", "n_republished", "n_missing"),
)


def narrate(batch: Sequence[Recorded]) -> None:
    """An observer of the log. Texts in events are redacted already; contents are never shown."""
    quiet: frozenset[type] = _QUIET if _log.is_enabled_for(logging.DEBUG) else frozenset()
    for recorded in batch:
        event = recorded.event
        if type(event) in _LOUD:
            say = _log.warning
        elif type(event) in quiet:
            say = _log.debug
        else:
            continue
        shown = {name: value for name in _FIELDS if (value := getattr(event, name, None)) is not None}
        say(recorded.type, run_id=recorded.run_id, position=recorded.position, **shown)


def tell_traceback(live: LiveRun, stage: str, traceback: str) -> None:
    """Where a task's code raised; the text of the error itself comes with the event. Redacted by whoever calls."""
    _log.warning("stage.traceback", run_id=live.run_id, task=live.run.task, stage=stage, traceback=traceback)
