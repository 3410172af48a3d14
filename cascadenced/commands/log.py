"""The event log itself: checked, folded again, written out."""

from __future__ import annotations

import os
from typing import Any

import click

from cascadenced.commands.options import Command, shared
from cascadenced.commands.session import Session, pass_session, patience, print_json, remark
from cascadenced.commands.tables import fields, table
from cascadenced.errors import Invalid


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
    from cascadenced.commands import log_file

    with patience("checking every event"):
        position = log_file.verify(session.config)
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
@click.option("--out", type=click.Path(dir_okay=False), metavar="FILE", help="Instead of stdout.")
@pass_session
def export(session: Session, after: int, out: str | None) -> None:
    """Write all events as JSON lines.

    Oldest first, each with its whole header; a snapshot, taken beside the daemon. Users and groups are pseudonyms;
    arguments, payloads and results are as they were given. FILE is for its owner only and appears when it is complete.

    \b
    Example: cascadenced log export --after 1000 --out events.jsonl
    """
    from cascadenced.commands import log_file

    with patience("writing"):
        n_events = log_file.export(session.config, after, out)
    if out is not None:
        remark(f"{n_events} events written to {out}")


@log.command(cls=Command)
@click.argument("folder", type=click.Path(), metavar="FOLDER")
@click.option(
    "--without-keys", is_flag=True, help="Leave out vault.key and hash.secret; keep copies of them elsewhere."
)
@pass_session
def backup(session: Session, folder: str, without_keys: bool) -> None:
    """Back up log, vault and keys into a new folder.

    Beside a running daemon, which goes on with its work, or without one. FOLDER appears when the backup is complete and
    checked: every event's hash, and SQLite's own check of both files. It is for its owner only.

    With the keys in it, whoever can read a backup can name the users; without them it cannot be restored until they are
    put beside it again (`restore --keys`). Configuration, task code and the broker's store are not part of it.

    \b
    Example: cascadenced log backup /var/backups/cascadence/$(date +%F)
    """
    from cascadenced.backup import MANIFEST

    path = os.path.abspath(folder)
    made = session.ask("log_backup", folder=path, keys=not without_keys)
    if not os.path.exists(os.path.join(path, MANIFEST)):
        raise Invalid(
            f"the daemon has written {path}, but sees another file system than you (a container, PrivateTmp?): name a "
            "folder that both of you see"
        )
    session.show(made, _about(made))
    if made["has_keys"] and not session.as_json:
        remark("it holds the vault's key and the hash secret: whoever can read it can name the users")


@log.command(cls=Command)
@click.argument("folder", type=click.Path(), metavar="BACKUP")
@click.option("--keys", type=click.Path(), metavar="FOLDER", help="Where the keys lie, if left out.")
@click.option("--force", is_flag=True, help="Move log, vault and keys that are in the data folder aside.")
@pass_session
def restore(session: Session, folder: str, keys: str | None, force: bool) -> None:
    """Put a backup into the data folder.

    No daemon may run on it. The backup is checked before anything is touched, and what was copied is checked again. The
    next daemon goes on with the runs that were under way; the log's epoch is raised, so that what this log records
    from here can be told from what the old one recorded after the backup.

    \b
    Example: cascadenced log restore /var/backups/cascadence/2026-11-01 --data-dir /srv/cascadence
    """
    from cascadenced.commands import log_file

    with patience("copying and checking"):
        done = log_file.restore(session.config, folder, keys=keys, force=force)
    session.show(done, _about(done))


@log.command(cls=Command)
@pass_session
def schema(session: Session) -> None:
    """Print the JSON Schema of the events.

    Draft 2020-12; every line of `log export` is valid under it. A daemon serves it at /events.schema.json.
    """
    from cascadenced.commands import log_file

    print_json(log_file.schema())


def _about(summary: dict[str, Any]) -> str:
    return fields(
        [
            ("folder", summary["path"]),
            ("position", str(summary["position"])),
            ("epoch", str(summary["epoch"])),
            ("hash", summary["hash"]),
            ("instance", summary["instance_id"]),
            ("size", f"{summary['n_bytes']} bytes"),
            ("moved aside", summary["replaced"]),
        ]
    )
