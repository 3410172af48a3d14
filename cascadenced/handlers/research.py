"""The research behind a query: the optional package `tino_storm`, called with what its signature names."""

from __future__ import annotations

import importlib
import inspect
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
    try:
        return await spawner.call(_search, module, query, identity)
    except (SpawnerClosed, ResearchFailed):
        raise
    except Exception as error:
        raise ResearchFailed("the search failed") from error


def _search(module: object, query: Any, identity: Identity) -> Any:
    search = getattr(module, "search", module)
    if not callable(search):
        raise ResearchFailed(f"Unsupported tino_storm interface for user {identity.user_id}")
    offered = {"user_id": identity.user_id, "group_id": identity.group_id}
    named = inspect.signature(search).parameters
    answer = search(query, **{name: value for name, value in offered.items() if name in named})
    return _awaited(answer) if inspect.isawaitable(answer) else answer


async def _awaited(answer: Any) -> Any:
    while inspect.isawaitable(answer):
        answer = await answer
    return answer
