"""Entry points, approved paths and built-ins → a value that lists what was found and what could not be used."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable, Mapping
from importlib import metadata
from operator import attrgetter
from pathlib import Path

import msgspec

from cascadenced.errors import Invalid
from cascadenced.events.content import text_of, type_name
from cascadenced.pipeline.graph import graph
from cascadenced.plugins.builtin import BUILTINS
from cascadenced.plugins.describe import describe
from cascadenced.runtime.tasks import TaskEntry

ENTRY_POINT_GROUPS = ("cascadenced.plugins", "task_cascadence.plugins")


class Rejected(msgspec.Struct, frozen=True):
    """plugin: `module:Class` or the entry point's value.  reason: a sentence."""

    plugin: str
    reason: str


class Catalogue(msgspec.Struct, frozen=True):
    """tasks: by registered name, in order of registration."""

    tasks: Mapping[str, TaskEntry]
    rejected: tuple[Rejected, ...]


def discover(plugin_paths: Iterable[str], *, entry_points: bool = True, working_dir: Path | None = None) -> Catalogue:
    """Import everything approved. A plugin that cannot be used is listed with the reason; the others load.

    working_dir: put on the import path for `plugin_paths`, so that a file beside cascadence.yml can be named.
    """
    found: list[tuple[str, object]] = [(f"builtin:{target.__name__}", target) for target in BUILTINS]
    rejected: list[Rejected] = []
    paths = list(plugin_paths)
    if entry_points:
        paths = [point.value for group in ENTRY_POINT_GROUPS for point in metadata.entry_points(group=group)] + paths
    if working_dir is not None and str(working_dir) not in sys.path:
        sys.path.append(str(working_dir))
    for path in dict.fromkeys(paths):
        try:
            found.append((path, load(path)))
        except Invalid as error:
            rejected.append(Rejected(path, str(error)))
    return collect(found, rejected)


def load(path: str) -> object:
    """What `module:attribute` names. Raises Invalid; imports run the module's code, whatever it does."""
    module_name, colon, attribute = path.partition(":")
    if not colon or ":" in attribute or not module_name or not attribute:
        raise Invalid("path must be 'module:Class'")
    try:
        module = importlib.import_module(module_name)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        raise Invalid(f"{module_name} cannot be imported: {_text(error)}") from None
    try:
        return attrgetter(attribute)(module)
    except AttributeError:
        raise Invalid(f"{module_name} has no {attribute}") from None
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 -- the module's own __getattr__
        raise Invalid(f"{module_name} does not give its {attribute}: {_text(error)}") from None


def collect(found: Iterable[tuple[str, object]], rejected: Iterable[Rejected] = ()) -> Catalogue:
    """Describe each target; a later one may not take the name of an earlier one, and none may have to run before
    itself."""
    tasks: dict[str, TaskEntry] = {}
    path_of: dict[str, str] = {}
    refused = list(rejected)
    for path, target in found:
        try:
            entry = describe(target)
            if entry.name in tasks:
                raise Invalid(f"the name {entry.name!r} is taken by another plugin")
        except Invalid as error:
            refused.append(Rejected(path, str(error)))
            continue
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 -- looking at a plugin runs its code: metaclasses, descriptors
            refused.append(Rejected(path, f"cannot be described: {_text(error)}"))
            continue
        tasks[entry.name], path_of[entry.name] = entry, path
    in_cycles = _cycles(tasks)
    refused += [Rejected(path_of[name], reason) for name, reason in in_cycles.items()]
    return Catalogue({name: entry for name, entry in tasks.items() if name not in in_cycles}, tuple(refused))


def _cycles(entries: Mapping[str, TaskEntry]) -> dict[str, str]:
    """Tasks that can never run, because each would have to have run before itself; with the way round."""
    found: dict[str, str] = {}
    for name in entries:
        try:
            graph(name, lambda of: entries[of].policy.dependencies if of in entries else ())
        except Invalid as error:
            found[name] = str(error)
    return found


def _text(error: BaseException) -> str:
    return f"{type_name(error)}: {text_of(error)}"
