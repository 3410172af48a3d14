"""Starting and stopping: what needs no NATS."""

from __future__ import annotations

import subprocess
import sys

import pytest

from cascadenced.commands.demo import _command
from cascadenced.config import Config
from tests.commands.conftest import REPO, outcome, spawn

STARTING = """
import sys, time
from cascadenced.eventlog.lock import DataFolderLock
lock = DataFolderLock.acquire(sys.argv[1], sys.argv[2])
print("held", flush=True)
time.sleep(60)
"""


def test_up_hands_the_configuration_to_the_daemon(run, monkeypatch, folder):
    given: list[Config] = []
    monkeypatch.setattr("cascadenced.daemon.serve", lambda config, announce, read: given.append(read()) or 7)
    assert run("up").code == 7
    assert given[0].data_dir == str(folder)


def test_demo_tells_its_story_line_by_line(run, monkeypatch):
    monkeypatch.setattr("cascadenced.commands.demo.demo", lambda say: say("once upon a time") or 0)
    assert run("demo").out == "once upon a time\n"


@pytest.mark.parametrize("here", [True, False])
def test_the_demo_names_a_command_that_is_there(monkeypatch, tmp_path, here):
    scripts = tmp_path / "a b/bin"
    scripts.mkdir(parents=True)
    for name in ("python", "cascadenced"):
        (scripts / name).touch(mode=0o755)
    monkeypatch.setattr("sys.executable", str(scripts / "python"))
    monkeypatch.setenv("PATH", str(scripts) if not here else "")
    monkeypatch.chdir(tmp_path)
    assert _command() == ("'a b/bin/cascadenced'" if here else "cascadenced")
    (scripts / "cascadenced").unlink()
    assert _command() == f"'{scripts}/python' -m cascadenced"


def test_a_daemon_that_is_up_is_not_started_again(run, daemon):
    daemon.answers["/rpc/list"] = (200, [])
    ran = run("up", "--detach")
    assert ran.code == 0
    assert "is up already" in ran.out
    assert "secret" not in ran.out
    assert set(run("up", "--detach", "--json").json) == {"pid", "http_url", "socket", "version", "instance_id"}


def test_what_to_type_next_is_for_the_same_folder(run, daemon, tmp_path):
    daemon.answers["/rpc/list"] = (200, [])
    assert "  stop    cascadenced down\n" in run("up", "--detach").out
    (tmp_path / "a b.yml").write_text(f"data_dir: {daemon.folder}\n")
    ran = run("--config", "a b.yml", "up", "--detach", "--data-dir", daemon.folder)
    given = f"cascadenced --config 'a b.yml' --data-dir {daemon.folder}"
    assert f"  try     {given} run example --user-id you --group-id team\n" in ran.out
    assert f"  stop    {given} down\n" in ran.out


def test_up_says_which_plugins_the_daemon_could_not_use(run, daemon):
    daemon.answers["/rpc/list"] = (200, [])
    daemon.answers["/rpc/status"] = (200, {"rejected": {"tasks:Report": "tasks has no Report"}})
    ran = run("up", "--detach")
    assert (ran.code, ran.err) == (0, "warning: tasks:Report is not loaded: tasks has no Report\n")


def test_stopping_nothing_is_no_failure(run, folder):
    ran = run("down")
    assert (ran.code, ran.out) == (0, f"no daemon is up on {folder}\n")
    assert not folder.exists()
    assert run("down", "--json").json == {"stopped": None}


def test_down_asks_and_waits_until_the_folder_is_free(run, daemon):
    daemon.answers["/stop"] = (202, {"status": "stopping"})
    ran = run("down")
    assert ran.code == 0
    assert ran.out.startswith("daemon stopped")
    assert daemon.asked == [("/stop", None)]


def test_down_gives_up_in_words(run, daemon, monkeypatch):
    daemon.answers["/stop"] = (202, {})
    monkeypatch.setenv("CASCADENCE_STOP_GRACE_S", "0")
    monkeypatch.setattr("cascadenced.commands.up._STOP_MARGIN_S", 0.1)
    monkeypatch.setattr("cascadenced.commands.up._holder", lambda config: __import__("os").getpid())
    ran = run("down")
    assert ran.code == 1
    assert "has not stopped within" in ran.err


@pytest.mark.slow
@pytest.mark.parametrize(("who", "ends"), [("daemon", True), ("the command run", False)])
def test_down_signals_a_daemon_that_is_still_starting_and_nobody_else(run, folder, who, ends):
    process = subprocess.Popen(
        [sys.executable, "-c", STARTING, str(folder), who], cwd=REPO, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    ran = run("down")
    assert ran.code == 0
    try:
        if ends:
            assert ran.out == f"daemon stopped (process {process.pid})\n"
            assert process.wait(10) < 0
        else:
            assert "no daemon is up" in ran.out
            assert process.poll() is None
    finally:
        process.kill()
        process.wait(10)
        process.stdout.close()


@pytest.mark.slow
def test_a_daemon_that_cannot_start_is_told_with_its_own_words_and_exit_code(folder):
    ran = outcome(spawn("up", "--detach", CASCADENCE_NATS_SERVER="/nowhere/nats-server"))
    assert ran.code == 78
    assert "exit code 78" in ran.err
    assert "no nats-server that could be run" in ran.err
    assert (folder / "daemon.log").stat().st_mode & 0o077 == 0
