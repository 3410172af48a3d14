"""The real bus: NATS JetStream. See `base.Bus` for what it promises and the package's docstring for its parts.

The connection mends itself. nats-py reconnects after a broken line; after that, and whenever a consumer or stream went
missing, `_keep` makes sure that everything exists, then pulls again. A client that nats-py closed for good (it does on
some errors of the server), or that did not come back for half a minute, is replaced.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Self

import nats.errors
import structlog

from cascadenced.bus.base import BusInfo, Delivery, Responder
from cascadenced.bus.jetstream_erase import Eraser
from cascadenced.bus.jetstream_link import (
    Address,
    Client,
    Occasionally,
    Sender,
    connect,
    disconnect,
    end,
    flushed,
)
from cascadenced.bus.jetstream_publish import Publisher
from cascadenced.bus.jetstream_pull import Pulls
from cascadenced.bus.jetstream_rpc import Rpc
from cascadenced.bus.jetstream_setup import Limits, ensure, plain_name, plan
from cascadenced.clock import Clock, SystemClock
from cascadenced.errors import CascadenceError, Unavailable
from cascadenced.events.outgoing import Outgoing

_REPLACE_AFTER_S = 30.0
_BACKOFF_S = (0.1, 5.0)
_CLOSE_WITHIN_S = 3.0

_log = structlog.get_logger("cascadenced.bus")


class JetStreamBus:
    """See `base.Bus`."""

    def __init__(
        self, url: str, *, prefix: str, instance_id: str, clock: Clock, limits: Limits, encrypted_store: bool
    ) -> None:
        self._address = Address(url)
        self._names = plan(prefix, instance_id)
        self._prefix, self._instance_id, self._clock, self._limits = prefix, instance_id, clock, limits
        self._complaints = Occasionally(clock)
        self._sender = Sender(self._complaints)
        self._eraser = Eraser(
            work_queues=frozenset({self._names.runs}),
            overwrite=not encrypted_store,
            clock=clock,
            sender=self._sender,
            complaints=self._complaints,
        )
        self._pulls = Pulls(
            self._names.consumers,
            own_origin=instance_id,
            clock=clock,
            sender=self._sender,
            eraser=self._eraser,
            complaints=self._complaints,
            broken=self._mend,
        )
        self._publisher = Publisher(
            prefix=prefix,
            runs_subject=self._names.runs_subject,
            broken=self._mend,
            batch_name=f"{plain_name(instance_id)[:32]}-{clock.now_us():x}-",
        )
        self._rpc: Rpc | None = None
        self._client: Client | None = None
        self._epoch = ""
        self._damaged = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._closing: asyncio.Task[None] | None = None

    @classmethod
    async def open(
        cls,
        *,
        url: str,
        instance_id: str,
        prefix: str = "ume",
        clock: Clock | None = None,
        max_age_s: float = 7 * 86400,
        max_bytes: int = 1 << 30,
        ack_wait_s: float = 5,
        atomic_batches: bool = False,
        encrypted_store: bool = False,
    ) -> Self:
        """Connect, make streams and consumers, start to pull.

        url: one NATS URL, or several separated by commas, with credentials where needed (`nats://token@host:port`).
        max_age_s, max_bytes: limits of the event stream.
        ack_wait_s: after how long the broker delivers again what nobody acknowledged.
        atomic_batches: publish many messages as one batch where the server can: much faster on one that syncs each
            message (`EmbeddedServer.synced`), slower on one that does not.
        encrypted_store: what the server keeps is ciphertext: erasing a message need not overwrite it.
        Raises ConfigError (credentials, streams that cannot be made to fit, no JetStream), Unavailable.
        """
        limits = Limits(max_age_s=max_age_s, max_bytes=max_bytes, ack_wait_s=ack_wait_s, atomic_batches=atomic_batches)
        bus = cls(
            url,
            prefix=prefix,
            instance_id=instance_id,
            clock=clock or SystemClock(),
            limits=limits,
            encrypted_store=encrypted_store,
        )
        try:
            await bus._replace_client()
            bus._tasks = [asyncio.create_task(loop) for loop in (bus._sender.run(), bus._pulls.watch(), bus._keep())]
            for task in bus._tasks:
                task.add_done_callback(bus._loop_ended)
            await bus._set_up()
        except BaseException:
            await bus.close()
            raise
        return bus

    def info(self) -> BusInfo:
        client = self._client
        known = {} if client is None else client.server_info
        return BusInfo(
            connected=client is not None and client.is_connected,
            url=self._address.shown,
            epoch=self._epoch,
            server_id=known.get("server_id", ""),
            max_payload_bytes=known.get("max_payload", 0),
            server_version=known.get("version", ""),
        )

    async def fetch(self, max_messages: int) -> list[Delivery]:
        return list(await self._pulls.fetch(max_messages))

    async def publish(self, messages: Sequence[Outgoing]) -> None:
        if self._closing is not None:
            raise Unavailable("the bus is closed")
        await self._publisher.publish(messages)

    async def serve(self, verbs: Mapping[str, Responder], *, version: str) -> None:
        self._rpc = Rpc(verbs, prefix=self._prefix, version=version)
        if self._client is None or self._client.is_closed:
            return  # the next client will
        try:
            await self._rpc.attach(self._client)
        except (nats.errors.Error, OSError) as error:
            raise Unavailable(f"NATS did not take our verbs: {type(error).__name__}") from None

    async def close(self) -> None:
        """See `base.Bus.close`. Takes 3 s at most for each of: erasing, sending, disconnecting."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        self._pulls.stop()
        if self._rpc is not None:
            self._rpc.close()
        self._publisher.lost("the bus is closed")
        client = self._client
        if client is not None and client.is_connected and self._tasks:
            with suppress(TimeoutError, nats.errors.Error, OSError):
                async with asyncio.timeout(_CLOSE_WITHIN_S):
                    await self._eraser.drained()
            with suppress(TimeoutError, nats.errors.Error, OSError):
                async with asyncio.timeout(_CLOSE_WITHIN_S):
                    await self._sender.drained()
                    await flushed(client, int(_CLOSE_WITHIN_S))
        await end(self._tasks)
        if client is not None:
            await disconnect(client)

    def _changed(self, what: str) -> None:
        """nats-py says what happened to the connection."""
        if self._closing is not None:
            return
        _log.info("bus_connection", state=what, url=self._address.shown)
        if what != "reconnected":
            self._pulls.pause()
            self._eraser.reset()
            self._publisher.lost("the connection to NATS broke")
        self._mend()

    def _loop_ended(self, task: asyncio.Task[None]) -> None:
        """A loop that ends before we close is a defect: say so, and let whoever fetches know."""
        if self._closing is None and not task.cancelled():
            _log.error("bus_loop_ended", exc_info=task.exception())
            self._pulls.stop()

    def _mend(self) -> None:
        self._damaged.set()

    async def _keep(self) -> None:
        """For ever: whenever something is not as it should be, try until it is."""
        while True:
            await self._damaged.wait()
            since, backoff_s = self._clock.monotonic(), _BACKOFF_S[0]
            while not await self._mended(since):
                self._damaged.clear()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._damaged.wait(), backoff_s)
                backoff_s = min(backoff_s * 2, _BACKOFF_S[1])
            # If it breaks again at once, do not spin.
            await self._clock.sleep(_BACKOFF_S[0])

    async def _mended(self, since: float) -> bool:
        client = self._client
        assert client is not None
        try:
            if client.is_closed or (not client.is_connected and self._clock.monotonic() - since > _REPLACE_AFTER_S):
                await self._replace_client()
            elif not client.is_connected:
                return False
            self._damaged.clear()
            await self._set_up()
        except (CascadenceError, nats.errors.Error, OSError) as error:
            self._complaints.warn("bus_not_ready", why=self._address.clean(error))
            return False
        return not self._damaged.is_set()

    async def _replace_client(self) -> None:
        old, self._client = self._client, None
        if old is not None:
            await disconnect(old)
        try:
            client = await connect(
                self._address, instance_id=self._instance_id, complaints=self._complaints, changed=self._changed
            )
        except BaseException:
            self._client = old
            raise
        self._client = client
        self._sender.attach(client)
        await self._pulls.attach(client)
        await self._eraser.attach(client)
        await self._publisher.attach(client)
        if self._rpc is not None:
            await self._rpc.attach(client)

    async def _set_up(self) -> None:
        assert self._client is not None
        found = await ensure(self._client, self._names, self._limits)
        if self._epoch and found.epoch != self._epoch:
            _log.warning("bus_epoch_changed", before=self._epoch, now=found.epoch)
        self._epoch = found.epoch
        self._publisher.atomic = found.atomic
        self._pulls.start()
