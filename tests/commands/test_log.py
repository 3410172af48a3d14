"""The log: checked, rebuilt, exported."""

from __future__ import annotations

import json
import sqlite3
import stat

from jsonschema import Draft202012Validator

from tests.commands.conftest import WHO


def test_an_intact_log_verifies(run):
    assert run("log", "verify").out == "the log is intact up to position 0\n"
    run("run", "example", *WHO)
    ran = run("log", "verify", "--json")
    assert ran.code == 0
    assert ran.json["position"] > 6


def test_a_changed_event_exits_74_naming_it(run, folder):
    run("run", "example", *WHO)
    connection = sqlite3.connect(folder / "log.db", isolation_level=None)
    connection.execute("DROP TRIGGER events_are_not_changed")
    connection.execute("UPDATE events SET type = 'x' WHERE position = 3")
    connection.close()
    ran = run("log", "verify")
    assert ran.code == 74
    assert "event 3" in ran.err


def test_a_file_whose_pages_are_damaged_exits_74_and_says_what_to_do(run, folder):
    run("run", "example", *WHO)
    with (folder / "log.db").open("r+b") as file:
        size = file.seek(0, 2)
        file.seek(4096)
        file.write(b"\xa5" * (size - 4096))
    for command in (("log", "verify"), ("log", "export"), ("runs",), ("run", "example", *WHO)):
        ran = run(*command)
        assert ran.code == 74, (command, ran.err)
        assert "log.db is damaged (" in ran.err, command
        assert "cascadenced log restore BACKUP" in ran.err
    report = run("doctor", "--json").json
    assert any("log.db is damaged (" in problem for problem in report["problems"])


def test_a_log_that_is_gone_is_not_taken_for_an_empty_one(run, folder):
    run("run", "example", *WHO)
    for path in folder.glob("log.db*"):
        path.unlink()
    for command in (("log", "verify"), ("log", "export"), ("runs",), ("list",)):
        ran = run(*command)
        assert (ran.code, ran.out) == (78, ""), command
        assert "log.db is gone" in ran.err


def test_a_log_without_its_newest_event_exits_74_naming_it(run, folder):
    run("run", "example", *WHO)
    newest = run("log", "verify", "--json").json["position"]
    connection = sqlite3.connect(folder / "log.db", isolation_level=None)
    connection.execute("DROP TRIGGER events_are_not_deleted")
    connection.execute("DELETE FROM events WHERE position = ?", (newest,))
    connection.close()
    ran = run("log", "verify")
    assert ran.code == 74
    assert f"event {newest} is missing at the end" in ran.err


def test_projections_are_rebuilt_by_name_or_all(run, folder):
    run("run", "example", *WHO)
    connection = sqlite3.connect(folder / "log.db", isolation_level=None)
    connection.execute("DELETE FROM runs")
    connection.close()
    assert run("runs").out == "no runs\n"
    assert run("log", "rebuild", "runs").code == 0
    assert "example" in run("runs").out
    assert {state["name"] for state in run("log", "rebuild", "--json").json} >= {"runs", "pointers"}
    ran = run("log", "rebuild", "nonsense")
    assert ran.code == 1
    assert "no projection 'nonsense'" in ran.err


def test_a_frozen_projection_is_told_wherever_it_is_read(run, folder):
    run("run", "example", *WHO)
    connection = sqlite3.connect(folder / "log.db", isolation_level=None)
    connection.execute("UPDATE projections SET position = 3, reason = 'X: y', frozen_at_us = 1 WHERE name = 'runs'")
    connection.close()
    assert "projection is frozen" in run("runs").err
    assert "X: y" in run("status").out
    ran = run("doctor")
    assert ran.code == 1
    assert "log rebuild runs" in ran.out


def test_an_export_has_every_event_with_its_header(run, folder, tmp_path):
    run("run", "example", *WHO, "--args", '{"a": [1]}')
    lines = [json.loads(line) for line in run("log", "export").out.splitlines()]
    assert [line["position"] for line in lines] == list(range(1, len(lines) + 1))
    requested = next(line for line in lines if line["type"] == "run.requested")
    assert requested["data"]["args"] == {"a": [1]}
    assert len(requested["hash"]) == 64
    assert "alice" not in json.dumps(lines)
    out = tmp_path / "out.jsonl"
    ran = run("log", "export", "--after", "5", "--out", out)
    assert (ran.out, ran.err) == ("", f"{len(lines) - 5} events written to {out}\n")
    assert [json.loads(line) for line in out.read_text().splitlines()] == lines[5:]
    assert stat.S_IMODE(out.stat().st_mode) == 0o600


def test_an_export_that_cannot_be_written_says_so(run, tmp_path):
    ran = run("log", "export", "--out", tmp_path / "nowhere" / "x")
    assert ran.code == 1
    assert "cannot be written" in ran.err
    assert run("log", "export").out == ""


def test_a_file_that_is_no_log_is_told(run, folder):
    folder.mkdir(mode=0o700)
    (folder / "log.db").write_bytes(b"not a database at all" * 100)
    for command in (["list"], ["runs"], ["log", "verify"], ["log", "export"]):
        ran = run(*command)
        assert ran.code == 1
        assert "cannot be read" in ran.err
        assert "Traceback" not in ran.err
    assert run("run", "example", *WHO).code == 78


def test_a_log_that_is_just_being_made_reads_as_an_empty_one(run, folder):
    folder.mkdir(mode=0o700)
    (folder / "log.db").touch()
    assert run("runs").out == "no runs\n"
    assert "example\tenabled" in run("list").out
    assert run("log", "verify").out == "the log is intact up to position 0\n"
    assert run("log", "export").out == ""


def test_another_programs_database_is_told(run, folder):
    folder.mkdir(mode=0o700)
    connection = sqlite3.connect(folder / "log.db")
    connection.execute("CREATE TABLE groceries (name)")
    connection.close()
    ran = run("runs")
    assert ran.code == 1
    assert "another program's database" in ran.err


def test_every_line_of_an_export_is_valid_under_the_schema_that_is_printed(run):
    run("run", "example", *WHO, "--args", '{"a": [1]}')
    schema = Draft202012Validator(run("log", "schema").json)
    lines = [json.loads(line) for line in run("log", "export").out.splitlines()]
    assert lines
    assert [error.message for line in lines for error in schema.iter_errors(line)] == []
