"""A month of schedules in virtual time, under all that can happen to them: crashes between and within appends,
downtimes, clocks that jump, changes, switches, a full queue, and another that ticks over the same log.

`month(seed)` is a function of its argument: the same seed gives the same log.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import random
from collections.abc import Awaitable, Callable, Coroutine, Iterator, MutableMapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any
from unittest import mock

import structlog

from cascadenced import crashpoint
from cascadenced.errors import CascadenceError
from cascadenced.events.base import Context, Recorded
from cascadenced.events.schedule import TickFired, TicksPassed
from cascadenced.handlers.run_requests import Origin
from cascadenced.handlers.ticks import Ticks
from cascadenced.instance import Instance
from cascadenced.plugins.base import BaseTask
from cascadenced.workflows import subscribe
from tests.doubles import ALICE, World
from tests.schedules import rules
from tests.schedules.ledger import faults
from tests.sim.clock import SimClock
from tests.sim.loop import OF, Mortal, SimLoop, Stuck, bury
from tests.sim.outcome import Outcome

MONTH_S = 30 * 86_400.0
_HOUR_S, _DAY_S = 3_600.0, 86_400.0
_GAPS_S = (2.0, 300.0, 8 * _HOUR_S, 2 * _DAY_S)
"""Between two things that happen, at the most."""
_DOWNTIMES_S = (0.0, 60.0, 0.0, 90 * 60.0, 2 * _DAY_S, 40 * _DAY_S)
_JUMPS_S = (90.0, _HOUR_S, 5 * _HOUR_S, 2 * _DAY_S)
_NOTICED_AFTER_S = 5.0
"""A jump of the wall clock is noticed by then."""
_CRASH_POINTS = ("append.before_commit", "append.after_commit", "stage.before_effect", "stage.after_effect")
_LAST_DEEDS = 8
"""Things that happen in the last life, which does not end."""
_CALM_WITHIN = 400
"""Times that all runs are cancelled, at the end, until no instant waits for room."""


# ── what runs ────────────────────────────────────────────────────────────────────────────────────────────────────


class _Work(BaseTask):
    """Does as its arguments say."""

    async def run(self) -> str:
        match self.args["does"]:
            case "takes":
                await asyncio.sleep(float(self.args["seconds"]))
            case "fails":
                raise ValueError("boom")
            case "never_ends":
                await asyncio.Event().wait()
        return "done"


class _A(_Work):
    name = "a"


class _B(_Work):
    name = "b"


class _C(_Work):
    name = "c"


class _D(_Work):
    name = "d"


@subscribe("tea.time")
async def make_tea(payload: dict[str, Any]) -> str:
    await asyncio.sleep(payload["seconds"])
    return "tea"


_TASKS = ("a", "b", "c", "d")


class Crashed(BaseException):
    """Unwinds what a process was just doing when it died."""


class Life(Mortal):
    """A process that is simulated: an instance, and one or two that tick over its log."""

    def __init__(self, world: World, n_ticking: int) -> None:
        super().__init__()
        self._world, self._n_ticking = world, n_ticking
        self.instance: Instance | None = None
        self.ticks: list[Ticks] = []
        self.crash_point, self.passes_left = "", 0
        self._ticking: list[asyncio.Task[None]] = []

    def do(self, deed: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Within this process."""
        return asyncio.get_running_loop().create_task(deed, context=self.context())

    async def begin(self) -> None:
        instance = self.instance = await self._world.start()
        self.ticks = [instance.ticks]
        for _ in range(1, self._n_ticking):
            self.ticks.append(
                Ticks(
                    instance.log,
                    instance.clock,
                    instance.runs,
                    instance.requests,
                    instance.tasks,
                    instance.controls,
                    instance.vault,
                    instance.calendars,
                )
            )
        self._ticking = [self.do(ticks.run()) for ticks in self.ticks]

    async def stop(self) -> None:
        """In good order."""
        assert self.instance is not None
        for ticking in self._ticking:
            ticking.cancel()
        await asyncio.wait(self._ticking)
        await self.instance.runs.stop(0)
        await self.instance.log.close()

    def die(self, how: str = "killed") -> None:
        super().die(how)
        if self.instance is not None:
            log: Any = self.instance.log
            log.die()

    def passes(self, name: str) -> None:
        if name == self.crash_point:
            self.passes_left -= 1
            if self.passes_left <= 0:
                self.die(f"at {name}")
        if not self.alive:
            raise Crashed(name)


# ── what happens ─────────────────────────────────────────────────────────────────────────────────────────────────


