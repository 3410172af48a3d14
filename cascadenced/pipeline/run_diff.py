"""Where two runs differ: what they were given, what their stages did, how they ended. Pure.

When and under which id something happened is no difference; durations are told beside them, if asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

import msgspec

from cascadenced.events.base import Json, Recorded
from cascadenced.events.place import Place, in_order
from cascadenced.events.run import RunCancelled, RunFailed, RunFinished
from cascadenced.events.stage import StageFailed, StageFinished, StageStarted
from cascadenced.events.step import StepFailed, StepFinished
from cascadenced.events.streams import run_id_of
from cascadenced.events.wait import WaitEnded, WaitStarted
from cascadenced.pipeline.json_diff import differences
from cascadenced.pipeline.model import ENDED, STAGES, Run, evolve

MAX_DIFFERENCES = 1_000


class Stop(msgspec.Struct):
    """A step or a wait. kind: step, sleep, event.  outcome: success, error, timeout or waiting."""

    kind: str
    name: str
    outcome: str
    output: Json = None
    where: dict[str, Json] = {}


class StageSummary(msgspec.Struct):
    """status: success, error, started, skipped or not reached.  attempts: 0 for a stage that was taken over.

    error: class and text of the last attempt that failed, if the stage did.
    """

    status: str = "not reached"
    attempts: int = 0
    output: Json = None
    error: str | None = None
    children: list[str] | None = None
    places: dict[Place, Stop] = {}
    took_s: float | None = None


class RunDifference(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """what: task, args, told, status, attempts, output, error, plan, child or result; of a step or wait at `place`
    asked (what for), where, outcome or output.  stage: None for the run.

    path: within the value, `.orders[2].total`.  left, right: absent for nothing.
    """

    what: str
    stage: str | None = None
    place: Place = ""
    path: str = ""
    left: Json | msgspec.UnsetType = msgspec.UNSET
    right: Json | msgspec.UnsetType = msgspec.UNSET


class Side(msgspec.Struct, frozen=True):
    """One of the two. code: digest of the source at the newest start of a stage."""

    run_id: str
    task: str
    status: str
    code: str | None


class Times(msgspec.Struct, frozen=True):
    """Seconds. stage: None for the whole run."""

    stage: str | None
    left_s: float | None
    right_s: float | None


class RunDiff(msgspec.Struct, frozen=True, kw_only=True):
    """same: whether there is no difference. has_more: there are more than are listed.

    times: of the last attempts; empty unless asked for, and never a difference. Another code is none either.
    """

    left: Side
    right: Side
    same: bool
    differences: list[RunDifference]
    has_more: bool
    times: list[Times]


def diff(left: Sequence[Recorded], right: Sequence[Recorded], *, times: bool = False) -> RunDiff:
    """`left`, `right`: the whole streams of two runs."""
    one, other = _Summary(left), _Summary(right)
    found = list(islice(_differences(one, other), MAX_DIFFERENCES + 1))
    return RunDiff(
        left=one.side,
        right=other.side,
        same=not found,
        differences=found[:MAX_DIFFERENCES],
        has_more=len(found) > MAX_DIFFERENCES,
        times=list(_times(one, other)) if times else [],
    )


class _Summary:
    """What counts of a run."""

    def __init__(self, events: Sequence[Recorded]) -> None:
        self.run = Run()
        self.stages = {stage: StageSummary(places={}) for stage in STAGES}
        self.took_s: float | None = None
        for recorded in events:
            self._take(recorded)
            self.run = evolve(self.run, recorded.event)
        run = self.run
        if run.stages or run.status in ENDED:
            for stage, summary in self.stages.items():
                if not run.has_part_in(stage):
                    summary.status = "skipped"
        run_id = events[0].run_id or run_id_of(events[0].stream)
        self.side = Side(run_id, run.task, run.shown_status, run.code or None)

    def _take(self, recorded: Recorded) -> None:
        event = recorded.event
        match event:
            case StageStarted():
                stage = self.stages[event.stage]
                stage.status, stage.attempts = "started", event.attempt
            case StageFinished():
                stage = self.stages[event.stage]
                stage.status, stage.output, stage.took_s, stage.error = "success", event.output, event.took_s, None
                if event.children is not None:
                    how = ["at the same time"] if event.parallel else []
                    stage.children = [*(f"{each.name} ({each.kind})" for each in event.children), *how]
            case StageFailed():
                stage = self.stages[event.stage]
                stage.status, stage.output, stage.took_s = "error", event.partial, event.took_s
                stage.error = f"{event.error_type}: {event.reason}"
            case StepFinished():
                self.stages[event.stage].places[event.place] = Stop("step", event.name, "success", event.output)
            case StepFailed():
                error = f"{event.error_type}: {event.reason}"
                self.stages[event.stage].places[event.place] = Stop("step", event.name, "error", error)
            case WaitStarted() if event.kind != "children":
                wait = Stop(event.kind, event.name, "waiting", None, event.where)
                self.stages[event.stage].places[event.place] = wait
            case WaitEnded() if event.kind != "children":
                outcome = "timeout" if event.outcome == "timeout" else "success"
                before = self.stages[event.stage].places.get(event.place)
                where = {} if before is None else before.where
                self.stages[event.stage].places[event.place] = Stop(
                    event.kind, event.name, outcome, event.payload, where
                )
            case RunFinished() | RunFailed() | RunCancelled():
                self.took_s = event.took_s


def _differences(left: _Summary, right: _Summary) -> Iterator[RunDifference]:
    one, other = left.run, right.run
    yield from _of("task", one.task, other.task)
    yield from _of("args", one.args, other.args)
    yield from _of("told", [each.payload for each in one.contexts], [each.payload for each in other.contexts])
    for stage in STAGES:
        yield from _of_stage(stage, left.stages[stage], right.stages[stage])
        if stage == "run":
            yield from _of("child", _children(one), _children(other), stage)
    yield from _of("status", one.shown_status, other.shown_status)
    yield from _of("result", _result(one), _result(other))
    yield from _of("error", _error(one), _error(other))


def _of_stage(stage: str, left: StageSummary, right: StageSummary) -> Iterator[RunDifference]:
    yield from _of("status", left.status, right.status, stage)
    yield from _of("attempts", left.attempts, right.attempts, stage)
    for place in sorted({*left.places, *right.places}, key=in_order):
        one, other = left.places.get(place), right.places.get(place)
        asked, then = _spelled(one), _spelled(other)
        if asked != then:
            yield from _of("asked", asked, then, stage, place)
        elif one is not None and other is not None:
            yield from _of("where", one.where, other.where, stage, place)
            yield from _of("outcome", one.outcome, other.outcome, stage, place)
            yield from _of("output", one.output, other.output, stage, place)
    yield from _of("plan", left.children, right.children, stage)
    yield from _of("output", left.output, right.output, stage)
    yield from _of("error", left.error, right.error, stage)


def _of(what: str, left: Json, right: Json, stage: str | None = None, place: Place = "") -> Iterator[RunDifference]:
    for found in differences(left, right):
        yield RunDifference(
            what=what,
            stage=stage,
            place=place,
            path=found.path,
            left=msgspec.UNSET if found.left is None and not found.path else found.left,
            right=msgspec.UNSET if found.right is None and not found.path else found.right,
        )


def _spelled(stop: Stop | None) -> str | None:
    return None if stop is None else f"{stop.kind} {stop.name}".strip()


def _children(run: Run) -> list[Json]:
    """How each run of the plan went. What they returned is in what the stage was handed, and so in its output."""
    return [
        {"task": child.planned.name, "status": None if child.ended is None else child.ended.status}
        for child in run.children or ()
    ]


def _result(run: Run) -> Json:
    return run.result if run.status == "success" else None


def _error(run: Run) -> Json:
    return None if run.error_type is None else {"type": run.error_type, "message": run.reason}


def _times(left: _Summary, right: _Summary) -> Iterator[Times]:
    for stage in STAGES:
        one, other = left.stages[stage].took_s, right.stages[stage].took_s
        if one is not None or other is not None:
            yield Times(stage, one, other)
    yield Times(None, left.took_s, right.took_s)
