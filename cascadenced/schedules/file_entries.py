"""What the entries of `schedules.yml` ask for, and how they are written back. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from cascadenced.errors import Invalid
from cascadenced.events.base import Context, Json
from cascadenced.schedules.definition import Definition
from cascadenced.schedules.file_text import FileText

MAX_PROBLEMS = 50
"""Said of one file."""

Definitions = Mapping[str, tuple[str | None, int, Definition]]
"""Of a file, by key: the task, None if there is no such; the line; what it says."""


def understood(
    text: FileText, resolve: Callable[[str], str | None], define: Callable[[str, Json], Definition]
) -> tuple[Definitions, Sequence[str]]:
    """What the entries of a file set, and what is wrong with it.

    resolve: the task that a key names, None if there is no such.  define: as `schedules.definition.defined`, of a task
    and its entry.
    """
    found: dict[str, tuple[str | None, int, Definition]] = {}
    problems, key_of = list(text.problems), dict[str, str]()
    for key, entry in text.entries.items():
        name = resolve(key)
        try:
            definition = define(name or key, entry.value)
        except Invalid as error:
            problems.append(f"line {entry.line}: {error}")
            continue
        if definition.rule.event is not None:
            name = key
        if name is not None and (other := key_of.setdefault(name, key)) != key:
            problems.append(f"line {entry.line}: {key}: is the same task as {other}")
        found[key] = (name, entry.line, definition)
    return found, problems[:MAX_PROBLEMS]


def by_task(definitions: Definitions) -> dict[str, Definition]:
    """Without those that are of no task."""
    return {name: definition for name, _, definition in definitions.values() if name is not None}


def by_pseudonym(value: Json, definition: Definition, whom: Context) -> Json:
    """An entry, with pseudonyms in the place of ids."""
    if not definition.who:
        return value
    assert isinstance(value, dict)
    entry = _nameless(value)
    if isinstance(entry.get("calendar_event"), dict):
        entry["calendar_event"] = _nameless(entry["calendar_event"])
    hashes = (("user_hash", whom.user_hash), ("group_hash", whom.group_hash))
    return entry | {name: pseudonym for name, pseudonym in hashes if pseudonym is not None}


def _nameless(entry: Mapping[str, Json]) -> dict[str, Json]:
    return {key: value for key, value in entry.items() if key not in ("user_id", "group_id", "user_hash", "group_hash")}
