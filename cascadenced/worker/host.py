"""What a task in a worker may ask of the daemon while it performs a stage. Each call says where it stands; the daemon
answers from the log, or has it done and records it.

In a plain hook the answers are waited for; where an event loop runs, all that it asks is awaited.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Awaitable, Callable, Generator
from contextvars import ContextVar
from functools import partial
from typing import Any

from cascadenced import errors
from cascadenced.events.base import Json
from cascadenced.events.content import recordable, text_of, type_name
from cascadenced.events.place import Place
from cascadenced.pipeline import asks
from cascadenced.runtime.lanes import Lanes
from cascadenced.runtime.under_way import UnderWay
from cascadenced.runtime.worker_protocol import (
    Answer,
    Ask,
    EventWanted,
    Go,
    Refusal,
    SleepWanted,
    StepDone,
    StepRaised,
    StepWanted,
    Suspend,
    Wish,
)
from cascadenced.worker.channel import Channel


class Suspended(BaseException):
    """The hook is left where it stands; the stage is performed again later. For tasks to let pass."""


class Host:
    """`_host` of a task in a worker. `begin` is called before each stage.

    suspended: whether the daemon has said so in this stage, whatever the task made of it.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self.begin()

    def begin(self) -> None:
        self._lanes, self._under_way = Lanes(), UnderWay(lambda: self.suspended)
        self.suspended = False

    def enter(self) -> None:
        """The asyncio task that calls this is the stage's own."""
        self._lanes.enter()

    async def settled(self) -> None:
        """Return when no step is under way on the loop any more."""
        await self._under_way.settled()

    def step(self, name: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What `function(*args, **kwargs)` returns, as it is recorded; it is done once, and a stage that is performed
        again is handed what was recorded. To be awaited in `async` hooks, and if `function` is a coroutine function."""
        asks.checked_step(name)
        _refuse_within(f"the step {name!r}")
        place = self._lanes.take()
        if _is_coroutine_function(function):
            return self._awaited_step(place, name, function, args, kwargs)
        value = self._plain_step(place, name, function, args, kwargs)
        return _There(value) if _loop_runs() else value

    def _plain_step(self, place: Place, name: str, function: Callable[..., Any], args: Any, kwargs: Any) -> Json:
        answer = self._ask(StepWanted(id=self._channel.next_id(), place=place, name=name))
        if type(answer) is not Go:
            return _value(answer)
        began = time.monotonic()
        within = _within.set(True)
        try:
            value = recordable(function(*args, **kwargs), f"what the step {name!r} returned")
        except BaseException as error:
            if not self.suspended:
                self._ask(self._raised(place, name, error, began))
            raise
        finally:
            _within.reset(within)
        self._ask(self._done(place, name, value, began))
        return value

    async def _awaited_step(
        self, place: Place, name: str, function: Callable[..., Any], args: Any, kwargs: Any
    ) -> Json:
        self._check()
        answered = self._sent(StepWanted(id=self._channel.next_id(), place=place, name=name))
        return await self._under_way.do(self._done_if_wanted(answered, place, name, function, args, kwargs))

    async def _done_if_wanted(
        self, answered: Awaitable[Answer], place: Place, name: str, function: Callable[..., Any], args: Any, kwargs: Any
    ) -> Json:
        answer = self._noticed(await answered)
        if type(answer) is not Go:
            return _value(answer)
        began = time.monotonic()
        within = _within.set(True)
        try:
            value = recordable(await function(*args, **kwargs), f"what the step {name!r} returned")
        except BaseException as error:
            if issubclass(type(error), Exception):  # else there is no time for it
                await self._later(self._raised(place, name, error, began))
            raise
        finally:
            _within.reset(within)
        await self._later(self._done(place, name, value, began))
        return value

    def sleep(self, seconds: float) -> Any:
        """Return when `seconds` have passed; while they pass nothing of the run is kept in a process."""
        wanted_s = asks.checked_sleep(seconds)
        _refuse_within("a sleep")
        place = self._lanes.take()
        return self._done_or_awaited(SleepWanted(id=self._channel.next_id(), place=place, seconds=wanted_s))

    def wait_for(self, name: str, timeout_s: float | None = None, where: dict[str, Json] | None = None) -> Any:
        """The payload of the next event `name` that holds what `where` says. Raises TimeoutError."""
        matching = asks.checked_wait(name, timeout_s, where)
        _refuse_within(f"a wait for the event {name!r}")
        question = EventWanted(
            id=self._channel.next_id(), place=self._lanes.take(), name=name, where=matching, timeout_s=timeout_s
        )
        if _loop_runs():
            return self._awaited_event(question)
        return _came(_value(self._ask(question)), question)

    async def _awaited_event(self, question: EventWanted) -> Json:
        return _came(await self._awaited(question), question)

    async def add_note(self, note: str) -> None:
        await self._wish("add_note", note)

    async def add_pointer(self, task: str, user_id: str, run_id: str, group_id: str | None) -> bool:
        return bool(await self._wish("add_pointer", task, user_id, run_id, group_id))

    async def dispatch(self, name: str, payload: dict[str, Json] | None = None) -> Json:
        return await self._wish("dispatch", name, payload)

    async def _wish(self, verb: str, *arguments: Json) -> Json:
        self._check()
        wish = Wish(id=self._channel.next_id(), verb=verb, arguments=tuple(map(recordable, arguments)))
        return _value(await self._later(wish))

    def _done_or_awaited(self, question: Ask) -> Any:
        if _loop_runs():
            return self._awaited(question)
        return _value(self._ask(question))

    async def _awaited(self, question: Ask) -> Json:
        self._check()
        return _value(await self._later(question))

    def _ask(self, question: Ask) -> Answer:
        self._check()
        return self._noticed(self._channel.asked(question))

    async def _later(self, question: Ask) -> Answer:
        return self._noticed(await self._sent(question))

    def _sent(self, question: Ask) -> Awaitable[Answer]:
        import asyncio

        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Answer] = loop.create_future()

        def settle(given: Answer) -> None:
            if not answer.done():
                answer.set_result(given)

        def deliver(given: Answer) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(settle, given)

        self._channel.ask(question, deliver)
        return answer

    def _check(self) -> None:
        if self.suspended and not _within.get():  # what is within a step comes to its end
            raise Suspended()

    def _noticed(self, answer: Answer) -> Answer:
        if type(answer) is Suspend:
            self.suspended = True
            raise Suspended()
        return answer

    def _done(self, place: Place, name: str, value: Json, began: float) -> StepDone:
        took_s = time.monotonic() - began
        return StepDone(id=self._channel.next_id(), place=place, name=name, value=value, took_s=took_s)

    def _raised(self, place: Place, name: str, error: BaseException, began: float) -> StepRaised:
        return StepRaised(
            id=self._channel.next_id(),
            place=place,
            name=name,
            error_type=type_name(error),
            text=text_of(error),
            took_s=time.monotonic() - began,
        )


_within: ContextVar[bool] = ContextVar("within a step", default=False)


class _There:
    """A value that is there already, for code that awaits it."""

    def __init__(self, value: Json) -> None:
        self._value = value

    def __await__(self) -> Generator[None, None, Json]:
        yield from ()
        return self._value


_CO_COROUTINE = 0x80


def _is_coroutine_function(function: Any) -> bool:
    """As `inspect` has it, which takes 10 ms to import."""
    while isinstance(function, partial):
        function = function.func
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    return code is not None and bool(code.co_flags & _CO_COROUTINE)


def _loop_runs() -> bool:
    asyncio: Any = sys.modules.get("asyncio")
    return asyncio is not None and asyncio._get_running_loop() is not None


def _refuse_within(what: str) -> None:
    if _within.get():
        raise asks.refused_within(what)


def _came(payload: Json, asked: EventWanted) -> Json:
    if payload is None:
        raise TimeoutError(f"no event {asked.name!r} came within {asked.timeout_s:g} s")
    return payload


def _value(answer: Answer) -> Json:
    """What an answer says, or the error that it is."""
    if type(answer) is Refusal:
        kind = getattr(errors, answer.kind, None)
        known = isinstance(kind, type) and issubclass(kind, errors.Refused)
        raise (kind if known else errors.Refused)(answer.text, code=answer.code)  # type: ignore[misc]
    return getattr(answer, "value", None)
