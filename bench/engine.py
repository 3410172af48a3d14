"""The daemon without NATS and HTTP: log, projections, vault, runs, narrator, metrics, planner and outbox, put together
as `cascadenced.daemon` does it; the broker confirms at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import anyio

from bench.workloads import STAGES
from cascadenced import garbage, logs
from cascadenced.bus.base import Bus, BusInfo, Delivery, Responder
from cascadenced.config import Config
from cascadenced.events.base import Recorded
from cascadenced.events.outgoing import Outgoing
from cascadenced.handlers.followups import CHECKPOINT as PLANNER
from cascadenced.handlers.followups import CapabilityPlanner
from cascadenced.handlers.publications import Publications
from cascadenced.http.face import metrics_of
from cascadenced.instance import Instance, open_instance
from cascadenced.pipeline.followups import Planner
from cascadenced.plugins.discover import collect
from cascadenced.runtime.follow import follow
from cascadenced.runtime.narrator import narrate, tell_traceback
from cascadenced.runtime.outbox import Outbox


class ConfirmingBus:
    """A broker that costs nothing: it stores what is published by counting it, and delivers nothing."""

    def __init__(self) -> None:
        self.n_published = 0

    def info(self) -> BusInfo:
        return BusInfo(
            connected=True, url="", epoch="", server_id="", max_payload_bytes=1 << 20, server_version="0.0.0"
        )

    async def fetch(self, max_messages: int) -> list[Delivery]:
        await asyncio.Event().wait()
        return []

    async def publish(self, messages: Sequence[Outgoing]) -> None:
        self.n_published += len(messages)

    async def serve(self, verbs: Mapping[str, Responder], *, version: str) -> None:
        pass

    async def close(self) -> None:
        pass


@asynccontextmanager
async def instance_of(config: Config, *, task: str = "async") -> AsyncIterator[Instance]:
    """An instance with the observers that the daemon gives it. task: which of `STAGES` is registered, as `stages`."""
    logs.configure(config.log_level)
    async with open_instance(config, who="bench", catalogue=collect([("bench", STAGES[task])])) as instance:
        instance.log.observe(narrate)
        instance.stages.on_failure = tell_traceback
        metrics_of(instance)
        garbage.started()
        yield instance


@asynccontextmanager
async def followed(instance: Instance, bus: Bus) -> AsyncIterator[Outbox]:
    """The daemon's two followers of the log run meanwhile; yields the outbox."""
    config = instance.config
    publications = Publications(config.ume_nats_subject, broadcast_pointers=config.ume_broadcast_pointers, vault=None)
    outbox = Outbox(instance.log, instance.clock, bus, publications, instance.refusals)
    rule = Planner(config.follow_up_task, config.follow_up_max_depth)
    planner = CapabilityPlanner(instance.log, instance.runs, instance.tasks, instance.vault, rule)
    async with anyio.create_task_group() as followers:
        followers.start_soon(outbox.run)
        followers.start_soon(follow, instance.log, instance.clock, PLANNER, planner, _never)
        yield outbox
        followers.cancel_scope.cancel()


def _never(recorded: Recorded) -> None:
    raise AssertionError(f"the planner cannot do anything about event {recorded.position}")
