"""Why a run is as it is, and what can be done about it: its events → reasons. Pure.

What the run's own events do not say (how its children stand, who is ahead of it) is handed in as `Around`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from cascadenced.clock import iso
from cascadenced.events.base import Event, Json, Recorded
from cascadenced.events.place import Place, in_words
from cascadenced.events.run import (
    RunCancelled,
    RunDoubted,
    RunFailed,
    RunFinished,
    RunHeld,
    RunPaused,
    RunRefused,
)
from cascadenced.events.stage import StageFailed, StageInterrupted, StageStarted
from cascadenced.events.streams import run_id_of
from cascadenced.events.wait import WaitEnded, WaitStarted
from cascadenced.pipeline.doubts import has_open_effect, question, resolutions
from cascadenced.pipeline.model import ENDED, Child, Run, Wait, fold
from cascadenced.pipeline.resume import CRASHES_TO_GIVE_UP, CRASHES_TO_SUSPECT, verdict
from cascadenced.pipeline.timeline import Moment, at, timeline, who

MAX_MOMENTS = 100
MAX_CHILDREN_SAID = 20
"""In a sentence; the list has all of them."""

_WHO = "--user-id ID --group-id ID"
_RESUME = f"cascadenced resume {{task}} --job-id {{run_id}} {_WHO}"
_CANCEL = f"cascadenced cancel {{run_id}} {_WHO}"
_FORK = f"cascadenced fork {{run_id}} --from {{stage}} {_WHO}"
_RESOLVE = f"cascadenced resolve {{run_id}} {{verdict}} {_WHO}"
_UP = "cascadenced up"
"""How the commands that help are spelled."""


class Queue(msgspec.Struct, frozen=True, kw_only=True):
    """place: 1 for the run that starts first.  n_running, limit: slots of the instance that are taken, and all.

    n_of_task, task_limit: the same of the run's task alone; None: it has no limit of its own.
    """

    place: int
    n_running: int
    limit: int
    n_of_task: int = 0
    task_limit: int | None = None


class Required(msgspec.Struct, frozen=True, kw_only=True):
    """A run that must have succeeded before another one starts."""

    run_id: str
    task: str
    status: str


class Around(msgspec.Struct, frozen=True, kw_only=True):
    """What is known beside the run's own events.

    statuses: of its children, by run id.  required: those known of the runs that it requires, in its order.
    queue: None unless it is queued.  max_attempts: by stage, as the task's code says now.
    is_up: whether a daemon is there that could go on with it.  epoch: of what that one records, None if it is not
    there.  now_us: the time.
    came_at: position of the event that it waits for, None: it has not come.
    """

    statuses: Mapping[str, str] = {}
    required: Sequence[Required] = ()
    queue: Queue | None = None
    max_attempts: Mapping[str, int] = {}
    is_up: bool = True
    epoch: int | None = None
    now_us: int = 0
    came_at: int | None = None


class ChildState(msgspec.Struct, frozen=True, kw_only=True):
    """A place in the plan, from 0. run_id: None if it was not asked for yet.  status: of the run; or `not asked`."""

    index: int
    task: str
    run_id: str | None
    status: str
    attempt: int
    reason: str | None = None


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """stage, attempt: the one that raised, None if none was under way."""

    type: str
    message: str
    stage: str | None = None
    attempt: int | None = None


class Effect(msgspec.Struct, frozen=True, kw_only=True):
    """What may have happened. step, place: None and empty if the stage does not work in steps."""

    stage: str
    attempt: int
    step: str | None = None
    place: Place = ""


class Reason(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """code: finished, queued, prerequisites, running, interrupted, between_stages, sleep, event, children, retry,
    paused, held, in_doubt, refused, failed or cancelled.  text: a sentence.  since, until: ISO 8601 UTC.

    The other fields are there where they apply. detail: the code recorded with it.  by: a pseudonym.
    required: the runs that come before it, also those that have succeeded.
    attempt, max_attempts: of the retry that is to come.  is_over: what it waits for has come, and it goes on as soon as
    there is a free slot.  remedies: commands, or what else a person can do.
    """

    code: str
    text: str
    since: str | None = None
    until: str | None = None
    detail: str | None = None
    by: str | None = None
    event: str | None = None
    where: dict[str, Json] | None = None
    children: list[ChildState] | None = None
    required: list[Required] | None = None
    failure: Failure | None = None
    attempt: int | None = None
    max_attempts: int | None = None
    queue: Queue | None = None
    effect: Effect | None = None
    is_over: bool = False
    remedies: list[str] = []


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """reasons: the outermost first; a paused run may also be waiting.  timeline: decisions, oldest first.

    n_left_out: decisions in the middle of the timeline that are not shown.
    """

    run_id: str
    task: str
    status: str
    stage: str | None
    attempt: int | None
    reasons: list[Reason]
    timeline: list[Moment]
    n_left_out: int = 0


class _Story:
    """The run's events, and what helps to speak of them."""

    def __init__(self, events: Sequence[Recorded], around: Around) -> None:
        self.events, self.around = events, around
        self.run = fold(recorded.event for recorded in events)
        self.run_id = events[0].run_id or run_id_of(events[0].stream)

    def last(self, *kinds: type[Event]) -> Recorded:
        """The newest event of one of these; the first of all if there is none."""
        return next((r for r in reversed(self.events) if type(r.event) in kinds), self.events[0])

    def command(self, form: str, **words: str) -> str:
        return form.format(run_id=self.run_id, task=self.run.task, **words)

    def fork(self, stage: str | None) -> list[str]:
        return [] if stage is None or self.run.parent_run_id else [self.command(_FORK, stage=stage)]


