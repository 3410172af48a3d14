"""Runs: asked for, controlled, shown, explained."""

from __future__ import annotations

import re
from typing import Annotated, Any

import msgspec

from cascadenced.errors import Conflict, Invalid, Refused, RunFailedError, Unknown
from cascadenced.events.base import Json
from cascadenced.events.received import MAX_PRIORITY
from cascadenced.events.streams import run_stream
from cascadenced.handlers.control_requests import Asker, Outcome
from cascadenced.handlers.run_requests import Origin
from cascadenced.identity import checked
from cascadenced.instance import Instance
from cascadenced.pipeline.access import Caller
from cascadenced.pipeline.contexts import checked_context, checked_kind
from cascadenced.pipeline.model import STAGES, Run
from cascadenced.pipeline.policy import Policy
from cascadenced.projections.runs import resolve_run_id
from cascadenced.runtime.runs import Accepted
from cascadenced.verbs.base import ListArguments, Readable, Somebody, Someone, hashed, reading, verb


class RunArguments(Somebody, kw_only=True, forbid_unknown_fields=True):
    """wait: whether to answer when the run has ended rather than when it is recorded."""

    task: str
    args: dict[str, Json] = {}
    idempotency_key: str | None = None
    priority: Annotated[int, msgspec.Meta(ge=-MAX_PRIORITY, le=MAX_PRIORITY)] = 0
    wait: bool = True
    via: str = "cli"


class DispatchArguments(Somebody, kw_only=True, forbid_unknown_fields=True):
    """wait: whether to answer with the workflow's result."""

    event: str
    payload: dict[str, Json] = {}
    idempotency_key: str | None = None
    wait: bool = True
    via: str = "cli"


class ForkArguments(Somebody, kw_only=True, forbid_unknown_fields=True):
    """run: its id, or the first 8 or more characters of it.  stage: the first that is performed.

    args: those that are to be other ones.  wait: as of `run`.
    """

    run: str
    stage: str
    args: dict[str, Json] = {}
    wait: bool = True
    via: str = "cli"


class RunControlArguments(Someone, kw_only=True, forbid_unknown_fields=True):
    """run: its id, or the first 8 or more characters of it. Only the owner of the data folder may leave out who asks.

    A run belongs to its user and to everybody of its group; for others it is not there.
    """

    run: str


class CancelArguments(RunControlArguments, kw_only=True, forbid_unknown_fields=True):
    """reason: for the audit trail."""

    reason: str = ""


class SignalArguments(RunControlArguments, kw_only=True, forbid_unknown_fields=True):
    """kind: `context`.  value: what the run is told, JSON of at most 3,072 characters."""

    value: Json
    kind: str = "context"


class ResolveArguments(RunControlArguments, kw_only=True, forbid_unknown_fields=True):
    """resolution: retry, done or fail.  output: what the effect returned, with `done`."""

    resolution: str
    output: Json = None


class RunsArguments(ListArguments, kw_only=True, forbid_unknown_fields=True):
    task: str | None = None
    status: str | None = None


