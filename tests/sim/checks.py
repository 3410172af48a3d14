"""What must be true of a world at its end, beside what `tests/crash/audit.py` says of any crash.

To add a check: a generator over `World` that yields what it finds wrong as sentences, and its name in `CHECKS`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from cascadenced.eventlog.memory import MemoryEventLog
from cascadenced.events.outbound import POSITION_HEADER, REPUBLISHED_HEADER, messages
from cascadenced.instance import Instance
from cascadenced.projections.board import Board
from tests.crash import audit
from tests.sim import durable_checks
from tests.sim.broker import PREFIX
from tests.sim.daemon import INSTANCE_ID
from tests.sim.durable import SETTLED, WITHOUT_RUN
from tests.sim.sink import BEGUN, Effect
from tests.sim.tables import Tables

if TYPE_CHECKING:
    from tests.sim.world import World

Check = Callable[["World"], Iterator[str]]

_SWITCHES = {"disable": "task.disabled", "enable": "task.enabled", "pause": "task.paused", "resume": "task.resumed"}


# ── of the last life, before it stops ────────────────────────────────────────────────────────────────────────────


async def of_the_living(instance: Instance, log: MemoryEventLog) -> list[str]:
    """Memory and tables of a settled daemon are what the log folds to, and the log is whole."""
    faults = [f"the projection {name} is frozen: {why}" for name, why in log.frozen().items()]
    before = Tables.of(log)
    assert before is not None
    board = instance.board.json()
    await log.verify()
    await log.rebuild()
    after = Tables.of(log)
    assert after is not None
    faults += before.differences(after, "the last life")
    if board != (await Board.open(log)).json():
        faults.append("the status board is not what the log folds to")
    return faults


# ── of all that survived ─────────────────────────────────────────────────────────────────────────────────────────


def of_what_is_left(world: World) -> list[str]:
    evidence = _evidence(world)
    return audit.audit(evidence) + [f"{check.__name__}: {fault}" for check in CHECKS for fault in check(world)]


def _evidence(world: World) -> audit.Evidence:
    rows = [
        audit.Row(
            position=event.position,
            id=event.id,
            stream=event.stream,
            version=event.version,
            type=event.type,
            epoch=event.epoch,
            source=event.source,
            run_id=event.run_id,
            data=msgspec.json.decode(event.data),
        )
        for event in world.file.events
    ]
    planned = {(row.run_id or "", "plan") for row in rows if row.type == "stage.finished" and "children" in row.data}
    settled = {
        (row.run_id or "", row.data["stage"])
        for row in rows
        if row.type == "stage.finished" and (row.data.get("output") == SETTLED or row.data["task"] in WITHOUT_RUN)
    }
    asked = {row.run_id for row in rows if row.type == "run.requested" and row.data["via"] in audit.DOORS}
    effects = [
        audit.Effect(one.run_id, one.stage)
        for one in _of_stages(world)
        if one.run_id in asked and (one.run_id, one.stage) not in planned
    ]
    # What nobody's code has done: an operator says that it was, or plan() is called again to make the tasks.
    effects += [audit.Effect(*of) for of in (planned | settled) - {(one.run_id, one.stage) for one in effects}]
    published = frozenset(stored.headers["Nats-Msg-Id"].partition(".")[0] for stored in _ours(world))
    return audit.Evidence(world.clients.attempts, rows, effects, published)


def nothing_is_confirmed_before_it_is_recorded(world: World) -> Iterator[str]:
    for key in world.early_acknowledged:
        yield f"the message {key} was acknowledged when the log did not have it"
    for name in world.clients.early:
        yield f"a client was told of {name} when the log did not have it"


def events_and_garbage_are_not_lost(world: World) -> Iterator[str]:
    for attempt in world.clients.events.with_outcome("acknowledged"):
        if not world.ledger.has(attempt.key):
            yield f"the event {attempt.key} was acknowledged and is not in the log"
    for key in world.clients.garbage:
        if not world.ledger.has(key):
            yield f"the unreadable message {key} was acknowledged and is no dead letter"


def only_garbage_is_a_dead_letter(world: World) -> Iterator[str]:
    for event in world.file.events:
        if event.type == "message.dead_lettered" and b'"undecodable"' not in event.data:
            yield f"a message became a dead letter (position {event.position}): {event.data.decode()}"


def _of_stages(world: World) -> Iterator[Effect]:
    """One for each time that the code of a stage ran."""
    return (one for one in world.sink.effects if one.step in ("", BEGUN))


def no_finished_stage_runs_again(world: World) -> Iterator[str]:
    """An effect happens while its stage is under way: after a recorded start, before the recorded end."""
    began: dict[tuple[str, str], int] = {}
    ended: dict[tuple[str, str], int] = {}
    for event in world.file.events:
        if event.type in ("stage.started", "stage.finished", "stage.failed") and event.run_id is not None:
            if getattr(event.event, "retry_at_us", None) is not None:
                continue
            of = event.run_id, getattr(event.event, "stage", "")
            (began if event.type == "stage.started" else ended).setdefault(of, event.position)
    planned = {event.run_id for event in world.file.events if getattr(event.event, "children", None) is not None}
    for effect in world.sink.effects:
        if effect.stage == "plan" and effect.run_id in planned and effect.step == BEGUN:
            continue  # it is called again, to make the tasks
        of = effect.run_id, effect.stage
        if not began.get(of, 10**9) <= effect.position:
            yield f"{of} was done at position {effect.position}, and its start recorded at {began.get(of)}"
        if ended.get(of, 10**9) <= effect.position:
            yield f"{of} was done at position {effect.position}, after its end was recorded at {ended[of]}"


def what_follows_is_in_the_same_append(world: World) -> Iterator[str]:
    """After the end of a stage comes the next start, or the end of the run, at once; a stop may hold it back."""
    by_run: dict[str, list[Any]] = {}
    for event in world.file.events:
        if event.stream.startswith("run-"):
            by_run.setdefault(event.stream, []).append(event)
    stopped = {life.log.epoch for life in world.lives if life.stop_asked and life.log is not None}
    for stream, events in by_run.items():
        paused = False
        for before, event, after in zip([None, *events], events, events[1:], strict=False):
            paused = event.type == "run.paused" or (paused and event.type != "run.resumed")
            if event.type not in ("stage.finished", "stage.failed") or paused:
                continue
            if getattr(event.event, "retry_at_us", None) is not None:
                continue  # it is tried again later
            if before is not None and before.type == "run.resolved":
                continue  # whoever performs the run starts what follows
            together = after.position == event.position + 1 and after.at_us == event.at_us
            if not together and event.epoch not in stopped:
                yield f"{stream}: what follows from {event.type} at {event.position} is at {after.position}"


def what_operators_were_told_is_recorded(world: World) -> Iterator[str]:
    recorded = Counter(event.type for event in world.file.events)
    for (verb, task), n in world.clients.switched.items():
        if recorded[_SWITCHES[verb]] < n:
            yield f"{verb} of {task} made a difference {n} times, and is recorded {recorded[_SWITCHES[verb]]} times"


def everything_is_published(world: World) -> Iterator[str]:
    """All messages of all events, since nothing is old enough for the stream to drop it."""
    there = {stored.headers["Nats-Msg-Id"] for stored in _ours(world)}
    for event in world.file.events:
        for message in messages(event, PREFIX, broadcast_pointers=world.config.ume_broadcast_pointers):
            if world.broker.stream_of(message.subject) is not None and message.headers["Nats-Msg-Id"] not in there:
                yield f"{message.headers['Nats-Msg-Id']} of position {event.position} is not on the bus"


def the_outbox_is_in_order(world: World) -> Iterator[str]:
    """What is published for the first time is so in the order of the log."""
    seen: set[str] = set()
    newest = 0
    for stored in world.broker.history:
        position = int(stored.headers.get(POSITION_HEADER, 0))
        message_id = stored.headers.get("Nats-Msg-Id", "")
        if not position or REPUBLISHED_HEADER in stored.headers or message_id in seen:
            continue
        seen.add(message_id)
        if position < newest:
            yield f"position {position} was published first after position {newest}"
        newest = position


def _ours(world: World) -> Iterator[Any]:
    for stored in world.broker.events.messages.values():
        if stored.headers.get("Cascadence-Origin") == INSTANCE_ID:
            yield stored


CHECKS: tuple[Check, ...] = (
    nothing_is_confirmed_before_it_is_recorded,
    events_and_garbage_are_not_lost,
    only_garbage_is_a_dead_letter,
    no_finished_stage_runs_again,
    what_follows_is_in_the_same_append,
    what_operators_were_told_is_recorded,
    everything_is_published,
    the_outbox_is_in_order,
    *durable_checks.CHECKS,
)