def explain(events: Sequence[Recorded], around: Around) -> Explanation:
    """`events`: the run's whole stream."""
    story = _Story(events, around)
    run = story.run
    moments, n_left_out = timeline(events, MAX_MOMENTS)
    start = story.last(StageStarted).event
    return Explanation(
        run_id=story.run_id,
        task=run.task,
        status=run.shown_status,
        stage=start.stage if isinstance(start, StageStarted) else None,
        attempt=start.attempt if isinstance(start, StageStarted) else None,
        reasons=_reasons(story),
        timeline=moments,
        n_left_out=n_left_out,
    )


def waits_for_children(run: Run) -> list[str]:
    """Ids of the runs whose status `Around` should have."""
    return [child.run_id for child in run.children or () if child.run_id is not None and child.ended is None]


def _reasons(story: _Story) -> list[Reason]:
    run = story.run
    if run.status in ENDED:
        return [_ENDS[run.status](story)]
    if not run.paused:
        return [_state(story)]
    under_way = run.current is not None or run.wait is not None or run.in_doubt is not None or run.status == "queued"
    return [_paused(story), *([_state(story)] if under_way else [])]


def _state(story: _Story) -> Reason:
    run = story.run
    if run.in_doubt is not None:
        return _in_doubt(story, run.in_doubt)
    if run.wait is not None:
        return _WAITS[run.wait.kind](story, run.wait)
    if run.still_requires({other.run_id: other.status for other in story.around.required}):
        return _prerequisites(story)
    if run.status == "queued":
        return _queued(story)
    return _between(story) if run.current is None else _running(story)


# ── it goes on ───────────────────────────────────────────────────────────────────────────────────────────────


def _queued(story: _Story) -> Reason:
    queue, since = story.around.queue, iso(story.events[0].at_us)
    if not story.around.is_up:
        text = "it is queued, and no daemon is up that could start it"
        return Reason(code="queued", text=text, since=since, queue=queue, remedies=[_UP])
    if queue is None:
        return Reason(code="queued", text="it waits for a free slot", since=since)
    ahead = queue.place - 1
    before = f"{_n(ahead, 'queued run')} {'comes' if ahead == 1 else 'come'} before it"
    text = (
        f"it waits for a free slot: {before if ahead else 'none of those queued comes before it'} "
        f"(place {queue.place}), and {queue.n_running} of {_n(queue.limit, 'slot')} (max_concurrent_runs) "
        f"{'is' if queue.n_running == 1 else 'are'} taken"
    )
    if queue.task_limit is not None:
        text += f"; of {story.run.task}, {queue.n_of_task} run and {queue.task_limit} may (max_concurrent)"
    return Reason(code="queued", text=text, since=since, queue=queue)


def _prerequisites(story: _Story) -> Reason:
    required, is_up = story.around.required, story.around.is_up
    missing = [run for run in required if run.status != "success"]
    n_done = len(required) - len(missing)
    text = "it starts after the runs that it requires have succeeded, "
    text += f"{n_done} of {len(story.run.requires)} have{_said(missing)}"
    if any(run.status in ENDED for run in missing):
        text += "; it is refused, since one has ended otherwise"
    return Reason(
        code="prerequisites",
        text=text + _still(story, is_over=False),
        since=iso(story.events[0].at_us),
        required=list(required),
        remedies=[*_to_explain(missing), *([] if is_up else [_UP])],
    )


