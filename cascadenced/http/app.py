"""The two applications, and `serve`, which opens both: the public one on TCP, the owner's on the Unix socket."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from socket import socket

from aiohttp import web
from aiohttp.http import HttpProcessingError

from cascadenced.events.strict import MAX_BYTES
from cascadenced.http.control import CONTROL
from cascadenced.http.face import FACE, Face, metrics_of
from cascadenced.http.guard import nobody, strangers
from cascadenced.http.listen import close_all, tcp_sockets, unix_socket, url_of
from cascadenced.http.local import local_routes
from cascadenced.http.replies import answering
from cascadenced.http.routes import READ, TABLE, Route
from cascadenced.instance import Instance
from cascadenced.runtime.metrics import Metrics

SHUTDOWN_S = 1.0
"""How long requests under way may take when the server closes; streams and waiting verbs end by themselves at once."""
IDLE_S = 75.0
"""How long a connection may be silent, or take to send the head of a request."""
PUBLIC = (*READ, *CONTROL)
"""What is served over TCP."""
MAX_CONNECTIONS = 500
"""At once, for each server; more are closed at once, because the log needs file descriptors, too."""


def build_app(instance: Instance, ready: Callable[[], bool], metrics: Metrics | None = None) -> web.Application:
    """The public application: reading for everybody, control for those who say who they are.

    ready: whether the daemon has started and is not stopping.  metrics: when somebody else has made them already.
    """
    return _build(PUBLIC, Face(instance, ready, metrics or metrics_of(instance)), strangers(lambda: instance.config))


def build_socket_app(
    instance: Instance, ready: Callable[[], bool], stop: Callable[[], None], metrics: Metrics | None = None
) -> web.Application:
    """The owner's application: the same, the verbs, and the stop. The file system says who may connect."""
    return _build((*READ, *local_routes(stop)), Face(instance, ready, metrics or metrics_of(instance)), nobody)


def _build(
    table: tuple[Route, ...], face: Face, refuse: Callable[[web.Request], web.Response | None]
) -> web.Application:
    app = web.Application(middlewares=[answering(refuse)], client_max_size=MAX_BYTES)
    app[FACE], app[TABLE] = face, table
    for route in table:
        if route.method == "GET":
            app.router.add_get(route.path, route.handle, allow_head=route.head)
        else:
            app.router.add_post(route.path, route.handle)

    async def stopping(_app: web.Application) -> None:
        face.stopping.set()

    async def stopped(_app: web.Application) -> None:
        for work in list(face.work):
            work.cancel()

    app.on_shutdown.append(stopping)
    app.on_cleanup.append(stopped)
    return app


@asynccontextmanager
async def serve(instance: Instance, *, ready: Callable[[], bool], stop: Callable[[], None]) -> AsyncIterator[str]:
    """Serve both applications; yields the URL of the public one. The caller holds the data folder's lock.

    Raises ConfigError when a socket cannot be bound. Leaving takes about two seconds at most.
    """
    config = instance.config
    metrics = metrics_of(instance)
    async with AsyncExitStack() as stack:
        public = await tcp_sockets(config.http_host, config.http_port)
        stack.callback(close_all, public)
        private = unix_socket(config.socket_path, Path(config.data_dir))
        stack.callback(config.socket_path.unlink, missing_ok=True)
        stack.callback(private.close)
        await stack.enter_async_context(_serving(build_app(instance, ready, metrics), public))
        await stack.enter_async_context(_serving(build_socket_app(instance, ready, stop, metrics), [private]))
        yield url_of(config.http_host, public[0])


@asynccontextmanager
async def _serving(app: web.Application, sockets: Sequence[socket]) -> AsyncIterator[None]:
    runner = web.AppRunner(
        app,
        access_log=None,
        logger=_server_log(),
        keepalive_timeout=IDLE_S,
        lingering_time=SHUTDOWN_S,
        shutdown_timeout=SHUTDOWN_S,
    )
    await runner.setup()
    try:
        server = runner.server
        assert server is not None

        def protocol() -> asyncio.Protocol:
            return server() if len(server.connections) < MAX_CONNECTIONS else _NoRoom()

        loop = asyncio.get_running_loop()
        listeners = [await loop.create_server(protocol, sock=bound) for bound in sockets]
        try:
            yield
        finally:
            for listener in listeners:
                listener.close()
    finally:
        await runner.cleanup()


class _NoRoom(asyncio.Protocol):
    """A connection too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.abort()


def _server_log() -> logging.Logger:
    """Where aiohttp logs faults of its own. That somebody sends what is not HTTP is none: they are told so."""
    log = logging.getLogger("cascadenced.http.server")
    log.addFilter(_is_our_fault)
    return log


def _is_our_fault(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, HttpProcessingError)
