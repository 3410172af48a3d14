"""A run → a file, and a file → the run. Beside a daemon that may be up, without asking it."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from cascadenced import __version__
from cascadenced.clock import SystemClock, iso
from cascadenced.commands.quiet import quiet
from cascadenced.commands.shelf import Shelf, open_shelf
from cascadenced.config import Config
from cascadenced.errors import BadMessage, ConfigError, Invalid, Unknown
from cascadenced.eventlog.chain import first_misfit
from cascadenced.events import run_file
from cascadenced.events.base import Recorded
from cascadenced.events.run_file import FiledRun, RunFile
from cascadenced.events.streams import run_id_of, run_stream
from cascadenced.handlers.replay import Replay
from cascadenced.handlers.replay import replay as perform_again
from cascadenced.plugins.describe import describe
from cascadenced.plugins.discover import Catalogue, discover, load
from cascadenced.private_files import FILE_MODE, translated
from cascadenced.projections.runs import resolve_run_id
from cascadenced.replaying import nobody_listens
from cascadenced.runtime.spawn import ThreadSpawner
from cascadenced.runtime.tasks import TaskEntry


def export(config: Config, given: str) -> RunFile:
    """The run whose id is, or begins with, `given`. Raises Unknown, Invalid, Unavailable if the log cannot be read."""
    with quiet(config):
        return asyncio.run(_export(config, given))


def encoded(file: RunFile) -> bytes:
    """Raises Invalid for more than such a file may have."""
    data = msgspec.json.encode(file) + b"\n"
    if len(data) > run_file.MAX_FILE_BYTES:
        raise Invalid(f"the run has {len(data)} bytes, and a file may have {run_file.MAX_FILE_BYTES}", code="too_large")
    return data


def write(path: Path, data: bytes, *, force: bool) -> None:
    """The file (0600) appears complete, or not at all. force: it may replace another one.

    Raises Invalid if it is there already or cannot be written, DiskFull, DiskError.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE), "wb") as file:
            os.fchmod(file.fileno(), FILE_MODE)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if force:
            os.replace(draft, path)
        else:
            os.link(draft, path)  # unlike a rename, it never replaces
    except FileExistsError:
        raise Invalid(f"{path} is there already: name another file, or give --force to replace it") from None
    except OSError as error:
        said = translated(error, f"{path} cannot be written")
        raise Invalid(str(said)) if isinstance(said, ConfigError) else said from None
    finally:
        draft.unlink(missing_ok=True)


def read(path: Path) -> RunFile:
    """Raises Invalid for a file that cannot be read or is no run."""
    try:
        if path.stat().st_size > run_file.MAX_FILE_BYTES:
            raise Invalid(f"{path} has {path.stat().st_size} bytes; a run has {run_file.MAX_FILE_BYTES} at most")
        data = path.read_bytes()
    except OSError as error:
        raise Invalid(f"{path} cannot be read: {error.strerror or error}") from None
    try:
        return run_file.read(data, str(path))
    except BadMessage as error:
        raise Invalid(str(error)) from None


def replay(config: Config, file: RunFile, name: str, task: str | None) -> Replay:
    """Perform the run in `file` again. name: of the file.  task: `module:Class`, instead of where the file says it is.

    Raises Invalid for a file that was changed, and for a file or a class that cannot be used.
    """
    try:
        events = run_file.recorded(file.run, name)
        misfit = first_misfit(run_file.rows(file.run, name))
    except BadMessage as error:
        raise Invalid(str(error)) from None
    if misfit is not None:
        _position, _id, stream, version, kind, *_ = misfit
        raise Invalid(
            f"{name}: this file was changed: event {version} ({kind[:40]}) of the run {run_id_of(stream)[:64]} is not "
            "what was recorded, its hash does not fit. Export the run again"
        )
    # Also while the code is imported, and while what it leaves on the loop is cancelled.
    with quiet(config), nobody_listens():
        return asyncio.run(_replay(config, events, _entry(config, file.run, task)))


async def _replay(config: Config, events: Sequence[Recorded], entry: TaskEntry) -> Replay:
    spawner = ThreadSpawner(config.max_threads)
    try:
        return await perform_again(events, entry, clock=SystemClock(), spawner=spawner)
    finally:
        spawner.close()


def _entry(config: Config, run: FiledRun, path: str | None) -> TaskEntry:
    """The task whose code is to be performed."""
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    if path is not None:
        return _loaded(path)
    catalogue = discover(config.plugin_paths, entry_points=config.plugin_entry_points)
    if run.source is not None:
        return _approved(catalogue, run.source)
    entry = catalogue.tasks.get(run.task)
    if entry is None:
        raise Invalid(
            f"the file does not say where the code of {run.task} is, and no task of that name is installed: name its "
            "class with --task module:Class"
        )
    return entry


def _approved(catalogue: Catalogue, source: str) -> TaskEntry:
    """The task at `source`. A file may come from anybody: what it names is imported only if it is installed here."""
    for entry in catalogue.tasks.values():
        if entry.source == source:
            return entry
    if any(each.plugin == source for each in catalogue.rejected):
        return _loaded(source)
    raise Invalid(
        f"the file names code that is not approved here: {source[:200]!r}. If you trust it, put it into plugin_paths; "
        "or name the class to perform with --task module:Class"
    )


def _loaded(path: str) -> TaskEntry:
    try:
        return describe(load(path))
    except Invalid as error:
        raise Invalid(f"the task {path} cannot be used: {error}. Name another class with --task") from None


def summary(file: RunFile, path: str) -> dict[str, Any]:
    """What is told of an export."""
    runs = list(_all(file.run))
    return {
        "file": path,
        "run_id": file.run.run_id,
        "task": file.run.task,
        "source": file.run.source,
        "n_runs": len(runs),
        "n_events": sum(len(run.events) for run in runs),
    }


async def _export(config: Config, given: str) -> RunFile:
    async with open_shelf(config) as shelf:
        run_id = given
        if not await shelf.log.read_stream(run_stream(given)):
            run_id = await resolve_run_id(shelf.tables, given)
        collected: dict[str, FiledRun] = {}
        run = await _filed(shelf, run_id, _sources(shelf), collected)
        return RunFile(made_by=__version__, exported_at=iso(SystemClock().now_us()), run=run)


async def _filed(
    shelf: Shelf, run_id: str, sources: Mapping[str, str | None], collected: dict[str, FiledRun]
) -> FiledRun:
    if len(collected) >= run_file.MAX_RUNS:
        raise Invalid(f"more than {run_file.MAX_RUNS} runs came of this one: export its children one by one")
    events = await shelf.log.read_stream(run_stream(run_id))
    if not events:
        raise Unknown(f"no run {run_id[:64]!r}, though a plan asked for it: the log is incomplete")
    collected[run_id] = run = run_file.filed(events, None, [])
    source = None if run_file.is_child(events) else sources.get(run.task)
    children = [
        await _filed(shelf, child, sources, collected) for child in run_file.child_ids(events) if child not in collected
    ]
    return msgspec.structs.replace(run, source=source, children=children)


def _sources(shelf: Shelf) -> Mapping[str, str | None]:
    return {name: entry.source for name, entry in shelf.catalogue.tasks.items()}


def _all(run: FiledRun) -> list[FiledRun]:
    return [run, *(inner for child in run.children for inner in _all(child))]
