"""Steps and waits: what a stage's code has behind it is not done again when the stage is.

Each has a place, in the lane of the asyncio task that comes to it (`lanes.py`). A stage that runs again is handed what
is recorded at each place. So it must come by the same ones again; where it asks for something else, it is stopped.

A wait unwinds the stage: nothing of it is kept meanwhile, and when it is over the stage runs again from its start.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any

from cascadenced.clock import Clock
from cascadenced.crashpoint import crashpoint
from cascadenced.errors import CascadenceError, Invalid, StepMismatch, Superseded
from cascadenced.eventlog.base import EventLog
from cascadenced.events.base import Event, Json
from cascadenced.events.content import own_copy, recordable
from cascadenced.events.place import Place, in_order, in_words
from cascadenced.events.step import StepFailed, StepFinished, StepStarted
from cascadenced.events.wait import WaitStarted
from cascadenced.handlers.failure import MAX_TYPE_CHARS, for_people, is_harmless, tell
from cascadenced.identity import Redactor
from cascadenced.pipeline.asks import checked_sleep, checked_step, checked_wait, refused_within
from cascadenced.pipeline.model import Mark, Run
from cascadenced.runtime.lanes import Lanes
from cascadenced.runtime.record import LiveRun, Step, record
from cascadenced.runtime.spawn import Spawner, Suspended
from cascadenced.runtime.under_way import UnderWay
from cascadenced.runtime.worker_protocol import (
    Answer,
    Ask,
    EventWanted,
    Go,
    Recorded,
    SleepWanted,
    StepDone,
    StepRaised,
    StepWanted,
    Suspend,
)

MAX_PLACES = 10_000
"""Steps and waits of one stage."""

_within: contextvars.ContextVar[bool] = contextvars.ContextVar("within a step", default=False)


class Steps:
    """Of one attempt of one stage.

    suspended: what it waits for, once it does.  mismatch: what was wrong, if something was.  broken: the log is.
    """

    def __init__(self, log: EventLog, clock: Clock, spawner: Spawner, live: LiveRun, redact: Redactor) -> None:
        self._log, self._clock, self._spawner = log, clock, spawner
        self._live, self._redact = live, redact
        self._loop = asyncio.get_running_loop()
        self._stage, self._attempt = live.run.current or "", live.run.attempt
        self._lanes = Lanes()
        self._asked: set[Place] = set()
        self._is_left = False
        self._under_way = UnderWay(lambda: self.suspended is not None)
        self._recording: asyncio.Lock | None = None  # made by the first step: most stages have none
        self.suspended: WaitStarted | None = None
        self.mismatch: StepMismatch | None = None
        self.broken: CascadenceError | None = None

    # ── what a task calls ────────────────────────────────────────────────────────────────────────────────────

    def step(self, name: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What `function` returned, as it is recorded: now, or at an earlier attempt.

        Awaitable on the loop, and wherever `function` is a coroutine function. Raises what `function` raises.
        """
        name = self._named(name)
        place, mark = self._place("step", name)
        if inspect.iscoroutinefunction(function) or self._is_on_the_loop():
            return self._step(place, mark, name, function, args, kwargs)
        if mark is not None:
            return own_copy(mark.output)
        self._begin(place, name)
        began = self._clock.monotonic()
        within = _within.set(True)
        try:
            output = recordable(function(*args, **kwargs), f"what the step {name!r} returned")
        except Exception as error:
            self._wait(self._failed(place, name, error, began))
            raise
        finally:
            _within.reset(within)
        self._wait(self._finished(place, name, output, self._clock.monotonic() - began))
        return own_copy(output)

    def sleep(self, seconds: float) -> Any:
        """Let `seconds` of wall-clock time pass, over restarts too. Awaitable on the loop."""
        if self._slept(seconds) is None:
            raise Suspended(f"the stage {self._stage} waits")
        return self._handed(None)

    def wait_for(self, event: str, timeout_s: float | None = None, where: dict[str, Json] | None = None) -> Any:
        """The payload of the next event of that name that the run's group dispatches, or has since the run began, and
        that no wait of this run was handed before. Awaitable on the loop. Raises TimeoutError.

        where: what the payload must hold, key by key.
        """
        mark = self._waited(event, timeout_s, where)
        if mark is None:
            raise Suspended(f"the stage {self._stage} waits")
        if mark.timed_out:
            raise TimeoutError(f"no event {event!r} came within {timeout_s:g} s")
        return self._handed(own_copy(mark.output))

    # ── what a process of its own asks, which counts the places itself ───────────────────────────────────────

    async def answer(self, ask: Ask) -> Answer:
        """Raises StepMismatch, Superseded, Invalid; and what the log raises."""
        redact, task = self._redact, self._live.run.task
        match ask:
            case StepWanted() | SleepWanted() | EventWanted() if self.suspended is not None:
                return Suspend()  # of another branch
            case StepWanted():
                name = self._named(ask.name)
                _, mark = self._place("step", name, ask.place)
                if mark is not None:
                    return Recorded(mark.output)
                if self._is_at_most_once:
                    await self._record(StepStarted(task=task, stage=self._stage, place=ask.place, name=name))
                crashpoint("step.before_effect")
                return Go()
            case StepDone():
                await self._finished(ask.place, self._named(ask.name), ask.value, ask.took_s)
                return Recorded()
            case StepRaised():
                reason = for_people(ask.text, redact)
                await self._record(
                    StepFailed(
                        task=task,
                        stage=self._stage,
                        place=ask.place,
                        name=self._named(ask.name),
                        error_type=for_people(ask.error_type, redact, MAX_TYPE_CHARS),
                        reason=reason,
                        took_s=ask.took_s,
                    )
                )
                return Recorded()
            case SleepWanted():
                return Suspend() if self._slept(ask.seconds, ask.place) is None else Recorded()
            case EventWanted():
                mark = self._waited(ask.name, ask.timeout_s, ask.where, ask.place)
                return Suspend() if mark is None else Recorded(None if mark.timed_out else mark.output)
            case _:
                raise Invalid(f"a stage cannot ask for {type(ask).__name__}")

    # ── what the stage's runner asks ─────────────────────────────────────────────────────────────────────────

    def enter(self) -> None:
        """The task that calls this is the stage's own."""
        self._lanes.enter()

    async def settled(self) -> None:
        """The stage's code has ended. Return when no step is under way on the loop any more: what a gathering of steps
        leaves behind is not lost, nor done beside the next attempt, and comes to no more of them."""
        self._is_left = True
        await self._under_way.settled()

    def cancel(self) -> None:
        """The stage is cancelled as a whole: nothing of it goes on."""
        self._is_left = True
        self._under_way.cancel()

    def refuse_rest(self) -> None:
        """The stage has returned. Raises StepMismatch if something is recorded that it did not ask for this time."""
        if self.mismatch is not None:
            raise self.mismatch
        missed = self._live.run.marks.keys() - self._asked
        if missed:
            last = max(missed, key=in_order)
            was = spelled(self._live.run.marks[last])
            raise self._mismatch(f"{in_words(last)} was {was}, and now the stage ends before it")

    # ── one after the other ──────────────────────────────────────────────────────────────────────────────────

    async def _step(
        self, place: Place, mark: Mark | None, name: str, function: Callable[..., Any], args: Any, kwargs: Any
    ) -> Json:
        if mark is not None:
            return own_copy(mark.output)
        if self._is_left:
            raise self._left_behind()
        return own_copy(await self._under_way.do(self._done(place, name, function, args, kwargs)))

    async def _done(self, place: Place, name: str, function: Callable[..., Any], args: Any, kwargs: Any) -> Json:
        if self._is_at_most_once:
            await self._record(StepStarted(task=self._live.run.task, stage=self._stage, place=place, name=name))
        crashpoint("step.before_effect")
        began = self._clock.monotonic()
        within = _within.set(True)
        try:
            if inspect.iscoroutinefunction(function):
                value = await function(*args, **kwargs)
            else:
                value = await self._spawner.call(lambda: function(*args, **kwargs))
            output = recordable(value, f"what the step {name!r} returned")
        except Exception as error:
            await self._failed(place, name, error, began)
            raise
        finally:
            _within.reset(within)
        await self._finished(place, name, output, self._clock.monotonic() - began)
        return output

    def _begin(self, place: Place, name: str) -> None:
        if self._is_at_most_once:
            self._wait(self._record(StepStarted(task=self._live.run.task, stage=self._stage, place=place, name=name)))
        crashpoint("step.before_effect")

    async def _finished(self, place: Place, name: str, output: Json, took_s: float) -> None:
        crashpoint("step.after_effect")
        task = self._live.run.task
        await self._record(
            StepFinished(task=task, stage=self._stage, place=place, name=name, output=output, took_s=took_s)
        )

    async def _failed(self, place: Place, name: str, error: Exception, began: float) -> None:
        redact = self._redact
        said = tell(error, redact) if is_harmless(error) else await self._spawner.call(tell, error, redact)
        await self._record(
            StepFailed(
                task=self._live.run.task,
                stage=self._stage,
                place=place,
                name=name,
                error_type=said.error_type,
                reason=said.reason,
                took_s=self._clock.monotonic() - began,
            )
        )

    async def _record(self, event: Event) -> None:
        recorded = False

        def following(run: Run) -> Step | None:
            nonlocal recorded
            recorded = self._is_under_way(run)
            return Step.of(run, event) if recorded else None

        recording = self._recording = self._recording or asyncio.Lock()
        try:
            async with recording:  # side by side, each would make all others decide again
                await record(self._log, self._clock, self._live, following)
        except CascadenceError as error:
            self.broken = error
            raise
        if not recorded:
            raise self._over()

    def _is_under_way(self, run: Run) -> bool:
        return run.status == "running" and run.current == self._stage and run.attempt == self._attempt

    def _over(self) -> Superseded:
        return Superseded(f"attempt {self._attempt} of the stage {self._stage} is over")

    def _left_behind(self) -> Superseded:
        return Superseded(f"the code of the stage {self._stage} has ended; what it left behind takes no more steps")

    def _wait(self, recording: Coroutine[Any, Any, None]) -> None:
        """In a thread: until it is recorded."""
        asyncio.run_coroutine_threadsafe(recording, self._loop).result()

    def _slept(self, seconds: float, place: Place | None = None) -> Mark | None:
        """The sleep at this place, if it is over; else the stage waits from now on."""
        checked_sleep(seconds)
        place, mark = self._place("sleep", "", place)
        if mark is None:
            self._suspend(place, "sleep", until_us=self._clock.now_us() + round(seconds * 1e6))
        return mark

    def _waited(
        self, event: str, timeout_s: float | None, where: dict[str, Json] | None, place: Place | None = None
    ) -> Mark | None:
        """What became of the wait at this place, if it is over; else the stage waits from now on."""
        matching = checked_wait(event, timeout_s, where)
        place, mark = self._place("event", event, place)
        if mark is None:
            until_us = None if timeout_s is None else self._clock.now_us() + round(timeout_s * 1e6)
            self._suspend(place, "event", name=event, where=matching, until_us=until_us)
        return mark

    def _place(self, kind: str, name: str, place: Place | None = None) -> tuple[Place, Mark | None]:
        """The next place, or the one that is named, and what is recorded there."""
        if self.suspended is not None:
            raise Suspended(f"the stage {self._stage} waits already")  # another branch is on its way out, or was caught
        if self.mismatch is not None:
            raise self.mismatch
        if self._is_left:
            raise self._left_behind()
        if not self._is_under_way(self._live.run):
            raise self._over()
        if _within.get():
            raise refused_within(spelled(Mark(kind, name)))
        place = self._lanes.take() if place is None else place
        self._asked.add(place)
        if len(self._asked) > MAX_PLACES:
            raise Invalid(f"a stage has at most {MAX_PLACES} steps and waits", code="too_many_steps")
        mark = self._live.run.marks.get(place)
        if mark is not None and (mark.kind, mark.name) != (kind, name):
            asked = spelled(Mark(kind, name))
            raise self._mismatch(f"{in_words(place)} was {spelled(mark)}, and now the stage asks for {asked}")
        return place, mark

    def _named(self, name: object) -> str:
        """The name of a step as it is recorded and compared: whom the run is for is not in it."""
        return self._redact(checked_step(name))

    def _suspend(self, place: Place, kind: str, **fields: Any) -> None:
        self.suspended = WaitStarted(task=self._live.run.task, stage=self._stage, place=place, kind=kind, **fields)

    def _mismatch(self, what: str) -> StepMismatch:
        mismatch = StepMismatch(
            f"the stage {self._stage} does not do what it did before: {what}. Steps and waits must come in the same "
            "order each time; to have the stage done from its start, fork the run from it (a task with "
            "on_code_change = 'stop' waits for its old code instead)"
        )
        self.mismatch = self.mismatch or mismatch  # of several branches the first one's
        return self.mismatch

    @property
    def _is_at_most_once(self) -> bool:
        entry = self._live.entry
        return entry is not None and entry.policy.delivery == "at_most_once"

    def _is_on_the_loop(self) -> bool:
        try:
            return asyncio.get_running_loop() is self._loop
        except RuntimeError:
            return False

    def _handed(self, value: Json) -> Any:
        return _There(value) if self._is_on_the_loop() else value


class _There(Awaitable[Json]):
    """A value that is there already, for code that awaits it."""

    def __init__(self, value: Json) -> None:
        self._value = value

    def __await__(self) -> Generator[Any, None, Json]:
        yield from ()
        return self._value


def spelled(mark: Mark) -> str:
    """What stands, or is asked for, at a place, in words."""
    match mark.kind:
        case "step":
            return f"the step {mark.name!r}"
        case "event":
            return f"a wait for the event {mark.name!r}"
        case _:
            return "a sleep"
