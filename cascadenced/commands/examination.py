"""What `doctor` looks at, and what it finds."""

from __future__ import annotations

import os
import platform
import sqlite3
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from cascadenced import __version__
from cascadenced.backup import refuse_half_restored
from cascadenced.commands import door, wire
from cascadenced.commands.folder import has_log
from cascadenced.commands.shelf import open_shelf
from cascadenced.completeness import refuse_incomplete
from cascadenced.config import Config
from cascadenced.errors import CascadenceError, ConfigError, Invalid, LogCorrupt
from cascadenced.eventlog.at_rest import reading
from cascadenced.eventlog.database import verify_chain
from cascadenced.events.base import Json
from cascadenced.identity import Pseudonyms
from cascadenced.instance import other_secret
from cascadenced.private_files import read_hex
from cascadenced.runtime.tasks import TaskEntry, resolve
from cascadenced.schedules.file_entries import Definitions
from cascadenced.shown_settings import Setting, show
from cascadenced.vault_file import check_key

_N_CHECKED = 200_000
"""Events that the doctor checks, which takes two seconds."""
_PRIVATE_FILES = ("log.db", "vault.db", "vault.key", "hash.secret", "daemon.json")


class Server(msgspec.Struct):
    """A nats-server that would be started as our child."""

    path: str
    version: str


class Daemon(msgspec.Struct):
    """The daemon that is up. bus: connected, or why not."""

    pid: int
    version: str
    http_url: str
    bus: str


class Log(msgspec.Struct):
    """The log as it lies on disk. epoch: raised by openings for writing and restores.  projections: name → state."""

    position: int
    epoch: int
    instance_id: str
    n_unfinished: int
    projections: dict[str, str]


class Rejected(msgspec.Struct):
    plugin: str
    reason: str


class Report(msgspec.Struct):
    """problems: what makes `doctor` exit 1.  warnings: what may be meant so."""

    version: str
    python: str
    sqlite: str
    data_dir: str
    settings: list[Setting] = []
    nats_server: Server | None = None
    daemon: Daemon | None = None
    log: Log | None = None
    tasks: list[str] = []
    rejected: list[Rejected] = []
    warnings: list[str] = []
    problems: list[str] = []


async def examine(config: Config) -> Report:
    """Look at everything; what cannot be looked at is a problem, not an error."""
    report = Report(
        version=__version__,
        python=platform.python_version(),
        sqlite=sqlite3.sqlite_version,
        data_dir=config.data_dir,
        settings=show(config),
    )
    _look_at_folder(config, report)
    _look_at_vault(config, report)
    await _look_for_server(config, report)
    await _look_at_log(config, report)
    _look_for_daemon(config, report)
    _look_at_settings(config, report)
    return report


def _look_at_folder(config: Config, report: Report) -> None:
    folder = Path(config.data_dir)
    if not folder.exists():
        report.warnings.append(f"{folder} is not there yet; the first command that records something makes it")
        return
    if not folder.is_dir():
        report.problems.append(f"{folder} is not a folder")
        return
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        report.problems.append(f"{folder} cannot be read and written by this user")
        return
    mode = stat.S_IMODE(folder.stat().st_mode)
    if mode & stat.S_IWOTH:
        report.problems.append(f"anyone may write to {folder} (mode {mode:o}): chmod 700")
    elif mode & 0o077:
        report.warnings.append(f"others may look into {folder} (mode {mode:o}): chmod 700")
    for name in _PRIVATE_FILES:
        path = folder / name
        if path.exists() and stat.S_IMODE(path.stat().st_mode) & 0o077:
            report.problems.append(f"others may read {path}: chmod 600")


def _look_at_vault(config: Config, report: Report) -> None:
    try:
        refuse_half_restored(config)
        refuse_incomplete(config)
        check_key(config.vault_path, config.vault_key_path)
    except CascadenceError as error:
        report.problems.append(str(error))
    except OSError as error:
        report.problems.append(f"{config.vault_path} cannot be looked at: {error.strerror}")


