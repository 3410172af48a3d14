"""Do the current stage of a run and say how it went. The only place where task code runs."""

from __future__ import annotations

import asyncio
import contextvars
import importlib
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import takewhile
from typing import Any

from msgspec.structs import replace

from cascadenced.clock import Clock
from cascadenced.crashpoint import crashpoint
from cascadenced.errors import CascadenceError, PrecheckError, Swallowed, TimeUp
from cascadenced.eventlog.base import EventLog
from cascadenced.events.base import Event, Json
from cascadenced.events.content import Unserialisable, cut, lineage_of, own_copy, recordable
from cascadenced.events.run import RunRequested
from cascadenced.events.signal import ContextAttached
from cascadenced.events.stage import StageFailed, StageFinished, StageLate
from cascadenced.events.streams import run_stream
from cascadenced.handlers.failure import for_people, is_harmless, tell
from cascadenced.handlers.plan import NOTHING_TO_DO, TaskPlan, is_within_a_plan, read_plan
from cascadenced.handlers.process_stage import DiedThere, FailedThere, ProcessStages
from cascadenced.handlers.research import ResearchFailed, gather
from cascadenced.handlers.steps import Steps
from cascadenced.identity import Pseudonyms, Redactor
from cascadenced.ids import RunId
from cascadenced.pipeline.doubts import doubt, may_have_happened
from cascadenced.pipeline.model import STAGES, Run
from cascadenced.pipeline.nesting import may_be_too_deep, refusal
from cascadenced.pipeline.policy import MAX_ATTEMPTS, NEVER_AGAIN, Policy, Retry
from cascadenced.pipeline.resume import CRASHES_TO_GIVE_UP
from cascadenced.plugins.base import BaseTask
from cascadenced.plugins.describe import WorkflowTask
from cascadenced.runtime.children import PlanFailed
from cascadenced.runtime.record import LiveRun, record_late
from cascadenced.runtime.spawn import Spawner, SpawnerClosed, Suspended, as_raised
from cascadenced.runtime.tasks import TaskEntry
from cascadenced.runtime.whose import Work, work

_FED_BY = {"plan": "research", "run": "plan", "verify": "run"}
"""Stage → the stage whose output it is handed, if its hook takes a parameter."""
CANCEL_PATIENCE_S = 0.2
"""How long a stage whose time is up may take to end itself."""

OnFailure = Callable[[LiveRun, str, str], None]
"""(run, stage, redacted traceback)"""

Equip = Callable[[Any, LiveRun], None]
"""Gives a fresh task instance what it may ask of the daemon during its run."""

_STEPPING = (BaseTask, WorkflowTask)


