"""Schedules that fire nothing during the events of a calendar file, in virtual time."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from cascadenced.calendar_files import MAX_BYTES
from cascadenced.config import Config
from cascadenced.errors import Invalid, Unavailable
from cascadenced.events.schedule import CalendarRead, CalendarUnread
from cascadenced.instance import Instance
from cascadenced.verbs import VERBS, perform
from tests.doubles import until
from tests.handlers.test_ticks import Night, Report, explained
from tests.recurrence.test_ics import calendar

TEA = "DTSTART:20261126T090200Z\nDTEND:20261126T090400Z\nSUMMARY:alice has tea"


class Home(Night):
    """A night with a folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__(Report)
        self.config, self.path = Config(data_dir=str(folder)), folder / "days.ics"
        self.n_written = 0

    def write(self, data: bytes) -> None:
        self.path.write_bytes(data)
        self.n_written += 1
        os.utime(self.path, ns=(self.n_written, self.n_written))  # two within a tick of the file system's clock

    async def settled(self, instance: Instance, n: int) -> None:
        """A file is read in a thread, which takes what it takes."""
        while len(self.ledger()) < n:
            await instance.clock.sleep(0)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path)
    home.write(calendar(TEA))
    return home


async def schedule(instance: Instance, **more: Any) -> Any:
    asked = {"task": "report", "expr": "* * * * *", "exclude_ics": "days.ics", **more}
    return await perform(VERBS["schedule"], instance, asked)


async def minutes(home: Home, instance: Instance, n: int) -> None:
    for _ in range(n):
        n_told = len(home.ledger())
        await home.pass_time(instance, 1)
        await home.settled(instance, n_told + 1)


async def test_nothing_fires_during_its_events_and_it_is_said_why(home: Home) -> None:
    async with home.ticking() as instance:
        await schedule(instance)
        await minutes(home, instance, 4)
        assert (await explained(instance, "report@2026-11-26T09:02"))[1:] == [
            "But it is left out: a calendar excludes it.",
            "It was suppressed: a calendar excludes it.",
        ]
    assert home.ledger() == [
        "fired 26 09:01",
        "suppressed 26 09:02 excluded.span",
        "suppressed 26 09:03 excluded.span",
        "fired 26 09:04",
    ]
    assert "alice" not in home.text()


async def test_previews_and_lists_know_it(home: Home) -> None:
    async with home.ticking() as instance:
        assert (await schedule(instance, expr="2-9 9 * * *")).next_fire_at == "2026-11-26T09:04:00+00:00"
        shown = (await perform(VERBS["preview"], instance, {"task": "report", "count": 3})).items
        assert [(item.at[11:16], item.fires) for item in shown] == [("09:02", False), ("09:03", False), ("09:04", True)]
        assert [item.note for item in shown] == ["A calendar excludes it.", "A calendar excludes it.", None]


async def test_it_is_read_again_when_it_changes(home: Home) -> None:
    async with home.ticking() as instance:
        await schedule(instance)
        await minutes(home, instance, 2)
        home.write(calendar())
        await minutes(home, instance, 1)
    assert home.ledger() == ["fired 26 09:01", "suppressed 26 09:02 excluded.span", "fired 26 09:03"]


@pytest.mark.parametrize("ruin", ["broken", "gone"])
async def test_a_file_that_breaks_or_vanishes_keeps_its_last_good_events_and_it_is_recorded_once(
    home: Home, ruin: str
) -> None:
    async with home.ticking() as instance:
        await schedule(instance)
        await minutes(home, instance, 1)
        home.write(b"nothing") if ruin == "broken" else home.path.unlink()
        await minutes(home, instance, 2)
        [row] = (await instance.answers.schedules()).items
        assert row.unread in ("there is no such file", "it is not a calendar, or a broken one (ValueError)")
        home.write(calendar())
        await minutes(home, instance, 1)
        [row] = (await instance.answers.schedules()).items
        assert row.unread is None
    assert home.ledger()[1:] == [
        "suppressed 26 09:02 excluded.span",
        "suppressed 26 09:03 excluded.span",
        "fired 26 09:04",
    ]
    assert [type(event) for event in home.events() if isinstance(event, CalendarRead | CalendarUnread)] == [
        CalendarUnread,
        CalendarRead,
    ]


