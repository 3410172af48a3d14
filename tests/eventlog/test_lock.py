"""One process per data folder, whatever becomes of that process. Other processes here are real ones."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import cascadenced
from cascadenced.clock import FakeClock, SystemClock
from cascadenced.errors import ConfigError, LogHeld
from cascadenced.eventlog.lock import DataFolderLock, Holder, read_holder

REPO = Path(cascadenced.__file__).parent.parent

# Takes the lock, says so, and keeps it until its standard input ends.
HOLD = """
import sys
from cascadenced.eventlog.lock import DataFolderLock
lock = DataFolderLock.acquire(sys.argv[1], sys.argv[2])
print("held", flush=True)
sys.stdin.read()
"""

TRY = """
import sys
from cascadenced.errors import LogHeld
from cascadenced.eventlog.lock import DataFolderLock
try:
    DataFolderLock.acquire(sys.argv[1])
    print("free")
except LogHeld as held:
    print(held.pid)
"""

Hold = Callable[..., "subprocess.Popen[str]"]


def python(code: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=REPO,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def seen_from_another_process(folder: Path) -> str:
    return python(TRY, folder).communicate(timeout=30)[0].strip()


@pytest.fixture
def hold() -> Iterator[Hold]:
    """Starts processes that hold a folder, and ends them."""
    started = []

    def start(folder: Path, who: str = "daemon") -> subprocess.Popen[str]:
        process = python(HOLD, folder, who)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data"


def test_a_held_folder_names_its_holder_and_what_to_do(folder: Path, hold: Hold):
    daemon = hold(folder)
    with pytest.raises(LogHeld) as caught:
        DataFolderLock.acquire(folder)
    assert caught.value.pid == daemon.pid
    assert str(caught.value) == (
        f"{folder} is in use by process {daemon.pid} (daemon): stop it with `cascadenced down`, or use another data_dir"
    )


def test_a_command_that_holds_the_folder_is_named_and_need_not_be_stopped(folder: Path, hold: Hold):
    command = hold(folder, "task run")
    with pytest.raises(LogHeld, match=rf"process {command.pid} \(task run\): try again when it has ended"):
        DataFolderLock.acquire(folder)
    assert read_holder(folder) == Holder(command.pid, "task run")


def test_kill_9_of_the_holder_frees_the_folder(folder: Path, hold: Hold):
    daemon = hold(folder)
    os.kill(daemon.pid, signal.SIGKILL)
    daemon.wait()
    lock = DataFolderLock.acquire(folder)
    assert seen_from_another_process(folder) == str(os.getpid())
    lock.release()


def test_the_folder_is_free_again_after_release_which_may_be_repeated(folder: Path):
    lock = DataFolderLock.acquire(folder)
    assert seen_from_another_process(folder) == str(os.getpid())
    lock.release()
    lock.release()
    assert seen_from_another_process(folder) == "free"
    again = DataFolderLock.acquire(folder)
    lock.release()
    assert seen_from_another_process(folder) == str(os.getpid())
    again.release()


def test_the_same_process_is_refused_too_and_does_not_lose_the_lock_by_trying(folder: Path):
    lock = DataFolderLock.acquire(folder)
    for _ in range(3):
        with pytest.raises(LogHeld, match="this process already holds") as caught:
            DataFolderLock.acquire(folder)
        assert caught.value.pid == os.getpid()
    assert seen_from_another_process(folder) == str(os.getpid())
    lock.release()


def test_another_name_of_the_folder_is_the_same_folder(folder: Path, tmp_path: Path):
    lock = DataFolderLock.acquire(folder)
    (tmp_path / "alias").symlink_to(folder)
    with pytest.raises(LogHeld, match="this process already holds"):
        DataFolderLock.acquire(tmp_path / "alias")
    assert read_holder(tmp_path / "alias") == Holder(os.getpid(), "daemon")
    assert seen_from_another_process(folder) == str(os.getpid())
    lock.release()


def test_asking_for_the_holder_does_not_drop_the_lock_of_this_process(folder: Path):
    lock = DataFolderLock.acquire(folder, "task run")
    assert read_holder(folder) == Holder(os.getpid(), "task run")
    assert seen_from_another_process(folder) == str(os.getpid())
    lock.release()
    assert read_holder(folder) == Holder(None, None)


def test_a_process_may_hold_several_folders(tmp_path: Path):
    one, two = DataFolderLock.acquire(tmp_path / "one"), DataFolderLock.acquire(tmp_path / "two")
    one.release()
    assert seen_from_another_process(tmp_path / "one") == "free"
    assert seen_from_another_process(tmp_path / "two") == str(os.getpid())
    two.release()


def test_a_forked_child_that_outlives_the_holder_does_not_keep_the_folder(folder: Path):
    code = """
import os, sys
from cascadenced.eventlog.lock import DataFolderLock
lock = DataFolderLock.acquire(sys.argv[1])
if os.fork() == 0:
    print("forked", flush=True)
    sys.stdin.read()
    os._exit(0)
