"""The event log itself: checked, folded again, written out."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click
import msgspec

from cascadenced.commands.folder import has_log, read_only
from cascadenced.commands.options import Command, shared
from cascadenced.commands.session import Session, pass_session, patience, print_json, remark
from cascadenced.commands.tables import fields, table
from cascadenced.config import Config
from cascadenced.errors import ConfigError, Invalid
from cascadenced.private_files import translated

if TYPE_CHECKING:
    from cascadenced.backup import Summary

_BATCH = 1_000


@click.group(params=shared())
def log() -> None:
    """The event log: verify, export, back up, restore."""


@log.command(cls=Command)
@pass_session
def verify(session: Session) -> None:
    """Check the hash of every event.

    Reads beside a running daemon, without disturbing it. Exits 74 naming the first position that is missing or is not
    what was recorded.
    """
    from cascadenced.eventlog.database import verify_chain

    with patience("checking every event"), _log_file(session.config) as connection:
        position = 0 if connection is None else verify_chain(connection)[0]
    session.show({"position": position}, f"the log is intact up to position {position}")


@log.command(cls=Command)
@click.argument("projections", nargs=-1, metavar="[PROJECTION]...")
@pass_session
def rebuild(session: Session, projections: tuple[str, ...]) -> None:
    """Fold projections again from the log.

    All, or those named. Nothing is recorded meanwhile. A projection that is frozen (see `doctor`) is live again
    afterwards, unless its fault is still there.
    """
    states = session.ask("log_rebuild", projections=list(projections))
    rows = [(state["name"], state["position"], state["frozen"] or "ok") for state in states]
    session.show(states, table(("PROJECTION", "POSITION", "STATE"), rows))


@log.command(cls=Command)
@click.option(
    "--after", "after", type=click.IntRange(min=0), default=0, metavar="POSITION", help="Only events behind this one."
)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Instead of stdout.")
@pass_session
def export(session: Session, after: int, out: Path | None) -> None:
    """Write all events as JSON lines.

    Oldest first, each with its whole header; a snapshot, taken beside the daemon. Users and groups are pseudonyms;
    arguments, payloads and results are as they were given. FILE is for its owner only and appears when it is complete.

    \b
    Example: cascadenced log export --after 1000 --out events.jsonl
    """
    with patience("writing"), _log_file(session.config) as connection, _opened(out) as file:
        n_events = 0
        for line in _lines(connection, after):
            file.write(line)
            n_events += 1
        file.flush()
    if out is not None:
        remark(f"{n_events} events written to {out}")


@log.command(cls=Command)
@click.argument("folder", type=click.Path(path_type=Path), metavar="FOLDER")
@click.option(
    "--without-keys", is_flag=True, help="Leave out vault.key and hash.secret; keep copies of them elsewhere."
)
@pass_session
def backup(session: Session, folder: Path, without_keys: bool) -> None:
    """Back up log, vault and keys into a new folder.

    Beside a running daemon, which goes on with its work, or without one. FOLDER appears when the backup is complete and
    checked: every event's hash, and SQLite's own check of both files. It is for its owner only.

    With the keys in it, whoever can read a backup can name the users; without them it cannot be restored until they are
    put beside it again (`restore --keys`). Configuration, task code and the broker's store are not part of it.

    \b
    Example: cascadenced log backup /var/backups/cascadence/$(date +%F)
    """
    from cascadenced.backup import MANIFEST, Summary

    path = Path(os.path.abspath(folder))
    made = msgspec.convert(session.ask("log_backup", folder=str(path), keys=not without_keys), Summary)
    if not (path / MANIFEST).exists():
        raise Invalid(
            f"the daemon has written {path}, but sees another file system than you (a container, PrivateTmp?): name a "
            "folder that both of you see"
        )
    session.show(msgspec.to_builtins(made), _about(made))
    if made.has_keys and not session.as_json:
        remark("it holds the vault's key and the hash secret: whoever can read it can name the users")


@log.command(cls=Command)
@click.argument("folder", type=click.Path(path_type=Path), metavar="BACKUP")
@click.option("--keys", type=click.Path(path_type=Path), metavar="FOLDER", help="Where the keys lie, if left out.")
@click.option("--force", is_flag=True, help="Move log, vault and keys that are in the data folder aside.")
@pass_session
def restore(session: Session, folder: Path, keys: Path | None, force: bool) -> None:
    """Put a backup into the data folder.

    No daemon may run on it. The backup is checked before anything is touched, and what was copied is checked again. The
    next daemon goes on with the runs that were under way; the log's epoch is raised, so that what this log records
    from here can be told from what the old one recorded after the backup.

    \b
    Example: cascadenced log restore /var/backups/cascadence/2026-11-01 --data-dir /srv/cascadence
    """
    from cascadenced.backup import restore as put_back
    from cascadenced.clock import SystemClock
    from cascadenced.eventlog.lock import DataFolderLock

    lock = DataFolderLock.acquire(session.config.data_dir, "the command log restore")
    try:
        with patience("copying and checking"):
            done = put_back(session.config, folder, keys=keys, force=force, clock=SystemClock())
    finally:
        lock.release()
    session.show(msgspec.to_builtins(done), _about(done))


@log.command(cls=Command)
@pass_session
def schema(session: Session) -> None:
    """Print the JSON Schema of the events.

    Draft 2020-12; every line of `log export` is valid under it. A daemon serves it at /events.schema.json.
    """
    from cascadenced.events.schema import document

    print_json(msgspec.json.decode(document()))


def _about(summary: Summary) -> str:
    return fields(
        [
            ("folder", summary.path),
            ("position", str(summary.position)),
            ("epoch", str(summary.epoch)),
            ("hash", summary.hash),
            ("instance", summary.instance_id),
            ("size", f"{summary.n_bytes} bytes"),
            ("moved aside", summary.replaced),
        ]
    )


def _lines(connection: sqlite3.Connection | None, after: int) -> Iterator[bytes]:
    from cascadenced.eventlog.rows import COLUMNS

    if connection is None:
        return
    cursor = connection.execute(
        f"SELECT {COLUMNS} FROM events WHERE position > ? ORDER BY position",  # noqa: S608 -- constants only
        (after,),
    )
    encode, names = msgspec.json.Encoder().encode, COLUMNS.split(", ")
    while rows := cursor.fetchmany(_BATCH):
        for row in rows:
            line = dict(zip(names, row, strict=True))
            yield encode({**line, "data": msgspec.Raw(line["data"]), "hash": line["hash"].hex()}) + b"\n"


@contextlib.contextmanager
def _log_file(config: Config) -> Iterator[sqlite3.Connection | None]:
    """The log's file, None if there is none yet. Raises Unavailable if it cannot be read."""
    if not has_log(config):
        yield None
        return
    from cascadenced.eventlog.database import unreadable

    try:
        with contextlib.closing(read_only(config)) as connection:
            yield connection
    except sqlite3.Error as error:
        raise unreadable(error, config.log_path) from None


@contextlib.contextmanager
def _opened(out: Path | None) -> Iterator[BinaryIO]:
    """Where an export goes."""
    if out is None:
        yield sys.stdout.buffer
        return
    draft = out.with_name(f"{out.name}.part")
    try:
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            yield file
        draft.replace(out)
    except OSError as error:
        said = translated(error, f"{out} cannot be written")
        raise Invalid(str(said)) if isinstance(said, ConfigError) else said from None
    finally:
        draft.unlink(missing_ok=True)
