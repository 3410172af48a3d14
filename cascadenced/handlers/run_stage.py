"""Do the current stage of a run and say how it went. The only place where task code runs."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from cascadenced.clock import Clock
from cascadenced.crashpoint import crashpoint
from cascadenced.errors import CascadenceError, PrecheckError
from cascadenced.events.base import Json
from cascadenced.events.content import Unserialisable, cut, own_copy, recordable
from cascadenced.events.stage import StageFailed, StageFinished
from cascadenced.handlers.failure import is_harmless, tell
from cascadenced.handlers.research import ResearchFailed, gather
from cascadenced.identity import Pseudonyms, Redactor
from cascadenced.runtime.record import LiveRun
from cascadenced.runtime.spawn import Spawner, SpawnerClosed

_FED_BY = {"plan": "research", "run": "plan", "verify": "run"}
"""Stage → the stage whose output it is handed, if its hook takes a parameter."""

OnFailure = Callable[[LiveRun, str, str], None]
"""(run, stage, redacted traceback)"""

Equip = Callable[[Any, LiveRun], None]
"""Gives a fresh task instance what it may ask of the daemon during its run."""


class StageRunner:
    """`perform` of runtime/runs.py. The instance of a run is made at its first stage here and kept until it ends."""

    def __init__(self, clock: Clock, spawner: Spawner, pseudonyms: Pseudonyms, equip: Equip) -> None:
        self._clock, self._spawner, self._pseudonyms, self._equip = clock, spawner, pseudonyms, equip
        self.on_failure: OnFailure | None = None
        """Told where task code raised; the daemon logs it, a script gets the exception itself."""

    async def __call__(self, live: LiveRun) -> StageFinished | StageFailed:
        stage, attempt = live.run.current, live.run.attempt
        assert stage is not None
        assert live.identity is not None
        redact = live.redact = live.redact or Redactor(live.identity, self._pseudonyms)
        crashpoint("stage.before_effect")
        began = self._clock.monotonic()
        try:
            output = await self._output(live, stage)
        except asyncio.CancelledError as error:
            current = asyncio.current_task()
            if current is not None and current.cancelling():
                raise  # the daemon stops
            failure: BaseException = error  # the task cancelled itself; that is an error of its own
        except SpawnerClosed:
            raise
        except Exception as error:  # noqa: BLE001 -- whatever a task raises is how its stage went
            failure = error
        else:
            crashpoint("stage.after_effect")
            return StageFinished(
                task=live.run.task,
                stage=stage,
                attempt=attempt,
                output=output,
                shown=_shown_if_changed(output, redact),
                took_s=self._clock.monotonic() - began,
            )
        crashpoint("stage.after_effect")
        return await self._failed(live, stage, attempt, failure, redact, self._clock.monotonic() - began)

    def _make(self, live: LiveRun) -> None:
        entry, identity = live.entry, live.identity
        assert entry is not None
        assert identity is not None
        instance = entry.make()
        for name, value in (
            ("user_id", identity.user_id),
            ("group_id", identity.group_id),
            ("run_id", live.run_id),
            ("args", own_copy(live.run.args)),
            ("context", []),
        ):
            setattr(instance, name, value)
        self._equip(instance, live)
        live.instance = instance

    async def _output(self, live: LiveRun, stage: str) -> Json:
        """What is recorded of the stage: JSON as it will be read back. Raises whatever the hook raises."""
        assert live.entry is not None
        hook, keep = live.entry.hooks.get(stage), _KEPT.get(stage, recordable)
        if hook is None:
            raise _no_hook(stage)
        if live.instance is None and hook.is_async and not live.entry.inert:
            await self._spawner.call(self._make, live)  # its constructor may block; it is a plain function
        before = _FED_BY.get(stage)
        arguments = (own_copy(live.run.outputs.get(before)),) if hook.takes and before is not None else ()

        # Whatever looks at the task or at what it returns may run its code, hence in here, where the spawner runs it.
        def begun() -> Any:
            if live.instance is None:
                self._make(live)
            function = getattr(live.instance, stage, None)
            if function is None:
                raise _no_hook(stage)
            return function(*arguments)

        def in_a_thread() -> Any:
            value = begun()
            return _kept_later(value, keep) if inspect.isawaitable(value) else keep(value)

        async def on_the_loop() -> Any:
            value = begun()
            return keep(await value if inspect.isawaitable(value) else value)

        value = await self._spawner.call(on_the_loop if hook.is_async else in_a_thread)
        if stage != "research":
            return value
        assert live.identity is not None
        return await self._spawner.call(recordable, await gather(value, live.identity, self._spawner))

    async def _failed(
        self, live: LiveRun, stage: str, attempt: int, error: BaseException, redact: Redactor, took_s: float
    ) -> StageFailed:
        # The types are compared, not asked: an instance may have code of its own for that.
        research_failed = stage == "research" and type(error) is ResearchFailed
        told = error.__cause__ if research_failed and error.__cause__ is not None else error
        said = tell(told, redact) if is_harmless(told) else await self._spawner.call(tell, told, redact)
        if not research_failed and issubclass(type(error), Exception):
            live.error = error  # a CancelledError handed to a caller would look like the caller's own
        if self.on_failure is not None and not issubclass(type(error), CascadenceError):
            self.on_failure(live, stage, said.where)
        return StageFailed(
            task=live.run.task,
            stage=stage,
            attempt=attempt,
            error_type=ResearchFailed.__name__ if research_failed else said.error_type,
            reason=said.reason,
            partial=said.partial,
            shown=said.shown,
            took_s=took_s,
            fatal=not research_failed,
        )


def _no_hook(stage: str) -> Unserialisable:
    return Unserialisable(f"the task's code no longer has a {stage}() hook", code="hook.missing")


async def _kept_later(value: Awaitable[Any], keep: Callable[[Any], Any]) -> Any:
    return keep(await value)


def _passed(value: object) -> None:
    """Only True passes; a string is the reason why not."""
    if value is not True:
        raise PrecheckError(value if isinstance(value, str) and value else "precheck failed")


def _plan(value: Any) -> Json:
    if _is_plan_of_tasks(value):
        raise Unserialisable("a plan of task objects is not supported in this version", code="plan.unsupported")
    return recordable(value)


def _query(value: Any) -> Any:
    """What `research` returned is a question; its answer is recorded."""
    return value


_KEPT: Mapping[str, Callable[[Any], Any]] = {"precheck": _passed, "plan": _plan, "research": _query}
"""Stage → what becomes of what its hook returned; of the others it is recorded as it is."""


def _is_plan_of_tasks(value: object) -> bool:
    if isinstance(value, dict) and value.get("execution") == "parallel":
        value = value.get("tasks")
    items = value if isinstance(value, list) else [value]
    return any(callable(getattr(item, "run", None)) for item in items)


def _shown_if_changed(output: Json, redact: Redactor) -> str | None:
    """Display text of an output, None where it is simply its repr: then it is not stored twice."""
    if output is None:
        return None
    plain = repr(output)
    text = redact(plain)
    return None if text is plain or cut(text) == cut(plain) else cut(text)
