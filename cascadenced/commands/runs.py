"""Runs: lists of them, one in full, and the trail a task leaves."""

from __future__ import annotations

from typing import Any

import click

from cascadenced.commands.options import Command, after, limit
from cascadenced.commands.session import Session, pass_session
from cascadenced.commands.tables import coloured, content, fields, plain, table, took, when


@click.command(cls=Command)
@click.option("--task", metavar="NAME", help="Only runs of this task.")
@click.option("--status", metavar="STATUS", help="Only runs that stand so: queued, running, waiting, success, error …")
@limit
@after
@pass_session
def runs(session: Session, task: str | None, status: str | None, limit: int, after: str | None) -> None:
    """List runs, newest first.

    \b
    Example: cascadenced runs --task example --status error --limit 20
    """
    page = session.ask("runs", task=task, status=status, limit=limit, after=after)
    rows = [
        (run["run_id"], run["task"], run["status"], run["stage"], when(run["requested_at"]), when(run["finished_at"]))
        for run in page["items"]
    ]
    text = table(("RUN", "TASK", "STATUS", "STAGE", "REQUESTED", "FINISHED"), rows) if rows else "no runs"
    session.show_page(page, text)


@click.command(cls=Command)
@click.argument("run")
@pass_session
def show(session: Session, run: str) -> None:
    """Show one run in full. RUN is its id, or the first 8 or more characters of it."""
    view = session.ask("show", run=run)
    session.show(view, _run(view))


@click.command(cls=Command)
@click.argument("task")
@click.option(
    "--category",
    type=click.Choice(["stage", "audit", "all"]),
    default="all",
    show_default=True,
    help="Stages that were passed, what became of each and why, or both.",
)
@limit
@after
@pass_session
def audit(session: Session, task: str, category: str, limit: int, after: str | None) -> None:
    """Show what happened to TASK and its runs, oldest first.

    Whoever acted is shown by pseudonym.
    """
    page = session.ask("trail", task=task, category=category, limit=limit, after=after)
    rows = [
        (
            when(row["time"]),
            row["stage"],
            row["status"],
            row["reason"] if row["output"] is None else row["output"],
            row["user_hash"] and row["user_hash"][:12],
            row["run_id"],
        )
        for row in page["items"]
    ]
    text = table(("TIME", "STAGE", "STATUS", "REASON OR OUTPUT", "USER", "RUN"), rows) if rows else "no rows"
    session.show_page(page, text)


def _run(run: dict[str, Any]) -> str:
    error = run["error"]
    head = fields(
        [
            ("run", run["run_id"]),
            ("task", plain(run["task"])),
            ("status", coloured(run["status"])),
            ("error", error and f"{plain(error['message'])} ({plain(error['type'])})"),
            ("user", run["user_hash"]),
            ("group", run["group_hash"]),
            ("parent", run["parent_run_id"]),
            ("requested", when(run["requested_at"])),
            ("started", when(run["started_at"])),
            ("finished", when(run["finished_at"])),
            ("args", content(run["args"], None) if run["args"] else None),
            ("result", content(run["result"], None) if run["status"] == "success" else None),
        ]
    )
    stages = [
        (
            stage["stage"],
            stage["status"],
            stage["attempt"] or None,
            took(stage["took_s"]),
            None if stage["output"] is None else content(stage["output"]),
        )
        for stage in run["stages"]
    ]
    return f"{head}\n\n{table(('STAGE', 'STATUS', 'ATTEMPT', 'TOOK', 'OUTPUT'), stages)}"
