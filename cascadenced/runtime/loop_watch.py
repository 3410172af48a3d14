"""A loop that does not turn is a fact: who kept it, for how long, and where."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextvars import Context

import structlog

from cascadenced.errors import CascadenceError
from cascadenced.eventlog.base import Change, EventLog
from cascadenced.events.content import MAX_SHOWN_CHARS
from cascadenced.events.streams import SYSTEM_STREAM
from cascadenced.events.system import LoopBlocked
from cascadenced.runtime.watchdog import BLOCKED_AFTER_S, Blockage, LoopWatchdog
from cascadenced.runtime.whose import work

_log = structlog.get_logger(__name__)


def watch_loop(log: EventLog, *, after_s: float = BLOCKED_AFTER_S) -> Callable[[], None]:
    """Watch the running loop, and record what keeps it. Returns what ends that."""
    recording: set[asyncio.Task[None]] = set()

    def over(blockage: Blockage) -> None:
        task = asyncio.get_running_loop().create_task(_record(log, blockage), name="loop-blocked")
        recording.add(task)
        task.add_done_callback(recording.discard)

    return LoopWatchdog(after_s=after_s, who=_whose, on_free=over).start().stop


def _whose(context: Context) -> Mapping[str, object]:
    its = context.get(work)
    if its is None:
        return {}
    run = its.live.run
    return {"run_id": its.live.run_id, "task": run.task, "stage": its.stage or run.current}


async def _record(log: EventLog, blockage: Blockage) -> None:
    about = {name: None if value is None else str(value) for name, value in blockage.about.items()}
    event = LoopBlocked(
        blocked_s=round(blockage.for_s, 3),
        where=blockage.stack[-MAX_SHOWN_CHARS:],
        task=about.get("task"),
        stage=about.get("stage"),
        run=about.get("run_id"),
    )
    try:
        await log.append([Change(SYSTEM_STREAM, [event])])
    except CascadenceError as error:
        _log.error("blockage_not_recorded", error=str(error))
