"""Raw identities and the bytes of dead letters: what only the task that runs, or a person who asks, may see.

Each row is sealed with AES-256-GCM under the key in `vault.key`; what it is and under which name it lies is part of the
seal, so rows cannot be swapped. Everything else in the system carries pseudonyms, and this file is needed to undo them.

`remember` and `seal_letter` return when the rows are durable. One thread owns the database file; what callers hand in
while it commits becomes the next commit, so that a thousand of them cost a few syncs and not a thousand. It is a daemon
thread of our own: one of asyncio's pool would hold up the end of the process when the disk hangs.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from cascadenced.crashpoint import crashpoint
from cascadenced.errors import CascadenceError, ConfigError, DiskError, DiskFull, Invalid, Unavailable, Unknown
from cascadenced.identity import Identity, Pseudonyms
from cascadenced.private_files import FILE_MODE, create_private, private_folder, read_or_create, translated

MAX_LETTERS = 10_000
MAX_LETTER_BYTES = 64 << 20
MAX_KNOWN = 65_536
KEY_BYTES = 32
SCHEMA_VERSION = 1
_NONCE_BYTES = 12
_TAG_BYTES = 16
_CHECK = b"cascadenced vault"

_SCHEMA = """
CREATE TABLE identity (
    kind TEXT NOT NULL,         -- user | group
    pseudonym TEXT NOT NULL,    -- what everything else calls them
    sealed BLOB NOT NULL,       -- the raw id
    PRIMARY KEY (kind, pseudonym)
) STRICT, WITHOUT ROWID;
CREATE TABLE letter (
    n INTEGER PRIMARY KEY,      -- order of arrival; the lowest drops out first
    digest TEXT NOT NULL UNIQUE,
    sealed BLOB NOT NULL        -- a Letter
) STRICT;
CREATE TABLE seal (
    name TEXT PRIMARY KEY,      -- check: a known text, to tell a wrong key from a damaged row
    sealed BLOB NOT NULL
) STRICT;
"""

T = TypeVar("T")
_Named = tuple[str, str]  # kind and pseudonym


class VaultDamaged(CascadenceError):
    """A row was changed, swapped or torn: its seal is broken. The other rows are not affected."""

    code = "vault_damaged"


class Letter(msgspec.Struct, frozen=True):
    """A message that could not be read, as it came."""

    subject: str
    headers: dict[str, str]
    raw: bytes


class VaultPort(Protocol):
    """What the rest of the program needs of a vault. `Vault` keeps it in a file, `MemoryVault` does not keep it."""

    async def remember(self, identities: Iterable[Identity], pseudonyms: Pseudonyms) -> None:
        """Keep the raw ids under their pseudonyms; durable on return. Ids seen lately cost nothing.

        Raises DiskFull, DiskError; then none of these identities may be taken as kept.
        """
        ...

    async def reveal(self, user_hash: str, group_hash: str) -> Identity:
        """The identity behind the pseudonyms. Raises Unknown, VaultDamaged."""
        ...

    async def user(self, user_hash: str) -> str | None:
        """The raw user id, None if it was never remembered. Raises VaultDamaged."""
        ...

    async def seal_letter(self, digest: str, subject: str, headers: Mapping[str, str], raw: bytes) -> None:
        """Keep a message under its digest; durable on return. A digest already there is left as it is.

        Letters are bounded in number and bytes: the oldest drop out. Raises Invalid for one larger than the bound,
        DiskFull, DiskError.
        """
        ...

    async def open_letter(self, digest: str) -> Letter:
        """The message as it came. Raises Unknown if it dropped out or never was, VaultDamaged."""
        ...

    async def close(self) -> None:
        """Write what is queued, then close. Idempotent."""
        ...


class Vault:
    """The vault in a file. See `VaultPort`; open it with `open`, on the loop that will use it."""

    def __init__(self, thread: _Thread, file: _File) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread = thread
        self._file = file
        self._known = _Known()
        self._gathering: _Batch | None = None
        self._committing: _Batch | None = None
        self._closed = False

    @classmethod
    async def open(
        cls,
        path: Path | str,
        key_path: Path | str,
        *,
        max_letters: int = MAX_LETTERS,
        max_letter_bytes: int = MAX_LETTER_BYTES,
    ) -> Vault:
        """Open or create the file (0600) and its key (0600, random).

        Raises ConfigError if the key is missing or another one, or the file is no vault; DiskFull, DiskError.
        """
        thread = _Thread(asyncio.get_running_loop())
        try:
            file = await thread.do(lambda: _File(Path(path), Path(key_path), max_letters, max_letter_bytes))
        except BaseException:
            thread.stop()
            raise
        return cls(thread, file)

    async def remember(self, identities: Iterable[Identity], pseudonyms: Pseudonyms) -> None:
        new = {
            named: raw.encode()
            for identity in identities
            for named, raw in _named(identity, pseudonyms)
            if not self._known.has(named)
        }
        if new:
            await self._durable(new, {})

    async def reveal(self, user_hash: str, group_hash: str) -> Identity:
        return await self._do(lambda: _identity(self._file.raw_id, user_hash, group_hash))

    async def user(self, user_hash: str) -> str | None:
        return await self._do(lambda: self._file.raw_id("user", user_hash))

    async def seal_letter(self, digest: str, subject: str, headers: Mapping[str, str], raw: bytes) -> None:
        letter = _letter_bytes(subject, headers, raw)
        _check_size(letter, self._file.max_letter_bytes)
        await self._durable({}, {digest: letter})

    async def open_letter(self, digest: str) -> Letter:
        return _opened(digest, await self._do(lambda: self._file.letter(digest)))

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        while (batch := self._gathering or self._committing) is not None:
            await asyncio.wait([batch.done])
        await self._thread.do(self._file.close)
        self._thread.stop()

    def _do(self, job: Callable[[], T]) -> asyncio.Future[T]:
        self._refuse_if_closed()
        return self._thread.do(job)

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise Unavailable("the vault is closed")

    def _durable(self, identities: Mapping[_Named, bytes], letters: Mapping[str, bytes]) -> asyncio.Future[None]:
        """Add rows to the next commit; the future ends with it. Cancelling it does not disturb the others."""
        self._refuse_if_closed()
        if self._gathering is None:
            self._gathering = _Batch(self._loop.create_future())
            if self._committing is None:
                self._loop.call_soon(self._commit)  # not at once: whoever is ready in this turn of the loop joins
        self._gathering.identities.update(identities)
        self._gathering.letters.update(letters)
        return asyncio.shield(self._gathering.done)

    def _commit(self) -> None:
        batch, self._gathering = self._gathering, None
        self._committing = batch
        if batch is not None:
            written = self._thread.do(lambda: self._file.write(batch.identities, batch.letters))
            written.add_done_callback(lambda written: self._committed(batch, written))

    def _committed(self, batch: _Batch, written: asyncio.Future[None]) -> None:
        error = written.exception()
        if error is None:
            self._known.add(batch.identities)
            batch.done.set_result(None)
        else:
            batch.done.set_exception(error)
        self._commit()


class MemoryVault:
    """The double: nothing is sealed, nothing outlives it."""

    def __init__(self, *, max_letters: int = MAX_LETTERS, max_letter_bytes: int = MAX_LETTER_BYTES) -> None:
        self._raw: dict[tuple[str, str], str] = {}
        self._letters: dict[str, bytes] = {}
        self._max_letters, self._max_letter_bytes = max_letters, max_letter_bytes
        self._closed = False

    async def remember(self, identities: Iterable[Identity], pseudonyms: Pseudonyms) -> None:
        self._refuse_if_closed()
        for identity in identities:
            for named, raw in _named(identity, pseudonyms):
                self._raw.setdefault(named, raw)
        crashpoint("vault.after_write")

    async def reveal(self, user_hash: str, group_hash: str) -> Identity:
        self._refuse_if_closed()
        return _identity(lambda kind, pseudonym: self._raw.get((kind, pseudonym)), user_hash, group_hash)

    async def user(self, user_hash: str) -> str | None:
        self._refuse_if_closed()
        return self._raw.get(("user", user_hash))

    async def seal_letter(self, digest: str, subject: str, headers: Mapping[str, str], raw: bytes) -> None:
        self._refuse_if_closed()
        letter = _letter_bytes(subject, headers, raw)
        _check_size(letter, self._max_letter_bytes)
        self._letters.setdefault(digest, letter)
        while len(self._letters) > self._max_letters or sum(map(len, self._letters.values())) > self._max_letter_bytes:
            del self._letters[next(iter(self._letters))]

    async def open_letter(self, digest: str) -> Letter:
        self._refuse_if_closed()
        return _opened(digest, self._letters.get(digest))

    async def close(self) -> None:
        self._closed = True

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise Unavailable("the vault is closed")


class _Batch:
    """What gathers for one commit.  done: resolved when it is durable, or failed."""

    def __init__(self, done: asyncio.Future[None]) -> None:
        self.done = done
        self.identities: dict[_Named, bytes] = {}
        self.letters: dict[str, bytes] = {}


class _Known:
    """The names of rows seen lately; never the raw ids."""

    def __init__(self) -> None:
        self._names: OrderedDict[_Named, None] = OrderedDict()

    def has(self, named: _Named) -> bool:
        if named not in self._names:
            return False
        self._names.move_to_end(named)
        return True

    def add(self, names: Iterable[_Named]) -> None:
        for named in names:
            self._names[named] = None
        while len(self._names) > MAX_KNOWN:
            self._names.popitem(last=False)


class _Thread:
    """One thread that does jobs in turn; how each went goes to a future on the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._jobs: queue.SimpleQueue[tuple[Callable[[], Any], asyncio.Future[Any]] | None] = queue.SimpleQueue()
        threading.Thread(target=self._work, name="vault", daemon=True).start()

    def do(self, job: Callable[[], T]) -> asyncio.Future[T]:
        future: asyncio.Future[T] = self._loop.create_future()
        self._jobs.put((job, future))
        return future

    def stop(self) -> None:
        """End when the jobs so far are done."""
        self._jobs.put(None)

    def _work(self) -> None:
        while (item := self._jobs.get()) is not None:
            job, future = item
            result, error = None, None
            try:
                result = job()
            except BaseException as failure:  # noqa: BLE001 -- the caller's to judge; the thread serves the next one
                error = failure
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(_settle, future, result, error)