class StageRunner:
    """`perform` of runtime/runs.py. The instance of a run is made at its first stage here, and kept until it ends or
    waits."""

    def __init__(
        self,
        log: EventLog,
        clock: Clock,
        spawner: Spawner,
        pseudonyms: Pseudonyms,
        equip: Equip,
        *,
        max_processes: int,
    ) -> None:
        self._log, self._clock, self._spawner = log, clock, spawner
        self._pseudonyms, self._equip = pseudonyms, equip
        self._late: set[asyncio.Task[None]] = set()
        self._processes = ProcessStages(max_processes)
        self.on_failure: OnFailure | None = None
        """Told where task code raised; the daemon logs it, a script gets the exception itself."""
        spawner.on_late = self._ended_late

    async def __call__(self, live: LiveRun) -> Event:
        stage, attempt = live.run.current, live.run.attempt
        assert stage is not None
        assert live.identity is not None
        redact = live.redact = live.redact or Redactor(live.identity, self._pseudonyms)
        steps = self._steps_of(live, redact)
        work.set(Work(live, stage, attempt))
        live.printed = None
        crashpoint("stage.before_effect")
        began = self._clock.monotonic()
        try:
            output = await self._in_time(live, stage, steps)
            steps.refuse_rest()
            if steps.suspended is not None:
                raise Swallowed(f"the stage {stage} caught what unwinds it, and went on instead of waiting")
        except asyncio.CancelledError as error:
            current = asyncio.current_task()
            if current is not None and current.cancelling():
                raise  # the daemon stops, or the run was cancelled
            failure: BaseException = error  # the task cancelled itself; that is an error of its own
        except SpawnerClosed:
            raise
        except Suspended:
            assert steps.suspended is not None
            return steps.suspended if live.printed is None else replace(steps.suspended, printed=live.printed)
        except Exception as error:  # noqa: BLE001 -- whatever a task raises is how its stage went
            failure = steps.mismatch or error
        else:
            crashpoint("stage.after_effect")
            took_s = self._clock.monotonic() - began
            too_deep = await self._too_deep(live, stage, attempt, took_s) if isinstance(output, TaskPlan) else None
            return too_deep or self._finished(live, stage, attempt, output, redact, took_s)
        if steps.broken is not None:
            raise steps.broken
        crashpoint("stage.after_effect")
        if type(failure) in _CUT_OFF and live.entry is not None and _doubts(live.entry.policy, live.run, failure):
            return doubt(live.run, str(failure))
        return await self._failed(live, stage, attempt, failure, redact, self._clock.monotonic() - began)

    async def plan_again(self, live: LiveRun, retry: Retry) -> Sequence[TaskEntry]:
        """See `perform.Perform`."""
        assert live.identity is not None
        then = LiveRun(live.run_id, live.context)
        then.entry, then.identity = live.entry, live.identity
        then.redact = redact = Redactor(live.identity, self._pseudonyms)
        events = await self._log.read_stream(run_stream(live.run_id))
        then.fold(list(takewhile(lambda recorded: not _is_end_of_plan(recorded.event), events)))
        steps = Steps(self._log, self._clock, self._spawner, then, redact)
        asked_by = work.get()
        work.set(Work(then, "plan"))
        try:
            found = await self._in_time(then, "plan", steps)
            steps.refuse_rest()
        except SpawnerClosed:
            raise
        except Suspended:
            why = "it waits for something that it did not wait for before"
            raise PlanFailed(why, code="plan.changed") from None
        except Exception as error:  # noqa: BLE001 -- plan() is the task's own code
            if steps.broken is not None:
                raise steps.broken from None
            raise await self._plan_failed(steps.mismatch or error, retry, redact) from None
        finally:
            work.set(asked_by)
        return found.entries if isinstance(found, TaskPlan) else ()

    async def _plan_failed(self, error: BaseException, retry: Retry, redact: Redactor) -> PlanFailed:
        # The types are compared, not asked: an instance may have code of its own for that.
        there = error if type(error) in _OF_A_PROCESS else None
        said = there.said if there is not None else await self._spawner.call(tell, error, redact)  # type: ignore[attr-defined]
        if said.error_type in NEVER_AGAIN:  # it comes by other steps now, or returns what is no plan
            return PlanFailed(said.reason, code="plan.changed")
        return PlanFailed(said.reason, code="plan.failed", may_pass=_wants(retry, error))

    def let_go(self, live: LiveRun) -> None:
        """See `perform.Perform`."""
        live.instance = None
        self._processes.let_go(live)

    async def close(self) -> None:
        """End all processes of runs."""
        await self._processes.close()

    # ── the hook ─────────────────────────────────────────────────────────────────────────────────────────────

    def _in_time(self, live: LiveRun, stage: str, steps: Steps) -> Coroutine[Any, Any, Any]:
        """What the hook put out. Raises TimeUp."""
        assert live.entry is not None
        limit_s = live.entry.policy.timeout_s.get(stage)
        if limit_s is None:
            return self._settled_output(live, stage, steps)
        return self._limited_output(live, stage, steps, limit_s)

    async def _limited_output(self, live: LiveRun, stage: str, steps: Steps, limit_s: float) -> Any:
        loop, begun, ends_at = asyncio.get_running_loop(), asyncio.Event(), 0.0

        def begin() -> None:
            nonlocal ends_at
            ends_at = ends_at or self._clock.monotonic() + limit_s
            with suppress(RuntimeError):  # the loop is gone
                loop.call_soon_threadsafe(begun.set)

        async def time_up() -> None:
            await begun.wait()  # for a thread or a process, which others may have: nothing has happened yet
            await self._clock.sleep(max(0.0, ends_at - self._clock.monotonic()))

        live.on_begin = begin
        output = loop.create_task(self._settled_output(live, stage, steps), name=f"run-{live.run_id}")
        timer = asyncio.ensure_future(time_up())
        try:
            await asyncio.wait({output, timer}, return_when=asyncio.FIRST_COMPLETED)
            if output.done():
                return output.result()
        except asyncio.CancelledError:
            output.cancel()
            output.add_done_callback(_late_end(self._ended_late))
            raise
        finally:
            timer.cancel()
        output.cancel()
        await asyncio.wait({output}, timeout=CANCEL_PATIENCE_S)
        output.add_done_callback(_late_end(self._ended_late))
        raise TimeUp(f"the stage {stage} took longer than {limit_s:g} s")

    async def _settled_output(self, live: LiveRun, stage: str, steps: Steps) -> Any:
        """As `_output`, and no step is under way any more."""
        steps.enter()
        try:
            output = await self._output(live, stage, steps)
        except asyncio.CancelledError:
            steps.cancel()
            raise
        except BaseException:
            await steps.settled()
            raise
        await steps.settled()
        return output

    async def _output(self, live: LiveRun, stage: str, steps: Steps) -> Any:
        """What is recorded of the stage: JSON as it will be read back, or a plan of tasks. Raises whatever the hook
        raises."""
        assert live.entry is not None
        hook, keep = live.entry.hooks.get(stage), _KEPT[stage]
        children = live.run.children if stage == "run" else None
        if hook is None:
            if children is None:
                raise _no_hook(stage)
            return recordable(live.run.child_results, "what the runs of the plan returned")
        if live.instance is None and hook.is_async and not live.entry.inert:
            await self._spawner.call(self._made_first, live)  # its constructor may block; it is a plain function
        before = _FED_BY.get(stage)
        handed = live.run.outputs.get(before) if before is not None else None
        if children is not None:
            handed = live.run.child_results
        if live.entry.policy.isolation == "process":
            return await self._output_there(live, stage, handed, steps)
        arguments = (own_copy(handed),) if hook.takes and before is not None else ()
        do = self._on_the_loop if hook.is_async else self._in_a_thread
        value = await self._spawner.call(do, live, stage, steps, arguments, keep)
        return await self._answered(live, value) if stage == "research" else value

    # Whatever looks at the task or at what it returns may run its code, hence in these, which the spawner runs.

    async def _on_the_loop(
        self, live: LiveRun, stage: str, steps: Steps, arguments: tuple[Json, ...], keep: Callable[[Any], Any]
    ) -> Any:
        value = self._begun(live, stage, steps, arguments)
        return keep(await value if inspect.isawaitable(value) else value)

    def _in_a_thread(
        self, live: LiveRun, stage: str, steps: Steps, arguments: tuple[Json, ...], keep: Callable[[Any], Any]
    ) -> Any:
        value = self._begun(live, stage, steps, arguments)
        return _kept_later(value, keep) if inspect.isawaitable(value) else keep(value)

    def _begun(self, live: LiveRun, stage: str, steps: Steps, arguments: tuple[Json, ...]) -> Any:
        """What the hook returns, awaitable or not."""
        live.on_begin()
        if live.instance is None:
            self._make(live)
        if isinstance(live.instance, _STEPPING):
            live.instance._steps = steps
        _tell(live, stage)
        function = getattr(live.instance, stage, None)
        if function is None and stage == "plan":
            return importlib.import_module("ai_plan").plan(live.instance)
        if function is None:
            raise _no_hook(stage)
        return function(*arguments)

    async def _output_there(self, live: LiveRun, stage: str, handed: Json, steps: Steps) -> Any:
        """As `_output`, in a process of the run's own."""
        assert live.entry is not None
        stand_in = BaseTask()
        self._equip(stand_in, live)
        value = await self._processes.output(
            live,
            stage,
            handed,
            takes=live.entry.hooks[stage].takes,
            context=[event.payload for event in _to_tell(live, stage)],
            steps=steps,
            host=stand_in._host,
        )
        return await self._answered(live, value) if stage == "research" else value

    async def _answered(self, live: LiveRun, query: Any) -> Json:
        return await self._spawner.call(recordable, await self._answer(live, query), "the answer to research")

    async def _answer(self, live: LiveRun, query: Any) -> Any:
        """To the question that `research` returned. Raises ResearchFailed."""
        assert live.identity is not None
        return await gather(query, live.identity, self._spawner)

    def _steps_of(self, live: LiveRun, redact: Redactor) -> Steps:
        """What the stage under way works in steps with."""
        return Steps(self._log, self._clock, self._spawner, live, redact)

    def _made_first(self, live: LiveRun) -> None:
        live.on_begin()
        self._make(live)

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
        live.n_told = 0
        live.instance = instance

    # ── how it went ──────────────────────────────────────────────────────────────────────────────────────────

    def _finished(self, live: LiveRun, stage: str, attempt: int, output: Any, redact: Redactor, took_s: float) -> Event:
        task = live.run.task
        is_for_nobody = stage == "plan" and live.entry is not None and "run" not in live.entry.hooks
        if is_for_nobody and output == []:
            output = NOTHING_TO_DO
        if not isinstance(output, TaskPlan):
            if is_for_nobody:
                reason = "plan() returned data, and there is no run() that could use it"
                return StageFailed(
                    task=task, stage=stage, attempt=attempt, error_type="hook.missing", reason=reason, took_s=took_s
                )
            shown = _shown_if_changed(output, redact)
            return StageFinished(
                task=task,
                stage=stage,
                attempt=attempt,
                output=output,
                shown=shown,
                took_s=took_s,
                printed=live.printed,
            )
        live.planned = output.entries
        return StageFinished(
            task=task,
            stage=stage,
            attempt=attempt,
            shown=for_people(output.text, redact),
            took_s=took_s,
            children=output.planned,
            parallel=output.parallel,
        )

    async def _too_deep(self, live: LiveRun, stage: str, attempt: int, took_s: float) -> StageFailed | None:
        """The end of a plan that has too many above it, or its own task too often."""
        if not may_be_too_deep(live.run.nesting):
            return None
        assert live.entry is not None
        refused = refusal(await self._line_of(live), is_task=not is_within_a_plan(live.entry))
        if refused is None:
            return None
        code, reason = refused
        return StageFailed(
            task=live.run.task, stage=stage, attempt=attempt, error_type=code, reason=reason, took_s=took_s
        )

    async def _line_of(self, live: LiveRun) -> list[str]:
        """Tasks of the runs that one asked for the other, down to this one. Of each only the request is read: a parent
        may have a long stream."""
        tasks, parent = [live.run.task], live.run.parent_run_id
        while parent is not None:
            events = self._log.read_since(run_stream(RunId(parent)), 0)
            request = (await anext(events)).event
            assert isinstance(request, RunRequested)
            tasks, parent = [request.task, *tasks], request.parent_run_id
        return tasks

    async def _failed(
        self, live: LiveRun, stage: str, attempt: int, error: BaseException, redact: Redactor, took_s: float
    ) -> StageFailed:
        # The types are compared, not asked: an instance may have code of its own for that.
        research_failed = stage == "research" and type(error) is ResearchFailed
        told = error.__cause__ if research_failed and error.__cause__ is not None else error
        if type(told) in _OF_A_PROCESS:
            said = told.said  # type: ignore[attr-defined]  # the comparison narrows, mypy does not see it
        else:
            said = tell(told, redact) if is_harmless(told) else await self._spawner.call(tell, told, redact)
        if not research_failed and issubclass(type(error), Exception) and type(error) not in _OF_A_PROCESS:
            live.error = error  # a CancelledError handed to a caller would look like the caller's own
        if self.on_failure is not None and not issubclass(type(error), CascadenceError):
            self.on_failure(live, stage, said.where)
        retry_at_us = self._retry_at_us(live, stage, told, said.error_type)
        return StageFailed(
            task=live.run.task,
            stage=stage,
            attempt=attempt,
            error_type=ResearchFailed.__name__ if research_failed else said.error_type,
            reason=said.reason,
            partial=said.partial,
            shown=said.shown,
            took_s=took_s,
            fatal=not research_failed and retry_at_us is None,
            retry_at_us=retry_at_us,
            printed=live.printed,
            lineage=tuple(map(redact, _lineage(told))) if live.run.parent_run_id is not None else (),
        )

    def _retry_at_us(self, live: LiveRun, stage: str, error: BaseException, error_type: str) -> int | None:
        assert live.entry is not None
        retry, n_failed = live.entry.policy.retries.get(stage), live.run.n_failed + 1
        if retry is None or n_failed >= retry.max_attempts or error_type in NEVER_AGAIN:
            return None
        if not _wants(retry, error):
            return None
        return self._clock.now_us() + round(retry.delay_s(n_failed, f"{live.run_id}/{stage}/{n_failed}") * 1e6)

    def _ended_late(self, error: BaseException | None) -> None:
        """Code has ended that nobody waits for any more: said, and without effect."""
        its = work.get()
        if its is None or its.stage is None or its.attempt is None:
            return
        live, stage, attempt = its.live, its.stage, its.attempt
        reason = "" if error is None or live.redact is None else tell(error, live.redact).reason
        event = StageLate(
            task=live.run.task,
            stage=stage,
            attempt=attempt,
            outcome="success" if error is None else "error",
            reason=reason,
        )
        recording = asyncio.get_running_loop().create_task(record_late(self._log, live, event))
        self._late.add(recording)
        recording.add_done_callback(self._late.discard)


