"""The vault: what is remembered is sealed, durable, and given back to nobody without the key."""

from __future__ import annotations

import asyncio
import hashlib
import os
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

import cascadenced
from cascadenced import vault as vault_module
from cascadenced.errors import (
    CascadenceError,
    ConfigError,
    DiskError,
    DiskFull,
    Invalid,
    Unavailable,
    Unknown,
    VaultDamaged,
)
from cascadenced.identity import SYSTEM, Identity, Pseudonyms
from cascadenced.private_files import exclusive_folder, read_or_create, read_or_create_hex
from cascadenced.vault import Letter, MemoryVault, Vault, VaultPort

REPO = Path(cascadenced.__file__).parent.parent
NAMES = Pseudonyms("secret of the tests")
ALICE = Identity("alice@example.org", "engineering")
BOB = Identity("bob", "engineering")


def hashes(identity: Identity) -> tuple[str, str]:
    return NAMES.user(identity.user_id), NAMES.group(identity.group_id)


def digest(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


class Files:
    """The two files of one vault, and a way to open it."""

    def __init__(self, folder: Path) -> None:
        self.path, self.key_path = folder / "vault.db", folder / "vault.key"
        self._opened: list[Vault] = []

    async def open(self, **bounds: int) -> Vault:
        vault = await Vault.open(self.path, self.key_path, **bounds)
        self._opened.append(vault)
        return vault

    async def close(self) -> None:
        for vault in self._opened:
            await vault.close()

    def sql(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """From outside; only while no vault is open."""
        with sqlite3.connect(self.path) as connection:
            rows = connection.execute(statement, parameters).fetchall()
        connection.close()
        return rows


@pytest.fixture
async def files(tmp_path: Path) -> AsyncIterator[Files]:
    files = Files(tmp_path / "data")
    yield files
    await files.close()


@pytest.fixture(params=["file", "memory"])
async def vault(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[VaultPort]:
    bounds = {"max_letters": 3, "max_letter_bytes": 1000}
    made: VaultPort
    if request.param == "memory":
        made = MemoryVault(**bounds)
    else:
        made = await Vault.open(tmp_path / "vault.db", tmp_path / "vault.key", **bounds)
    yield made
    await made.close()


# --- every vault ------------------------------------------------------------------------------------------------------


async def test_a_remembered_identity_is_revealed_by_its_pseudonyms(vault: VaultPort):
    await vault.remember([ALICE, BOB, SYSTEM], NAMES)
    for identity in (ALICE, BOB, SYSTEM):
        assert await vault.reveal(*hashes(identity)) == identity
        assert await vault.user(NAMES.user(identity.user_id)) == identity.user_id


async def test_an_identity_that_was_never_remembered_is_unknown(vault: VaultPort):
    await vault.remember([ALICE], NAMES)
    with pytest.raises(Unknown, match="for the user"):
        await vault.reveal(*hashes(BOB))
    with pytest.raises(Unknown, match="for the group"):
        await vault.reveal(NAMES.user("alice@example.org"), NAMES.group("sales"))
    assert await vault.user(NAMES.user("bob")) is None


async def test_users_and_groups_of_one_name_are_kept_apart(vault: VaultPort):
    same = Pseudonyms("s", compat_sha256=True)
    await vault.remember([Identity("ops", "eng")], same)
    assert await vault.user(same.user("eng")) is None
    with pytest.raises(Unknown):
        await vault.reveal(same.user("eng"), same.group("ops"))
    await vault.remember([Identity("eng", "ops")], same)
    assert await vault.reveal(same.user("eng"), same.group("ops")) == Identity("eng", "ops")


async def test_remembering_twice_or_nobody_changes_nothing(vault: VaultPort):
    await vault.remember([], NAMES)
    await vault.remember([ALICE, ALICE], NAMES)
    await vault.remember([ALICE], NAMES)
    assert await vault.reveal(*hashes(ALICE)) == ALICE


async def test_who_is_kept_is_known_by_both_pseudonyms(vault: VaultPort):
    assert not vault.knows(*hashes(ALICE))
    await vault.remember([ALICE], NAMES)
    assert vault.knows(*hashes(ALICE))
    assert not vault.knows(NAMES.user(ALICE.user_id), NAMES.group("sales"))
    assert not vault.knows(NAMES.user("bob"), NAMES.group(ALICE.group_id))


@pytest.mark.parametrize("user_id", ["é", "е\u0301", "👩‍🚀", "x" * 256, "' OR 1=1 --", "a,b\\c"])
async def test_any_permitted_id_comes_back_as_it_was(vault: VaultPort, user_id: str):
    identity = Identity(user_id, user_id)
    await vault.remember([identity], NAMES)
    assert await vault.reveal(*hashes(identity)) == identity


async def test_a_sealed_letter_comes_back_as_it_was(vault: VaultPort):
    headers = {"Nats-Msg-Id": "7", "odd": "line\nbreak", "lone": "\udcff", "": "empty"}
    raw = bytes(range(256))
    await vault.seal_letter(digest(raw), "ume.event.\udcfe", headers, raw)
    assert await vault.open_letter(digest(raw)) == Letter("ume.event.\udcfe", headers, raw)


async def test_a_letter_that_never_was_is_unknown(vault: VaultPort):
    with pytest.raises(Unknown, match="no message is kept under feed"):
        await vault.open_letter("feed")


async def test_the_first_letter_under_a_digest_stays(vault: VaultPort):
    await vault.seal_letter("d", "first", {}, b"same")
    await vault.seal_letter("d", "second", {}, b"same")
    assert (await vault.open_letter("d")).subject == "first"


async def test_beyond_the_number_of_letters_the_oldest_drop_out(vault: VaultPort):
    for name in "abcd":
        await vault.seal_letter(name, name, {}, b"")
    with pytest.raises(Unknown):
        await vault.open_letter("a")
    assert [(await vault.open_letter(name)).subject for name in "bcd"] == ["b", "c", "d"]


async def test_beyond_the_bytes_of_letters_the_oldest_drop_out(vault: VaultPort):
    for name in "abc":
        await vault.seal_letter(name, name, {}, bytes(400))
    with pytest.raises(Unknown):
        await vault.open_letter("a")
    assert (await vault.open_letter("b")).raw == bytes(400)
    assert (await vault.open_letter("c")).raw == bytes(400)


async def test_a_letter_larger_than_all_of_them_may_be_is_refused_and_drops_nothing(vault: VaultPort):
    await vault.seal_letter("a", "a", {}, b"small")
    with pytest.raises(Invalid, match="too large to keep"):
        await vault.seal_letter("b", "b", {}, bytes(1000))
    assert (await vault.open_letter("a")).raw == b"small"


async def test_a_closed_vault_says_so_and_may_be_closed_again(vault: VaultPort):
    await vault.close()
    await vault.close()
    with pytest.raises(Unavailable):
        await vault.remember([ALICE], NAMES)
    with pytest.raises(Unavailable):
        await vault.user("x")


async def test_many_callers_at_once_all_get_what_they_asked_for(vault: VaultPort):
    people = [Identity(f"user-{number % 50}", f"group-{number % 7}") for number in range(500)]

    async def visit(identity: Identity) -> Identity:
        await vault.remember([identity], NAMES)
        return await vault.reveal(*hashes(identity))

    assert await asyncio.gather(*map(visit, people)) == people


# --- one transaction for many -----------------------------------------------------------------------------------------


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Number of identity rows of each transaction."""
    sizes: list[int] = []
    write = vault_module.VaultFile.write

    def counted(self: Any, identities: Any, letters: Any) -> None:
        write(self, identities, letters)
        sizes.append(len(identities))

    monkeypatch.setattr(vault_module.VaultFile, "write", counted)
    return sizes


@pytest.fixture
def slow_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[threading.Event, threading.Event]]:
    """(reached, go_on): every transaction announces itself before its commit and waits there."""
    reached, go_on = threading.Event(), threading.Event()
    write = vault_module.VaultFile.write

    def slow(self: Any, identities: Any, letters: Any) -> None:
        reached.set()
        assert go_on.wait(20)
        write(self, identities, letters)

    monkeypatch.setattr(vault_module.VaultFile, "write", slow)
    yield reached, go_on
    go_on.set()


async def until(event: threading.Event) -> None:
    while not event.is_set():
        await asyncio.sleep(0)


async def test_callers_of_one_moment_share_a_transaction(files: Files, written: list[int]):
    vault = await files.open()
    await asyncio.gather(*(vault.remember([Identity(f"u{n}", "g")], NAMES) for n in range(100)))
    assert written == [101]


async def test_what_gathers_while_a_commit_runs_is_the_next_commit(
    files: Files, written: list[int], slow_disk: tuple[threading.Event, threading.Event]
):
    reached, go_on = slow_disk
    vault = await files.open()
    first = asyncio.create_task(vault.remember([ALICE], NAMES))
    await until(reached)
    others = []
    for n in range(50):
        others.append(asyncio.create_task(vault.remember([Identity(f"u{n}", "g")], NAMES)))
        await asyncio.sleep(0)
    assert not first.done()
    go_on.set()
    await asyncio.gather(first, *others)
    assert written == [2, 51]


async def test_known_identities_cost_no_transaction(files: Files, written: list[int]):
    vault = await files.open()
    await vault.remember([ALICE], NAMES)
    await vault.remember([ALICE, ALICE], NAMES)
    await vault.remember([BOB], NAMES)
    assert written == [2, 1]


async def test_an_identity_on_its_way_to_the_disk_is_not_yet_known(
    files: Files, slow_disk: tuple[threading.Event, threading.Event]
):
    reached, go_on = slow_disk
    vault = await files.open()
    first = asyncio.create_task(vault.remember([ALICE], NAMES))
    await until(reached)
    second = asyncio.create_task(vault.remember([ALICE], NAMES))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not second.done()
    go_on.set()
    await asyncio.gather(first, second)


async def test_cancelling_one_caller_does_not_disturb_the_others(
    files: Files, slow_disk: tuple[threading.Event, threading.Event]
):
    reached, go_on = slow_disk
    vault = await files.open()
    impatient = asyncio.create_task(vault.remember([ALICE], NAMES))
    patient = asyncio.create_task(vault.remember([BOB], NAMES))
    await until(reached)
    impatient.cancel()
    with pytest.raises(asyncio.CancelledError):
        await impatient
    go_on.set()
    await patient
    assert await vault.reveal(*hashes(BOB)) == BOB


async def test_closing_waits_for_what_is_under_way(files: Files, slow_disk: tuple[threading.Event, threading.Event]):
    reached, go_on = slow_disk
    vault = await files.open()
    first = asyncio.create_task(vault.remember([ALICE], NAMES))
    await until(reached)
    second = asyncio.create_task(vault.remember([BOB], NAMES))
    await asyncio.sleep(0)
    closing = asyncio.create_task(vault.close())
    await asyncio.sleep(0)
    go_on.set()
    await asyncio.gather(first, second, closing)
    again = await files.open()
    assert await again.reveal(*hashes(BOB)) == BOB


async def test_closing_right_after_a_request_still_serves_it(files: Files):
    vault = await files.open()
    await asyncio.wait_for(asyncio.gather(vault.remember([ALICE], NAMES), vault.close()), 20)
    again = await files.open()
    assert await again.reveal(*hashes(ALICE)) == ALICE


async def test_the_loop_is_free_while_the_disk_is_slow(
    files: Files, slow_disk: tuple[threading.Event, threading.Event]
):
    reached, go_on = slow_disk
    vault = await files.open()
    waiting = asyncio.create_task(vault.remember([ALICE], NAMES))
    await until(reached)  # turns of the loop happen, or this would never end
    assert not waiting.done()
    go_on.set()
    await waiting


async def test_the_names_kept_in_memory_are_bounded_and_the_latest_stay(
    files: Files, written: list[int], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(vault_module, "MAX_KNOWN", 3)
    vault = await files.open()
    for user_id in "abcd":
        await vault.remember([Identity(user_id, "g")], NAMES)
    assert written == [2, 1, 1, 1]  # g was used each time, so it stayed, while a and b dropped out
    await vault.remember([Identity("d", "g"), Identity("c", "g")], NAMES)
    assert written == [2, 1, 1, 1]
    await vault.remember([Identity("a", "g")], NAMES)
    assert written == [2, 1, 1, 1, 1]


# --- on disk ----------------------------------------------------------------------------------------------------------


async def test_what_was_remembered_is_there_after_a_restart(files: Files):
    vault = await files.open()
    await vault.remember([ALICE], NAMES)
    await vault.seal_letter("d", "s", {}, b"raw")
    await vault.close()
    again = await files.open()
    assert await again.reveal(*hashes(ALICE)) == ALICE
    assert (await again.open_letter("d")).raw == b"raw"


async def test_the_bounds_of_letters_hold_across_a_restart(files: Files):
    vault = await files.open(max_letters=2)
    for name in "ab":
        await vault.seal_letter(name, name, {}, b"")
    await vault.close()
    again = await files.open(max_letters=2)
    await again.seal_letter("c", "c", {}, b"")
    await again.close()
    assert files.sql("SELECT digest FROM letter ORDER BY n") == [("b",), ("c",)]


async def test_no_raw_id_and_no_raw_byte_is_in_any_file(files: Files, tmp_path: Path):
    vault = await files.open()
    await vault.remember([ALICE], NAMES)
    await vault.seal_letter("d", "ume.event.canary", {"user": "alice@example.org"}, b"the raw bytes")
    everything = b"".join(path.read_bytes() for path in files.path.parent.iterdir() if path.name != "vault.key")
    await vault.close()
    everything += b"".join(path.read_bytes() for path in files.path.parent.iterdir() if path.name != "vault.key")
    assert NAMES.user(ALICE.user_id).encode() in everything
    for raw in (b"alice", b"engineering", b"canary", b"the raw bytes"):
        assert raw not in everything


async def test_the_same_id_is_sealed_differently_each_time(tmp_path: Path):
    sealed = set()
    for name in ("one", "two"):
        files = Files(tmp_path / name)
        files.path.parent.mkdir()
        files.key_path.write_bytes(bytes(32))
        files.key_path.chmod(0o600)
        vault = await files.open()
        await vault.remember([ALICE], NAMES)
        await vault.close()
        sealed |= set(files.sql("SELECT sealed FROM identity"))
    assert len(sealed) == 4


@pytest.mark.parametrize("umask", [0o000, 0o777])
async def test_files_and_folder_are_private_under_every_umask(files: Files, umask: int):
    before = os.umask(umask)
    try:
        vault = await files.open()
        await vault.remember([ALICE], NAMES)
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in files.path.parent.iterdir()}
    assert modes == dict.fromkeys(("vault.db", "vault.db-wal", "vault.db-shm", "vault.key"), 0o600)
    assert stat.S_IMODE(files.path.parent.stat().st_mode) == 0o700
    assert len(files.key_path.read_bytes()) == 32


async def test_a_copy_with_wider_rights_is_closed_to_others_again(files: Files):
    await (await files.open()).close()
    files.path.chmod(0o644)
    await files.open()
    assert stat.S_IMODE(files.path.stat().st_mode) == 0o600


async def test_the_file_is_as_durable_as_promised(files: Files):
    vault = await files.open()
    connection = vault._file._connection

    def pragma(name: str) -> asyncio.Future[Any]:
        return vault._thread.do(lambda: connection.execute(f"PRAGMA {name}").fetchone()[0])

    assert await pragma("journal_mode") == "wal"
    assert await pragma("synchronous") == 2
    assert await pragma("secure_delete") == 1


def test_what_was_remembered_survives_a_kill_right_after_the_commit(tmp_path: Path):
    code = """
import asyncio, sys
from cascadenced.identity import Identity, Pseudonyms
from cascadenced.vault import Vault
async def main():
    vault = await Vault.open(sys.argv[1] + "/vault.db", sys.argv[1] + "/vault.key")
    await vault.remember([Identity("alice@example.org", "engineering")], Pseudonyms("secret of the tests"))
    print("never said")
asyncio.run(main())
"""
    environ = {**os.environ, "CASCADENCED_CRASH_AT": "vault.after_write"}
    done = subprocess.run([sys.executable, "-c", code, tmp_path], cwd=REPO, env=environ, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (-9, "")

    async def reveal() -> Identity:
        vault = await Vault.open(tmp_path / "vault.db", tmp_path / "vault.key")
        try:
            return await vault.reveal(*hashes(ALICE))
        finally:
            await vault.close()

    assert asyncio.run(reveal()) == ALICE


def test_a_vault_that_hangs_does_not_keep_the_process_alive(tmp_path: Path):
    code = """
import asyncio, sys, threading
from cascadenced.vault import Vault
async def main():
    vault = await Vault.open(sys.argv[1] + "/vault.db", sys.argv[1] + "/vault.key")
    vault._thread.do(threading.Event().wait)
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", code, tmp_path], cwd=REPO, timeout=30, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


# --- keys and damage --------------------------------------------------------------------------------------------------


async def filled(files: Files) -> None:
    vault = await files.open()
    await vault.remember([ALICE, BOB], NAMES)
    await vault.seal_letter("one", "s", {}, b"1")
    await vault.seal_letter("two", "s", {}, b"2")
    await vault.close()


async def test_without_its_key_the_vault_stays_shut_and_no_new_key_is_made(files: Files):
    await filled(files)
    files.key_path.unlink()
    with pytest.raises(ConfigError, match=r"without its key .*vault\.key: put the key back from a backup, or leave"):
        await files.open()
    assert not files.key_path.exists()


async def test_another_key_is_noticed_at_once(files: Files):
    await filled(files)
    files.key_path.write_bytes(os.urandom(32))
    with pytest.raises(ConfigError, match="is not the key of"):
        await files.open()


async def test_a_key_without_a_vault_is_used_for_a_new_one(files: Files):
    await filled(files)
    key = files.key_path.read_bytes()
    files.path.unlink()
    await files.open()
    assert files.key_path.read_bytes() == key


@pytest.mark.parametrize("content", [b"", b"short", bytes(33)])
async def test_a_key_of_another_length_is_refused(files: Files, content: bytes):
    await filled(files)
    files.key_path.write_bytes(content)
    with pytest.raises(ConfigError, match=f"has {len(content)} bytes, not 32"):
        await files.open()


async def test_a_row_under_another_name_does_not_open(files: Files):
    await filled(files)
    (sealed,) = files.sql("SELECT sealed FROM identity WHERE pseudonym = ?", NAMES.user("bob"))[0]
    files.sql("UPDATE identity SET sealed = ? WHERE pseudonym = ?", sealed, NAMES.user(ALICE.user_id))
    files.sql("UPDATE letter SET digest = digest || '!'")
    vault = await files.open()
    with pytest.raises(VaultDamaged, match="was changed after it was sealed"):
        await vault.reveal(*hashes(ALICE))
    with pytest.raises(VaultDamaged):
        await vault.open_letter("one!")
    assert await vault.reveal(*hashes(BOB)) == BOB


async def test_a_user_passed_off_as_a_group_does_not_open(files: Files):
    await filled(files)
    files.sql("UPDATE identity SET kind = 'group' WHERE pseudonym = ?", NAMES.user("bob"))
    vault = await files.open()
    with pytest.raises(VaultDamaged):
        await vault.reveal(NAMES.user(ALICE.user_id), NAMES.user("bob"))


@pytest.mark.parametrize("damage", ["zeroblob(0)", "zeroblob(5)", "zeroblob(12)", "zeroblob(60)"])
async def test_a_damaged_row_is_told_from_a_missing_one(files: Files, damage: str):
    await filled(files)
    files.sql(f"UPDATE identity SET sealed = {damage}")
    vault = await files.open()
    with pytest.raises(VaultDamaged):
        await vault.user(NAMES.user("bob"))


async def test_a_file_that_is_no_vault_is_refused(files: Files):
    await filled(files)
    files.path.write_bytes(b"SQLite format 4\0" * 1000)
    with pytest.raises(ConfigError, match="damaged or not a vault"):
        await files.open()


async def test_another_programs_database_is_refused_and_left_alone(files: Files):
    files.path.parent.mkdir(mode=0o700)
    files.key_path.write_bytes(bytes(32))
    files.key_path.chmod(0o600)
    files.sql("CREATE TABLE theirs (x)")
    with pytest.raises(ConfigError, match="another program's database"):
        await files.open()
    assert files.sql("SELECT name FROM sqlite_master") == [("theirs",)]


async def test_a_vault_of_a_newer_version_is_refused(files: Files):
    await filled(files)
    files.sql("PRAGMA user_version = 2")
    with pytest.raises(ConfigError, match="newer version"):
        await files.open()


# --- a disk that fails ------------------------------------------------------------------------------------------------


async def test_a_full_disk_fails_its_callers_only_and_heals(files: Files):
    vault = await files.open()
    connection = vault._file._connection
    n_pages = await vault._thread.do(lambda: connection.execute("PRAGMA page_count").fetchone()[0])
    await vault._thread.do(lambda: connection.execute(f"PRAGMA max_page_count = {n_pages}").fetchone())
    with pytest.raises(DiskFull, match="no space is left"):
        await vault.seal_letter("big", "s", {}, bytes(100_000))
    await vault._thread.do(lambda: connection.execute("PRAGMA max_page_count = 1000000").fetchone())
    await vault.seal_letter("big", "s", {}, bytes(100_000))
    assert (await vault.open_letter("big")).raw == bytes(100_000)


class Failing:
    """A connection whose COMMIT fails as on a broken disk, once."""

    def __init__(self, connection: sqlite3.Connection, code: int) -> None:
        self._connection, self._code = connection, code
        self._n_failures = 1

    def execute(self, sql: str, *parameters: Any) -> Any:
        if sql == "COMMIT" and self._n_failures:
            self._n_failures -= 1
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = self._code
            raise error
        return self._connection.execute(sql, *parameters)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


async def test_after_a_failed_sync_nothing_is_written_any_more(files: Files):
    vault = await files.open()
    vault._file._connection = Failing(vault._file._connection, sqlite3.SQLITE_IOERR_FSYNC)
    outcomes = await asyncio.gather(
        vault.remember([ALICE], NAMES), vault.seal_letter("d", "s", {}, b""), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes] == [DiskError, DiskError]
    with pytest.raises(DiskError):
        await vault.remember([BOB], NAMES)
    assert await vault.user(NAMES.user(ALICE.user_id)) is None


async def test_a_failed_commit_does_not_make_its_identities_known(files: Files):
    vault = await files.open()
    vault._file._connection = Failing(vault._file._connection, sqlite3.SQLITE_FULL)
    with pytest.raises(DiskFull):
        await vault.remember([ALICE], NAMES)
    await vault.remember([ALICE], NAMES)
    assert await vault.reveal(*hashes(ALICE)) == ALICE


async def test_a_vault_in_an_impossible_place_is_a_configuration_error(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is not a folder"):
        await Vault.open(tmp_path / "file" / "vault.db", tmp_path / "vault.key")
    (tmp_path / "vault.db").mkdir()
    with pytest.raises(ConfigError, match=r"without its key|cannot be"):
        await Vault.open(tmp_path / "vault.db", tmp_path / "vault.key")


# --- keys in files ----------------------------------------------------------------------------------------------------


def test_a_key_is_drawn_once_and_then_read(tmp_path: Path):
    first = read_or_create(tmp_path / "key", 32)
    assert len(first) == 32
    assert read_or_create(tmp_path / "key", 32) == first
    assert read_or_create(tmp_path / "other", 32) != first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["key", "other"]


def test_a_key_in_hex_is_text_that_people_may_copy(tmp_path: Path):
    text = read_or_create_hex(tmp_path / "hash.secret", 32)
    assert len(text) == 64
    assert bytes.fromhex(text)
    assert (tmp_path / "hash.secret").read_text() == text + "\n"
    assert read_or_create_hex(tmp_path / "hash.secret", 32) == text
    assert stat.S_IMODE((tmp_path / "hash.secret").stat().st_mode) == 0o600


@pytest.mark.parametrize("content", ["", "xyz", "AB" * 32, "ab" * 31, "ab" * 33, "é" * 64])
def test_a_key_in_hex_of_another_shape_is_refused(tmp_path: Path, content: str):
    path = tmp_path / "hash.secret"
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="is not 64 lower-case hex digits"):
        read_or_create_hex(path, 32)
    assert path.read_text() == content


def test_of_many_that_create_a_key_at_once_all_get_the_same(tmp_path: Path):
    n_threads = 8
    barrier, keys = threading.Barrier(n_threads), []

    def create() -> None:
        barrier.wait()
        keys.append(read_or_create(tmp_path / "key", 32))

    threads = [threading.Thread(target=create) for _ in range(n_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(keys) == n_threads
    assert len(set(keys)) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_key_that_others_may_read_is_refused(tmp_path: Path, mode: int):
    path = tmp_path / "key"
    read_or_create(path, 32)
    path.chmod(mode)
    with pytest.raises(ConfigError, match="others may read the key"):
        read_or_create(path, 32)


def test_a_key_that_is_a_link_or_no_file_is_refused(tmp_path: Path):
    read_or_create(tmp_path / "key", 32)
    (tmp_path / "link").symlink_to("key")
    (tmp_path / "folder").mkdir(mode=0o700)
    os.mkfifo(tmp_path / "pipe", 0o600)
    for name in ("link", "folder", "pipe"):
        with pytest.raises(ConfigError):
            read_or_create(tmp_path / name, 32)


def test_a_folder_among_others_is_made_for_us_alone(tmp_path: Path):
    exclusive_folder(tmp_path / "ours")
    exclusive_folder(tmp_path / "ours")
    assert stat.S_IMODE((tmp_path / "ours").stat().st_mode) == 0o700


def test_a_folder_that_somebody_prepared_for_us_is_refused(tmp_path: Path):
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o755)
    (tmp_path / "mine").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to("mine")
    (tmp_path / "file").write_text("")
    for name in ("open", "link", "file"):
        with pytest.raises(ConfigError, match="is not a folder of yours alone"):
            exclusive_folder(tmp_path / name)
    with pytest.raises(CascadenceError):
        exclusive_folder(tmp_path / "file" / "below")