async def test_after_a_restart_without_the_file_nothing_is_decided_until_it_is_back(home: Home) -> None:
    async with home.up() as instance:
        await schedule(instance)
    home.path.unlink()
    async with home.ticking() as instance:
        await until(lambda: instance.ticks.ticker.next_us("report"))
        await home.pass_time(instance, 1)
        await until(lambda: home.events(CalendarUnread))
        await home.pass_time(instance, 1)
        assert home.ledger() == []
        with pytest.raises(Unavailable, match=r"^exclude_ics: days\.ics: there is no such file$"):
            await perform(VERBS["preview"], instance, {"task": "report"})
        [row] = (await instance.answers.schedules()).items
        assert row.unread == "there is no such file"
        home.write(calendar(TEA))
        await home.pass_time(instance, 1)
        await home.settled(instance, 2)
    assert home.ledger() == ["fired 26 09:01", "suppressed 26 09:02 to 26 09:03 (2) excluded.span"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "there is no such file (its path begins in the folder of schedules.yml)"),
        (b"nothing", "it is not a calendar, or a broken one (ValueError)"),
        (b" " * (MAX_BYTES + 1), "it has more than 4194304 bytes"),
    ],
)
async def test_what_cannot_be_read_is_refused_when_it_is_set(home: Home, content: bytes | None, says: str) -> None:
    home.path.unlink() if content is None else home.write(content)
    async with home.ticking() as instance:
        n_events = len(home.file.events)
        with pytest.raises(Invalid, match=f"^exclude_ics: days.ics: {re.escape(says)}$"):
            await schedule(instance)
        assert len(home.file.events) == n_events


async def test_neither_folders_nor_what_never_ends_are_opened(home: Home) -> None:
    os.mkfifo(home.path.with_name("pipe"))
    async with home.up() as instance:
        for path in (".", "pipe", "/dev/zero"):
            with pytest.raises(Invalid, match="it is not a file$"):
                await schedule(instance, exclude_ics=path)


async def test_the_rule_for_misfires_knows_what_is_excluded(home: Home) -> None:
    async with home.up() as instance:
        await schedule(instance)
    await home.time.advance(180)  # 09:03:30, in the middle of it
    async with home.ticking() as instance:
        await home.settled(instance, 2)
    assert home.ledger() == ["fired 26 09:01", "suppressed 26 09:02 to 26 09:03 (2) excluded.span"]


async def test_a_simulation_knows_the_calendar_too(home: Home) -> None:
    async with home.up() as instance:
        await schedule(instance)
        span = {"start": "2026-11-26T09:01:00Z", "end": "2026-11-26T09:05:00Z"}
        change = "report: {expr: '* * * * *', exclude_ics: days.ics, exclude: [2026-11-26]}"
        found = await perform(VERBS["simulate"], instance, {**span, "change": change})
        [before], [after] = found.simulation.schedules, found.changed.schedules
        assert (before.n_fired, before.left_out) == (3, {"excluded.span": 2})
        assert {odd.why for odd in before.oddities} == {"A calendar excludes it."}
        assert after.n_fired == 0


@pytest.mark.parametrize("path", ["/etc/passwd", "../days.ics", "a/../../days.ics", "/nowhere/at/all"])
async def test_whoever_comes_from_outside_names_only_files_beside_the_schedules(home: Home, path: str) -> None:
    entry = {"expr": "* * * * *", "exclude_ics": path}
    text = f"report: {{expr: '* * * * *', exclude_ics: {path}}}"
    span = {"start": "2026-11-26T09:00:00Z", "end": "2026-11-26T09:05:00Z"}
    async with home.ticking() as instance:
        for verb, asked in (
            ("schedule", {"task": "report", **entry, "user_id": "alice", "group_id": "eng"}),
            ("load_schedules", {"text": text}),
            ("simulate", {**span, "change": text}),
        ):
            for via in ("bus", "http"):
                with pytest.raises(Invalid, match="from outside only a file in the folder"):
                    await perform(VERBS[verb], instance, asked, via=via)
        with pytest.raises(Invalid, match="from outside only"):
            await instance.schedules.set("report", entry, via="event")
        ours = {"task": "report", **entry, "exclude_ics": "days.ics"}
        await perform(VERBS["schedule"], instance, {**ours, "user_id": "alice", "group_id": "eng"}, via="bus")


async def test_the_owner_names_any_file(home: Home) -> None:
    async with home.ticking() as instance:
        await schedule(instance, exclude_ics=str(home.path))
        text = f"report: {{expr: '* * * * *', exclude_ics: {home.path}}}"
        await perform(VERBS["load_schedules"], instance, {"text": text})
