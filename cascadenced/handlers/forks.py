"""A run is asked for that begins with what another one has behind it."""

from __future__ import annotations

from collections.abc import Mapping

from cascadenced.errors import NotAllowed, Unknown, no_run
from cascadenced.eventlog.base import EventLog
from cascadenced.events.base import Json
from cascadenced.events.run import RunRequested
from cascadenced.events.streams import run_stream
from cascadenced.identity import Identity, Pseudonyms
from cascadenced.pipeline.fork import inherited
from cascadenced.runtime.runs import Accepted, Request, Runs
from cascadenced.runtime.tasks import Tasks


class Forks:
    """Of runs in this log."""

    def __init__(self, log: EventLog, runs: Runs, tasks: Tasks, pseudonyms: Pseudonyms) -> None:
        self._log, self._runs, self._tasks, self._pseudonyms = log, runs, tasks, pseudonyms

    async def fork(
        self, run_id: str, stage: str, identity: Identity, changes: Mapping[str, Json], *, via: str
    ) -> Accepted:
        """A run of the same task for the same identity, from `stage` on. changes: arguments that are other ones.

        Raises Unknown for a run or a task that is not there, NotAllowed for somebody else's run, Overloaded, and what
        `pipeline.fork.inherited` raises.
        """
        events = await self._log.read_stream(run_stream(run_id))
        if not events:
            raise no_run(run_id)
        first, last = events[0], events[-1]
        if first.group_hash != self._pseudonyms.group(identity.group_id):
            raise NotAllowed(f"the run {run_id} is another group's: only its own user may fork it", code="fork.group")
        if first.user_hash != self._pseudonyms.user(identity.user_id):
            raise NotAllowed(f"the run {run_id} is another user's: only its own user may fork it", code="fork.user")
        request = first.event
        assert isinstance(request, RunRequested)
        entry = self._tasks.get(request.task)
        if entry is None and request.parent_run_id is None:
            raise Unknown(
                f"Unknown task: {request.task}: the run cannot be forked until the task is installed again",
                code="unknown_task",
            )
        taken = inherited([each.event for each in events], stage, () if entry is None else entry.stages)
        return await self._runs.request(
            Request(
                task=request.task,
                identity=identity,
                via=via,
                args={**request.args, **changes},
                priority=request.priority,
                depth=request.depth,
                cause=last.id,
                forked_from=run_id,
                inherited=tuple(taken),
            )
        )
