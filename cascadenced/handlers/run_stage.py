"""Do the current stage of a run and say how it went. The only place where task code runs."""

from __future__ import annotations

import asyncio
import copy
import traceback
from collections.abc import Callable
from typing import Any

from cascadenced.clock import Clock
from cascadenced.crashpoint import crashpoint
from cascadenced.errors import CascadenceError, PrecheckError
from cascadenced.events.base import Json
from cascadenced.events.content import MAX_SHOWN_CHARS, TooLarge, Unserialisable, cut, recordable, shown
from cascadenced.events.stage import StageFailed, StageFinished
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
            if live.instance is None:
                await self._make(live)
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
        return self._failed(live, stage, attempt, failure, redact, self._clock.monotonic() - began)

    async def _make(self, live: LiveRun) -> None:
        assert live.entry is not None
        assert live.identity is not None
        instance = await self._spawner.call(live.entry.make)
        for name, value in (
            ("user_id", live.identity.user_id),
            ("group_id", live.identity.group_id),
            ("run_id", live.run_id),
            ("args", _own_copy(live.run.args)),
            ("context", []),
        ):
            setattr(instance, name, value)
        self._equip(instance, live)
        live.instance = instance

    async def _output(self, live: LiveRun, stage: str) -> Json:
        """What is recorded of the stage: JSON as it will be read back. Raises whatever the hook raises."""
        assert live.entry is not None
        run, hook = live.run, live.entry.hooks.get(stage)
        function = getattr(live.instance, stage, None)
        if hook is None or function is None:
            raise Unserialisable(f"the task's code no longer has a {stage}() hook", code="hook.missing")
        before = _FED_BY.get(stage)
        arguments = (_own_copy(run.outputs.get(before)),) if hook.takes and before is not None else ()
        value = await self._spawner.call(function, *arguments)
        if stage == "research":
            assert live.identity is not None
            value = await gather(value, live.identity, self._spawner)
        if stage == "precheck":
            return _passed(value)
        if stage == "plan" and _is_plan_of_tasks(value):
            raise Unserialisable("a plan of task objects is not supported in this version", code="plan.unsupported")
        return recordable(value)

    def _failed(
        self, live: LiveRun, stage: str, attempt: int, error: BaseException, redact: Redactor, took_s: float
    ) -> StageFailed:
        research_failed = stage == "research" and isinstance(error, ResearchFailed)
        told = error.__cause__ if research_failed and error.__cause__ is not None else error
        reason = cut(redact(_text(told)))
        partial, partial_shown = _partial(told, redact)
        if not research_failed and isinstance(error, Exception):
            live.error = error  # a CancelledError handed to a caller would look like the caller's own
        if self.on_failure is not None and not isinstance(error, CascadenceError):
            self.on_failure(live, stage, redact(_traceback(told)))
        return StageFailed(
            task=live.run.task,
            stage=stage,
            attempt=attempt,
            error_type=_error_type(error),
            reason=reason,
            partial=partial,
            shown=partial_shown,
            took_s=took_s,
            fatal=not research_failed,
        )


def _traceback(error: BaseException) -> str:
    """Where `error` was raised, the last MAX_SHOWN_CHARS of it, without our own frames above the task's."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "/cascadenced/handlers/" not in frame.filename] or list(frames)
    return _utf8("".join(traceback.format_list(own)))[-MAX_SHOWN_CHARS:]


def _passed(value: object) -> None:
    """Only True passes; a string is the reason why not."""
    if value is not True:
        raise PrecheckError(value if isinstance(value, str) and value else "precheck failed")


def _own_copy(value: Json) -> Any:
    """`value` for a task to do with as it likes: what is recorded, and published later, stays as it was."""
    return copy.deepcopy(value)


def _is_plan_of_tasks(value: object) -> bool:
    if isinstance(value, dict) and value.get("execution") == "parallel":
        value = value.get("tasks")
    items = value if isinstance(value, list) else [value]
    return any(callable(getattr(item, "run", None)) for item in items)


def _shown_if_changed(output: Json, redact: Redactor) -> str | None:
    """Display text of an output, None where it is simply its repr: then it is not stored twice."""
    text = None if output is None else cut(redact(repr(output)))
    return None if text is None or text == shown(output) else text


def _partial(error: BaseException, redact: Redactor) -> tuple[Json, str | None]:
    """What the exception carried as `.partial`: as content if JSON can hold it, in any case as text."""
    try:
        partial = getattr(error, "partial", None)
        if partial is None:
            return None, None
        text = cut(redact(_utf8(repr(partial))))
    except BaseException:  # noqa: BLE001 -- the task's own code once more
        return None, None
    try:
        return recordable(partial), text
    except (Unserialisable, TooLarge):
        return None, text


def _error_type(error: BaseException) -> str:
    return error.code if isinstance(error, Unserialisable | TooLarge) else type(error).__name__


def _text(error: BaseException) -> str:
    try:
        # A KeyError's text is only the key, which says nothing by itself.
        text = f"KeyError: {error}" if isinstance(error, KeyError) else str(error)
        return _utf8(text) or type(error).__name__
    except BaseException:  # noqa: BLE001 -- a hostile __str__ is still only an error of its own stage
        return f"{type(error).__name__} (its text cannot be shown)"


def _utf8(text: str) -> str:
    """`text` with halves of surrogate pairs, for which UTF-8 has no bytes, spelled out."""
    return text.encode(errors="backslashreplace").decode()
