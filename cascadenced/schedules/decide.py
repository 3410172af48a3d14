"""Due instants, the state of their schedule and the time: what becomes of each. Pure.

Every due instant ends in one record. While the clock goes forth and the daemon is up they come one by one; after a
night without a daemon, a jump of the clock or a stall many come at once, and the rule for misfires says which of them
still count.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from cascadenced.events.base import Event
from cascadenced.events.schedule import ScheduleSet, TickQueued, TicksPassed
from cascadenced.schedules.model import Queued, Schedule, Verdict

PUNCTUAL_S = 60.0
"""What is not later than this is in time, whatever the rule for misfires: a daemon may take so long to start."""
MAX_QUEUED = 100
"""Instants of one schedule that wait for the end of a run."""


class Due(msgspec.Struct, frozen=True, gc=False):
    """An instant that the rule of a schedule names. at_us: µs since 1970.  local: the time as the rule has it.

    code: what is special about it, None as a rule.  fires: False for one that the rule itself leaves out.
    merged: further local times that there are not, and that became this instant.
    later_us: by so much later than due it is to fire; only what comes after that is late.
    """

    at_us: int
    local: str = ""
    code: str | None = None
    fires: bool = True
    merged: tuple[str, ...] = ()
    later_us: int = 0

    def late_us(self, now_us: int) -> int:
        return now_us - self.at_us - self.later_us

    @property
    def waiting(self) -> Queued:
        return Queued(self.at_us, self.local, self.code, self.merged)


class Settled(msgspec.Struct, frozen=True):
    """records: of instants that come before the one that fires.  fire: that one, if there is one; what is due after it
    is settled next, when it is known to have fired.  cancel: the run that it takes the place of."""

    records: Sequence[Event]
    fire: Queued | None = None
    cancel: str | None = None


def settle(
    schedule: Schedule,
    due: Sequence[Due],
    *,
    now_us: int,
    is_open: bool,
    refusal: str | None = None,
    at_most: int | None = None,
) -> Settled:
    """What becomes of `due`: in order, all of them after `settled_us` and none after now.

    at_most: so many of them are settled now; the others are there because of the rule for misfires, which counts from
    the last one back. `needed_behind` says how many it must see.
    is_open: whether the last run has not ended.  refusal: why the task takes no runs (a code), None if it does.
    """
    rule = schedule.rule
    assert rule is not None
    if schedule.queued and not is_open and refusal is None:
        return Settled([], schedule.queued[0])
    if len(due) == 1 and not is_open and refusal is None and _is_plain(due[0], now_us):
        return Settled([], due[0].waiting)  # as nearly always
    passed, n_queued = _Passed(rule.task), len(schedule.queued)
    fates = _fates(rule, due, now_us)
    for each in due[:at_most]:
        if (fate := fates.get(each.at_us)) is not None:
            passed.add(each, *fate)
        elif refusal is not None:
            passed.add(each, "suppressed", refusal)
        elif not is_open or rule.overlap == "allow":
            return Settled(passed.records, each.waiting)
        elif rule.overlap == "cancel_previous":
            return Settled(passed.records, each.waiting, schedule.last_run_id)
        elif rule.overlap == "skip" and not (n_queued or _is_made_up_for(rule, each, now_us)):
            passed.add(each, "skipped", "overlap", cause=schedule.last_run_id)
        elif n_queued >= MAX_QUEUED:
            passed.add(each, "skipped", "queue_full", cause=schedule.last_run_id)
        else:
            n_queued += 1
            behind = schedule.last_run_id or ""
            passed.records.append(
                TickQueued(
                    task=rule.task,
                    due_us=each.at_us,
                    behind=behind,
                    local=each.local,
                    code=each.code,
                    merged=each.merged,
                )
            )
    return Settled(passed.records)


def needed_behind(rule: ScheduleSet) -> int:
    """Without so many later ones in sight, it cannot be said of an instant that it is not made up for."""
    return rule.misfire_max if rule.misfire == "all" else 1


def _is_plain(due: Due, now_us: int) -> bool:
    """Whether it fires whatever the rule for misfires says, if it is the only one."""
    return due.fires and due.late_us(now_us) < PUNCTUAL_S * 1e6


def _is_made_up_for(rule: ScheduleSet, due: Due, now_us: int) -> bool:
    """Whether it is late, and the rule wants all that is. Then it waits for its turn, and so does what comes after it:
    else the run of the first would be all there is."""
    return rule.misfire == "all" and due.late_us(now_us) >= PUNCTUAL_S * 1e6


def pass_all(task: str, due: Iterable[Due], verdict: Verdict, code: str) -> list[Event]:
    """The same becomes of all of them: what a schedule owes before it changes."""
    passed = _Passed(task)
    for each in due:
        passed.add(each, verdict, code)
    return passed.records


def drop_queued(schedule: Schedule, code: str) -> list[Event]:
    """Those that wait for the end of a run wait no longer."""
    passed = _Passed("" if schedule.rule is None else schedule.rule.task)
    for waits in schedule.queued:
        passed.records.append(
            TicksPassed(task=passed.task, verdict="suppressed", code=code, first_us=waits.due_us, last_us=waits.due_us)
        )
    return passed.records


_Fate = tuple[Verdict, str, int | None]


def _fates(rule: ScheduleSet, due: Sequence[Due], now_us: int) -> dict[int, _Fate]:
    """By instant, of those that do not fire: what the rule itself says of them, and what the one for misfires does."""
    fates: dict[int, _Fate] = {}
    late, in_time = [], []
    window_us = round(max(rule.misfire_within_s, PUNCTUAL_S) * 1e6)
    for each in due:
        if not each.fires:
            fates[each.at_us] = ("suppressed", each.code or "left_out", None)
        elif each.late_us(now_us) > window_us:
            fates[each.at_us] = ("skipped", "too_late", None)
        elif each.late_us(now_us) >= PUNCTUAL_S * 1e6:
            late.append(each.at_us)
        else:
            in_time.append(each.at_us)
    match rule.misfire:
        case "skip":
            fates |= dict.fromkeys(late, ("skipped", "late", None))
        case "all":
            fates |= dict.fromkeys([*late, *in_time][: -rule.misfire_max], ("skipped", "too_many", None))
        case _:  # latest
            *others, last = [*late, *in_time] or [0]
            fates |= dict.fromkeys(others, ("coalesced", "late", last))
    return fates


class _Passed:
    """Records of instants in a row; those with the same fate share one."""

    def __init__(self, task: str) -> None:
        self.task = task
        self.records: list[Event] = []

    def add(
        self, due: Due, verdict: Verdict, code: str, into_us: int | None = None, *, cause: str | None = None
    ) -> None:
        n, first_us = 1, due.at_us
        last = self.records[-1] if self.records else None
        if isinstance(last, TicksPassed) and (last.verdict, last.code, last.into_us, last.cause) == (
            verdict,
            code,
            into_us,
            cause,
        ):
            n, first_us = last.n + 1, last.first_us
            self.records.pop()
        self.records.append(
            TicksPassed(
                task=self.task,
                verdict=verdict,
                code=code,
                first_us=first_us,
                last_us=due.at_us,
                n=n,
                into_us=into_us,
                cause=cause,
            )
        )
