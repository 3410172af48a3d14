"""What the doctor sees."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from cascadenced.commands.examination import Report
from tests.commands.conftest import WHO
from tests.commands.test_tasks import fields


@pytest.fixture(autouse=True)
def server(tmp_path, monkeypatch):
    """A nats-server of sorts, so that it is found on every machine."""
    path = tmp_path / "a-nats-server"
    path.write_text("#!/bin/sh\necho 'nats-server: v2.12.0'\n")
    path.chmod(0o755)
    monkeypatch.setenv("CASCADENCE_NATS_SERVER", str(path))


def test_a_fresh_machine_has_nothing_wrong_and_stays_fresh(run, folder):
    ran = run("doctor")
    assert ran.code == 0
    assert "nothing is wrong" in ran.out
    assert "2.12.0" in ran.out
    assert not folder.exists()
    assert set(run("doctor", "--json").json) == fields(Report)


def test_settings_are_shown_with_their_source_and_secrets_are_not(run, monkeypatch):
    monkeypatch.setenv("CASCADENCE_HTTP_TOKEN", "hush-hush")
    ran = run("doctor")
    assert "environment CASCADENCE_DATA_DIR" in ran.out
    assert "hush-hush" not in ran.out
    assert "environment CASCADENCE_HTTP_TOKEN" in ran.out


def test_the_log_is_looked_at(run):
    run("run", "example", *WHO)
    report = run("doctor", "--json").json
    assert report["log"]["position"] > 6
    assert report["log"]["projections"]["runs"] == "ok"
    assert report["daemon"] is None


def test_a_plugin_that_cannot_be_used_is_wrong(run, monkeypatch):
    monkeypatch.setenv("CASCADENCE_PLUGIN_PATHS", "no.such.module:Task")
    ran = run("doctor")
    assert ran.code == 1
    assert "no.such.module:Task" in ran.out


def test_files_that_others_may_read_are_wrong(run, folder):
    run("run", "example", *WHO)
    os.chmod(folder / "log.db", 0o644)
    os.chmod(folder, 0o755)
    ran = run("doctor", "--json")
    assert ran.code == 1
    assert any("log.db" in problem for problem in ran.json["problems"])
    assert any("others may look into" in warning for warning in ran.json["warnings"])


def test_a_missing_server_is_wrong_unless_there_is_one_elsewhere(run, monkeypatch):
    monkeypatch.setenv("CASCADENCE_NATS_SERVER", "/nowhere/at-all")
    assert run("doctor").code == 1
    monkeypatch.setenv("NATS_URL", "nats://elsewhere:4222")
    ran = run("doctor")
    assert ran.code == 0
    assert "raw ids included, stay in the broker" in ran.out


def test_settings_that_show_who_somebody_is_are_warned_of(run, monkeypatch):
    monkeypatch.setenv("CASCADENCE_EMIT_RAW_USER_ID", "true")
    monkeypatch.setenv("NATS_URL", "nats://elsewhere:4222")
    monkeypatch.setenv("CASCADENCE_ERASE_INBOUND", "true")
    warnings = " ".join(run("doctor", "--json").json["warnings"])
    assert "emit_raw_user_id" in warnings
    assert "not ours alone" in warnings


def test_a_daemon_is_asked_how_it_is(run, daemon):
    bus = {"connected": False, "url": "nats://h:1", "epoch": "e", "outbox_pending": 0}
    daemon.answers["/rpc/status"] = (200, {"bus": bus, "read_only": "disk full"})
    report = run("doctor", "--json").json
    assert report["daemon"]["bus"] == "no connection to nats://h:1"
    problems = " ".join(report["problems"])
    assert "no connection to NATS" in problems
    assert "disk full" in problems
    assert any("9.9.9" in warning for warning in report["warnings"])


@pytest.mark.parametrize(
    ("bus", "where", "said"),
    [
        ({"well": False}, "problems", "does not do its work"),
        ({"well": True, "n_to_repair": 1}, "warnings", "publishing it again"),
    ],
)
def test_what_became_of_the_broker_is_told(run, daemon, bus, where, said):
    about = {"connected": True, "url": "nats://h:1", "epoch": "e", "outbox_pending": 0, "last_break": "then, wiped"}
    daemon.answers["/rpc/status"] = (200, {"bus": about | bus, "read_only": None})
    report = run("doctor", "--json").json
    assert report["daemon"]["bus"] == "connected to nats://h:1, last break then, wiped"
    assert said in " ".join(report[where])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('example: "61 * * * *"\n', "schedules.yml: line 1: example: 'expr': the minute (61) is not valid"),
        ("example: [\n", "schedules.yml: line 2: is not YAML"),
    ],
)
def test_a_schedules_file_that_changes_nothing_is_wrong(run, folder, content, says):
    folder.mkdir(mode=0o700)
    (folder / "schedules.yml").write_text(content)
    ran = run("doctor")
    assert ran.code == 1
    assert says in ran.out


def test_a_schedule_of_no_task_is_a_warning(run, folder):
    folder.mkdir(mode=0o700)
    (folder / "schedules.yml").write_text('exmaple: "0 9 * * *"\nexample: "0 9 * * *"\n')
    report = run("doctor", "--json").json
    assert report["problems"] == []
    assert report["warnings"] == ["schedules.yml: line 1: there is no task exmaple: its schedule fires nothing"]


NEEDY = """
class One:
    name, dependencies = "one", ["two"]
    def run(self): ...

class Two:
    name, dependencies = "two", ["one"]
    def run(self): ...

