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
from cascadenced.handlers.run_requests import Origin
from cascadenced.identity import Identity, Redactor, checked, checked_hash
from cascadenced.instance import Instance
from cascadenced.pipeline.admission import Switch
from cascadenced.pipeline.model import Run
from cascadenced.pipeline.policy import Policy
from cascadenced.projections.audit_trail import Category
from cascadenced.projections.runs import resolve_run_id
from cascadenced.runtime.controls import MAX_CONTEXT_CHARS
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


class SwitchArguments(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Who asks is optional: a switch belongs to the task, and the audit row shows whoever is named."""

    task: str
    user_id: str | None = None
    group_id: str | None = None


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


class TaskArguments(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    task: str | None = None


class LetterArguments(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    position: Annotated[int, msgspec.Meta(ge=1, le=2**62)]


class RunControlArguments(Somebody, kw_only=True, forbid_unknown_fields=True):
    """run: its id, or the first 8 or more characters of it."""

    run: str


class CancelArguments(RunControlArguments, kw_only=True, forbid_unknown_fields=True):
    """reason: for the audit trail."""

    reason: str = ""
    via: str = "cli"


class SignalArguments(RunControlArguments, kw_only=True, forbid_unknown_fields=True):
    """kind: `context`.  value: what the run is told, JSON of at most 3,072 characters."""

    value: Json
    kind: str = "context"
    via: str = "cli"


class ResolveArguments(RunControlArguments, kw_only=True, forbid_unknown_fields=True):
    """resolution: retry, done or fail.  output: what the effect returned, with `done`."""

    resolution: str
    output: Json = None


class ForkArguments(RunControlArguments, kw_only=True, forbid_unknown_fields=True):
    """stage: the first that is performed.  args: those that are to be other ones.  wait: as of `run`."""

    stage: str
    args: dict[str, Json] = {}
    wait: bool = True
    via: str = "cli"


_WISHES = (RunArguments, DispatchArguments, SwitchArguments, PointerArguments, RunControlArguments)


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
    task: str
    changed: bool


class DispatchResult(msgspec.Struct):
    """run_id: the run of the workflow that answers, None if nobody listens.  duplicate: whether it was asked before."""

    event: str
    run_id: str | None
    status: str
    result: Json = None
    duplicate: bool = False


class RunControlled(msgspec.Struct):
    """status: how the run stands now."""

    run_id: str
    task: str
    status: str


class Signalled(msgspec.Struct):
    """delivered: whether no stage was under way, so that the next one is told at once."""

    run_id: str
    delivered: bool


class PointerResult(msgspec.Struct):
    """stored: False if it was there already."""

    stored: bool


def is_duplicate(result: object) -> bool:
    """Whether a verb answers that the same was asked for before."""
    if isinstance(result, PointerResult):
        return not result.stored
    return isinstance(result, RunResult | DispatchResult) and result.duplicate


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
        raise _refusal(*accepted.refused)
    if not wait:
        return RunResult(accepted.run_id, "accepted", duplicate=accepted.duplicate)
    run = await _ended(instance, accepted.run_id)
    return RunResult(accepted.run_id, run.status, run.result, accepted.duplicate)


async def _ended(instance: Instance, run_id: str) -> Run:
    """The run, ended well. Raises RunFailedError with the recorded reason, which names nobody; Conflict if refused."""
    run = (await instance.runs.ended(run_id)).run
    if run.status == "refused":
        raise _refusal(run.error_type or "refused", run.reason or "refused")
    if run.status != "success":
        raise RunFailedError(run.reason or run.status, error_type=run.error_type or "error", run_id=run_id)
    return run


def _refusal(code: str, reason: str) -> Refused:
    refusal = Unknown(reason, code=code) if code == "unknown_task" else Conflict(reason, code=code)
    refusal.recorded = True
    return refusal


def _switch(switch: Switch) -> Callable[[Instance, SwitchArguments], Awaitable[Switched]]:
    async def do(instance: Instance, asked: SwitchArguments) -> Switched:
        hashes = instance.pseudonyms
        context = Context(
            user_hash=None if asked.user_id is None else hashes.user(checked(asked.user_id, "user_id")),
            group_hash=None if asked.group_id is None else hashes.group(checked(asked.group_id, "group_id")),
        )
        return Switched(asked.task, await instance.tasks.switch(asked.task, switch, context))

    return do


async def _dispatch(instance: Instance, asked: DispatchArguments) -> DispatchResult:
    dispatched = await instance.requests.dispatch(
        asked.event, asked.payload, asked.identity(), Origin(via=asked.via), idempotency_key=asked.idempotency_key
    )
    if dispatched.run_id is None:
        return DispatchResult(asked.event, None, "unhandled", duplicate=dispatched.duplicate)
    if dispatched.refused is not None:
        raise _refusal(*dispatched.refused)
    if not asked.wait:
        return DispatchResult(asked.event, dispatched.run_id, "accepted", duplicate=dispatched.duplicate)
    run = await _ended(instance, dispatched.run_id)
    return DispatchResult(asked.event, dispatched.run_id, run.status, run.result, dispatched.duplicate)


_MAX_REASON_CHARS = 500


async def _pause_run(instance: Instance, asked: RunControlArguments) -> RunControlled:
    run_id, by = await _run_and_who(instance, asked)
    return _controlled(run_id, await instance.controls.pause(run_id, by=by))


async def _resume_run(instance: Instance, asked: RunControlArguments) -> RunControlled:
    run_id, by = await _run_and_who(instance, asked)
    return _controlled(run_id, await instance.controls.resume(run_id, by=by))


async def _cancel(instance: Instance, asked: CancelArguments) -> RunControlled:
    run_id, by = await _run_and_who(instance, asked)
    reason = Redactor(asked.identity(), instance.pseudonyms)(asked.reason[:_MAX_REASON_CHARS])
    run = await instance.controls.cancel(run_id, via=asked.via, by=by, reason=reason or "cancelled on request")
    return _controlled(run_id, run)


async def _signal(instance: Instance, asked: SignalArguments) -> Signalled:
    if asked.kind != "context":
        raise Invalid("unsupported signal kind")
    n_chars = len(msgspec.json.encode(asked.value).decode())
    if n_chars > MAX_CONTEXT_CHARS:
        raise Invalid("context payload too large")
    run_id, by = await _run_and_who(instance, asked)
    redact = Redactor(asked.identity(), instance.pseudonyms)
    delivered = await instance.controls.signal(run_id, asked.value, via=asked.via, by=by, redact=redact)
    return Signalled(run_id, delivered)


async def _resolve(instance: Instance, asked: ResolveArguments) -> RunControlled:
    run_id, by = await _run_and_who(instance, asked)
    run = await instance.controls.resolve(run_id, asked.resolution, by=by, output=asked.output)
    return _controlled(run_id, run)


async def _fork(instance: Instance, asked: ForkArguments) -> RunResult:
    run_id = await resolve_run_id(instance.log.tables, asked.run)
    accepted = await instance.forks.fork(run_id, asked.stage, asked.identity(), asked.args, via=asked.via)
    return await _outcome(instance, accepted, wait=asked.wait)


async def _run_and_who(instance: Instance, asked: RunControlArguments) -> tuple[str, str]:
    """The run's whole id, and the pseudonym of whoever asks."""
    by = instance.pseudonyms.user(asked.identity().user_id)
    return await resolve_run_id(instance.log.tables, asked.run), by


def _controlled(run_id: str, run: Run) -> RunControlled:
    return RunControlled(run_id, run.task, run.shown_status)


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


async def _pointers(instance: Instance, asked: PointersArguments) -> Any:
    return await instance.answers.pointers(
        task=asked.task,
        user_hash=None if asked.user_id is None else instance.pseudonyms.user(asked.user_id),
        group_hash=None if asked.group_id is None else instance.pseudonyms.group(asked.group_id),
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
        _verb("pause", SwitchArguments, _switch("pause"), "refuse new runs for now"),
        _verb("resume", SwitchArguments, _switch("resume"), "accept runs again after a pause"),
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
    if isinstance(arguments, RunArguments | DispatchArguments | CancelArguments | SignalArguments | ForkArguments):
        if via is not None:
            arguments = msgspec.structs.replace(arguments, via=via)
        elif arguments.via not in ("cli", "python"):
            raise Invalid("via must be cli or python")
    return await verb.do(instance, arguments)
