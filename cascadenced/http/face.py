"""What every handler of an application needs, kept in the application under `FACE`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from aiohttp import web

from cascadenced import __version__
from cascadenced.instance import Instance
from cascadenced.runtime.metrics import Metrics


class Face:
    """One application's view of the instance.

    ready: whether the daemon has finished starting and is not stopping.  stopping: set when the application closes;
    whoever holds a request open watches it.  n_streams: open event streams.  work: verbs under way, with the requests
    they are for.
    """

    def __init__(self, instance: Instance, ready: Callable[[], bool], metrics: Metrics) -> None:
        self.instance, self.ready, self.metrics = instance, ready, metrics
        self.stopping = asyncio.Event()
        self.n_streams = 0
        self.work: dict[asyncio.Task[Any], web.Request] = {}


FACE: web.AppKey[Face] = web.AppKey("face", Face)


def metrics_of(instance: Instance) -> Metrics:
    """Metrics that count what `instance` records from now on; make them once."""
    return Metrics(
        instance.log,
        is_task=lambda name: instance.tasks.get(name) is not None,
        runs=instance.runs,
        threads=instance.spawner,
        refusals=instance.refusals.total,
        bus=lambda: instance.bus_status() if instance.bus_status else None,
        version=__version__,
        instance_id=instance.log.origin,
    )
