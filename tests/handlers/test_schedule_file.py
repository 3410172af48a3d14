"""`schedules.yml` and the schedules: each follows the other, and nothing is lost between them."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import structlog

from cascadenced.errors import Invalid
from cascadenced.events.audit import audit_rows, stage_rows
from cascadenced.events.base import Context
from cascadenced.events.schedule import ScheduleFileRejected, ScheduleRemoved, ScheduleSet
from cascadenced.handlers import schedule_file
from cascadenced.handlers.schedule_file import ScheduleFile
from cascadenced.handlers.schedule_requests import Node
from cascadenced.instance import Instance
from cascadenced.plugins.base import BaseTask
from tests.doubles import ALICE, PSEUDONYMS, World

ALICES, ENGS = PSEUDONYMS.user("alice"), PSEUDONYMS.group("eng")


class Report(BaseTask):
    name = "report"

    def run(self) -> None: ...


class Load(BaseTask):
    name = "load"

    def run(self) -> None: ...


class Folder(World):
    """A world with a file beside it."""

    def __init__(self, path: Path) -> None:
        super().__init__(Report, Load, ume_base_url="http://127.0.0.1:1", data_dir=str(path))
        self.path = path / "schedules.yml"

    @asynccontextmanager
    async def life(self) -> AsyncIterator[tuple[Instance, ScheduleFile]]:
        async with self.up() as instance:
            yield (
                instance,
                ScheduleFile(
                    instance.log, self.clock, instance.schedules, instance.tasks, path=self.path, timezone="UTC"
                ),
            )

    def write(self, text: str) -> None:
        """As an editor would: the mark at the end stays."""
        mark = "".join(line for line in self.text_of_file().splitlines(True) if line.startswith("# cascadenced:"))
        self.path.write_text(dedent(text).lstrip("\n") + mark)

    def text_of_file(self) -> str:
        return self.path.read_text() if self.path.exists() else ""

    async def schedules(self, instance: Instance) -> dict[str, Any]:
        return {row.task: row.expr for row in (await instance.answers.schedules()).items}


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


async def test_what_people_write_is_set(folder: Folder) -> None:
    folder.write('report: "0 9 * * *"\nload: 30 2 * * *\n')
    async with folder.life() as (instance, file):
        assert await file.sync() == ()
        assert await folder.schedules(instance) == {"report": "0 9 * * *", "load": "30 2 * * *"}
    assert {event.via for event in folder.events(ScheduleSet)} == {"file"}


async def test_what_is_set_elsewhere_is_written(folder: Folder) -> None:
    """TC 61, 62: without an identity the bare expression, with one its pseudonyms and no clear ids."""
    async with folder.life() as (instance, file):
        await instance.schedules.set("report", "0 9 * * *", via="cli")
        await instance.schedules.set("load", "30 2 * * *", via="cli", who=ALICE)
        await file.sync()
    text = folder.text_of_file()
    assert "report: 0 9 * * *\n" in text
    assert f"user_hash: {ALICES}\n" in text
    assert f"group_hash: {ENGS}\n" in text
    assert "alice" not in text


async def test_ids_in_the_file_become_pseudonyms_and_all_else_stays(folder: Folder) -> None:
    """TC 63"""
    folder.write(
        """
        # nightly
        load:
          expr: 30 2 * * *   # early
          user_id: alice
          group_id: eng
        """
    )
    async with folder.life() as (instance, file):
        await file.sync()
        await file.sync()
        [row] = (await instance.answers.schedules()).items
        assert (row.user_hash, row.group_hash) == (ALICES, ENGS)
    text = folder.text_of_file()
    assert "alice" not in text
    assert "# nightly\n" in text
    assert "# early\n" in text
    assert f"user_hash: {ALICES}\n" in text
    assert len(folder.events(ScheduleSet)) == 1
    assert (await folder.vault.reveal(ALICES, ENGS)) == ALICE


async def test_an_entry_that_is_removed_by_hand_is_unscheduled(folder: Folder) -> None:
    """TC 69, 85"""
    folder.write("report:\n  expr: 0 9 * * *\n  user_id: alice\nload: 30 2 * * *\n")
    async with folder.life() as (instance, file):
        await file.sync()
        folder.write("load: 30 2 * * *\n")
        await file.sync()
        assert await folder.schedules(instance) == {"load": "30 2 * * *"}
    [removed] = folder.recorded(ScheduleRemoved)
    assert removed.user_hash == ALICES
    assert [row.stage for row in stage_rows(removed.event)] == ["unschedule"]
    assert [(row.stage, row.status) for row in audit_rows(removed.event)] == [("unschedule", "success")]


async def test_a_changed_entry_changes_its_schedule_and_no_other(folder: Folder) -> None:
    folder.write("report: 0 9 * * *\nload: 30 2 * * *\n")
    async with folder.life() as (instance, file):
        await file.sync()
        folder.write("report: 0 10 * * *\nload: 30 2 * * *\n")
        await file.sync()
        assert await folder.schedules(instance) == {"report": "0 10 * * *", "load": "30 2 * * *"}
    assert [event.task for event in folder.events(ScheduleSet)] == ["report", "load", "report"]


async def test_a_file_that_knows_less_than_the_log_takes_nothing_back(folder: Folder) -> None:
    """A crash after the schedule was recorded, and before the file was written."""
    folder.write("report: 0 9 * * *\n")
    async with folder.life() as (instance, file):
        await file.sync()
        await instance.schedules.set("report", "0 10 * * *", via="cli")
        await instance.schedules.set("load", "30 2 * * *", via="cli")
    async with folder.life() as (instance, file):
        await file.sync()
        assert await folder.schedules(instance) == {"report": "0 10 * * *", "load": "30 2 * * *"}
        await instance.schedules.remove("report", by=Context())
    async with folder.life() as (instance, file):
        await file.sync()
        assert await folder.schedules(instance) == {"load": "30 2 * * *"}
    assert "report" not in folder.text_of_file()


async def test_changes_of_both_are_both_kept(folder: Folder) -> None:
    folder.write("report: 0 9 * * *\n")
    async with folder.life() as (instance, file):
        await file.sync()
        await instance.schedules.set("load", "30 2 * * *", via="cli")
        folder.write("report: 0 11 * * *\n")
        await file.sync()
        assert await folder.schedules(instance) == {"report": "0 11 * * *", "load": "30 2 * * *"}
    assert "load: 30 2 * * *" in folder.text_of_file()


async def test_a_new_entry_whose_calendar_cannot_be_read_is_refused_and_one_that_was_set_stays(folder: Folder) -> None:
    (folder.path.parent / "days.ics").write_text("BEGIN:VCALENDAR\nVERSION:2.0\nPRODID:x\nEND:VCALENDAR\n")
    folder.write("report: {expr: 0 9 * * *, exclude_ics: days.ics}\n")
    async with folder.life() as (instance, file):
        assert await file.sync() == ()
    (folder.path.parent / "days.ics").unlink()
    async with folder.life() as (instance, file):
        folder.write("report: {expr: 0 9 * * *, exclude_ics: days.ics}\nload: 30 2 * * *\n")
        assert await file.sync() == ()
        assert sorted(await folder.schedules(instance)) == ["load", "report"]
        folder.write("report: {expr: 0 10 * * *, exclude_ics: days.ics}\nload: 30 2 * * *\n")
        [problem] = await file.sync()
        assert problem.startswith("line 1: report: exclude_ics: days.ics: there is no such file (its path begins in ")
        assert (await folder.schedules(instance))["report"] == "0 9 * * *"


async def test_what_a_calendar_says_takes_no_edit_back(folder: Folder) -> None:
    """Nobody wished for it: of a file and a node that both changed, the file is somebody's doing."""
    folder.write("report: {calendar_event: plans/7}\n")
    async with folder.life() as (instance, file):
        await file.sync()
        folder.write("report: 0 11 * * *\n")
        node = Node("report", "plans/7", None, None)
        await instance.schedules.node_says(node, {"cron": "0 9 * * *"})
        assert await folder.schedules(instance) == {"report": "0 9 * * *"}
        await file.sync()
        assert await folder.schedules(instance) == {"report": "0 11 * * *"}


