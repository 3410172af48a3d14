"""Bugs that are planted in the real code for the time of a world, to see whether the world finds them.

Each replaces one method by a worse one. The places are far down (log, follower, ingest) where the code above allows it,
so that they outlast its changes; when a name is gone, planting fails and says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import msgspec
from msgspec.structs import replace

from cascadenced.errors import WrongVersion
from cascadenced.eventlog import sequence
from cascadenced.eventlog.base import Change, Opening, Receipt
from cascadenced.eventlog.folding import Folding
from cascadenced.eventlog.memory import MemoryEventLog
from cascadenced.eventlog.sequence import Tail
from cascadenced.events.base import Recorded
from cascadenced.events.stage import StageFinished
from cascadenced.handlers.run_stage import StageRunner
from cascadenced.pipeline import doubts, resume
from cascadenced.pipeline.model import ENDED, Run
from cascadenced.runtime import outbox
from cascadenced.runtime.children import Children
from cascadenced.runtime.follow import follow
from cascadenced.runtime.ingest import Ingest
from cascadenced.runtime.journey import Journey
from cascadenced.runtime.lanes import Lanes
from cascadenced.runtime.record import LiveRun
from cascadenced.runtime.runs import Runs
from cascadenced.runtime.under_way import UnderWay

_nothing_known: Callable[[list[str]], Mapping[str, int]] = lambda _: {}  # noqa: E731


class Bug(msgspec.Struct, frozen=True):
    """within: how many worlds, from seed 0, it takes at most to find it.  plant: given what replaces a method."""

    within: int
    plant: Callable[[Callable[[Any, str, Any], None]], None]


BUGS: dict[str, Bug] = {}
_for_good = ExitStack()


def _bug(within: int) -> Callable[[Any], Any]:
    def mark(plant: Any) -> Any:
        BUGS[plant.__name__] = Bug(within, plant)
        return plant

    return mark


@contextmanager
def planted(name: str) -> Iterator[None]:
    """While this lasts, the code has the bug `name`."""
    with ExitStack() as stack:
        BUGS[name].plant(lambda place, method, worse: stack.enter_context(mock.patch.object(place, method, worse)))
        yield


def plant(name: str) -> None:
    """For the rest of this process."""
    _for_good.enter_context(planted(name))


# ── the bugs ─────────────────────────────────────────────────────────────────────────────────────────────────────


@_bug(within=20)
def acknowledged_before_it_is_recorded(put: Callable[..., None]) -> None:
    end = Ingest._end

    async def early(self: Ingest, taken: Any) -> None:
        taken.delivery.ack()
        await end(self, taken)

    put(Ingest, "_end", early)


@_bug(within=20)
def the_next_start_is_an_append_of_its_own(put: Callable[..., None]) -> None:
    append = MemoryEventLog.append

    async def one_by_one(self: MemoryEventLog, change: Change) -> Receipt:
        first = await append(self, [replace(change, events=change.events[:1])])
        assert change.expected is not None
        rest = replace(change, events=change.events[1:], expected=change.expected + 1)
        return Receipt([*first.recorded, *(await append(self, [rest])).recorded])

    def apart(self: MemoryEventLog, changes: Sequence[Change], *, source: str | None = None) -> asyncio.Future[Receipt]:
        if len(changes) == 1 and len(changes[0].events) > 1 and type(changes[0].events[0]) is StageFinished:
            return asyncio.ensure_future(one_by_one(self, changes[0]))
        return append(self, changes, source=source)

    put(MemoryEventLog, "append", apart)


@_bug(within=20)
def recovery_skips_a_run(put: Callable[..., None]) -> None:
    openings = MemoryEventLog.openings

    async def all_but_one(self: MemoryEventLog) -> list[Opening]:
        return (await openings(self))[1:]

    put(MemoryEventLog, "openings", all_but_one)


@_bug(within=20)
def a_known_source_is_not_looked_up(put: Callable[..., None]) -> None:
    numbered = Tail.sequence

    def forgetful(self: Tail, waiting: Any, heads_of: Any, _positions_of: Any) -> Any:
        return numbered(self, waiting, heads_of, _nothing_known)

    put(Tail, "sequence", forgetful)


@_bug(within=20)
def a_finished_stage_runs_again_after_a_restart(put: Callable[..., None]) -> None:
    read = LiveRun.read

    async def one_step_behind(self: LiveRun, log: Any) -> None:
        await read(self, log)
        run = self.run
        if run.done and run.status not in ENDED:
            self.run = replace(run, done=run.done[:-1], current=run.done[-1], attempt=1, open_starts=1)

    put(LiveRun, "read", one_step_behind)


@_bug(within=100)
def the_outbox_says_done_before_it_is(put: Callable[..., None]) -> None:
    async def ahead(
        log: Any, clock: Any, name: str, react: Callable[[Sequence[Recorded]], Awaitable[None]], skip: Any
    ) -> None:
        async def said_first(batch: Sequence[Recorded]) -> None:
            log.set_checkpoint(name, batch[-1].position)
            await react(batch)

        await follow(log, clock, name, said_first, skip)

    put(outbox, "follow", ahead)


@_bug(within=30)
def a_free_slot_wakes_nobody_now_and_then(put: Callable[..., None]) -> None:
    free_slot = Runs._free_slot

    def sleepy(self: Runs) -> None:
        if self.n_queued == 1:
            self._n_slots_taken -= 1
        else:
            free_slot(self)

    put(Runs, "_free_slot", sleepy)


@_bug(within=20)
def projections_skip_an_event(put: Callable[..., None]) -> None:
    fold = Folding.fold

    def holey(self: Folding, batch: Sequence[Recorded]) -> None:
        fold(self, [recorded for recorded in batch if recorded.position % 50])

    put(Folding, "fold", holey)


@_bug(within=60)
def a_wrong_version_is_swallowed(put: Callable[..., None]) -> None:
    append = MemoryEventLog.append

    async def whatever(appending: asyncio.Future[Receipt]) -> Receipt:
        try:
            return await appending
        except WrongVersion:
            return Receipt(())

    def complacent(
        self: MemoryEventLog, changes: Sequence[Change], *, source: str | None = None
    ) -> asyncio.Future[Receipt]:
        return asyncio.ensure_future(whatever(append(self, changes, source=source)))

    put(MemoryEventLog, "append", complacent)


@_bug(within=100)
def a_late_outcome_is_recorded_all_the_same(put: Callable[..., None]) -> None:
    """The version it was decided at is not compared with the one that the stream has by now."""
    put(sequence, "_clash", lambda _append, _heads: None)


# ── of steps, waits, retries and plans ───────────────────────────────────────────────────────────────────────────


@_bug(within=20)
def branches_count_their_steps_together(put: Callable[..., None]) -> None:
    """Then a place is whoever's who comes there first."""
    put(Lanes, "_lane", lambda self: self._first)


