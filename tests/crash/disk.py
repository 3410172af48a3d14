"""The disk as SQLite sees it, watched and made to fail.

A shim in pure Python around SQLite's own file layer (its VFS): the files are opened by the real one, and writes,
truncates, syncs and deletes pass through a `Watcher`. While a folder is watched the shim is the process's default, so
the code under test opens its files as it always does; there is no switch for this in the product.
"""

from __future__ import annotations

import _sqlite3
import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Literal, Protocol

import msgspec

Kind = Literal["create", "write", "truncate", "sync", "delete", "grow_shm", "lost"]

SQLITE_OK = 0
SQLITE_FULL = 13
SQLITE_IOERR = 10
IOERR_WRITE = SQLITE_IOERR | 3 << 8
IOERR_FSYNC = SQLITE_IOERR | 4 << 8
IOERR_TRUNCATE = SQLITE_IOERR | 6 << 8
IOERR_DELETE = SQLITE_IOERR | 10 << 8
IOERR_SHMSIZE = SQLITE_IOERR | 19 << 8

_OPEN_CREATE = 0x4
_OPEN_JOURNAL_OR_WAL = 0x800 | 0x4000 | 0x80000


class Call(msgspec.Struct, frozen=True):
    """One call of SQLite's to the disk.  inode: numbers the files that had this name, one after the other.

    create: a file that was not there.  write: `data` at `offset`.  truncate: to `offset` bytes.
    sync: everything written to the file so far is on the disk; sync_folder: the names in its folder are, too.
    delete: the name is taken out; sync_folder: on the disk as well.  grow_shm: the shared index needs a longer file.
    lost: never made by SQLite; a watcher's note that a sync failed and what it was for will never reach the disk.
    """

    kind: Kind
    name: str
    inode: int
    offset: int = 0
    data: bytes = b""
    sync_folder: bool = False


class Watcher(Protocol):
    """Called in whatever thread SQLite runs in."""

    def refuse(self, call: Call) -> int:
        """The SQLite result code with which the call fails without being made; SQLITE_OK to make it."""
        ...

    def done(self, call: Call) -> None:
        """The call was made and succeeded."""
        ...


class _Vfs(ctypes.Structure):
    pass


_X_OPEN = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p
)
_X_DELETE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int)
_Vfs._fields_ = [
    ("version", ctypes.c_int),
    ("size_of_file", ctypes.c_int),
    ("max_path", ctypes.c_int),
    ("next", ctypes.c_void_p),
    ("name", ctypes.c_char_p),
    ("app_data", ctypes.c_void_p),
    ("open", _X_OPEN),
    ("delete", _X_DELETE),
    *((f"rest_{n}", ctypes.c_void_p) for n in range(14)),
]

_X_WRITE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_int64)
_X_TRUNCATE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int64)
_X_SYNC = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int)
_X_SHM_MAP = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_void_p)


class _Methods(ctypes.Structure):
    _fields_ = [
        ("version", ctypes.c_int),
        ("close", ctypes.c_void_p),
        ("read", ctypes.c_void_p),
        ("write", _X_WRITE),
        ("truncate", _X_TRUNCATE),
        ("sync", _X_SYNC),
        *((f"rest_{n}", ctypes.c_void_p) for n in range(7)),
        ("shm_map", _X_SHM_MAP),
        *((f"last_{n}", ctypes.c_void_p) for n in range(5)),
    ]


class _File:
    """A file that SQLite has open."""

    def __init__(self, watcher: Watcher, name: str, inode: int, new: bool) -> None:
        self.watcher, self.name, self.inode, self.new = watcher, name, inode, new


@cache
def _library() -> Any:
    """The very SQLite that the module `sqlite3` uses; None if this Python keeps it to itself (linked in statically)."""
    library = ctypes.CDLL(getattr(_sqlite3, "__file__", None))
    try:
        library.sqlite3_vfs_find.restype = ctypes.POINTER(_Vfs)
        library.sqlite3_vfs_find.argtypes = [ctypes.c_char_p]
        library.sqlite3_vfs_register.argtypes = [ctypes.POINTER(_Vfs), ctypes.c_int]
        library.sqlite3_vfs_unregister.argtypes = [ctypes.POINTER(_Vfs)]
    except AttributeError:
        return None
    return library


def why_not() -> str | None:
    """Why SQLite cannot be watched in this Python, None if it can."""
    return "this Python's SQLite is linked in statically and cannot be watched" if _library() is None else None