async def test_an_entry_with_a_node_stays_as_it_was_written_when_the_node_was_read(folder: Folder) -> None:
    folder.write("report:\n  calendar_event: plans/7  # of the team\n")
    async with folder.life() as (instance, file):
        await file.sync()
        await instance.schedules.node_says(Node("report", "plans/7", None, None), {"cron": "0 9 * * *"})
        await file.sync()
        assert await folder.schedules(instance) == {"report": "0 9 * * *"}
    assert folder.text_of_file().startswith("report:\n  calendar_event: plans/7  # of the team\n# cascadenced:")
    assert len(folder.events(ScheduleSet)) == 2


async def test_a_file_of_a_persons_own_removes_nothing(folder: Folder) -> None:
    """It was never written by us, so what it does not name was not in it."""
    async with folder.life() as (instance, file):
        await instance.schedules.set("load", "30 2 * * *", via="cli")
        folder.write("report: 0 9 * * *\n")
        await file.sync()
        assert await folder.schedules(instance) == {"report": "0 9 * * *", "load": "30 2 * * *"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("report: [\n", "schedules.yml: line "),
        ("report: 61 * * * *\n", "schedules.yml: line 1: report: "),
        ("load: 30 2 * * *\nreport:\n  expr: 7\n", "schedules.yml: line 2: report: 'expr' must be a non-empty string"),
        ("load: 30 2 * * *\nload: 31 2 * * *\n", "schedules.yml: line 2: 'load': is already set in line 1"),
        ("load: 30 2 * * *\nLoad: 31 2 * * *\n", "schedules.yml: line 2: Load: is the same task as load"),
    ],
)
async def test_a_file_with_anything_wrong_changes_nothing_and_is_told_of_once(
    folder: Folder, text: str, says: str
) -> None:
    """TC 67"""
    async with folder.life() as (instance, file):
        await instance.schedules.set("report", "0 9 * * *", via="cli")
        await file.sync()
        folder.write(text)
        written = folder.text_of_file()
        for _ in range(2):
            assert await file.sync()
        assert folder.text_of_file() == written
        assert await folder.schedules(instance) == {"report": "0 9 * * *"}
        [rejected] = folder.events(ScheduleFileRejected)
        assert rejected.problems[0].startswith(says)
        folder.write("report: 0 9 * * *\nload: 30 2 * * *\n")
        assert await file.sync() == ()
        assert await folder.schedules(instance) == {"report": "0 9 * * *", "load": "30 2 * * *"}


