"""Runs in files: written, and performed again from what is recorded."""

from __future__ import annotations

from pathlib import Path

import click

from cascadenced.commands.options import Command
from cascadenced.commands.session import Session, pass_session, patience


@click.command(cls=Command)
@click.argument("run")
@click.option(
    "--to",
    "to",
    type=click.Path(dir_okay=False, allow_dash=True),
    metavar="FILE",
    help="Where to; `-` is stdout. [default: run-ID.json here]",
)
@click.option("--force", is_flag=True, help="Replace FILE if it is there.")
@pass_session
def export(session: Session, run: str, to: str | None, force: bool) -> None:
    """Write a run to a file, to keep it or to `replay` it.

    One JSON document with every event of the run, header and data as the log has them, and the same of the runs that
    its plan asked for. Read beside a running daemon. The file is for its owner only and appears when it is complete.

    It holds content: what the task was given, what it was told, what its steps and stages put out. Users and groups are
    in it as pseudonyms only, unless the task wrote them into its own results.

    \b
    Example: cascadenced export 019ac5e1 --to report.run.json
    """
    from cascadenced.commands import run_file

    with patience("reading the run"):
        file = run_file.export(session.config, run)
    data = run_file.encoded(file)
    if to == "-":
        click.echo(data, nl=False)
        return
    path = Path(to or f"run-{file.run.run_id}.json")
    run_file.write(path, data, force=force)
    done = run_file.summary(file, str(path))
    runs = "1 run" if done["n_runs"] == 1 else f"{done['n_runs']} runs"
    session.show(done, f"{runs} with {done['n_events']} events written to {path}")