class _Shim:
    """SQLite's own file layer with our functions in front. Lives as long as the process: open files point into it."""

    def __init__(self) -> None:
        self._library = _library()
        self._real = self._library.sqlite3_vfs_find(None)
        self._vfs = _Vfs()
        ctypes.memmove(ctypes.byref(self._vfs), self._real, ctypes.sizeof(_Vfs))
        self._vfs.name = b"watched"
        self._vfs.open, self._vfs.delete = _X_OPEN(self._open), _X_DELETE(self._delete)
        self._methods: dict[int, tuple[_Methods, _Methods]] = {}
        """Address of SQLite's methods → (SQLite's, ours)."""
        self._files: dict[int, tuple[_File, _Methods]] = {}
        """Address of an open file → (what we know of it, SQLite's methods)."""
        self._inodes: dict[str, int] = {}
        self.watchers: dict[str, Watcher] = {}
        """Folder → who watches it."""

    def install(self) -> None:
        self._library.sqlite3_vfs_register(ctypes.byref(self._vfs), 1)

    def remove(self) -> None:
        self._library.sqlite3_vfs_unregister(ctypes.byref(self._vfs))
        self._library.sqlite3_vfs_register(self._real, 1)

    def _watcher(self, path: str) -> Watcher | None:
        return self.watchers.get(os.path.dirname(path))

    # ── the functions SQLite calls: each returns a result code and must not raise ────────────────────────────────

    def _open(self, vfs: int, name: int | None, file: int, flags: int, out_flags: int | None) -> int:
        path = "" if name is None else os.fsdecode(ctypes.string_at(name))
        watcher = self._watcher(path)
        if watcher is None:
            return self._real.contents.open(vfs, name, file, flags, out_flags)
        new = bool(flags & _OPEN_CREATE) and not os.path.exists(path)
        if new or path not in self._inodes:
            self._inodes[path] = self._inodes.get(path, -1) + 1
        call = Call("create", os.path.basename(path), self._inodes[path])
        if new and (code := watcher.refuse(call)):
            return code
        code = self._real.contents.open(vfs, name, file, flags, out_flags)
        if code == SQLITE_OK:
            if new:
                watcher.done(call)
            # A file begins with the address of its methods.
            slot = ctypes.c_void_p.from_address(file)
            if slot.value:
                theirs, ours = self._methods_at(slot.value)
                names_too = new and bool(flags & _OPEN_JOURNAL_OR_WAL)
                self._files[file] = (_File(watcher, call.name, call.inode, names_too), theirs)
                slot.value = ctypes.addressof(ours)
        return code

    def _delete(self, vfs: int, name: int, sync_folder: int) -> int:
        path = os.fsdecode(ctypes.string_at(name))
        watcher = self._watcher(path)
        if watcher is None:
            return self._real.contents.delete(vfs, name, sync_folder)
        call = Call("delete", os.path.basename(path), self._inodes.get(path, 0), sync_folder=bool(sync_folder))
        return self._through(watcher, call, lambda: self._real.contents.delete(vfs, name, sync_folder))

    def _write(self, file: int, data: int, n_bytes: int, offset: int) -> int:
        known, theirs = self._files[file]
        call = Call("write", known.name, known.inode, offset, ctypes.string_at(data, n_bytes))
        return self._through(known.watcher, call, lambda: theirs.write(file, data, n_bytes, offset))

    def _truncate(self, file: int, size: int) -> int:
        known, theirs = self._files[file]
        call = Call("truncate", known.name, known.inode, size)
        return self._through(known.watcher, call, lambda: theirs.truncate(file, size))

    def _sync(self, file: int, flags: int) -> int:
        known, theirs = self._files[file]
        call = Call("sync", known.name, known.inode, sync_folder=known.new)
        code = self._through(known.watcher, call, lambda: theirs.sync(file, flags))
        if code == SQLITE_OK:
            known.new = False
        return code

    def _shm_map(self, file: int, page: int, size: int, extend: int, out: int) -> int:
        known, theirs = self._files[file]
        if extend and (code := known.watcher.refuse(Call("grow_shm", known.name, known.inode, page))):
            return code
        return theirs.shm_map(file, page, size, extend, out)

    @staticmethod
    def _through(watcher: Watcher, call: Call, make: Any) -> int:
        code = watcher.refuse(call) or make()
        if code == SQLITE_OK:
            watcher.done(call)
        return code

    def _methods_at(self, address: int) -> tuple[_Methods, _Methods]:
        if address not in self._methods:
            theirs, ours = _Methods.from_address(address), _Methods()
            ctypes.memmove(ctypes.byref(ours), ctypes.byref(theirs), ctypes.sizeof(_Methods))
            ours.write, ours.truncate = _X_WRITE(self._write), _X_TRUNCATE(self._truncate)
            ours.sync, ours.shm_map = _X_SYNC(self._sync), _X_SHM_MAP(self._shm_map)
            self._methods[address] = (theirs, ours)
        return self._methods[address]


@cache
def _shim() -> _Shim:
    return _Shim()


@contextmanager
def watched(folder: Path, watcher: Watcher) -> Iterator[None]:
    """Show `watcher` every call for a file in `folder` that is opened meanwhile, until that file is closed."""
    shim, key = _shim(), str(folder.resolve())
    if not shim.watchers:
        shim.install()
    shim.watchers[key] = watcher
    try:
        yield
    finally:
        del shim.watchers[key]
        if not shim.watchers:
            shim.remove()
