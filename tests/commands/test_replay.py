"""A run from a file, performed again at the command line."""

from __future__ import annotations

import json
import os
import sys

import msgspec
import pytest
from msgspec import structs

from cascadenced.commands.run_file import encoded
from cascadenced.eventlog.chain import link
from cascadenced.events import run_file
from tests.commands.conftest import WHO

BILL = """
from cascadenced import CronTask
from cascadenced.workflows import dispatch

class Bill(CronTask):
    name = "bill"
    def plan(self):
        print("printed by the task")
        return {"total": sum(self.args["prices"])}
    def run(self, plan):
        return self.step("charge", charge, plan["total"])

class Dearer(Bill):
    name = "dearer"
    def plan(self):
        return {"total": sum(self.args["prices"]) + 1}

class Tells(Bill):
    name = "tells"
    def plan(self):
        dispatch("bill.planned", user_id="ada")
        return super().plan()

def charge(total):
    with open("charged", "a") as file:
        file.write("x")
    return total
"""


@pytest.fixture
def exported(run, tmp_path, monkeypatch):
    """The file of a run of `bill`."""
    (tmp_path / "bills.py").write_text(BILL)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("CASCADENCE_PLUGIN_PATHS", "bills:Bill")
    run_id = run("run", "bill", *WHO, "--args", '{"prices": [3, 4]}', "--json").json["run_id"]
    run("export", run_id, "--to", "bill.json")
    yield "bill.json"
    sys.modules.pop("bills", None)


@pytest.fixture
def edited(exported, tmp_path):
    """Replace text in the file, which is then as if the log had had it so."""

    def edit(old, new):
        text = (tmp_path / exported).read_text()
        assert old in text
        file = run_file.read(text.replace(old, new).encode(), exported)
        events, before = [], None
        for event, row in zip(file.run.events, run_file.rows(file.run, exported), strict=True):
            header, data, known = row
            is_next = before is not None and before[0] + 1 == header[0]
            before = header[0], link(before[1], header, data) if is_next else known
            events.append(structs.replace(event, hash=before[1].hex()))
        changed = structs.replace(file, run=structs.replace(file.run, events=events))
        (tmp_path / exported).write_bytes(encoded(changed))

    return edit


def test_the_same_code_shows_no_divergence_and_exits_0(run, exported, tmp_path, folder):
    before = sorted((name, os.stat(folder / name).st_mtime_ns) for name in os.listdir(folder))
    ran = run("replay", exported)
    assert (ran.code, ran.out.splitlines()) == (
        0,
        [
            "STAGE  ATTEMPT  RECORDED  PLACES  REPLAYED     BECAUSE",
            "plan   1        success   0       as recorded  -",
            "run    1        success   1       as recorded  -",
            "",
            "no divergence",
        ],
    )
    assert "printed by the task" in ran.err
    assert "user_id and group_id were the pseudonyms" in ran.err
    assert (tmp_path / "charged").read_text() == "x"
    assert sorted((name, os.stat(folder / name).st_mtime_ns) for name in os.listdir(folder)) == before


def test_other_code_shows_the_first_divergence_and_exits_1(run, exported):
    ran = run("replay", exported, "--task", "bills:Dearer")
    assert ran.code == 1
    assert ran.out.splitlines()[-1] == "divergence in the stage plan, attempt 1, output .total: expected 7, got 8"
    assert "the code is not the recorded one" in ran.err
    asjson = run("replay", exported, "--task", "bills:Dearer", "--json")
    assert asjson.code == 1
    assert asjson.json["divergence"]["path"] == ".total"


def test_a_daemon_that_is_up_hears_nothing_of_it(run, exported, daemon):
    ran = run("replay", exported, "--task", "bills:Tells")
    assert (ran.code, daemon.asked) == (0, [])
    assert "wishes that were not carried out (notes, pointers, events and the like): 1\n" in ran.err


def test_code_that_cannot_be_found_is_told_with_the_remedy(run, exported, edited):
    ran = run("replay", exported, "--task", "bills:Missing")
    assert (ran.code, ran.err) == (
        1,
        "error: the task bills:Missing cannot be used: bills has no Missing. Name another class with --task\n",
    )
    edited('"source":"bills:Bill"', '"source":null')
    edited('"bill"', '"gone"')
    ran = run("replay", exported)
    assert (ran.code, "no task of that name is installed" in ran.err) == (1, True)


