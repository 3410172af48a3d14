"""Schedules that get their rules from nodes of a calendar: a server on the loopback, polls in virtual time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web

from cascadenced.clock import FakeClock
from cascadenced.errors import Invalid
from cascadenced.events.audit import audit_rows
from cascadenced.events.base import Context, Event
from cascadenced.events.schedule import CalendarRead, CalendarUnread, ScheduleSet, TickFired, TicksPassed
from cascadenced.handlers.calendar_nodes import MAX_ANSWER_BYTES, CalendarNodes, CalendarUnavailable
from cascadenced.handlers.schedule_requests import Node
from cascadenced.instance import Instance
from cascadenced.plugins.base import BaseTask
from cascadenced.verbs import VERBS, perform
from tests.doubles import ALICE, PSEUDONYMS, World, idle, until

START_US = 1_795_683_630_000_000
"""2026-11-26T09:00:30Z, a Thursday."""
NODE = {"calendar_event": {"node": "/plans/7", "poll": 600}}
UME_ALICE = f"user_id={PSEUDONYMS.user('alice')}&group_id={PSEUDONYMS.group('eng')}"


class Report(BaseTask):
    name = "report"

    def run(self) -> None: ...


class Hurried(FakeClock):
    """Nobody waits for less than a second: what is tried again is tried at once."""

    async def sleep(self, seconds: float) -> None:
        await super().sleep(seconds if seconds >= 1 else 0)


class Calendar:
    """A server. says: what it answers, as (status, body, headers)."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.says: tuple[int, bytes, dict[str, str]] = (404, b"{}", {})
        self.answers: Callable[[], None] = lambda: None
        self.base_url = ""

    def has(self, recurrence: Any, **more: Any) -> None:
        self.says = (200, json.dumps({"recurrence": recurrence, **more}).encode(), {})

    async def handle(self, request: web.Request) -> web.Response:
        self.asked.append(request.raw_path)
        self.headers.append(dict(request.headers))
        status, body, headers = self.says
        self.answers()
        return web.Response(status=status, body=body, headers=headers)


@pytest_asyncio.fixture
async def calendar() -> AsyncIterator[Calendar]:
    calendar = Calendar()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", calendar.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
    calendar.base_url = f"http://127.0.0.1:{port}"
    try:
        yield calendar
    finally:
        await runner.cleanup()


class Polled(World):
    """A world whose schedules tick and whose calendar is polled."""

    def __init__(self, calendar: Calendar | None, **config: Any) -> None:
        base = {} if calendar is None else {"ume_base_url": calendar.base_url}
        super().__init__(Report, clock=Hurried(START_US), **(base | config))
        self.read = asyncio.Event()

    async def start(self, *tasks: object, recover: bool = True) -> Instance:
        instance = await super().start(*tasks, recover=recover)
        told = instance.calendar_polls._told

        async def and_then(node: Node) -> str | None:
            try:
                return await told(node)
            finally:
                self.read.set()

        instance.calendar_polls._told = and_then  # type: ignore[method-assign]
        return instance

    @asynccontextmanager
    async def polling(self) -> AsyncIterator[Instance]:
        async with self.up() as instance:
            loops = [asyncio.create_task(instance.ticks.run()), asyncio.create_task(instance.calendar_polls.run())]
            try:
                await idle(300)
                yield instance
            finally:
                for loop in loops:
                    loop.cancel()
                await asyncio.wait(loops)

    async def polled(self) -> None:
        """Return when a node was read."""
        await self.read.wait()
        await idle(300)

    async def pass_time(self, seconds: float) -> None:
        assert isinstance(self.clock, FakeClock)
        await self.clock.advance(seconds)
        await idle(300)

    async def poll(self) -> None:
        self.read.clear()
        await self.pass_time(600)
        await self.polled()

    def told(self) -> list[Event]:
        return [event for event in self.events() if isinstance(event, ScheduleSet | CalendarRead | CalendarUnread)]


