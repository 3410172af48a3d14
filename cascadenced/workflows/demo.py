"""A workflow to try things with: `task dispatch demo.greeting '{"name": "Ada"}' --user-id … --group-id …`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from cascadenced.errors import Invalid
from cascadenced.events.base import Json
from cascadenced.workflows.subscribe import subscribe


@subscribe("demo.greeting")
async def greet(
    payload: dict[str, Json], dispatch: Callable[[str, dict[str, Json]], Awaitable[object]]
) -> dict[str, Json]:
    """Greets `payload["name"]` and tells the bus (`demo.greeted`)."""
    name = payload.get("name", "world")
    if not isinstance(name, str):
        raise Invalid("name must be a string")
    greeting = f"Hello, {name}!"
    await dispatch("demo.greeted", {"greeting": greeting})
    return {"greeting": greeting}
