"""What must be true of steps, waits, doubts and plans at the end of a world; and of the list of doubts, on the way.

As in `tests/crash/audit.py` nothing here asks the product's own rules. An effect has a position, that of the log's last
event when it was done: it was done before an event if its position is lower than that one's.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from cascadenced.events.base import Recorded
from cascadenced.events.child import ChildEnded, ChildRequested
from cascadenced.events.run import RunDoubted, RunRequested, RunResolved
from cascadenced.events.stage import StageFailed, StageFinished, StageStarted
from cascadenced.events.step import StepFailed, StepFinished, StepStarted
from cascadenced.events.wait import WaitEnded, WaitStarted
from cascadenced.events.workflow import EventDispatched
from tests.sim.durable import ASKED_FOR, AT_MOST_ONCE, SETTLED, STEPS
from tests.sim.sink import BEGUN, named

if TYPE_CHECKING:
    from tests.sim.daemon import DaemonLife
    from tests.sim.world import World

_ENDS = {"run.finished": "success", "run.failed": "error", "run.cancelled": "cancelled", "run.refused": "refused"}
_RECORDED_AS = {
    "pause_run": "run.paused",
    "resume_run": "run.resumed",
    "cancel": "run.cancelled",
    "signal": "context.attached",
    "resolve": "run.resolved",
}
_NOBODYS_FAULT = {"step.mismatch", "superseded", "suspension.swallowed", "plan.changed", "TaskExit", "hook.missing"}
_MAX_ATTEMPTS = {"flaky": 4, "late": 3, "crowd": 8}


# ── while it goes to rest ────────────────────────────────────────────────────────────────────────────────────────


async def of_what_is_in_doubt(world: World, life: DaemonLife) -> list[str] | None:
    """When nothing is under way, the list of runs in doubt is the truth; None while something is."""
    instance, n_events = life.instance, len(world.file.events)
    if not life.alive or not life.is_ready or instance is None or instance.runs.n_running or instance.runs.n_queued:
        return None
    listed = {row.run_id for row in (await instance.answers.runs(status="in_doubt")).items}
    if len(world.file.events) != n_events or instance.runs.n_running or instance.runs.n_queued:
        return None
    truth = {run_id for run_id, events in _runs(world).items() if _is_in_doubt(events)}
    return [
        *(f"{run_id} has an effect that began and has no end, and is not listed in doubt" for run_id in truth - listed),
        *(f"{run_id} is listed in doubt, and each of its effects has an end" for run_id in listed - truth),
    ]


def _is_in_doubt(events: Sequence[Recorded]) -> bool:
    """Of a run at rest: whether it is paused, or waits for something, makes no difference. What a policy answers, when
    the pause is over, nobody is asked."""
    under_way: set[str] = set()
    in_steps = is_paused = False
    doubted = ""
    for recorded in events:
        event = recorded.event
        match event:
            case StageStarted():
                in_steps = in_steps and event.attempt > 1
                under_way |= set() if in_steps else {""}
            case WaitEnded():
                under_way |= set() if in_steps else {""}
            case StepStarted():
                in_steps = True
                under_way = (under_way - {""}) | {event.place}
            case StepFinished() | StepFailed():
                under_way -= {event.place, ""}
            case RunDoubted():
                doubted = event.place
                if "took longer" in event.reason:  # its end may have been recorded in the same instant
                    under_way.add(event.place)
            case RunResolved():
                under_way -= {doubted, ""}
            case WaitStarted():
                under_way.discard("")
            case StageFinished() | StageFailed():
                under_way -= {""} if getattr(event, "retry_at_us", None) is not None else under_way
        is_paused = recorded.type == "run.paused" or (is_paused and recorded.type != "run.resumed")
        if recorded.type in _ENDS:
            return False
    task = getattr(events[0].event, "task", "")
    return bool(under_way) and task in (ASKED_FOR if is_paused else AT_MOST_ONCE)


# ── of all that survived ─────────────────────────────────────────────────────────────────────────────────────────


def what_is_recorded_of_a_step_was_done(world: World) -> Iterator[str]:
    """Once, by that step, and not again when it was recorded."""
    done = {
        named(one.run_id, one.stage, one.step, number): one for number, one in enumerate(world.sink.effects, start=1)
    }
    newest: dict[tuple[str, str, str], int] = {}
    for one in world.sink.effects:
        newest[one.run_id, one.stage, one.step] = one.position
    seen: set[str] = set()
    for recorded in world.file.events:
        event = recorded.event
        if not isinstance(event, StepFinished) or event.output == SETTLED:
            continue
        what, output = f"{recorded.run_id} recorded of the step {event.name} at {event.place}", str(event.output)
        effect = done.get(output)
        if effect is None or (effect.run_id, effect.stage) != (recorded.run_id, event.stage):
            yield f"{what} something that it did not do: {output}"
        elif output in seen:
            yield f"{what} what another step did: {output}"
        elif newest[effect.run_id, effect.stage, effect.step] >= recorded.position:
            yield f"{what} {output} (position {recorded.position}), and it was done again"
        seen.add(output)


def results_are_made_of_the_right_steps(world: World) -> Iterator[str]:
    for recorded in world.file.events:
        event = recorded.event
        expected = STEPS.get((getattr(event, "task", ""), getattr(event, "stage", "")))
        if isinstance(event, StageFinished) and isinstance(event.output, dict) and expected is not None:
            steps: Any = event.output["steps"]
            found = [str(step).split("/")[2] if step != SETTLED else SETTLED for step in steps]
            if len(found) != len(expected) or any(f not in (e, SETTLED) for f, e in zip(found, expected, strict=True)):
                yield f"{recorded.run_id} was handed the steps {found}, not {expected}"


def a_step_is_done_once_each_time_the_stage_begins(world: World) -> Iterator[str]:
    n_begun: Counter[tuple[str | None, str]] = Counter()
    for recorded in world.file.events:
        if isinstance(recorded.event, StageStarted | WaitEnded):
            n_begun[recorded.run_id, recorded.event.stage] += 1
    for (run_id, stage, step), n in _n_done(world).items():
        if n > n_begun[run_id, stage]:
            yield f"{run_id} did {step or stage} {n} times, and began {stage} {n_begun[run_id, stage]} times"


def at_most_once_is_never_twice(world: World) -> Iterator[str]:
    allowed: Counter[tuple[str | None, str, str]] = Counter()
    doubted: dict[str | None, tuple[str | None, str, str]] = {}
    careful = set()
    for recorded in world.file.events:
        run_id, event = recorded.run_id, recorded.event
        match event:
            case RunRequested() if event.task in AT_MOST_ONCE:
                careful.add(run_id)
            case RunDoubted():
                doubted[run_id] = (run_id, event.stage, event.step or "")
            case RunResolved(verdict="retry"):
                allowed[doubted[run_id]] += 1
            case StepFailed():
                allowed[run_id, event.stage, event.name] += 1
    for key, n in _n_done(world).items():
        if key[0] in careful and n > 1 + allowed[key]:
            yield f"{key} was done {n} times, and was to be done at most once (again {allowed[key]} times)"


def waits_are_handed_the_first_event_that_fits(world: World) -> Iterator[str]:
    """From the run's beginning on, and none of them twice."""
    dispatched = [recorded for recorded in world.file.events if isinstance(recorded.event, EventDispatched)]
    for run_id, events in _runs(world).items():
        handed, asked = set[int](), None
        for recorded in events:
            event = recorded.event
            if isinstance(event, WaitStarted):
                asked = recorded
            if not isinstance(event, WaitEnded) or event.kind != "event" or asked is None:
                continue
            where = getattr(asked.event, "where", {})
            fits = (
                one
                for one in dispatched
                if one.position > events[0].position
                and one.position not in handed
                and one.event.name == event.name
                and one.group_hash == recorded.group_hash
                and where.items() <= one.event.payload.items()
            )
            first = next(fits, None)
            if event.outcome == "timeout":
                if first is not None and first.position < asked.position:
                    yield f"{run_id} waited in vain (position {recorded.position}) for what came at {first.position}"
            elif first is None or (first.position, first.event.payload) != (event.position, event.payload):
                yield f"{run_id} was handed the event {event.position} at {recorded.position}, which is not the first"
            handed.add(event.position)