os._exit(0)
"""
    parent = python(code, folder)
    assert parent.stdout is not None
    assert parent.stdout.readline() == "forked\n"
    parent.wait()
    assert seen_from_another_process(folder) == "free"
    parent.communicate()


# --- waiting ----------------------------------------------------------------------------------------------------------


async def test_waiting_ends_when_the_holder_does(folder: Path, hold: Hold):
    daemon = hold(folder)
    waiting = asyncio.create_task(DataFolderLock.acquire_within(folder, 30, SystemClock()))
    await asyncio.sleep(0)
    assert daemon.stdin is not None
    daemon.stdin.close()
    lock = await waiting
    lock.release()


async def test_waiting_ends_in_an_error_when_the_time_is_up(folder: Path, hold: Hold):
    daemon = hold(folder)
    clock = FakeClock()
    waiting = asyncio.create_task(DataFolderLock.acquire_within(folder, 10, clock))
    await asyncio.sleep(0)
    await clock.advance(9.9)
    assert not waiting.done()
    await clock.advance(0.2)
    with pytest.raises(LogHeld) as caught:
        await waiting
    assert caught.value.pid == daemon.pid


async def test_without_time_to_wait_there_is_one_attempt(folder: Path, hold: Hold):
    clock = FakeClock()
    lock = await DataFolderLock.acquire_within(folder, 0, clock)
    lock.release()
    hold(folder)
    with pytest.raises(LogHeld):
        await DataFolderLock.acquire_within(folder, 0, clock)


async def test_a_wait_that_is_cancelled_leaves_nothing_behind(folder: Path, hold: Hold):
    daemon = hold(folder)
    waiting = asyncio.create_task(DataFolderLock.acquire_within(folder, 60, SystemClock()))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert seen_from_another_process(folder) == str(daemon.pid)


# --- folder and file --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("umask", [0o000, 0o077, 0o777])
def test_folder_and_file_are_private_under_every_umask(folder: Path, umask: int):
    before = os.umask(umask)
    try:
        DataFolderLock.acquire(folder).release()
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "lock").stat().st_mode) == 0o600


def test_the_rights_of_an_existing_folder_are_not_touched(folder: Path):
    folder.mkdir(mode=0o750)
    folder.chmod(0o750)
    DataFolderLock.acquire(folder).release()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o750


def test_a_folder_that_anyone_may_write_to_is_refused(folder: Path):
    folder.mkdir()
    folder.chmod(0o1777)
    with pytest.raises(ConfigError, match="anyone may write to the folder"):
        DataFolderLock.acquire(folder)


def test_a_file_in_place_of_the_folder_is_refused(folder: Path):
    folder.write_text("")
    with pytest.raises(ConfigError, match="is not a folder: move it away"):
        DataFolderLock.acquire(folder)
    with pytest.raises(ConfigError, match="cannot be created: Not a directory"):
        DataFolderLock.acquire(folder / "below")


def test_a_dangling_link_in_place_of_the_folder_is_refused(folder: Path):
    folder.symlink_to("nowhere")
    with pytest.raises(ConfigError, match="is not a folder"):
        DataFolderLock.acquire(folder)


def test_a_lock_file_that_is_a_symbolic_link_is_refused(folder: Path, tmp_path: Path):
    folder.mkdir()
    (tmp_path / "precious").write_text("precious")
    (folder / "lock").symlink_to(tmp_path / "precious")
    with pytest.raises(ConfigError, match="is a symbolic link: remove it"):
        DataFolderLock.acquire(folder)
    assert (tmp_path / "precious").read_text() == "precious"


def test_a_lock_file_with_a_second_name_is_refused(folder: Path, tmp_path: Path):
    folder.mkdir()
    (tmp_path / "precious").write_text("precious")
    os.link(tmp_path / "precious", folder / "lock")
    with pytest.raises(ConfigError, match=r"has 2 names \(hard links\)"):
        DataFolderLock.acquire(folder)
    assert (tmp_path / "precious").read_text() == "precious"


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_a_lock_that_is_no_file_is_refused(folder: Path, make: Callable[[Path], None]):
    folder.mkdir()
    make(folder / "lock")
    with pytest.raises(ConfigError, match=r"not a regular file|Is a directory"):
        DataFolderLock.acquire(folder)


@pytest.mark.skipif(os.getuid() != 0, reason="needs to become somebody else")
@pytest.mark.parametrize("there", [True, False])
def test_a_folder_of_somebody_else_is_refused(tmp_path: Path, there: bool):
    code = """
import os, sys
from cascadenced.errors import ConfigError
from cascadenced.eventlog.lock import DataFolderLock
os.setuid(65534)
try:
    DataFolderLock.acquire(sys.argv[1])
except ConfigError as error:
    print(error)
"""
    for parent in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        parent.chmod(0o755)
    if there:
        (tmp_path / "data").mkdir(mode=0o755)
    said = python(code, tmp_path / "data").communicate(timeout=30)[0]
    assert "cannot be created: Permission denied" in said


def test_what_stands_in_the_lock_file_is_never_trusted(folder: Path):
    folder.mkdir()
    for content in (b"", b"not a pid\n", b"\xff\xfe", b"x" * 10_000, "٣ daemon".encode()):
        (folder / "lock").write_bytes(content)
        assert read_holder(folder) == Holder(None, None)
        DataFolderLock.acquire(folder).release()
