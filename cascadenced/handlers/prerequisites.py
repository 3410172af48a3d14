"""Runs of the tasks that one must run after: asked for before its own, each once, through whichever door it came."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cascadenced.errors import Invalid
from cascadenced.eventlog.base import EventLog
from cascadenced.events.base import Recorded
from cascadenced.events.schedule import ScheduleRemoved, ScheduleSet
from cascadenced.identity import Identity
from cascadenced.pipeline.graph import Graph, graph
from cascadenced.projections import schedules
from cascadenced.runtime.runs import Request, Runs
from cascadenced.runtime.tasks import Tasks


class Prerequisites:
    """What tasks need: by their classes (`dependencies`), and by their schedules (`deps`)."""

    def __init__(self, log: EventLog, runs: Runs, tasks: Tasks) -> None:
        self._log, self._runs, self._tasks = log, runs, tasks
        self._of_schedules: dict[str, tuple[str, ...]] = {}

    async def open(self) -> None:
        """Know what the schedules say, from now on."""
        self._log.observe(self._hear)
        self._of_schedules |= await schedules.needs(self._log.tables)

    def of(self, task: str) -> Sequence[str]:
        """What it needs directly."""
        return self._needs(task, None)

    def graph(self, task: str) -> Graph:
        """Raises Invalid for a cycle."""
        return graph(task, self.of)

    def check(self, task: str, deps: Mapping[str, Sequence[str]]) -> None:
        """Raises Invalid if the task would need itself, were `deps` what the schedules of these tasks say."""
        if deps.get(task):  # a new way round leads through what is new
            graph(task, lambda name: self._needs(name, deps.get(name)))

    async def ask(
        self,
        task: str,
        identity: Identity,
        *,
        source: str | None,
        at_us: int | None = None,
        correlation: str | None = None,
    ) -> tuple[str, ...]:
        """Ask for runs of all that `task` needs, in an order in which they can go; returns those that it needs itself.

        source: of the run of `task`; the same one asks for the same runs. Raises Overloaded.
        """
        if not self.of(task):
            return ()
        try:
            found = self.graph(task)
        except Invalid:
            return ()  # it was refused where it was registered, and by its schedule
        runs: dict[str, str] = {}
        for name in found.order[:-1]:
            request = Request(
                task=name,
                identity=identity,
                via="dependency",
                source=None if source is None else f"{source}:before:{name}",
                at_us=at_us,
                correlation=correlation,
                requires=tuple(runs[needed] for needed in found.edges[name]),
            )
            runs[name] = (await self._runs.request(request)).run_id
        return tuple(runs[needed] for needed in found.edges[task])

    def _needs(self, task: str, deps: Sequence[str] | None) -> Sequence[str]:
        """deps: what its schedule says; None: what it says now."""
        entry = self._tasks.get(task)
        by_class = () if entry is None else entry.policy.dependencies
        return tuple(dict.fromkeys((*by_class, *(self._of_schedules.get(task, ()) if deps is None else deps))))

    def _hear(self, batch: Sequence[Recorded]) -> None:
        for recorded in batch:
            match recorded.event:
                case ScheduleSet(task=task, deps=deps):
                    self._of_schedules[task] = deps
                case ScheduleRemoved(task=task):
                    self._of_schedules.pop(task, None)