class Three:
    name, dependencies = "three", ["foru"]
    def run(self): ...
"""


def test_tasks_that_need_themselves_are_wrong_and_those_that_need_nobody_a_warning(run, folder, tmp_path, monkeypatch):
    (tmp_path / "needy.py").write_text(NEEDY)
    monkeypatch.setenv("CASCADENCE_PLUGIN_PATHS", "needy:One,needy:Two,needy:Three")
    report = run("doctor", "--json").json
    assert report["problems"] == [
        "the plugin needy:One cannot be used: Cyclic dependency detected: one -> two -> one",
        "the plugin needy:Two cannot be used: Cyclic dependency detected: two -> one -> two",
    ]
    assert report["warnings"][-1].startswith("the task three is to run after foru, and there is no such task")
    listed = run("list")
    assert "one\t" not in listed.out
    assert "warning: needy:One is not loaded: Cyclic dependency detected: one -> two -> one\n" in listed.err


def test_a_follow_up_that_there_is_no_task_of_is_wrong(run, monkeypatch):
    monkeypatch.setenv("CASCADENCE_FOLLOW_UP_TASK", "agnet")
    assert run("doctor", "--json").json["problems"] == [
        "follow_up_task: there is no task agnet: nothing follows a failed run"
    ]
    monkeypatch.setenv("CASCADENCE_FOLLOW_UP_TASK", "")
    assert run("doctor", "--json").json["problems"] == []


def test_what_a_class_nearly_says_is_a_warning(run, tmp_path, monkeypatch):
    (tmp_path / "spelt.py").write_text(
        'class Bill:\n    name = "bill"\n    delivry = "at_most_once"\n    def run(self): ...\n'
    )
    monkeypatch.setenv("CASCADENCE_PLUGIN_PATHS", "spelt:Bill")
    report = run("doctor", "--json").json
    assert report["problems"] == []
    assert report["warnings"][-1] == "the task bill has delivry, which means nothing here: did you mean delivery?"


def test_what_entries_are_to_run_after_is_looked_at_as_well(run, folder):
    folder.mkdir(mode=0o700)
    (folder / "schedules.yml").write_text(
        "example: {expr: 0 9 * * *, deps: [sleeper]}\n"
        "sleeper: {expr: 0 9 * * *, deps: [example]}\n"
        "countdown: {expr: 0 9 * * *, deps: [exmaple]}\n"
    )
    report = run("doctor", "--json").json
    assert report["problems"] == [
        "schedules.yml: line 1: example: Cyclic dependency detected: example -> sleeper -> example",
        "schedules.yml: line 2: sleeper: Cyclic dependency detected: sleeper -> example -> sleeper",
    ]
    assert report["warnings"] == [
        "schedules.yml: line 3: countdown is to run after exmaple, and there is no such task: its runs are refused"
    ]


def test_no_schedules_are_looked_at_where_none_are_kept(run, folder, monkeypatch):
    monkeypatch.setenv("CASCADENCE_SCHEDULER", "base")
    folder.mkdir(mode=0o700)
    (folder / "schedules.yml").write_text("example: [\n")
    assert run("doctor").code == 0


def test_a_folder_that_cannot_be_looked_into_is_wrong_and_the_rest_is_told(run, folder, monkeypatch):
    folder.mkdir(mode=0o700)
    real = Path.stat

    def stat(path, **how):
        if path.parent == folder:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, **how)

    monkeypatch.setattr(Path, "stat", stat)
    monkeypatch.setattr("os.access", lambda path, mode, **how: path != folder)
    ran = run("doctor")
    assert ran.code == 1
    assert f"wrong  {folder} cannot be read and written by this user" in ran.out
    assert "CASCADENCE_DATA_DIR" in ran.out


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("vault.key", None, "cannot be read without its key"),
        ("vault.key", b"k" * 32, "is not the key of"),
        ("vault.db", None, "vault.db is gone"),
        ("log.db", None, "log.db is gone"),
        ("hash.secret", None, "hash.secret cannot be read"),
        ("hash.secret", b"0" * 64 + b"\n", "were made with another secret"),
        ("restore.unfinished", b"", "was interrupted: do it again"),
    ],
)
def test_whatever_would_keep_a_daemon_from_starting_is_wrong(run, folder, name, content, says):
    run("run", "example", *WHO)
    for path in folder.glob(f"{name}*"):
        path.unlink()
    if content is not None:
        (folder / name).write_bytes(content)
        (folder / name).chmod(0o600)
    before = {path.name for path in folder.iterdir()}
    ran = run("doctor", "--json")
    assert ran.code == 1
    assert len([problem for problem in ran.json["problems"] if says in problem]) == 1, ran.json["problems"]
    made = {path.name for path in folder.iterdir()} - before
    assert made <= {f"{name}-{kind}" for name in ("log.db", "vault.db") for kind in ("shm", "wal")}
    assert run("run", "example", *WHO).code == 78


def test_a_damaged_event_is_wrong_and_named_with_what_to_do(run, folder):
    run("run", "example", *WHO)
    with closing(sqlite3.connect(folder / "log.db")) as connection, connection:
        connection.execute("DROP TRIGGER events_are_not_changed")
        connection.execute("UPDATE events SET data = CAST(data || ' ' AS BLOB) WHERE position = 7")
    for ran in (run("doctor"), run("log", "verify")):
        assert ran.code
        said = ran.out + ran.err
        assert "event 7 is not what was recorded" in said
        assert "cascadenced log restore BACKUP" in said
