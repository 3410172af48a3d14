"""Schedules: set, removed, paused, previewed; and what became of their due instants."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import msgspec

from cascadenced.clock import parse_iso
from cascadenced.errors import Invalid
from cascadenced.events.base import Json
from cascadenced.handlers.backfills import DEFAULT_MAX, MAX_SCANNED, Backfilled
from cascadenced.identity import Identity
from cascadenced.instance import Instance
from cascadenced.schedules.definition import defined
from cascadenced.schedules.preview import Previewed, preview
from cascadenced.schedules.simulate import Difference, Simulation
from cascadenced.schedules.timetable import timetable
from cascadenced.verbs.base import OWNERS_DOORS, ListArguments, Readable, Someone, by, reading, verb


class ScheduleArguments(Someone, kw_only=True, forbid_unknown_fields=True):
    """What schedules/definition.py reads. user_id, group_id: whom the schedule is for; nobody: the system."""

    task: str
    expr: Json = None
    rrule: Json = None
    every_s: Json = None
    at: Json = None
    calendar_event: Json = None
    timezone: Json = None
    dst: Json = None
    misfire: Json = None
    overlap: Json = None
    jitter_s: Json = None
    exclude: Json = None
    exclude_ics: Json = None
    deps: Json = None
    event: Json = None
    args: Json = None
    recurrence: Json = None
    poll: Json = None

    def entry(self) -> dict[str, Json]:
        """As somebody would write it in a file."""
        others = {"task", *Someone.__struct_fields__}
        return {
            name: value
            for name, value in msgspec.structs.asdict(self).items()
            if name not in others and value is not None
        }


class OfScheduleArguments(Someone, kw_only=True, forbid_unknown_fields=True):
    """Who asks is for the audit trail."""

    task: str


class TicksArguments(ListArguments, kw_only=True, forbid_unknown_fields=True):
    task: str


class BackfillArguments(OfScheduleArguments, kw_only=True, forbid_unknown_fields=True):
    """start, end: instants with an offset, both included; what is after now, or has its turn still to come, is left.

    missed_only: leave what fired when it was due.  max: more instants are refused.
    """

    start: str
    end: str
    missed_only: bool = False
    max: Annotated[int, msgspec.Meta(ge=1, le=MAX_SCANNED)] = DEFAULT_MAX


class PreviewArguments(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Of a schedule that is set (task), or of an expression (expr, timezone). start: an instant with an offset, None:
    now."""

    task: str | None = None
    expr: str | None = None
    timezone: str | None = None
    start: str | None = None
    count: Annotated[int, msgspec.Meta(ge=1, le=1_000)] = 10


