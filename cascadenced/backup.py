"""A backup of a data folder: made beside a running daemon, checked, and put back.

A backup is a folder: the log, the vault, their keys, and `backup.json`, which says what belongs to it. It is written
under another name, synced, checked and only then renamed: what has the name that was asked for is complete.

The log is copied before the vault. An identity is durable in the vault before the log names its pseudonym, so every
pseudonym in the copied log has its identity in the copied vault; the other way round some would not.

The broker's store is not in a backup: what the log lacks may be delivered again, and what it has is not done twice.
Neither is the configuration.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from cascadenced import __version__
from cascadenced.clock import Clock, iso, parse_iso
from cascadenced.config import Config
from cascadenced.crashpoint import crashpoint
from cascadenced.errors import BackupDamaged, ConfigError, Conflict, Invalid, Unknown
from cascadenced.eventlog.copying import End, check_log, copy_database, epoch_of, raise_epoch
from cascadenced.eventlog.lock import FILE_NAME as LOCK
from cascadenced.identity import Pseudonyms
from cascadenced.private_files import FOLDER_MODE, copy_key, read_or_create_hex, sync_folder, translated
from cascadenced.vault_file import check_copy

FORMAT = 1
MANIFEST = "backup.json"
UNFINISHED = "restore.unfinished"
"""In a data folder: its files are being exchanged. While it is there nothing is opened."""
_LOG, _VAULT, _VAULT_KEY, _HASH_SECRET = "log.db", "vault.db", "vault.key", "hash.secret"
_KEYS = (_VAULT_KEY, _HASH_SECRET)
_OURS = frozenset(
    {*_KEYS, *(f"{database}{suffix}" for database in (_LOG, _VAULT) for suffix in ("", "-wal", "-shm", "-journal"))}
)
"""What a restore replaces."""
_WORKING = frozenset({LOCK, UNFINISHED, "nats", "nats.key", "daemon.log", "daemon.json", "socket"})
"""What does not count as something there. The broker's store stays: it may hold requests that no log has yet."""
_REPLACED, _COPY = "replaced-", "restoring.part"
_CHUNK_BYTES = 1 << 20
_OPENINGS_PER_S = 100
"""More than a log can be opened and closed, each time with several syncs."""

Pause = Callable[[], object]


class Piece(msgspec.Struct, frozen=True):
    """One file of a backup. sha256: hex."""

    n_bytes: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """`backup.json`. left_out: keys that this backup needs and does not hold."""

    format: int
    version: str
    made_at: str
    instance_id: str
    position: int
    epoch: int
    hash: str
    files: dict[str, Piece]
    left_out: tuple[str, ...] = ()


class Summary(msgspec.Struct, frozen=True):
    """What was made or put back.

    path: of the backup; of the data folder.  hash: of the event at `position`, hex.  has_keys: whether whoever reads it
    can name the users.  replaced: where what was there before has gone.
    """

    path: str
    position: int
    epoch: int
    hash: str
    instance_id: str
    n_bytes: int
    has_keys: bool
    replaced: str | None = None


# ── making one ───────────────────────────────────────────────────────────────────────────────────────────────


def make(config: Config, folder: Path, *, keys: bool, clock: Clock, pause: Pause) -> Summary:
    """Write a backup of what is committed now to `folder`, which must not be there yet, or be empty.

    Whoever calls is the daemon of the data folder, or holds its lock. Blocks as long as it takes.
    keys: whether the vault's key and the hash secret go along.
    pause: called every few milliseconds of work; what it raises ends the backup, and nothing is left of it.
    Raises Unknown without a log, Invalid for a folder that cannot be used, DiskFull, DiskError, LogCorrupt.
    """
    _refuse_unusable(folder)
    if not config.log_path.exists():
        raise Unknown(f"nothing is recorded in {config.data_dir} yet: there is nothing to back up")
    with _draft(folder) as draft:
        copy_database(config.log_path, draft / _LOG, pause)
        crashpoint("backup.half")
        copy_database(config.vault_path, draft / _VAULT, pause)
        needed = [name for name in _KEYS if name != _HASH_SECRET or config.hash_secret is None]
        if keys:
            for name in needed:
                copy_key(Path(config.data_dir, name), draft / name)
        end = check_log(draft / _LOG, pause)
        check_copy(draft / _VAULT, config.vault_key_path)
        manifest = Manifest(
            format=FORMAT,
            version=__version__,
            made_at=iso(clock.now_us()),
            instance_id=end.instance_id,
            position=end.position,
            epoch=end.epoch,
            hash=end.hash,
            files={path.name: _piece(path, pause) for path in sorted(draft.iterdir())},
            left_out=() if keys else tuple(needed),
        )
        _write(draft / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest)))
        sync_folder(draft)
        os.replace(draft, folder)
        sync_folder(folder.parent)
    return _summary(folder, manifest)