class Month:
    """traced: whether to keep lines for people."""

    def __init__(self, seed: int, loop: SimLoop, *, traced: bool) -> None:
        self._chance = chance = random.Random(f"{seed}:month")
        self._loop, self._traced = loop, traced
        self.clock = SimClock(loop)
        self.clock._offset_us = rules.start_us(chance)
        self.world = World(
            *(_A, _B, _C, _D, make_tea),
            clock=self.clock,
            max_concurrent_runs=chance.choice((1, 3, 100)),
            max_queued_runs=chance.choice((1, 4, 1_000)),
        )
        self._n_ticking = chance.choice((1, 1, 2))
        self.lives: list[Life] = []
        self.faults: list[str] = []
        self.trace: list[str] = []
        self._deeds: list[Callable[[Instance], Awaitable[Any]]] = [
            *(self._set, self._set, self._set, self._remove, self._pause, self._resume, self._resume),
            *(self._switch, self._switch_on, self._cancel, self._cancel, self._cancel, self._crowd, self._jump),
        ]

    async def live(self) -> None:
        while self._loop.time() < MONTH_S:
            life = await self._next_life()
            if self._chance.random() < 0.3:
                life.crash_point = self._chance.choice(_CRASH_POINTS)
                life.passes_left = self._chance.randint(1, 30)
            await self._lead(life)
            await asyncio.sleep(self._chance.choice(_DOWNTIMES_S) * self._chance.random())
        life = await self._next_life()
        for _ in range(_LAST_DEEDS):
            await asyncio.sleep(self._until_next_s(life))
            await self._something(life)
        await self._calm(life)
        assert life.instance is not None
        rows = await life.instance.log.tables.fetch("SELECT task, first_us, last_us, n, verdict FROM ticks")
        self.faults += faults(self.world.file.events, rows, now_us=self.clock.now_us())

    async def _next_life(self) -> Life:
        life = Life(self.world, self._n_ticking)
        self.lives.append(life)
        self.say(f"life {len(self.lives)} begins")
        await self._within(life, life.begin())
        if self._traced and life.instance is not None and life.alive:
            life.instance.log.observe(self._recorded)
        return life

    async def _lead(self, life: Life) -> None:
        """Until it ends, in good order or not."""
        while life.alive and self._loop.time() < MONTH_S:
            await asyncio.sleep(self._until_next_s(life))
            if not life.alive or life.instance is None:
                break
            if self._chance.random() < 0.07:
                if self._chance.random() < 0.3:
                    await self._within(life, life.stop())
                break
            await self._something(life)
        life.die()
        self.say("it is over")

    async def _something(self, life: Life) -> None:
        assert life.instance is not None
        deed = self._chance.choice(self._deeds)
        self.say(deed.__name__)
        await self._within(life, _tried(deed(life.instance)))

    def _until_next_s(self, life: Life) -> float:
        """Some time, or exactly till a schedule is looked at."""
        wakes = [ticks.ticker.next_us(task) for ticks in life.ticks[:1] for task in _TASKS]
        lefts_s = [(wake_us - self.clock.now_us()) / 1e6 for wake_us in wakes if wake_us is not None]
        if lefts_s and self._chance.random() < 0.3:
            return max(0.0, min(self._chance.choice(lefts_s), 3 * _DAY_S))
        return self._chance.choice(_GAPS_S) * self._chance.random()

    async def _within(self, life: Life, deed: Coroutine[Any, Any, None]) -> None:
        """Let it happen, or begin to: it may wait for what happens later, or die of it."""
        doing = life.do(deed)
        await asyncio.wait({doing}, timeout=1.0)
        error = doing.exception() if doing.done() and not doing.cancelled() else None
        if error is not None and life.alive:
            self.faults.append(f"{type(error).__name__}: {error}")

    async def _calm(self, life: Life) -> None:
        """Everything that runs is ended, until nothing waits for room any more."""
        for n in range(_CALM_WITHIN):
            if n > 2 and not self.world.file.unfinished:
                break
            await self._within(life, self._end_all(life))
            await asyncio.sleep(2.0)
        await asyncio.sleep(10.0)

    async def _end_all(self, life: Life) -> None:
        assert life.instance is not None
        for stream in list(self.world.file.unfinished):
            await _tried(life.instance.controls.cancel(stream.removeprefix("run-"), via="cli", by=None))

    # ── deeds ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _set(self, instance: Instance) -> None:
        entry = rules.drawn(self._chance, self.clock.now_us())
        who = self._chance.choice((None, ALICE))
        await instance.schedules.set(self._task(), entry, via="cli", who=who)

    async def _remove(self, instance: Instance) -> None:
        await instance.schedules.remove(self._task(), by=Context())

    async def _pause(self, instance: Instance) -> None:
        await instance.schedules.pause(self._task(), by=Context())

    async def _resume(self, instance: Instance) -> None:
        for task in _TASKS[: self._chance.randint(1, 4)]:
            await _tried(instance.schedules.resume(task, by=Context()))

    async def _switch(self, instance: Instance) -> None:
        await instance.tasks.switch(self._task(), self._chance.choice(("disable", "pause")), Context())

    async def _switch_on(self, instance: Instance) -> None:
        for task in _TASKS[: self._chance.randint(1, 4)]:
            await instance.tasks.switch(task, "enable", Context())
            await instance.tasks.switch(task, "resume", Context())

    async def _cancel(self, instance: Instance) -> None:
        for stream in list(self.world.file.unfinished)[: self._chance.randint(1, 9)]:
            await _tried(instance.controls.cancel(stream.removeprefix("run-"), via="cli", by=None))

    async def _crowd(self, instance: Instance) -> None:
        """As many runs as there is room for, and more."""
        args = {"does": self._chance.choice(("takes", "never_ends")), "seconds": 20_000.0}
        for _ in range(6):
            await _tried(instance.requests.run(self._task(), ALICE, args, Origin(via="http")))

    async def _jump(self, instance: Instance) -> None:
        seconds = self._chance.choice(_JUMPS_S) * self._chance.uniform(-1, 1)
        self.say(f"the clock jumps by {seconds:.0f} s")
        self.clock.jump(seconds)
        await asyncio.sleep(self._chance.choice((0.0, _NOTICED_AFTER_S)))
        for life in self.lives[-1:]:
            for ticks in life.ticks:
                ticks.ticker.look_at_clock()
        if self._chance.random() < 0.5:
            await self._set(instance)

    def _task(self) -> str:
        return self._chance.choice(_TASKS)

    # ── what is told ─────────────────────────────────────────────────────────────────────────────────────────────

    def say(self, line: str) -> None:
        if self._traced:
            self.trace.append(f"{self._loop.time():13.3f}  {line}")

    def _recorded(self, batch: Sequence[Recorded]) -> None:
        for recorded in batch:
            what = f"{recorded.position:5} {recorded.type} {recorded.run_id or recorded.stream} {recorded.source or ''}"
            self.say(f"{what} {recorded.data.decode()[:200]}")

    def digest(self) -> str:
        found = hashlib.sha256()
        for recorded in self.world.file.events:
            found.update(recorded.hash)
        return found.hexdigest()

    def figures(self) -> dict[str, int]:
        events = self.world.file.events
        fired = [recorded.event for recorded in events if isinstance(recorded.event, TickFired)]
        passed = [recorded.event.n for recorded in events if isinstance(recorded.event, TicksPassed)]
        return {"events": len(events), "lives": len(self.lives), "fired": len(fired), "passed": sum(passed)}


