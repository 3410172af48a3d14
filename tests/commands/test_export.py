"""A run in a file."""

from __future__ import annotations

import json
import os
import sqlite3
import stat

import pytest

from cascadenced.errors import BadMessage
from cascadenced.events import run_file
from tests.commands.conftest import WHO

PLANNED = """
from cascadenced import CronTask

class Part(CronTask):
    name = "part"
    def run(self):
        return 1

class Whole(CronTask):
    name = "whole"
    def plan(self):
        return [Part(), [Part(), Part()]]
    def run(self, parts):
        return parts
"""


@pytest.fixture
def exported(run, tmp_path):
    def export(*args, task="loud", given=None):
        run_id = run("run", task, *WHO, "--args", json.dumps(given or {"n": 1.5}), "--json").json["run_id"]
        ran = run("export", run_id[:20], "--to", tmp_path / "it.json", *args)
        assert ran.code == 0, ran.err
        return run_id, json.loads((tmp_path / "it.json").read_text())

    return export


def test_a_run_is_written_with_every_event_as_the_log_has_it(run, plugins, exported, folder):
    run_id, document = exported()
    assert (document["format"], document["version"]) == ("cascadenced.run", 1)
    filed = document["run"]
    assert (filed["run_id"], filed["task"], filed["source"], filed["args"]) == (
        run_id,
        "loud",
        "own_tasks:Loud",
        {"n": 1.5},
    )
    with sqlite3.connect(folder / "log.db") as log:
        log.row_factory = sqlite3.Row
        rows = [dict(row) for row in log.execute("SELECT * FROM events WHERE run_id = ? ORDER BY version", (run_id,))]
    for event, row in zip(filed["events"], rows, strict=True):
        assert event["data"] == json.loads(row["data"])
        assert event["hash"] == row["hash"].hex()
        assert {**event, "data": 0, "hash": 0}.items() <= {**row, "data": 0, "hash": 0}.items()
    assert filed["code"] == filed["events"][1]["data"]["code"]


def test_the_runs_of_a_plan_are_written_with_it(run, monkeypatch, tmp_path, exported):
    (tmp_path / "planned_tasks.py").write_text(PLANNED)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("CASCADENCE_PLUGIN_PATHS", "planned_tasks:Whole")
    _, document = exported(task="whole")
    first, second = document["run"]["children"]
    assert (first["task"], first["source"], second["task"]) == ("part", None, "plan")
    assert [child["task"] for child in second["children"]] == ["part", "part"]
    assert all(len(child["events"]) > 3 for child in second["children"])


def test_nobody_is_named_and_nobody_else_may_read_it(run, plugins, exported, tmp_path):
    _, document = exported()
    assert "alice" not in json.dumps(document)
    assert '"eng"' not in json.dumps(document)
    assert stat.S_IMODE((tmp_path / "it.json").stat().st_mode) == 0o600
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]


def test_a_file_that_is_there_is_replaced_only_if_asked(run, plugins, exported, tmp_path):
    run_id, _ = exported()
    path = tmp_path / "it.json"
    path.write_text("mine")
    path.chmod(0o644)
    ran = run("export", run_id, "--to", path)
    assert (ran.code, ran.err) == (
        1,
        f"error: {path} is there already: name another file, or give --force to replace it\n",
    )
    assert path.read_text() == "mine"
    assert run("export", run_id, "--to", path, "--force").code == 0
    assert json.loads(path.read_text())["run"]["run_id"] == run_id
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_without_a_name_the_file_has_the_runs(run, plugins, exported, tmp_path):
    run_id, document = exported()
    ran = run("export", run_id, "--json")
    assert ran.json == {
        "file": f"run-{run_id}.json",
        "run_id": run_id,
        "task": "loud",
        "source": "own_tasks:Loud",
        "n_runs": 1,
        "n_events": len(document["run"]["events"]),
    }
    assert (tmp_path / f"run-{run_id}.json").exists()


def test_a_run_is_written_to_stdout(run, plugins, exported):
    run_id, document = exported()
    assert run("export", run_id, "--to", "-").json["run"] == document["run"]


def test_what_cannot_be_written_is_an_error_in_a_sentence(run, plugins, exported, tmp_path):
    run_id, _ = exported()
    ran = run("export", run_id, "--to", tmp_path / "no" / "where.json")
    assert (ran.code, ran.err.split(": ", 1)[1].partition(" cannot")[0]) == (1, str(tmp_path / "no" / "where.json"))
    assert run("export", "f" * 32).err == f"error: no run '{'f' * 32}': the list of runs has those there are\n"


def test_what_was_written_reads_back_as_it_was(plugins, exported, tmp_path):
    exported()
    file = run_file.read((tmp_path / "it.json").read_bytes(), "it.json")
    events = run_file.recorded(file.run, "it.json")
    assert [event.version for event in events] == list(range(1, len(events) + 1))
    assert run_file.filed(events, file.run.source, []) == file.run


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda text: text[:100], "is no run that was exported"),
        (lambda text: "[1]", "is no run that was exported"),
        (lambda text: '{"a": "\udcff"}', "is no run that was exported"),
        (lambda text: text.replace('"cascadenced.run"', '"other"'), "its `format` is 'other'"),
        (lambda text: text.replace('"cascadenced.run","version":1', '"cascadenced.run","version":7'), "has version 7"),
        (lambda text: text.replace('"args"', '"gras"'), "is damaged: "),
        (lambda text: text.replace('"type":"stage.started"', '"type":"stage.dreamt"'), "cannot be read"),
        (lambda text: text.replace('"schema":1', '"schema":99'), "a newer version wrote it"),
        (lambda text: text.replace('"version":2', '"version":3'), "version 2 is missing"),
        (lambda text: text.replace('"task":"loud"', '"task":"quiet"', 1), "is not one of quiet"),
        (lambda text: text.replace('"stream":"run-', '"stream":"run-a'), "event 1 of run .* is another run's"),
        (lambda text: text.replace("run.requested", "run.resumed"), "does not begin with its request"),
    ],
)
def test_a_damaged_file_says_what_is_wrong_with_it(plugins, exported, tmp_path, damage, said):
    exported()
    text = damage((tmp_path / "it.json").read_text())
    with pytest.raises(BadMessage, match=said.replace("(", r"\(")):
        run_file.recorded(run_file.read(text.encode(errors="surrogateescape"), "it.json").run, "it.json")