async def schedule(instance: Instance, **more: Any) -> Any:
    return await perform(VERBS["schedule"], instance, {"task": "report", **NODE, **more})


# ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────


async def test_what_the_node_has_becomes_the_trigger_at_once(calendar: Calendar) -> None:
    """TC 80"""
    calendar.has({"cron": "5 9 * * *", "title": "standup"})
    world = Polled(calendar)
    async with world.polling() as instance:
        scheduled = await schedule(instance)
        assert (scheduled.next_fire_at, scheduled.unread) == ("2026-11-26T09:05:00+00:00", None)
        [row] = (await instance.answers.schedules()).items
        assert row.calendar_event == {"node": "/plans/7", "poll": 600.0}
        assert row.recurrence == {"cron": "5 9 * * *", "title": "standup"}
        await world.pass_time(300)
        assert len(world.events(TickFired)) == 1
    assert [type(event) for event in world.told()] == [ScheduleSet, CalendarRead, ScheduleSet]
    assert world.events(ScheduleSet)[-1].via == "calendar"
    assert len(calendar.asked) == 1


async def test_it_is_asked_for_by_pseudonym_only(calendar: Calendar) -> None:
    """TC 83"""
    calendar.has({"cron": "5 9 * * *"})
    world = Polled(calendar)
    async with world.polling() as instance:
        await schedule(instance, user_id="alice", group_id="eng")
        [row] = (await instance.answers.schedules()).items
        assert (row.user_hash, row.group_hash) == (PSEUDONYMS.user("alice"), PSEUDONYMS.group("eng"))
    assert calendar.asked == [f"/v1/calendar/nodes/plans/7?{UME_ALICE}"]
    assert "alice" not in world.text()


async def test_a_schedule_that_names_nobody_asks_for_nobody(calendar: Calendar) -> None:
    calendar.has({"cron": "5 9 * * *"})
    async with Polled(calendar).polling() as instance:
        await schedule(instance)
    assert calendar.asked == ["/v1/calendar/nodes/plans/7"]


async def test_credentials_of_the_address_are_sent_and_never_shown(
    calendar: Calendar, capsys: pytest.CaptureFixture[str]
) -> None:
    calendar.base_url = calendar.base_url.replace("http://", "http://ann:pa55@")
    calendar.says = (401, b"pa55", {})
    world = Polled(calendar)
    async with world.polling() as instance:
        assert (await schedule(instance)).unread == "HTTP 401"
    assert calendar.headers[0]["Authorization"] == "Basic YW5uOnBhNTU="
    printed = capsys.readouterr()
    assert "pa55" not in world.text() + repr(world.config) + printed.out + printed.err


async def test_without_a_calendar_it_is_refused() -> None:
    world = Polled(None)
    async with world.polling() as instance:
        with pytest.raises(Invalid, match="^UME_BASE_URL not configured$"):
            await schedule(instance)
        with pytest.raises(Invalid, match="^line 1: report: UME_BASE_URL not configured$"):
            await instance.schedule_file.load(b"report: {calendar_event: plans/7}")
        assert world.events(ScheduleSet) == []


async def test_one_that_was_set_when_there_was_a_calendar_stays_as_it_was(calendar: Calendar) -> None:
    calendar.has({"cron": "5 9 * * *"})
    world = Polled(calendar)
    async with world.polling() as instance:
        await schedule(instance)
    world.config = Polled(None).config
    async with world.polling() as instance:
        await idle(300)
        [row] = (await instance.answers.schedules()).items
        assert (row.expr, row.unread) == ("5 9 * * *", "UME_BASE_URL not configured")


async def test_without_a_daemon_the_command_reads_it(calendar: Calendar) -> None:
    calendar.has({"cron": "5 9 * * *"})
    async with Polled(calendar).up() as instance:
        assert (await schedule(instance)).next_fire_at == "2026-11-26T09:05:00+00:00"


