"""Runs that wait: of each there is only what wakes it. Their state is in the log."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from sys import intern

import msgspec

from cascadenced.clock import Clock
from cascadenced.events.base import Recorded
from cascadenced.events.workflow import EventDispatched
from cascadenced.runtime.alarms import Alarms
from cascadenced.runtime.record import LiveRun


class Sleeper(msgspec.Struct, frozen=True, gc=False):
    """listens_to: an event's name.  group_hash: whose events it hears.

    task, priority, order: its place in the queue when it wakes; order is the position of its request.
    """

    listens_to: str | None
    group_hash: str | None
    task: str
    priority: int
    order: int


class Sleepers:
    """wake: called with the id of a run that is to be looked at again; it is not among them any more."""

    def __init__(self, clock: Clock, wake: Callable[[str, Sleeper], None]) -> None:
        self._clock, self._wake = clock, wake
        self._sleepers: dict[str, Sleeper] = {}
        self._listening: dict[str, set[str]] = {}
        self._alarms = Alarms(clock, self.rouse)

    def __len__(self) -> int:
        return len(self._sleepers)

    def __contains__(self, run_id: str) -> bool:
        return run_id in self._sleepers

    def __iter__(self) -> Iterator[str]:
        return iter(self._sleepers)

    def add(self, live: LiveRun) -> None:
        """Let it sleep until what it waits for comes; while it is paused or in doubt, until it is roused."""
        run, wait = live.run, live.run.awaits
        listens_to = wait.name if wait is not None and wait.kind == "event" else None
        group_hash = None if live.context.group_hash is None else intern(live.context.group_hash)
        self._sleepers[live.run_id] = Sleeper(listens_to, group_hash, intern(run.task), run.priority, live.began_at)
        if listens_to is not None:
            self._listening.setdefault(listens_to, set()).add(live.run_id)
        if wait is not None and wait.until_us is not None:
            left_s = (wait.until_us - self._clock.now_us()) / 1e6
            self._alarms.set(live.run_id, self._clock.monotonic() + left_s)

    def discard(self, run_id: str) -> Sleeper | None:
        """Forget it; what it was, if it was there."""
        sleeper = self._sleepers.pop(run_id, None)
        if sleeper is None:
            return None
        self._alarms.clear(run_id)
        if sleeper.listens_to is not None:
            listening = self._listening[sleeper.listens_to]
            listening.discard(run_id)
            if not listening:
                del self._listening[sleeper.listens_to]
        return sleeper

    def rouse(self, run_id: str) -> None:
        sleeper = self.discard(run_id)
        if sleeper is not None:
            self._wake(run_id, sleeper)

    def hear(self, batch: Sequence[Recorded]) -> None:
        """These events were recorded. Whoever waits for one of them looks whether it is the right one."""
        if not self._listening:
            return
        for recorded in batch:
            event = recorded.event
            if type(event) is EventDispatched and event.name in self._listening:
                for run_id in sorted(self._listening[event.name]):
                    if self._sleepers[run_id].group_hash == recorded.group_hash:
                        self.rouse(run_id)

    def stop(self) -> None:
        self._alarms.stop()