async def test_a_class_may_be_named_and_is_the_task_registered_under_another_name(folder: Folder) -> None:
    """TC 64, 79"""
    folder.write("Report: 0 9 * * *\n")
    async with folder.life() as (instance, file):
        await file.sync()
        assert await folder.schedules(instance) == {"report": "0 9 * * *"}
    assert "Report: 0 9 * * *" in folder.text_of_file()


async def test_an_entry_of_a_task_that_is_not_there_stays_for_the_day_it_is(folder: Folder) -> None:
    folder.write("gone: 0 9 * * *\nload: 30 2 * * *\n")
    async with folder.life() as (instance, file):
        assert await file.sync() == ()
        assert await folder.schedules(instance) == {"load": "30 2 * * *"}
    assert "gone: 0 9 * * *" in folder.text_of_file()


async def test_another_file_may_be_loaded_and_removes_nothing(folder: Folder) -> None:
    async with folder.life() as (instance, file):
        await instance.schedules.set("load", "30 2 * * *", via="cli")
        assert await file.load(b"report: 0 9 * * *\n") == ["report"]
        assert await folder.schedules(instance) == {"report": "0 9 * * *", "load": "30 2 * * *"}


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"gone: 0 9 * * *\n", "line 1: Unknown task: gone"),
        (b"report: 7\nload: ''\n", "line 1: report: entry must be a string or mapping; line 2: load: 'expr' must be"),
    ],
)
async def test_one_with_anything_wrong_is_refused_with_all_of_it(folder: Folder, data: bytes, says: str) -> None:
    async with folder.life() as (instance, file):
        with pytest.raises(Invalid) as refused:
            await file.load(data)
        assert str(refused.value).startswith(says)
        assert await folder.schedules(instance) == {}


