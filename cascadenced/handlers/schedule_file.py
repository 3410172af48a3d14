"""`schedules.yml` kept in step with the schedules: what people write there is set, and what is set elsewhere is written
there.

Whose change is the newer one is told by the mark at the file's end. Of a schedule that was set or removed since, the
log is right and the file is written; of any other the file is, and what differs in it is a person's doing. A file
without the mark is somebody's own, put in the place of ours: what such a file has set, and this one does not name, is
removed; what was set elsewhere is not.

A file with anything wrong in it changes nothing. What is wrong is said once, in an event and in the daemon's log.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ParamSpec, TypeVar

import structlog

from cascadenced.clock import Clock
from cascadenced.errors import CascadenceError, DiskError, Invalid
from cascadenced.eventlog.base import Change, EventLog
from cascadenced.events.base import Context, Json, Recorded
from cascadenced.events.content import cut
from cascadenced.events.schedule import ScheduleFileRejected, ScheduleRemoved, ScheduleSet
from cascadenced.events.streams import SYSTEM_STREAM
from cascadenced.handlers.schedule_requests import ScheduleRequests
from cascadenced.private_files import write_atomically
from cascadenced.projections import schedules
from cascadenced.projections.schedules import Stored
from cascadenced.runtime.tasks import Tasks
from cascadenced.schedules.definition import Definition
from cascadenced.schedules.file_entries import MAX_PROBLEMS, Definitions, by_pseudonym, by_task, understood
from cascadenced.schedules.file_text import MAX_FILE_BYTES, FileText, entry_of, read, written
from cascadenced.schedules.model import Schedule

_log = structlog.get_logger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

LOOK_EVERY_S = 0.25
"""How often the file's date and size are looked at. What is taken over at the second look only is in force within a
second as well."""
VIA = "file"
"""The door of what is set because the file says so."""
_SHORT_BYTES, _LINE_BYTES = 4_096, 32
_NOTHING = object()


class ScheduleFile:
    """path: of the file, which need not be there; None: there is none to be.  timezone: where an entry names none."""

    def __init__(
        self,
        log: EventLog,
        clock: Clock,
        requests: ScheduleRequests,
        tasks: Tasks,
        *,
        path: Path | None,
        timezone: str,
    ) -> None:
        self._log, self._clock, self._requests, self._tasks = log, clock, requests, tasks
        self._path, self._timezone = path, timezone
        self._name = "schedules" if path is None else path.name
        self._syncing = asyncio.Lock()
        self._changed = asyncio.Event()
        self._rejected: bytes | None = None  # the content that was complained about
        self._shortened: bytes | None = None  # the content that was waited with, because it may be half a file
        self._seen: object = _NOTHING  # what the file that is in step with the log looks like
        self._complaint = ""
        self._strangers: frozenset[str] = frozenset()  # entries that are of no task

    async def run(self) -> None:
        """For ever: whenever the file or a schedule has changed."""
        if self._path is None:
            return
        self._log.observe(self._hear)
        while True:
            if self._changed.is_set() or self._seen != _look_of(self._path):
                self._changed.clear()
                await self.catch_up()
            await self._clock.sleep(LOOK_EVERY_S)

    async def catch_up(self) -> None:
        """As `sync`; a disk that does not let it be done is a matter of its own, and told of in the log."""
        try:
            await self.sync()
            self._complaint = ""
        except CascadenceError as error:
            if str(error) != self._complaint:  # it is tried again at every look
                self._complaint = str(error)
                _log.error("schedules_file_not_in_step", error=str(error))

    async def sync(self) -> Sequence[str]:
        """Take over what people changed, and write what the log says. Returns what is wrong with the file, if anything
        is. Raises DiskError, DiskFull for a file that cannot be written."""
        if self._path is None:
            return ()
        async with self._syncing:
            look, data = _look_of(self._path), _content(self._path)  # who edits it from now on is noticed
            known = await schedules.everything(self._log.tables)
            text, definitions, problems = await _beside(len(data), self._understood, data)
            if not problems:
                problems = await self._refused(self._news(text, definitions, known))
            if problems:
                await self._reject(data, [f"{self._name}: {problem}" for problem in problems])
                self._seen = look
                return problems
            self._rejected = None
            if data and self._seen not in (_NOTHING, look):  # not merely what we have yet to write
                self._tell_what_is_newer(text, definitions, known)
            if look is not None and not data and known and data != self._shortened:
                self._shortened = data  # an editor may have emptied it, and be about to write
                return ()
            if data:
                removed = _removed(text, definitions, known)
                if removed and text.knows is None and data != self._shortened:
                    self._shortened = data  # an editor may be about to write the rest of it
                    return ()
                await self._take_over(text, definitions, known)
                for name in removed:
                    by = Context(user_hash=known[name].user_hash, group_hash=known[name].group_hash)
                    await self._requests.remove(name, by=by)
                known = await schedules.everything(self._log.tables)
            self._shortened = None
            self._seen = look
            await self._write(self._path, data, text, definitions, known, await self._whose_strangers(definitions))
            return ()

    async def load(self, data: bytes, via: str = "load") -> Sequence[str]:
        """Set all schedules of another file; what it does not name stays. Returns the names that were set.
        via: the door that it came through.

        Raises Invalid with all that is wrong with it; then nothing was set.
        """
        _, definitions, problems = await _beside(len(data), self._understood, data, via)
        unknown = [f"line {line}: Unknown task: {key}" for key, (name, line, _) in definitions.items() if name is None]
        problems = [*problems, *unknown, *await self._refused(definitions)]
        if problems:
            raise Invalid("; ".join(problems[:MAX_PROBLEMS]), code="schedules_file")
        for name, _, definition in definitions.values():
            assert name is not None
            await self._requests.set_defined(name, definition)
        await self.sync()
        return [name for name, _, _ in definitions.values() if name is not None]

    async def rules(self, data: bytes, via: str = VIA) -> tuple[Mapping[str, ScheduleSet], Sequence[str]]:
        """By task, the rules of schedules that would fire if this file were all there is; and its entries that are of
        no task. Raises Invalid with all that is wrong with it."""
        _, definitions, problems = await _beside(len(data), self._understood, data, via)
        problems = problems or await self._refused(definitions)
        if problems:
            raise Invalid("; ".join(problems), code="schedules_file")
        known = await schedules.everything(self._log.tables)
        found = {
            name: self._requests.continued(stored, definition)
            for name, definition in by_task(definitions).items()
            if not (stored := known.get(name, Stored(Schedule()))).schedule.paused
        }
        return found, [key for key, (name, _, _) in definitions.items() if name is None]

    # ── how ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _hear(self, batch: Sequence[Recorded]) -> None:
        if any(type(recorded.event) in (ScheduleSet, ScheduleRemoved) for recorded in batch):
            self._changed.set()

    def _understood(self, data: bytes, via: str = VIA) -> tuple[FileText, Definitions, Sequence[str]]:
        """And what is wrong."""
        text = read(data)

        def define(task: str, entry: Json) -> Definition:
            return self._requests.defined(task, entry, via)

        definitions, problems = understood(text, self._tasks.resolve, define)
        return text, definitions, problems

    def _news(self, text: FileText, definitions: Definitions, known: Mapping[str, Stored]) -> Definitions:
        """Entries that are to be set, because they are not so already."""

        def is_settled(stored: Stored | None, definition: Definition) -> bool:
            return stored is not None and (_is_newer(stored, text) or self._requests.is_set_so(stored, definition))

        return {
            key: (name, line, definition)
            for key, (name, line, definition) in definitions.items()
            if name is None or not is_settled(known.get(name), definition)
        }

    async def _refused(self, definitions: Definitions) -> list[str]:
        """What is wrong with the calendars that these name, and with what they are to run after."""
        problems, per_task = [], by_task(definitions)
        for key, (name, line, definition) in definitions.items():
            try:
                await self._requests.refuse_unreadable(definition)
                if name is not None:
                    self._requests.refuse_cycle(name, per_task)
            except Invalid as error:
                problems.append(f"line {line}: {key}: {error}")
        return problems[:MAX_PROBLEMS]

    def _tell_what_is_newer(self, text: FileText, definitions: Definitions, known: Mapping[str, Stored]) -> None:
        """A copy of before that is put back does not undo what was set since; who did it should hear so."""
        line_of = {name: line for name, line, _ in definitions.values()}
        entry_for = by_task(definitions)
        for name, stored in known.items():
            if not _is_newer(stored, text):
                continue
            entry = entry_for.get(name)
            if stored.schedule.is_set if entry is None else not self._requests.is_set_so(stored, entry):
                says = "it was set or removed after this file was written, and stays so; what the file says holds "
                says += "where its last line (`in step with …`) is taken out"
                _log.warning("schedule_is_newer", file=self._name, line=line_of.get(name), task=name, says=says)

    async def _take_over(
        self,
        text: FileText,
        definitions: Definitions,
        known: Mapping[str, Stored],
    ) -> None:
        for key, (name, line, definition) in definitions.items():
            if name is None:
                if key not in self._strangers:
                    says = "there is no such task; the entry waits until there is"
                    _log.warning("schedule_of_unknown_task", file=self._name, line=line, task=key, says=says)
            elif name not in known or not _is_newer(known[name], text):
                await self._requests.set_defined(name, definition)
        self._strangers = frozenset(key for key, (name, _, _) in definitions.items() if name is None)

    async def _write(
        self,
        path: Path,
        data: bytes,
        text: FileText,
        definitions: Definitions,
        known: Mapping[str, Stored],
        strangers: Mapping[str, Context],
    ) -> None:
        """strangers: whom the entries are for that are of no task."""
        wanted: dict[str, Json] = {}
        written_names = set[str]()
        for key, (name, _, definition) in definitions.items():
            if name is None:
                wanted[key] = by_pseudonym(text.entries[key].value, definition, strangers[key])  # it may come back
            elif name in known and known[name].schedule.is_set:
                written_names.add(name)
                wanted[key] = self._entry(known[name], text.entries[key].value, definition)
        for name, stored in known.items():
            if stored.schedule.is_set and name not in written_names:
                wanted[name] = self._entry_of(stored)
        if not wanted and not data:
            return
        knows = max((stored.position for stored in known.values()), default=0)
        content = await _beside(len(data) + _LINE_BYTES * len(wanted), written, data, wanted, knows)
        if len(content) > MAX_FILE_BYTES:
            raise Invalid(f"{path} would have {len(content)} bytes; {MAX_FILE_BYTES} are allowed: it stays as it was")
        if content == data or _content(path) != data:
            return  # somebody has edited it meanwhile, which the next look takes over
        write_atomically(path, content)
        look = _look_of(path)
        if _content(path) == content:
            self._seen = look

    def _entry(self, stored: Stored, value: Json, definition: Definition) -> Json:
        """As it was written, with pseudonyms in the place of ids, if that is what is set; else as we write it."""
        if not self._requests.is_set_so(stored, definition):
            return self._entry_of(stored)
        return by_pseudonym(value, definition, Context(user_hash=stored.user_hash, group_hash=stored.group_hash))

    async def _whose_strangers(self, definitions: Definitions) -> Mapping[str, Context]:
        return {
            key: await self._requests.whom(definition)
            for key, (name, _, definition) in definitions.items()
            if name is None
        }

    def _entry_of(self, stored: Stored) -> Json:
        rule = stored.schedule.rule
        assert rule is not None
        return entry_of(rule, user_hash=stored.user_hash, group_hash=stored.group_hash, timezone=self._timezone)

    async def _reject(self, data: bytes, problems: Sequence[str]) -> None:
        if data == self._rejected:
            return
        self._rejected = data
        for problem in problems:
            _log.error("schedules_file_rejected", problem=problem)
        told = tuple(cut(problem) for problem in problems)
        await self._log.append([Change(SYSTEM_STREAM, [ScheduleFileRejected(problems=told)])])


def _is_newer(stored: Stored, text: FileText) -> bool:
    """Whether it was set or removed after the file was written; never, if that was not by us."""
    return text.knows is not None and stored.position > text.knows


async def _beside(n_bytes: int, work: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
    """`work`, beside everything else that is to be done where the file is long enough to take a while."""
    if n_bytes <= _SHORT_BYTES:
        return work(*args, **options)
    return await asyncio.to_thread(work, *args, **options)


def _removed(text: FileText, definitions: Definitions, known: Mapping[str, Stored]) -> Sequence[str]:
    """Schedules that were in the file, and that somebody has taken out of it."""
    named = {name for name, _, _ in definitions.values()}
    return [
        name
        for name, stored in known.items()
        if name not in named
        and stored.schedule.rule is not None
        and not _is_newer(stored, text)
        and (text.knows is not None or stored.schedule.rule.via == VIA)
    ]


def _content(path: Path) -> bytes:
    """Empty if it is not there. Raises DiskError."""
    try:
        with path.open("rb") as file:
            return file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise DiskError(f"{path} cannot be read: {error.strerror}") from None


def _look_of(path: Path) -> object:
    """What changes when the file does."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
