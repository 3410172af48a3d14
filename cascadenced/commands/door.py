"""How a command reaches the data: a daemon up on the folder is asked; without one, this process opens the folder.

Reading needs no lock. Writing without a daemon needs the folder's lock; while another process has it, socket and lock
are tried in turn for `lock_wait_s` seconds, so that a daemon that is just starting or stopping disturbs nobody.
"""

from __future__ import annotations

import json
import os
import time
from typing import Any

from cascadenced.commands import wire
from cascadenced.config import Config, load
from cascadenced.errors import (
    BackupDamaged,
    CascadenceError,
    Conflict,
    DiskError,
    DiskFull,
    IllShaped,
    Invalid,
    LogCorrupt,
    LogHeld,
    NotAllowed,
    Overloaded,
    Refused,
    RunFailedError,
    Unavailable,
    Unknown,
)
from cascadenced.replaying import goes_unheard

READING = frozenset(
    {
        "list", "status", "runs", "show", "explain", "diff", "trail", "partial",
        "pointers", "schedules", "ticks", "preview", "followups", "dead_letters",
    }
)  # fmt: skip
"""Verbs that need no writable log."""
_LONG = frozenset(
    {"run", "trigger", "fork", "dispatch", "backfill", "redrive", "log_backup", "log_rebuild", "log_verify"}
)
"""Verbs that take as long as the work they wait for."""
ONCE = frozenset({"run", "trigger", "fork", "dispatch", "redrive", "cancel", "signal", "resolve"})
"""Verbs that do more when they are repeated, or refuse that, unless the caller names an idempotency key."""
_ANSWER_WITHIN_S = 30.0
_TRY_AGAIN_S = 0.05

_CLASSES: dict[int, type[CascadenceError]] = {
    400: Invalid,
    403: NotAllowed,
    404: Unknown,
    409: Conflict,
    413: Invalid,
    422: IllShaped,
    503: Unavailable,
    507: DiskFull,
}
"""The inverse of the table in refusals.py."""
_DISK = frozenset({DiskError.code, LogCorrupt.code, BackupDamaged.code})
"""What exits 74: the bytes on a disk are not what they should be."""


def call(config: Config, verb: str, arguments: dict[str, Any]) -> Any:
    """`ask` for commands. Blocks; a daemon is asked without the price of an event loop."""
    _refuse_under_replay()
    try:
        reply = wire.exchange(config, f"/rpc/{verb}", _json(arguments), _within(verb))
    except wire.Broken:
        if not _may_repeat(verb, arguments):
            raise
        reply = None
    if reply is not None:
        return result_of(*reply)
    import asyncio

    from cascadenced.commands.quiet import quiet

    with quiet(config):
        return asyncio.run(ask(verb, arguments, config))


async def ask(verb: str, arguments: dict[str, Any], config: Config | None = None) -> Any:
    """The result of a verb (`verbs/`), as decoded JSON.

    config: None: the one that environment and working folder give.
    Raises what the verb raises, Invalid for arguments that are not its own, Unavailable for a daemon that does not
    answer, LogHeld when the folder stays in use, NotAllowed in code that is performed again.
    """
    _refuse_under_replay()
    import asyncio

    config = load(None, os.environ) if config is None else config
    body = _json(arguments)
    deadline = time.monotonic() + config.lock_wait_s
    while True:
        try:
            reply = await wire.exchange_async(config, f"/rpc/{verb}", body, _within(verb))
        except wire.Broken:
            if not _may_repeat(verb, arguments):
                raise
            reply = None
        if reply is not None:
            return result_of(*reply)
        try:
            return await _alone(config, verb, arguments)
        except LogHeld as held:
            if held.pid == os.getpid() or time.monotonic() >= deadline:
                raise
        await asyncio.sleep(_TRY_AGAIN_S)


def _refuse_under_replay() -> None:
    """For task code that comes here by another way than `dispatch` and its like, which are answered before."""
    if goes_unheard():
        raise NotAllowed(
            "a run is performed again in this process: no daemon is asked and no data folder opened", code="replay"
        )


async def _alone(config: Config, verb: str, arguments: dict[str, Any]) -> Any:
    from cascadenced.commands import offline

    if verb == "log_backup":
        return await offline.backup(config, arguments)
    return await (offline.read if verb in READING else offline.write)(config, verb, arguments)


def result_of(status: int, body: bytes) -> Any:
    """What the daemon's reply says. Raises the error it stands for."""
    if status == 200:
        return json.loads(body)
    raise error_of(status, body)


def error_of(status: int, body: bytes) -> CascadenceError:
    """The error that an error reply stands for; its class is the one that was raised there."""
    import msgspec

    from cascadenced.refusals import ErrorBody

    try:
        said = msgspec.json.decode(body, type=ErrorBody)
    except msgspec.MsgspecError:
        return Unavailable(f"the daemon answered with status {status} and no explanation; its log may have one")
    if said.run_id is not None:
        return RunFailedError(said.detail, error_type=said.error_type or said.error, run_id=said.run_id)
    if status == 429:
        return Overloaded(said.detail)
    cls = DiskError if said.error in _DISK else _CLASSES.get(status, CascadenceError)
    error = cls(said.detail, code=said.error)
    if isinstance(error, Refused):
        error.event_id = said.event_id
    return error


def _json(arguments: dict[str, Any]) -> bytes:
    try:
        return json.dumps(arguments, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise Invalid("an argument is not valid UTF-8") from None


def _within(verb: str) -> float | None:
    return None if verb in _LONG else _ANSWER_WITHIN_S


def _may_repeat(verb: str, arguments: dict[str, Any]) -> bool:
    return verb not in ONCE or arguments.get("idempotency_key") is not None