def test_without_its_place_in_the_file_the_installed_task_is_used(run, exported, edited):
    edited('"source":"bills:Bill"', '"source":null')
    assert run("replay", exported).code == 0


# ── what a file may choose ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("source", ["cProfile:Profile", "bills:Dearer", "unheard_of:Bill"])
def test_code_that_is_not_approved_is_neither_imported_nor_performed(run, exported, edited, tmp_path, source):
    (tmp_path / "unheard_of.py").write_text("open('imported', 'w').close()\n" + BILL)
    edited('"source":"bills:Bill"', f'"source":"{source}"')
    ran = run("replay", exported)
    assert (ran.code, ran.err) == (
        1,
        f"error: the file names code that is not approved here: '{source}'. If you trust it, put it into plugin_paths; "
        "or name the class to perform with --task module:Class\n",
    )
    assert not (tmp_path / "imported").exists()


def test_a_task_that_comes_with_us_is_approved(run, tmp_path):
    run_id = run("run", "example", *WHO, "--json").json["run_id"]
    run("export", run_id, "--to", "example.json")
    assert run("replay", "example.json").code == 0


def test_a_task_is_approved_under_the_name_by_which_it_is_installed(run, tmp_path, monkeypatch):
    (tmp_path / "bills_inside.py").write_text(BILL)
    (tmp_path / "bills_outside.py").write_text("from bills_inside import Bill")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("CASCADENCE_PLUGIN_PATHS", "bills_outside:Bill")
    run_id = run("run", "bill", *WHO, "--args", '{"prices": [3, 4]}', "--json").json["run_id"]
    run("export", run_id, "--to", "bill.json")
    assert '"source":"bills_inside:Bill"' in (tmp_path / "bill.json").read_text()
    assert run("replay", "bill.json").code == 0


def test_approved_code_that_cannot_be_used_says_why(run, exported, tmp_path):
    sys.modules.pop("bills")
    (tmp_path / "bills.py").write_text("raise RuntimeError('out of order')")
    ran = run("replay", exported)
    assert ran.err.startswith("error: the task bills:Bill cannot be used: bills cannot be imported: RuntimeError")


# ── a file that was changed ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("old", "new", "misfit"),
    [
        ('"output":{"total":7}', '"output":{"total":8}', "event 4 (stage.finished)"),
        ('"stages":["plan","run"]', '"stages":["plan"]', "event 2 (run.started)"),
        ('"via":"cli","skipped"', '"via":"bus","skipped"', "event 8 (run.finished)"),
    ],
)
def test_a_file_that_was_changed_names_the_first_event_that_does_not_fit(run, exported, tmp_path, old, new, misfit):
    text = (tmp_path / exported).read_text()
    assert old in text
    (tmp_path / exported).write_text(text.replace(old, new))
    ran = run("replay", exported)
    assert (ran.code, ran.err) == (
        1,
        f"error: {exported}: this file was changed: {misfit} of the run {run_of(text)} is not what was recorded, its "
        "hash does not fit. Export the run again\n",
    )


def run_of(text):
    return json.loads(text)["run"]["run_id"]


def test_an_event_that_was_put_in_is_told(run, exported, tmp_path):
    document = json.loads((tmp_path / exported).read_text())
    events = document["run"]["events"]
    events.insert(2, dict(events[4]))
    for nth, event in enumerate(events, 1):
        event["version"] = nth
    (tmp_path / exported).write_text(json.dumps(document))
    assert "is damaged: event 4 of run" in run("replay", exported).err


def test_a_file_that_was_only_laid_out_anew_is_as_good(run, exported, tmp_path):
    """Laid out, and not spelled: as another program writes a number, it is another number of bytes."""
    document = (tmp_path / exported).read_bytes()
    (tmp_path / exported).write_bytes(msgspec.json.format(document, indent=4))
    assert run("replay", exported).code == 0


def test_a_stage_that_ended_and_never_began_is_refused(run, exported, edited):
    edited('"stage.started","task":"bill","stage":"plan"', '"stage.started","task":"bill","stage":"intake"')
    ran = run("replay", exported)
    assert (ran.code, "the stage plan ended in event 4 without having begun" in ran.err) == (1, True)


def test_a_file_that_is_no_run_is_told(run, tmp_path):
    (tmp_path / "other.json").write_text("{}")
    assert "other.json is no run that was exported" in run("replay", "other.json").err
    assert run("replay", "missing.json").err == "error: missing.json cannot be read: No such file or directory\n"
