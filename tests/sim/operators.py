"""Who meddles with runs that are under way: pauses them and lets them go on, cancels them, tells them things, and says
what became of those in doubt. When the trouble is over they see to it that every run can end.

They know every run there is, and are those the runs belong to.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from cascadenced.eventlog.memory import MemoryFile
from cascadenced.events.base import Recorded
from cascadenced.events.workflow import EventDispatched
from cascadenced.pipeline.doubts import RESOLUTIONS
from cascadenced.pipeline.model import NOTHING_HANDED, Run, fold
from tests.sim.durable import SETTLED
from tests.sim.ledger import Ledger

Ask = Callable[[str, dict[str, Any]], Awaitable[tuple[int, dict[str, Any]]]]
Tell = Callable[[str, str], Awaitable[bool]]
"""Dispatch the event `go` under a key, for the run of another key. Whether anybody has answered."""

_MEDDLING = {"pause_run": 4, "resume_run": 4, "cancel": 1, "signal": 3, "resolve": 4}


class Operators:
    """granted: (verb, run id) of what an operator was told is done.

    about: by key of a wish, whose it is.  moments: when they meddle.
    """

    def __init__(
        self,
        file: MemoryFile,
        ledger: Ledger,
        chance: random.Random,
        *,
        ask: Ask,
        tell: Tell,
        about: Mapping[str, dict[str, str]],
        moments: list[float],
    ) -> None:
        self._file, self._ledger, self._chance = file, ledger, chance
        self._ask, self._tell, self._about = ask, tell, about
        self._moments = moments
        self.granted: set[tuple[str, str]] = set()

    async def meddle(self) -> None:
        """While there is trouble."""
        async with asyncio.TaskGroup() as group:
            for at_s in self._moments:
                group.create_task(self._meddle(at_s))

    async def _meddle(self, at_s: float) -> None:
        await asyncio.sleep(at_s)
        run_ids = self._unfinished()
        if run_ids:
            verb = self._chance.choices(list(_MEDDLING), list(_MEDDLING.values()))[0]
            await self._order(verb, self._chance.choice(run_ids))

    async def pause_what_is_under_way(self) -> None:
        """All of it, as whoever sees the end of a life come."""
        events = {recorded.stream: recorded for recorded in self._file.events}
        for run_id in self._unfinished():
            if events[f"run-{run_id}"].type in ("stage.started", "step.started"):
                await self._order("pause_run", run_id)

    async def tidy(self) -> None:
        """Let every run go on that only an operator can help. Never ends."""
        while True:
            for run_id in self._unfinished():
                events = [recorded for recorded in self._file.events if recorded.stream == f"run-{run_id}"]
                run = fold(recorded.event for recorded in events)
                if run.paused:
                    await self._order("resume_run", run_id)
                elif run.status == "in_doubt":
                    await self._order("resolve", run_id)
                elif run.wait is not None and run.wait.kind == "event" and not self._is_told(events, run):
                    await self._tell(f"tidy-{run_id}-{len(events)}", str(run.wait.where["of"]))
            await asyncio.sleep(2.0)

    def _is_told(self, events: Sequence[Recorded], run: Run) -> bool:
        """Whether what the run waits for is recorded: then nobody has to help it, and it must find that itself."""
        assert run.wait is not None
        handed = run.handed.get(run.wait.name, NOTHING_HANDED)
        return any(
            isinstance(recorded.event, EventDispatched)
            and recorded.group_hash == events[0].group_hash
            and recorded.event.payload.get("of") == run.wait.where["of"]
            and recorded.position not in handed
            for recorded in self._file.events[events[0].position :]
        )

    def _unfinished(self) -> list[str]:
        return [stream.removeprefix("run-") for stream in self._file.unfinished if stream.startswith("run-")]

    async def _order(self, verb: str, run_id: str) -> None:
        about = self._about.get(self._ledger.key_of(run_id))
        if about is None:
            return
        more: dict[str, Any] = {}
        if verb == "signal":
            more["value"] = {"note": self._chance.random()}
        if verb == "resolve":
            more["resolution"] = self._chance.choice(RESOLUTIONS)
            more["output"] = SETTLED if more["resolution"] == "done" else None
        status, _ = await self._ask(verb, {"run": run_id, **about, **more})
        if status == 200:
            self.granted.add((verb, run_id))
