"""How a command reaches the data: a daemon, the folder itself, or neither."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import msgspec
import pytest

from cascadenced.commands import door
from cascadenced.config import Config
from cascadenced.errors import (
    CascadenceError,
    Conflict,
    DiskError,
    DiskFull,
    Invalid,
    LogHeld,
    NotAllowed,
    Overloaded,
    RunFailedError,
    Unavailable,
    Unknown,
)
from cascadenced.eventlog.lock import DataFolderLock
from cascadenced.refusals import answer
from cascadenced.verbs import LOCAL_VERBS, VERBS
from cascadenced.workflows import dispatch
from tests.commands.conftest import REPO, WHO, outcome, spawn

HOLD = """
import sys
from cascadenced.eventlog.lock import DataFolderLock
lock = DataFolderLock.acquire(sys.argv[1], "the command run")
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder(folder):
    """Another process that holds the folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], cwd=REPO, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout.readline() == b"held\n"
    yield process
    process.stdin.close()
    process.wait(30)
    process.stdout.close()


# ── with a daemon ────────────────────────────────────────────────────────────────────────────────────────────


def test_a_daemon_is_asked_over_its_socket(run, daemon):
    daemon.answers["/rpc/run"] = (200, {"run_id": "r1", "status": "success", "result": 3, "duplicate": False})
    ran = run("run", "example", *WHO, "--args", '{"n": 1}', "--idempotency-key", "k")
    assert (ran.code, ran.out) == (0, "run-id\tr1\n")
    assert daemon.asked == [
        (
            "/rpc/run",
            {
                "task": "example",
                "user_id": "alice",
                "group_id": "eng",
                "args": {"n": 1},
                "idempotency_key": "k",
                "wait": True,
            },
        )
    ]
    assert not (daemon.folder / "log.db").exists()


def test_a_list_asks_the_daemon_and_imports_nothing_heavy(daemon):
    daemon.answers["/rpc/list"] = (200, [{"name": "example", "disabled": True}])
    code = (
        "import sys; from cascadenced.cli import main; assert main(['list']) == 0; "
        "print(sorted({'aiohttp', 'nats', 'ruamel', 'cryptography', 'croniter', 'asyncio', 'structlog', 'sqlite3', "
        "'msgspec', 'pathlib', 'dataclasses', 'logging', 'subprocess', 'hashlib', 'ipaddress'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, timeout=30)
    assert done.stdout == "example\tdisabled\n[]\n"


def test_a_failed_run_keeps_its_id_and_reason_on_the_way(run, daemon):
    daemon.answers["/rpc/run"] = (400, {"detail": "boom", "error": "run_failed", "run_id": "r9"})
    ran = run("run", "example", *WHO)
    assert (ran.code, ran.out, ran.err) == (1, "run-id\tr9\n", "error: boom\n")


@pytest.mark.parametrize(
    "error",
    [
        Invalid("a"),
        Unknown("a", code="unknown_task"),
        Conflict("a", code="paused"),
        NotAllowed("a"),
        Overloaded("a"),
        Unavailable("a"),
        DiskFull("a"),
        DiskError("a"),
        RunFailedError("a", error_type="ValueError", run_id="r1"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_is_of_the_same_class_on_both_ends_of_the_socket(error: CascadenceError):
    said = answer(error)
    rebuilt = door.error_of(said.status, msgspec.json.encode(said.body))
    assert type(rebuilt) is type(error)
    assert (str(rebuilt), rebuilt.code) == (str(error), error.code)
    assert getattr(rebuilt, "run_id", None) == getattr(error, "run_id", None)


def test_what_the_door_says_of_verbs_is_true_of_the_table():
    """It has no time to import them."""
    assert {verb.name for verb in VERBS.values() if verb.reads} == door.READING
    assert door.ONCE.issubset([*VERBS, *LOCAL_VERBS])


def test_an_answer_that_is_no_json_is_an_error_in_words():
    assert "status 500" in str(door.error_of(500, b"<html>"))


def test_a_full_disk_of_the_daemon_exits_74(run, daemon):
    daemon.answers["/rpc/run"] = (507, {"detail": "no space left", "error": "disk_full"})
    ran = run("run", "example", *WHO)
    assert (ran.code, ran.err) == (74, "error: no space left\n")


def test_a_daemon_that_hangs_up_leaves_a_run_in_doubt(run, daemon):
    daemon.answers["/rpc/run"] = None
    ran = run("run", "example", *WHO)
    assert ran.code == 1
    assert "went away before it answered" in ran.err
    assert len(daemon.asked) == 1


def test_a_daemon_that_hangs_up_is_not_needed_for_what_may_be_repeated(run, daemon):
    daemon.answers["/rpc/list"] = None
    assert "example\tenabled" in run("list").out
    daemon.answers["/rpc/pointer_add"] = None
    assert run("pointer-add", "bookmarks", "alice", "r1").code == 0


def test_what_a_killed_daemon_left_does_not_matter(run, daemon):
    daemon.__exit__()
    assert daemon.socket.exists()
    assert (daemon.folder / "daemon.json").exists()
    assert run("run", "example", *WHO).code == 0
    assert run("list").code == 0


@pytest.mark.parametrize("note", ["", "{", "[]", '{"pid": 1}', "\udcff"])
def test_a_note_that_cannot_be_read_is_none(run, folder, note):
    folder.mkdir(mode=0o700)
    (folder / "daemon.json").write_bytes(note.encode(errors="surrogateescape"))
    assert run("list").code == 0


def test_a_copied_folder_does_not_lead_to_the_daemon_of_the_original(run, daemon, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir(mode=0o700)
    (copy / "daemon.json").write_bytes((daemon.folder / "daemon.json").read_bytes())
    assert run("run", "example", *WHO, "--data-dir", copy).code == 0
    assert daemon.asked == []


def test_a_folder_with_a_long_name_is_found_by_its_short_socket(run, tmp_path, daemon):
    folder = tmp_path / ("long" * 30)
    folder.mkdir(mode=0o700)
    short = Config(data_dir=str(folder)).socket_path
    assert short.parent != folder
    elsewhere = tmp_path / short.name
    elsewhere.symlink_to(daemon.socket)  # it may be found anywhere, as long as it is named after the folder
    daemon.write_note(socket=str(elsewhere))
    (daemon.folder / "daemon.json").rename(folder / "daemon.json")
    daemon.answers["/rpc/list"] = (200, [])
    assert run("list", "--data-dir", folder).out == ""
    assert daemon.asked == [("/rpc/list", {})]


async def test_scripts_ask_from_within_a_running_loop(daemon):
    daemon.answers["/rpc/dispatch"] = (200, {"event": "e", "run_id": "r", "status": "success", "result": {"a": 1}})
    assert await dispatch("e", {"n": 1}, user_id="alice") == {"a": 1}
    assert daemon.asked[0][1] == {
        "event": "e",
        "payload": {"n": 1},
        "user_id": "alice",
        "group_id": "alice",
        "via": "python",
    }
    daemon.answers["/rpc/dispatch"] = (409, {"detail": "paused", "error": "paused"})
    with pytest.raises(Conflict, match="paused"):
        await dispatch("e", user_id="alice")
    daemon.answers["/rpc/dispatch"] = None
    with pytest.raises(Unavailable, match="went away"):
        await dispatch("e", user_id="alice")


# ── without one ──────────────────────────────────────────────────────────────────────────────────────────────


def test_a_script_without_a_daemon_does_the_work_itself():
    assert dispatch("demo.greeting", {"name": "Ada"}, user_id="alice") == {"greeting": "Hello, Ada!"}


@pytest.mark.slow
def test_a_folder_in_use_exits_75_naming_the_holder(run, holder):
    ran = run("run", "example", *WHO)
    assert ran.code == 75
    assert str(holder.pid) in ran.err


@pytest.mark.slow
def test_reading_needs_no_lock(run, holder):
    assert run("list").code == 0
    assert run("runs").code == 0
    assert run("status").code == 0


@pytest.mark.slow
def test_a_command_waits_for_the_folder_to_become_free(holder):
    process = spawn("run", "example", *WHO, CASCADENCE_LOCK_WAIT_S="20")
    time.sleep(0.5)
    holder.stdin.close()
    assert outcome(process).code == 0


@pytest.mark.slow
def test_a_daemon_that_comes_up_meanwhile_is_asked(holder, daemon):
    daemon.answers["/rpc/run"] = (200, {"run_id": "r1", "status": "success", "result": None, "duplicate": False})
    (daemon.folder / "daemon.json").rename(daemon.folder / "later")
    process = spawn("run", "example", *WHO, CASCADENCE_LOCK_WAIT_S="20")
    time.sleep(0.5)
    (daemon.folder / "later").rename(daemon.folder / "daemon.json")
    assert outcome(process).out == "run-id\tr1\n"


def test_a_process_that_holds_the_folder_itself_is_told_at_once(folder, monkeypatch):
    monkeypatch.setenv("CASCADENCE_LOCK_WAIT_S", "30")
    lock = DataFolderLock.acquire(folder)
    try:
        with pytest.raises(LogHeld, match="this process"):
            dispatch("demo.greeting", user_id="alice")
    finally:
        lock.release()


@pytest.mark.slow
def test_an_interrupted_run_is_recorded_as_such_and_stays_open(run, plugins, tmp_path):
    process = spawn("run", "waits", *WHO, "--args", '{"file": "never"}', "--idempotency-key", "k")
    wait_for_a_stage(run, "waits")
    process.send_signal(signal.SIGINT)
    ran = outcome(process)
    assert ran.code == 130
    assert "Traceback" not in ran.err
    assert "never retrieved" not in ran.err
    types = [line["type"] for line in map(msgspec.json.decode, run("log", "export").out.splitlines())]
    assert types[-1] == "stage.interrupted"
    again = run("run", "waits", *WHO, "--args", '{"file": "never"}', "--idempotency-key", "k")
    assert again.code == 1
    assert "goes on when the daemon starts" in again.err


@pytest.mark.slow
def test_runs_of_others_are_left_alone(run, plugins, tmp_path):
    process = spawn("run", "waits", *WHO, "--args", '{"file": "never"}')
    wait_for_a_stage(run, "waits")
    process.kill()
    outcome(process)
    assert run("run", "example", *WHO).code == 0
    assert run("runs", "--task", "waits", "--json").json["items"][0]["status"] == "running"
    assert "1 unfinished" in run("status").out


def wait_for_a_stage(run, task: str) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if any(row["stage"] == "run" for row in run("runs", "--task", task, "--json").json["items"]):
            return
        time.sleep(0.02)
    raise AssertionError("the run did not start")
