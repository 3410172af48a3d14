"""Messages that could not be read."""

from __future__ import annotations

from typing import Any

import click

from cascadenced.commands.options import Command, after, limit, shared
from cascadenced.commands.session import Session, pass_session
from cascadenced.commands.tables import cell, fields, plain, table, when

_position = click.argument("position", type=click.IntRange(min=1))


@click.group("dead-letters", invoke_without_command=True, params=shared())
@click.pass_context
def dead_letters(context: click.Context) -> None:
    """Messages from the bus that could not be read.

    Without a sub-command they are listed. Their bytes are sealed in the vault of this data folder; the list shows
    subject, reason and size.
    """
    if context.invoked_subcommand is None:
        context.invoke(list_, limit=100, after=None)


@dead_letters.command("list", cls=Command)
@limit
@after
@pass_session
def list_(session: Session, limit: int, after: str | None) -> None:
    """List them, newest first."""
    page = session.ask("dead_letters", limit=limit, after=after)
    rows = [
        (
            row["position"],
            when(row["at"]),
            row["subject"],
            row["reason"],
            row["n_bytes"],
            row["redriven"],
            row["detail"],
        )
        for row in page["items"]
    ]
    headers = ("POSITION", "AT", "SUBJECT", "REASON", "BYTES", "REDRIVEN", "DETAIL")
    session.show_page(page, table(headers, rows, spare=("REDRIVEN", "BYTES")) if rows else "no dead letters")


@dead_letters.command(cls=Command)
@_position
@pass_session
def show(session: Session, position: int) -> None:
    """Open the letter at POSITION.

    Shows its headers and bytes, raw identities included.
    """
    letter = session.ask("dead_letter", position=position)
    session.show(letter, _letter(letter))


@dead_letters.command(cls=Command)
@_position
@pass_session
def redrive(session: Session, position: int) -> None:
    """Read the letter at POSITION again.

    As if it had just come: after an upgrade, or when its task is there now.
    """
    session.show(session.ask("redrive", position=position), f"dead letter {position} redriven")


def _letter(letter: dict[str, Any]) -> str:
    head = fields(
        [
            ("position", letter["position"]),
            ("subject", cell(letter["subject"])),
            ("reason", letter["reason"]),
            ("detail", cell(letter["detail"])),
            *((cell(name), cell(value)) for name, value in letter["headers"].items()),
        ]
    )
    return f"{head}\n\n{plain(letter['text'])}"
