"""The vault's file: sealed rows.

AES-256-GCM under the key in `vault.key`; what a row is and under which name it lies is part of its seal, so rows cannot
be swapped.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from cascadenced.crashpoint import crashpoint
from cascadenced.errors import (
    BackupDamaged,
    CascadenceError,
    ConfigError,
    DiskError,
    DiskFull,
    Unavailable,
    VaultDamaged,
)
from cascadenced.private_files import (
    FILE_MODE,
    create_private,
    private_folder,
    read_key,
    read_or_create,
    translated,
)

KEY_BYTES = 32
SCHEMA_VERSION = 1
_NONCE_BYTES = 12
SEAL_BYTES = _NONCE_BYTES + 16
"""What sealing adds to a row: the nonce and the tag."""
_CHECK = b"cascadenced vault"
_JOURNAL_BYTES = 64 << 20

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

Named = tuple[str, str]
"""Kind (user or group) and pseudonym."""


class VaultFile:
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

    def write(self, identities: Mapping[Named, bytes], letters: Mapping[str, bytes]) -> None:
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
        content = _unsealed(self._cipher, kind, name, sealed)
        if content is None:
            raise VaultDamaged(f"the {kind} {name} in {self._path} was changed after it was sealed")
        return content

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
            raise _another_key(self._path, key_path)


def check_copy(path: Path, key_path: Path | None) -> tuple[str, str] | None:
    """Check a vault that nobody uses, without changing it: SQLite's own check, and that the key is its key.

    Returns a user's pseudonym and raw id, to check a hash secret with; None without a key, or when it keeps nobody.
    Raises BackupDamaged for a damaged file, ConfigError for a key that is not its key.
    """
    try:
        uri = f"file:{quote(str(path))}?mode=ro&immutable=1"
        with contextlib.closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as connection:
            found = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
            if found != "ok":
                raise BackupDamaged(f"{path} is damaged: {found}")
            if key_path is None:
                return None
            (check,) = connection.execute("SELECT sealed FROM seal WHERE name = 'check'").fetchone()
            user = connection.execute("SELECT pseudonym, sealed FROM identity WHERE kind = 'user' LIMIT 1").fetchone()
    except (sqlite3.Error, TypeError) as error:
        raise BackupDamaged(f"{path} is damaged or not a vault: {error}") from None
    cipher = AESGCM(read_key(key_path, KEY_BYTES))
    if _unsealed(cipher, "seal", "check", check) != _CHECK:
        raise ConfigError(f"{key_path} is not the key of {path}: name the right one")
    if user is None:
        return None
    raw = _unsealed(cipher, "user", *user)
    if raw is None:
        raise BackupDamaged(f"the user {user[0]} in {path} was changed after it was sealed")
    return user[0], raw.decode()


def keeps_anything(path: Path) -> bool:
    """Whether anybody or any letter is kept in the file; False where there is none, or none that can be read."""
    if not path.exists():
        return False
    try:
        uri = f"file:{quote(str(path))}?mode=ro"
        with contextlib.closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as connection:
            connection.execute("PRAGMA busy_timeout = 5000")
            anything = "SELECT EXISTS (SELECT 1 FROM identity) OR EXISTS (SELECT 1 FROM letter)"
            found = connection.execute(anything).fetchone()
    except sqlite3.Error:
        return False
    return bool(found[0])


def check_key(path: Path, key_path: Path) -> None:
    """Look at a vault that its owner may be using. Raises ConfigError for one that cannot be opened with this key."""
    if not path.exists() or not path.stat().st_size:
        return
    if not key_path.exists():
        raise _keyless(path, key_path)
    cipher = AESGCM(read_key(key_path, KEY_BYTES))
    try:
        uri = f"file:{quote(str(path))}?mode=ro"
        with contextlib.closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as connection:
            connection.execute("PRAGMA busy_timeout = 5000")
            row = connection.execute("SELECT sealed FROM seal WHERE name = 'check'").fetchone()
    except sqlite3.Error as error:
        raise _our_error(error, path) from None
    if row is None or _unsealed(cipher, "seal", "check", row[0]) != _CHECK:
        raise _another_key(path, key_path)


def _unsealed(cipher: AESGCM, kind: str, name: str, sealed: bytes) -> bytes | None:
    """The content, None if the seal is broken."""
    try:
        return cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], f"{kind}\0{name}".encode())
    except (InvalidTag, ValueError):
        return None


def _key(path: Path, key_path: Path) -> bytes:
    private_folder(path.parent)
    if path.exists() and path.stat().st_size and not key_path.exists():
        raise _keyless(path, key_path)
    return read_or_create(key_path, KEY_BYTES)


def _keyless(path: Path, key_path: Path) -> ConfigError:
    return ConfigError(
        f"{path} cannot be read without its key {key_path}: put the key back from a backup, or leave an empty file in "
        "the vault's place (raw identities and dead letters are lost then)"
    )


def _another_key(path: Path, key_path: Path) -> ConfigError:
    return ConfigError(f"{key_path} is not the key of {path}: put the right one back from a backup")


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    pragmas = ["journal_mode=WAL", "synchronous=FULL", "secure_delete=ON", "busy_timeout=5000"]
    pragmas += ["trusted_schema=OFF", "cell_size_check=ON", "mmap_size=0", f"journal_size_limit={_JOURNAL_BYTES}"]
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
    extended = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    code = extended & 0xFF
    # Without space for the WAL's index in shared memory a full disk has a code of its own.
    if code == sqlite3.SQLITE_FULL or extended == sqlite3.SQLITE_IOERR_SHMSIZE:
        return DiskFull(f"no space is left to write {path}")
    if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
        return ConfigError(
            f"{path} is damaged or not a vault ({error}): put it back from a backup, or leave an empty "
            "file in its place (raw identities and dead letters are lost then)"
        )
    if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
        return ConfigError(f"{path} cannot be written ({error}): check who owns it and its folder")
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return Unavailable(f"another program holds {path} ({error})")
    return DiskError(f"{path}: {error}")
