"""Pointers: marks that connect a task to a run for a user. Users and groups are kept as pseudonyms only."""

from __future__ import annotations

import click

from cascadenced.commands.options import Command
from cascadenced.commands.session import Session, pass_session
from cascadenced.commands.tables import cell
from cascadenced.errors import Invalid, Unknown

_group = click.option("--group-id", metavar="ID", help="The group the user acts for.")


@click.command("pointer-add", cls=Command)
@click.argument("name")
@click.argument("user")
@click.argument("run")
@_group
@pass_session
def add(session: Session, name: str, user: str, run: str, group_id: str | None) -> None:
    """Add a pointer from the task NAME to RUN for USER.

    NAME is a pointer task, USER a raw id: its pseudonym is stored. A pointer that is there already is not added again.
    The daemon tells the bus.
    """
    result = session.ask("pointer_add", task=name, user_id=user, run_id=run, group_id=group_id)
    session.show(result, "pointer added")


@click.command("pointer-send", cls=Command)
@click.argument("name")
@click.argument("user")
@click.argument("run")
@pass_session
def send(session: Session, name: str, user: str, run: str) -> None:
    """Send a pointer to the other instances.

    It is recorded here, and the daemon publishes it. Without a daemon it is published when the next one starts.
    """
    result = session.ask("pointer_add", task=name, user_id=user, run_id=run)
    session.show(result, "pointer sent")


@click.command("pointer-receive", cls=Command)
@click.argument("name")
@click.argument("run")
@click.argument("user_hash", metavar="HASH")
@_group
@pass_session
def receive(session: Session, name: str, run: str, user_hash: str, group_id: str | None) -> None:
    """Store a pointer that another instance has sent.

    HASH is the user's pseudonym, 64 hex digits.
    """
    result = session.ask("pointer_receive", task=name, run_id=run, user_hash=user_hash, group_id=group_id)
    session.show(result, "pointer stored")


@click.command("pointer-list", cls=Command)
@click.argument("name")
@click.option("--user-id", metavar="ID", help="Only this user's; the raw id.")
@click.option("--group-id", metavar="ID", help="Only this group's; the raw id.")
@pass_session
def list_(session: Session, name: str, user_id: str | None, group_id: str | None) -> None:
    """List the pointers of the task NAME.

    One a line: RUN<TAB>USER_HASH.
    """
    try:
        kind = session.ask("status", task=name)["kind"]
    except Unknown:
        kind = None
    if kind != "pointer":
        raise Invalid(f"'{name}' is not a pointer task")
    page = session.ask_all("pointers", task=name, user_id=user_id, group_id=group_id)
    session.show_page(page, "\n".join(f"{cell(row['run_id'])}\t{row['user_hash']}" for row in page["items"]))
