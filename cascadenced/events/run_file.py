"""A run in a file: what the log has of it and of the runs that its plan asked for, as one JSON document.

    {"format": "cascadenced.run", "version": 1, …, "run": {"run_id", "task", "events": [header and data], "children"}}

People appear by pseudonym only; arguments, outputs and payloads are content, as they were given.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from cascadenced.errors import BadMessage
from cascadenced.events.base import Event, Json, Recorded
from cascadenced.events.catalogue import SCHEMA, decode
from cascadenced.events.child import ChildRequested
from cascadenced.events.run import RunRequested, RunStarted
from cascadenced.events.streams import run_id_of

FORMAT = "cascadenced.run"
VERSION = 1
MAX_FILE_BYTES = 256 << 20
MAX_RUNS = 10_000
"""In one file: a run and all that came of its plans."""

Row = tuple[Any, bytes, bytes]
"""header, data, hash"""


class FiledEvent(msgspec.Struct, frozen=True):
    """A recorded event, field by field as `log export` writes it. hash: hex digits."""

    position: int
    id: str
    stream: str
    version: int
    type: str
    at_us: int
    origin: str
    epoch: int
    source: str | None
    user_hash: str | None
    group_hash: str | None
    run_id: str | None
    cause: str | None
    correlation: str | None
    traceparent: str | None
    schema: int
    data: msgspec.Raw
    hash: str


class FiledRun(msgspec.Struct, frozen=True):
    """source: `module:Class`, where the task's code was found when the file was written; None: nowhere.

    code: digest of the source that the run started with, None if it never did.  children: in the order they were asked
    for, those that were asked for again included.
    """

    run_id: str
    task: str
    source: str | None
    code: str | None
    args: dict[str, Json]
    events: list[FiledEvent]
    children: list[FiledRun]


class RunFile(msgspec.Struct, frozen=True):
    """made_by: the program's version.  exported_at: ISO 8601 UTC."""

    made_by: str
    exported_at: str
    run: FiledRun
    format: str = FORMAT
    version: int = VERSION


class _Cover(msgspec.Struct):
    """What is looked at first."""

    format: str = ""
    version: int = 0


def filed(events: Sequence[Recorded], source: str | None, children: list[FiledRun]) -> FiledRun:
    """`events`: the run's whole stream."""
    first = events[0]
    request = first.event
    return FiledRun(
        run_id=first.run_id or run_id_of(first.stream),
        task=request.task if isinstance(request, RunRequested) else "",
        source=source,
        code=next((r.event.code for r in events if isinstance(r.event, RunStarted)), None),
        args=request.args if isinstance(request, RunRequested) else {},
        events=[_filed_event(recorded) for recorded in events],
        children=children,
    )


def child_ids(events: Sequence[Recorded]) -> list[str]:
    """Every run that a plan asked for."""
    return [r.event.child_run_id for r in events if isinstance(r.event, ChildRequested)]


def is_child(events: Sequence[Recorded]) -> bool:
    """Whether a plan asked for it: its task need not be one that is registered."""
    return isinstance(events[0].event, RunRequested) and events[0].event.parent_run_id is not None


def read(data: bytes, name: str) -> RunFile:
    """The document in `data`. name: of the file, for messages. Raises BadMessage, saying what is wrong and where."""
    try:
        cover = msgspec.json.decode(data, type=_Cover)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadMessage(f"{name} is no run that was exported: {error}") from None
    if cover.format != FORMAT:
        raise BadMessage(f"{name} is no run that was exported: its `format` is {cover.format[:40]!r}, not {FORMAT!r}")
    if cover.version != VERSION:
        raise BadMessage(
            f"{name} has version {cover.version} of the format, and this program reads {VERSION}: use the cascadenced "
            "that wrote it"
        )
    try:
        return msgspec.json.decode(data, type=RunFile)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadMessage(f"{name} is damaged: {error}") from None


def recorded(run: FiledRun, name: str) -> list[Recorded]:
    """The run's events as the log had them. Raises BadMessage for what cannot be one of these."""
    found = [_recorded(event, name) for event in run.events]
    if not found or not isinstance(found[0].event, RunRequested):
        raise BadMessage(f"{name} is damaged: run {run.run_id[:64]} does not begin with its request")
    if found[0].event.task != run.task:
        raise BadMessage(f"{name} is damaged: run {run.run_id[:64]} is not one of {run.task[:64]}")
    position = 0
    for nth, each in enumerate(found, 1):
        if each.version != nth:
            raise BadMessage(f"{name} is damaged: of run {run.run_id[:64]}, the event with version {nth} is missing")
        if run_id_of(each.stream) != run.run_id:
            raise BadMessage(f"{name} is damaged: event {nth} of run {run.run_id[:64]} is another run's")
        if each.position <= position:
            raise BadMessage(
                f"{name} is damaged: event {nth} of run {run.run_id[:64]} stood before the one that it follows here"
            )
        position = each.position
    return found


def rows(run: FiledRun, name: str) -> list[Row]:
    """Header, data and hash of every event of the run and of those of its plan, as the log's chain is made of them
    (eventlog/chain.py). A run that is in the file twice is taken once. Raises BadMessage for a hash that is none."""
    found: dict[str, list[Row]] = {}
    waiting = [run]
    while waiting:
        each = waiting.pop()
        found.setdefault(each.run_id, [_row(event, name) for event in each.events])
        waiting += each.children
    return [row for of_a_run in found.values() for row in of_a_run]


def _row(filed: FiledEvent, name: str) -> Row:
    return tuple(getattr(filed, field) for field in _HEADER), _data(filed), _bytes(filed, name)


def _data(filed: FiledEvent) -> bytes:
    """As the log has it, however the file was laid out since."""
    return msgspec.json.format(bytes(filed.data), indent=-1)


def _filed_event(recorded: Recorded) -> FiledEvent:
    header = {name: getattr(recorded, name) for name in _HEADER}
    return FiledEvent(**header, data=msgspec.Raw(recorded.data), hash=recorded.hash.hex())


_HEADER = tuple(name for name in FiledEvent.__struct_fields__ if name not in ("data", "hash"))


def _recorded(filed: FiledEvent, name: str) -> Recorded:
    data = _data(filed)
    header = {field: getattr(filed, field) for field in _HEADER}
    return Recorded(**header, data=data, hash=_bytes(filed, name), event=_event(filed, data, name))


def _event(filed: FiledEvent, data: bytes, name: str) -> Event:
    try:
        return decode(data, filed.schema)
    except (KeyError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        why = f"a newer version wrote it (schema {filed.schema})" if filed.schema > SCHEMA else str(error)
        raise BadMessage(f"{name}: event {filed.version} ({filed.type[:40]}) cannot be read: {why}") from None


def _bytes(filed: FiledEvent, name: str) -> bytes:
    try:
        return bytes.fromhex(filed.hash)
    except ValueError:
        raise BadMessage(f"{name}: the hash of event {filed.version} is not hexadecimal") from None