async def _look_for_server(config: Config, report: Report) -> None:
    if config.nats_url is not None:
        return
    from cascadenced.bus.embedded_config import find_server, server_version

    try:
        path = find_server(config.nats_server)
        report.nats_server = Server(str(path), ".".join(map(str, await server_version(path))))
    except ConfigError as error:
        report.problems.append(str(error))


async def _look_at_log(config: Config, report: Report) -> None:
    try:
        async with open_shelf(config) as shelf:
            if has_log(config):
                meta = await shelf.meta()
                _look_at_chain(config, report)
                _look_at_secret(config, meta.get("hash_secret"), report)
                report.log = Log(
                    position=await shelf.position(),
                    epoch=int(meta.get("epoch", "0")),
                    instance_id=meta.get("instance_id", ""),
                    n_unfinished=len(await shelf.log.unfinished()),
                    projections={state.name: state.frozen or "ok" for state in await shelf.states()},
                )
            report.tasks = list(shelf.catalogue.tasks)
            report.rejected = [Rejected(r.plugin, r.reason) for r in shelf.catalogue.rejected]
            _look_at_dependencies(shelf.catalogue.tasks, report)
            _look_at_spelling(shelf.catalogue.tasks, report)
            if config.follow_up_task and config.follow_up_task not in shelf.catalogue.tasks:
                report.problems.append(
                    f"follow_up_task: there is no task {config.follow_up_task}: nothing follows a failed run"
                )
            _look_at_schedules(config, shelf.catalogue.tasks, report)
    except CascadenceError as error:
        if str(error) not in report.problems:  # the folder was looked at before
            report.problems.append(str(error))
    for name, state in (report.log.projections if report.log else {}).items():
        if state != "ok":
            report.problems.append(f"the projection {name} is frozen ({state}): `cascadenced log rebuild {name}`")
    for rejected in report.rejected:
        report.problems.append(f"the plugin {rejected.plugin} cannot be used: {rejected.reason}")


def _look_at_chain(config: Config, report: Report) -> None:
    """The newest events; `log verify` checks all of them."""
    try:
        with reading(config.log_path) as connection:
            (last,) = connection.execute("SELECT coalesce(max(position), 0) FROM events").fetchone()
            verify_chain(connection, max(0, last - _N_CHECKED))
    except LogCorrupt as error:
        report.problems.append(str(error))


def _look_at_secret(config: Config, fingerprint: str | None, report: Report) -> None:
    """fingerprint: of the secret that the log was written with; None if nothing was ever written."""
    if fingerprint is None:
        return
    try:
        secret = config.hash_secret or read_hex(config.hash_secret_path, 32)
        fits = Pseudonyms(secret).fingerprint == fingerprint
    except CascadenceError as error:
        report.problems.append(str(error))
        return
    if not fits:
        report.problems.append(other_secret(config))


def _look_at_schedules(config: Config, tasks: Mapping[str, TaskEntry], report: Report) -> None:
    """The file as a daemon would read it now: it takes over all of it or nothing. Calendars are not asked."""
    from cascadenced.clock import SystemClock
    from cascadenced.handlers.schedule_file import VIA
    from cascadenced.schedules.definition import Definition, defined
    from cascadenced.schedules.file_entries import understood
    from cascadenced.schedules.file_text import MAX_FILE_BYTES, read

    path, now_us = config.schedules_file, SystemClock().now_us()
    if config.backend == "base":
        return

    def define(task: str, entry: Json) -> Definition:
        return defined(task, entry, now_us=now_us, timezone=config.timezone, via=VIA)

    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        return
    except OSError as error:
        report.problems.append(f"{path} cannot be read: {error.strerror}")
        return
    found, problems = understood(read(data), lambda key: resolve(key, tasks), define)
    report.problems += [f"{path.name}: {problem}" for problem in problems]
    report.problems += [f"{path.name}: {problem}" for problem in _cycles(found, tasks)]
    report.warnings += [
        f"{path.name}: line {line}: there is no task {key}: its schedule fires nothing"
        for key, (name, line, _) in found.items()
        if name is None
    ]
    report.warnings += [
        f"{path.name}: line {line}: {key} is to run after {needed}, and there is no such task: its runs are refused"
        for key, (name, line, definition) in found.items()
        for needed in definition.rule.deps
        if name is not None and needed not in tasks
    ]


