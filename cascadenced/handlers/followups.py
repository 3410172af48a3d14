"""The capability planner: a follower of the log that answers every failed run once."""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from cascadenced.errors import Overloaded, Unavailable, Unknown, VaultDamaged
from cascadenced.eventlog.base import Change, EventLog
from cascadenced.events.base import Context, Recorded
from cascadenced.events.followup import FollowupRequested, FollowupSkipped
from cascadenced.events.run import ForeignRunReported, RunFailed, RunRequested
from cascadenced.events.streams import task_stream
from cascadenced.identity import SYSTEM
from cascadenced.pipeline.followups import Failure, Planner, arguments, follow_up, skipped
from cascadenced.runtime.runs import Request, Runs
from cascadenced.runtime.tasks import Tasks
from cascadenced.vault import VaultPort

_log = structlog.get_logger(__name__)

CHECKPOINT = "capability-planner"


_FAILURES = frozenset({RunFailed, ForeignRunReported})


class CapabilityPlanner:
    """`react` of runtime/follow.py."""

    def __init__(self, log: EventLog, runs: Runs, tasks: Tasks, vault: VaultPort, planner: Planner) -> None:
        self._log, self._runs, self._tasks, self._vault = log, runs, tasks, vault
        self._planner = planner

    async def __call__(self, batch: Sequence[Recorded]) -> None:
        for recorded in batch:
            if type(recorded.event) not in _FAILURES:
                continue
            failure = await self._failure(recorded)
            if failure is not None:
                await self._plan(recorded, failure)

    async def _failure(self, recorded: Recorded) -> Failure | None:
        """The failed run that an event tells of, ours or another system's."""
        match recorded.event:
            case RunFailed(via="plan"):
                return None  # its parent fails with it, and has the follow-up
            case RunFailed(task=task, reason=reason):
                request = (await self._log.read_stream(recorded.stream))[0].event
                depth = request.depth if isinstance(request, RunRequested) else 0
                return Failure(task, recorded.run_id or "", reason, depth)
            case ForeignRunReported(status="error", foreign_origin=None) as report:
                return Failure(report.task, report.foreign_run_id, "reported by another system", 0)
        return None

    async def _plan(self, recorded: Recorded, failure: Failure) -> None:
        # Seen again, after a crash or because a report came twice, the same failed run gives the same source, and the
        # append answers with the first one.
        whose = "run" if recorded.run_id else f"foreign:{failure.task}"
        source = f"followup:{whose}:{failure.run_id}"
        run_id = self._runs.new_run_id(source, recorded.at_us)
        known = self._planner.task is not None and self._tasks.get(self._planner.task) is not None
        event = follow_up(failure, self._planner, known=known, followup_run_id=run_id)
        context = Context(
            user_hash=recorded.user_hash,
            group_hash=recorded.group_hash,
            run_id=recorded.run_id,
            cause=recorded.id,
            correlation=recorded.correlation,
        )
        stream = recorded.stream if recorded.run_id else task_stream(failure.task)
        identity = SYSTEM
        if isinstance(event, FollowupRequested) and recorded.run_id is not None:
            # It runs as the one whose run failed; a report from elsewhere names nobody whom we could be.
            try:
                identity = await self._vault.reveal(recorded.user_hash or "", recorded.group_hash or "")
            except (Unknown, VaultDamaged) as error:
                event = skipped(failure, "identity_missing", str(error))
        change = Change(stream, [event], None, context)
        if isinstance(event, FollowupSkipped):
            await self._log.append([change], source=source)
            return
        request = Request(
            task=event.task,
            identity=identity,
            via="followup",
            args=arguments(failure),
            source=source,
            at_us=recorded.at_us,
            depth=event.depth,
            correlation=recorded.correlation,
        )
        try:
            await self._runs.request(request, run_id=run_id, before=[change])
        except Overloaded as error:
            raise Unavailable(str(error)) from None
        except Unknown:
            # The same failed run was answered before, with a skip; what was decided then stands.
            _log.info("followup_decided_before", failed_run_id=failure.run_id)