def _refuse_unusable(folder: Path) -> None:
    if not folder.is_absolute():
        raise Invalid(f"{folder} must be an absolute path")
    with _as_argument(f"{folder} cannot be used"):
        if not folder.parent.is_dir():
            raise Invalid(f"{folder} cannot be used: there is no folder {folder.parent}")
        if folder.is_symlink() or (folder.exists() and (not folder.is_dir() or any(folder.iterdir()))):
            raise Conflict(f"{folder} is there already: name a folder that is not, or an empty one")


@contextlib.contextmanager
def _draft(folder: Path) -> Iterator[Path]:
    """An empty folder beside `folder`, on the same disk; nothing is left of it unless it was renamed."""
    draft = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.part")
    with _as_argument(f"{folder} cannot be written"):
        draft.mkdir(mode=FOLDER_MODE)
        try:
            yield draft
        finally:
            shutil.rmtree(draft, ignore_errors=True)


@contextlib.contextmanager
def _as_argument(what: str) -> Iterator[None]:
    """What is wrong with a path that the caller named is the caller's to mend, not the configuration's."""
    try:
        yield
    except OSError as error:
        said = translated(error, what)
        raise Invalid(str(said)) if isinstance(said, ConfigError) else said from None


def _piece(path: Path, pause: Pause) -> Piece:
    digest, n_bytes = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            n_bytes += len(chunk)
            pause()
    return Piece(n_bytes, digest.hexdigest())


def _write(path: Path, content: bytes) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _summary(path: Path, manifest: Manifest, *, epoch: int | None = None, replaced: Path | None = None) -> Summary:
    return Summary(
        path=str(path),
        position=manifest.position,
        epoch=manifest.epoch if epoch is None else epoch,
        hash=manifest.hash,
        instance_id=manifest.instance_id,
        n_bytes=sum(piece.n_bytes for piece in manifest.files.values()),
        has_keys=any(name in manifest.files for name in _KEYS),
        replaced=None if replaced is None else str(replaced),
    )


# ── putting one back ─────────────────────────────────────────────────────────────────────────────────────────


def restore(config: Config, folder: Path, *, keys: Path | None, force: bool, clock: Clock) -> Summary:
    """Put the backup in `folder` into the data folder, whose lock the caller holds.

    keys: where the keys lie that the backup leaves out.  force: move what would be replaced aside.
    Raises Invalid for what is no backup, BackupDamaged, LogCorrupt, Conflict when there is something and no `force`,
    ConfigError for keys that are not the backup's, DiskFull, DiskError. Until everything is copied and checked, nothing
    that was in the data folder is touched.
    """
    manifest = _checked_manifest(folder)
    home = Path(config.data_dir)
    _refuse_occupied(home, force=force)
    epoch = _next_epoch(config, manifest, clock)
    draft = home / _COPY
    shutil.rmtree(draft, ignore_errors=True)  # of a restore that was interrupted
    try:
        with _translated(f"{draft} cannot be written"):
            draft.mkdir(mode=FOLDER_MODE)
        for name, piece in manifest.files.items():
            _copy_checked(folder / name, draft / name, piece)
        for name in manifest.left_out:
            copy_key(_key_beside(keys, name, manifest), draft / name)
        raise_epoch(draft / _LOG, epoch)
        _check_end(manifest, epoch, check_log(draft / _LOG))
        _check_secrets(config, draft)
        sync_folder(draft)
        crashpoint("restore.copied")
        replaced = _exchange(home, draft, clock)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return _summary(home, manifest, epoch=epoch, replaced=replaced)


def _next_epoch(config: Config, manifest: Manifest, clock: Clock) -> int:
    """Higher than any that the old log has been in since the backup, which may be lost or moved aside: each of its
    openings has raised it by one."""
    try:
        since_s = max(0, clock.now_us() - parse_iso(manifest.made_at)) / 1e6
    except ValueError:
        raise BackupDamaged(f"{MANIFEST} says that it was made at {manifest.made_at!r}, which is no time") from None
    return 1 + max(manifest.epoch + math.ceil(since_s * _OPENINGS_PER_S), epoch_of(config.log_path))


def refuse_half_restored(config: Config) -> None:
    """Raises ConfigError for a data folder in which a restore was interrupted: its files do not fit."""
    if Path(config.data_dir, UNFINISHED).exists():
        raise ConfigError(
            f"a restore of {config.data_dir} was interrupted: do it again, `cascadenced log restore BACKUP --force`"
        )


def _refuse_occupied(home: Path, *, force: bool) -> None:
    found = sorted(path.name for path in home.iterdir())
    there = [name for name in found if name not in _WORKING and name != _COPY and not name.startswith(_REPLACED)]
    if there and not force:
        raise Conflict(
            f"{home} is not empty ({', '.join(there[:5])}): restore into another data folder, or add --force, which "
            "moves log, vault and keys that are there aside"
        )


