"""The rule of a commit, without the database: what waits → what is written, what each caller hears.

Shared by the real log and its double, so that both give the same positions, versions, hashes and refusals.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence

import msgspec

from cascadenced.clock import Clock
from cascadenced.errors import WrongVersion
from cascadenced.eventlog.base import Change, Receipt
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
    events: list[tuple[str, str, Event, bytes]]
    """(event id, type name, event, its JSON)"""


class Pending(msgspec.Struct, eq=False):
    """An append that waits for its commit."""

    changes: list[PreparedChange]
    at_us: int
    source: str | None
    future: asyncio.Future[Receipt]

    @property
    def n_events(self) -> int:
        return sum(len(change.events) for change in self.changes)


def prepare(
    changes: Sequence[Change], source: str | None, clock: Clock, ids: Ids, future: asyncio.Future[Receipt]
) -> Pending:
    """Encode and name the events. Raises what the encoder raises; nothing is queued then."""
    at_us = clock.now_us()
    for change in changes:
        # Half a surrogate pair would fail the whole batch later; here it fails its own caller.
        canonical((source, change.stream, change.context))
    prepared = [
        PreparedChange(
            change.stream,
            change.expected,
            change.context,
            [(ids.event_id(at_us), TYPE_NAMES[type(event)], event, encode(event)) for event in change.events],
        )
        for change in changes
    ]
    return Pending(prepared, at_us, source, future)


class Outcome(msgspec.Struct, frozen=True):
    """What to tell the caller of one append once the batch is committed."""

    future: asyncio.Future[Receipt]
    result: Receipt | WrongVersion


class Batch(msgspec.Struct, frozen=True):
    """The content of one transaction, and the tail of the log after it."""

    recorded: list[Recorded]
    outcomes: list[Outcome]
    opened: dict[str, int]
    closed: list[str]
    heads: dict[str, int]
    hash: bytes


class Tail:
    """The end of the log in memory: position, hash and stream heads. Moves only after a COMMIT (`advance`)."""

    def __init__(self, position: int, hash_: bytes, origin: str, epoch: int) -> None:
        self.position, self.hash = position, hash_
        self.origin, self.epoch = origin, epoch
        self._heads: OrderedDict[str, int] = OrderedDict()

    def sequence(
        self,
        waiting: Sequence[Pending],
        head_of: Callable[[str], int],
        position_of: Callable[[str], int | None],
    ) -> Batch:
        """Number and chain what waits, in order. A clash or a known source concerns only its own append.

        head_of: version of a stream in the committed log.  position_of: of the event with a source, or None.
        """
        recorded: list[Recorded] = []
        outcomes: list[Outcome] = []
        heads: dict[str, int] = {}
        sources: dict[str, int] = {}
        opened: dict[str, int] = {}
        closed: list[str] = []
        previous = self.hash
        for append in waiting:
            if append.source is not None:
                known = sources.get(append.source) or position_of(append.source)
                if known:
                    outcomes.append(Outcome(append.future, Receipt((), known)))
                    continue
            clash = self._clash(append, heads, head_of)
            if clash is not None:
                outcomes.append(Outcome(append.future, clash))
                continue
            first, cause = len(recorded), None
            for change in append.changes:
                stream, context = change.stream, change.context
                cause = context.cause or cause  # a change that names no cause follows from the one before it
                version = heads[stream]
                for event_id, type_name, event, data in change.events:
                    version += 1
                    source = append.source if len(recorded) == first else None
                    position = self.position + len(recorded) + 1
                    previous = link(
                        previous,
                        (
                            position, event_id, stream, version, type_name, append.at_us, self.origin, self.epoch,
                            source, context.user_hash, context.group_hash, context.run_id, cause,
                            context.correlation, context.traceparent, SCHEMA,
                        ),
                        data,
                    )  # fmt: skip
                    recorded.append(
                        Recorded(
                            position=position, id=event_id, stream=stream, version=version, type=type_name,
                            at_us=append.at_us, origin=self.origin, epoch=self.epoch, source=source,
                            user_hash=context.user_hash, group_hash=context.group_hash, run_id=context.run_id,
                            cause=cause, correlation=context.correlation, traceparent=context.traceparent,
                            schema=SCHEMA, data=data, hash=previous, event=event,
                        )
                    )  # fmt: skip
                    if type_name in OPENING:
                        opened[stream] = position
                    elif type_name in TERMINAL and opened.pop(stream, None) is None:
                        closed.append(stream)
                    cause = event_id
                heads[stream] = version
            if append.source is not None and len(recorded) > first:
                sources[append.source] = recorded[first].position
            outcomes.append(Outcome(append.future, Receipt(recorded[first:])))
        return Batch(recorded, outcomes, opened, closed, heads, previous)

    def advance(self, batch: Batch) -> None:
        """The batch is durable: it is the tail now."""
        self.position += len(batch.recorded)
        self.hash = batch.hash
        for stream, version in batch.heads.items():
            self._heads[stream] = version
            self._heads.move_to_end(stream)
        while len(self._heads) > MAX_HEADS:
            self._heads.popitem(last=False)

    def _clash(self, append: Pending, heads: dict[str, int], head_of: Callable[[str], int]) -> WrongVersion | None:
        for change in append.changes:
            head = heads.get(change.stream)
            if head is None:
                head = self._heads.get(change.stream)
                heads[change.stream] = head = head_of(change.stream) if head is None else head
            if change.expected is not None and change.expected != head:
                return WrongVersion(change.stream, expected=change.expected, actual=head)
        return None
