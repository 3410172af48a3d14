"""A run's code, performed again against what is recorded of it. Nothing is recorded, and no effect happens.

Steps, waits, research and the runs of a plan are answered from the record; what stands between them is the code under
test, and runs. The first place or outcome that is not as recorded ends the replay.
"""

from __future__ import annotations

import asyncio
import builtins
import importlib.util
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, NoReturn, cast

import msgspec

from cascadenced.clock import Clock
from cascadenced.errors import Invalid, StepMismatch
from cascadenced.eventlog.base import EventLog
from cascadenced.events.base import Context, Event, Json, Recorded
from cascadenced.events.child import Planned
from cascadenced.events.content import own_copy
from cascadenced.events.place import Place, in_order, in_words
from cascadenced.events.stage import StageFailed, StageFinished
from cascadenced.events.wait import WaitStarted
from cascadenced.handlers.research import ResearchFailed
from cascadenced.handlers.run_requests import Dispatched
from cascadenced.handlers.run_stage import StageRunner
from cascadenced.handlers.steps import Steps, spelled
from cascadenced.identity import SYSTEM, Identity, Pseudonyms, Redactor
from cascadenced.ids import RunId
from cascadenced.pipeline.asks import checked_wait
from cascadenced.pipeline.json_diff import differences
from cascadenced.pipeline.model import STAGES, Mark, Run
from cascadenced.pipeline.passes import Outcome, Pass, passes
from cascadenced.pipeline.policy import Policy
from cascadenced.plugins.base import BaseTask
from cascadenced.replaying import Wishes, nobody_listens
from cascadenced.runtime.record import LiveRun
from cascadenced.runtime.spawn import Spawner
from cascadenced.runtime.tasks import TaskEntry

MAX_SHOWN_CHARS = 2_000
_NOTHING = "nothing more"
_TURNS = 100
"""Of the loop, in which a stage whose tasks have all come to their ends has ended too."""


class Divergence(msgspec.Struct, frozen=True, kw_only=True):
    """what: hook, place, where, outcome, output, error or plan.  place: of the step or wait, empty where it is none.

    path: within an output.  expected: as recorded.  got: from the code as it is now.
    """

    stage: str
    attempt: int
    what: str
    place: Place = ""
    path: str = ""
    expected: str
    got: str

    @property
    def text(self) -> str:
        where = f"the stage {self.stage}, attempt {self.attempt}"
        where += f", {in_words(self.place)}" if self.place else f", {self.what}{' ' if self.path else ''}{self.path}"
        return f"{where}: expected {self.expected}, got {self.got}"


