"""What performs the stages of runs: the floor above."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from cascadenced.events.base import Event
from cascadenced.pipeline.policy import Retry
from cascadenced.runtime.record import LiveRun
from cascadenced.runtime.tasks import TaskEntry


class Perform(Protocol):
    """Where task code runs."""

    async def __call__(self, live: LiveRun) -> Event:
        """Do the current stage of a run and say how it went: StageFinished, StageFailed, or WaitStarted if it waits for
        something. Raises nothing but CancelledError, or SpawnerClosed if it was not done."""
        ...

    async def plan_again(self, live: LiveRun, retry: Retry) -> Sequence[TaskEntry]:
        """The tasks of the run's plan, as its `plan` hook gives them another time. retry: says which errors may pass.
        Raises PlanFailed."""
        ...

    def let_go(self, live: LiveRun) -> None:
        """The run has ended, or waits: nothing of it need be kept."""
        ...