# ── what cannot be read ──────────────────────────────────────────────────────────────────────────────────────


async def test_a_node_without_a_recurrence_is_recorded_as_an_error(calendar: Calendar) -> None:
    """TC 82"""
    calendar.says = (200, b'{"title": "no recurrence"}', {})
    world = Polled(calendar)
    async with world.polling() as instance:
        assert (await schedule(instance)).unread == "event missing recurrence cron"
        trail = await instance.answers.trail("report")
    [unread] = world.events(CalendarUnread)
    assert (unread.node, unread.code) == ("/plans/7", "no_recurrence")
    [row] = audit_rows(unread)
    assert (row.stage, row.status, row.reason) == ("schedule", "error", "event missing recurrence cron")
    assert "event missing recurrence cron" in str(trail)


DEEP = b'{"recurrence": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
LONG = b'{"recurrence": {"cron": "5 9 * * *", "note": "' + b"x" * 70_000 + b'"}}'


@pytest.mark.parametrize(
    ("says", "reason", "n_asked"),
    [
        ((404, b"", {}), "HTTP 404", 1),
        ((500, b"", {}), "HTTP 500", 3),
        ((429, b"", {}), "HTTP 429", 3),
        ((302, b"", {"Location": "/elsewhere"}), "HTTP 302: it redirects, which is not followed", 1),
        ((200, b" " * (MAX_ANSWER_BYTES + 1), {}), "more than 1048576 bytes", 1),
        ((200, b"<html>", {}), "its answer is not JSON", 1),
        ((200, b"\x1f\x8b\x00", {"Content-Encoding": "gzip"}), "its answer is not JSON", 1),
        ((200, LONG, {}), "a recurrence of more than 65536 bytes", 1),
        ((200, DEEP, {}), "its answer is not JSON", 1),
        ((200, b'{"recurrence": ' + b"[" * 999 + b"]" * 999 + b"}", {}), "its answer is not JSON", 1),
        ((200, b'{"recurrence": {"cron": "5 9 * * *", "cron": "6 9 * * *"}}', {}), "its answer is not JSON", 1),
        ((200, b'["recurrence"]', {}), "its answer is no JSON object", 1),
        ((200, b'{"recurrence": {"cron": "61 * * * *"}}', {}), "its recurrence is no rule that can be kept (", 1),
        ((200, b'{"recurrence": {"cron": "0 0 31 2 *"}}', {}), "its recurrence is ", 1),
    ],
)
async def test_a_node_that_cannot_be_read_leaves_the_schedule_as_it_was(
    calendar: Calendar, says: Any, reason: str, n_asked: int
) -> None:
    world = Polled(calendar)
    calendar.has({"cron": "5 12 * * *"})
    async with world.polling() as instance:
        await schedule(instance)
        calendar.says = says
        calendar.asked.clear()
        await world.poll()
        await world.poll()
        assert len(calendar.asked) == 2 * n_asked
        [row] = (await instance.answers.schedules()).items
        assert (row.expr, row.recurrence) == ("5 12 * * *", {"cron": "5 12 * * *"})
        assert row.unread.startswith(reason)
        calendar.has({"cron": "5 12 * * *"})
        await world.poll()
        [row] = (await instance.answers.schedules()).items
        assert row.unread is None
    assert [type(event) for event in world.told()[3:]] == [CalendarUnread, CalendarRead]


async def test_a_calendar_that_is_down_and_a_slow_one_are_told_apart() -> None:
    held = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    port = held.sockets[0].getsockname()[1]
    nodes = CalendarNodes(Hurried(), f"http://127.0.0.1:{port}", timeout_s=0.05)
    with pytest.raises(CalendarUnavailable, match=r"^no answer within 0.05 s$"):
        await nodes.recurrence("n", user_hash=None, group_hash=None)
    held.close()
    with pytest.raises(CalendarUnavailable, match=r"^it cannot be reached$"):
        await CalendarNodes(Hurried(), "http://127.0.0.1:1").recurrence("n", user_hash=None, group_hash=None)