@_bug(within=40)
def a_wait_cuts_off_the_steps_beside_it(put: Callable[..., None]) -> None:
    async def unprotected(_self: UnderWay, step: Awaitable[Any]) -> Any:
        return await step

    put(UnderWay, "do", unprotected)


@_bug(within=60)
def what_a_stage_leaves_behind_goes_on(put: Callable[..., None]) -> None:
    """The steps of the branches that did not fail are done beside the next attempt."""

    async def at_once(_self: UnderWay) -> None:
        pass

    put(UnderWay, "settled", at_once)


@_bug(within=40)
def a_retry_forgets_the_steps_behind_it(put: Callable[..., None]) -> None:
    advance = LiveRun.advance

    def forgetful(self: LiveRun, run: Run, recorded: Sequence[Recorded]) -> None:
        is_retry = run.wait is not None and run.wait.kind == "retry"
        advance(self, replace(run, marks={}) if is_retry else run, recorded)

    put(LiveRun, "advance", forgetful)


@_bug(within=20)
def a_stage_is_tried_too_often(put: Callable[..., None]) -> None:
    retry_at_us = StageRunner._retry_at_us

    def untiring(self: StageRunner, live: LiveRun, stage: str, error: BaseException) -> int | None:
        found = retry_at_us(self, live, stage, error)
        return self._clock.now_us() if found is None and live.run.n_failed < 6 else found

    put(StageRunner, "_retry_at_us", untiring)


@_bug(within=40)
def nothing_is_in_doubt_after_a_crash(put: Callable[..., None]) -> None:
    for place in (doubts, resume):
        put(place, "has_open_effect", lambda _: False)


@_bug(within=60)
def a_wait_is_handed_an_event_once_more(put: Callable[..., None]) -> None:
    heard = Journey._heard

    async def anew(self: Journey, live: LiveRun) -> Any:
        before, live.run = live.run, replace(live.run, handed={})
        try:
            return await heard(self, live)
        finally:
            live.run = before

    put(Journey, "_heard", anew)


@_bug(within=100)
def an_event_that_came_before_the_wait_is_not_looked_for(put: Callable[..., None]) -> None:
    async def incurious(_self: Journey, _live: LiveRun) -> None:
        pass

    put(Journey, "look_back", incurious)


@_bug(within=60)
def the_end_of_a_child_is_missed_now_and_then(put: Callable[..., None]) -> None:
    ended = Children.ended

    def absent_minded(self: Children, child: LiveRun) -> None:
        if int(child.run_id[-2], 16) % 4:
            ended(self, child)

    put(Children, "ended", absent_minded)