class Performed(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt of a stage. outcome: success, error or waiting, as recorded.  n_places: steps and waits.

    verdict: same, different, or taken: not performed, with the reason.
    """

    stage: str
    attempt: int
    outcome: str
    n_places: int
    verdict: str
    reason: str | None = None


class Replay(msgspec.Struct, frozen=True, kw_only=True):
    """code_recorded: digest of the source at the run's newest start of a stage, None if it never began.

    n_wishes: notes, pointers, events and whatever else the code asked of a daemon or a data folder, which were not
    carried out.
    """

    run_id: str
    task: str
    code_recorded: str | None
    code_now: str
    stages: list[Performed]
    n_wishes: int
    divergence: Divergence | None


async def replay(events: Sequence[Recorded], entry: TaskEntry, *, clock: Clock, spawner: Spawner) -> Replay:
    """Perform the run whose whole stream is `events` once more, with the code of `entry`. Meanwhile nobody in this
    process is heard (`replaying.py`).

    spawner: for this replay only. Its threads are not heard afterwards either.
    Raises Invalid for a stage that there is not, or that ended and had not begun.
    """
    run, recorded_passes = passes(events)
    strange = next((each.stage for each in recorded_passes if each.stage not in STAGES), None)
    if strange is not None:
        raise Invalid(f"the run is recorded with a stage {strange[:40]!r}: the stages are {', '.join(STAGES)}")
    live = LiveRun(RunId(events[0].run_id or ""), Context())
    live.entry = msgspec.structs.replace(entry, policy=Policy())  # nothing is tried again or given up here
    live.identity = Identity(events[0].user_hash or "user", events[0].group_hash or "group")
    live.redact = Redactor(SYSTEM, Pseudonyms(""))  # there is nobody's name to be left out
    with nobody_listens() as wishes:
        performed, divergence = await _performed(
            run, recorded_passes, live, entry, _Replayer(clock, spawner, _Nobody(wishes))
        )
    return Replay(
        run_id=live.run_id,
        task=run.task,
        code_recorded=run.code or None,
        code_now=entry.code,
        stages=performed,
        n_wishes=wishes.n,
        divergence=divergence,
    )


async def _performed(
    run: Run, recorded_passes: Sequence[Pass], live: LiveRun, entry: TaskEntry, runner: _Replayer
) -> tuple[list[Performed], Divergence | None]:
    """As far as the first divergence, that stage included."""
    performed: list[Performed] = []
    divergence = None
    for each in recorded_passes:
        divergence = _missing_hooks(run, entry, each)
        reason = each.not_code or _elsewhere(entry, each)
        if divergence is None and reason is None:
            divergence = await runner.compared(live, each)
        elif reason is not None:
            live.instance = None
        verdict = "different" if divergence is not None else "same" if reason is None else "taken"
        performed.append(
            Performed(
                stage=each.stage,
                attempt=each.attempt,
                outcome=_word(each.outcome),
                n_places=len(each.places),
                verdict=verdict,
                reason=reason,
            )
        )
        if divergence is not None:
            break
    if divergence is None and run.status == "success" and recorded_passes:
        divergence = _missing_hooks(run, entry, recorded_passes[-1], until=STAGES[-1])
    return performed, divergence


def _missing_hooks(run: Run, entry: TaskEntry, each: Pass, until: str | None = None) -> Divergence | None:
    """The first stage up to that of `each` that has a hook now and had none, or the other way round."""
    for stage in STAGES[: STAGES.index(until or each.stage) + 1]:
        had, has = stage in run.stages, stage in entry.hooks
        if had != has:
            words = {True: f"a {stage}() of the task", False: f"no {stage}()"}
            return Divergence(stage=stage, attempt=each.attempt, what="hook", expected=words[had], got=words[has])
    return None


def _elsewhere(entry: TaskEntry, each: Pass) -> str | None:
    """Why the stage is none of the task's own code."""
    if each.stage != "plan" or importlib.util.find_spec("ai_plan") is None:
        return None
    own = getattr(entry.make if isinstance(entry.make, type) else entry.make(), "plan", None)
    return None if callable(own) else "another program planned for it"


# ── one attempt of a stage ───────────────────────────────────────────────────────────────────────────────────


class _Replayer(StageRunner):
    def __init__(self, clock: Clock, spawner: Spawner, host: _Nobody) -> None:
        # Nothing is ever recorded, so there is no log.
        super().__init__(cast(EventLog, None), clock, spawner, Pseudonyms(""), self._equip_with_nobody, max_processes=1)
        self._host = host
        self._pass: Pass | None = None
        self._answers: _Answers | None = None

    async def compared(self, live: LiveRun, each: Pass) -> Divergence | None:
        """Perform the stage of `each`. Returns the first thing that is not as recorded."""
        live.run = msgspec.structs.replace(each.run, current=each.stage, status="running", wait=None)
        if each.fresh:
            live.instance = None
        self._pass = each
        outcome = await self(live)
        assert self._answers is not None
        if self._answers.divergence is not None:
            return self._answers.divergence
        return _compared(each, cast(Outcome, outcome))

    def _steps_of(self, live: LiveRun, redact: Redactor) -> Steps:
        assert self._pass is not None
        self._answers = _Answers(self._clock, self._spawner, live, redact, self._pass)
        return self._answers

    async def _answer(self, live: LiveRun, query: Any) -> Any:
        """The recorded one: nothing is searched for."""
        assert self._pass is not None
        outcome = self._pass.outcome
        if isinstance(outcome, StageFinished):
            return outcome.output
        raise ResearchFailed("as recorded")

    def _ended_late(self, error: BaseException | None) -> None:
        """Nobody wants to know."""

    def _equip_with_nobody(self, task: Any, live: LiveRun) -> None:
        if isinstance(task, BaseTask):
            task._host = self._host
        if live.entry is not None and live.entry.listens_to is not None:
            task.dispatch = self._host.dispatch


class _Nobody:
    """Whom a task under replay may ask (`plugins.base.Host`): it takes every wish, and does nothing about it."""

    def __init__(self, wishes: Wishes) -> None:
        self._wishes = wishes

    async def add_note(self, note: str) -> None:
        self._wishes.add()

    async def add_pointer(self, task: str, user_id: str, run_id: str, group_id: str | None) -> bool:
        self._wishes.add()
        return True

    async def dispatch(self, name: str, payload: dict[str, Json] | None = None) -> Dispatched:
        self._wishes.add()
        return Dispatched(name, None)


class _Answers(Steps):
    """The steps and waits of one pass: what is recorded, in its order, and not one more."""

    def __init__(self, clock: Clock, spawner: Spawner, live: LiveRun, redact: Redactor, each: Pass) -> None:
        super().__init__(cast(EventLog, None), clock, spawner, live, redact)
        self._pass = each
        self._is_cut_off = not isinstance(each.outcome, StageFinished)
        self._ahead: dict[asyncio.Task[Any] | None, _Ahead] = {}
        self._more_ahead = asyncio.get_running_loop().create_future()
        self.divergence: Divergence | None = None

    def step(self, name: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return self._unless_ahead(super().step, name, function, *args, **kwargs)

    def sleep(self, seconds: float) -> Any:
        return self._unless_ahead(super().sleep, seconds)

    def wait_for(self, event: str, timeout_s: float | None = None, where: dict[str, Json] | None = None) -> Any:
        return self._unless_ahead(super().wait_for, event, timeout_s, where)

    def _unless_ahead(self, ask: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        try:
            return ask(*args, **kwargs)
        except _Ahead as ahead:
            return self._held_back(ahead)

    async def _held_back(self, ahead: _Ahead) -> NoReturn:
        """Where one of several tasks ended the stage, by an error or a wait, the others had not come as far then as
        they do here, where nothing takes time. So they stand still until it has; if it does not, they are ahead."""
        self._ahead[asyncio.current_task()] = ahead
        self._more_ahead.set_result(None)
        self._more_ahead = asyncio.get_running_loop().create_future()
        left = _TURNS
        while left:
            others = self._lanes.tasks - self._ahead.keys()
            if others:
                await asyncio.wait({*others, self._more_ahead}, return_when=asyncio.FIRST_COMPLETED)
                left = _TURNS
            else:
                await asyncio.sleep(0)
                left -= 1
        if self._is_left:
            raise self._left_behind()
        first = next(iter(self._ahead.values()))
        raise self._diverge("place", first.place, f"{_NOTHING} before the end", first.asked)

    def _waited(
        self, event: str, timeout_s: float | None, where: dict[str, Json] | None, place: Place | None = None
    ) -> Mark | None:
        matching = checked_wait(event, timeout_s, where)
        place = place or self._lanes.take()
        asked = self._pass.waits.get(place)
        if asked is not None and (asked.kind, asked.name) == ("event", event):
            difference = next(differences(asked.where, matching), None)
            if difference is not None:
                raise self._diverge("where", place, _json(asked.where), _json(matching))
            limits = {True: "a wait without a time limit", False: "a wait with a time limit"}
            if (asked.until_us is None) != (timeout_s is None):
                raise self._diverge("place", place, limits[asked.until_us is None], limits[timeout_s is None])
        return super()._waited(event, timeout_s, where, place)

    def refuse_rest(self) -> None:
        first = min(self._pass.places - self._asked, key=in_order, default=None)
        missing = None if first is None else self._pass.at(first)
        if self.divergence is None and first is not None and missing is not None:
            self._diverge("place", first, spelled(missing), "the end of the stage")
        if self.divergence is not None:
            raise StepMismatch(self.divergence.text)

    def _place(self, kind: str, name: str, place: Place | None = None) -> tuple[Place, Mark | None]:
        if self.divergence is not None:  # its code has caught the error that should have ended it
            raise StepMismatch(self.divergence.text)
        place = place or self._lanes.take()
        if self.suspended is not None or self._is_left:
            return super()._place(kind, name, place)
        expected = self._pass.at(place)
        if expected is None and self._is_cut_off and self._is_on_the_loop():
            raise _Ahead(place, spelled(Mark(kind, name)))
        if expected is None or (expected.kind, expected.name) != (kind, name):
            wanted = f"{_NOTHING} before the end" if expected is None else spelled(expected)
            raise self._diverge("place", place, wanted, spelled(Mark(kind, name)))
        return super()._place(kind, name, place)

    async def _step(
        self, place: Place, mark: Mark | None, name: str, function: Callable[..., Any], args: Any, kwargs: Any
    ) -> Json:
        if mark is None:
            self._fail(place)
        return own_copy(mark.output)

    def _begin(self, place: Place, name: str) -> None:
        """Before a step's code would run: it raises what that raised."""
        self._fail(place)

    def _fail(self, place: Place) -> NoReturn:
        failed = self._pass.failures[place]
        raise _exception(failed.error_type, failed.reason, self._live.entry)

    def _diverge(self, what: str, place: Place, expected: str, got: str) -> StepMismatch:
        each = self._pass
        found = Divergence(stage=each.stage, attempt=each.attempt, what=what, place=place, expected=expected, got=got)
        self.divergence = self.divergence or found
        return StepMismatch(self.divergence.text)


class _Ahead(Exception):
    """There is nothing at `place` in a record that ends with an error or a wait."""

    def __init__(self, place: Place, asked: str) -> None:
        super().__init__(place)
        self.place, self.asked = place, asked


# ── comparing ────────────────────────────────────────────────────────────────────────────────────────────────


def _compared(each: Pass, got: Outcome) -> Divergence | None:
    expected = each.outcome

    def differs(what: str, wanted: str, found: str, path: str = "") -> Divergence:
        return Divergence(
            stage=each.stage, attempt=each.attempt, what=what, path=path, expected=_cut(wanted), got=_cut(found)
        )

    if type(expected) is not type(got):
        return differs("outcome", _told(expected), _told(got))
    if isinstance(expected, StageFailed) and isinstance(got, StageFailed):
        if expected.error_type == got.error_type:
            return None
        return differs("error", f"{expected.error_type}: {expected.reason}", f"{got.error_type}: {got.reason}")
    if not isinstance(expected, StageFinished) or not isinstance(got, StageFinished):
        return None  # it waits at the same place, for the same: that was compared on the way
    if (expected.children, expected.parallel) != (got.children, got.parallel):
        return differs("plan", _plan(expected), _plan(got))
    for difference in differences(expected.output, got.output):
        return differs("output", _value(difference.left), _value(difference.right), difference.path)
    return None


def _told(outcome: Outcome) -> str:
    if isinstance(outcome, StageFailed):
        return f"the error {outcome.error_type}: {outcome.reason}"
    if isinstance(outcome, WaitStarted):
        return f"{spelled(Mark(outcome.kind, outcome.name))} at {in_words(outcome.place)}"
    return f"a plan of {_plan(outcome)}" if outcome.children is not None else f"the output {_json(outcome.output)}"


def _word(outcome: Event) -> str:
    return {StageFinished: "success", StageFailed: "error"}.get(type(outcome), "waiting")


def _plan(outcome: StageFinished) -> str:
    if outcome.children is None:
        return "data"
    how = "at the same time" if outcome.parallel else "in order"
    return f"{', '.join(map(_planned, outcome.children)) or 'no runs'} ({how})"


def _planned(each: Planned) -> str:
    return each.name if each.name == each.kind else f"{each.name} ({each.kind})"


def _value(value: Json | msgspec.UnsetType) -> str:
    return "nothing" if value is msgspec.UNSET else _json(value)


def _json(value: Json) -> str:
    return msgspec.json.encode(value).decode()


def _cut(text: str) -> str:
    return text if len(text) <= MAX_SHOWN_CHARS else text[:MAX_SHOWN_CHARS] + "…"


# ── errors of steps ──────────────────────────────────────────────────────────────────────────────────────────


def _exception(name: str, reason: str, entry: TaskEntry | None) -> Exception:
    """What a step raised, as an object of the same class if one of that name is there; else of a class of that name,
    which only `except Exception` catches."""
    for kind in _kinds(name, entry):
        try:
            return kind(reason)
        except Exception:  # noqa: BLE001 -- its constructor is the task's own, and takes something else
            with suppress(Exception):
                error = kind.__new__(kind)
                error.args = (reason,)
                return error
    made: type[Exception] = type(name if name.isidentifier() else "StepError", (Exception,), {})
    return made(reason)


def _kinds(name: str, entry: TaskEntry | None) -> Iterator[type[Exception]]:
    """Classes of that name: in the modules of the task's class and of those above it, then Python's."""
    made_of = entry.make if entry is not None else None
    lineage = made_of.__mro__ if isinstance(made_of, type) else ()
    modules = [sys.modules.get(cls.__module__) for cls in lineage]
    for found in [getattr(module, name, None) for module in (*modules, builtins)]:
        if isinstance(found, type) and issubclass(found, Exception):
            yield found
