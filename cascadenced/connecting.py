"""How a daemon comes to NATS when it starts: to the operator's server, or to one of its own."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import msgspec
import structlog

from cascadenced.bus.base import Bus, JetStreamOff, StreamUnreadable
from cascadenced.errors import DiskFull, Unavailable
from cascadenced.eventlog.base import Change
from cascadenced.events.base import Event
from cascadenced.events.streams import SYSTEM_STREAM
from cascadenced.instance import Instance
from cascadenced.private_files import read_or_create_hex
from cascadenced.runtime.bus_keeper import known_marks
from cascadenced.runtime.outages import Outages
from cascadenced.runtime.retry import backoff_s
from cascadenced.runtime.server_keeper import ServerKeeper
from cascadenced.sd_notify import Notifier

_log = structlog.get_logger("cascadenced")


class Connected(msgspec.Struct, frozen=True):
    """A bus, and how it was reached. server: its keeper, if it is our child; then what we consumed is erased."""

    bus: Bus
    url: str
    about: str
    server: ServerKeeper | None


class _Own(msgspec.Struct):
    """A nats-server of our own, if there is one. synced: it confirms what it has on disk."""

    url: str = ""
    about: str = ""
    synced: bool = False
    keeper: ServerKeeper | None = None
    bus: Bus | None = None


async def connect(stack: AsyncExitStack, instance: Instance, outages: Outages, notifier: Notifier) -> Connected:
    """To the configured server, waiting for it as long as it takes; else to one of our own. What is opened is closed
    with `stack`.

    outages: hears of those met on the way, so that one that follows is counted with them.
    Raises JetStreamOff if the server that is configured has none, ConfigError, LogHeld.
    """
    from cascadenced.bus.jetstream import JetStreamBus

    config, clock = instance.config, instance.clock
    own = _Own() if config.nats_url is not None else await _own_server(stack, instance)
    url = config.nats_url or own.url
    attempt, marks = 0, await known_marks(instance.log)
    while True:
        try:
            bus = await JetStreamBus.open(
                url=url,
                prefix=config.ume_nats_subject,
                instance_id=instance.log.origin,
                clock=clock,
                max_age_s=config.stream_max_age_s,
                max_bytes=config.stream_max_bytes,
                atomic_batches=own.synced,
                encrypted_store=config.nats_url is None,
                marks=marks,
            )
        except (Unavailable, JetStreamOff) as error:
            if own.keeper is None and isinstance(error, JetStreamOff):
                raise  # the operator's server, and the operator's to set up
            if own.keeper is not None and isinstance(error, StreamUnreadable):
                own.keeper.set_aside(error.stream)
            attempt += 1
            await _record(instance, outages.lost(clock.monotonic(), "not_reached"))
            _log.warning("waiting_for_nats", attempt=attempt, error=str(error))
            notifier.status(f"waiting for NATS: {error}")
            await clock.sleep(backoff_s(attempt))
        else:
            stack.push_async_callback(bus.close)
            own.bus, info = bus, bus.info()
            restored = outages.restored(clock.monotonic(), server_id=info.server_id, server_version=info.server_version)
            await _record(instance, restored)
            return Connected(bus, url, info.url + own.about, own.keeper)


async def _own_server(stack: AsyncExitStack, instance: Instance) -> _Own:
    from cascadenced.bus.embedded import EmbeddedServer

    config = instance.config
    server = await EmbeddedServer.start(
        Path(config.data_dir),
        token=instance.ids.token(),
        key=read_or_create_hex(config.nats_key_path, 32),
        server=config.nats_server,
        lock_wait_s=config.lock_wait_s,
        clock=instance.clock,
    )
    stack.push_async_callback(server.stop)
    about = f" (our own nats-server {server.version}, {server.path})"
    own = _Own(url=server.url, about=about, synced=server.synced)
    own.keeper = ServerKeeper(server, instance.clock, lambda: own.bus.info() if own.bus is not None else None)
    keeping = asyncio.create_task(own.keeper.run(), name="nats-server-keeper")
    stack.callback(keeping.cancel)
    return own


async def _record(instance: Instance, event: Event | None) -> None:
    """What becomes of NATS before there is anybody else to tell. A full disk is told of elsewhere."""
    if event is not None:
        with suppress(DiskFull):
            await instance.log.append([Change(SYSTEM_STREAM, [event])])
