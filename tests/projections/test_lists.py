"""Lists: pages that join without gap or duplicate, filters, limits, and what a frozen projection says."""

from __future__ import annotations

from pathlib import Path

import pytest

from cascadenced.calendar_files import CalendarFiles
from cascadenced.clock import FakeClock
from cascadenced.errors import Invalid, Unknown
from cascadenced.eventlog.base import Change
from cascadenced.events.catalogue import TYPES
from cascadenced.events.dead_letter import MessageDeadLettered, MessageRedriven
from cascadenced.events.followup import FollowupRequested, FollowupSkipped
from cascadenced.events.pointer import PointerAdded
from cascadenced.events.run import RunDoubted, RunFinished, RunPaused, RunRefused, RunRequested, RunStarted
from cascadenced.events.schedule import ScheduleRemoved, ScheduleSet
from cascadenced.events.stage import StageStarted
from cascadenced.events.task import TaskDisabled, TaskPaused, TaskResumed
from cascadenced.projections import all_projections, dead_letters
from cascadenced.projections.answers import Answers
from tests.examples import GROUP_HASH, OTHER_RUN_ID, RUN_ID, USER_HASH, example, run_of


def run_id(n):
    return f"{n:032x}"


def dead(n):
    return example(MessageDeadLettered, subject=f"s{n}")


LISTS = {
    "runs": (lambda n: (example(RunRequested), run_id(n)), lambda row: row.run_id, True),
    "pointers": (lambda n: (example(PointerAdded, run_id=f"p{n}"), None), lambda row: row.run_id, False),
    "schedules": (lambda n: (example(ScheduleSet, task=f"t{n:03}"), None), lambda row: row.task, False),
    "followups": (lambda n: (example(FollowupSkipped, failed_run_id=f"r{n}"), None), lambda row: row.run_id, True),
    "dead_letters": (lambda n: (dead(n), None), lambda row: row.subject, True),
}


@pytest.fixture(params=LISTS)
def listing(request, answers, happened):
    """(fill with rows m … n-1, ask for a page, what names a row, whether the newest comes first)"""
    make, key, newest_first = LISTS[request.param]

    async def fill(start, end):
        for n in range(start, end):
            event, run = make(n)
            await happened(event, run_id=run)

    return fill, getattr(answers, request.param), key, newest_first


async def all_pages(ask, key, limit, between=None):
    keys, after = [], None
    while True:
        page = await ask(limit=limit, after=after)
        keys += [key(row) for row in page.items]
        assert len(page.items) <= limit
        if page.next is None:
            return keys
        after = page.next
        if between is not None:
            await between()


@pytest.mark.parametrize("limit", [1, 3, 10, 11])
async def test_pages_join_without_gap_or_duplicate(listing, limit):
    fill, ask, key, _ = listing
    await fill(0, 10)
    whole = [key(row) for row in (await ask()).items]
    assert len(set(whole)) == 10
    assert await all_pages(ask, key, limit) == whole


async def test_the_last_page_names_no_next_one_even_when_it_is_full(listing):
    fill, ask, _, _ = listing
    await fill(0, 5)
    assert (await ask(limit=5)).next is None


async def test_rows_added_between_pages_cause_neither_gap_nor_duplicate(listing):
    fill, ask, key, newest_first = listing
    await fill(0, 10)
    before = [key(row) for row in (await ask()).items]
    added = iter(range(10, 100))

    async def between():
        n = next(added)
        await fill(n, n + 1)

    keys = await all_pages(ask, key, 2, between if newest_first else None)
    assert keys == before


async def test_rows_come_newest_first_where_the_list_says_so(listing):
    fill, ask, key, newest_first = listing
    await fill(0, 3)
    rows = [key(row) for row in (await ask()).items]
    assert (rows == sorted(rows, reverse=True)) is newest_first


async def test_an_empty_list_is_an_empty_page(listing):
    _, ask, _, _ = listing
    page = await ask()
    assert (page.items, page.next, page.stale_since) == ([], None, None)


