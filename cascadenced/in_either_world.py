"""For what scripts call and coroutines await."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


def blocking_unless_in_a_loop(work: Coroutine[Any, Any, Any]) -> Any:
    """What `work` returns; where an event loop is running, `work` itself, to be awaited."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    return work