def _running(story: _Story) -> Reason:
    run = story.run
    start = story.last(StageStarted)
    text = f"the stage {run.current} is under way (attempt {run.attempt})"
    died = run.open_starts - 1
    if died > 0:
        text += (
            f"; the process died {_n(died, 'time')} in a row while it was: after {CRASHES_TO_GIVE_UP} it is given up"
        )
    if _is_under_way(story):
        return Reason(code="running", text=text, since=iso(start.at_us), attempt=run.attempt)
    is_up, stopped = story.around.is_up, story.last(StageInterrupted)
    interrupted = run.open_starts == 0 and type(stopped.event) is StageInterrupted
    ended = "the daemon stopped in good order" if interrupted else "the daemon stopped or died"
    doubted = question(run)
    return Reason(
        code="interrupted",
        text=f"{ended} while the stage {run.current} was under way (attempt {run.attempt}); {_goes_on(story)}",
        since=iso((stopped if interrupted else start).at_us),
        attempt=run.attempt,
        effect=None if doubted is None else _effect(doubted),
        remedies=[] if is_up else [_UP],
    )


def _goes_on(story: _Story) -> str:
    """What follows when the stage under way was cut off."""
    run, is_up = story.run, story.around.is_up
    when = "as soon as there is a free slot" if is_up else "at the next start"
    if is_up and verdict(run) == "alone":
        when = f"in its turn, for runs that were under way at {CRASHES_TO_SUSPECT} crashes in a row do so one at a time"
    if question(run) is not None:
        return f"it may have taken effect and must not do so twice: {when} somebody is asked what became of it"
    if run.paused:
        when = "when it is resumed"
    if run.on_doubt == "fail" and has_open_effect(run):
        return f"it may have taken effect and must not do so twice: it is taken for failed {when}"
    return f"it goes on with it {when}"


def _is_under_way(story: _Story) -> bool:
    """Whether code of the stage runs now: in the life of the daemon that is up, and not in an earlier one."""
    around, begun = story.around, story.last(StageStarted, WaitEnded)
    return around.is_up and story.run.open_starts > 0 and around.epoch in (None, begun.epoch)


def _between(story: _Story) -> Reason:
    done = story.run.done
    text = f"the stage {done[-1]} has ended" if done else "it has started"
    text += " and the next one has not begun: "
    text += "it waits for its turn" if story.around.is_up else "the next start of the daemon goes on with it"
    since = iso(story.events[-1].at_us)
    return Reason(code="between_stages", text=text, since=since, remedies=[] if story.around.is_up else [_UP])


# ── it waits ─────────────────────────────────────────────────────────────────────────────────────────────────


def _sleep(story: _Story, wait: Wait) -> Reason:
    until = "" if wait.until_us is None else f" until {at(wait.until_us)}"
    text = f"the stage {story.run.current} sleeps{until} ({in_words(wait.place)})"
    return _waiting(story, "sleep", text, until_us=wait.until_us, is_over=_is_due(story, wait))


def _event(story: _Story, wait: Wait) -> Reason:
    with_ = f" with {_json(wait.where)}" if wait.where else ""
    until = ", as long as it takes" if wait.until_us is None else f", until {at(wait.until_us)} at most"
    what = f"the event {wait.name}{with_} of its group{until}"
    text = f"the stage {story.run.current} waits for {what} ({in_words(wait.place)})"
    came = story.around.came_at
    if came is not None:
        text += f"; it came (position {came})"
    is_over = came is not None or _is_due(story, wait)
    remedies = [] if is_over else [f"cascadenced dispatch {wait.name} '{_json(wait.where)}' {_WHO}"]
    return _waiting(
        story,
        "event",
        text,
        until_us=wait.until_us,
        is_over=is_over,
        event=wait.name,
        where=dict(wait.where),
        remedies=remedies,
    )


def _children(story: _Story, _: Wait) -> Reason:
    children = _child_states(story)
    open_ = [child for child in children if child.status not in ("success",)]
    text = f"the stage run waits for runs of its plan, {len(children) - len(open_)} of {len(children)} have ended well"
    return _waiting(story, "children", text + _said(open_), children=children, remedies=_to_explain(open_))