@pytest.mark.parametrize("limit", [0, -1, 1001])
async def test_a_limit_out_of_bounds_is_refused(listing, limit):
    _, ask, _, _ = listing
    with pytest.raises(Invalid, match="limit must be 1–1000"):
        await ask(limit=limit)


async def test_the_largest_limit_is_served(listing):
    fill, ask, _, _ = listing
    await fill(0, 2)
    assert len((await ask(limit=1000)).items) == 2


@pytest.mark.parametrize("name", ["pointers", "followups", "dead_letters", "trail"])
@pytest.mark.parametrize("cursor", ["x", "-1", "1.5", "", "٣", "9" * 30, "1 OR 1"])
async def test_a_cursor_that_is_none_is_refused(answers, name, cursor):
    ask = answers.trail if name == "trail" else getattr(answers, name)
    with pytest.raises(Invalid, match="cursor"):
        await (ask("example", after=cursor) if name == "trail" else ask(after=cursor))


async def test_rows_added_while_pointers_are_paged_through_appear_at_the_end(answers, happened):
    for n in range(4):
        await happened(example(PointerAdded, run_id=f"p{n}"))
    first = await answers.pointers(limit=3)
    await happened(example(PointerAdded, run_id="p4"))
    rest = await answers.pointers(limit=3, after=first.next)
    assert [row.run_id for row in first.items + rest.items] == [f"p{n}" for n in range(5)]


# ── runs ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_runs_are_filtered_by_task_and_status(answers, happened):
    await happened(example(RunRequested, task="a"), run_id=run_id(1))
    await happened(example(RunRequested, task="b"), run_id=run_id(2))
    await happened(example(RunRequested, task="b"), example(RunRefused, task="b"), run_id=run_id(3))
    assert [row.run_id for row in (await answers.runs(task="b")).items] == [run_id(3), run_id(2)]
    assert [row.run_id for row in (await answers.runs(status="refused")).items] == [run_id(3)]
    assert [row.run_id for row in (await answers.runs(task="b", status="queued")).items] == [run_id(2)]


async def test_a_pause_hides_no_run_that_is_in_doubt(answers, happened):
    doubted = (*run_of("run")[:3], example(RunDoubted))
    await happened(*doubted, run_id=run_id(1))
    await happened(*doubted, example(RunPaused), run_id=run_id(2))
    await happened(*run_of("run")[:3], example(RunPaused), run_id=run_id(3))
    rows = (await answers.runs(status="in_doubt")).items
    assert [(row.run_id, row.status) for row in rows] == [(run_id(2), "paused"), (run_id(1), "in_doubt")]
    assert [row.run_id for row in (await answers.runs(status="paused")).items] == [run_id(3), run_id(2)]
    assert (await answers.runs(status="running")).items == []


async def test_a_filtered_list_has_pages_too(answers, happened):
    for n in range(9):
        await happened(example(RunRequested, task="ab"[n % 2]), run_id=run_id(n))
    keys = await all_pages(lambda **query: answers.runs(task="a", **query), lambda row: row.run_id, 2)
    assert keys == [run_id(n) for n in (8, 6, 4, 2, 0)]


async def test_a_status_that_does_not_exist_is_refused(answers):
    with pytest.raises(Invalid, match="status must be one of"):
        await answers.runs(status="done")


async def test_a_run_in_a_list_says_who_and_when(answers, happened, clock):
    await happened(example(RunRequested, parent_run_id="p"), run_id=RUN_ID)
    await clock.advance(1)
    await happened(example(RunStarted), example(StageStarted, attempt=1), run_id=RUN_ID)
    await clock.advance(1)
    await happened(example(RunFinished), run_id=RUN_ID)
    row = (await answers.runs()).items[0]
    assert (row.run_id, row.task, row.status, row.stage, row.attempt) == (RUN_ID, "example", "success", "run", 1)
    assert (row.parent_run_id, row.user_hash, row.group_hash) == ("p", USER_HASH, GROUP_HASH)
    assert [at[-10:] for at in (row.requested_at, row.started_at, row.finished_at)] == [
        "20.000000Z",
        "21.000000Z",
        "22.000000Z",
    ]


# ── pointers, schedules, follow-ups, dead letters ────────────────────────────────────────────────────────────────


