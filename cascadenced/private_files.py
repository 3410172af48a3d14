"""Files and folders that nobody but their owner may read: the data folder, and the keys in it.

Rights are set when a file is made, never afterwards: there is no moment in which others could open it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
from collections.abc import Callable
from pathlib import Path

from cascadenced.errors import CascadenceError, ConfigError, DiskError, DiskFull

FOLDER_MODE = 0o700
FILE_MODE = 0o600
_MAX_KEY_BYTES = 4096
_FULL = (errno.ENOSPC, errno.EDQUOT)
_FOR_A_PERSON = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ELOOP, errno.ENOTDIR, errno.EISDIR),
    *(errno.ENOENT, errno.EEXIST, errno.ENAMETOOLONG, errno.EINVAL, errno.EOPNOTSUPP),
)


def translated(error: OSError, what: str) -> CascadenceError:
    """The error of ours for one of the operating system.  what: `/path cannot be …`, completed by the reason."""
    sentence = f"{what}: {error.strerror or error}"
    if error.errno in _FULL:
        return DiskFull(sentence)
    return ConfigError(sentence) if error.errno in _FOR_A_PERSON else DiskError(sentence)


def private_folder(path: Path) -> None:
    """Make the folder (0700, and what leads to it) unless it is there; the rights of an existing one are left alone.

    Raises ConfigError when it cannot be made, is something else, or anyone on the machine may write to it: whoever can
    replace the files decides what the daemon does.
    """
    try:
        os.makedirs(path, mode=FOLDER_MODE)
        os.chmod(path, FOLDER_MODE)  # the umask may have taken away from us, too
        sync_folder(path.parent)
    except FileExistsError:
        if not path.is_dir():
            raise ConfigError(f"{path} is not a folder: move it away, or choose another one") from None
        if path.stat().st_mode & stat.S_IWOTH:
            raise ConfigError(
                f"anyone may write to the folder {path}: choose a folder inside it, or take the right away (chmod o-w)"
            ) from None
    except OSError as error:
        raise translated(error, f"the folder {path} cannot be created") from error


def exclusive_folder(path: Path) -> None:
    """Make a folder in a place that others share, such as /tmp, and make sure that it is ours and ours alone.

    Raises ConfigError when somebody else made it first, or may look into it.
    """
    try:
        os.mkdir(path, FOLDER_MODE)
        os.chmod(path, FOLDER_MODE)
    except FileExistsError:
        found = os.lstat(path)
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
            raise ConfigError(f"{path} is not a folder of yours alone: remove it, or use a shorter data_dir") from None
    except OSError as error:
        raise translated(error, f"the folder {path} cannot be created") from error


def create_private(path: Path) -> bool:
    """Make an empty file (0600) unless there is one. Returns whether it was made."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, FILE_MODE)
    except FileExistsError:
        return False
    except OSError as error:
        raise translated(error, f"{path} cannot be created") from error
    try:
        os.fchmod(descriptor, FILE_MODE)
    finally:
        os.close(descriptor)
    return True


def read_or_create(path: Path, n_bytes: int) -> bytes:
    """The `n_bytes` random bytes in the file; drawn and written durably if there is no file yet.

    Of two processes that create it at the same time, both get the same bytes. Raises ConfigError for a file that is
    not such a key, or that others may read.
    """
    return _of_length(_read_or_create(path, lambda: secrets.token_bytes(n_bytes)), n_bytes, path)


def read_key(path: Path, n_bytes: int) -> bytes:
    """The `n_bytes` in the file. Raises ConfigError if there is none, it is not such a key, or others may read it."""
    try:
        return _of_length(_read(path), n_bytes, path)
    except OSError as error:
        raise translated(error, f"the key {path} cannot be read") from error


def _of_length(content: bytes, n_bytes: int, path: Path) -> bytes:
    if len(content) != n_bytes:
        raise ConfigError(f"{path} has {len(content)} bytes, not {n_bytes}: put the original back from a backup")
    return content


def read_or_create_hex(path: Path, n_bytes: int) -> str:
    """As `read_or_create`, but kept and returned as text: `2 * n_bytes` lower-case hex digits."""
    return _hex_of(_read_or_create(path, lambda: f"{secrets.token_hex(n_bytes)}\n".encode()), n_bytes, path)


def read_hex(path: Path, n_bytes: int) -> str:
    """As `read_key`, of a key that is kept as text."""
    try:
        return _hex_of(_read(path), n_bytes, path)
    except OSError as error:
        raise translated(error, f"the key {path} cannot be read") from error


def _hex_of(content: bytes, n_bytes: int, path: Path) -> str:
    text = content.decode("ascii", errors="replace").strip()
    if not re.fullmatch(rf"[0-9a-f]{{{2 * n_bytes}}}", text):
        raise ConfigError(f"{path} is not {2 * n_bytes} lower-case hex digits: put the original back from a backup")
    return text


def _read_or_create(path: Path, draw: Callable[[], bytes]) -> bytes:
    try:
        with contextlib.suppress(FileNotFoundError):
            return _read(path)
        with contextlib.suppress(FileExistsError):  # another process was faster: its key is the key
            _create_durably(path, draw())
        return _read(path)
    except OSError as error:
        raise translated(error, f"the key {path} cannot be read or created") from error


def _read(path: Path) -> bytes:
    # Without O_NONBLOCK a named pipe in this place would keep us waiting for a writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise ConfigError(f"{path} is not a regular file: put the original back from a backup")
        if found.st_mode & 0o077:
            raise ConfigError(f"others may read the key {path}: take the right away (chmod 600), if nobody did")
        return os.read(descriptor, _MAX_KEY_BYTES)
    finally:
        os.close(descriptor)


def _create_durably(path: Path, content: bytes) -> None:
    """The file appears complete and on disk, or not at all. Raises FileExistsError, leaving the other one alone."""
    draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE)
        try:
            os.fchmod(descriptor, FILE_MODE)
            os.write(descriptor, content)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.link(draft, path)  # unlike a rename, it never replaces
    finally:
        draft.unlink(missing_ok=True)
    sync_folder(path.parent)


def copy_key(source: Path, target: Path) -> None:
    """The same key in a second place (0600), on disk on return. Raises ConfigError when it cannot be read or written,
    or is there already; DiskFull, DiskError."""
    try:
        _create_durably(target, _read(source))
    except OSError as error:
        raise translated(error, f"the key {source} cannot be copied to {target}") from error


def sync_folder(path: Path) -> None:
    """Make the names in a folder as durable as the files behind them."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, content: bytes) -> None:
    """Replace the file by one with this content (0600): readers see the old one or the new one, never half of it."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        beside.unlink()
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE)
        with open(descriptor, "wb") as file:
            file.write(content)
        os.replace(beside, path)
    except OSError as error:
        raise translated(error, f"{path} cannot be written") from error
