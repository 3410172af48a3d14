"""`dispatch` for scripts: to the daemon of the configured data folder if one is up, else in this process."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from cascadenced.in_either_world import blocking_unless_in_a_loop
from cascadenced.replaying import goes_unheard


def dispatch(event: str, payload: dict[str, Any] | None = None, *, user_id: str, group_id: str | None = None) -> Any:
    """Dispatch `event` and return what its workflow returns, None if nobody listens.

    In a script this blocks; where an event loop is running it returns a coroutine to await. The group defaults to the
    user's own. While a run is performed again nobody listens. Raises Invalid, Conflict (the workflow is disabled),
    RunFailedError, LogHeld.
    """
    return blocking_unless_in_a_loop(_dispatch(event, payload or {}, user_id, group_id or user_id))


def _dispatch(event: str, payload: dict[str, Any], user_id: str, group_id: str) -> Coroutine[Any, Any, Any]:
    # A face: imported only when used, because tasks import this package and must not pull in every floor.
    from cascadenced.commands.door import ask

    async def work() -> Any:
        if goes_unheard():
            return None
        arguments = {"event": event, "payload": payload, "user_id": user_id, "group_id": group_id, "via": "python"}
        return (await ask("dispatch", arguments))["result"]

    return work()
