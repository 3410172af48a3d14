"""The decisions in a run's life, oldest first: what did not simply follow from what was asked. Pure.

Stages that begin and end as they should are not decisions; `show` lists them.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from cascadenced.clock import iso
from cascadenced.events.base import Event, Recorded
from cascadenced.events.child import ChildEnded, ChildRequested
from cascadenced.events.place import in_words
from cascadenced.events.run import (
    RunCancelled,
    RunDoubted,
    RunFailed,
    RunFinished,
    RunHeld,
    RunPaused,
    RunRefused,
    RunReleased,
    RunRequested,
    RunResolved,
    RunResumed,
    RunStarted,
)
from cascadenced.events.signal import ContextAttached, ContextConsumed
from cascadenced.events.stage import StageFailed, StageFinished, StageInterrupted, StageLate, StageStarted
from cascadenced.events.step import StepFailed
from cascadenced.events.wait import WaitEnded, WaitStarted
from cascadenced.pipeline.model import Run, evolve

_HASH_CHARS = 12


class Moment(msgspec.Struct, frozen=True):
    """at: ISO 8601 UTC.  code: the event's type.  text: what was decided, and why."""

    at: str
    code: str
    text: str


def timeline(events: Sequence[Recorded], limit: int) -> tuple[list[Moment], int]:
    """At most `limit` moments, from both ends of the story, and how many were left out between them."""
    moments: list[Moment] = []
    run = Run()
    for recorded in events:
        text = _text(run, recorded.event)
        if text is not None:
            by = recorded.user_hash if type(recorded.event) is RunRequested else None
            moments.append(Moment(iso(recorded.at_us), recorded.type, text if by is None else f"{text}, for {who(by)}"))
        run = evolve(run, recorded.event)
    n_left_out = max(0, len(moments) - limit)
    if n_left_out:
        n_first = limit // 4
        moments = [*moments[:n_first], *moments[n_first + n_left_out :]]
    return moments, n_left_out


def _text(run: Run, event: Event) -> str | None:
    """What `event` decided about `run`, which does not include it yet; None if that is not worth a line."""
    match event:
        case RunRequested(forked_from=None, parent_run_id=None):
            return _asked(event) + (f", to start after {', '.join(event.requires)}" if event.requires else "")
        case RunRequested(forked_from=str(origin)):
            return f"asked for via {event.via}, as a fork of {origin}"
        case RunRequested(parent_run_id=parent):
            return f"asked for by the plan of {parent}"
        case RunStarted():
            return f"started, with the stages {', '.join(event.stages)} of the code {event.code}"
        case StageStarted():
            return _restart(run, event)
        case StageFinished(attempt=0):
            return f"what the stage {event.stage} put out was taken over"
        case StageFinished(children=tuple()):
            n, how = len(event.children or ()), "at the same time" if event.parallel else "one after the other"
            return f"the plan has {n} {'run' if n == 1 else 'runs'}, {how}" if n else None
        case StageFailed():
            return _failure(event)
        case StageInterrupted():
            return f"the stage {event.stage} was interrupted (attempt {event.attempt}): {event.reason}"
        case StageLate():
            went = f"failed ({event.reason})" if event.reason else f"ended ({event.outcome})"
            return f"attempt {event.attempt} of the stage {event.stage} {went} when nobody waited any more: no effect"
        case StepFailed():
            what = f"the step {event.name} ({in_words(event.place)} of {event.stage})"
            return f"{what} failed: {event.error_type}: {event.reason}"
        case WaitStarted() | WaitEnded():
            return _wait(event)
        case ChildRequested():
            again = f", attempt {event.attempt}" if event.attempt > 1 else ""
            return f"the plan's {event.child_task} was asked for: {event.child_run_id}{again}"
        case ChildEnded():
            because = f": {event.error_type}: {event.reason}" if event.error_type else ""
            return f"the plan's run {event.child_run_id} ended ({event.status}){because}"
        case ContextAttached():
            sender = "the run's own user" if event.by is None else who(event.by)
            return f"{sender} told it something via {event.via}" + (f": {event.shown}" if event.shown else "")
        case ContextConsumed():
            n = len(event.shown)
            return f"the stage {event.stage} begins with {n} {'thing' if n == 1 else 'things'} that it was told"
        case _:
            return _of_run(event)


def _asked(event: RunRequested) -> str:
    """Who, or what, wanted it."""
    failed = event.args.get("failed_run_id")
    match event.via:
        case "followup" if isinstance(failed, str):
            return f"asked for as the follow-up of {failed}, which failed"
        case "dependency":
            return "asked for because a task that was asked for must run after it"
    return f"asked for via {event.via}"


def _of_run(event: Event) -> str | None:
    match event:
        case RunRefused():
            return f"refused ({event.code}): {event.reason}"
        case RunPaused():
            return f"paused by {who(event.by)}"
        case RunResumed():
            return f"resumed by {who(event.by)}"
        case RunHeld():
            return f"held ({event.code}): {event.reason}"
        case RunReleased():
            return "released: what it was held for is there again"
        case RunDoubted():
            what = f"the stage {event.stage}" if event.step is None else f"the step {event.step}"
            return f"{what} is in doubt (attempt {event.attempt})" + (f": {event.reason}" if event.reason else "")
        case RunResolved():
            by = "its task's policy" if event.by_policy else who(event.by)
            return f"{by} resolved the doubt: {_VERDICTS.get(event.verdict, event.verdict)}"
        case RunFailed():
            return f"ended in error: {event.error_type}: {event.reason}"
        case RunCancelled():
            return f"cancelled{'' if event.by is None else f' by {who(event.by)}'}: {event.reason}"
        case RunFinished():
            return "all its stages ended well"
    return None


_VERDICTS = {"retry": "do it again", "done": "it has happened", "fail": "take it for failed"}


def _restart(run: Run, event: StageStarted) -> str | None:
    """Why a stage starts another time."""
    if event.attempt == 1:
        return None
    if run.wait is not None and run.wait.kind == "retry":
        why = "is tried again"
    elif run.open_starts > 0:
        why = "starts again after a crash"
    else:
        why = "starts again where it was left"
    code = f", with other code ({run.code} before, {event.code} now)" if event.code != run.code else ""
    return f"the stage {event.stage} {why} (attempt {event.attempt}){code}"


def _failure(event: StageFailed) -> str:
    text = f"the stage {event.stage} failed (attempt {event.attempt}): {event.error_type}: {event.reason}"
    if event.retry_at_us is not None:
        return f"{text}; it is tried again at {at(event.retry_at_us)}"
    return text if event.fatal else f"{text}; the run goes on without it"


def _wait(event: WaitStarted | WaitEnded) -> str | None:
    match event:
        case WaitStarted(kind="sleep", until_us=int(until_us)):
            return f"the stage {event.stage} sleeps until {at(until_us)}"
        case WaitStarted(kind="event"):
            until = "" if event.until_us is None else f", until {at(event.until_us)} at most"
            return f"the stage {event.stage} waits for the event {event.name}{until}"
        case WaitEnded(outcome="event"):
            return f"the event {event.name} came (position {event.position})"
        case WaitEnded(outcome="timeout"):
            return f"the event {event.name} did not come in time"
    return None


def at(us: int) -> str:
    """An instant as people read it."""
    return iso(us)[:19].replace("T", " ") + "Z"


def who(by: str | None) -> str:
    """A pseudonym, short enough for a sentence."""
    return "somebody" if by is None else f"user {by[:_HASH_CHARS]}"