def sleeps_and_retries_last_as_long_as_they_should(world: World) -> Iterator[str]:
    if world.clock.has_jumped:
        return  # then no instant says how long it was
    for run_id, events in _runs(world).items():
        until_us = None
        for recorded in events:
            event = recorded.event
            if isinstance(event, StageStarted | WaitEnded):
                cut_short = getattr(event, "outcome", "") == "event"
                if until_us is not None and recorded.at_us < until_us and not cut_short:
                    yield f"{run_id} went on {until_us - recorded.at_us} µs too early, at position {recorded.position}"
                until_us = None
            elif isinstance(event, WaitStarted):
                until_us = event.until_us
            elif isinstance(event, StageFailed):
                until_us = event.retry_at_us


def stages_are_tried_as_often_as_they_should(world: World) -> Iterator[str]:
    for run_id, events in _runs(world).items():
        n_failed: Counter[str] = Counter()
        for recorded in events:
            event = recorded.event
            if isinstance(event, StageFailed) and event.error_type in ("ValueError", "RuntimeError", "timeout"):
                n_failed[event.stage] += 1
                at_most = _MAX_ATTEMPTS.get(event.task, 1)
                is_last = n_failed[event.stage] >= at_most
                if is_last != (event.retry_at_us is None) and (event.task, event.stage) != ("crowd", "run"):
                    yield f"{run_id}: attempt {n_failed[event.stage]} of {event.stage} failed, of {at_most}"


