"""The mark that makes a function a workflow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from cascadenced.events.subjects import checked_event_name
from cascadenced.plugins.describe import EVENT_MARK

Function = TypeVar("Function", bound=Callable[..., Any])


def subscribe(event: str) -> Callable[[Function], Function]:
    """Mark a function as the workflow for `event`. Raises Invalid for a name no event can have."""
    checked_event_name(event)

    def mark(function: Function) -> Function:
        setattr(function, EVENT_MARK, event)
        return function

    return mark
