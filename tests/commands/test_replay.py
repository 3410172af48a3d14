"""A run from a file, performed again at the command line."""

from __future__ import annotations

import os
import sys

import pytest

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


def test_code_that_cannot_be_found_is_told_with_the_remedy(run, exported, tmp_path):
    ran = run("replay", exported, "--task", "bills:Missing")
    assert (ran.code, ran.err) == (
        1,
        "error: the task bills:Missing cannot be used: bills has no Missing. Name another class with --task\n",
    )
    text = (tmp_path / exported).read_text().replace('"source":"bills:Bill"', '"source":null')
    (tmp_path / exported).write_text(text.replace('"bill"', '"gone"'))
    ran = run("replay", exported)
    assert (ran.code, "no task of that name is installed" in ran.err) == (1, True)


def test_without_its_place_in_the_file_the_installed_task_is_used(run, exported, tmp_path):
    text = (tmp_path / exported).read_text().replace('"source":"bills:Bill"', '"source":null')
    (tmp_path / exported).write_text(text)
    assert run("replay", exported).code == 0


def test_a_file_that_is_no_run_is_told(run, tmp_path):
    (tmp_path / "other.json").write_text("{}")
    assert "other.json is no run that was exported" in run("replay", "other.json").err
    assert run("replay", "missing.json").err == "error: missing.json cannot be read: No such file or directory\n"
