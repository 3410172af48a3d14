"""The limit of a GET: an aiohttp application that answers every path with the same bytes.

`python -m bench.bare_http` reads the bytes from stdin and prints its port.
"""

from __future__ import annotations

import asyncio
import sys

from aiohttp import web


async def serve(body: bytes) -> None:
    async def answer(_request: web.Request) -> web.Response:
        return web.Response(body=body, content_type="application/json")

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(sys.stdin.buffer.read()))
