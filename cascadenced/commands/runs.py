"""Runs: lists of them, one in full, and the trail a task leaves."""

from __future__ import annotations

from typing import Any

import click

from cascadenced.commands.options import Command, after, limit
from cascadenced.commands.session import Session, pass_session
from cascadenced.commands.tables import coloured, content, fields, plain, table, took, when

_RESOLVE = "cascadenced resolve {} retry|done|fail, when you know whether it happened"


@click.command(cls=Command)
@click.option("--task", metavar="NAME", help="Only runs of this task.")
@click.option(
    "--status",
    metavar="STATUS",
    help="Only runs that stand so: queued, running, waiting, paused, in_doubt, success, error, cancelled, refused.",
)
@click.option(
    "--in-doubt", is_flag=True, help="Only runs of which an effect may have happened: `resolve` says what became of it."
)
@limit
@after
@pass_session
def runs(session: Session, task: str | None, status: str | None, in_doubt: bool, limit: int, after: str | None) -> None:
    """List runs, newest first.

    \b
    Example: cascadenced runs --task example --status error --limit 20
    """
    if in_doubt:
        if status not in (None, "in_doubt"):
            raise click.UsageError("--in-doubt and --status ask for different runs")
        status = "in_doubt"
    page = session.ask("runs", task=task, status=status, limit=limit, after=after)
    rows = [
        (
            run["run_id"],
            run["task"],
            run["status"],
            run["stage"],
            run["attempt"],
            when(run["requested_at"]),
            when(run["finished_at"]),
            run["waits_for"] and run["waits_for"]["text"],
        )
        for run in page["items"]
    ]
    headers = ("RUN", "TASK", "STATUS", "STAGE", "ATTEMPT", "REQUESTED", "FINISHED", "WAITS FOR")
    spare = ("ATTEMPT", "FINISHED", "STAGE", "WAITS FOR")
    text = table(headers, rows, spare=spare) if rows else "no runs"
    session.show_page(page, text)


@click.command(cls=Command)
@click.argument("run")
@pass_session
def show(session: Session, run: str) -> None:
    """Show one run in full.

    How it stands and what it waits for, its stages with their steps and waits, and the runs of its plan. RUN is its id,
    or the first 8 or more characters of it.

    \b
    Example: cascadenced show 01a0c4506c00
    """
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
    headers = ("TIME", "STAGE", "STATUS", "REASON OR OUTPUT", "USER", "RUN")
    text = table(headers, rows, spare=("USER", "RUN")) if rows else "no rows"
    session.show_page(page, text)


@click.command(cls=Command)
@click.argument("task")
@click.argument("stage")
@click.option("--user-id", metavar="ID", help="Only this user's runs.")
@click.option("--group-id", metavar="ID", help="Only this group's runs.")
@pass_session
def partial(session: Session, task: str, stage: str, user_id: str | None, group_id: str | None) -> None:
    """Show what a failure of STAGE had done already.

    Of the newest failure that left something: what its exception carried as `.partial`. A task asks for the same with
    `recover_partial`.

    \b
    Example: cascadenced partial report run
    """
    found = session.ask("partial", task=task, stage=stage, user_id=user_id, group_id=group_id)
    text = f"no failure of {plain(stage)} of {plain(task)} left anything"
    if found["run_id"] is not None:
        text = fields(
            [
                ("run", found["run_id"]),
                ("stage", f"{found['stage']}, attempt {found['attempt']}"),
                ("at", when(found["time"])),
                ("error", plain(found["reason"])),
                ("partial", content(found["partial"], None)),
            ]
        )
    session.show(found, text)


def _run(run: dict[str, Any]) -> str:
    error, waits_for = run["error"], run["waits_for"]
    head = fields(
        [
            ("run", run["run_id"]),
            ("task", plain(run["task"])),
            ("status", coloured(run["status"])),
            ("waits for", waits_for and plain(waits_for["text"])),
            ("because", waits_for and waits_for["reason"] and plain(waits_for["reason"])),
            ("resolve", _RESOLVE.format(run["run_id"]) if waits_for and waits_for["kind"] == "decision" else None),
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
    parts = [head, table(("STAGE", "STATUS", "ATTEMPT", "TOOK", "OUTPUT"), _stages(run["stages"]))]
    if run["children"]:
        children = [
            (child["index"], child["task"], child["run_id"], child["status"], child["attempt"] or None)
            for child in run["children"]
        ]
        parts.append(table(("ITEM", "TASK", "RUN", "STATUS", "ATTEMPT"), children))
    parts += [
        f"printed by {stage['stage']}\n{_indented(stage['printed'])}" for stage in run["stages"] if stage["printed"]
    ]
    return "\n\n".join(parts)


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in plain(text.rstrip("\n")).split("\n"))


def _stages(stages: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """A row for each stage, and one below it for each of its steps and waits."""
    rows: list[tuple[Any, ...]] = []
    for stage in stages:
        output = None if stage["output"] is None else content(stage["output"])
        rows.append((stage["stage"], stage["status"], stage["attempt"] or None, took(stage["took_s"]), output))
        left_out = stage["n_steps"] - len(stage["steps"])
        if left_out:
            rows.append((f"  … {left_out} before", "", "", "", ""))
        for step in stage["steps"]:
            name = step["name"] or step["kind"]
            shown = name if step["kind"] == "step" else f"{step['kind']} {step['name']}".rstrip()
            put_out = "" if step.get("output") is None else content(step["output"])
            row = (f"  {step['place']} {shown}", step["status"], "", took(step["took_s"]), step.get("error") or put_out)
            rows.append(row)
    return rows