async def test_pointers_are_filtered_by_task_user_and_group(answers, happened):
    for task, user, group in (("a", "u1", "g1"), ("a", "u2", "g1"), ("b", "u1", None)):
        await happened(example(PointerAdded, task=task, user_hash=user, group_hash=group))
    assert len((await answers.pointers(task="a")).items) == 2
    assert len((await answers.pointers(user_hash="u1")).items) == 2
    assert len((await answers.pointers(group_hash="g1", user_hash="u2")).items) == 1
    assert (await answers.pointers(task="b")).items[0].group_hash is None


async def test_the_same_pointer_twice_is_one_row(answers, happened):
    for _ in range(2):
        await happened(example(PointerAdded, group_hash=None))
    assert len((await answers.pointers()).items) == 1


async def test_a_schedule_set_again_replaces_the_first(answers, happened):
    await happened(example(ScheduleSet, expr="0 1 * * *"))
    await happened(
        example(ScheduleSet, expr=None, calendar_event={"node": "n", "poll": 5}, recurrence=["RRULE:FREQ=DAILY"])
    )
    row = (await answers.schedules()).items[0]
    assert (row.expr, row.calendar_event, row.recurrence) == (None, {"node": "n", "poll": 5}, ["RRULE:FREQ=DAILY"])


async def test_a_removed_schedule_is_gone(answers, happened):
    await happened(example(ScheduleSet), example(ScheduleRemoved))
    assert (await answers.schedules()).items == []


async def test_a_follow_up_has_the_status_of_its_run(answers, happened):
    await happened(example(FollowupRequested, followup_run_id=OTHER_RUN_ID, depth=2))
    assert (await answers.followups()).items[0].status == "queued"
    await happened(example(RunRequested), example(RunStarted), run_id=OTHER_RUN_ID)
    row = (await answers.followups()).items[0]
    assert (row.task, row.run_id, row.followup_run_id, row.depth, row.status) == (
        "example",
        RUN_ID,
        OTHER_RUN_ID,
        2,
        "running",
    )


async def test_a_follow_up_that_was_not_made_says_why(answers, happened):
    await happened(example(FollowupSkipped, code="depth_limit"))
    row = (await answers.followups()).items[0]
    assert (row.status, row.followup_run_id, row.depth) == ("skipped: depth_limit", None, None)


async def test_a_dead_letter_is_found_by_its_position(answers, happened):
    (letter,) = await happened(dead(1))
    row = await answers.dead_letter(letter.position)
    assert (row.subject, row.reason, row.n_bytes, row.redriven) == ("s1", "undecodable", 3, False)


async def test_a_dead_letter_that_was_read_again_says_so(answers, happened):
    (letter,) = await happened(dead(1))
    await happened(example(MessageRedriven, position=letter.position))
    assert (await answers.dead_letter(letter.position)).redriven


async def test_there_is_no_dead_letter_where_another_event_is(answers, happened):
    await happened(example(PointerAdded))
    with pytest.raises(Unknown, match="no dead letter at position 1"):
        await answers.dead_letter(1)


async def test_letters_from_a_newer_version_are_parked_until_they_are_read(log, happened):
    future = example(MessageDeadLettered, reason="future_schema")
    one, _, three = await happened(future, dead(1), future)
    assert await dead_letters.parked(log.tables) == [one.position, three.position]
    await happened(example(MessageRedriven, position=one.position))
    assert await dead_letters.parked(log.tables) == [three.position]


# ── the audit trail ──────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_trail_is_of_one_task_and_oldest_first(answers, happened):
    await happened(example(TaskDisabled), example(TaskPaused, task="other"), example(TaskResumed))
    rows = (await answers.trail("example")).items
    assert [(row.stage, row.status) for row in rows] == [("scheduler", "disabled"), ("scheduler", "resumed")]


async def test_an_unknown_task_has_an_empty_trail(answers):
    assert (await answers.trail("nobody")).items == []


async def test_a_trail_is_filtered_by_category(answers, happened):
    from tests.examples import run_of

    await happened(*run_of("intake", "run"), run_id=RUN_ID)
    stage, audit, whole = [(await answers.trail("example", c)).items for c in ("stage", "audit", "all")]
    assert {row.status for row in stage} == {None}
    assert None not in {row.status for row in audit}
    assert len(whole) == len(stage) + len(audit)


