"""What becomes of due instants. Instants are minutes of a day here; now is in minutes as well."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st

from cascadenced.events.base import Event
from cascadenced.events.schedule import (
    SchedulePaused,
    ScheduleRemoved,
    ScheduleResumed,
    ScheduleSet,
    TickFired,
    TickQueued,
    TicksPassed,
)
from cascadenced.schedules.decide import MAX_QUEUED, Due, Settled, drop_queued, needed_behind, pass_all, settle
from cascadenced.schedules.model import Queued, Schedule, evolve, fold

MINUTE = 60_000_000
TASK = "report"


def due(*minutes: float, **fields: Any) -> list[Due]:
    return [Due(round(minute * MINUTE), **fields) for minute in minutes]


def rule(**fields: Any) -> ScheduleSet:
    return ScheduleSet(**({"task": TASK, "expr": "* * * * *", "misfire_within_s": 3_600.0} | fields))


def fired(minute: float, run_id: str = "r1") -> TickFired:
    return TickFired(task=TASK, due_us=round(minute * MINUTE), run_id=run_id)


def passed(verdict: str, code: str, first: float, last: float | None = None, n: int = 1, **fields: Any) -> TicksPassed:
    last = first if last is None else last
    return TicksPassed(
        task=TASK,
        verdict=verdict,
        code=code,
        first_us=round(first * MINUTE),
        last_us=round(last * MINUTE),
        n=n,
        **fields,
    )


def settled(*events: Event, at: float, given: list[Due], **fields: Any) -> tuple[list[Event], float | None]:
    """(records, minute of the one that fires)."""
    found = settle(fold(events), given, **({"now_us": round(at * MINUTE), "is_open": False} | fields))
    return list(found.records), None if found.fire is None else found.fire.due_us / MINUTE


def all_settled(schedule: Schedule, given: list[Due], *, now: float, **fields: Any) -> list[Event]:
    """Settled to the end, where each run ends at once."""
    events: list[Event] = []
    for n in range(10_000):
        rest = [each for each in given if each.at_us > schedule.settled_us]
        found = settle(schedule, rest, now_us=round(now * MINUTE), is_open=False, **fields)
        these = list(found.records)
        if found.fire is not None:
            these.append(TickFired(task=TASK, due_us=found.fire.due_us, run_id=f"r{n}"))
        if not these:
            return events
        for event in these:
            schedule = evolve(schedule, event)
        events += these
    raise AssertionError("it never ends")


# ── in parts ─────────────────────────────────────────────────────────────────────────────────────────────────


@for_all(n=st.integers(1, 40), at_most=st.integers(1, 12), misfire=st.sampled_from(["latest", "all"]))
def test_settled_in_parts_the_same_instants_fire_as_settled_at_once(n: int, at_most: int, misfire: str) -> None:
    schedule, given = fold([rule(misfire=misfire, misfire_max=3)]), due(*range(1, n + 1))
    at_once, in_parts = [], []
    for parts, found in ((None, at_once), (at_most, in_parts)):
        rest = given
        while rest:
            seen = rest if parts is None else rest[: parts + needed_behind(schedule.rule)]
            made = settle(schedule, seen, now_us=(n + 5) * MINUTE, is_open=False, at_most=parts)
            done = [event.last_us for event in made.records]
            if made.fire is not None:
                done.append(made.fire.due_us)
                found.append(made.fire.due_us)
            rest = [each for each in rest if each.at_us > max(done)]
    assert at_once == in_parts
    assert len(at_once) == min(n, 3 if misfire == "all" else 1)


# ── in time ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("misfire", ["skip", "latest", "all"])
def test_what_is_due_now_fires_whatever_the_rule_for_misfires(misfire: str) -> None:
    assert settled(rule(misfire=misfire, misfire_within_s=0.0), at=10.5, given=due(10)) == ([], 10)


def test_nothing_due_is_nothing_done() -> None:
    assert settled(rule(), at=10, given=[]) == ([], None)


def test_the_local_time_and_what_is_special_about_it_travel_along() -> None:
    what = {"local": "2026-03-08T02:30", "code": "gap.shifted", "merged": ("2026-03-08T02:45",)}
    found = settle(fold([rule()]), due(10, **what), now_us=10 * MINUTE, is_open=False)
    assert found == Settled([], Queued(10 * MINUTE, **what))
    queued = settle(fold([rule(overlap="queue")]), due(10, **what), now_us=10 * MINUTE, is_open=True).records
    assert evolve(fold([rule(overlap="queue")]), queued[0]).queued == (Queued(10 * MINUTE, **what),)


# ── late ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_of_what_came_late_the_latest_fires_and_the_others_are_one_with_it() -> None:
    records, fire = settled(rule(), at=50, given=due(10, 20, 30, 40))
    assert records == [passed("coalesced", "late", 10, 30, 3, into_us=40 * MINUTE)]
    assert fire == 40


def test_what_is_later_than_the_window_is_skipped_under_every_rule() -> None:
    for misfire in ("latest", "all", "skip"):
        records, _ = settled(rule(misfire=misfire), at=100, given=due(10, 20, 30))
        assert records == [passed("skipped", "too_late", 10, 30, 3)]


def test_the_edge_of_the_window_is_within_it() -> None:
    assert settled(rule(), at=70, given=due(10)) == ([], 10)
    assert settled(rule(), at=70.0001, given=due(10)) == ([passed("skipped", "too_late", 10)], None)


def test_skip_fires_only_what_is_in_time() -> None:
    records, fire = settled(rule(misfire="skip"), at=30.5, given=due(10, 20, 30))
    assert records == [passed("skipped", "late", 10, 20, 2)]
    assert fire == 30


def test_all_fires_one_after_the_other() -> None:
    given = due(10, 20, 30)
    assert settled(rule(misfire="all"), at=40, given=given) == ([], 10)
    assert settled(rule(misfire="all"), fired(10), at=40, given=given[1:]) == ([], 20)


def test_all_is_bounded_and_the_newest_count() -> None:
    records, fire = settled(rule(misfire="all", misfire_max=2), at=40, given=due(10, 20, 30, 35))
    assert records == [passed("skipped", "too_many", 10, 20, 2)]
    assert fire == 30


# ── what the rule itself says ────────────────────────────────────────────────────────────────────────────────


def test_an_instant_that_the_rule_leaves_out_is_recorded_as_it_says() -> None:
    records, fire = settled(rule(), at=12, given=[*due(10, fires=False, code="gap.skipped"), *due(12)])
    assert records == [passed("suppressed", "gap.skipped", 10)]
    assert fire == 12


def test_an_instant_that_is_left_out_is_no_latest_one() -> None:
    records, fire = settled(rule(), at=40, given=[*due(10, 20), *due(30, fires=False, code="excluded")])
    assert (records, fire) == ([passed("coalesced", "late", 10, into_us=20 * MINUTE)], 20)


# ── not now ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_is_made_up_for_waits_for_its_turn_even_where_runs_do_not_wait_for_each_other() -> None:
    events = [rule(misfire="all"), fired(5, "r5")]
    records, fire = settled(*events, at=10, given=due(7, 8, 9.5), is_open=True)
    assert [type(record) for record in records] == [TickQueued, TickQueued, TickQueued]
    assert fire is None
    assert settled(*events, at=10, given=due(9.5), is_open=True)[0] == [passed("skipped", "overlap", 9.5, cause="r5")]


def test_of_a_task_that_takes_no_runs_they_are_suppressed_and_the_next_one_is_looked_at_afresh() -> None:
    assert settled(rule(), at=10, given=due(10), refusal="disabled") == ([passed("suppressed", "disabled", 10)], None)


def test_while_the_last_run_is_open_an_instant_is_skipped_because_of_it() -> None:
    records, fire = settled(rule(), fired(5, "r5"), at=10, given=due(10), is_open=True)
    assert (records, fire) == ([passed("skipped", "overlap", 10, cause="r5")], None)


def test_or_fires_beside_it() -> None:
    assert settled(rule(overlap="allow"), fired(5), at=10, given=due(10), is_open=True) == ([], 10)


def test_or_takes_its_place() -> None:
    found = settle(fold([rule(overlap="cancel_previous"), fired(5, "r5")]), due(10), now_us=10 * MINUTE, is_open=True)
    assert found == Settled([], Queued(10 * MINUTE), "r5")


def test_or_waits_for_its_end() -> None:
    events: list[Event] = [rule(overlap="queue"), fired(5, "r5")]
    records, fire = settled(*events, at=10, given=due(10), is_open=True)
    assert (records, fire) == ([TickQueued(task=TASK, due_us=10 * MINUTE, behind="r5")], None)
    events += records
    assert settled(*events, at=11, given=due(11), is_open=True)[0] == [
        TickQueued(task=TASK, due_us=11 * MINUTE, behind="r5")
    ]
    assert settled(*events, at=11, given=due(11)) == ([], 10)  # the run has ended: those that wait come first
    assert settled(*events, fired(10, "r10"), at=11, given=due(11)) == ([], 11)


def test_no_more_wait_than_there_is_room_for() -> None:
    events: list[Event] = [rule(overlap="queue"), fired(0, "r0")]
    events += [TickQueued(task=TASK, due_us=n * MINUTE, behind="r0") for n in range(1, MAX_QUEUED + 1)]
    assert settled(*events, at=200, given=due(200), is_open=True) == (
        [passed("skipped", "queue_full", 200, cause="r0")],
        None,
    )


def test_what_waits_keeps_waiting_while_the_task_takes_no_runs() -> None:
    events = [rule(overlap="queue"), TickQueued(task=TASK, due_us=MINUTE, behind="r0")]
    assert settled(*events, at=2, given=[], refusal="paused") == ([], None)


# ── changes ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_a_schedule_owes_before_it_changes_is_recorded_once() -> None:
    assert pass_all(TASK, due(1, 2, 3), "suppressed", "changed") == [passed("suppressed", "changed", 1, 3, 3)]
    assert pass_all(TASK, [], "suppressed", "changed") == []


def test_those_that_wait_go_with_it_one_by_one() -> None:
    schedule = fold([rule(), *(TickQueued(task=TASK, due_us=n * MINUTE, behind="r0") for n in (1, 5))])
    records = drop_queued(schedule, "removed")
    assert records == [passed("suppressed", "removed", 1), passed("suppressed", "removed", 5)]
    for record in records:
        schedule = evolve(schedule, record)
    assert schedule.queued == ()


def test_what_is_settled_never_comes_again_whatever_becomes_of_the_rule() -> None:
    schedule = fold([rule(from_us=0), fired(10), ScheduleRemoved(task=TASK, settled_us=0)])
    assert (schedule.is_set, schedule.settled_us) == (False, 10 * MINUTE)
    assert evolve(schedule, rule(from_us=5 * MINUTE)).settled_us == 10 * MINUTE
    assert evolve(schedule, rule(from_us=20 * MINUTE)).settled_us == 20 * MINUTE


def test_a_schedule_that_is_set_again_is_not_paused_and_one_that_is_changed_stays_so() -> None:
    paused = fold([rule(), SchedulePaused(task=TASK)])
    assert evolve(paused, rule()).paused
    assert not evolve(evolve(paused, ScheduleRemoved(task=TASK)), rule()).paused
    assert not evolve(paused, ScheduleResumed(task=TASK)).paused


# ── always ───────────────────────────────────────────────────────────────────────────────────────────────────


@for_all(
    minutes=st.lists(st.integers(0, 300), unique=True, max_size=40).map(sorted),
    now=st.integers(300, 500),
    misfire=st.sampled_from(["skip", "latest", "all"]),
    within_s=st.sampled_from([0.0, 600.0, 3_600.0, 86_400.0]),
    most=st.integers(1, 5),
    left_out=st.sets(st.integers(0, 300), max_size=5),
)
def test_every_instant_has_one_record_and_the_newest_fires_unless_it_is_too_late(
    minutes: list[int], now: int, misfire: str, within_s: float, most: int, left_out: set[int]
) -> None:
    given = [Due(m * MINUTE, fires=m not in left_out) for m in minutes]
    schedule = fold([rule(misfire=misfire, misfire_within_s=within_s, misfire_max=most, from_us=-1)])
    records = all_settled(schedule, given, now=now)
    covered = sum(record.n if isinstance(record, TicksPassed) else 1 for record in records)
    assert covered == len(minutes)
    last = -1
    for record in records:
        first_us, last_us = (
            (record.first_us, record.last_us) if isinstance(record, TicksPassed) else (record.due_us, record.due_us)  # type: ignore[attr-defined]
        )
        assert last < first_us <= last_us
        if isinstance(record, TicksPassed):
            assert record.n == sum(first_us <= each.at_us <= last_us for each in given)
        last = last_us
    may_fire = [m for m in minutes if m not in left_out]
    fires = [record.due_us // MINUTE for record in records if isinstance(record, TickFired)]
    assert len(fires) <= {"skip": 1, "latest": 1, "all": most}[misfire]
    if may_fire and now == may_fire[-1]:
        assert fires[-1] == may_fire[-1]
