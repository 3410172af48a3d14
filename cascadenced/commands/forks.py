"""Runs that begin with the results of others."""

from __future__ import annotations

from typing import Any

import click

from cascadenced.commands.options import Command, group_id, user_id
from cascadenced.commands.session import Session, pass_session
from cascadenced.errors import BadMessage, RunFailedError


class Assignment(click.ParamType[tuple[str, Any]]):
    """`key=value`: a JSON value, else text."""

    name = "assignment"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        from cascadenced.events.strict import scan

        key, equals, text = value.partition("=")
        if not key or not equals:
            self.fail(f"{value!r} is not KEY=VALUE, such as seconds=2.", param, ctx)
        try:
            return key, scan(text.encode(errors="surrogateescape"))
        except BadMessage:
            return key, text


@click.command(cls=Command)
@click.argument("run")
@click.option("--from", "stage", required=True, metavar="STAGE", help="The first stage that is performed.")
@click.option(
    "--set",
    "changes",
    type=Assignment(),
    multiple=True,
    metavar="KEY=VALUE",
    help="An argument that is to be another one: a JSON value, else text. May be repeated.",
)
@user_id
@group_id
@click.option("--no-wait", is_flag=True, help="Return when the run is recorded, not when it has ended.")
@pass_session
def fork(
    session: Session,
    run: str,
    stage: str,
    changes: tuple[tuple[str, Any], ...],
    user_id: str,
    group_id: str,
    no_wait: bool,
) -> None:
    """Start a new run with the results of another one.

    The new run takes over what the stages before STAGE put out and what RUN was told until then, and performs STAGE and
    those after it, with the code of the task as it is now. What was taken over is not made again, also where --set
    changes what it was made of. RUN stays as it is.

    Only the user and group that RUN was for may fork it. Prints run-id<TAB>ID, as `run` does.

    \b
    Example: cascadenced fork 019ac5e1 --from run --set limit=5 --user-id alice --group-id eng
    """
    try:
        result = session.ask(
            "fork",
            run=run,
            stage=stage,
            args=dict(changes),
            user_id=user_id,
            group_id=group_id,
            wait=not no_wait,
        )
    except RunFailedError as error:
        if not session.as_json:
            click.echo(f"run-id\t{error.run_id}")
        raise
    session.show(result, f"run-id\t{result['run_id']}")