def stages_fail_of_nothing_but_their_own_errors(world: World) -> Iterator[str]:
    """All tasks do the same each time, let waits pass, and plan what they planned before."""
    for recorded in world.file.events:
        error_type = getattr(recorded.event, "error_type", None)
        if recorded.type in ("stage.failed", "run.failed") and error_type in _NOBODYS_FAULT:
            yield f"{recorded.run_id} failed with {error_type} (position {recorded.position})"


def children_are_asked_for_once_each(world: World) -> Iterator[str]:
    """And their ends are brought to the parent as they were."""
    runs = _runs(world)
    for run_id, events in runs.items():
        asked: dict[tuple[int, int], str] = {}
        for recorded in events:
            event = recorded.event
            if isinstance(event, ChildRequested):
                if (event.index, event.attempt) in asked:
                    yield f"{run_id} asked for its child {event.index} twice (attempt {event.attempt})"
                asked[event.index, event.attempt] = event.child_run_id
                child = runs.get(event.child_run_id, ())
                if not child or getattr(child[0].event, "parent_run_id", None) != run_id:
                    yield f"{run_id} asked for its child {event.child_run_id}, which is not there"
            if isinstance(event, ChildEnded):
                ends = [_ENDS[one.type] for one in runs.get(event.child_run_id, ()) if one.type in _ENDS]
                if ends != [event.status]:
                    yield f"{run_id} was told that {event.child_run_id} ended ({event.status}); it did {ends}"
        if len(set(asked.values())) != len(asked):
            yield f"{run_id} has one child in two places"


def what_was_ordered_is_recorded(world: World) -> Iterator[str]:
    recorded = Counter((_of.type, _of.run_id) for _of in world.file.events)
    for verb, run_id in world.operators.granted:
        if not recorded[_RECORDED_AS[verb], run_id]:
            yield f"{verb} of {run_id} was granted, and is not in the log"


def _n_done(world: World) -> Counter[tuple[str | None, str, str]]:
    return Counter((one.run_id, one.stage, one.step) for one in world.sink.effects if one.step != BEGUN)


def _runs(world: World) -> dict[str, list[Recorded]]:
    runs: dict[str, list[Recorded]] = defaultdict(list)
    for recorded in world.file.events:
        if recorded.stream.startswith("run-"):
            runs[recorded.run_id or ""].append(recorded)
    return runs


CHECKS: tuple[Callable[[World], Iterator[str]], ...] = (
    what_is_recorded_of_a_step_was_done,
    results_are_made_of_the_right_steps,
    a_step_is_done_once_each_time_the_stage_begins,
    at_most_once_is_never_twice,
    waits_are_handed_the_first_event_that_fits,
    sleeps_and_retries_last_as_long_as_they_should,
    stages_are_tried_as_often_as_they_should,
    stages_fail_of_nothing_but_their_own_errors,
    children_are_asked_for_once_each,
    what_was_ordered_is_recorded,
)
