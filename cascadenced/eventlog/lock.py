"""One writer per data folder: the lock that a daemon, or a command without one, holds while it works.

The kernel keeps the lock and drops it when the process ends, however it ends; the file's content (`<pid> <who>`) only
serves the message to the next one. It is a POSIX record lock (`lockf`): a `flock` would live on in a forked child.
Such a lock has two traps, which `_held` is for:

- It belongs to the process, so the kernel would grant it to us a second time.
- Closing *any* descriptor of the file drops it, also one that was opened only to look. So nothing in this process opens
  the file while the lock is held, under whatever name the folder goes: files are recognised by device and inode.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import threading
from pathlib import Path

import msgspec

from cascadenced.clock import Clock
from cascadenced.errors import ConfigError, LogHeld
from cascadenced.private_files import create_private, private_folder, translated

FILE_NAME = "lock"
_RETRY_S = 0.05  # the kernel tells nobody that a lock became free, short of a blocking call that cannot be cancelled

_Inode = tuple[int, int]
_guard = threading.Lock()
_held: dict[_Inode, str] = {}


class Holder(msgspec.Struct, frozen=True):
    """Who wrote the lock file.  who: `daemon`, or the name of a command; both None if the file does not say."""

    pid: int | None
    who: str | None


class DataFolderLock:
    """Held from `acquire` to `release`, or to the end of the process."""

    def __init__(self, descriptor: int, inode: _Inode) -> None:
        """Use `acquire`."""
        self._descriptor: int | None = descriptor
        self._inode = inode

    @classmethod
    def acquire(cls, data_dir: Path | str, who: str = "daemon") -> DataFolderLock:
        """Take the lock, making the folder (0700) if there is none.

        who: what we are, for the message to others.
        Raises LogHeld if anyone, this process included, has it; ConfigError if folder or file are unusable.
        """
        folder = Path(data_dir)
        private_folder(folder)
        path = folder / FILE_NAME
        with _guard:
            if _inode_at(path) in _held:
                raise LogHeld(f"this process already holds {folder}", pid=os.getpid())
            create_private(path)
            descriptor = _open(path)
            try:
                inode = _checked_inode(descriptor, path)
                _lock(descriptor, folder)
                _write_holder(descriptor, f"{os.getpid()} {who}\n", path)
            except BaseException:
                os.close(descriptor)
                raise
            _held[inode] = who
        return cls(descriptor, inode)

    @classmethod
    async def acquire_within(
        cls, data_dir: Path | str, wait_s: float, clock: Clock, who: str = "daemon"
    ) -> DataFolderLock:
        """As `acquire`, but as long as somebody else holds the folder try again, for `wait_s` seconds."""
        deadline = clock.monotonic() + wait_s
        while True:
            try:
                return cls.acquire(data_dir, who)
            except LogHeld:
                left_s = deadline - clock.monotonic()
                if left_s <= 0:
                    raise
                await clock.sleep(min(_RETRY_S, left_s))

    def release(self) -> None:
        """Let the next one in. Idempotent."""
        with _guard:
            if self._descriptor is None:
                return
            with contextlib.suppress(OSError):  # the lock must go even if the note about its holder cannot
                os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = None
            del _held[self._inode]


def read_holder(data_dir: Path | str) -> Holder:
    """What the lock file says of its holder; after a crash that is the last one. Only `acquire` tells if it is free."""
    path = Path(data_dir) / FILE_NAME
    with _guard:
        inode = _inode_at(path)
        if inode is None:
            return Holder(None, None)
        if inode in _held:
            return Holder(os.getpid(), _held[inode])
        descriptor = _open(path)
        try:
            return _parsed(descriptor)
        finally:
            os.close(descriptor)


def _inode_at(path: Path) -> _Inode | None:
    """Which file that is, found without opening it."""
    try:
        found = os.stat(path)
    except OSError:
        return None  # whatever is wrong, opening it will say it better
    return found.st_dev, found.st_ino


def _open(path: Path) -> int:
    try:
        # Without O_NONBLOCK a named pipe in this place could keep us waiting.
        return os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise ConfigError(f"the lock file {path} is a symbolic link: remove it") from error
        raise translated(error, f"the lock file {path} cannot be opened") from error


def _checked_inode(descriptor: int, path: Path) -> _Inode:
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        raise ConfigError(f"the lock file {path} is not a regular file: remove it")
    if found.st_nlink != 1:
        # Two folders would share one lock, or a copied folder have none of its own.
        raise ConfigError(f"the lock file {path} has {found.st_nlink} names (hard links): remove this one")
    return found.st_dev, found.st_ino


def _lock(descriptor: int, folder: Path) -> None:
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # POSIX leaves open which of the two says "taken"
        found = _parsed(descriptor)
        by = f"process {found.pid} ({found.who})" if found.pid else "another process"
        remedy = "stop it with `cascadenced down`" if found.who == "daemon" else "try again when it has ended"
        raise LogHeld(f"{folder} is in use by {by}: {remedy}, or use another data_dir", pid=found.pid) from None
    except OSError as error:
        raise ConfigError(f"{folder} cannot be locked: {error.strerror} (it must be on a local disk)") from error


def _write_holder(descriptor: int, text: str, path: Path) -> None:
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text.encode(), 0)
    except OSError as error:
        raise translated(error, f"the lock file {path} cannot be written") from error


def _parsed(descriptor: int) -> Holder:
    pid, _, who = os.pread(descriptor, 200, 0).decode("utf-8", errors="replace").strip().partition(" ")
    return Holder(int(pid), who) if pid.isascii() and pid.isdecimal() else Holder(None, None)
