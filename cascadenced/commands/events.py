"""Events from outside: handed to the workflow that listens to them."""

from __future__ import annotations

from typing import Any

import click

from cascadenced.commands.options import Command, JsonObject, group_id, user_id
from cascadenced.commands.session import Session, pass_session
from cascadenced.commands.tables import content, plain
from cascadenced.errors import RunFailedError


@click.command(cls=Command)
@click.argument("event")
@click.argument("payload", type=JsonObject(), default={}, metavar="[JSON]")
@user_id
@group_id
@click.option("--no-wait", is_flag=True, help="Return when the event is recorded, not when its workflow has ended.")
@pass_session
def dispatch(session: Session, event: str, payload: dict[str, Any], user_id: str, group_id: str, no_wait: bool) -> None:
    """Dispatch EVENT to the workflow that answers it.

    The JSON object is its payload. Waits for the workflow to end and prints run-id<TAB>ID and result<TAB>JSON. An event
    without a workflow is recorded as well: runs of the group that wait for it (`wait_for`) go on.

    \b
    Example: cascadenced dispatch demo.greeting '{"name": "Ada"}' --user-id alice --group-id eng
    """
    try:
        result = session.ask(
            "dispatch", event=event, payload=payload, user_id=user_id, group_id=group_id, wait=not no_wait
        )
    except RunFailedError as error:
        if not session.as_json:
            click.echo(f"run-id\t{error.run_id}")
        raise
    lines = []
    if result["run_id"] is None:
        lines = [f"recorded; no workflow listens to {plain(event)}, only runs of this group that wait for it"]
    else:
        lines = [f"run-id\t{result['run_id']}"]
        if result["status"] == "success":
            lines.append(f"result\t{content(result['result'], None)}")
    session.show(result, "\n".join(lines))
