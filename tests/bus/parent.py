"""A process that starts an embedded server and then does nothing, for tests that kill it.

Usage: parent.py DATA_DIR. Prints one line of JSON: pid and port of the server.
"""

import asyncio
import json
import sys
from pathlib import Path

from cascadenced.bus.embedded import EmbeddedServer


async def main() -> None:
    server = await EmbeddedServer.start(Path(sys.argv[1]), token="t")
    sys.stdout.write(json.dumps({"pid": server.pid, "port": server.port}) + "\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


asyncio.run(main())