async def test_a_trail_is_filtered_by_user_and_group(answers, happened):
    await happened(example(TaskDisabled), user_hash="u1", group_hash="g1")
    await happened(example(TaskPaused), user_hash="u2", group_hash="g1")
    await happened(example(TaskResumed), user_hash=None, group_hash=None)

    async def statuses(**query):
        return [row.status for row in (await answers.trail("example", **query)).items]

    assert await statuses(user_hash="u1") == ["disabled"]
    assert await statuses(group_hash="g1") == ["disabled", "paused"]
    assert await statuses(user_hash="u1", group_hash="g2") == []


async def test_the_pages_of_a_trail_join_while_it_grows(answers, happened):
    for _ in range(5):
        await happened(example(TaskDisabled))
    first = await answers.trail("example", limit=3)
    await happened(example(TaskPaused))
    second = await answers.trail("example", limit=3, after=first.next)
    assert [row.status for row in first.items + second.items] == [*["disabled"] * 5, "paused"]
    assert second.next is None


@pytest.mark.parametrize("category", ["all", "stage", "audit"])
@pytest.mark.parametrize("limit", [1, 2, 3, 7, 100])
async def test_the_limit_of_a_trail_counts_rows_and_no_page_but_the_last_is_short(answers, happened, category, limit):
    from tests.examples import run_of

    for _ in range(2):
        await happened(*run_of("intake", "run"), run_id=RUN_ID)
        await happened(example(TaskDisabled))
    whole = (await answers.trail("example", category, limit=1000)).items
    pages, after = [], None
    while True:
        page = await answers.trail("example", category, limit=limit, after=after)
        pages.append(page.items)
        if (after := page.next) is None:
            break
    assert [row for rows in pages for row in rows] == whole
    assert {len(rows) for rows in pages[:-1]} <= {limit}
    assert 1 <= len(pages[-1]) <= limit


@pytest.mark.parametrize("after", ["x", "-1", "1:", "1:x", ":1", "1:1:1", "1" * 19])
async def test_a_cursor_of_a_trail_that_is_none_is_refused(answers, after):
    with pytest.raises(Invalid, match="after must be a cursor"):
        await answers.trail("example", after=after)


# ── frozen ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def frozen(store, name):
    """Answers over a log whose projection `name` stopped at its first event."""

    def apply(connection, batch):
        raise ValueError("broken")

    projections = all_projections()
    for projection in projections:
        if projection.name == name:
            projection.apply, projection.types = apply, frozenset(TYPES)
    log = await store.open(projections=projections)
    await log.append([Change("aside", [example(TaskDisabled)])])

    async def states():
        return log.projection_states()

    return Answers(log.tables, log.read_stream, states, CalendarFiles(FakeClock(), Path())), log


@pytest.mark.parametrize("name", ["runs", "audit_trail", "pointers", "schedules", "followups", "dead_letters"])
async def test_a_list_from_a_frozen_projection_says_since_when(store, name):
    answers, _ = await frozen(store, name)
    asked = {
        other: await (answers.trail("example") if other == "audit_trail" else getattr(answers, other)())
        for other in ("runs", "audit_trail", "pointers", "schedules", "followups", "dead_letters")
    }
    stale = {other: page.stale_since for other, page in asked.items() if page.stale_since}
    assert stale == {name: "2026-09-21T14:13:20.000000Z"}


async def test_a_list_is_fresh_again_after_a_rebuild(store):
    answers, log = await frozen(store, "pointers")
    for projection in log._projections:
        vars(projection).pop("apply", None)
    await log.rebuild(["pointers"])
    assert (await answers.pointers()).stale_since is None


async def test_a_run_is_answered_from_its_own_stream_while_the_table_of_runs_is_frozen(store):
    answers, log = await frozen(store, "runs")
    await log.append([Change(f"run-{RUN_ID}", [example(RunRequested)])])
    assert (await answers.run(RUN_ID)).status == "queued"