_OF_A_PROCESS = frozenset({FailedThere, DiedThere})
_CUT_OFF = frozenset({TimeUp, DiedThere})
"""How code ends that did not come to an end: its time is up, or its process is gone."""


def _wants(retry: Retry, error: BaseException) -> bool:
    return retry.wants_named(_lineage(error)) if type(error) in _OF_A_PROCESS else retry.wants(as_raised(error))


def _lineage(error: BaseException) -> tuple[str, ...]:
    if type(error) in _OF_A_PROCESS:
        return error.lineage  # type: ignore[attr-defined,no-any-return]
    return lineage_of(as_raised(error))


def _doubts(policy: Policy, run: Run, failure: BaseException) -> bool:
    """Whether an effect that was cut off is in doubt. Where it is simply tried again, the stage's retries say how often
    and how long after; without any it is at once, and not for ever."""
    if policy.delivery != "at_most_once" or not may_have_happened(run):
        return False
    n_at_most = CRASHES_TO_GIVE_UP if type(failure) is DiedThere else MAX_ATTEMPTS
    return policy.on_doubt != "retry" or (run.current not in policy.retries and run.attempt < n_at_most)


def _is_end_of_plan(event: Event) -> bool:
    return type(event) is StageFinished and event.stage == "plan"


def _late_end(tell_late: Callable[[BaseException | None], None]) -> Callable[[asyncio.Future[Any]], None]:
    """What is called when work that was given up has ended after all."""
    context = contextvars.copy_context()

    def ended(work: asyncio.Future[Any]) -> None:
        if not work.cancelled():
            context.copy().run(tell_late, work.exception())

    return ended


