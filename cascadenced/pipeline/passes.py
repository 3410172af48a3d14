"""What a run's code did, as far as it can be done again: a pass for each attempt of a stage that came to an end. Pure.

An attempt that a crash, a stop or a cancellation cut off has no outcome to compare with and is left out; what it had
behind it is handed to the next one, as it was then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
from msgspec.structs import replace

from cascadenced.errors import Invalid
from cascadenced.events.base import Event, Recorded
from cascadenced.events.place import Place
from cascadenced.events.run import RunReleased, RunRequested, RunResolved, RunResumed
from cascadenced.events.stage import StageFailed, StageFinished, StageStarted
from cascadenced.events.step import StepFailed, StepFinished
from cascadenced.events.wait import WaitEnded, WaitStarted
from cascadenced.pipeline.model import Mark, Run, evolve

Outcome = StageFinished | StageFailed | WaitStarted


class Pass(msgspec.Struct, frozen=True, kw_only=True):
    """run: as it was when the stage's code began for the last time; its marks are what it had behind it at the end.

    failures, waits: by place, the steps that raised in that pass, and what the stage asked for where it waited.
    outcome: WaitStarted if it waits there to this day.  fresh: whether the task's instance was made for this pass.
    not_code: why the outcome says nothing of the code, None if it does.
    """

    run: Run
    stage: str
    attempt: int
    outcome: Outcome
    failures: Mapping[Place, StepFailed] = {}
    waits: Mapping[Place, WaitStarted] = {}
    fresh: bool = True
    not_code: str | None = None

    def at(self, place: Place) -> Mark | None:
        """What the stage asked for there, None for nothing."""
        mark = self.run.marks.get(place)
        if mark is not None:
            return mark
        if place in self.failures:
            return Mark("step", self.failures[place].name)
        wait = self.waits.get(place)
        return None if wait is None else Mark(wait.kind, wait.name)

    @property
    def places(self) -> frozenset[Place]:
        return frozenset({*self.run.marks, *self.failures, *self.waits})


_BY_SOMEBODY = "somebody said what became of it"
_TIMED_OUT = "it took longer than it may, which cannot be repeated"
_BY_CHILD = "it failed with a run of its plan"
_FORKED = "it was taken over from the run {}"


class _Collector:
    """Of the passes in one run."""

    def __init__(self) -> None:
        self.run = Run()
        self.passes: list[Pass] = []
        self._forked_from: str | None = None
        self._has_begun = False
        self._fresh = True
        self._n_contexts = 0
        self._failures: dict[Place, StepFailed] = {}
        self._waits: dict[Place, WaitStarted] = {}
        self._epoch = 0
        self._before: Event | None = None

    def take(self, recorded: Recorded) -> None:
        event = recorded.event
        match event:
            case RunRequested():
                self._forked_from = event.forked_from
            case StageStarted():
                self._has_begun = True
                # Between two lives of the process nothing is kept in memory.
                self._begin(fresh=self._fresh or event.attempt > 1 or recorded.epoch != self._epoch)
            case WaitEnded():
                self._begin(fresh=True)
            case RunResumed() | RunReleased() | RunResolved():
                self._fresh = True
            case StepFailed():
                self._failures[event.place] = event
            case StepFinished():
                self._failures.pop(event.place, None)
            case WaitStarted() if event.kind != "children":
                self._waits[event.place] = event
            case StageFinished() | StageFailed():
                if self.run.current != event.stage and (self._forked_from is None or self._has_begun):
                    raise Invalid(
                        f"the stage {event.stage[:40]} ended in event {recorded.version} without having begun, as only "
                        "the first ones of a fork do"
                    )
                self._end(event)
        self.run = evolve(self.run, event)
        self._epoch, self._before = recorded.epoch, event

    def _begin(self, *, fresh: bool) -> None:
        self._fresh = fresh
        self._n_contexts = len(self.run.contexts)
        self._failures = {}

    def _end(self, event: StageFinished | StageFailed) -> None:
        not_code = self._not_code(event)
        self.passes.append(self.a_pass(event, not_code))
        self._fresh = not_code is not None
        if type(event) is StageFinished or (isinstance(event, StageFailed) and event.retry_at_us is None):
            self._waits = {}
        self._failures = {}

    def a_pass(self, outcome: Outcome, not_code: str | None = None) -> Pass:
        return Pass(
            # What it was told after it had begun was for the next stage.
            run=replace(self.run, contexts=self.run.contexts[: max(self._n_contexts, self.run.n_consumed)]),
            stage=outcome.stage,
            attempt=self.run.attempt,
            outcome=outcome,
            failures=dict(self._failures),
            waits=dict(self._waits),
            fresh=self._fresh,
            not_code=not_code,
        )

    def _not_code(self, event: StageFinished | StageFailed) -> str | None:
        if self.run.current != event.stage:
            return _FORKED.format(self._forked_from)
        if isinstance(event, StageFinished):
            said = isinstance(self._before, RunResolved) and self._before.verdict == "done"
            return _BY_SOMEBODY if said else None
        if event.error_type == "timeout":
            return _TIMED_OUT
        has_failed = any(child.ended is not None and not child.is_done for child in self.run.children or ())
        return _BY_CHILD if event.stage == "run" and has_failed else None


def passes(events: Sequence[Recorded]) -> tuple[Run, list[Pass]]:
    """`events`: a run's whole stream. Returns the run as they leave it, and its passes in order.

    Raises Invalid for a stage that ended and had not begun, unless a fork took it over.
    """
    collector = _Collector()
    for recorded in events:
        collector.take(recorded)
    run, wait = collector.run, collector.run.wait
    if run.current is not None and wait is not None and wait.kind in ("sleep", "event"):
        asked = WaitStarted(
            task=run.task,
            stage=run.current,
            place=wait.place,
            kind=wait.kind,
            name=wait.name,
            where=wait.where,
            until_us=wait.until_us,
        )
        collector.passes.append(collector.a_pass(asked))
    return run, collector.passes
