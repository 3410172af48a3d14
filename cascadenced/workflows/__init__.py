"""Named events and the functions that answer them. Floor 5 (`dispatch` for scripts is a face: workflows/dispatch.py).

    @subscribe("invoice.received")
    async def file_invoice(payload, user_id, dispatch):
        await dispatch("invoice.filed", {"number": payload["number"]})

`subscribe` only marks the function; `plugin_paths` or an entry point (`module:function`) makes it known to the daemon.
"""

from cascadenced.workflows.dispatch import dispatch
from cascadenced.workflows.subscribe import subscribe

__all__ = ["dispatch", "subscribe"]
