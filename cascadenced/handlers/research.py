"""The research behind a query: the optional package `tino_storm`, called with what its signature names."""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Awaitable
from typing import Any

from cascadenced.errors import CascadenceError
from cascadenced.identity import Identity
from cascadenced.runtime.spawn import Spawner, SpawnerClosed


class ResearchFailed(CascadenceError):
    """The query could not be answered; the run goes on without an answer. Its cause is what the search raised."""

    code = "research_failed"


async def gather(query: Any, identity: Identity, spawner: Spawner) -> Any:
    """The answer to `query`. Raises ResearchFailed, whatever went wrong with it."""
    try:
        module = await spawner.call(importlib.import_module, "tino_storm")
    except ImportError:
        raise ResearchFailed(f"tino_storm is not installed for user {identity.user_id}") from None
    search = getattr(module, "search", module)
    if not callable(search):
        raise ResearchFailed(f"Unsupported tino_storm interface for user {identity.user_id}")
    try:
        offered = {"user_id": identity.user_id, "group_id": identity.group_id}
        named = inspect.signature(search).parameters
        wanted = {name: value for name, value in offered.items() if name in named}
        answer = await spawner.call(functools.partial(search, query, **wanted))
        while inspect.isawaitable(answer):
            answer = await spawner.call(_awaited, answer)
    except SpawnerClosed:
        raise
    except Exception as error:
        raise ResearchFailed("the search failed") from error
    return answer


async def _awaited(answer: Awaitable[Any]) -> Any:
    return await answer
