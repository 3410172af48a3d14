"""A backup of a real data folder: what is in it, what it is checked for, and how it is put back."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import sqlite3
import stat
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from cascadenced import backup
from cascadenced.backup import make, restore
from cascadenced.clock import FakeClock
from cascadenced.config import Config
from cascadenced.errors import (
    BackupDamaged,
    CascadenceError,
    ConfigError,
    Conflict,
    DiskFull,
    Invalid,
    Unknown,
)
from cascadenced.eventlog.copying import check_log
from cascadenced.identity import Identity
from cascadenced.instance import open_instance
from cascadenced.plugins.discover import collect
from tests.doubles import ALICE, run


class Greeter:
    name = "greeter"

    async def run(self) -> str:
        return f"hello, {len(self.user_id)} letters"  # type: ignore[attr-defined]


TASKS = collect([("greeter", Greeter)])


def nothing() -> None:
    """Nobody else is there."""


def made(config: Config, folder: Path, *, keys: bool = True, pause: Callable[[], object] = nothing) -> backup.Summary:
    return make(config, folder, keys=keys, clock=FakeClock(), pause=pause)


def put_back(
    config: Config, folder: Path, *, keys: Path | None = None, force: bool = False, later_s: float = 0
) -> backup.Summary:
    """later_s: than the backup was made."""
    Path(config.data_dir).mkdir(mode=0o700, exist_ok=True)
    clock = FakeClock()
    clock.jump(later_s)
    return restore(config, folder, keys=keys, force=force, clock=clock)


def die_at(point: str) -> Callable[[str], None]:
    def crashpoint(name: str) -> None:
        if name == point:
            raise KeyboardInterrupt

    return crashpoint


async def greeted(config: Config, *users: str) -> list[Any]:
    """The results of one run for each user; how many events there are is in the log."""
    async with open_instance(config, who="a test", catalogue=TASKS) as instance:
        return [(await run(instance, "greeter", Identity(user, "eng"))).run.result for user in users]


@pytest.fixture
async def config(tmp_path: Path) -> Config:
    """A data folder with a run in it."""
    config = Config(data_dir=str(tmp_path / "data"))
    await greeted(config, "alice")
    return config


@pytest.fixture
def fresh(tmp_path: Path) -> Config:
    """Another machine."""
    return Config(data_dir=str(tmp_path / "fresh"))


# ── what is in it ────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_backup_holds_log_vault_and_keys_for_their_owner_only(config: Config, tmp_path: Path) -> None:
    summary = made(config, tmp_path / "bk")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "bk").iterdir()}
    assert modes == dict.fromkeys(("backup.json", "log.db", "vault.db", "vault.key", "hash.secret"), 0o600)
    assert stat.S_IMODE((tmp_path / "bk").stat().st_mode) == 0o700
    assert summary.position == check_log(tmp_path / "bk" / "log.db").position > 4
    assert summary.has_keys
    assert b"alice" not in b"".join(path.read_bytes() for path in (tmp_path / "bk").iterdir())


async def test_without_its_keys_a_backup_says_which_it_needs(config: Config, tmp_path: Path) -> None:
    summary = made(config, tmp_path / "bk", keys=False)
    assert not summary.has_keys
    assert {path.name for path in (tmp_path / "bk").iterdir()} == {"backup.json", "log.db", "vault.db"}
    assert json.loads((tmp_path / "bk" / "backup.json").read_text())["left_out"] == ["vault.key", "hash.secret"]


async def test_a_user_who_comes_while_it_is_made_is_in_the_vault_if_in_the_log(config: Config, tmp_path: Path) -> None:
    async with open_instance(config, who="a test", catalogue=TASKS) as instance:
        loop, n = asyncio.get_running_loop(), 0

        def somebody_comes() -> None:
            nonlocal n
            n += 1
            if n <= 5:
                running = run(instance, "greeter", Identity(f"user-{n}", "eng"))
                asyncio.run_coroutine_threadsafe(running, loop).result(10)

        await asyncio.to_thread(made, config, tmp_path / "bk", pause=somebody_comes)
        assert n > 5
    with (
        closing(sqlite3.connect(tmp_path / "bk" / "log.db")) as log,
        closing(sqlite3.connect(tmp_path / "bk" / "vault.db")) as vault,
    ):
        named = set(log.execute("SELECT user_hash FROM events WHERE type = 'run.requested'"))
        assert named
        assert named <= set(vault.execute("SELECT pseudonym FROM identity WHERE kind = 'user'"))


async def test_making_one_changes_nothing_in_the_data_folder(config: Config, tmp_path: Path) -> None:
    before = Path(config.log_path).read_bytes()
    made(config, tmp_path / "bk")
    assert Path(config.log_path).read_bytes() == before


# ── one that does not come about ─────────────────────────────────────────────────────────────────────────────────


async def test_of_a_backup_that_was_given_up_nothing_is_left(config: Config, tmp_path: Path) -> None:
    n = 0

    def give_up() -> None:
        nonlocal n
        n += 1
        if n == 4:
            raise KeyboardInterrupt

    before = sorted(tmp_path.iterdir())
    with pytest.raises(KeyboardInterrupt):
        made(config, tmp_path / "bk", pause=give_up)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("taken", ["file", "folder", "link"])
async def test_what_is_there_is_not_overwritten(config: Config, tmp_path: Path, taken: str) -> None:
    path = tmp_path / "bk"
    if taken == "file":
        path.write_text("mine")
    elif taken == "folder":
        path.mkdir()
        (path / "mine").touch()
    else:
        path.symlink_to(tmp_path)
    with pytest.raises(Conflict, match="is there already"):
        made(config, path)


async def test_bad_targets_are_told(config: Config, tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="there is no folder"):
        made(config, tmp_path / "nowhere" / "bk")
    with pytest.raises(Invalid, match="absolute"):
        made(config, Path("bk"))
    with pytest.raises(Unknown, match="nothing is recorded"):
        made(Config(data_dir=str(tmp_path / "empty")), tmp_path / "bk")


async def test_a_full_disk_is_told_and_leaves_nothing(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFull, match="No space left"):
        made(config, tmp_path / "bk")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


async def test_a_damaged_log_is_not_backed_up_as_if_it_were_good(config: Config, tmp_path: Path) -> None:
    with closing(sqlite3.connect(config.log_path, isolation_level=None)) as connection:
        connection.execute("DROP TRIGGER events_are_not_changed")
        connection.execute("UPDATE events SET type = 'x' WHERE position = 3")
    with pytest.raises(CascadenceError, match="event 3"):
        made(config, tmp_path / "bk")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


# ── putting it back ──────────────────────────────────────────────────────────────────────────────────────────────


async def test_what_is_put_back_goes_on_in_a_higher_epoch_with_the_same_pseudonyms(
    config: Config, fresh: Config, tmp_path: Path
) -> None:
    summary = made(config, tmp_path / "bk")
    done = put_back(fresh, tmp_path / "bk")
    assert (done.position, done.hash, done.epoch) == (summary.position, summary.hash, summary.epoch + 1)
    assert await greeted(fresh, "alice") == ["hello, 5 letters"]
    end = check_log(Path(fresh.log_path))
    assert end.epoch == summary.epoch + 2
    with closing(sqlite3.connect(fresh.log_path)) as log:
        hashes = set(log.execute("SELECT user_hash FROM events WHERE type = 'run.requested'"))
    assert len(hashes) == 1


async def test_no_epoch_is_taken_that_the_lost_log_may_have_had_after_the_backup(
    config: Config, fresh: Config, tmp_path: Path
) -> None:
    made(config, tmp_path / "bk")
    for _ in range(3):
        await greeted(config, "alice")
    lost = check_log(Path(config.log_path)).epoch
    put_back(fresh, tmp_path / "bk", later_s=60)
    assert check_log(Path(fresh.log_path)).epoch > lost


async def test_a_restore_that_is_done_again_after_an_interruption_takes_no_epoch_of_what_it_moved_aside(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(config, tmp_path / "bk")
    for _ in range(3):
        await greeted(config, "alice")
    before = check_log(Path(config.log_path)).epoch
    monkeypatch.setattr(backup, "crashpoint", die_at("restore.half"))
    with pytest.raises(KeyboardInterrupt):
        put_back(config, tmp_path / "bk", force=True, later_s=60)
    monkeypatch.undo()
    assert put_back(config, tmp_path / "bk", force=True, later_s=61).epoch > before


async def test_a_manifest_without_a_time_is_damage(config: Config, fresh: Config, tmp_path: Path) -> None:
    made(config, tmp_path / "bk")
    path = tmp_path / "bk" / "backup.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "made_at": "yesterday"}))
    with pytest.raises(BackupDamaged, match="'yesterday'"):
        put_back(fresh, tmp_path / "bk")


async def test_keys_that_were_left_out_are_taken_from_where_they_lie(
    config: Config, fresh: Config, tmp_path: Path
) -> None:
    made(config, tmp_path / "bk", keys=False)
    with pytest.raises(Invalid, match="--keys"):
        put_back(fresh, tmp_path / "bk")
    put_back(fresh, tmp_path / "bk", keys=Path(config.data_dir))
    assert await greeted(fresh, "alice") == ["hello, 5 letters"]


async def test_keys_of_another_folder_are_refused(config: Config, fresh: Config, tmp_path: Path) -> None:
    other = Config(data_dir=str(tmp_path / "other"))
    await greeted(other, "bob")
    made(config, tmp_path / "bk", keys=False)
    with pytest.raises(ConfigError, match=r"vault\.key is not the key"):
        put_back(fresh, tmp_path / "bk", keys=Path(other.data_dir))
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    (mixed / "vault.key").write_bytes(config.vault_key_path.read_bytes())
    (mixed / "hash.secret").write_bytes(other.hash_secret_path.read_bytes())
    for path in mixed.iterdir():
        path.chmod(0o600)
    with pytest.raises(ConfigError, match="hash secret in force"):
        put_back(fresh, tmp_path / "bk", keys=mixed)
    with pytest.raises(ConfigError, match="hash secret in force"):
        put_back(Config(data_dir=fresh.data_dir, hash_secret="another one"), tmp_path / "bk", keys=mixed)
    assert list(Path(fresh.data_dir).iterdir()) == []


async def test_a_folder_that_is_not_empty_is_left_alone_without_force(config: Config, tmp_path: Path) -> None:
    made(config, tmp_path / "bk")
    await greeted(config, "bob")
    before = Path(config.log_path).read_bytes()
    with pytest.raises(Conflict, match="not empty"):
        put_back(config, tmp_path / "bk")
    assert Path(config.log_path).read_bytes() == before


async def test_force_moves_what_was_there_aside_and_leaves_the_brokers_store(config: Config, tmp_path: Path) -> None:
    summary = made(config, tmp_path / "bk")
    await greeted(config, "bob")
    newer = check_log(Path(config.log_path))
    (Path(config.data_dir) / "nats").mkdir()
    done = put_back(config, tmp_path / "bk", force=True)
    assert done.replaced is not None
    assert check_log(Path(done.replaced) / "log.db") == newer
    assert done.epoch > newer.epoch
    assert (Path(config.data_dir) / "nats").is_dir()
    assert check_log(Path(config.log_path)).position == summary.position


@pytest.mark.parametrize("name", ["log.db", "vault.db", "hash.secret", "vault.key"])
@pytest.mark.parametrize("how", ["cut", "flipped", "gone"])
async def test_a_damaged_backup_is_refused_before_anything_is_touched(
    config: Config, tmp_path: Path, name: str, how: str
) -> None:
    made(config, tmp_path / "bk")
    path, whole = tmp_path / "bk" / name, (tmp_path / "bk" / name).read_bytes()
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes(whole[:-1] if how == "cut" else whole[:-1] + bytes([whole[-1] ^ 1]))
    before = {path: path.read_bytes() for path in Path(config.data_dir).iterdir() if path.is_file()}
    with pytest.raises(BackupDamaged, match=name.replace(".", r"\.")):
        put_back(config, tmp_path / "bk", force=True)
    assert {path: path.read_bytes() for path in Path(config.data_dir).iterdir() if path.is_file()} == before


async def test_a_manifest_that_speaks_of_another_log_is_damage(config: Config, fresh: Config, tmp_path: Path) -> None:
    made(config, tmp_path / "bk")
    path = tmp_path / "bk" / "backup.json"
    said = json.loads(path.read_text())
    path.write_text(json.dumps({**said, "position": said["position"] - 1}))
    with pytest.raises(BackupDamaged, match="the log ends at"):
        put_back(fresh, tmp_path / "bk")
    path.write_text(json.dumps({**said, "files": {**said["files"], "../../evil": said["files"]["log.db"]}}))
    with pytest.raises(BackupDamaged, match="none of a backup"):
        put_back(fresh, tmp_path / "bk")


async def test_what_is_no_backup_is_told(config: Config, fresh: Config, tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="not there"):
        put_back(fresh, tmp_path / "nowhere")
    with pytest.raises(Invalid, match="not a folder"):
        put_back(fresh, Path(config.log_path))
    with pytest.raises(Invalid, match="not a complete backup"):
        put_back(fresh, Path(config.data_dir))
    made(config, tmp_path / "bk")
    (tmp_path / "bk" / "backup.json").write_text('{"format": 99, "anything": "else"}')
    with pytest.raises(ConfigError, match="newer version"):
        put_back(fresh, tmp_path / "bk")
    (tmp_path / "bk" / "backup.json").write_text("{")
    with pytest.raises(BackupDamaged, match=r"backup\.json cannot be read"):
        put_back(fresh, tmp_path / "bk")


async def test_a_folder_in_which_a_restore_was_interrupted_is_opened_by_nobody_until_it_is_done_again(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(config, tmp_path / "bk")
    monkeypatch.setattr(backup, "crashpoint", die_at("restore.half"))
    with pytest.raises(KeyboardInterrupt):
        put_back(config, tmp_path / "bk", force=True)
    monkeypatch.undo()
    with pytest.raises(ConfigError, match="was interrupted"):
        await greeted(config, "alice")
    put_back(config, tmp_path / "bk", force=True)
    assert await greeted(config, ALICE.user_id) == ["hello, 5 letters"]
