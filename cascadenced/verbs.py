"""The one table: verb → what it takes, what it does. The micro service, the Unix socket, the HTTP control routes and
commands without a daemon all serve it; none of them knows more than a name, a struct and a result.

A result is anything msgspec can encode; it is what the HTTP route of the same name returns.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import msgspec

from cascadenced.backup import Summary, make
from cascadenced.errors import BadMessage, Conflict, Invalid, Refused, RunFailedError, Unavailable, Unknown
from cascadenced.events.base import Context, Json
from cascadenced.events.inbound import MAX_PRIORITY, UpdatePointer
from cascadenced.events.strict import shaped
from cascadenced.events.subjects import checked_task_name
from cascadenced.handlers.control_requests import Asker, Outcome
from cascadenced.handlers.run_requests import Origin
from cascadenced.identity import Identity, Pseudonyms, Redactor, checked, checked_hash
from cascadenced.instance import Instance
from cascadenced.pipeline.access import Caller
from cascadenced.pipeline.admission import Switch
from cascadenced.pipeline.contexts import checked_context, checked_kind
from cascadenced.pipeline.model import STAGES, Run
from cascadenced.pipeline.policy import Policy
from cascadenced.projections.audit_trail import Category
from cascadenced.projections.runs import resolve_run_id
from cascadenced.runtime.record import run_stream
from cascadenced.runtime.runs import Accepted
from cascadenced.vault_file import JobThread

Arguments = TypeVar("Arguments", bound=msgspec.Struct)


class Verb(msgspec.Struct, Generic[Arguments], frozen=True):
    """takes: the struct of its arguments.  help: what it does, in a few words."""

    name: str
    takes: type[Arguments]
    do: Callable[[Instance, Arguments], Awaitable[Any]]
    help: str

    @property
    def is_wish(self) -> bool:
        """Whether it asks for something to happen, rather than how things are."""
        return issubclass(self.takes, _WISHES)


# ── arguments ────────────────────────────────────────────────────────────────────────────────────────────────


class Nothing(msgspec.Struct, forbid_unknown_fields=True):
    """No arguments."""


class Somebody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Who asks. Both are claims of the caller's, 1–256 characters."""

    user_id: str
    group_id: str

    def identity(self) -> Identity:
        return Identity(checked(self.user_id, "user_id"), checked(self.group_id, "group_id"))


class RunArguments(Somebody, kw_only=True, forbid_unknown_fields=True):
    """wait: whether to answer when the run has ended rather than when it is recorded."""

    task: str
    args: dict[str, Json] = {}
    idempotency_key: str | None = None
    priority: Annotated[int, msgspec.Meta(ge=-MAX_PRIORITY, le=MAX_PRIORITY)] = 0
    wait: bool = True
    via: str = "cli"