def _settle(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.cancelled():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)


class _File:
    """The database and the key. Lives in the vault's thread; raises our errors only."""

    def __init__(self, path: Path, key_path: Path, max_letters: int, max_letter_bytes: int) -> None:
        self.max_letter_bytes = max_letter_bytes
        self._max_letters = max_letters
        self._path = path
        self._cipher = AESGCM(_key(path, key_path))
        self._failed: DiskError | None = None
        try:
            create_private(path)
            os.chmod(path, FILE_MODE)  # a copy from elsewhere may have come with other rights
            self._connection = _connect(path)
        except sqlite3.Error as error:
            raise _our_error(error, path) from error
        except OSError as error:
            raise translated(error, f"{path} cannot be opened") from error
        try:
            self._prepare(key_path)
            self._n_letters, self._n_letter_bytes = self._connection.execute(
                "SELECT count(*), coalesce(sum(length(sealed)), 0) FROM letter"
            ).fetchone()
        except sqlite3.Error as error:
            self._connection.close()
            raise _our_error(error, path) from error
        except BaseException:
            self._connection.close()
            raise

    def write(self, identities: Mapping[_Named, bytes], letters: Mapping[str, bytes]) -> None:
        """All rows in one transaction; on disk on return."""
        if self._failed is not None:
            raise self._failed  # after a failed sync a second try may succeed without the bytes being there
        rows = [(*named, self._sealed(*named, raw)) for named, raw in identities.items()]
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.executemany("INSERT OR IGNORE INTO identity VALUES (?, ?, ?)", rows)
            held = self._add_letters(letters)
            self._connection.execute("COMMIT")
        except BaseException as error:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            if not isinstance(error, sqlite3.Error):
                raise
            ours = _our_error(error, self._path)
            if isinstance(ours, DiskError):
                self._failed = ours
            raise ours from error
        self._n_letters, self._n_letter_bytes = held
        crashpoint("vault.after_write")

    def raw_id(self, kind: str, pseudonym: str) -> str | None:
        sealed = self._one("SELECT sealed FROM identity WHERE kind = ? AND pseudonym = ?", kind, pseudonym)
        return None if sealed is None else self._opened(kind, pseudonym, sealed).decode()

    def letter(self, digest: str) -> bytes | None:
        sealed = self._one("SELECT sealed FROM letter WHERE digest = ?", digest)
        return None if sealed is None else self._opened("letter", digest, sealed)

    def close(self) -> None:
        try:
            self._connection.close()
        except sqlite3.Error as error:
            raise _our_error(error, self._path) from error

    def _add_letters(self, letters: Mapping[str, bytes]) -> tuple[int, int]:
        """Insert, drop the oldest beyond the bounds, and return the number and bytes of those that are left."""
        n, n_bytes = self._n_letters, self._n_letter_bytes
        for digest, letter in letters.items():
            sealed = self._sealed("letter", digest, letter)
            added = self._connection.execute(
                "INSERT OR IGNORE INTO letter (digest, sealed) VALUES (?, ?)", (digest, sealed)
            ).rowcount
            n, n_bytes = n + added, n_bytes + added * len(sealed)
        while n > self._max_letters or n_bytes > self.max_letter_bytes:
            oldest, size = self._connection.execute(
                "SELECT n, length(sealed) FROM letter ORDER BY n LIMIT 1"
            ).fetchone()
            self._connection.execute("DELETE FROM letter WHERE n = ?", (oldest,))
            n, n_bytes = n - 1, n_bytes - size
        return n, n_bytes

    def _one(self, sql: str, *parameters: str) -> bytes | None:
        try:
            row = self._connection.execute(sql, parameters).fetchone()
        except sqlite3.Error as error:
            raise _our_error(error, self._path) from error
        return None if row is None else row[0]

    def _sealed(self, kind: str, name: str, content: bytes) -> bytes:
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, content, f"{kind}\0{name}".encode())

    def _opened(self, kind: str, name: str, sealed: bytes) -> bytes:
        try:
            return self._cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], f"{kind}\0{name}".encode())
        except (InvalidTag, ValueError) as error:
            raise VaultDamaged(f"the {kind} {name} in {self._path} was changed after it was sealed") from error

    def _prepare(self, key_path: Path) -> None:
        """Make the tables in a new file; in an old one, make sure that the key is the one it was sealed with."""
        version = self._connection.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            raise ConfigError(f"{self._path} was written by a newer version: install that one again")
        if version == 0:
            if self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                raise ConfigError(f"{self._path} is another program's database: choose another data_dir")
            self._connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION};")
            self._connection.execute("INSERT INTO seal VALUES ('check', ?)", (self._sealed("seal", "check", _CHECK),))
            self._connection.execute("COMMIT")
            return
        sealed = self._one("SELECT sealed FROM seal WHERE name = 'check'")
        try:
            fits = sealed is not None and self._opened("seal", "check", sealed) == _CHECK
        except VaultDamaged:
            fits = False
        if not fits:
            raise ConfigError(f"{key_path} is not the key of {self._path}: put the right one back from a backup")


