"""The real bus: NATS JetStream. See `base.Bus` for what it promises and the package's docstring for its parts.

The connection mends itself. nats-py reconnects after a broken line; after that, and whenever a consumer or stream went
missing, `_keep` makes sure that everything exists, then pulls again. A client that nats-py closed for good (it does on
some errors of the server), that reads no more, or that did not come back for half a minute, is replaced.

What the broker forgot is looked for at the same time, before anything is delivered or published: until `resume` nothing
is, so that whoever opened the bus can record it first.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Self

import nats.errors
import structlog

from cascadenced.bus.base import (
    Broken,
    BusInfo,
    Delivery,
    Doubt,
    JetStreamOff,
    Lost,
    News,
    Responder,
    Restored,
    Sighting,
    Storage,
    StreamUnreadable,
)
from cascadenced.bus.jetstream_erase import Eraser
from cascadenced.bus.jetstream_link import (
    Address,
    ApiError,
    Client,
    Occasionally,
    Sender,
    api,
    connect,
    disconnect,
    end,
    flushed,
)
from cascadenced.bus.jetstream_publish import Publisher
from cascadenced.bus.jetstream_pull import Pulls
from cascadenced.bus.jetstream_rpc import Rpc
from cascadenced.bus.jetstream_scan import Scans
from cascadenced.bus.jetstream_setup import (
    Limits,
    Standing,
    Streams,
    discard,
    ensure_consumers,
    ensure_streams,
    look_at_streams,
    plain_name,
    plan,
    shortest_window,
)
from cascadenced.bus.jetstream_witness import Witness, storage
from cascadenced.bus.marks import Break, Marks, in_doubt
from cascadenced.clock import Clock, SystemClock
from cascadenced.errors import CascadenceError, Unavailable
from cascadenced.events.outgoing import Outgoing

_REPLACE_AFTER_S = 30.0
_BACKOFF_S = (0.1, 5.0)
_CLOSE_WITHIN_S = 3.0
_FORGOTTEN_WITHIN_S = 0.25
"""Servers look through the ids they know every 0.1 s while the window is that short (measured on 2.9.10 to 2.15.1)."""
_MAX_NEWS = 64
_MAX_SILENT = 3
"""Publishes in a row that nothing was heard of, on a connection that works: the server does not do its work."""

_log = structlog.get_logger("cascadenced.bus")


class JetStreamBus:
    """See `base.Bus`."""

    def __init__(
        self,
        url: str,
        *,
        prefix: str,
        instance_id: str,
        clock: Clock,
        limits: Limits,
        encrypted_store: bool,
        marks: Marks = Marks(),  # noqa: B008 -- frozen
    ) -> None:
        self._address = Address(url)
        self._names = plan(prefix, instance_id)
        self._prefix, self._instance_id, self._clock, self._limits = prefix, instance_id, clock, limits
        self._complaints = Occasionally(clock)
        self._witness = Witness(self._names, marks, clock)
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
            read=self._witness.read,
        )
        self._publisher = Publisher(
            prefix=prefix,
            runs_subject=self._names.runs_subject,
            broken=self._mend,
            batch_name=f"{plain_name(instance_id)[:32]}-{clock.now_us():x}-",
            stored=self._witness.stored,
        )
        self._scans = Scans()
        self._rpc: Rpc | None = None
        self._client: Client | None = None
        self._epoch = self._unreadable = ""
        self._max_message_bytes = sys.maxsize
        self._well, self._unanswered = True, False
        self._held: list[Break] | None = None
        self._resumed = False
        self._news: deque[News] = deque()
        self._has_news = asyncio.Event()
        self._looking = asyncio.Lock()
        self._scopes: set[asyncio.Timeout] = set()
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
        marks: Marks | None = None,
    ) -> Self:
        """Connect, make streams and consumers, start to pull.

        url: one NATS URL, or several separated by commas, with credentials where needed (`nats://token@host:port`).
        max_age_s, max_bytes: limits of the event stream.
        ack_wait_s: after how long the broker delivers again what nobody acknowledged.
        atomic_batches: publish many messages as one batch where the server can: much faster on one that syncs each
            message (`EmbeddedServer.synced`), slower on one that does not.
        encrypted_store: what the server keeps is ciphertext: erasing a message need not overwrite it.
        marks: those of the last bus, whatever server it was connected to; None at the first start.
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
            marks=marks or Marks(),
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

    @property
    def marks(self) -> Marks:
        marks = self._witness.marks
        return in_doubt(marks) if any(isinstance(news, Doubt) for news in self._news) else marks

    def info(self) -> BusInfo:
        client = self._client
        known = {} if client is None else client.server_info
        return BusInfo(
            connected=client is not None and client.is_connected,
            url=self._address.shown,
            epoch=self._epoch,
            server_id=known.get("server_id", ""),
            max_payload_bytes=min(known.get("max_payload", 0), self._max_message_bytes),
            server_version=known.get("version", ""),
            well=self._well and self._publisher.n_silent < _MAX_SILENT,
            unreadable_stream=self._unreadable,
        )

    async def news(self) -> News:
        while not self._news:
            if self._closing is not None:
                raise Unavailable("the bus is closed")
            self._has_news.clear()
            await self._has_news.wait()
        return self._news.popleft()

    async def check(self) -> None:
        client = self._client
        if self._closing is not None or self._is_held() or self._damaged.is_set():
            return
        if client is None or not client.is_connected or not client.is_reading:
            self._mend()
            return
        try:
            async with self._while_connected(), self._looking:
                if self._is_held():
                    return  # found while we waited for our turn
                marks = self._witness.marks
                streams = await look_at_streams(client, self._names)
                breaks = await self._witness.breaks(client, streams, marks, reconnected=False)
                if not breaks and (stuck := await self._witness.stuck(client, streams)) is not None:
                    breaks = [stuck]
                if breaks:
                    self._hold(breaks, streams)
                else:
                    self._known(streams, None)
        except (CascadenceError, nats.errors.Error, OSError):
            self._mend()  # which sees for itself, and says what it is

    def resume(self) -> None:
        if self._held is not None:
            self._resumed = True
            self._mend()

    async def storage(self) -> Storage:
        try:
            return storage(await api(self._connected(), f"STREAM.INFO.{self._names.events}"))
        except (ApiError, JetStreamOff) as error:
            raise Unavailable(str(error)) from None

    async def scan(self) -> AsyncGenerator[Sequence[Sighting]]:
        async with aclosing(self._scans.run(self._connected(), self._names.events)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def forget_ids(self) -> bool:
        client = self._connected()
        try:
            async with self._while_connected(), self._looking:
                refused = not await shortest_window(client, self._names.events)
                if not refused:
                    await self._clock.sleep(_FORGOTTEN_WITHIN_S)
                    await ensure_streams(client, self._names, self._limits)
        except (CascadenceError, TimeoutError) as error:
            self._mend()  # which puts the stream right again
            raise Unavailable(str(error) or "the connection to NATS broke") from None
        return not refused

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
        self._has_news.set()
        if self._rpc is not None:
            self._rpc.close()
        self._publisher.lost("the bus is closed")
        self._scans.lost()
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
            self._let_go("the connection to NATS broke")
            self._unreadable = ""  # the next server may be able to
            while self._scopes:
                self._scopes.pop().reschedule(0)
            self._line_lost("disconnected")
        self._mend()

    def _is_held(self) -> bool:
        return self._held is not None

    def _let_go(self, why: str, stale: Collection[str] = ()) -> None:
        """What was delivered may be something else at the broker by now: neither acknowledge nor erase it. What is
        not confirmed may never be."""
        self._publisher.lost(why)
        self._pulls.void(stale)
        self._eraser.reset()
        self._scans.lost()

    @asynccontextmanager
    async def _while_connected(self) -> AsyncIterator[None]:
        """Raises TimeoutError as soon as the connection breaks: what was asked then is not answered any more."""
        async with asyncio.timeout(None) as scope:
            self._scopes.add(scope)
            try:
                yield
            finally:
                self._scopes.discard(scope)

    def _tell(self, news: News) -> None:
        self._news.append(news)
        if len(self._news) > _MAX_NEWS:  # of breaks there is one at a time, and that one is waited for
            self._news.remove(next(one for one in self._news if not isinstance(one, Broken)))
        self._has_news.set()

    def _line_lost(self, reason: str) -> None:
        if self._well:
            self._well = False
            self._tell(Lost(reason, self._clock.monotonic()))

    def _line_up(self) -> None:
        self._unreadable = ""
        if not self._well:
            self._well = True
            self._tell(Restored(self._clock.monotonic()))

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
        overdue = self._clock.monotonic() - since > _REPLACE_AFTER_S
        deaf = client.is_connected and not client.is_reading
        try:
            if client.is_closed or deaf or (overdue and (self._unanswered or not client.is_connected)):
                await self._replace_client()
            elif not client.is_connected:
                return False
            self._damaged.clear()
            async with self._while_connected():
                await self._set_up()
        except (CascadenceError, nats.errors.Error, OSError) as error:
            self._complaints.warn("bus_not_ready", why=self._address.clean(error))
            self._not_ready(error)
            return False
        return not self._damaged.is_set()

    def _not_ready(self, error: Exception) -> None:
        self._unreadable = error.stream if isinstance(error, StreamUnreadable) else ""
        self._unanswered = isinstance(error, Unavailable) and not self._unreadable
        if isinstance(error, JetStreamOff):
            self._line_lost("no_jetstream")
        else:
            self._line_lost("no_answer" if self._unanswered else "refused")

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
        self._unanswered = False
        if self._rpc is not None:
            await self._rpc.attach(client)

    async def _set_up(self) -> None:
        client = self._connected()
        async with self._looking:
            marks = self._witness.marks
            streams = await ensure_streams(client, self._names, self._limits)
            self._line_up()
            breaks = await self._witness.breaks(client, streams, marks, reconnected=True)
            if self._stands_still(breaks, streams):
                return
            held = self._held or []
            for one in held:
                if one.discard != 0:
                    await discard(client, one.stream, one.discard)
            anew = {one.stream for one in (*held, *breaks) if one.misleads_consumers}
            standings = await ensure_consumers(client, self._names, self._limits, streams, anew)
            if not held and self._stands_still(self._witness.forgotten(standings), streams):
                return
            self._known(streams, standings)
            self._publisher.atomic = self._limits.atomic_batches and streams.atomic
            self._publisher.held = self._held = None
            self._resumed = False
            self._pulls.start()

    def _stands_still(self, breaks: Sequence[Break], streams: Streams) -> bool:
        """Whether something is broken that nobody has recorded yet; then whoever opened us is told, or was already."""
        recorded = {(one.reason, one.stream) for one in self._held or () if self._resumed}
        if any((one.reason, one.stream) not in recorded for one in breaks):
            self._hold(breaks, streams)
        return self._held is not None and not self._resumed

    def _known(self, streams: Streams, standings: Sequence[Standing] | None) -> None:
        """Take this for how it is; say so when it is worth a closer look."""
        server_id = self.info().server_id
        n_missing = self._witness.missing(streams, self._eraser.n_asked)
        if not self._resumed and self._witness.restarted(server_id):
            self._tell(Doubt("server_restarted"))
        elif not self._resumed and n_missing:
            _log.warning("bus_has_fewer_messages", n_missing=n_missing)
            self._tell(Doubt("fewer_messages"))
        self._witness.know(streams, standings, self._eraser.n_asked, server_id=server_id, anew=self._resumed)
        self._epoch, self._max_message_bytes = streams.epoch, streams.max_message_bytes

    def _hold(self, breaks: Sequence[Break], streams: Streams) -> None:
        """Stand still until `resume`, and say why. What was held for before, and was recorded, is part of it."""
        if self._held is not None and not self._resumed:
            return  # somebody is about to record one
        known = {(one.reason, one.stream) for one in self._held or ()}
        self._held, self._resumed = [*(self._held or ()), *breaks], False
        self._let_go("the broker has forgotten something", {one.stream for one in breaks if one.misleads_consumers})
        self._publisher.held = "the broker has forgotten something, which is to be recorded first"
        broken = next(one for one in breaks if (one.reason, one.stream) not in known)
        _log.warning("bus_epoch_broken", reason=broken.reason, stream=broken.stream, detail=broken.detail)
        self._tell(Broken(broken.reason, broken.stream, broken.detail, self._epoch, streams.epoch))

    def _connected(self) -> Client:
        client = self._client
        if client is None or not client.is_connected:
            raise Unavailable("NATS is not connected")
        return client
