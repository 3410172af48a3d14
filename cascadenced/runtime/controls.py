"""What others ask of runs under way: pause, resume, cancel, signal, resolve. A run's children do as it does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import reduce
from itertools import islice

import msgspec
from msgspec.structs import replace

from cascadenced.clock import Clock
from cascadenced.errors import Conflict, Unknown, VaultDamaged, WrongVersion
from cascadenced.eventlog.base import EventLog
from cascadenced.events.base import Event, Json
from cascadenced.identity import Pseudonyms, Redactor
from cascadenced.pipeline import control
from cascadenced.pipeline.model import Run
from cascadenced.runtime.children import unwanted_by
from cascadenced.runtime.record import LiveRun, Step, record
from cascadenced.runtime.runs import Runs
from cascadenced.vault import VaultPort

MAX_PREVIEW_CHARS = 256
_MAX_TRIES_AT_ONCE = 5


class Controlled(msgspec.Struct, frozen=True):
    """run: as it is now.  changed: whether something was recorded.  duplicate: whether that was so before, under the
    same source.  at_once: of a signal, whether no stage was under way, so that the next one is told."""

    run: Run
    changed: bool = True
    duplicate: bool = False
    at_once: bool = False


class Controls:
    """All of them raise Unknown for a run that is not there, and Conflict where its state forbids it.

    by: pseudonym of whoever asks. What they say for people has the ids of the run and of whoever asks replaced.
    source: of the append; what was recorded under it is not recorded again.
    """

    def __init__(self, log: EventLog, clock: Clock, runs: Runs, vault: VaultPort, pseudonyms: Pseudonyms) -> None:
        self._log, self._clock, self._runs = log, clock, runs
        self._vault, self._pseudonyms = vault, pseudonyms

    async def pause(self, run_id: str, *, by: str | None, source: str | None = None) -> Controlled:
        """What is under way ends; nothing new starts until `resume`."""
        return await self._with_children(run_id, lambda run: control.pause(run, by=by), source)

    async def resume(self, run_id: str, *, by: str | None, source: str | None = None) -> Controlled:
        return await self._with_children(run_id, lambda run: control.unpause(run, by=by), source)

    async def cancel(
        self,
        run_id: str,
        *,
        via: str,
        by: str | None,
        reason: str = "cancelled on request",
        source: str | None = None,
    ) -> Controlled:
        """End it now. Its code is cancelled if it is a coroutine, killed if it has a process, and left alone in a
        thread, where nothing can end it."""
        live = await self._runs.find(run_id)
        reason = (await self._nameless(live))(reason)
        done = await self._record(
            live,
            lambda run: control.cancel(run, via=via, by=by, reason=reason, elapsed_s=live.elapsed_s(self._clock)),
            source,
        )
        if not done.duplicate:
            await self._runs.withdraw(live)
        return done

    async def abandon(self, run_id: str, *, reason: str) -> Controlled:
        """End a run that nobody wants any more, or, where its effect may have happened, what is under way of it. That
        is in doubt then, until somebody resolves it."""
        live = await self._runs.find(run_id)
        reason = (await self._nameless(live))(reason)
        done = await self._record(
            live,
            lambda run: control.abandon(run, reason=reason, elapsed_s=live.elapsed_s(self._clock)),
            None,
        )
        if done.changed:
            await self._runs.withdraw(live)
        return done

    async def signal(
        self,
        run_id: str,
        payload: Json,
        *,
        via: str,
        by: str | None,
        redact: Redactor | None,
        source: str | None = None,
    ) -> Controlled:
        """Tell the run something. redact: of whoever asks."""
        live = await self._runs.find(run_id)
        shown = preview(payload, await self._nameless(live, redact))
        at_once = False

        def rule(run: Run) -> list[Event]:
            nonlocal at_once
            at_once = control.is_consumed_at_once(run)
            return control.attach(run, payload, via=via, by=by, shown=shown)

        return replace(await self._record(live, rule, source), at_once=at_once)

    async def resolve(
        self, run_id: str, resolution: str, *, by: str | None, output: Json = None, source: str | None = None
    ) -> Controlled:
        """Settle a run in doubt. resolution: retry, done or fail.  output: what the effect returned, if it was done."""
        live = await self._runs.find(run_id)
        unwanted = await self._unwanted(live)
        done = await self._record(
            live,
            lambda run: control.decide_resolution(
                run, resolution, by=by, output=output, elapsed_s=live.elapsed_s(self._clock), unwanted=unwanted
            ),
            source,
        )
        self._runs.look_at(live)
        return done

    async def _unwanted(self, live: LiveRun) -> str | None:
        """Why nobody waits for the run any more; None if it is no run of a plan, or its parent goes on."""
        parent_id = live.run.parent_run_id
        if parent_id is None or not control.is_unwanted(live.run_id, (await self._runs.find(parent_id)).run):
            return None
        return unwanted_by(parent_id)

    async def _nameless(self, live: LiveRun, redact: Redactor | None = None) -> Callable[[str], str]:
        """Replaces the ids of the run, and of whoever asks."""
        if live.redact is None:
            context = live.context
            with suppress(Unknown, VaultDamaged):  # then the run is held, and nobody here knows them either
                identity = live.identity or await self._vault.reveal(context.user_hash or "", context.group_hash or "")
                live.redact = Redactor(identity, self._pseudonyms)
        redactors = [each for each in (redact, live.redact) if each is not None]
        return lambda text: reduce(lambda said, each: each(said), redactors, text)

    async def _with_children(
        self, run_id: str, rule: Callable[[Run], list[Event]], source: str | None = None
    ) -> Controlled:
        """Record what `rule` says of the run and of all below it, in one append: after a crash it has happened to all
        of them or to none.

        Runs below that record something themselves at every try are not waited for: the run is asked first, so that it
        makes no more of them, and they one after the other.
        """
        live = await self._runs.find(run_id)
        for _ in range(_MAX_TRIES_AT_ONCE):
            family = [live, *await self._below(live)]
            steps = list(_steps(family, rule))
            if not steps:
                return Controlled(live.run, changed=False)
            changes = [each.change(step.events) for each, step in steps]
            try:
                # What was done before under this source was done to the run itself.
                receipt = await self._log.append(changes, source=source if steps[0][0] is live else None)
            except WrongVersion:
                for each in family:
                    await each.read_on(self._log)
                continue
            if receipt.duplicate:
                await live.read_on(self._log)
                return Controlled(live.run, changed=False, duplicate=True)
            rest = iter(receipt.recorded)
            for each, step in steps:
                each.advance(step.run, [*islice(rest, len(step.events))])
            for each, _step in steps:
                self._runs.look_at(each)
            return Controlled(live.run)
        done = await self._record(live, rule, source)
        if not done.duplicate:
            self._runs.look_at(live)
            for child_id in _children(live.run):
                with suppress(Conflict, Unknown):
                    await self._with_children(child_id, rule)
        return done

    async def _below(self, live: LiveRun) -> list[LiveRun]:
        """Runs of its plan that have not ended, and those of theirs."""
        below: list[LiveRun] = []
        for child_id in _children(live.run):
            with suppress(Unknown):
                child = await self._runs.find(child_id)
                below += [child, *await self._below(child)]
        return below

    async def _record(self, live: LiveRun, rule: Callable[[Run], list[Event]], source: str | None) -> Controlled:
        receipt = await record(
            self._log,
            self._clock,
            live,
            lambda run: Step.of(run, *rule(run)),
            wait_for_space=False,
            source=source,
        )
        duplicate = receipt is not None and receipt.duplicate
        return Controlled(live.run, changed=receipt is not None and not duplicate, duplicate=duplicate)


def _children(run: Run) -> list[str]:
    """Ids of the runs that its plan asked for and that it waits for."""
    return [child.run_id for child in run.children or () if child.run_id is not None and child.ended is None]


def _steps(family: Sequence[LiveRun], rule: Callable[[Run], list[Event]]) -> Iterator[tuple[LiveRun, Step]]:
    """What is to be recorded of each, where it is anything. Raises Conflict only for the first of them."""
    for n, live in enumerate(family):
        try:
            events = rule(live.run)
        except Conflict:
            if n == 0:
                raise
            continue
        if events:
            yield live, Step.of(live.run, *events)


def preview(payload: Json, redact: Callable[[str], str] = str) -> str | None:
    """What of a context is shown in the audit trail: of a dict with `note` or `url` only these, each cut.

    Redacted first: a name that is cut in half is not found any more.
    """
    if payload is None or payload in ("", {}, []):
        return None
    if isinstance(payload, dict):
        told = {key: payload[key] for key in ("note", "url") if key in payload}
        if told:
            return repr({key: _cut(redact(str(value))) for key, value in told.items()})
    return _cut(redact(repr(payload)))


def _cut(text: str) -> str:
    return text if len(text) <= MAX_PREVIEW_CHARS else text[:MAX_PREVIEW_CHARS] + "..."