async def test_a_failure_that_passes_is_none(calendar: Calendar) -> None:
    world = Polled(calendar)
    calendar.says = (503, b"", {})
    calendar.answers = lambda: calendar.has({"cron": "5 9 * * *"}) if len(calendar.asked) == 2 else None
    async with world.polling() as instance:
        assert (await schedule(instance)).unread is None
    assert len(calendar.asked) == 3
    assert world.events(CalendarUnread) == []


async def test_each_new_reason_is_recorded_once_and_what_was_recorded_is_known_after_a_restart(
    calendar: Calendar,
) -> None:
    world = Polled(calendar)
    calendar.says = (404, b"", {})
    async with world.polling() as instance:
        await schedule(instance)
        calendar.says = (403, b"", {})
        await world.poll()
    async with world.polling():
        await world.poll()
    assert [event.reason for event in world.events(CalendarUnread)] == ["HTTP 404", "HTTP 403"]
    assert len(calendar.asked) >= 4


# ── polling ──────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_changed_recurrence_changes_the_schedule_after_a_poll(calendar: Calendar) -> None:
    """TC 81"""
    world = Polled(calendar)
    calendar.has({"cron": "0 12 * * *"})
    async with world.polling() as instance:
        await schedule(instance, user_id="alice", group_id="eng")
        assert instance.calendar_polls.ticker.next_us("report") == START_US + 600_000_000
        calendar.has({"cron": "5 9 * * *", "timezone": "Europe/Berlin"})
        await world.poll()
        [row] = (await instance.answers.schedules(now_us=world.clock.now_us())).items
        assert (row.expr, row.timezone) == ("5 9 * * *", "Europe/Berlin")
        assert row.next_fire_at == "2026-11-27T09:05:00+01:00"
        assert row.recurrence == {"cron": "5 9 * * *", "timezone": "Europe/Berlin"}
    [told] = [recorded for recorded in world.recorded(ScheduleSet) if recorded.event.expr == "5 9 * * *"]
    assert told.user_hash == PSEUDONYMS.user("alice")


async def test_an_unchanged_one_records_nothing(calendar: Calendar) -> None:
    world = Polled(calendar)
    calendar.has({"cron": "0 12 * * *"})
    async with world.polling() as instance:
        await schedule(instance)
        n_events = len(world.file.events)
        for _ in range(3):
            await world.poll()
        assert len(world.file.events) == n_events
    assert len(calendar.asked) == 4


async def test_a_changed_one_never_fires_the_past(calendar: Calendar) -> None:
    world = Polled(calendar)
    calendar.has({"cron": "0 12 * * *"})
    async with world.polling() as instance:
        await schedule(instance)
        calendar.has({"cron": "1-9 9 * * *"})  # all of them past by then
        await world.poll()
        assert world.events(TickFired) == []


async def test_what_is_due_is_not_lost_when_the_node_says_more_of_the_same(calendar: Calendar) -> None:
    world = Polled(calendar)
    calendar.has({"cron": "5 9 * * *"})
    async with world.up() as instance:  # nothing ticks here
        await schedule(instance)
        await world.pass_time(300)
        calendar.has({"cron": "5 9 * * *", "note": "new"})
        await instance.calendar_polls.read_now("report")
    assert world.events(ScheduleSet)[-1].recurrence == {"cron": "5 9 * * *", "note": "new"}
    async with world.polling():
        assert len(world.events(TickFired)) == 1
    assert world.events(TicksPassed) == []