class SimulateArguments(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """start, end: instants with an offset, both included.  change: text of a file like schedules.yml, that would be all
    there is.  name: of that file, to say where something is wrong."""

    start: str
    end: str
    change: str | None = None
    name: str | None = None
    via: str = "cli"


class LoadArguments(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """text: of a file like schedules.yml.  name: what that is called, to say where something is wrong."""

    text: str
    name: str | None = None
    via: str = "cli"


class Loaded(msgspec.Struct):
    """tasks: whose schedules were set, or were so already."""

    tasks: list[str]


class SimulationResult(msgspec.Struct):
    """changed, differences: of the file that was given; null and empty without one.

    unknown_tasks: entries of that file which are of no task, and therefore of no effect.
    """

    simulation: Simulation
    changed: Simulation | None
    differences: list[Difference]
    unknown_tasks: list[str] = []


class Preview(msgspec.Struct):
    items: list[Previewed]


class Scheduled(msgspec.Struct):
    """next_fire_at: ISO 8601 with the zone's offset; null for a removed or paused schedule, or one never due again.

    unread: why the node that says when it is due cannot be read; what it said before holds, and it is read again.
    """

    task: str
    changed: bool
    next_fire_at: str | None = None
    duplicate: bool = False
    unread: str | None = None


async def _schedule(instance: Instance, asked: ScheduleArguments) -> Scheduled:
    who = None
    if asked.user_id is not None:
        asked.asker(instance.pseudonyms)  # raises for ids that cannot be any
        who = Identity(asked.user_id, asked.group_id or asked.user_id)
    elif asked.group_id is not None:
        raise Invalid("a group needs a user: user_id is required")
    done = await instance.schedules.set(
        asked.task, asked.entry(), via=asked.via, who=who, source=_source(instance, asked)
    )
    unread = await instance.calendar_polls.read_now(asked.task)
    await instance.schedule_file.catch_up()
    return Scheduled(done.task, done.changed, await _next_fire_at(instance, asked.task), done.duplicate, unread)


async def _unschedule(instance: Instance, asked: OfScheduleArguments) -> Scheduled:
    asker = asked.asker(instance.pseudonyms)
    done = await instance.schedules.remove(asked.task, by=by(asker), source=_source(instance, asked))
    await instance.schedule_file.catch_up()
    return Scheduled(done.task, done.changed, None, done.duplicate)


async def _pause(instance: Instance, asked: OfScheduleArguments) -> Scheduled:
    asker = asked.asker(instance.pseudonyms)
    done = await instance.schedules.pause(asked.task, by=by(asker), source=_source(instance, asked))
    return Scheduled(done.task, done.changed, None, done.duplicate)


async def _resume(instance: Instance, asked: OfScheduleArguments) -> Scheduled:
    asker = asked.asker(instance.pseudonyms)
    done = await instance.schedules.resume(asked.task, by=by(asker), source=_source(instance, asked))
    return Scheduled(done.task, done.changed, await _next_fire_at(instance, asked.task), done.duplicate)


def _source(instance: Instance, asked: Someone) -> str | None:
    """Of the append, so that the same wish is done once."""
    if asked.idempotency_key is None:
        return None
    asker = asked.asker(instance.pseudonyms)
    return instance.sources.of_control(asker.caller.user_hash, asked.idempotency_key, asker.redact)


async def _next_fire_at(instance: Instance, task: str) -> str | None:
    row = await instance.answers.schedule(task, now_us=instance.clock.now_us())
    return None if row is None else row.next_fire_at


async def _schedules(instance: Readable, asked: ListArguments) -> Any:
    return await instance.answers.schedules(now_us=instance.clock.now_us(), limit=asked.limit, after=asked.after)


async def _ticks(instance: Readable, asked: TicksArguments) -> Any:
    return await instance.answers.ticks(asked.task, limit=asked.limit, after=asked.after)


async def _preview(instance: Readable, asked: PreviewArguments) -> Preview:
    after_us = instance.clock.now_us() if asked.start is None else _instant("start", asked.start) - 1
    if (asked.task is None) == (asked.expr is None):
        raise Invalid("either task or expr is required")
    if asked.task is not None:
        return Preview(await instance.answers.preview(asked.task, after_us=after_us, count=asked.count))
    entry = {"expr": asked.expr, "timezone": asked.timezone or instance.config.timezone}
    rule = defined("preview", entry, now_us=after_us, timezone="UTC", via="cli").rule
    table = timetable(rule)
    assert table is not None
    return Preview(preview(table, after_us=after_us, count=asked.count))


async def _simulate(instance: Instance, asked: SimulateArguments) -> SimulationResult:
    changed, unknown = None, list[str]()
    if asked.change is not None:
        with _of_file(asked.name):
            changed, strangers = await instance.schedule_file.rules(asked.change.encode(), _door(asked.via, "file"))
        unknown = [*strangers]
    before, after, differences = await instance.answers.simulate(
        from_us=_instant("start", asked.start) - 1, to_us=_instant("end", asked.end), changed=changed
    )
    return SimulationResult(_shown(before), None if after is None else _shown(after), differences, unknown)


def _door(via: str, owners: str) -> str:
    """owners: what a file is said to have come through that the owner of the data folder gives us."""
    return owners if via in OWNERS_DOORS else via


def _shown(simulation: Simulation) -> Simulation:
    """Without what is there for comparing."""
    lanes = [msgspec.structs.replace(each, fires=()) for each in simulation.schedules]
    return msgspec.structs.replace(simulation, schedules=lanes)


def _instant(name: str, text: str) -> int:
    try:
        return parse_iso(text)
    except (ValueError, OverflowError):
        raise Invalid(f"{name} must be an instant such as 2026-11-30T09:00:00Z, not {text[:40]!r}") from None


async def _backfill(instance: Instance, asked: BackfillArguments) -> Backfilled:
    return await instance.backfills.backfill(
        asked.task,
        first_us=_instant("start", asked.start),
        last_us=_instant("end", asked.end),
        missed_only=asked.missed_only,
        at_most=asked.max,
        by=by(asked.asker(instance.pseudonyms)).user_hash,
    )


async def _load(instance: Instance, asked: LoadArguments) -> Loaded:
    with _of_file(asked.name):
        return Loaded(list(await instance.schedule_file.load(asked.text.encode(), _door(asked.via, "load"))))


@contextmanager
def _of_file(name: str | None) -> Iterator[None]:
    """What is wrong with a file begins with its name."""
    try:
        yield
    except Invalid as error:
        if name is None:
            raise
        raise Invalid(f"{name}: {error}", code=error.code) from None


VERBS = (
    verb("schedule", ScheduleArguments, _schedule, "set when a task runs", is_wish=True),
    verb("unschedule", OfScheduleArguments, _unschedule, "remove a schedule", is_wish=True),
    verb("schedule_pause", OfScheduleArguments, _pause, "let a schedule fire nothing for now", is_wish=True),
    verb("schedule_resume", OfScheduleArguments, _resume, "let a paused schedule fire again", is_wish=True),
    verb("backfill", BackfillArguments, _backfill, "ask for runs at due instants of the past", is_wish=True),
    reading("schedules", ListArguments, _schedules, "schedules that are set"),
    reading("preview", PreviewArguments, _preview, "when a schedule or an expression is due next"),
    verb("simulate", SimulateArguments, _simulate, "what all schedules would do in a time, and if they were changed"),
    verb("load_schedules", LoadArguments, _load, "set all schedules of a file", is_wish=True),
    reading("ticks", TicksArguments, _ticks, "what became of the due instants of a schedule, newest first"),
)
