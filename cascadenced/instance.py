"""One opened data folder: log, vault, tasks and runs put together. The daemon, a command without a daemon and
`TaskPipeline` all work on one of these; it knows neither NATS nor HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import structlog

from cascadenced import __version__
from cascadenced.backup import refuse_half_restored
from cascadenced.calendar_files import CalendarFiles
from cascadenced.clock import Clock, SystemClock
from cascadenced.completeness import refuse_incomplete
from cascadenced.config import Config
from cascadenced.errors import CascadenceError, ConfigError
from cascadenced.eventlog.base import Change, ProjectionState, WritableLog
from cascadenced.eventlog.lock import DataFolderLock
from cascadenced.eventlog.sqlite import SqliteEventLog
from cascadenced.events.streams import SYSTEM_STREAM
from cascadenced.events.task import TaskRejected
from cascadenced.handlers.backfills import Backfills
from cascadenced.handlers.calendar_nodes import CalendarNodes
from cascadenced.handlers.calendar_polls import CalendarPolls
from cascadenced.handlers.commands import BusCommands
from cascadenced.handlers.control_requests import ControlRequests
from cascadenced.handlers.dead_letters import DeadLetters
from cascadenced.handlers.facts import Facts
from cascadenced.handlers.forks import Forks
from cascadenced.handlers.prerequisites import Prerequisites
from cascadenced.handlers.recurring import Recurring
from cascadenced.handlers.run_requests import RunRequests
from cascadenced.handlers.run_stage import StageRunner
from cascadenced.handlers.schedule_file import ScheduleFile
from cascadenced.handlers.schedule_requests import ScheduleRequests
from cascadenced.handlers.sources import Sources
from cascadenced.handlers.task_host import TaskHost
from cascadenced.handlers.ticks import Ticks
from cascadenced.identity import Pseudonyms, nameless
from cascadenced.ids import Ids, SystemIds
from cascadenced.pipeline.queue import Slots
from cascadenced.plugins.base import BaseTask
from cascadenced.plugins.discover import Catalogue, discover
from cascadenced.private_files import read_or_create_hex
from cascadenced.projections import all_projections
from cascadenced.projections import runs as run_rows
from cascadenced.projections.answers import Answers
from cascadenced.projections.board import Board
from cascadenced.runtime.controls import Controls
from cascadenced.runtime.counting import RefusalCounter
from cascadenced.runtime.orphans import Orphans
from cascadenced.runtime.record import LiveRun
from cascadenced.runtime.runs import Runs
from cascadenced.runtime.spawn import Spawner, ThreadSpawner
from cascadenced.runtime.tasks import Tasks
from cascadenced.vault import Vault, VaultPort

_log = structlog.get_logger(__name__)


class BusStatus(msgspec.Struct):
    """url: without credentials.  outbox_pending: events that are not yet published.  well: NATS does its work.

    n_to_repair: breaks that a repair under way is about: what the broker forgot is being published again.
    last_break: when NATS was lost or forgot something, and the reason; null if it did not since the start.
    """

    connected: bool
    url: str
    epoch: str
    outbox_pending: int
    well: bool = True
    n_to_repair: int = 0
    last_break: str | None = None


class Status(msgspec.Struct):
    """What /status answers. durability: the weakest in force, `fsync` or `memory`.  read_only: why nothing can be
    written.  frozen: projections that have stopped, by name, with the reason.  rejected: plugins that could not be
    used, with the reason.  tasks: an array of task rows."""

    version: str
    instance_id: str
    uptime_s: float
    position: int
    durability: str
    read_only: str | None
    emit_raw_user_id: bool
    frozen: Mapping[str, str]
    rejected: Mapping[str, str]
    n_running: int
    n_queued: int
    n_abandoned_threads: int
    bus: BusStatus | None
    tasks: msgspec.Raw


class Instance:
    """Everything below the faces, open. Made by `open_instance`, or by `assemble` on ports of your choice."""

    def __init__(
        self,
        config: Config,
        *,
        clock: Clock,
        ids: Ids,
        log: WritableLog,
        vault: VaultPort,
        spawner: Spawner,
        catalogue: Catalogue,
        pseudonyms: Pseudonyms,
        board: Board,
        schedules_file: Path | None = None,
    ) -> None:
        self.config = config
        self.clock, self.ids, self.log, self.vault = clock, ids, log, vault
        self.spawner, self.catalogue, self.pseudonyms, self.board = spawner, catalogue, pseudonyms, board
        self.started_at = clock.monotonic()
        self.refusals = RefusalCounter(log, clock)
        self.tasks = Tasks(log)
        self.stages = StageRunner(log, clock, spawner, pseudonyms, self._equip, max_processes=config.max_processes)
        self.runs = Runs(
            log=log,
            clock=clock,
            ids=ids,
            tasks=self.tasks,
            vault=vault,
            pseudonyms=pseudonyms,
            perform=self.stages,
            max_running=config.max_concurrent_runs,
            max_queued=config.max_queued_runs,
            cut_off=partial(run_rows.cut_off, log.tables),
        )
        self.controls = Controls(log, clock, self.runs, vault, pseudonyms)
        self.orphans = Orphans(self.controls)
        self.runs.on_orphan = self.orphans.cancel_soon
        self.sources = sources = Sources(log, pseudonyms)
        self.prerequisites = Prerequisites(log, self.runs, self.tasks)
        self.requests = RunRequests(log, self.runs, self.tasks, vault, pseudonyms, sources, self.prerequisites)
        self.forks = Forks(log, self.runs, self.tasks, pseudonyms)
        self.control_requests = ControlRequests(log, self.controls, self.runs, self.tasks, sources)
        self.facts = Facts(log, pseudonyms)
        self.calendars = CalendarFiles(clock, (schedules_file or config.schedules_file).parent)
        self.schedules = ScheduleRequests(
            log,
            clock,
            self.tasks,
            vault,
            pseudonyms,
            self.prerequisites,
            self.calendars,
            timezone=config.timezone,
            enabled=config.backend != "base",
            has_calendar=config.ume_base_url is not None,
        )
        if config.backend != "base":
            self.requests.recurring = Recurring(self.schedules, pseudonyms)
        self.calendar_polls = CalendarPolls(log, clock, self.schedules, CalendarNodes(clock, config.ume_base_url))
        self.schedule_file = ScheduleFile(
            log,
            clock,
            self.schedules,
            self.tasks,
            path=schedules_file,
            timezone=config.timezone,
        )
        self.ticks = Ticks(log, clock, self.runs, self.requests, self.tasks, self.controls, vault, self.calendars)
        self.backfills = Backfills(
            *(log, clock, self.runs, self.requests, self.tasks, vault, self.calendars), enabled=config.backend != "base"
        )
        board.next_fire_us, self.ticks.on_change = self.ticks.ticker.next_us, board.stale
        self.bus_commands = BusCommands(self.requests, self.schedules, self.facts, self.tasks, sources, pseudonyms)
        self.dead_letters = DeadLetters(log, vault, config.ume_nats_subject, self.bus_commands, self.refusals)
        self._rejected = {plugin.plugin: plugin.reason for plugin in catalogue.rejected}
        self.bus_status: Callable[[], BusStatus] | None = None
        """Set by the daemon while it has a bus."""
        self.backing_up = asyncio.Lock()
        """Held while a backup is made."""
        self.answers = Answers(log.tables, log.read_stream, self._projection_states, self.calendars)

    async def register_tasks(self) -> None:
        """Record what was found; what could not be used is an event as well."""
        await self.prerequisites.open()
        for entry in self.catalogue.tasks.values():
            await self.tasks.register(entry)
            self.runs.limit_task(entry.name, entry.policy.max_concurrent)
        rejected = [TaskRejected(plugin=r.plugin, reason=r.reason) for r in self.catalogue.rejected]
        for event in rejected:
            _log.error("plugin_rejected", plugin=event.plugin, reason=event.reason)
        if rejected:
            await self.log.append([Change(SYSTEM_STREAM, rejected)])

    @property
    def epoch(self) -> int | None:
        """Of what is recorded here; None where there is only a folder to read in (commands/shelf.py)."""
        return self.log.epoch

    def slots(self, run_id: str, task: str) -> Slots:
        """As the queue itself has them."""
        return self.runs.slots(run_id, task)

    async def status(self) -> Status:
        """How the instance is; without a database read."""
        return Status(
            version=__version__,
            instance_id=self.log.origin,
            uptime_s=round(self.clock.monotonic() - self.started_at, 3),
            position=self.log.position,
            durability=self.log.durability,
            read_only=self.log.read_only,
            emit_raw_user_id=self.config.emit_raw_user_id,
            frozen=self.log.frozen(),
            rejected=self._rejected,
            n_running=self.runs.n_running,
            n_queued=self.runs.n_queued,
            n_abandoned_threads=self.spawner.n_abandoned,
            bus=self.bus_status() if self.bus_status else None,
            tasks=msgspec.Raw(self.board.json()),
        )

    async def _projection_states(self) -> Sequence[ProjectionState]:
        return self.log.projection_states()

    def _equip(self, task: Any, live: LiveRun) -> None:
        if live.redact is not None:
            nameless.set(live.redact)  # of this run's own asyncio task, and the threads it starts
        host = TaskHost(self.log, self.requests, self.facts, live)
        if isinstance(task, BaseTask):
            task._host = host
        if live.entry is not None and live.entry.listens_to is not None:
            task.dispatch = host.dispatch


async def assemble(
    config: Config,
    *,
    clock: Clock,
    ids: Ids,
    log: WritableLog,
    vault: VaultPort,
    spawner: Spawner,
    catalogue: Catalogue,
    pseudonyms: Pseudonyms,
    schedules_file: Path | None = None,
) -> Instance:
    """An instance on open ports, its tasks registered. Closing the ports is the caller's."""
    instance = Instance(
        config,
        clock=clock,
        ids=ids,
        log=log,
        vault=vault,
        spawner=spawner,
        catalogue=catalogue,
        pseudonyms=pseudonyms,
        board=await Board.open(log),
        schedules_file=schedules_file,
    )
    await instance.register_tasks()
    return instance