def _exchange(home: Path, draft: Path, clock: Clock) -> Path | None:
    """Put the files of `draft` into `home`; returns where those that were there are now."""
    there = sorted(path for path in home.iterdir() if path.name in _OURS)
    replaced = home / f"{_REPLACED}{iso(clock.now_us()).replace(':', '')}" if there else None
    with _translated(f"{home} cannot be written"):
        (home / UNFINISHED).touch(mode=0o600)
        sync_folder(home)
        if replaced is not None:
            replaced.mkdir(mode=FOLDER_MODE)
            for path in there:
                path.rename(replaced / path.name)
            sync_folder(replaced)
        crashpoint("restore.half")
        for path in sorted(draft.iterdir()):
            path.rename(home / path.name)
        sync_folder(home)
        (home / UNFINISHED).unlink()
        sync_folder(home)
    return replaced


def _key_beside(keys: Path | None, name: str, manifest: Manifest) -> Path:
    if keys is None:
        raise Invalid(
            f"this backup leaves out {' and '.join(manifest.left_out)}: name the folder where they lie, --keys FOLDER"
        )
    if not (keys / name).exists():
        raise Invalid(f"there is no {keys / name}")
    return keys / name


def _checked_manifest(folder: Path) -> Manifest:
    with _as_argument(f"{folder} cannot be read"):
        if not folder.is_dir():
            raise Invalid(f"{folder} is {'not a folder' if folder.exists() else 'not there'}: a backup is a folder")
        try:
            said = (folder / MANIFEST).read_bytes()
        except FileNotFoundError:
            raise Invalid(
                f"{folder} is not a complete backup: it has no {MANIFEST} (a name that ends with .part is one that was "
                "interrupted)"
            ) from None
    try:
        manifest_format = msgspec.json.decode(said, type=_Format).format
        if manifest_format > FORMAT:
            raise ConfigError(
                f"{folder} was made by a newer version (format {manifest_format}, this one knows {FORMAT}): install "
                "that version"
            )
        manifest = msgspec.json.decode(said, type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BackupDamaged(f"{folder / MANIFEST} cannot be read: {error}") from None
    if not {_LOG, _VAULT} <= set(manifest.files) <= {_LOG, _VAULT, *_KEYS} or not set(manifest.left_out) <= set(_KEYS):
        raise BackupDamaged(f"{folder / MANIFEST} names files that are none of a backup, or not all of them")
    return manifest


class _Format(msgspec.Struct):
    format: int


def _copy_checked(source: Path, target: Path, piece: Piece) -> None:
    """A private copy on disk, of exactly these bytes."""
    digest, n_bytes = hashlib.sha256(), 0
    try:
        with source.open("rb") as reading:
            descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with _translated(f"{target} cannot be written"), open(descriptor, "wb") as writing:
                while chunk := reading.read(_CHUNK_BYTES):
                    digest.update(chunk)
                    n_bytes += len(chunk)
                    writing.write(chunk)
                writing.flush()
                os.fsync(descriptor)
    except FileNotFoundError:
        raise BackupDamaged(f"{source} is missing") from None
    except OSError as error:
        raise Invalid(f"{source} cannot be read: {error.strerror}") from None
    if n_bytes != piece.n_bytes:
        raise BackupDamaged(f"{source} has {n_bytes} bytes, not the {piece.n_bytes} that were written")
    if digest.hexdigest() != piece.sha256:
        raise BackupDamaged(f"{source} is not what was written: its SHA-256 is another one")


def _check_end(manifest: Manifest, epoch: int, end: End) -> None:
    if (end.position, end.epoch, end.hash) != (manifest.position, epoch, manifest.hash):
        raise BackupDamaged(
            f"the log ends at {end.position} ({end.hash[:12]}), but {MANIFEST} says {manifest.position} "
            f"({manifest.hash[:12]})"
        )


def _check_secrets(config: Config, draft: Path) -> None:
    """That the key opens the vault, and that the hash secret in force gives the pseudonyms in it."""
    try:
        known = check_copy(draft / _VAULT, draft / _VAULT_KEY)
    except ConfigError:
        raise ConfigError(f"{_VAULT_KEY} is not the key of this backup's vault: name the right one") from None
    secret = config.hash_secret
    if secret is None:
        path = draft / _HASH_SECRET
        if not path.exists():
            raise ConfigError("the backup's hash_secret was set in its configuration: set the same one here first")
        secret = read_or_create_hex(path, 32)
    if known is not None:
        pseudonym, user_id = known
        if Pseudonyms(secret, compat_sha256=config.hash_compat == "sha256").user(user_id) != pseudonym:
            raise ConfigError(
                "the hash secret in force is not the one that the backup's pseudonyms were made with: check "
                "hash_secret and hash_compat in the configuration"
            )


@contextlib.contextmanager
def _translated(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise translated(error, what) from None