async def test_nothing_to_write_makes_no_file(folder: Folder) -> None:
    async with folder.life() as (_, file):
        await file.sync()
    assert not folder.path.exists()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "report: {expr: 0 8 * * *, deps: [load]}\nload: {expr: 0 7 * * *, deps: [report]}\n",
            "schedules.yml: line 1: report: Cyclic dependency detected: report -> load -> report",
        ),
        ("report: 0 8 * * *\nload: {expr: 0 7 * * *, deps: [load]}\n", "schedules.yml: line 2: load: Cyclic"),
        ("report: 0 8 * * *\nload: {expr: 0 7 * * *, group_id: eng}\n", "schedules.yml: line 2: load: a group needs a"),
        ("report: 0 8 * * *\nload: {expr: 0 7 * * *, user_hash: x}\n", "schedules.yml: line 2: load: 'user_hash' must"),
        ('report: 0 8 * * *\nload: {expr: 0 7 * * *, user_id: "a\\0"}\n', "schedules.yml: line 2: load: 'user_id' con"),
        (
            f"report: 0 8 * * *\nload: {{expr: 0 7 * * *, user_id: bob, group_hash: {ENGS}}}\n",
            "schedules.yml: line 2: load: 'user_id' goes with 'group_id'",
        ),
    ],
)
async def test_no_entry_is_taken_over_before_all_are_known_to_be_good(folder: Folder, text: str, says: str) -> None:
    async with folder.life() as (instance, file):
        await instance.schedules.set("report", "0 9 * * *", via="cli")
        await file.sync()
        folder.write(text)
        assert await file.sync()
        assert await folder.schedules(instance) == {"report": "0 9 * * *"}
        [rejected] = folder.events(ScheduleFileRejected)
        assert rejected.problems[0].startswith(says)
        with pytest.raises(Invalid) as refused:
            await file.load(text.encode())
        assert says.removeprefix("schedules.yml: ")[:30] in str(refused.value)
        assert await folder.schedules(instance) == {"report": "0 9 * * *"}


async def test_what_needs_the_other_may_be_turned_round_in_one_edit(folder: Folder) -> None:
    folder.write("report: 0 9 * * *\nload: {expr: 0 8 * * *, deps: [report]}\n")
    async with folder.life() as (instance, file):
        assert await file.sync() == ()
        folder.write("report: {expr: 0 9 * * *, deps: [load]}\nload: 0 8 * * *\n")
        assert await file.sync() == ()
        assert instance.prerequisites.graph("report").order == ["load", "report"]


async def test_what_is_edited_while_the_file_is_read_is_not_written_over(folder: Folder) -> None:
    folder.write("report: {expr: 0 9 * * *, user_id: alice}\n")
    async with folder.life() as (instance, file):
        edits = ["report: 0 10 * * *\n"]
        instance.log.observe(lambda _: folder.write(edits.pop()) if edits else None)
        await file.sync()
        assert folder.text_of_file() == "report: 0 10 * * *\n"
        await file.sync()
        assert await folder.schedules(instance) == {"report": "0 10 * * *"}


async def test_a_file_put_in_the_place_of_ours_removes_what_the_file_before_it_had_set(folder: Folder) -> None:
    """As a deployment does it, that knows nothing of our mark; what was set elsewhere is not its business."""
    folder.write("report: 0 9 * * *\n")
    async with folder.life() as (instance, file):
        await file.sync()
        await instance.schedules.set("load", "30 2 * * *", via="cli")
        await file.sync()
        folder.path.write_text("{}\n")
        await file.sync()
        assert sorted(await folder.schedules(instance)) == ["load", "report"]  # an editor may write the rest of it now
        await file.sync()
        assert await folder.schedules(instance) == {"load": "30 2 * * *"}
    assert "load: 30 2 * * *" in folder.text_of_file()
    assert "report" not in folder.text_of_file()