def _retry(story: _Story, wait: Wait) -> Reason:
    run, failed = story.run, story.last(StageFailed)
    event = failed.event
    assert isinstance(event, StageFailed)
    nth, of = run.n_failed + 1, story.around.max_attempts.get(event.stage)
    when = "" if wait.until_us is None else f" at {at(wait.until_us)}"
    text = (
        f"the stage {event.stage} failed ({event.error_type}: {event.reason}) and is tried again{when}: "
        f"attempt {nth}" + ("" if of is None else f" of {of}")
    )
    is_over = _is_due(story, wait)
    return Reason(
        code="retry",
        text=text + _still(story, is_over),
        is_over=is_over,
        since=iso(failed.at_us),
        until=None if wait.until_us is None else iso(wait.until_us),
        failure=_failure(event),
        attempt=nth,
        max_attempts=of,
        remedies=[] if story.around.is_up else [_UP],
    )


_HELD_REMEDY = {
    "task_missing": "install the plugin that has {task} (plugin_paths, entry points), then start the daemon again",
    "identity_missing": "put vault.db and vault.key back from a backup and start the daemon again",
    "code_changed": "put the old code of {task} back and start the daemon again",
}


def _held(story: _Story, _: Wait) -> Reason:
    held = story.last(RunHeld)
    event = held.event
    assert isinstance(event, RunHeld)
    remedies = [story.command(_HELD_REMEDY[event.code])] if event.code in _HELD_REMEDY else []
    remedies += [story.command(_CANCEL)]
    if event.code == "code_changed" and story.run.current is not None:
        remedies += story.fork(story.run.current)
    text = f"it is held until a restart that can go on with it: {event.reason}"
    if story.around.is_up and story.run.paused and story.around.epoch not in (None, held.epoch):
        # There was such a restart, perhaps; nobody has looked since.
        text = "it was held in an earlier life of the daemon, and whether it can go on now is seen when it is resumed: "
        text += event.reason
        remedies = [story.command(_CANCEL)]
    return Reason(code="held", text=text, since=iso(held.at_us), detail=event.code, remedies=remedies)


def _waiting(
    story: _Story, code: str, text: str, *, until_us: int | None = None, is_over: bool = False, **fields: Any
) -> Reason:
    remedies = fields.pop("remedies", [])
    return Reason(
        code=code,
        text=text + _still(story, is_over),
        is_over=is_over,
        since=iso(story.last(WaitStarted).at_us),
        until=None if until_us is None else iso(until_us),
        remedies=remedies if story.around.is_up else [*remedies, _UP],
        **fields,
    )


def _is_due(story: _Story, wait: Wait) -> bool:
    return wait.until_us is not None and wait.until_us <= story.around.now_us


def _still(story: _Story, is_over: bool) -> str:
    if not story.around.is_up:
        return "; no daemon is up to notice"
    if not is_over:
        return ""
    return "; that is over" + ("" if story.run.paused else ", and it goes on as soon as there is a free slot")


_WAITS = {"sleep": _sleep, "event": _event, "children": _children, "retry": _retry, "held": _held}


def _paused(story: _Story) -> Reason:
    run, paused = story.run, story.last(RunPaused)
    event = paused.event
    assert isinstance(event, RunPaused)
    text = f"{who(event.by)} paused it at {at(paused.at_us)}; nothing new of it starts until it is resumed"
    if run.current is not None and run.status == "running" and _is_under_way(story):
        text += f" (the stage {run.current}, which was under way, may end)"
    return Reason(code="paused", text=text, since=iso(paused.at_us), by=event.by, remedies=[story.command(_RESUME)])


def _in_doubt(story: _Story, doubted: RunDoubted) -> Reason:
    what = (
        f"the stage {doubted.stage} (attempt {doubted.attempt})"
        if doubted.step is None
        else f"the step {doubted.step} ({in_words(doubted.place)} of the stage {doubted.stage}, "
        f"attempt {doubted.attempt})"
    )
    text = f"it is not known whether {what} took effect, and it must not happen twice"
    if doubted.reason:
        text += f": {doubted.reason}"
    return Reason(
        code="in_doubt",
        text=f"{text}. Find out, and say so",
        since=iso(story.last(RunDoubted).at_us),
        effect=_effect(doubted),
        remedies=[
            story.command(_RESOLVE, verdict=verdict)
            for verdict in ("done", "retry", "fail")
            if verdict in resolutions(story.run)
        ],
    )


def _effect(doubted: RunDoubted) -> Effect:
    return Effect(stage=doubted.stage, attempt=doubted.attempt, step=doubted.step, place=doubted.place)


