"""The tasks that one must run after, drawn."""

from __future__ import annotations

import click
import msgspec

from cascadenced.commands.options import Command
from cascadenced.commands.session import Session, pass_session

_DRAW = {"text": "as_text", "mermaid": "as_mermaid", "dot": "as_dot"}


@click.command(cls=Command)
@click.argument("task", metavar="NAME")
@click.option("--format", "form", type=click.Choice(list(_DRAW)), default="text", show_default=True)
@pass_session
def graph(session: Session, task: str, form: str) -> None:
    """Draw the tasks that NAME must run after.

    As a tree, or for Mermaid or Graphviz; there, arrows point from what runs first.

    \b
    Example: cascadenced graph report --format dot | dot -Tsvg > report.svg
    """
    from cascadenced.pipeline import graph as drawing

    found = session.ask("graph", task=task)
    session.show(found, getattr(drawing, _DRAW[form])(msgspec.convert(found, drawing.Graph)))
