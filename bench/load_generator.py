"""GETs on kept-open connections, each sending its next request when it has the whole answer.

`python -m bench.load_generator URL N CONNECTIONS [PER_S]` sends N requests in all, at most PER_S a second, and prints
`{"gets_per_s": …, "p50_ms": …, "p99_ms": …}`. Plain sockets, so that the client costs little: both it and the server
share the machine.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from urllib.parse import urlsplit

from bench.percentiles import percentile

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)


class _Connection(asyncio.Protocol):
    """One connection; the next request comes from `load`."""

    def __init__(self, load: _Load) -> None:
        self._load = load
        self._received = bytearray()
        self._sent_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._next()

    def data_received(self, data: bytes) -> None:
        self._received += data
        head = self._received.find(b"\r\n\r\n")
        if head < 0:
            return
        length = _LENGTH.search(self._received, 0, head + 2)
        if length is None or not self._received.startswith(b"HTTP/1.1 200"):
            self._load.fail(f"an answer that was not expected: {bytes(self._received[:200])!r}")
            return
        if len(self._received) >= head + 4 + int(length[1]):
            self._received.clear()
            self._load.took_ms.append((time.perf_counter() - self._sent_at) * 1e3)
            self._next()

    def connection_lost(self, exc: Exception | None) -> None:
        self._load.fail(f"the server closed a connection ({exc})")

    def _next(self) -> None:
        due_s = self._load.due()
        if due_s is None:
            return
        if due_s > 0:
            asyncio.get_running_loop().call_later(due_s, self._send)
        else:
            self._send()

    def _send(self) -> None:
        self._sent_at = time.perf_counter()
        self._transport.write(self._load.request)


class _Load:
    """What all connections share. due: seconds until the next request may be sent, None when all have been."""

    def __init__(self, url: str, n: int, per_s: float | None) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        self.host, self.port = parts.hostname, parts.port or 80
        self.request = f"GET {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode()
        self.took_ms: list[float] = []
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._n, self._n_sent, self._per_s = n, 0, per_s
        self.began = time.perf_counter()

    def due(self) -> float | None:
        if len(self.took_ms) >= self._n and not self.done.done():
            self.done.set_result(None)
        if self._n_sent >= self._n:
            return None
        self._n_sent += 1
        if self._per_s is None:
            return 0.0
        return self.began + self._n_sent / self._per_s - time.perf_counter()

    def fail(self, why: str) -> None:
        if not self.done.done():
            self.done.set_exception(RuntimeError(why))


async def generate(url: str, n: int, connections: int, per_s: float | None) -> dict[str, float]:
    """Send `n` GETs; how fast they were answered."""
    load = _Load(url, n, per_s)
    loop = asyncio.get_running_loop()
    await asyncio.gather(
        *(loop.create_connection(lambda: _Connection(load), load.host, load.port) for _ in range(connections))
    )
    await load.done
    took_s = time.perf_counter() - load.began
    return {
        "gets_per_s": n / took_s,
        "p50_ms": percentile(load.took_ms, 50),
        "p99_ms": percentile(load.took_ms, 99),
    }


if __name__ == "__main__":
    _url, _n, _connections, *_rate = sys.argv[1:]
    _per_s = float(_rate[0]) if _rate else None
    print(json.dumps(asyncio.run(generate(_url, int(_n), int(_connections), _per_s))))
