"""The log itself: checked, rebuilt, backed up; and the messages that could not be read."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Annotated, Any

import msgspec

from cascadenced.backup import Summary, make
from cascadenced.errors import BadMessage, Conflict, Unavailable, Unknown
from cascadenced.instance import Instance
from cascadenced.job_thread import JobThread
from cascadenced.verbs.base import ListArguments, Nothing, Readable, reading, verb


class LetterArguments(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    position: Annotated[int, msgspec.Meta(ge=1, le=2**62)]


class RebuildArguments(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """projections: names; empty for all."""

    projections: tuple[str, ...] = ()


class BackupArguments(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """folder: absolute; not there yet, or empty.  keys: whether the vault's key and the hash secret go along."""

    folder: str
    keys: bool = True


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


async def _dead_letters(instance: Readable, asked: ListArguments) -> Any:
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


VERBS = (reading("dead_letters", ListArguments, _dead_letters, "messages that could not be read"),)
LOCAL_VERBS = (
    verb("dead_letter", LetterArguments, _dead_letter, "one dead letter, opened"),
    verb("log_backup", BackupArguments, _backup, "back up log, vault and keys"),
    verb("log_verify", Nothing, _verify, "check the whole hash chain"),
    verb("log_rebuild", RebuildArguments, _rebuild, "fold projections again from the log"),
    verb("redrive", LetterArguments, _redrive, "read a dead letter again"),
)