@pytest.mark.parametrize("end", ["remove", "pause", "plain"])
async def test_the_poll_ends_with_what_it_was_for(calendar: Calendar, end: str) -> None:
    """TC 84"""
    world = Polled(calendar)
    calendar.has({"cron": "0 12 * * *"})
    async with world.polling() as instance:
        await schedule(instance)
        if end == "plain":
            await instance.schedules.set("report", "0 13 * * *", via="cli")
        else:
            await getattr(instance.schedules, end)("report", by=Context())
        await idle(300)
        assert instance.calendar_polls.ticker.next_us("report") is None
        await world.pass_time(3_600)
        assert len(calendar.asked) == 1
        if end == "pause":
            world.read.clear()
            await instance.schedules.resume("report", by=Context())
            await world.polled()
            assert len(calendar.asked) == 2


async def test_an_answer_that_comes_after_the_schedule_was_changed_counts_for_nothing(calendar: Calendar) -> None:
    world = Polled(calendar)
    calendar.has({"cron": "0 12 * * *"})
    async with world.polling() as instance:
        await schedule(instance)
        await instance.schedules.set("report", "0 13 * * *", via="cli")
        late = Node("report", "/plans/7", None, None)
        assert not (await instance.schedules.node_says(late, {"cron": "0 14 * * *"})).changed
        assert not (await instance.schedules.node_unread(late, code="status", reason="HTTP 404")).changed
        assert [row.expr for row in (await instance.answers.schedules()).items] == ["0 13 * * *"]


async def test_polls_survive_a_restart(calendar: Calendar) -> None:
    world = Polled(calendar)
    calendar.has({"cron": "0 12 * * *"})
    async with world.polling() as instance:
        await schedule(instance)
    calendar.has({"cron": "0 13 * * *"})
    async with world.up() as instance:
        world.read.clear()
        polls = asyncio.create_task(instance.calendar_polls.run())
        await world.polled()
        assert [row.expr for row in (await instance.answers.schedules()).items] == ["0 13 * * *"]
        await world.poll()
        assert len(calendar.asked) == 3
        polls.cancel()
        await asyncio.wait({polls})


async def test_a_schedule_set_again_with_another_zone_keeps_what_its_node_says(calendar: Calendar) -> None:
    world = Polled(calendar)
    calendar.has({"cron": "0 12 * * *"})
    async with world.polling() as instance:
        await instance.schedules.set("report", NODE, via="cli", who=ALICE)
        await world.polled()
        await instance.schedules.set("report", {**NODE, "timezone": "Europe/Berlin"}, via="cli", who=ALICE)
        [row] = (await instance.answers.schedules(now_us=world.clock.now_us())).items
        assert (row.expr, row.timezone) == ("0 12 * * *", "Europe/Berlin")


async def test_a_slow_calendar_keeps_no_schedule_from_firing(calendar: Calendar) -> None:
    held = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    calendar.base_url = f"http://127.0.0.1:{held.sockets[0].getsockname()[1]}"
    world = Polled(calendar)
    async with world.polling() as instance:
        await instance.schedules.set("report", NODE, via="cli")
        await until(lambda: instance.calendar_polls._reads)
        await instance.schedules.set("report", {**NODE, "calendar_event": "other"}, via="cli")
        await until(lambda: len(instance.calendar_polls._reads) == 2)
        await instance.schedules.set("report", "* * * * *", via="cli")
        await world.pass_time(60)
        assert len(world.events(TickFired)) == 1
    held.close()


async def test_a_simulated_change_keeps_what_the_node_said(calendar: Calendar) -> None:
    calendar.has({"cron": "5 9 * * *"})
    async with Polled(calendar).polling() as instance:
        await schedule(instance)
        asked = {"start": "2026-11-26T00:00:00Z", "end": "2026-11-27T00:00:00Z"}
        same = await perform(VERBS["simulate"], instance, {**asked, "change": "report: {calendar_event: /plans/7}"})
        assert (same.changed.schedules[0].n_fired, same.differences) == (1, [])
        other = await perform(VERBS["simulate"], instance, {**asked, "change": "report: {calendar_event: /plans/8}"})
        assert [(each.n_only_before, each.n_only_after) for each in other.differences] == [(1, 0)]
