"""`log backup` and `log restore`, without a daemon and with one that stands in."""

from __future__ import annotations

from pathlib import Path

import pytest

from cascadenced.eventlog.lock import DataFolderLock
from tests.commands.conftest import WHO
from tests.commands.stub import StubDaemon


def test_a_backup_is_made_and_put_back_without_a_daemon(run, folder: Path, tmp_path: Path) -> None:
    run("run", "example", *WHO)
    ran = run("log", "backup", "bk", "--json")  # relative to where the command was called
    assert ran.code == 0
    assert ran.json["path"] == str(tmp_path / "bk")
    assert ran.json["position"] == run("log", "verify", "--json").json["position"]
    other = tmp_path / "other"
    ran = run("log", "restore", "bk", "--data-dir", other)
    assert ran.code == 0
    assert "position" in ran.out
    assert run("runs", "--data-dir", other, "--json").json == run("runs", "--json").json
    assert run("run", "example", *WHO, "--data-dir", other).code == 0


def test_that_a_backup_holds_the_keys_is_said(run, tmp_path: Path) -> None:
    run("run", "example", *WHO)
    assert "can name the users" in run("log", "backup", tmp_path / "bk").err
    assert run("log", "backup", tmp_path / "bk2", "--without-keys").err == ""


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("backup", "taken"), 1, "is there already"),
        (("backup", "nowhere/bk"), 1, "there is no folder"),
        (("backup", "dev/null/bk"), 1, "cannot be used"),
        (("backup",), 2, "Missing argument"),
        (("restore", "bk"), 1, "add --force"),
        (("restore", "nowhere"), 1, "not there"),
        (("restore", "taken", "--force"), 1, "not a complete backup"),
        (("restore", "damaged", "--force"), 74, "vault.db has"),
        (("restore", "newer", "--force"), 78, "newer version"),
    ],
)
def test_what_cannot_be_done_is_told_with_its_exit_code(
    run, tmp_path: Path, arguments: tuple[str, ...], code: int, said: str
) -> None:
    run("run", "example", *WHO)
    for name in ("bk", "damaged", "newer"):
        assert run("log", "backup", name).code == 0
    with (tmp_path / "damaged" / "vault.db").open("ab") as file:
        file.write(b"!")
    (tmp_path / "newer" / "backup.json").write_text('{"format": 2}')
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine").touch()
    (tmp_path / "dev").symlink_to("/dev")
    ran = run("log", *arguments)
    assert (ran.code, said in ran.err) == (code, True), ran.err
    assert "Traceback" not in ran.err


def test_a_folder_without_a_log_has_nothing_to_back_up(run, folder: Path, tmp_path: Path) -> None:
    ran = run("log", "backup", tmp_path / "bk")
    assert (ran.code, "nothing is recorded" in ran.err) == (1, True)
    assert not folder.exists()


def test_while_somebody_holds_the_folder_nothing_is_put_into_it(run, folder: Path, tmp_path: Path) -> None:
    run("run", "example", *WHO)
    run("log", "backup", tmp_path / "bk")
    lock = DataFolderLock.acquire(folder, "daemon")
    try:
        assert run("log", "restore", tmp_path / "bk", "--force").code == 75
        assert run("log", "backup", tmp_path / "bk2").code == 75  # no daemon answers, and somebody works there
    finally:
        lock.release()


def test_a_daemon_that_sees_other_folders_than_the_caller_is_found_out(run, daemon: StubDaemon, tmp_path: Path) -> None:
    summary = {"path": "x", "position": 1, "epoch": 1, "hash": "", "instance_id": "i", "n_bytes": 1, "has_keys": True}
    daemon.answers["/rpc/log_backup"] = (200, summary)
    ran = run("log", "backup", tmp_path / "bk")
    assert daemon.asked == [("/rpc/log_backup", {"folder": str(tmp_path / "bk"), "keys": True})]
    assert (ran.code, "sees another file system" in ran.err) == (1, True)


@pytest.mark.parametrize(("status", "error"), [(500, "log_corrupt"), (507, "disk_full")])
def test_a_daemon_that_finds_the_disk_at_fault_gives_the_commands_exit_code(
    run, daemon: StubDaemon, tmp_path: Path, status: int, error: str
) -> None:
    daemon.answers["/rpc/log_backup"] = (status, {"detail": "event 3 is not what was recorded", "error": error})
    assert run("log", "backup", tmp_path / "bk").code == 74
