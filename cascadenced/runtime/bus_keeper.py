"""Stands beside the bus: records what happens to it, looks after it now and then, and has repaired what it forgot.

A break is recorded before the bus goes on, together with the number of breaks that wait for a repair; the end of the
repair is recorded with that number back at zero. So a daemon that is killed in between goes on with the repair.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing

import anyio
import structlog

from cascadenced.bus.base import DUPLICATE_WINDOW_S, Broken, Bus, Doubt, Lost, Restored, ScanStuck
from cascadenced.bus.marks import Marks, from_numbers, in_doubt, to_numbers
from cascadenced.clock import Clock, iso
from cascadenced.crashpoint import crashpoint
from cascadenced.errors import DiskError, DiskFull, LogCorrupt, Unavailable
from cascadenced.eventlog.base import Change, EventLog
from cascadenced.events.base import Event
from cascadenced.events.streams import SYSTEM_STREAM
from cascadenced.events.system import EpochBroken, EpochRepaired
from cascadenced.runtime.outages import Outages
from cascadenced.runtime.outbox import CHECKPOINT as OUTBOX
from cascadenced.runtime.repair import Missing, Pace, Translate
from cascadenced.runtime.retry import backoff_s

CHECK_EVERY_S = 5.0
"""As often as the client pings. A check takes a millisecond, half of it ours: 0.02 % of a core."""
QUIET_S = 60.0
"""A break of the same kind within a minute is counted, not recorded."""
DOUBT_AGAIN_S = 600.0
"""After a look that found nothing missing, the next mere doubt waits so long; a restart is looked into at once."""
_BUSY, _AT_LEISURE = 0.5, 0.2
"""The share of the time that a repair, and a look whether there is anything to repair, may take."""
_MAX_ROUNDS = 5
"""After so many rounds that found no less, the rest is what this stream does not keep. (Behind a damaged record
nats-server 2.9 stores what nobody can read, up to the end of that file, which these rounds bring nearer.)"""
_MAX_STUCK = 3
"""A scan that sticks so often sticks for good (2.9 again)."""
_MARK = "bus:"
_TO_REPAIR = f"{_MARK}to_repair"

_log = structlog.get_logger(__name__)


async def known_marks(log: EventLog) -> Marks:
    """What the last bus on this log knew of the broker."""
    return from_numbers({name: await log.checkpoint(_MARK + name) for name in to_numbers(Marks())})


class BusKeeper:
    """One for each bus. translate: as the outbox has it.  origin: ours.  outages: those of the start, if any.

    set_aside: makes our own server do without the files of a stream; None: the server is another's.
    """

    def __init__(
        self,
        log: EventLog,
        clock: Clock,
        bus: Bus,
        translate: Translate,
        *,
        origin: str,
        outages: Outages,
        set_aside: Callable[[str], None] | None = None,
    ) -> None:
        self._log, self._clock, self._bus, self._translate, self._origin = log, clock, bus, translate, origin
        self._outages, self._set_aside = outages, set_aside
        self._happened = asyncio.Event()
        self._wanted = asyncio.Event()
        self._in_doubt = self._merely = self._to_doubt_later = False
        self._doubt_from = float("-inf")
        self._recorded_at: dict[str, float] = {}
        self._reasons: set[str] = set()
        self.n_to_repair = 0
        """Breaks that wait for a repair."""
        self.last_break: str | None = None
        """When, and for what reason; since the start."""

    async def run(self) -> None:
        """Until cancelled."""
        self.n_to_repair = await self._log.checkpoint(_TO_REPAIR)
        known = await known_marks(self._log)
        unknown = known == Marks() and await self._log.checkpoint(OUTBOX) > 0
        if unknown:
            _log.info("bus_unknown", why="nothing is remembered of the broker, though something was published")
        # Another server than the last; or this one, which was in doubt when the last life ended.
        self._in_doubt = unknown or known.server not in (0, self._bus.marks.server)
        if self.n_to_repair or self._in_doubt:
            self._wanted.set()
        try:
            async with anyio.create_task_group() as parts:
                parts.start_soon(self._listen)
                parts.start_soon(self._tell_late)
                parts.start_soon(self._check)
                parts.start_soon(self._mend)
        finally:
            self._save_marks()

    # ── what happens ─────────────────────────────────────────────────────────────────────────────────────────────

    async def _listen(self) -> None:
        while True:
            news = await self._bus.news()
            match news:
                case Lost(reason=reason, at=at):
                    self.last_break = f"{iso(self._clock.now_us())} {reason}"
                    await self._record(self._outages.lost(at, reason))
                case Restored(at=at):
                    await self._record(self._outages.restored(at, **self._server()))
                case Broken():
                    await self._on_broken(news)
                case Doubt(reason=reason):
                    self._on_doubt(reason)
            self._happened.set()

    async def _on_broken(self, broken: Broken) -> None:
        self.last_break = f"{iso(self._clock.now_us())} {broken.reason}"
        crashpoint("repair.broken")
        await self._record_break(
            EpochBroken(
                reason=broken.reason,
                stream=broken.stream,
                detail=broken.detail,
                before=broken.before,
                after=broken.after,
            )
        )
        self._bus.resume()
        self._save_marks()
        self._wanted.set()

    def _on_doubt(self, reason: str) -> None:
        mere = reason != "server_restarted"
        if mere and self._clock.monotonic() < self._doubt_from:
            self._to_doubt_later = True
            self._save_marks()
            return
        self._merely = mere and (self._merely or not self._in_doubt)
        self._in_doubt, self._to_doubt_later = True, False
        self._save_marks()
        self._wanted.set()

    async def _record_break(self, event: EpochBroken) -> None:
        """Record it, unless one like it was within the minute; count it for the repair in any case."""
        self.n_to_repair += 1
        self._reasons.add(event.reason)
        self._log.set_checkpoint(_TO_REPAIR, self.n_to_repair)
        now = self._clock.monotonic()
        if now < self._recorded_at.get(event.reason, float("-inf")) + QUIET_S:
            return
        self._recorded_at[event.reason] = now
        await self._record(event)

    async def _tell_late(self) -> None:
        """Record what was held back, when the minute is over."""
        while True:
            due = self._outages.due
            if due is None:
                self._happened.clear()
                await self._happened.wait()
                continue
            await self._clock.sleep(due - self._clock.monotonic())
            await self._record(self._outages.late(self._clock.monotonic(), **self._server()))

    async def _check(self) -> None:
        while True:
            await self._clock.sleep(CHECK_EVERY_S)
            await self._bus.check()
            self._save_marks()
            if self._to_doubt_later:
                self._on_doubt("fewer_messages")

    def _save_marks(self) -> None:
        """With the next commit. After a break they stay as they were until it is recorded.

        They go on from what is there, also from a hole that nobody has looked for yet: who starts next has that doubt
        again.
        """
        marks = self._bus.marks
        if self._in_doubt or self._to_doubt_later:
            marks = in_doubt(marks)
        for name, number in to_numbers(marks).items():
            self._log.set_checkpoint(_MARK + name, number)

    async def _record(self, event: Event | None) -> None:
        """Append it; while there is no room on the disk, try again."""
        attempt = 0
        while event is not None:
            try:
                await self._log.append([Change(SYSTEM_STREAM, [event])])
                return
            except (DiskFull, Unavailable) as error:
                attempt += 1
                _log.warning("bus_event_waits", attempt=attempt, error=str(error))
                await self._clock.sleep(backoff_s(attempt))

    def _server(self) -> dict[str, str]:
        info = self._bus.info()
        return {"server_id": info.server_id, "server_version": info.server_version}

    # ── what is done about it ────────────────────────────────────────────────────────────────────────────────────

    async def _mend(self) -> None:
        attempt = n_stuck = 0
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            try:
                if n_stuck == _MAX_STUCK:
                    await self._do_without()
                await (self._repair() if self.n_to_repair else self._look_around())
                attempt = n_stuck = 0
            except (DiskError, LogCorrupt):
                raise
            except Exception as error:  # noqa: BLE001 -- whatever stopped it, what is missing is still missing
                attempt += 1
                n_stuck = n_stuck + 1 if isinstance(error, ScanStuck) else 0
                # The first try often comes before the bus has got going again.
                known = isinstance(error, Unavailable | DiskFull)
                say = _log.exception if not known else _log.warning if attempt > 1 else _log.info
                say("repair_waits", attempt=attempt, error=str(error))
                self._wanted.set()
                await self._clock.sleep(backoff_s(attempt))

    async def _look_around(self) -> None:
        """Whether anything is missing; only if so somebody hears of it."""
        if not self._in_doubt:
            return
        merely, self._in_doubt = self._merely, False  # what is doubted from now on takes another look
        missing = self._missing(_AT_LEISURE)
        try:
            async with aclosing(missing.messages()) as batches:
                first = await anext(batches, None)
        except BaseException:
            self._in_doubt, self._merely = True, merely and self._merely
            raise
        if first is not None:
            self.last_break = f"{iso(self._clock.now_us())} messages_missing"
            detail = f"the first of those that are missing is {first[0].headers['Nats-Msg-Id']}"
            await self._record_break(EpochBroken(reason="messages_missing", stream=missing.stream, detail=detail))
            self._wanted.set()
            return
        if merely:
            self._doubt_from = self._clock.monotonic() + DOUBT_AGAIN_S
        _log.info("nothing_is_missing", n_scanned=missing.n_scanned)

    async def _repair(self) -> None:
        """Publish what is missing, and look again, until nothing is. What breaks meanwhile takes another round."""
        began = self._clock.monotonic()
        n_republished = n_missing = n_scanned = 0
        least = n_fruitless = 0
        to_save = self._set_aside is not None
        while True:
            missing, n_breaks, self._in_doubt = self._missing(_BUSY), self.n_to_repair, False
            n_left = await self._publish(missing, swallowed=n_missing > 0)
            n_scanned = missing.n_scanned
            n_republished += max(0, n_missing - n_left)
            n_fruitless = n_fruitless + 1 if least and n_left >= least else 0
            n_missing = n_left
            least = min(least or n_left, n_left)
            if n_fruitless >= _MAX_ROUNDS and to_save:
                to_save, least, n_fruitless = False, 0, 0
                await self._do_without()
            elif (not n_missing and n_breaks == self.n_to_repair) or n_fruitless >= _MAX_ROUNDS:
                break
        crashpoint("repair.done")
        n_breaks, self.n_to_repair = self.n_to_repair, 0
        if n_missing:
            self._in_doubt = False  # another look would find the same
        reasons, self._reasons = self._reasons, set()
        self._log.set_checkpoint(_TO_REPAIR, 0)
        await self._record(
            EpochRepaired(
                position=missing.upto,
                n_scanned=n_scanned,
                n_republished=n_republished,
                took_s=round(self._clock.monotonic() - began, 3),
                n_missing=n_missing,
                n_breaks=n_breaks,
                reasons=tuple(sorted(reasons)),
            )
        )

    async def _publish(self, missing: Missing, *, swallowed: bool) -> int:
        """One round; returns how many messages were missing.

        swallowed: what the last round published was not there afterwards, because the broker still knew its ids.
        """
        n = 0
        async with aclosing(missing.messages()) as batches:
            async for batch in batches:
                if swallowed and not n and not await self._bus.forget_ids():
                    await self._clock.sleep(DUPLICATE_WINDOW_S)
                await self._bus.publish(batch)
                n += len(batch)
                crashpoint("repair.half")
        return n

    async def _do_without(self) -> None:
        """Of a stream that cannot be made whole nothing is kept, if it is our own server's."""
        if self._set_aside is not None:
            self._set_aside((await self._bus.storage()).stream)
            await self._clock.sleep(CHECK_EVERY_S)

    def _missing(self, share: float) -> Missing:
        pace = Pace(self._clock, share)
        return Missing(self._log, self._clock, self._bus, self._translate, origin=self._origin, pace=pace)