class Someone(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Who asks, as claims of theirs; they may leave them out where the verb allows it.

    idempotency_key: the same key of the same user is the same wish, for ever.
    """

    user_id: str | None = None
    group_id: str | None = None
    idempotency_key: str | None = None
    via: str = "cli"

    @property
    def is_owner(self) -> bool:
        return self.via in OWNERS_DOORS

    def asker(self, pseudonyms: Pseudonyms) -> Asker:
        """Raises Invalid for ids that cannot be any."""
        user_id = None if self.user_id is None else checked(self.user_id, "user_id")
        group_id = None if self.group_id is None else checked(self.group_id, "group_id")
        return Asker(
            caller=Caller(
                None if user_id is None else pseudonyms.user(user_id),
                None if group_id is None else pseudonyms.group(group_id),
                is_owner=self.is_owner,
            ),
            via=self.via,
            key=self.idempotency_key,
            redact=None if user_id is None or group_id is None else Redactor(Identity(user_id, group_id), pseudonyms),
        )


class SwitchArguments(Someone, kw_only=True, forbid_unknown_fields=True):
    """Who asks is optional: a switch belongs to the task, and the audit row shows whoever is named."""

    task: str


class PauseArguments(SwitchArguments, kw_only=True, forbid_unknown_fields=True):
    """job_id: a run of the task. Without it the newest run of the task under way is meant (of those that whoever asks
    may control), and the task itself if there is none."""

    job_id: str | None = None


class DispatchArguments(Somebody, kw_only=True, forbid_unknown_fields=True):
    """wait: whether to answer with the workflow's result."""

    event: str
    payload: dict[str, Json] = {}
    idempotency_key: str | None = None
    wait: bool = True
    via: str = "cli"


class PointerArguments(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Either a raw user_id or, for `pointer_receive`, a user_hash."""

    task: str
    run_id: str
    user_id: str | None = None
    user_hash: str | None = None
    group_id: str | None = None


class PointersArguments(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Filters are raw ids; they are hashed here."""

    task: str | None = None
    user_id: str | None = None
    group_id: str | None = None
    limit: int = 100
    after: str | None = None


class ListArguments(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    limit: int = 100
    after: str | None = None


class RunsArguments(ListArguments, kw_only=True, forbid_unknown_fields=True):
    task: str | None = None
    status: str | None = None


class ShowArguments(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    run: str


class DiffArguments(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """left, right: runs, each by its id or the beginning of it.  times: whether to tell how long things took."""

    left: str
    right: str
    times: bool = False


class TrailArguments(ListArguments, kw_only=True, forbid_unknown_fields=True):
    task: str
    category: Category = "all"


class PartialArguments(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """stage: a stage of the pipeline, or `execute` for `run`.  user_id, group_id: whose runs count; raw ids."""

    task: str
    stage: str
    user_id: str | None = None
    group_id: str | None = None


class TaskArguments(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    task: str | None = None


class LetterArguments(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    position: Annotated[int, msgspec.Meta(ge=1, le=2**62)]


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


OWNERS_DOORS = frozenset({"cli", "python"})
"""What only the owner of the data folder may say they came through."""


class ForkArguments(Somebody, kw_only=True, forbid_unknown_fields=True):
    """run: its id, or the first 8 or more characters of it.  stage: the first that is performed.

    args: those that are to be other ones.  wait: as of `run`.
    """

    run: str
    stage: str
    args: dict[str, Json] = {}
    wait: bool = True
    via: str = "cli"


_WISHES = (RunArguments, DispatchArguments, SwitchArguments, PointerArguments, RunControlArguments, ForkArguments)


class RebuildArguments(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """projections: names; empty for all."""

    projections: tuple[str, ...] = ()


class BackupArguments(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """folder: absolute; not there yet, or empty.  keys: whether the vault's key and the hash secret go along."""

    folder: str
    keys: bool = True


# ── results ──────────────────────────────────────────────────────────────────────────────────────────────────


class Listed(msgspec.Struct):
    name: str
    disabled: bool


class RunResult(msgspec.Struct):
    """status: how the run stands, or `refused`.  duplicate: whether the same was asked before."""

    run_id: str
    status: str
    result: Json = None
    duplicate: bool = False


class Switched(msgspec.Struct):
    """run_id: the run that was paused or resumed, null if it was the task itself.  duplicate: whether the same was
    asked before."""

    task: str
    changed: bool
    run_id: str | None = None
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


class PointerResult(msgspec.Struct):
    """stored: False if it was there already."""

    stored: bool


def is_duplicate(result: object) -> bool:
    """Whether a verb answers that the same was asked for before."""
    if isinstance(result, PointerResult):
        return not result.stored
    return isinstance(result, RunResult | DispatchResult | Switched | RunControlled | Signalled) and result.duplicate


class Verified(msgspec.Struct):
    position: int


class LetterView(msgspec.Struct):
    """The sealed message, opened. text: its bytes, those that are not UTF-8 as backslash escapes."""

    position: int
    subject: str
    reason: str
    detail: str
    headers: dict[str, str]
    text: str


# ── verbs ────────────────────────────────────────────────────────────────────────────────────────────────────


async def _list(instance: Instance, _: Nothing) -> list[Listed]:
    rows = {row.name: row for row in instance.board.rows()}
    return [Listed(name, rows[name].disabled) for name in instance.tasks.names()]


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


def _switch(switch: Switch) -> Callable[[Instance, SwitchArguments], Awaitable[Switched]]:
    async def do(instance: Instance, asked: SwitchArguments) -> Switched:
        asker = asked.asker(instance.pseudonyms)
        done = await instance.control_requests.switch(asked.task, switch, asker, _by(asker))
        return Switched(asked.task, done.changed, duplicate=done.duplicate)

    return do


async def _pause(instance: Instance, asked: PauseArguments) -> Switched:
    asker = asked.asker(instance.pseudonyms)
    done = await instance.control_requests.pause_by_name(asked.task, asker, _by(asker), asked.job_id)
    return Switched(asked.task, done.changed, done.run_id, done.duplicate)


async def _resume(instance: Instance, asked: PauseArguments) -> Switched:
    asker = asked.asker(instance.pseudonyms)
    done = await instance.control_requests.resume_by_name(asked.task, asker, _by(asker), asked.job_id)
    return Switched(asked.task, done.changed, done.run_id, done.duplicate)


def _by(asker: Asker) -> Context:
    return Context(user_hash=asker.caller.user_hash, group_hash=asker.caller.group_hash)


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


async def _fork(instance: Instance, asked: ForkArguments) -> RunResult:
    identity, hashes = asked.identity(), instance.pseudonyms
    caller = Caller(hashes.user(identity.user_id), hashes.group(identity.group_id), is_owner=False)
    run_id = await resolve_run_id(instance.log.tables, asked.run, caller)
    accepted = await instance.forks.fork(run_id, asked.stage, identity, asked.args, via=asked.via)
    return await _outcome(instance, accepted, wait=asked.wait)


def _asker(instance: Instance, asked: RunControlArguments) -> Asker:
    """Who wants to control a run. Raises Invalid if they do not say so, and must."""
    if not asked.is_owner:
        checked(asked.user_id, "user_id")
        checked(asked.group_id, "group_id")
    return asked.asker(instance.pseudonyms)


def _controlled(done: Outcome) -> RunControlled:
    assert done.run is not None
    return RunControlled(done.run_id or "", done.run.task, done.run.shown_status, done.duplicate)


async def _status(instance: Instance, asked: TaskArguments) -> Any:
    if asked.task is None:
        return await instance.status()
    return await instance.answers.task(asked.task, instance.board.row(asked.task))


async def _runs(instance: Instance, asked: RunsArguments) -> Any:
    return await instance.answers.runs(**msgspec.structs.asdict(asked))


async def _show(instance: Instance, asked: ShowArguments) -> Any:
    return await instance.answers.run(asked.run)


_TICK = re.compile(r"[^@]+@\d{4}-\d\d-\d\d([T ].*)?")
"""A due instant of a schedule: `report@2026-11-30T09:00`."""


async def _explain(instance: Instance, asked: ShowArguments) -> Any:
    if _TICK.fullmatch(asked.run):
        raise Invalid(
            f"{asked.run[:80]} is a due instant of a schedule, and those cannot be explained yet: give the id of a run",
            code="not_supported",
        )

    def policy(task: str) -> Policy | None:
        entry = instance.catalogue.tasks.get(task)
        return None if entry is None else entry.policy

    # What reads without a daemon is no Instance, and goes on with nothing.
    is_up, limit = isinstance(instance, Instance), instance.config.max_concurrent_runs
    return await instance.answers.explain(
        asked.run, limit=limit, policy=policy, is_up=is_up, now_us=instance.clock.now_us()
    )


async def _diff(instance: Instance, asked: DiffArguments) -> Any:
    return await instance.answers.diff(asked.left, asked.right, times=asked.times)


async def _trail(instance: Instance, asked: TrailArguments) -> Any:
    return await instance.answers.trail(asked.task, asked.category, limit=asked.limit, after=asked.after)


_STAGES = (*STAGES, "execute")


async def _partial(instance: Instance, asked: PartialArguments) -> Any:
    if asked.stage not in _STAGES:
        raise Invalid(f"there is no stage {asked.stage[:40]!r}: it is one of {', '.join(_STAGES)}")
    return await instance.answers.partial(asked.task, asked.stage, **_filters(instance, asked))


def _filters(instance: Instance, asked: PartialArguments | PointersArguments) -> dict[str, str | None]:
    return {
        "user_hash": None if asked.user_id is None else instance.pseudonyms.user(asked.user_id),
        "group_hash": None if asked.group_id is None else instance.pseudonyms.group(asked.group_id),
    }


async def _pointers(instance: Instance, asked: PointersArguments) -> Any:
    return await instance.answers.pointers(
        task=asked.task,
        **_filters(instance, asked),
        limit=asked.limit,
        after=asked.after,
    )


async def _pointer_add(instance: Instance, asked: PointerArguments) -> PointerResult:
    if instance.board.kind(asked.task) != "pointer":
        raise Invalid(f"'{asked.task}' is not a pointer task")
    return await _pointer(instance, asked, "cli")


async def _pointer_receive(instance: Instance, asked: PointerArguments) -> PointerResult:
    return await _pointer(instance, asked, "bus")


async def _pointer(instance: Instance, asked: PointerArguments, via: str) -> PointerResult:
    if asked.user_id is None and asked.user_hash is None:
        raise Invalid("user_id or user_hash is required")
    update = UpdatePointer(
        task=checked_task_name(asked.task),
        run_id=checked(asked.run_id, "run_id"),
        user_id=None if asked.user_id is None else checked(asked.user_id, "user_id"),
        user_hash=None if asked.user_hash is None else checked_hash(asked.user_hash, "user_hash"),
        group_id=None if asked.group_id is None else checked(asked.group_id, "group_id"),
        group_hash=None,
    )
    receipt = await instance.facts.pointer(update, via)
    return PointerResult(not receipt.duplicate)


async def _schedules(instance: Instance, asked: ListArguments) -> Any:
    return await instance.answers.schedules(limit=asked.limit, after=asked.after)


async def _followups(instance: Instance, asked: ListArguments) -> Any:
    return await instance.answers.followups(limit=asked.limit, after=asked.after)


async def _dead_letters(instance: Instance, asked: ListArguments) -> Any:
    return await instance.answers.dead_letters(limit=asked.limit, after=asked.after)


async def _dead_letter(instance: Instance, asked: LetterArguments) -> LetterView:
    row = await instance.answers.dead_letter(asked.position)
    letter = await instance.dead_letters.open(asked.position)
    text = letter.raw.decode(errors="backslashreplace")
    return LetterView(row.position, letter.subject, row.reason, row.detail, letter.headers, text)


async def _redrive(instance: Instance, asked: LetterArguments) -> Any:
    try:
        await instance.dead_letters.redrive(asked.position)
    except BadMessage as error:
        raise Conflict(f"still cannot be read: {error}", code=error.code) from None
    return await instance.answers.dead_letter(asked.position)


async def _verify(instance: Instance, _: Nothing) -> Verified:
    return Verified(await instance.log.verify())


async def _rebuild(instance: Instance, asked: RebuildArguments) -> Any:
    known = {state.name for state in instance.log.projection_states()}
    for name in asked.projections:
        if name not in known:
            raise Unknown(f"no projection {name!r}; there are {', '.join(sorted(known))}")
    return await instance.log.rebuild(asked.projections or None)


_BACKUP_PAUSE_S = 0.002
"""What a backup leaves to others after each megabyte, and after every 2,000 events that it has checked."""


async def _backup(instance: Instance, asked: BackupArguments) -> Summary:
    if instance.backing_up.locked():
        raise Conflict("a backup is being made already: wait until it is done")
    given_up = threading.Event()

    def pause() -> None:
        if given_up.wait(_BACKUP_PAUSE_S):
            raise Unavailable("the backup was given up", code="stopping")

    async with instance.backing_up:
        thread = JobThread(asyncio.get_running_loop(), "backup")
        try:
            return await thread.do(
                lambda: make(instance.config, Path(asked.folder), keys=asked.keys, clock=instance.clock, pause=pause)
            )
        finally:
            given_up.set()
            thread.stop()


def _verb(
    name: str, takes: type[Arguments], do: Callable[[Instance, Arguments], Awaitable[Any]], help_: str
) -> Verb[Any]:
    return Verb(name, takes, do, help_)


VERBS: Mapping[str, Verb[Any]] = {
    verb.name: verb
    for verb in (
        _verb("list", Nothing, _list, "all registered tasks"),
        _verb("run", RunArguments, _run, "run a task"),
        _verb("trigger", RunArguments, _trigger, "run a manual task"),
        _verb("enable", SwitchArguments, _switch("enable"), "accept runs again"),
        _verb("disable", SwitchArguments, _switch("disable"), "refuse new runs"),
        _verb("pause", PauseArguments, _pause, "pause the newest run of a task, or the task if none is under way"),
        _verb("resume", PauseArguments, _resume, "let the newest paused run of a task go on, or the task itself"),
        _verb(
            "pause_run", RunControlArguments, _pause_run, "let what is under way of a run end, and start nothing new"
        ),
        _verb("resume_run", RunControlArguments, _resume_run, "let a paused run go on"),
        _verb("cancel", CancelArguments, _cancel, "end a run now"),
        _verb("signal", SignalArguments, _signal, "tell a run something"),
        _verb("resolve", ResolveArguments, _resolve, "say what became of a run in doubt"),
        _verb("fork", ForkArguments, _fork, "a new run that begins with the results of another one"),
        _verb("dispatch", DispatchArguments, _dispatch, "dispatch an event to its workflow"),
        _verb("status", TaskArguments, _status, "the instance and its tasks, or one task"),
        _verb("runs", RunsArguments, _runs, "runs, newest first"),
        _verb("show", ShowArguments, _show, "one run in full"),
        _verb("explain", ShowArguments, _explain, "why a run is as it is"),
        _verb("diff", DiffArguments, _diff, "where two runs differ"),
        _verb("trail", TrailArguments, _trail, "stage and audit rows of a task"),
        _verb("partial", PartialArguments, _partial, "what the newest failure of a stage had done already"),
        _verb("pointers", PointersArguments, _pointers, "pointers"),
        _verb("pointer_add", PointerArguments, _pointer_add, "add a pointer to a pointer task"),
        _verb("pointer_receive", PointerArguments, _pointer_receive, "store a pointer that another instance sent"),
        _verb("schedules", ListArguments, _schedules, "schedules that are set"),
        _verb("followups", ListArguments, _followups, "what was done about failed runs"),
        _verb("dead_letters", ListArguments, _dead_letters, "messages that could not be read"),
    )
}
"""What every face offers."""

LOCAL_VERBS: Mapping[str, Verb[Any]] = {
    verb.name: verb
    for verb in (
        _verb("dead_letter", LetterArguments, _dead_letter, "one dead letter, opened"),
        _verb("log_backup", BackupArguments, _backup, "back up log, vault and keys"),
        _verb("log_verify", Nothing, _verify, "check the whole hash chain"),
        _verb("log_rebuild", RebuildArguments, _rebuild, "fold projections again from the log"),
        _verb("redrive", LetterArguments, _redrive, "read a dead letter again"),
    )
}
"""What only the owner of the data folder may ask, over the Unix socket: they show what the vault seals, or hold up
others while they work."""


async def perform(verb: Verb[Any], instance: Instance, value: Json, *, via: str | None = None) -> Any:
    """Do `verb` with arguments as they came from outside.

    via: the door they came through, recorded with the run; None: the caller says it (only the owner's socket may).
    Raises Invalid for arguments that are not the verb's, and whatever the verb raises.
    """
    try:
        arguments = shaped(value, verb.takes)
    except BadMessage as error:
        raise Invalid(str(error)) from None
    if isinstance(arguments, RunArguments | DispatchArguments | Someone | ForkArguments):
        if via is not None:
            arguments = msgspec.structs.replace(arguments, via=via)
        elif arguments.via not in OWNERS_DOORS:
            raise Invalid("via must be cli or python")
    return await verb.do(instance, arguments)