def _key(path: Path, key_path: Path) -> bytes:
    private_folder(path.parent)
    if path.exists() and path.stat().st_size and not key_path.exists():
        raise ConfigError(
            f"{path} cannot be read without its key {key_path}: put the key back from a backup, or move {path.name} "
            "away to start an empty vault (raw identities and dead letters are lost then)"
        )
    return read_or_create(key_path, KEY_BYTES)


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    pragmas = ["journal_mode=WAL", "synchronous=FULL", "secure_delete=ON", "busy_timeout=5000"]
    pragmas += ["trusted_schema=OFF", "cell_size_check=ON", "mmap_size=0", f"journal_size_limit={MAX_LETTER_BYTES}"]
    pragmas += ["fullfsync=ON", "checkpoint_fullfsync=ON"]  # heeded on macOS, where a plain fsync is none
    for pragma in pragmas:
        connection.execute(f"PRAGMA {pragma}").fetchall()
    in_force = [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")]
    if in_force != ["wal", 2]:
        connection.close()
        raise ConfigError(f"{path} cannot be used with WAL and synchronous=FULL: it must be on a local disk")
    return connection


def _our_error(error: sqlite3.Error, path: Path) -> CascadenceError:
    # Absent on errors that Python's module raises by itself; the low byte is the primary code.
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return DiskFull(f"no space is left to write {path}")
    if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
        return ConfigError(f"{path} is damaged or not a vault ({error}): put it back from a backup, or move it away")
    if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
        return ConfigError(f"{path} cannot be written ({error}): check who owns it and its folder")
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return Unavailable(f"another program holds {path} ({error})")
    return DiskError(f"{path}: {error}")


def _named(identity: Identity, pseudonyms: Pseudonyms) -> tuple[tuple[_Named, str], tuple[_Named, str]]:
    user = ("user", pseudonyms.user(identity.user_id)), identity.user_id
    group = ("group", pseudonyms.group(identity.group_id)), identity.group_id
    return user, group


def _identity(raw_id: Callable[[str, str], str | None], user_hash: str, group_hash: str) -> Identity:
    user_id, group_id = raw_id("user", user_hash), raw_id("group", group_hash)
    if user_id is None:
        raise Unknown(f"no raw identity is kept for the user {user_hash}")
    if group_id is None:
        raise Unknown(f"no raw identity is kept for the group {group_hash}")
    return Identity(user_id, group_id)


class _StoredLetter(msgspec.Struct, frozen=True, array_like=True):
    """A Letter whose texts are bytes: what could not be read may hold surrogates, which no encoder takes."""

    subject: bytes
    headers: list[tuple[bytes, bytes]]
    raw: bytes


def _letter_bytes(subject: str, headers: Mapping[str, str], raw: bytes) -> bytes:
    named = [(_to_bytes(name), _to_bytes(value)) for name, value in headers.items()]
    return msgspec.msgpack.encode(_StoredLetter(_to_bytes(subject), named, raw))


def _opened(digest: str, letter: bytes | None) -> Letter:
    if letter is None:
        raise Unknown(f"no message is kept under {digest}; only the newest are")
    stored = msgspec.msgpack.decode(letter, type=_StoredLetter)
    headers = {_to_text(name): _to_text(value) for name, value in stored.headers}
    return Letter(_to_text(stored.subject), headers, stored.raw)


def _check_size(letter: bytes, limit_bytes: int) -> None:
    room = limit_bytes - _NONCE_BYTES - _TAG_BYTES
    if len(letter) > room:
        raise Invalid(f"a message of {len(letter)} bytes is too large to keep; {room} is the limit")


def _to_bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _to_text(content: bytes) -> str:
    return content.decode("utf-8", "surrogatepass")