async def test_half_a_file_removes_nothing(folder: Folder) -> None:
    whole = "report: 0 9 * * *\nload: 30 2 * * *\n"
    folder.write(whole)
    async with folder.life() as (instance, file):
        await file.sync()
        folder.path.write_text("report: 0 9 * * *\n")
        await file.sync()
        folder.path.write_text(whole)
        await file.sync()
        assert sorted(await folder.schedules(instance)) == ["load", "report"]
    assert folder.events(ScheduleRemoved) == []


async def test_a_file_that_is_empty_while_it_is_written_is_not_put_in_the_place_of_what_comes(folder: Folder) -> None:
    """An editor that does not write beside the file and rename it empties the file first."""
    folder.write("report: 0 9 * * *\n")
    async with folder.life() as (instance, file):
        await file.sync()
        with folder.path.open("w") as editor:
            await file.sync()
            editor.write("load: 30 2 * * *\n" + folder.text_of_file())
        for _ in range(2):
            await file.sync()
        assert "load" in await folder.schedules(instance)
    assert "load: 30 2 * * *\n" in folder.text_of_file()


async def test_a_file_that_stays_empty_is_written_again(folder: Folder) -> None:
    """As one that is gone: nobody takes all schedules back without a word about one of them."""
    folder.write("report: 0 9 * * *\n")
    async with folder.life() as (instance, file):
        await file.sync()
        folder.path.write_text("")
        for _ in range(2):
            await file.sync()
        assert await folder.schedules(instance) == {"report": "0 9 * * *"}
    assert folder.text_of_file().startswith("report: 0 9 * * *\n")


async def test_nobody_is_named_in_an_entry_of_a_task_that_is_not_there(folder: Folder) -> None:
    folder.write("gone:  # for now\n  expr: 0 9 * * *\n  user_id: alice\n  group_id: eng\n")
    async with folder.life() as (_, file):
        assert await file.sync() == ()
    text = folder.text_of_file()
    assert "alice" not in text
    assert text.startswith(f"gone:  # for now\n  expr: 0 9 * * *\n  user_hash: {ALICES}\n  group_hash: {ENGS}\n")
    assert (await folder.vault.reveal(ALICES, ENGS)) == ALICE


async def test_a_long_file_is_read_and_written_beside_everything_else(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thousands of entries take seconds."""
    loop, on_the_loop = threading.current_thread(), list[bool]()
    for work in (schedule_file.read, schedule_file.written):

        def watched(*args: Any, work: Any = work) -> Any:
            on_the_loop.append(threading.current_thread() is loop)
            return work(*args)

        monkeypatch.setattr(schedule_file, work.__name__, watched)
    folder.write("".join(f"gone{n}:\n  expr: 0 9 * * *\n  timezone: Europe/Berlin\n" for n in range(100)))
    async with folder.life() as (_, file):
        await file.sync()
    assert on_the_loop == [False, False]


async def test_a_copy_of_before_that_is_put_back_is_told_that_what_was_set_since_stays(folder: Folder) -> None:
    folder.write("report: 0 9 * * *\n")
    async with folder.life() as (instance, file):
        await file.sync()
        before = folder.text_of_file()
        with structlog.testing.capture_logs() as lines:
            await instance.schedules.set("report", "0 10 * * *", via="cli")
            await instance.schedules.set("load", "0 11 * * *", via="cli")
            await file.sync()
            assert lines == []
            folder.path.write_text(before)
            await file.sync()
        assert {(line["event"], line["task"], line["line"]) for line in lines} == {
            ("schedule_is_newer", "report", 1),
            ("schedule_is_newer", "load", None),
        }
        assert await folder.schedules(instance) == {"report": "0 10 * * *", "load": "0 11 * * *"}
        folder.path.write_text(before.splitlines(keepends=True)[0])
        await file.sync()
        assert (await folder.schedules(instance))["report"] == "0 9 * * *"
