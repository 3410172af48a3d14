"""Schedules that are set."""

from __future__ import annotations

from typing import Any

import click

from cascadenced.commands.options import Command
from cascadenced.commands.session import Session, pass_session
from cascadenced.commands.tables import cell, content


@click.command(cls=Command)
@pass_session
def schedules(session: Session) -> None:
    """List the schedules that are set.

    One a line: TASK<TAB>EXPRESSION, or the calendar event as JSON. They are recorded, shown and published; this version
    does not fire them yet.
    """
    page = session.ask_all("schedules")
    session.show_page(page, "\n".join(f"{cell(row['task'])}\t{_value(row)}" for row in page["items"]))


def _value(row: dict[str, Any]) -> str:
    return cell(row["expr"]) if row["calendar_event"] is None else content(row["calendar_event"], None)
