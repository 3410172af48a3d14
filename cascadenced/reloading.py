"""The configuration read again while the daemon works: what can change changes, all or nothing, and is recorded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from cascadenced import logs
from cascadenced.config import Config, reread
from cascadenced.errors import CascadenceError, ConfigError
from cascadenced.eventlog.base import Change
from cascadenced.events.base import Event
from cascadenced.events.content import cut
from cascadenced.events.streams import SYSTEM_STREAM
from cascadenced.events.system import ConfigRejected, ConfigReread
from cascadenced.instance import Instance
from cascadenced.job_thread import JobThread

_log = structlog.get_logger("cascadenced")

READ_WITHIN_S = 10.0
"""How long the file may take: one on a disk that hangs, or a pipe, never ends."""


async def reload(instance: Instance, read: Callable[[], Config]) -> None:
    """Put in force what `read` finds now and what can change in a running daemon.

    A configuration that is wrong changes nothing. Either way an event says so, and a line of the daemon's log.
    """
    event: Event
    try:
        found = reread(instance.config, await _in_time(read))
    except ConfigError as error:
        _log.error("config_rejected", error=str(error), in_force="the configuration as it was")
        event = ConfigRejected(reason=cut(str(error)))
    else:
        instance.config = config = found.config
        logs.set_level(config.log_level)
        instance.runs.limit(config.max_concurrent_runs, config.max_queued_runs)
        _log.info("config_reread", changed=list(found.changed), change_at_restart=list(found.waiting))
        event = ConfigReread(changed=found.changed, waiting=found.waiting)
    try:
        await instance.log.append([Change(SYSTEM_STREAM, [event])])
    except CascadenceError as error:
        _log.error("config_change_not_recorded", error=str(error))


async def _in_time(read: Callable[[], Config]) -> Config:
    """What `read` finds. Raises ConfigError, also if it takes too long: a file system may hang."""
    thread = JobThread(asyncio.get_running_loop(), "configuration")
    try:
        async with asyncio.timeout(READ_WITHIN_S):
            return await thread.do(read)
    except TimeoutError:
        raise ConfigError(
            f"the configuration could not be read within {READ_WITHIN_S:g} s: see whether its file is one, and on a "
            "disk that works"
        ) from None
    finally:
        thread.stop()
