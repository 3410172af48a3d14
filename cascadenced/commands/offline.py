"""A verb without a daemon: the same table of verbs, over the file or over an instance of our own.

Reading takes no lock and changes nothing, not even a folder that is not there yet: that one reads as an empty log with
the tasks that are installed. Writing does the command's own work: its run and the runs that one asks for. Runs that a
crash left behind, schedules, follow-ups and NATS are the next daemon's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from cascadenced.backup import make, refuse_half_restored
from cascadenced.clock import SystemClock
from cascadenced.commands.folder import has_log
from cascadenced.commands.shelf import open_shelf
from cascadenced.completeness import refuse_incomplete
from cascadenced.config import Config
from cascadenced.errors import BadMessage, Conflict, Invalid, Unavailable, Unknown
from cascadenced.eventlog.lock import DataFolderLock
from cascadenced.events.base import Json, Recorded
from cascadenced.events.run import RunRequested
from cascadenced.events.strict import shaped
from cascadenced.instance import Instance, open_instance
from cascadenced.pipeline.model import ENDED, Run, Wait, evolve
from cascadenced.verbs import LOCAL_VERBS, VERBS, perform
from cascadenced.verbs.base import Verb
from cascadenced.verbs.log import BackupArguments
from cascadenced.verbs.runs import DispatchArguments, DispatchResult, RunArguments, RunResult

_LOOKS_BACK_S = 0.1
"""How long a run that begins to wait for an event may take to find that it came before."""
_encode, _decode = msgspec.json.Encoder().encode, msgspec.json.Decoder().decode


# ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────


async def read(config: Config, name: str, arguments: dict[str, Json]) -> Any:
    """A reading verb on what is committed. Raises what the verb raises, Unavailable if the file cannot be read."""
    verb = _verb(name)
    async with open_shelf(config) as shelf:
        if name in ("list", "status"):
            await shelf.know_the_tasks()
        assert verb.reads
        return _as_json(await perform(verb, shelf, arguments))


# ── writing ──────────────────────────────────────────────────────────────────────────────────────────────────


async def write(config: Config, name: str, arguments: dict[str, Json]) -> Any:
    """A verb on a folder that is ours as long as it takes. One attempt at the lock: raises LogHeld if it is taken."""
    verb = _verb(name)
    config = config._replace(lock_wait_s=0.0)
    async with open_instance(config, who=f"the command {name}") as instance:
        own = OwnRuns(instance, patient=bool(arguments.get("wait", True)))
        work = asyncio.ensure_future(_performed(verb, instance, arguments))
        still = asyncio.ensure_future(own.stand_still())
        waiting: list[asyncio.Future[Any]] = [work, still]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                # Its error must not keep the runs it has started from their end.
                waiting.append(asyncio.ensure_future(own.ended()))
                await asyncio.wait(waiting[1:], return_when=asyncio.FIRST_COMPLETED)
            await instance.orphans.cancelled()
        finally:
            for each in waiting:
                each.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
            await instance.runs.stop(0.0)  # after Ctrl-C something is under way: it is recorded as interrupted
        if work.cancelled():
            raise Unavailable(own.why(), code="waiting")
        return _as_json(work.result())


async def backup(config: Config, arguments: dict[str, Json]) -> Any:
    """The verb `log_backup` on a folder that is ours as long as it takes: nothing is opened for writing, so that the
    copy is what lies there. One attempt at the lock: raises LogHeld if it is taken."""
    try:
        asked = shaped(arguments, BackupArguments)
    except BadMessage as error:
        raise Invalid(str(error)) from None
    if not has_log(config):
        raise Unknown(f"nothing is recorded in {config.data_dir} yet: there is nothing to back up")
    lock = DataFolderLock.acquire(config.data_dir, "the command log_backup")
    try:
        refuse_half_restored(config)
        refuse_incomplete(config)
        summary = make(config, Path(asked.folder), keys=asked.keys, clock=SystemClock(), pause=lambda: None)
    finally:
        lock.release()
    return _as_json(summary)


async def _performed(verb: Verb[Any], instance: Instance, arguments: dict[str, Json]) -> Any:
    if not arguments.get("idempotency_key") or not issubclass(verb.takes, RunArguments | DispatchArguments):
        return await perform(verb, instance, arguments)
    first: RunResult | DispatchResult = await perform(verb, instance, {**arguments, "wait": False})
    if first.duplicate and first.run_id is not None:
        # Nothing here goes on with a run of the past, so waiting for its end could take for ever.
        status = (await instance.answers.run(first.run_id)).status
        if status not in ENDED and arguments.get("wait", True):
            raise Conflict(
                f"run {first.run_id} was asked for before and has not ended ({status}): "
                "it goes on when the daemon starts (`cascadenced up`)"
            )
    if not arguments.get("wait", True):
        return first
    result: RunResult | DispatchResult = await perform(verb, instance, arguments)
    result.duplicate = first.duplicate
    return result


class OwnRuns:
    """The runs that were asked for since this instance was opened.

    patient: whether a time to pass is waited for. Nothing else that a run waits for can come while this process has the
    data folder for itself, but what its other runs do.
    """

    def __init__(self, instance: Instance, *, patient: bool) -> None:
        self._instance, self._patient = instance, patient
        self._open: dict[str, Run] = {}
        self._changed = asyncio.Event()
        instance.log.observe(self._grew)

    async def ended(self) -> None:
        """Return when each of them has ended, or cannot go on here."""
        while self._open:
            run_id = next(iter(self._open))
            with suppress(Unavailable, Unknown):
                await self._instance.runs.ended(run_id)
            self._open.pop(run_id, None)

    async def stand_still(self) -> None:
        """Return when there are any, and none of them goes on here."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            if self._stands_still():
                await asyncio.sleep(_LOOKS_BACK_S)
                if self._stands_still():
                    return

    def why(self) -> str:
        whys = ((run_id, self._what_for(run)) for run_id, run in self._open.items())
        run_id, why = next((each for each in whys if each[1] is not None), ("", ""))
        return f"run {run_id} {why}: it goes on when a daemon is up (`cascadenced up`)"

    def _stands_still(self) -> bool:
        return bool(self._open) and all(self._what_for(run) is not None for run in self._open.values())

    def _grew(self, batch: Sequence[Recorded]) -> None:
        for recorded in batch:
            run_id = recorded.run_id or ""
            if type(recorded.event) is RunRequested:
                self._open[run_id] = Run()
            if run_id in self._open:
                run = self._open[run_id] = evolve(self._open[run_id], recorded.event)
                if run.status in ENDED:
                    del self._open[run_id]
        self._changed.set()

    def _what_for(self, run: Run) -> str | None:
        """What it stands still for, None if it does not."""
        if run.paused:
            return "is paused"
        if run.in_doubt is not None:
            return "is in doubt"
        if run.is_held_back and any(run_id in self._open for run_id in run.requires):
            return "waits for the runs that must come before it"
        match run.wait:
            case None:
                return None
            case Wait(kind="event", name=name):
                return f"waits for the event {name}"
            case Wait(kind="children"):
                return "waits for the runs of its plan"
            case Wait(kind="held"):
                return f"is held ({run.reason})"
        return None if self._patient else "waits for a time to pass"


def _verb(name: str) -> Verb[Any]:
    verb = VERBS.get(name) or LOCAL_VERBS.get(name)
    if verb is None:
        raise Unknown(f"Unknown verb: {name}")
    return verb


def _as_json(result: object) -> Any:
    return _decode(_encode(result))