def _tell(live: LiveRun, stage: str) -> None:
    """Hand over what the run was told and its instance has not heard. Before the first stage that is everything."""
    told, instance = _to_tell(live, stage), live.instance
    if len(told) <= live.n_told:
        return
    attach = getattr(instance, "attach_context", None)
    for event in told[live.n_told :]:
        payload = own_copy(event.payload)
        if callable(attach):
            attach(payload)
        elif isinstance(instance.context, list):
            instance.context.append(payload)
        else:
            instance.context = [instance.context, payload]
    live.n_told = len(told)


def _to_tell(live: LiveRun, stage: str) -> Sequence[ContextAttached]:
    """All that the run's task has heard when `stage` begins. Before the first stage that is everything."""
    told = live.run.contexts
    return told if stage == "intake" or not told else told[: live.run.n_consumed]


def _no_hook(stage: str) -> Unserialisable:
    return Unserialisable(f"the task's code no longer has a {stage}() hook", code="hook.missing")


async def _kept_later(value: Awaitable[Any], keep: Callable[[Any], Any]) -> Any:
    return keep(await value)


def _passed(value: object) -> None:
    """Only True passes; a string is the reason why not."""
    if value is not True:
        raise PrecheckError(value if isinstance(value, str) and value else "precheck failed")


def _query(value: Any) -> Any:
    """What `research` returned is a question; its answer is recorded."""
    return value


_KEPT: Mapping[str, Callable[[Any], Any]] = {
    **{stage: partial(recordable, what=f"what {stage}() returned") for stage in STAGES},
    "precheck": _passed,
    "plan": read_plan,
    "research": _query,
}
"""Stage → what becomes of what its hook returned; of most it is recorded as it is."""


def _shown_if_changed(output: Json, redact: Redactor) -> str | None:
    """Display text of an output, None where it is simply its repr: then it is not stored twice."""
    if output is None:
        return None
    plain = repr(output)
    text = redact(plain)
    return None if text is plain or cut(text) == cut(plain) else cut(text)
