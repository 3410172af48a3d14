"""Why a run is as it is."""

from __future__ import annotations

from typing import Any

import click

from cascadenced.commands.options import Command
from cascadenced.commands.session import Session, pass_session
from cascadenced.commands.tables import cell, coloured, fields, plain, table, when


@click.command(cls=Command)
@click.argument("run")
@pass_session
def explain(session: Session, run: str) -> None:
    """Tell why a run is as it is, and what to do about it.

    RUN is its id, or the first 8 or more characters of it. What it is queued behind, waits for, was paused, held,
    refused or cancelled by, failed of, or is in doubt about; then the decisions in its life: retries, resumes after
    crashes, late results, what it was told. All of it is read from what is recorded; people are shown by pseudonym.

    \b
    Example: cascadenced explain 019ac5e1
    """
    explanation = session.ask("explain", run=run)
    session.show(explanation, _text(explanation))


def _text(explanation: dict[str, Any]) -> str:
    stage, attempt = explanation["stage"], explanation["attempt"]
    head = fields(
        [
            ("run", explanation["run_id"]),
            ("task", plain(explanation["task"])),
            ("status", coloured(explanation["status"])),
            ("stage", stage and f"{stage}, attempt {attempt}"),
        ]
    )
    blocks = [head, *map(_reason, explanation["reasons"])]
    moments = [(when(moment["at"]), plain(moment["text"])) for moment in explanation["timeline"]]
    if moments:
        blocks.append(table(("TIME", "DECISION"), moments))
    if explanation["n_left_out"]:
        blocks.append(f"{explanation['n_left_out']} more between these are not shown")
    return "\n\n".join(blocks)


def _reason(reason: dict[str, Any]) -> str:
    text = cell(reason["text"])
    lines = [f"Why: {text}."]
    if reason.get("since"):
        lines.append(f"     since {when(reason['since'])}")
    children = reason.get("children")
    if children:
        rows = [
            (child["index"], child["task"], child["status"], child["run_id"], child["reason"]) for child in children
        ]
        lines.append(table(("PLACE", "TASK", "STATUS", "RUN", "REASON"), rows, indent="     "))
    remedies = reason.get("remedies") or []
    lines += [f"{'Do:  ' if n == 0 else '     '}{plain(remedy)}" for n, remedy in enumerate(remedies)]
    return "\n".join(lines)
