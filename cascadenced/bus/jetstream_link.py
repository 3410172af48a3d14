"""One connection to NATS: connect with errors that say what to do, call the JetStream API, send without waiting."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol, cast
from urllib.parse import unquote, urlsplit, urlunsplit

import msgspec
import nats.errors
import structlog

from cascadenced.bus.base import JetStreamOff
from cascadenced.bus.frames import acknowledgement, publication
from cascadenced.bus.jetstream_client import Heard, TolerantClient
from cascadenced.clock import Clock
from cascadenced.errors import CascadenceError, ConfigError, Unavailable

_PING_EVERY_S = 5
_MAX_PINGS_UNANSWERED = 2
_CONNECT_TIMEOUT_S = 5
_MAX_PENDING_BYTES = 8 * 1024 * 1024
_API_TIMEOUT_S = 5.0
_CLOSE_WITHIN_S = 3.0
_CANCEL_AGAIN_S = 0.1
_CANCEL_AT_MOST = 30
_COMPLAIN_EVERY_S = 10.0

_log = structlog.get_logger("cascadenced.bus")


class Message(Protocol):
    """What a subscription's callback is given."""

    subject: str
    reply: str
    data: bytes
    headers: Mapping[str, str] | None


Handler = Callable[[Heard], None]


class Client(Protocol):
    """What we use of our client; nats-py has no annotations a type checker could rely on."""

    is_connected: bool
    is_closed: bool
    max_payload: int
    is_reading: bool
    server_info: Mapping[str, Any]

    async def send(self, commands: Iterable[bytes]) -> None: ...

    async def listen(self, subject: str, handler: Handler) -> Callable[[], Awaitable[None]]: ...

    async def request(self, subject: str, payload: bytes, timeout: float) -> Message: ...

    def new_inbox(self) -> str: ...

    async def flush(self, timeout: int) -> None: ...

    async def close(self) -> None: ...


class ApiError(CascadenceError):
    """The JetStream API said no. status: as in HTTP, 4xx for what we asked, 5xx for what the server failed at.

    err_code: NATS's number for the reason.
    """

    def __init__(self, verb: str, *, status: int, err_code: int, description: str) -> None:
        super().__init__(f"JetStream refused {verb}: {description} ({err_code})")
        self.status, self.err_code, self.description = status, err_code, description


