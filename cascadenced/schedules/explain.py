"""What became of one instant of a schedule, or will, and why: in words. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from cascadenced.recurrence.one_off import OneOff, parse_one_off
from cascadenced.recurrence.walls import SECOND_US
from cascadenced.recurrence.zones import zone
from cascadenced.schedules.decide import Due
from cascadenced.schedules.model import Schedule
from cascadenced.schedules.timetable import Timetable


class Record(msgspec.Struct, frozen=True):
    """What the ledger has of it. at, until, into: ISO 8601 UTC.  run_id: that was fired, or that was in the way."""

    at: str
    until: str
    n: int
    verdict: str
    code: str | None
    run_id: str | None
    into: str | None


class TickExplanation(msgspec.Struct, frozen=True):
    """asked: the instant, as it was asked for.  code: why it is due or is not (recurrence/explain.py).

    reasons: whole sentences, the first about the rule, the others about what became of it.  records: of the ledger, for
    each instant at which it fires.
    """

    task: str
    asked: str
    code: str
    reasons: Sequence[str]
    records: Sequence[Record]


_UNSET = "The task {} is not scheduled now."
_WHY: Mapping[str | None, str] = {
    "too_late": "it came later than the schedule allows, because nothing ticked at the time",
    "late": "it came late, because nothing ticked at the time, and a later one stands for it",
    "too_many": "more were late at once than the schedule makes up for",
    "overlap": "the run before it had not ended",
    "queue_full": "too many waited for the end of the run before them",
    "paused": "the schedule, or its task, was paused",
    "disabled": "its task was disabled",
    "unknown_task": "there was no such task",
    "changed": "the schedule was changed before anything ticked",
    "removed": "the schedule was removed",
    "excluded.date": "the day is excluded",
    "excluded.span": "a calendar excludes it",
    "gap.skipped": "the local time did not exist that day, and the schedule skips such times",
    "identity_missing": "the vault does not have the identity it was to run for",
    "fired_before": "it had fired before",
}


def explain(
    schedule: Schedule,
    table: Timetable | None,
    asked: str,
    *,
    task: str,
    records: Sequence[Record],
    now_us: int,
    again: Sequence[str] = (),
) -> TickExplanation:
    """table: of its rule; None where it is not set, or its calendar was not read yet.  records: of the instants that
    `instants` names.  again: runs that were asked for at these later."""
    told = [_told(record) for record in records]
    told += [
        f"It was asked for later: {f'run {run_id}' if run_id else 'the event was dispatched'}." for run_id in again
    ]
    if table is None:
        why = _UNSET.format(task) if not schedule.is_set else "Its calendar was not read yet."
        if not told and not isinstance(parse_one_off(asked), OneOff):
            why += " To see what became of it before, ask for the instant, with Z or an offset."
        return TickExplanation(task, asked, "unset", [why, *told], records)
    answer = table.why(asked)
    reasons = [answer.sentence]
    left_out = False
    for fires_us in answer.fires_us:
        [due] = table.due(fires_us - 1, fires_us, 1) or [Due(fires_us)]
        if not due.fires and due.code is not None:
            left_out = True
            reasons.append(f"But it is left out: {_WHY.get(due.code, due.code)}.")
    if told:
        reasons += told
    elif answer.fires_us and answer.fires_us[0] > now_us:
        will_not = "; it will be recorded as suppressed" if left_out or schedule.paused else ""
        if schedule.paused and not left_out:
            will_not += ", unless the schedule, which is paused, is resumed before"
        reasons.append(f"It is still to come{will_not}.")
    elif answer.fires_us and schedule.rule is not None and answer.fires_us[0] <= schedule.rule.from_us:
        reasons.append("The schedule was set, or changed, after it: nothing of the past is fired.")
    elif answer.fires_us:
        reasons.append("It has no record yet: nothing has ticked since, or the schedule is paused.")
    if told and not answer.fires_us:
        reasons.append("The schedule was another one then.")
    return TickExplanation(task, asked, answer.code, reasons, records)


def instants(table: Timetable | None, asked: str) -> Sequence[int]:
    """The instants that fire on account of a time, µs since 1970. Raises Invalid for what is no time."""
    return () if table is None else table.why(asked).fires_us


def meant(zone_name: str | None, asked: str) -> Sequence[int]:
    """The instants that a time names, whatever is due then; none where it is a local time and there is no zone.

    Raises Invalid for what is no time.
    """
    when = parse_one_off(asked)
    if isinstance(when, OneOff):
        return (when.at_us,)
    return () if zone_name is None else [at_s * SECOND_US for at_s in zone(zone_name).instants(when.wall_s)]


def _told(record: Record) -> str:
    among = f" (one of {record.n} from {record.at} to {record.until})" if record.n > 1 else ""
    why = _WHY.get(record.code, record.code or "")
    match record.verdict:
        case "fired":
            return f"It fired: run {record.run_id}." if record.run_id else "It fired: the event was dispatched."
        case "queued":
            return f"It waits for the end of run {record.run_id}."
        case "coalesced":
            return f"It became one with the instant {record.into}: {why}{among}."
        case _:
            because = f", run {record.run_id}" if record.run_id else ""
            return f"It was {record.verdict}: {why}{because}{among}."
