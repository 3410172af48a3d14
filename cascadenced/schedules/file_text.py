"""`schedules.yml`: its text read as entries, and written again with everything else in it as it was. Pure.

The file is people's and ours: they edit it by hand, we note in it what was set elsewhere and put pseudonyms in the
place of ids. A comment at its end says how much of the log it knows, so that either's changes are told from the
other's.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from cascadenced.events.base import Json
from cascadenced.events.schedule import ScheduleSet
from cascadenced.plain_yaml import entries

MAX_FILE_BYTES = 4 * 1024 * 1024
_KNOWS = re.compile(rb"^# cascadenced: in step with the log up to event (\d{1,18})\b.*\n?", re.MULTILINE)
_KEY_WITHIN = re.compile(r"^( +)[^\s#\-][^\n]*:", re.MULTILINE)
_FIRST_ITEM = re.compile(r"^( *)[^\s#\-][^\n]*:[ ]*(?:#[^\n]*)?\n(?:[ ]*(?:#[^\n]*)?\n)*( *)- ", re.MULTILINE)
_DEFAULTS = ScheduleSet(task="")


class Entry(msgspec.Struct, frozen=True):
    """value: as YAML has it.  line: where it begins."""

    value: Json
    line: int


class FileText(msgspec.Struct, frozen=True):
    """knows: position of the last event that the file takes account of, None if we never wrote it.

    problems: what cannot be read, each with its line; then the entries are not to be trusted.
    """

    entries: Mapping[str, Entry]
    knows: int | None = None
    problems: tuple[str, ...] = ()


def read(data: bytes) -> FileText:
    """The entries of a file, by key, in its order."""
    problems: list[str] = []
    if len(data) > MAX_FILE_BYTES:
        return FileText({}, problems=(f"has {len(data)} bytes; {MAX_FILE_BYTES} are allowed",))
    found = {
        key: Entry(value, line)
        for key, value, line in entries(data, lambda line, says: problems.append(f"line {line}: {says}"))
    }
    marks = _KNOWS.findall(data)
    return FileText(found, int(marks[-1]) if marks else None, tuple(problems))


def written(data: bytes, wanted: Mapping[str, Json], knows: int) -> bytes:
    """`data` with exactly the entries of `wanted`; those that are the same keep their place, order and comments.

    data: a file that `read` finds no problems in.
    """
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4_096
    text = _KNOWS.sub(b"", data).decode("utf-8-sig")
    yaml.indent(**_indents(text))
    root: Any = yaml.load(text) or {}
    if not root:
        kept = text if not text or text.endswith("\n") else text + "\n"  # comments alone
        root = {}
    else:
        kept = ""
    for key in [key for key in root if key not in wanted]:
        del root[key]
    for key, value in wanted.items():
        if key not in root or _plain(root[key]) != _plain(value):
            _put(root, key, value)
    out = io.StringIO()
    if root:
        yaml.dump(root, out)
    body = kept + out.getvalue()
    if body and not body.endswith("\n"):
        body += "\n"
    return f"{body}# cascadenced: in step with the log up to event {knows} (leave this line)\n".encode()


def _indents(text: str) -> dict[str, int]:
    """How far its mappings and lists are moved in, so that what does not change looks as it did."""
    mapping = min((len(found[1]) for found in _KEY_WITHIN.finditer(text)), default=2)
    first = _FIRST_ITEM.search(text)
    offset = max(0, len(first[2]) - len(first[1])) if first else 0
    return {"mapping": mapping, "sequence": offset + 2, "offset": offset}


def _put(root: Any, key: str, value: Json) -> None:
    """`value` at `key`. Of two mappings only what differs is touched, so that the comments within stay."""
    old = root.get(key)
    if not isinstance(old, dict) or not isinstance(value, dict):
        root[key] = value
        return
    for name in [name for name in old if name not in value]:
        del old[name]
    for name, inner in value.items():
        if name not in old or _plain(old[name]) != _plain(inner):
            _put(old, name, inner)


def _plain(value: Any) -> Json:
    """What ruamel's own kinds of dict, list and str are as JSON."""
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, str):
        return str(value)
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    return value.isoformat() if hasattr(value, "isoformat") else value


def entry_of(rule: ScheduleSet, *, user_hash: str | None, group_hash: str | None, timezone: str) -> Json:
    """The entry of a rule: a bare expression if that says all of it. timezone: where an entry names none."""
    entry: dict[str, Json] = {}
    if rule.calendar_event is not None:
        entry["calendar_event"] = rule.calendar_event
    else:
        entry |= {
            name: value for name in ("expr", "rrule", "every_s", "at") if (value := getattr(rule, name)) is not None
        }
    if rule.timezone != timezone:
        entry["timezone"] = rule.timezone
    dst = {
        name: value
        for name, value, default in (("gap", rule.gap, _DEFAULTS.gap), ("overlap", rule.fold, _DEFAULTS.fold))
        if value != default
    }
    if dst:
        entry["dst"] = dst
    misfire = _misfire(rule)
    if misfire:
        entry["misfire"] = misfire if len(misfire) > 1 or "policy" not in misfire else misfire["policy"]
    for name in ("overlap", "jitter_s", "exclude_ics", "event", "args", "recurrence"):
        value = getattr(rule, name)
        if value != getattr(_DEFAULTS, name):
            entry[name] = value
    if rule.exclude:
        entry["exclude"] = list(rule.exclude)
    if rule.deps:
        entry["deps"] = list(rule.deps)
    if user_hash is not None:
        entry["user_hash"] = user_hash
    if group_hash is not None:
        entry["group_hash"] = group_hash
    return (
        rule.expr
        if set(entry) == {"expr"}
        else {name: value if name in ("args", "recurrence") else _tidy(value) for name, value in entry.items()}
    )


def _tidy(value: Json) -> Json:
    """Numbers as a person writes them."""
    if isinstance(value, dict):
        return {name: _tidy(inner) for name, inner in value.items()}
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _misfire(rule: ScheduleSet) -> dict[str, Json]:
    return {
        name: value
        for name, value, default in (
            ("policy", rule.misfire, _DEFAULTS.misfire),
            ("within_s", rule.misfire_within_s, _DEFAULTS.misfire_within_s),
            ("max", rule.misfire_max, _DEFAULTS.misfire_max),
        )
        if value != default
    }
