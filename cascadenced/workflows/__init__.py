"""Named events and the functions that answer them. Floor 5.

subscribe.py  the mark of such a function
dispatch.py   `dispatch` for scripts, which is a face
demo.py       a workflow to try things with

    @subscribe("invoice.received")
    async def file_invoice(payload, user_id, dispatch):
        await dispatch("invoice.filed", {"number": payload["number"]})

`subscribe` only marks the function; `plugin_paths` or an entry point (`module:function`) makes it known to the daemon.
"""

from cascadenced.workflows.dispatch import dispatch
from cascadenced.workflows.subscribe import subscribe

__all__ = ["dispatch", "subscribe"]