# ── it has ended ─────────────────────────────────────────────────────────────────────────────────────────────


def _finished(story: _Story) -> Reason:
    end = story.last(RunFinished)
    return Reason(code="finished", text="all its stages ended well", since=iso(end.at_us))


_REFUSED_REMEDY = {
    "disabled": "cascadenced enable {task} --group-id ID",
    "paused": "cascadenced resume {task} --group-id ID",
    "unknown_task": "cascadenced list",
}


def _refused(story: _Story) -> Reason:
    end = story.last(RunRefused)
    event = end.event
    assert isinstance(event, RunRefused)
    remedies = [story.command(_REFUSED_REMEDY[event.code])] if event.code in _REFUSED_REMEDY else []
    return Reason(
        code="refused",
        text=f"it was refused, and nothing was started: {event.reason}",
        since=iso(end.at_us),
        detail=event.code,
        remedies=remedies,
    )


_OF_ITS_PLAN = ("plan.changed", "plan.failed")
"""Found out when the stage `run` was to go on."""


def _failed(story: _Story) -> Reason:
    end, last = story.last(RunFailed), story.last(StageFailed)
    event = end.event
    assert isinstance(event, RunFailed)
    of = None
    where = "it" if event.stage is None else f"the stage {event.stage}"
    failure = Failure(type=event.error_type, message=event.reason, stage=event.stage)
    if isinstance(last.event, StageFailed) and last.event.stage == event.stage:
        failure, of = _failure(last.event), last.event.attempt
    text = f"{where} failed: {event.error_type}: {event.reason}"
    if of is not None and of > 1:
        text += f" (attempt {of}, no other follows)"
    failed = [child for child in _child_states(story) if child.status in ENDED and child.status != "success"]
    remedies = [f"cascadenced explain {child.run_id}" for child in failed[:MAX_CHILDREN_SAID]]
    return Reason(
        code="failed",
        text=text,
        since=iso(end.at_us),
        detail=event.error_type,
        failure=failure,
        children=failed or None,
        remedies=[*remedies, *story.fork("plan" if event.error_type in _OF_ITS_PLAN else event.stage)],
    )


def _cancelled(story: _Story) -> Reason:
    end = story.last(RunCancelled)
    event = end.event
    assert isinstance(event, RunCancelled)
    by = who(event.by) if event.by is not None else "its own parent, or the daemon,"
    text = f"{by} cancelled it: {event.reason}"
    if event.stage is not None:
        text += f" (the stage {event.stage} was under way; what it had done by then is done)"
    return Reason(code="cancelled", text=text, since=iso(end.at_us), by=event.by, remedies=story.fork(event.stage))


_ENDS = {"success": _finished, "error": _failed, "cancelled": _cancelled, "refused": _refused}


# ── words ────────────────────────────────────────────────────────────────────────────────────────────────────


def _said(runs: Sequence[ChildState | Required]) -> str:
    """How these stand that others wait for; nothing if there are none."""
    said = [
        f"{run.task} is {run.status}" + (f" ({run.run_id})" if run.run_id else "") for run in runs[:MAX_CHILDREN_SAID]
    ]
    more = len(runs) - MAX_CHILDREN_SAID
    return f": {', '.join(said)}" + (f", and {more} more" if more > 0 else "") if said else ""


def _to_explain(runs: Sequence[ChildState | Required]) -> list[str]:
    return [f"cascadenced explain {run.run_id}" for run in runs[:MAX_CHILDREN_SAID] if run.run_id]


def _child_states(story: _Story) -> list[ChildState]:
    return [_child_state(index, child, story.around) for index, child in enumerate(story.run.children or ())]


def _child_state(index: int, child: Child, around: Around) -> ChildState:
    if child.run_id is None:
        status = "not asked"
    elif child.ended is not None:
        status = child.ended.status
    else:
        status = around.statuses.get(child.run_id, "queued")
    return ChildState(
        index=index,
        task=child.planned.name,
        run_id=child.run_id,
        status=status,
        attempt=child.attempt,
        reason=None if child.ended is None else child.ended.reason,
    )


def _failure(event: StageFailed) -> Failure:
    return Failure(type=event.error_type, message=event.reason, stage=event.stage, attempt=event.attempt)


def _n(n: int, what: str) -> str:
    return f"{n} {what}" + ("" if n == 1 else "s")


def _json(value: Json) -> str:
    return msgspec.json.encode(value).decode()