class ShowArguments(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """run: its id, or the beginning of it; to be explained, also SCHEDULE@INSTANT."""

    run: str


class DiffArguments(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """left, right: runs, each by its id or the beginning of it.  times: whether to tell how long things took."""

    left: str
    right: str
    times: bool = False


class PartialArguments(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """stage: a stage of the pipeline, or `execute` for `run`.  user_id, group_id: whose runs count; raw ids."""

    task: str
    stage: str
    user_id: str | None = None
    group_id: str | None = None


class RunResult(msgspec.Struct):
    """status: how the run stands, or `refused`.  duplicate: whether the same was asked before."""

    run_id: str
    status: str
    result: Json = None
    duplicate: bool = False


class DispatchResult(msgspec.Struct):
    """run_id: the run of the workflow that answers, None if nobody listens.  duplicate: whether it was asked before."""

    event: str
    run_id: str | None
    status: str
    result: Json = None
    duplicate: bool = False


class RunControlled(msgspec.Struct):
    """status: how the run stands now.  duplicate: whether the same was asked before; nothing was done again."""

    run_id: str
    task: str
    status: str
    duplicate: bool = False


class Signalled(msgspec.Struct):
    """delivered: whether no stage was under way, so that the next one is told at once."""

    run_id: str
    delivered: bool
    duplicate: bool = False


async def _run(instance: Instance, asked: RunArguments) -> RunResult:
    accepted = await instance.requests.run(
        asked.task,
        asked.identity(),
        asked.args,
        Origin(via=asked.via),
        idempotency_key=asked.idempotency_key,
        priority=asked.priority,
    )
    return await _outcome(instance, accepted, wait=asked.wait)


async def _trigger(instance: Instance, asked: RunArguments) -> RunResult:
    entry = instance.tasks.get(asked.task)
    if entry is not None and entry.kind != "manual":
        raise Conflict(f"'{asked.task}' is not a manual task")
    return await _run(instance, asked)


async def _fork(instance: Instance, asked: ForkArguments) -> RunResult:
    identity, hashes = asked.identity(), instance.pseudonyms
    caller = Caller(hashes.user(identity.user_id), hashes.group(identity.group_id), is_owner=False)
    run_id = await resolve_run_id(instance.log.tables, asked.run, caller)
    accepted = await instance.forks.fork(run_id, asked.stage, identity, asked.args, via=asked.via)
    return await _outcome(instance, accepted, wait=asked.wait)


async def _dispatch(instance: Instance, asked: DispatchArguments) -> DispatchResult:
    dispatched = await instance.requests.dispatch(
        asked.event, asked.payload, asked.identity(), Origin(via=asked.via), idempotency_key=asked.idempotency_key
    )
    if dispatched.run_id is None:
        return DispatchResult(asked.event, None, "unhandled", duplicate=dispatched.duplicate)
    if dispatched.refused is not None:
        raise await _refusal(instance, dispatched.run_id, *dispatched.refused)
    if not asked.wait:
        return DispatchResult(asked.event, dispatched.run_id, "accepted", duplicate=dispatched.duplicate)
    run = await _ended(instance, dispatched.run_id)
    return DispatchResult(asked.event, dispatched.run_id, run.status, run.result, dispatched.duplicate)


async def _outcome(instance: Instance, accepted: Accepted, *, wait: bool) -> RunResult:
    if accepted.refused is not None:
        raise await _refusal(instance, accepted.run_id, *accepted.refused)
    if not wait:
        return RunResult(accepted.run_id, "accepted", duplicate=accepted.duplicate)
    run = await _ended(instance, accepted.run_id)
    return RunResult(accepted.run_id, run.status, run.result, accepted.duplicate)


async def _ended(instance: Instance, run_id: str) -> Run:
    """The run, ended well. Raises RunFailedError with the recorded reason, which names nobody; Conflict if refused."""
    run = (await instance.runs.ended(run_id)).run
    if run.status == "refused":
        raise await _refusal(instance, run_id, run.error_type or "refused", run.reason or "refused")
    if run.status != "success":
        raise RunFailedError(run.reason or run.status, error_type=run.error_type or "error", run_id=run_id)
    return run


async def _refusal(instance: Instance, run_id: str, code: str, reason: str) -> Refused:
    refusal = Unknown(reason, code=code) if code == "unknown_task" else Conflict(reason, code=code)
    refusal.recorded = True
    refusal.event_id = (await instance.log.read_stream(run_stream(run_id)))[-1].id
    return refusal


_MAX_REASON_CHARS = 500


async def _pause_run(instance: Instance, asked: RunControlArguments) -> RunControlled:
    return _controlled(await instance.control_requests.pause(asked.run, _asker(instance, asked)))


async def _resume_run(instance: Instance, asked: RunControlArguments) -> RunControlled:
    return _controlled(await instance.control_requests.resume(asked.run, _asker(instance, asked)))


async def _cancel(instance: Instance, asked: CancelArguments) -> RunControlled:
    asker = _asker(instance, asked)
    reason = asked.reason[:_MAX_REASON_CHARS]
    if asker.redact is not None:
        reason = asker.redact(reason)
    return _controlled(await instance.control_requests.cancel(asked.run, asker, reason or "cancelled on request"))


async def _signal(instance: Instance, asked: SignalArguments) -> Signalled:
    checked_kind(asked.kind)
    payload = checked_context(asked.value)
    done = await instance.control_requests.signal(asked.run, _asker(instance, asked), payload)
    return Signalled(done.run_id or "", done.delivered, done.duplicate)


async def _resolve(instance: Instance, asked: ResolveArguments) -> RunControlled:
    asker = _asker(instance, asked)
    return _controlled(await instance.control_requests.resolve(asked.run, asker, asked.resolution, asked.output))


def _asker(instance: Instance, asked: RunControlArguments) -> Asker:
    """Who wants to control a run. Raises Invalid if they do not say so, and must."""
    if not asked.is_owner:
        checked(asked.user_id, "user_id")
        checked(asked.group_id, "group_id")
    return asked.asker(instance.pseudonyms)


def _controlled(done: Outcome) -> RunControlled:
    assert done.run is not None
    return RunControlled(done.run_id or "", done.run.task, done.run.shown_status, done.duplicate)


async def _runs(instance: Readable, asked: RunsArguments) -> Any:
    return await instance.answers.runs(**msgspec.structs.asdict(asked))


async def _show(instance: Readable, asked: ShowArguments) -> Any:
    return await instance.answers.run(asked.run)


_TICK = re.compile(r"(.+)@([^@]*)", re.DOTALL)
"""A due instant of a schedule: `report@2026-11-30T09:00`."""


async def _explain(instance: Readable, asked: ShowArguments) -> Any:
    if (tick := _TICK.fullmatch(asked.run)) is not None:
        task, when = tick.groups()
        try:
            return await instance.answers.explain_tick(task, when, now_us=instance.clock.now_us())
        except Unknown:
            if when[:1].isdigit():  # else it need not be meant as a time
                raise
        except Invalid as error:
            raise Invalid(str(error).replace("'at'", "what follows @", 1), code=error.code) from None

    def policy(task: str) -> Policy | None:
        entry = instance.catalogue.tasks.get(task)
        return None if entry is None else entry.policy

    return await instance.answers.explain(
        asked.run,
        limit=instance.config.max_concurrent_runs,
        policy=policy,
        is_up=instance.epoch is not None,
        epoch=instance.epoch,
        now_us=instance.clock.now_us(),
        slots=instance.slots,
    )


async def _diff(instance: Readable, asked: DiffArguments) -> Any:
    return await instance.answers.diff(asked.left, asked.right, times=asked.times)


_STAGES = (*STAGES, "execute")


async def _partial(instance: Readable, asked: PartialArguments) -> Any:
    if asked.stage not in _STAGES:
        raise Invalid(f"there is no stage {asked.stage[:40]!r}: it is one of {', '.join(_STAGES)}")
    whose = hashed(instance, user_id=asked.user_id, group_id=asked.group_id)
    return await instance.answers.partial(asked.task, asked.stage, **whose)


async def _followups(instance: Readable, asked: ListArguments) -> Any:
    return await instance.answers.followups(limit=asked.limit, after=asked.after)


VERBS = (
    verb("run", RunArguments, _run, "run a task", is_wish=True),
    verb("trigger", RunArguments, _trigger, "run a manual task", is_wish=True),
    verb(
        "pause_run",
        RunControlArguments,
        _pause_run,
        "let what is under way of a run end, and start nothing new",
        is_wish=True,
    ),
    verb("resume_run", RunControlArguments, _resume_run, "let a paused run go on", is_wish=True),
    verb("cancel", CancelArguments, _cancel, "end a run now", is_wish=True),
    verb("signal", SignalArguments, _signal, "tell a run something", is_wish=True),
    verb("resolve", ResolveArguments, _resolve, "say what became of a run in doubt", is_wish=True),
    verb("fork", ForkArguments, _fork, "a new run that begins with the results of another one", is_wish=True),
    verb("dispatch", DispatchArguments, _dispatch, "dispatch an event to its workflow", is_wish=True),
    reading("runs", RunsArguments, _runs, "runs, newest first"),
    reading("show", ShowArguments, _show, "one run in full"),
    reading("explain", ShowArguments, _explain, "why a run is as it is"),
    reading("diff", DiffArguments, _diff, "where two runs differ"),
    reading("partial", PartialArguments, _partial, "what the newest failure of a stage had done already"),
    reading("followups", ListArguments, _followups, "what was done about failed runs"),
)
