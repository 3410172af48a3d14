"""Which place a step or a wait of a stage takes: the next one of the lane that the asyncio task which asks works in.

Tasks that work side by side come to their steps in an order that changes from run to run. So each task has a lane, with
places of its own: the stage's own task has the first; one that code of a lane has started is a branch of it, numbered
when it comes to its first step or wait. Only these first ones must come in the same order each time.

Both the daemon and worker processes count like this. A thread counts on in the lane that it was started from.
"""

from __future__ import annotations

import sys
from contextvars import ContextVar
from typing import Any
from weakref import WeakKeyDictionary, ref

from cascadenced.errors import Invalid
from cascadenced.events.place import MAX_PLACE_CHARS, Place, place_in


class _Lane:
    """branch: "" for the stage's own, else as in a place.  n_places, n_branches: so far."""

    def __init__(self, lanes: Lanes, branch: str) -> None:
        self.lanes, self.branch = lanes, branch
        self.n_places = self.n_branches = 0


_started_from: ContextVar[_Lane | None] = ContextVar("lane", default=None)
"""asyncio copies it into a new task: there it is the lane of whoever started that, until it has its own."""


class Lanes:
    """Of one attempt of one stage. Most take no place at all, so nothing is made before one does."""

    def __init__(self) -> None:
        self._first = _Lane(self, "")
        self._own: ref[Any] | None = None
        self._branches: WeakKeyDictionary[Any, _Lane] | None = None

    def enter(self) -> None:
        """The task that calls this is the stage's own."""
        self._own = ref(_current_task())
        _started_from.set(self._first)

    def take(self) -> Place:
        """The next place of whoever calls. Raises Invalid."""
        lane = self._lane()
        lane.n_places += 1
        place = place_in(lane.branch, lane.n_places)
        if len(place) > MAX_PLACE_CHARS:
            raise Invalid("tasks that start tasks with steps are nested too deeply", code="too_many_steps")
        return place

    @property
    def tasks(self) -> set[Any]:
        """Those with a lane that have not ended, but for the stage's own."""
        return {task for task in self._branches or () if not task.done()}

    def _lane(self) -> _Lane:
        task, above = _current_task(), _started_from.get()
        if above is None or above.lanes is not self:  # left behind by an earlier stage, or a thread of nobody's
            above = self._first
        if task is None:
            return above
        if self._own is not None and task is self._own():
            return self._first
        if self._branches is None:
            self._branches = WeakKeyDictionary()
        lane = self._branches.get(task)
        if lane is None:
            above.n_branches += 1
            branch = f"{above.branch}.{above.n_branches}".lstrip(".")
            lane = self._branches[task] = _Lane(self, branch)
            _started_from.set(lane)
        return lane


def _current_task() -> Any:
    """None outside of loops. A worker whose task needs none does not import asyncio."""
    asyncio: Any = sys.modules.get("asyncio")
    return None if asyncio is None or asyncio._get_running_loop() is None else asyncio.current_task()