async def _tried(deed: Awaitable[Any]) -> None:
    """It may be refused, or find the log closed."""
    with suppress(CascadenceError):
        await deed


def month(seed: int, *, traced: bool = False) -> Outcome:
    """Let the month of `seed` happen, and tell what came of it."""
    chance = random.Random(f"{seed}:order")
    loop = SimLoop(chance, chance.choice([0.0, 0.3, 1.0]))
    with _surroundings() as said:
        this = Month(seed, loop, traced=traced)
        try:
            loop.run_until_complete(this.live())
        except Stuck as stuck:
            this.faults.append(f"stuck: {stuck}")
        this.faults += loop.troubles
        this.faults += dict.fromkeys(said)
        outcome = Outcome(seed, this.faults, this.digest(), this.figures(), this.trace)
        for life in this.lives:
            life.die()
        loop.close()
        asyncio.set_event_loop(None)
        tasks = [*loop.orphans, *(task for life in this.lives for task in life.tasks)]
        del this, loop
        bury(tasks)
    return outcome


@contextmanager
def _surroundings() -> Iterator[list[str]]:
    """Crash points pass by, and what living processes log as errors is kept. Gives these."""
    said: list[str] = []

    def listen(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> Any:
        life = OF.get()
        if life is not None and life.alive:
            said.append(f"the log: {event.get('event')} {event.get('error', '')}")
        raise structlog.DropEvent

    def passes(name: str) -> None:
        life = OF.get()
        if isinstance(life, Life):
            life.passes(name)

    was_collecting, config = gc.isenabled(), structlog.get_config()
    with ExitStack() as stack:
        stack.callback(structlog.configure, **config)
        stack.enter_context(mock.patch.object(crashpoint, "on_pass", passes))
        structlog.configure(
            processors=[listen],
            wrapper_class=structlog.make_filtering_bound_logger(40),
            cache_logger_on_first_use=False,
        )
        gc.disable()
        if was_collecting:
            stack.callback(gc.enable)
        yield said