def _look_at_dependencies(tasks: Mapping[str, TaskEntry], report: Report) -> None:
    report.warnings += [
        f"the task {name} is to run after {needed}, and there is no such task: its runs are refused"
        for name, entry in tasks.items()
        for needed in entry.policy.dependencies
        if needed not in tasks
    ]


def _look_at_spelling(tasks: Mapping[str, TaskEntry], report: Report) -> None:
    from cascadenced.plugins.discover import load
    from cascadenced.plugins.misspelt import misspelt

    for name, entry in tasks.items():
        target = None if entry.source is None else load(entry.source)
        for word, near in misspelt(target).items() if isinstance(target, type) else ():
            report.warnings.append(f"the task {name} has {word}, which means nothing here: did you mean {near}?")


def _cycles(found: Definitions, tasks: Mapping[str, TaskEntry]) -> Iterator[str]:
    """Entries whose task would have to run before itself."""
    from cascadenced.pipeline.graph import graph
    from cascadenced.schedules.file_entries import by_task

    by_schedule = by_task(found)

    def needs(name: str) -> Sequence[str]:
        by_class = tasks[name].policy.dependencies if name in tasks else ()
        return (*by_class, *(by_schedule[name].rule.deps if name in by_schedule else ()))

    for key, (name, line, definition) in found.items():
        try:
            if name is not None and definition.rule.deps:
                graph(name, needs)
        except Invalid as error:
            yield f"line {line}: {key}: {error}"


def _look_for_daemon(config: Config, report: Report) -> None:
    try:
        reply = wire.exchange(config, "/rpc/status", b"{}", 5.0)
        found = wire.note(config)
        if reply is None or found is None:
            return
        status: dict[str, Any] = door.result_of(*reply)
    except CascadenceError as error:
        report.problems.append(str(error))
        return
    bus = status["bus"]
    connected = bus is not None and bus["connected"]
    shown = "none" if bus is None else f"{'connected to' if connected else 'no connection to'} {bus['url']}"
    if connected and bus.get("last_break"):  # a daemon of another version may not say
        shown += f", last break {bus['last_break']}"
    report.daemon = Daemon(found.pid, found.version, found.http_url, shown)
    if not connected:
        report.problems.append("the daemon has no connection to NATS; what it records is published when it has one")
    elif not bus.get("well", True):
        report.problems.append("NATS is connected, but does not do its work: see the daemon's and the server's log")
    elif bus.get("n_to_repair"):
        report.warnings.append("NATS has forgotten something; the daemon is publishing it again")
    if status["read_only"]:
        report.problems.append(f"the daemon cannot write: {status['read_only']}")
    if found.version != __version__:
        report.warnings.append(f"the daemon is version {found.version}, this command {__version__}: restart it")


def _look_at_settings(config: Config, report: Report) -> None:
    if config.emit_raw_user_id:
        report.warnings.append("emit_raw_user_id: raw user ids are published to the bus")
    foreign = config.nats_url is not None
    if foreign and config.erase_inbound:
        report.warnings.append("erase_inbound: consumed messages are erased from a broker that is not ours alone")
    if foreign and not config.erase_inbound:
        report.warnings.append("consumed messages, raw ids included, stay in the broker until it drops them by age")
    if not foreign and config.erase_inbound is False:
        report.warnings.append(
            "erase_inbound is off: consumed messages, raw ids included, stay in nats/ until they age"
        )
    if config.hash_compat is not None:
        report.warnings.append("hash_compat: pseudonyms are plain SHA-256, which is meant for a migration only")
