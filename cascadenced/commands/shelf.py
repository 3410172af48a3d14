"""A data folder to read in: no lock, and nothing changed, not even a folder that is not there yet.

That one reads as an empty log with the tasks that are installed.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import cached_property
from pathlib import Path

import msgspec

from cascadenced import __version__
from cascadenced.calendar_files import CalendarFiles
from cascadenced.clock import SystemClock
from cascadenced.commands.folder import has_log
from cascadenced.completeness import refuse_incomplete
from cascadenced.config import Config
from cascadenced.eventlog.base import ProjectionState
from cascadenced.eventlog.database import unreadable
from cascadenced.eventlog.memory import MemoryEventLog
from cascadenced.eventlog.reader import Reader
from cascadenced.identity import Pseudonyms
from cascadenced.ids import SystemIds
from cascadenced.instance import Status
from cascadenced.plugins.discover import Catalogue, discover
from cascadenced.private_files import read_or_create_hex
from cascadenced.projections import all_projections, task_status
from cascadenced.projections.answers import Answers
from cascadenced.projections.board import Board
from cascadenced.projections.task_status import StoredTask, TaskStatus


@asynccontextmanager
async def open_shelf(config: Config) -> AsyncIterator[Shelf]:
    """The data folder to read in. Raises ConfigError, Unavailable if there is a log that cannot be read."""
    if not has_log(config):
        refuse_incomplete(config)
        log = await MemoryEventLog.open(clock=SystemClock(), ids=SystemIds(), projections=all_projections())
        yield Shelf(config, log)
        await log.close()
        return
    reader = await Reader.open(config.log_path)
    try:
        yield Shelf(config, reader)
    except sqlite3.Error as error:
        raise unreadable(error, config.log_path) from None
    finally:
        await reader.close()


class Shelf:
    """Of an `Instance`, what reading takes (`verbs.base.Readable`)."""

    epoch = None
    """Nothing is recorded here, and no run goes on."""

    def __init__(self, config: Config, log: Reader | MemoryEventLog) -> None:
        self.config, self.log, self.clock = config, log, SystemClock()
        self.tables = log if isinstance(log, Reader) else log.tables
        calendars = CalendarFiles(self.clock, config.schedules_file.parent)
        self.answers = Answers(self.tables, log.read_stream, self.states, calendars)
        self.board = Board({})
        self.tasks = _Names([])

    def slots(self, run_id: str, task: str) -> None:
        """There are none here."""

    async def know_the_tasks(self) -> None:
        """Fill `tasks` and `board`: what is installed, and how it stood when something was last recorded."""
        rows = await task_status.load(self.tables)
        for entry in self.catalogue.tasks.values():
            rows.setdefault(entry.name, StoredTask(entry.name, entry.kind, entry.mode, entry.listens_to))
        self.board = Board(rows)
        position = next((s.position for s in await self.states() if s.name == TaskStatus.name), 0)
        while missed := await self.log.read(position, 1_000):  # nothing, unless the projection is frozen
            self.board.grew(missed)
            position = missed[-1].position
        self.tasks = _Names(list(self.catalogue.tasks))

    @cached_property
    def catalogue(self) -> Catalogue:
        """What is installed. Imports the plugins."""
        config = self.config
        return discover(config.plugin_paths, entry_points=config.plugin_entry_points, working_dir=Path.cwd())

    @cached_property
    def pseudonyms(self) -> Pseudonyms:
        secret, path = self.config.hash_secret, self.config.hash_secret_path
        if secret is None:
            # Without the file nobody has a pseudonym yet, and a reader is not the one to draw it.
            secret = read_or_create_hex(path, 32) if path.exists() else ""
        return Pseudonyms(secret, compat_sha256=self.config.hash_compat == "sha256")

    async def states(self) -> Sequence[ProjectionState]:
        if isinstance(self.log, Reader):
            return await self.log.projection_states()
        return self.log.projection_states()

    async def position(self) -> int:
        return await self.log.position() if isinstance(self.log, Reader) else self.log.position

    async def meta(self) -> dict[str, str]:
        """`instance_id` and `epoch` of the file; nothing where there is none."""
        return dict(await self.log.fetch("SELECT key, value FROM meta")) if isinstance(self.log, Reader) else {}

    async def status(self) -> Status:
        """As the daemon would answer, were it up: with no bus, and no uptime."""
        return Status(
            version=__version__,
            instance_id=self.config.instance_id or (await self.meta()).get("instance_id", ""),
            uptime_s=0.0,
            position=await self.position(),
            durability="fsync",
            read_only=None,
            emit_raw_user_id=self.config.emit_raw_user_id,
            frozen={state.name: state.frozen for state in await self.states() if state.frozen},
            rejected={plugin.plugin: plugin.reason for plugin in self.catalogue.rejected},
            n_running=0,
            n_queued=len(await self.log.unfinished()),
            n_abandoned_threads=0,
            bus=None,
            tasks=msgspec.Raw(self.board.json()),
        )


class _Names:
    """Of `Tasks`, the names."""

    def __init__(self, names: list[str]) -> None:
        self._names = names

    def names(self) -> list[str]:
        return self._names