@asynccontextmanager
async def open_instance(
    config: Config,
    *,
    who: str,
    on_fatal: Callable[[CascadenceError], None] | None = None,
    catalogue: Catalogue | None = None,
    spawner: Spawner | None = None,
) -> AsyncIterator[Instance]:
    """Lock the data folder, open everything real in it, close it in reverse order.

    who: what we are, for whoever finds the folder locked.
    catalogue, spawner: instead of what the configuration says.
    Raises LogHeld, ConfigError, LogCorrupt, DiskError.
    """
    clock, ids = SystemClock(), SystemIds()
    async with AsyncExitStack() as stack:
        lock = await DataFolderLock.acquire_within(config.data_dir, config.lock_wait_s, clock, who)
        stack.callback(lock.release)
        refuse_half_restored(config)
        refuse_incomplete(config)
        pseudonyms = Pseudonyms(
            config.hash_secret or read_or_create_hex(config.hash_secret_path, 32),
            compat_sha256=config.hash_compat == "sha256",
        )
        vault = await Vault.open(config.vault_path, config.vault_key_path, on_fatal=on_fatal)
        stack.push_async_callback(vault.close)
        log = await SqliteEventLog.open(
            config.log_path,
            clock=clock,
            ids=ids,
            instance_id=config.instance_id,
            projections=all_projections(),
            on_fatal=on_fatal,
        )
        stack.push_async_callback(log.close)
        if await log.remember("hash_secret", pseudonyms.fingerprint) != pseudonyms.fingerprint:
            raise ConfigError(other_secret(config))
        spawner = spawner or ThreadSpawner(config.max_threads)
        stack.callback(spawner.close)
        instance = await assemble(
            config,
            clock=clock,
            ids=ids,
            log=log,
            vault=vault,
            spawner=spawner,
            catalogue=catalogue
            or discover(config.plugin_paths, entry_points=config.plugin_entry_points, working_dir=Path.cwd()),
            pseudonyms=pseudonyms,
            schedules_file=config.schedules_file,
        )
        stack.push_async_callback(instance.stages.close)
        yield instance
        await instance.refusals.flush()


def other_secret(config: Config) -> str:
    """What is said where the log was written with another hash secret than the one in force."""
    made = f"the pseudonyms in {config.log_path} were made with another secret than"
    if config.hash_secret is not None:
        name = f"hash_secret ({config.sources.get('hash_secret', 'set')})"
        return f"{made} {name}: set it to what it was, or remove it if {config.hash_secret_path} was in use before"
    return (
        f"{made} the one in {config.hash_secret_path}: restore the file from a backup (a new one was drawn if it was "
        "missing), set hash_secret if that was in use before, or set data_dir to a new folder"
    )
