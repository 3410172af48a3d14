"""Controlling one run: ending it, telling it something, saying what became of it. Pausing is in tasks.py."""

from __future__ import annotations

from typing import Any

import click

from cascadenced.commands.options import Command, JsonValue, key
from cascadenced.commands.session import Session, pass_session

_user_id = click.option("--user-id", metavar="ID", help="Who does this; the audit trail shows the pseudonym.")
_group_id = click.option("--group-id", metavar="ID", help="The group they act for.")


@click.command(cls=Command)
@click.argument("run")
@click.option("--reason", metavar="TEXT", help="For the audit trail.")
@_user_id
@_group_id
@key
@pass_session
def cancel(
    session: Session,
    run: str,
    reason: str | None,
    user_id: str | None,
    group_id: str | None,
    idempotency_key: str | None,
) -> None:
    """End a run now, and the runs of its plan with it.

    RUN is its id, or the first 8 or more characters of it. What it did by then is done; code in a thread cannot be
    stopped, but what it returns counts for nothing.

    \b
    Example: cascadenced cancel 01a0c4506c00 --reason "ordered twice"
    """
    result = session.ask(
        "cancel", run=run, reason=reason, user_id=user_id, group_id=group_id, idempotency_key=idempotency_key
    )
    session.show(result, f"{result['run_id']} {result['status']}")


@click.command(cls=Command)
@click.argument("run")
@click.option("--note", metavar="TEXT", help="A text, of at most 2,048 characters.")
@click.option("--url", metavar="URL", help="An address, of at most 2,048 characters.")
@click.option("--value", type=JsonValue(), metavar="JSON", help="Anything else that its code understands.")
@_user_id
@_group_id
@key
@pass_session
def signal(
    session: Session,
    run: str,
    note: str | None,
    url: str | None,
    value: Any,
    user_id: str | None,
    group_id: str | None,
    idempotency_key: str | None,
) -> None:
    """Tell a run something.

    RUN is its id, or the first 8 or more characters of it. Its next stage finds it in `self.context`; `delivered` is
    said when no stage is under way, `accepted` when one is.

    \b
    Example: cascadenced signal 01a0c4506c00 --note "the customer called"
             cascadenced signal 01a0c4506c00 --value '{"limit": 200}'
    """
    texts = {name: text for name, text in (("note", note), ("url", url)) if text is not None}
    if bool(texts) == (value is not None):
        raise click.UsageError("say what to tell it: --note, --url or both, or else --value")
    result = session.ask(
        "signal",
        run=run,
        value=texts or value,
        user_id=user_id,
        group_id=group_id,
        idempotency_key=idempotency_key,
    )
    session.show(result, f"{result['run_id']} {'delivered' if result['delivered'] else 'accepted'}")


@click.command(cls=Command)
@click.argument("run")
@click.argument("resolution", type=click.Choice(["retry", "done", "fail"]))
@click.option("--output", type=JsonValue(), metavar="JSON", help="With `done`: what the effect returned.")
@_user_id
@_group_id
@key
@pass_session
def resolve(
    session: Session,
    run: str,
    resolution: str,
    output: Any,
    user_id: str | None,
    group_id: str | None,
    idempotency_key: str | None,
) -> None:
    """Say what became of an effect in doubt.

    The process died while it was under way, and it must not happen twice: look whether it did. `retry` has it done
    again, `done` takes it for done, and `fail` ends the run in error. `runs --in-doubt` lists such runs. RUN is the
    run's id, or the first 8 or more characters of it.

    \b
    Example: cascadenced resolve 01a0c4506c00 done --output '{"receipt": 7}'
    """
    if output is not None and resolution != "done":
        raise click.UsageError("--output is what the effect returned: it goes with `done`")
    result = session.ask(
        "resolve",
        run=run,
        resolution=resolution,
        output=output,
        user_id=user_id,
        group_id=group_id,
        idempotency_key=idempotency_key,
    )
    session.show(result, f"{result['run_id']} {result['status']}")