class Occasionally:
    """Warnings that would repeat: one in ten seconds for each event name, with the number left out."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._next: dict[str, float] = {}
        self._left_out: dict[str, int] = {}

    def warn(self, event: str, **what: Any) -> None:
        now = self._clock.monotonic()
        if now < self._next.get(event, now):
            self._left_out[event] = self._left_out.get(event, 0) + 1
            return
        self._next[event] = now + _COMPLAIN_EVERY_S
        _log.warning(event, n_more=self._left_out.pop(event, 0), **what)


class Address:
    """A NATS URL, or several separated by commas, as given, and as it may be shown. Raises ConfigError."""

    def __init__(self, url: str) -> None:
        self.servers = [part.strip() for part in url.split(",") if part.strip()]
        if not self.servers:
            raise ConfigError("the NATS URL is empty: give one like nats://127.0.0.1:4222")
        self._secrets: list[str] = []
        shown = []
        for server in self.servers:
            try:
                parts = urlsplit(server if "://" in server else f"nats://{server}")
                host = parts.hostname
                _ = parts.port
            except ValueError:
                host = None
            if not host:
                raise ConfigError("the NATS URL has no host: give one like nats://127.0.0.1:4222")
            userinfo, at, netloc = parts.netloc.rpartition("@")
            if at:
                # A lone user is a token; the user's name beside a password is no secret and may be a common word.
                secret = userinfo.partition(":")[2] or userinfo
                self._secrets += [userinfo, secret, unquote(secret)]
            shown.append(urlunsplit(parts._replace(netloc=netloc)))
        self.shown = ",".join(shown)

    def clean(self, error: BaseException | str) -> str:
        """The text of `error` without credentials."""
        text = str(error) or type(error).__name__
        for secret in sorted(filter(None, self._secrets), key=len, reverse=True):
            text = text.replace(secret, "***")
        return text


async def connect(
    address: Address, *, instance_id: str, complaints: Occasionally, changed: Callable[[str], None]
) -> Client:
    """A connected client that reconnects for ever by itself.

    changed: called with "disconnected", "reconnected" or "closed" when that happens, on the loop.
    Raises ConfigError when the credentials are refused, Unavailable when no server answers.
    """
    failed: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
    n_failures = 0

    async def on_error(error: Exception) -> None:
        nonlocal n_failures
        if failed.done():
            complaints.warn("nats_error", error=address.clean(error), type=type(error).__name__)
            return
        # Until connected nats-py would try for ever; whoever opens us wants to know at once.
        n_failures += 1
        if "authorization" in str(error).lower() or n_failures >= len(address.servers):
            failed.set_result(error)

    async def on_disconnected() -> None:
        changed("disconnected")

    async def on_reconnected() -> None:
        changed("reconnected")

    async def on_closed() -> None:
        changed("closed")

    client = TolerantClient()
    connecting = asyncio.ensure_future(
        client.connect(
            address.servers,
            name=f"cascadenced {instance_id}",
            error_cb=on_error,
            disconnected_cb=on_disconnected,
            reconnected_cb=on_reconnected,
            closed_cb=on_closed,
            connect_timeout=_CONNECT_TIMEOUT_S,
            ping_interval=_PING_EVERY_S,
            max_outstanding_pings=_MAX_PINGS_UNANSWERED,
            max_reconnect_attempts=-1,
            # A different wait for each instance, so that a fleet does not come back in one instant.
            reconnect_time_wait=cast(int, 0.25 + zlib.crc32(instance_id.encode()) % 250 / 1000),
            pending_size=_MAX_PENDING_BYTES,
            flush_timeout=_API_TIMEOUT_S,
        )
    )
    racing: set[asyncio.Future[Any]] = {connecting, failed}
    try:
        await asyncio.wait(
            racing, timeout=_CONNECT_TIMEOUT_S * (len(address.servers) + 1), return_when=asyncio.FIRST_COMPLETED
        )
        if connecting.done() and connecting.exception() is None:
            return cast(Client, client)
        error = connecting.exception() if connecting.done() else failed.result() if failed.done() else TimeoutError()
        assert error is not None
        raise _not_connected(address, error) from None
    finally:
        if not failed.done():
            failed.set_result(TimeoutError())  # from now on errors are only logged
        if not connecting.done():
            connecting.cancel()
            await asyncio.wait({connecting}, timeout=1)
            await disconnect(cast(Client, client))


async def disconnect(client: Client) -> None:
    """Close, but do not wait for ever on a server that does not take what we still have for it."""
    with suppress(TimeoutError, nats.errors.Error, OSError):
        async with asyncio.timeout(_CLOSE_WITHIN_S):
            await client.close()


def _not_connected(address: Address, error: BaseException) -> CascadenceError:
    reason = address.clean(error)
    if "authorization" in reason.lower():
        return ConfigError(
            f"the NATS server at {address.shown} refused our credentials: check the user or token in its URL"
        )
    if isinstance(error, TimeoutError):
        reason = f"no answer in {_CONNECT_TIMEOUT_S} s"
    return Unavailable(f"no NATS server could be reached at {address.shown}: {reason}")


async def flushed(client: Client, within_s: int) -> None:
    """Return when the server has what was sent so far.

    nats-py writes a flush's PING ahead of what its flusher task still holds, so one answer proves nothing about that;
    by the time it is here the flusher has written, and the second one follows it.
    """
    await client.flush(within_s)
    await client.flush(within_s)


async def api(client: Client, verb: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The decoded answer of `$JS.API.<verb>`. Raises ApiError, JetStreamOff or Unavailable."""
    try:
        answer = await client.request(f"$JS.API.{verb}", msgspec.json.encode(body or {}), timeout=_API_TIMEOUT_S)
        decoded: dict[str, Any] = msgspec.json.decode(answer.data, type=dict)
    except nats.errors.NoRespondersError:
        raise JetStreamOff(
            "the NATS server does not answer for JetStream: start it with `-js` (or, if it ran out of disk, restart it)"
        ) from None
    except (nats.errors.Error, TimeoutError, OSError, msgspec.DecodeError) as error:
        raise Unavailable(f"the NATS server did not answer {verb}: {type(error).__name__}") from None
    refusal = decoded.get("error")
    if refusal is None:
        return decoded
    if refusal.get("err_code") in _OFF_CODES:
        raise JetStreamOff(f"JetStream is not available to us: {refusal.get('description', 'no reason given')}")
    raise ApiError(
        verb,
        status=refusal.get("code", 0),
        err_code=refusal.get("err_code", 0),
        description=refusal.get("description", "no reason given"),
    )


_OFF_CODES = {10035, 10039, 10076}  # not enabled for the account (two codes), not enabled


class Sender:
    """Sends without waiting, in order. While disconnected everything is dropped: nothing sent here is owed to anybody
    (acknowledgements and pull requests, which are made again)."""

    def __init__(self, complaints: Occasionally) -> None:
        self._complaints = complaints
        self._queue: list[bytes] = []
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._client: Client | None = None

    def attach(self, client: Client) -> None:
        self._client = client
        self._queue.clear()

    def send(self, subject: str, body: bytes, reply: str = "") -> None:
        self._put(publication(subject, body, reply))

    def acknowledge(self, reply: str) -> None:
        """reply: a message's acknowledgement subject."""
        self._put(acknowledgement(reply))

    def _put(self, command: bytes) -> None:
        if not self._queue:
            self._idle.clear()
            self._wake.set()
        self._queue.append(command)

    async def run(self) -> None:
        """For ever."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._queue:
                commands, self._queue = self._queue, []
                client = self._client
                if client is None or not client.is_connected:
                    continue
                try:
                    await client.send(commands)
                except (nats.errors.Error, OSError) as error:
                    self._complaints.warn("nats_send_failed", type=type(error).__name__)
            self._idle.set()

    async def drained(self) -> None:
        """Return when all that was sent so far is on the socket or dropped."""
        await self._idle.wait()


async def end(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Cancel `tasks` until they have ended, for a bounded time.

    Once is not enough: nats-py swallows a cancellation that reaches it while it hands data to its writer.
    """
    for _ in range(_CANCEL_AT_MOST):
        pending = [task for task in tasks if not task.done()]
        if not pending:
            return
        for task in pending:
            task.cancel()
        await asyncio.wait(pending, timeout=_CANCEL_AGAIN_S)
