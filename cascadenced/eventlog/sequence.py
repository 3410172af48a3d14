"""The rule of a commit, without the database: what waits → what is written, what each caller hears.

Shared by the real log and its double, so that both give the same positions, versions, hashes and refusals.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence

import msgspec

from cascadenced.clock import Clock
from cascadenced.errors import WrongVersion
from cascadenced.eventlog.base import Change, Receipt, Row
from cascadenced.eventlog.chain import canonical, link
from cascadenced.events.base import Context, Event, Recorded
from cascadenced.events.catalogue import SCHEMA, TYPE_NAMES, encode
from cascadenced.events.run import OPENING, TERMINAL
from cascadenced.ids import Ids

MAX_HEADS = 50_000
"""Stream heads kept in memory; a stream beyond that is looked up in the index again."""


class PreparedChange(msgspec.Struct, frozen=True):
    """A change with ids and bytes, made on the caller's side so that the writer only numbers and chains."""

    stream: str
    expected: int | None
    context: Context
    events: Sequence[tuple[str, str, Event, bytes]]
    """(event id, type name, event, its JSON)"""


class Pending(msgspec.Struct, eq=False):
    """An append that waits for its commit."""

    changes: list[PreparedChange]
    n_events: int
    at_us: int
    source: str | None
    future: asyncio.Future[Receipt]


def prepare(
    changes: Sequence[Change], source: str | None, clock: Clock, ids: Ids, future: asyncio.Future[Receipt]
) -> Pending:
    """Encode and name the events. Raises what the encoder raises; nothing is queued then."""
    at_us, n_events, prepared = clock.now_us(), 0, []
    event_id = ids.event_id
    for change in changes:
        # Half a surrogate pair would fail the whole batch later; here it fails its own caller.
        canonical((source, change.stream, change.context))
        events = [(event_id(at_us), TYPE_NAMES[type(event)], event, encode(event)) for event in change.events]
        n_events += len(events)
        prepared.append(PreparedChange(change.stream, change.expected, change.context, events))
    return Pending(prepared, n_events, at_us, source, future)


class Outcome(msgspec.Struct, frozen=True):
    """What to tell the caller of one append once the batch is committed."""

    future: asyncio.Future[Receipt]
    result: Receipt | WrongVersion


class Batch(msgspec.Struct, frozen=True):
    """The content of one transaction, and the tail of the log after it."""

    recorded: list[Recorded]
    rows: list[Row]
    """The same events as rows of the table: header, data, hash."""
    outcomes: list[Outcome]
    opened: dict[str, int]
    closed: list[str]
    heads: dict[str, int]
    hash: bytes
    n_bytes: int
    """Of the events' JSON."""


class Tail:
    """The end of the log in memory: position, hash and stream heads. Moves only after a COMMIT (`advance`)."""

    def __init__(self, position: int, hash_: bytes, origin: str, epoch: int) -> None:
        self.position, self.hash = position, hash_
        self.origin, self.epoch = origin, epoch
        self._heads: OrderedDict[str, int] = OrderedDict()

    def sequence(
        self,
        waiting: Sequence[Pending],
        heads_of: Callable[[list[str]], Mapping[str, int]],
        positions_of: Callable[[list[str]], Mapping[str, int]],
    ) -> Batch:
        """Number and chain what waits, in order. A clash or a known source concerns only its own append.

        heads_of: versions of streams in the committed log, of those it has.
        positions_of: of the events with these sources, of those it has. Both are asked once, and only if need be.
        """
        recorded: list[Recorded] = []
        rows: list[Row] = []
        outcomes: list[Outcome] = []
        opened: dict[str, int] = {}
        closed: list[str] = []
        heads = self._known_heads(waiting, heads_of)
        moved: dict[str, int] = {}
        asked = [append.source for append in waiting if append.source is not None]
        sources = dict(positions_of(asked)) if asked else {}
        previous, position, origin, epoch = self.hash, self.position, self.origin, self.epoch
        n_bytes = 0
        for append in waiting:
            source, at_us = append.source, append.at_us
            if source is not None and source in sources:
                outcomes.append(Outcome(append.future, Receipt((), sources[source])))
                continue
            clash = _clash(append, heads)
            if clash is not None:
                outcomes.append(Outcome(append.future, clash))
                continue
            first, cause = len(recorded), None
            for change in append.changes:
                stream, context = change.stream, change.context
                user_hash, group_hash, run_id = context.user_hash, context.group_hash, context.run_id
                correlation, traceparent = context.correlation, context.traceparent
                cause = context.cause or cause  # a change that names no cause follows from the one before it
                version = heads[stream]
                for event_id, type_name, event, data in change.events:
                    version += 1
                    position += 1
                    header = (
                        position, event_id, stream, version, type_name, at_us, origin, epoch, source, user_hash,
                        group_hash, run_id, cause, correlation, traceparent, SCHEMA,
                    )  # fmt: skip
                    previous = link(previous, header, data)
                    n_bytes += len(data)
                    rows.append((*header, data, previous))
                    recorded.append(Recorded(*header, data, previous, event))
                    if type_name in OPENING:
                        opened[stream] = position
                    elif type_name in TERMINAL and opened.pop(stream, None) is None:
                        closed.append(stream)
                    if source is not None:
                        sources[source] = position
                        source = None  # it names the first event of the append only
                    cause = event_id
                heads[stream] = moved[stream] = version
            outcomes.append(Outcome(append.future, Receipt(recorded[first:])))
        return Batch(recorded, rows, outcomes, opened, closed, moved, previous, n_bytes)

    def advance(self, batch: Batch) -> None:
        """The batch is durable: it is the tail now."""
        self.position += len(batch.recorded)
        self.hash = batch.hash
        for stream, version in batch.heads.items():
            self._heads[stream] = version
            self._heads.move_to_end(stream)
        while len(self._heads) > MAX_HEADS:
            self._heads.popitem(last=False)

    def _known_heads(
        self, waiting: Sequence[Pending], heads_of: Callable[[list[str]], Mapping[str, int]]
    ) -> dict[str, int]:
        """The version of every stream that is appended to."""
        known = self._heads
        heads = {change.stream: known.get(change.stream, -1) for append in waiting for change in append.changes}
        unknown = [stream for stream, version in heads.items() if version < 0]
        if unknown:
            found = heads_of(unknown)
            for stream in unknown:
                heads[stream] = found.get(stream, 0)
        return heads


def _clash(append: Pending, heads: Mapping[str, int]) -> WrongVersion | None:
    for change in append.changes:
        head = heads[change.stream]
        if change.expected is not None and change.expected != head:
            return WrongVersion(change.stream, expected=change.expected, actual=head)
    return None
